"""Which cluster a command acts on, and by which clock."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita import registry
from partita.cli.options import DriverName
from partita.cli.output import note, stderr
from partita.control.held import DriverBesideJobs
from partita.control.journal import FILE, Journal, controlling
from partita.drive.state import (
    CLUSTER,
    VARIABLE,
    WORKERS,
    host_folder,
    require_readable,
    state_folder,
    state_path,
)
from partita.errors import InputError
from partita.jobs.queue.folders import jobs_folder
from partita.jobs.queue.job_store import FILE as QUEUE
from partita.mig.catalogue import gpu_meant
from partita.serve.services import read_services
from partita.sim.clock import SimulatedClock, WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from partita.drive.driver import ClosableDriver, Driver
    from partita.drive.replicas import ReplicaProcess, UpstreamReplica
    from partita.serve.worker_specs import SliceSeconds
    from partita.sim.clock import Clock


_MOST_SIMULATED = 100_000
_PER_NODE = 8


SIMULATED, NVML = "simulated", "nvml"
"""Partita's own drivers; other packages register theirs (`partita.registry`)."""


class ClockName(StrEnum):
    """The clocks that a simulated cluster can live by."""

    SIMULATED = "simulated"
    WALL = "wall"


DriverOption = Annotated[
    DriverName,
    typer.Option(
        "--driver",
        envvar="PARTITA_DRIVER",
        help="The cluster: simulated, or the GPUs of this host through nvml.",
    ),
]
ClockOption = Annotated[
    ClockName | None,
    typer.Option(
        "--clock",
        envvar="PARTITA_CLOCK",
        help="Clock of a simulated cluster: simulated takes no time, wall takes as long as real GPUs. (default: "
        "the cluster's own; simulated for a new cluster)",
        show_default=False,
    ),
]
Simulate = Annotated[
    list[str] | None,
    typer.Option(
        "--simulate",
        metavar="MODEL:COUNT",
        help="GPUs of the simulated cluster, if there is none yet: a100-80gb:16. "
        "(default: those asked for, in whole nodes)",
    ),
]

ServicesFile = Annotated[
    Path | None,
    typer.Option(
        "--services",
        metavar="FILE",
        envvar="PARTITA_SERVICES",
        help="How each service's replicas are run (YAML): needed on real GPUs; simulated ones then run workers too.",
    ),
]
AllowMigMode = Annotated[
    bool,
    typer.Option(
        "--allow-mig-mode", help="Turn MIG mode on where it is off. (default: such GPUs are not used)"
    ),
]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which cluster, as the user chose it.

    Attributes:
        clock: of a simulated cluster; None for the one that it lived by last.
        services: file that says how replicas are run; without it those of a simulated cluster are no processes.
        allow_mig_mode: whether MIG mode may be turned on where it is off.
        seconds: what is measured of each service, for emulated workers.
    """

    driver: str
    clock: ClockName | None = None
    services: Path | None = None
    allow_mig_mode: bool = False
    seconds: Mapping[str, SliceSeconds] = field(default_factory=dict)

    def runs(self, folder: Path) -> dict[str, ReplicaProcess | UpstreamReplica]:
        """Return how each service's replicas are run; workers' sockets go to a folder of the state folder.

        Raises:
            InputError: the file of services cannot be used.
        """
        return read_services(self.services, folder / WORKERS, self.seconds) if self.services else {}

    def exists(self, folder: Path) -> bool:
        """Say whether it is there; all but a simulated one always are.

        Raises:
            InputError: this user may not look into the folder.
        """
        require_readable(folder, jobs_folder(folder))
        return self.driver != SIMULATED or (folder / CLUSTER).exists()


def refuse_unrunnable(cluster: Cluster, services: Iterable[str]) -> None:
    """Refuse services that nothing says how to run, where they are to run.

    Raises:
        InputError: there are any.
    """
    if cluster.driver == SIMULATED and cluster.services is None:
        return

    known = cluster.runs(state_path())
    if missing := sorted(set(services) - known.keys()):
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(
            f"nothing says how {', '.join(missing[:5])}{more} is run",
            where=str(cluster.services or "--services"),
            hint="write {services: [{name: resnet50, worker: {onnx: resnet50.onnx}}]} to a file",
        )


@contextmanager
def open_driver(
    cluster: Cluster, folder: Path, gpus: Callable[[], list[tuple[str, str]]], *, read_only: bool = False
) -> Iterator[Driver]:
    """Open the driver of a cluster for a block.

    What is registered as its driver (`partita.drivers`) is called with those of these arguments that it names:
    `folder`, `gpus` and `allow_mig_mode`; `clock`, None for the driver's own; `services`, which says how the replicas
    of each are run, None if the user named no file; `read_only`, whether it is only observed, perhaps by a user who
    has no right to write in the folder; `tell`, a function that notes something to the user.

    Args:
        cluster: which.
        folder: the state folder.
        gpus: returns pairs of id and model that a simulated cluster is made of if there is none.
        read_only: whether it is only observed; a simulated one must be there then.

    Raises:
        DriveError: there is no such cluster, or it does not answer.
        InputError: the file of services cannot be used.
    """
    driver: ClosableDriver = registry.make(
        "drivers",
        cluster.driver,
        folder=folder,
        gpus=gpus,
        clock=make_clock(cluster.clock),
        services=cluster.runs(folder) if cluster.services else None,
        allow_mig_mode=cluster.allow_mig_mode,
        read_only=read_only,
        tell=note,
    )
    try:
        yield driver
    finally:
        driver.close()


def make_clock(name: ClockName | None) -> Clock | None:
    """Return the clock of that name, None for no name: the cluster knows its own."""
    if name is None:
        return None
    return SimulatedClock() if name is ClockName.SIMULATED else WallClock()


def simulated_gpus(asked: Sequence[str]) -> list[tuple[str, str]]:
    """Return ids and models of the GPUs written as `a100-80gb:16`, eight to a node.

    Raises:
        InputError: a word that is none, or an unknown model.
    """
    models: list[str] = []
    for word in asked:
        model, _, count = word.rpartition(":")
        if not count.isdecimal() or not 1 <= int(count) <= _MOST_SIMULATED:
            raise InputError(
                f"{word!r} is not a model and a count", where="--simulate", hint="write a100-80gb:16"
            )
        models += [gpu_meant(model).name] * int(count)
    return named(models)


def note_other_gpus(driver: Driver, asked: Sequence[str] | None) -> None:
    """Say so where the GPUs that --simulate asks for are not those of the cluster, which was there already.

    Args:
        driver: of the cluster.
        asked: as for `simulated_gpus`; None if nobody asked.
    """
    if not asked:
        return
    wanted = Counter(model for _, model in simulated_gpus(asked))
    there = Counter(gpu.model for gpu in driver.observe().gpus)
    if wanted != there:
        found = ", ".join(f"{model}:{count:,}" for model, count in sorted(there.items())) or "no GPU"
        note(
            f"--simulate changes nothing: the cluster is there already, with {found}; to begin anew, set "
            f"{VARIABLE} to another folder, or remove {state_path()}"
        )


def named(models: Sequence[str]) -> list[tuple[str, str]]:
    """Return the models with ids, eight GPUs to a node."""
    return [(f"node-{i // _PER_NODE}/gpu-{i % _PER_NODE}", model) for i, model in enumerate(models)]


@dataclass(frozen=True, slots=True)
class OpenCluster:
    """A cluster and its journal."""

    driver: Driver
    journal: Journal


@contextmanager
def open_cluster(
    cluster: Cluster, gpus: Callable[[], list[tuple[str, str]]], *, with_jobs: bool = False
) -> Iterator[OpenCluster]:
    """Open the cluster to act on it, as its one controller.

    Jobs outlive their daemon: the instances of those that run are in use by someone else then.

    Args:
        cluster: which.
        gpus: what a simulated one is made of, if there is none.
        with_jobs: whether the queue is to be opened, too, which then knows what is its own.

    Raises:
        LockedError: another controller acts on it.
        JournalError: its journal cannot be read.
    """
    folder = state_folder()
    with ExitStack() as stack:
        if cluster.driver == NVML:
            stack.enter_context(
                controlling(host_folder())
            )  # whatever the state folder, the GPUs are the same
        killed = stack.enter_context(controlling(folder))
        if killed is not None:
            stderr().print(
                f"note: the previous controller was killed: {killed}", markup=False, soft_wrap=True
            )
        journal = Journal(folder / FILE)
        stack.callback(journal.close)
        driver = stack.enter_context(open_driver(cluster, folder, gpus))
        yield OpenCluster(driver if with_jobs else _beside_jobs(driver, folder), journal)


@contextmanager
def open_read_only(cluster: Cluster, gpus: Callable[[], list[tuple[str, str]]]) -> Iterator[OpenCluster]:
    """Open the cluster to look at it and change nothing; a simulated one that is not there is made for the block.

    It is seen as those see it who change services; what jobs hold is no part of that.

    Raises:
        JournalError: its journal cannot be read.
    """
    with ExitStack() as stack:
        folder = state_path()
        if cluster.exists(folder):
            driver = stack.enter_context(open_driver(cluster, folder, gpus, read_only=True))
        else:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            driver = stack.enter_context(open_driver(cluster, scratch, gpus))
        journal = read_journal(folder) or Journal(None)
        stack.callback(journal.close)
        yield OpenCluster(_beside_jobs(driver, folder), journal)


def read_journal(folder: Path) -> Journal | None:
    """Return the journal of a state folder, to be read; None where there is none.

    Raises:
        JournalError: it cannot be read.
    """
    path = folder / FILE
    return Journal(path, read_only=True) if path.exists() else None


def _beside_jobs(driver: Driver, folder: Path) -> Driver:
    """Return the driver of a cluster for services, which leaves jobs alone."""
    return DriverBesideJobs(driver, folder, note) if (jobs_folder(folder) / QUEUE).exists() else driver
