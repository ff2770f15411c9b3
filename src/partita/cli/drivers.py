"""Which cluster a command acts on, and by which clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.options import stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from partita.drive.port import Driver
    from partita.sim.clock import Clock

CLUSTER_FILE = "cluster.sqlite3"
_MOST_SIMULATED = 100_000
_PER_NODE = 8


class DriverName(StrEnum):
    """The drivers there are."""

    SIMULATED = "simulated"
    NVML = "nvml"


class ClockName(StrEnum):
    """The clocks that a simulated cluster can live by."""

    SIMULATED = "simulated"
    WALL = "wall"


DriverOption = Annotated[
    DriverName,
    typer.Option(
        "--driver", envvar="PARTITA_DRIVER", help="The cluster: simulated, or the GPUs of this host."
    ),
]
ClockOption = Annotated[
    ClockName,
    typer.Option(
        "--clock",
        envvar="PARTITA_CLOCK",
        help="Clock of a simulated cluster: simulated takes no time, wall takes as long as real GPUs.",
    ),
]
Simulate = Annotated[
    list[str] | None,
    typer.Option(
        "--simulate",
        metavar="MODEL:COUNT",
        help="GPUs of the simulated cluster, if there is none yet: a100-80gb:16. "
        "[default: those asked for, in whole nodes]",
    ),
]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which cluster, as the user chose it."""

    driver: DriverName
    clock: ClockName

    def exists(self, folder: Path) -> bool:
        """Say whether it is there; the GPUs of this host always are."""
        return self.driver is DriverName.NVML or (folder / CLUSTER_FILE).exists()


def open_driver(cluster: Cluster, folder: Path, gpus: Callable[[], list[tuple[str, str]]]) -> Driver:
    """Return the driver of a cluster.

    Args:
        cluster: which.
        folder: the state folder.
        gpus: pairs of id and model that a simulated cluster is made of if there is none.
    """
    if cluster.driver is DriverName.NVML:
        from partita.drive.nvml import NvmlDriver  # noqa: PLC0415 -- each driver imports its own modules

        return NvmlDriver(folder, {})
    from partita.drive.simulated import SimulatedCluster, SimulatedDriver  # noqa: PLC0415

    path = folder / CLUSTER_FILE
    if not path.exists():
        made = gpus()
        SimulatedCluster.create(path, made).close()
        stderr().print(
            f"note: made a simulated cluster of {len(made)} GPUs: {path}", markup=False, soft_wrap=True
        )
    return SimulatedDriver(path, make_clock(cluster.clock))


def make_clock(name: ClockName) -> Clock:
    """Return the clock of that name."""
    from partita.sim.clock import SimulatedClock, WallClock  # noqa: PLC0415 -- only where a cluster is driven

    return SimulatedClock() if name is ClockName.SIMULATED else WallClock()


def simulated_gpus(asked: Sequence[str]) -> list[tuple[str, str]]:
    """Return ids and models of the GPUs written as `a100-80gb:16`, eight to a node.

    Raises:
        InputError: a word that is none, or an unknown model.
    """
    from partita.errors import InputError  # noqa: PLC0415 -- only where it is asked for
    from partita.mig.catalogue import gpu_model  # noqa: PLC0415

    models: list[str] = []
    for word in asked:
        model, _, count = word.partition(":")
        if not count.isdecimal() or not 1 <= int(count) <= _MOST_SIMULATED:
            raise InputError(f"{word!r} is no model and count", where="--simulate", hint="write a100-80gb:16")
        models += [gpu_model(model).name] * int(count)
    return named(models)


def named(models: Sequence[str]) -> list[tuple[str, str]]:
    """Return the models with ids, eight GPUs to a node."""
    return [(f"node-{i // _PER_NODE}/gpu-{i % _PER_NODE}", model) for i, model in enumerate(models)]


def whole_nodes(gpus: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return these GPUs and those beside them in nodes of eight: a transition needs some room."""
    found = dict(gpus)
    for name, model in gpus:
        node = name.rpartition("/")[0]
        for i in range(_PER_NODE) if node else ():
            found.setdefault(f"{node}/gpu-{i}", model)
    return list(found.items())
