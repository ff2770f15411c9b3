"""`partita import`: configs of other tools as documents that diff and apply read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.drivers import Cluster, DriverName, DriverOption, simulated_gpus
from partita.cli.options import Format, emit_document, stderr
from partita.errors import InputError

if TYPE_CHECKING:
    from partita.transition.deployment import DeployedGpu

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="Config (YAML), or a ConfigMap that holds one; - is stdin.")
]
ConfigName = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="NAME",
        help="Which of its configs.  [default: the only one, or partita-NODE for each node]",
    ),
]
Gpus = Annotated[
    list[str] | None,
    typer.Option(
        "--gpus",
        metavar="MODEL:COUNT",
        help="GPUs of each node, in the order of their indices: a100-80gb:8.  [default: those of the cluster]",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write here and not to stdout.")]
Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--node", metavar="NODE", help="Node that it is for. Repeatable.  [default: all, or node-0]"
    ),
]

importing = typer.Typer(help="Read the config of another tool.", no_args_is_help=True)


@importing.callback()
def _family() -> None:
    """Keep the tool's name a word of its own, though it is the only one."""


@importing.command("mig-parted")
def mig_parted(
    config: ConfigFile,
    *,
    name: ConfigName = None,
    gpus: Gpus = None,
    node: Nodes = None,
    driver: DriverOption = DriverName.SIMULATED,
    out: Out = None,
) -> None:
    """Read a config of nvidia-mig-parted as layouts, which `partita diff` and `partita apply` take.

    A config has counts alone: starts are chosen here, so that what stands stays where it can. GPUs that it does not
    mention stay cut as they are. Nothing runs on layouts: applying them stops the services of the cluster.
    """
    from partita.files import replacing  # noqa: PLC0415 -- not for --help
    from partita.mig_parted import as_layouts, read_config  # noqa: PLC0415
    from partita.transition.document import write_layouts  # noqa: PLC0415

    read = read_config(config)
    there = _given(gpus, node) if gpus else _of_cluster(driver, node)
    found = as_layouts(read, there, name)
    for note in found.notes:
        stderr().print(f"note: {note}", markup=False, soft_wrap=True)
    if out is None:
        emit_document(lambda stream: write_layouts(found.layouts, stream), Format.JSON)
        return
    with replacing(out) as stream:
        write_layouts(found.layouts, stream)


def _given(gpus: list[str], nodes: list[str] | None) -> list[DeployedGpu]:
    from partita.transition.deployment import DeployedGpu  # noqa: PLC0415

    models = [model for _, model in simulated_gpus(gpus)]
    return [
        DeployedGpu(f"{node}/gpu-{index}", model, ())
        for node in nodes or ["node-0"]
        for index, model in enumerate(models)
    ]


def _of_cluster(driver: DriverName, nodes: list[str] | None) -> list[DeployedGpu]:
    from partita.cli.workplace import rehearsal  # noqa: PLC0415 -- slow to import
    from partita.control.observed import deployed  # noqa: PLC0415
    from partita.drive.state import state_path  # noqa: PLC0415

    cluster = Cluster(driver)
    if not cluster.exists(state_path()):
        raise InputError(
            "there is no simulated cluster to ask which GPUs there are",
            where=str(state_path()),
            hint="say it: --gpus a100-80gb:8, or --driver nvml for the GPUs of this host",
        )
    with rehearsal(cluster, list) as place:
        found = deployed(place.driver.observe()).gpus
    # What is fixed is someone else's, and no wish of ours.
    mine = [replace(gpu, instances=tuple(i for i in gpu.instances if not i.fixed)) for gpu in found]
    there = [gpu for gpu in mine if nodes is None or gpu.id.rpartition("/")[0] in nodes]
    if not there:
        raise InputError(
            "the cluster has no GPU that can be cut there",
            where="--node",
            hint=f"it has {', '.join(gpu.id for gpu in found) or 'none'}",
        )
    return there
