"""`partita export`: plans in the formats of other tools."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from partita.cli.cluster import SIMULATED, Cluster, DriverOption, open_read_only, simulated_gpus
from partita.cli.commands import RegisteredCommands, described
from partita.cli.output import Format, echo, emit, emit_document, note
from partita.control.cluster_view import deployed
from partita.documents.codec import schema as schema_of
from partita.drive.state import state_path
from partita.errors import InputError
from partita.files import replacing
from partita.mig_parted import as_layouts, read_config
from partita.monitoring.boards import BoardName, grafana_board
from partita.monitoring.rules import operator_rules, prometheus_rules
from partita.registry import make
from partita.transition.deployment import DeployedGpu
from partita.transition.document import read_target, write_layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from partita.registry import Registered


PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="Plan or layouts (JSON); - is stdin.")]
ExportOut = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write to this file instead of stdout.")
]


class Exporters(RegisteredCommands):
    """A command for each exporter: a function from a plan to text, or to plain data, which is written as YAML."""

    group = "exporters"

    def body(self, entry: Registered) -> Callable[..., None]:
        """Return the command of an exporter, whose words are its docstring."""

        def run(plan: PlanFile, out: ExportOut = None) -> None:
            made = make("exporters", entry.name, plan=read_target(plan))
            _write(made if isinstance(made, str) else to_yaml(made), out)

        text, _ = described(entry.load())
        run.__doc__ = text or f"Write a plan for {entry.name}, with {entry.package}."
        return run


exports = typer.Typer(cls=Exporters, no_args_is_help=True)


@exports.callback()
def export() -> None:
    """Write a plan in the format of another tool, boards for Grafana, or alerts for Prometheus."""


Operator = Annotated[
    bool, typer.Option("--operator", help="Write a PrometheusRule for the Prometheus Operator on Kubernetes.")
]


@exports.command("prometheus-rules")
def export_prometheus_rules(*, operator: Operator = False, out: ExportOut = None) -> None:
    """Write recording rules and alerts for Prometheus (YAML).

    SLOs alert on how fast their budget of missed queries burns, over windows from 5 minutes to 3 days. The objectives
    are metrics themselves, so the rules hold for every workload. Thresholds stand in the file: change them there.
    """
    _write(to_yaml(operator_rules() if operator else prometheus_rules(), flow=False), out)


@exports.command("grafana")
def export_grafana(
    board: Annotated[BoardName, typer.Argument(metavar="BOARD", help=f"One of {', '.join(BoardName)}.")],
    *,
    out: ExportOut = None,
) -> None:
    """Write a board for Grafana (JSON), to import or to provision.

    It asks which Prometheus to read. The board of GPUs joins Partita's metrics with those of NVIDIA's DCGM exporter.
    """
    _write(json.dumps(grafana_board(board), indent=2) + "\n", out)


def _write(text: str, out: Path | None) -> None:
    if out is None:
        echo(text, newline=False)
        return
    with replacing(out) as stream:
        stream.write(text)


def to_yaml(config: Mapping[str, Any], *, flow: bool | None = None) -> str:
    """Return a config as YAML, with the devices of an entry on one line and its counts on another.

    Args:
        config: plain data.
        flow: whether lists and mappings are on one line; None where they hold no others.
    """
    # The C writer is ten times as fast, and absent where PyYAML was built without libyaml.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(
        config, Dumper=dumper, sort_keys=False, default_flow_style=flow, allow_unicode=True, width=2**30
    )
    return text


ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="Config (YAML), or a ConfigMap that holds one; - is stdin.")
]
ConfigName = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="NAME",
        help="Which of its configs. (default: the only one, or partita-NODE for each node)",
    ),
]
Gpus = Annotated[
    list[str] | None,
    typer.Option(
        "--gpus",
        metavar="MODEL:COUNT",
        help="GPUs of each node, in the order of their indices: a100-80gb:8. (default: those of the cluster)",
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write to this file instead of stdout.")
]
Nodes = Annotated[
    list[str] | None,
    typer.Option("--node", metavar="NODE", help="Node that it is for. Repeatable. (default: all, or node-0)"),
]

imports = typer.Typer(no_args_is_help=True)


@imports.callback()
def import_() -> None:
    """Read the config of another tool."""


@imports.command("mig-parted")
def import_mig_parted(
    config: ConfigFile,
    *,
    name: ConfigName = None,
    gpus: Gpus = None,
    node: Nodes = None,
    driver: DriverOption = SIMULATED,
    out: Out = None,
) -> None:
    """Read a config of nvidia-mig-parted as layouts, which `partita diff` and `partita apply` take.

    A config has only counts: starts are chosen here, so that existing instances stay where they can. GPUs that it
    does not mention stay cut as they are. Nothing runs on layouts: applying them stops the services of the cluster.
    """
    read = read_config(config)
    there = _given(gpus, node) if gpus else _of_cluster(driver, node)
    found = as_layouts(read, there, name)
    note(*found.notes)
    if out is None:
        emit_document(lambda stream: write_layouts(found.layouts, stream), Format.JSON)
        return
    with replacing(out) as stream:
        write_layouts(found.layouts, stream)


def _given(gpus: list[str], nodes: list[str] | None) -> list[DeployedGpu]:
    models = [model for _, model in simulated_gpus(gpus)]
    return [
        DeployedGpu(f"{node}/gpu-{index}", model, ())
        for node in nodes or ["node-0"]
        for index, model in enumerate(models)
    ]


def _of_cluster(driver: str, nodes: list[str] | None) -> list[DeployedGpu]:
    cluster = Cluster(driver)
    if not cluster.exists(state_path()):
        raise InputError(
            "there is no simulated cluster whose GPUs could be taken",
            where=str(state_path()),
            hint="name them: --gpus a100-80gb:8, or --driver nvml for the GPUs of this host",
        )
    with open_read_only(cluster, list) as opened:
        found = deployed(opened.driver.observe()).gpus
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


class PublishedDocument(StrEnum):
    """Documents that have a schema."""

    WORKLOAD = "workload"
    PLAN = "plan"
    LAYOUTS = "layouts"
    TRANSITION = "transition"
    SERVICES = "services"
    GPU = "gpu"
    RATES = "rates"
    SERIES = "series"


_TYPES = {
    PublishedDocument.WORKLOAD: ("partita.workload", "WORKLOAD"),
    PublishedDocument.PLAN: ("partita.planning.document", "PLAN"),
    PublishedDocument.LAYOUTS: ("partita.transition.document", "LAYOUTS"),
    PublishedDocument.TRANSITION: ("partita.transition.document", "TRANSITION"),
    PublishedDocument.SERVICES: ("partita.serve.services", "ServicesDocument"),
    PublishedDocument.GPU: ("partita.mig.catalogue", "GpuTable"),
    PublishedDocument.RATES: ("partita.control.reconciler", "RatesDocument"),
    PublishedDocument.SERIES: ("partita.series.document", "SERIES"),
}
"""Where each document's type is; its module is imported when it is asked for."""


def schema(
    document: Annotated[
        PublishedDocument,
        typer.Argument(metavar="[DOCUMENT]", help=f"One of {', '.join(PublishedDocument)}."),
    ] = PublishedDocument.WORKLOAD,
) -> None:
    """Print the JSON schema of a document, with what each field means.

    Editors check and complete a workload with it: `partita schema > workload.schema.json`.
    """
    module, name = _TYPES[document]
    emit(schema_of(getattr(import_module(module), name)), Format.JSON)
