"""What carries the queue of jobs, and its options: `partita daemon` alone, `partita run` beside services."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.drivers import DriverName
from partita.cli.measuring import measuring
from partita.cli.options import stderr
from partita.cli.terminal import inline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from partita.cli.workplace import Workplace
    from partita.control.sharing import SharedDriver
    from partita.drive.driver import Driver
    from partita.jobs.energy import QueueEnergy, Stay
    from partita.jobs.queue.access import Access
    from partita.jobs.queue.service import QueueService, QueueSettings
    from partita.jobs.queue.socket_server import SocketServer
    from partita.jobs.run.runner import JobRunner

Discipline = Annotated[
    str,
    typer.Option(
        "--discipline",
        help="Who starts first: lookahead, makespan, fair, tightest-fifo, tightest-batched, whole, static-ones.",
    ),
]
Admins = Annotated[
    list[str] | None,
    typer.Option("--admin", metavar="USER|@GROUP", help="May act on everybody's jobs; may be given again."),
]
LogSize = Annotated[
    str, typer.Option("--log-size", metavar="SIZE", help="Most that is kept of an attempt's log.")
]
Keep = Annotated[
    str, typer.Option("--keep", metavar="TIME", help="After which jobs that have ended are forgotten.")
]
KeepLogs = Annotated[
    str,
    typer.Option("--keep-logs", metavar="SIZE", help="Most that the logs of ended jobs take; the oldest go."),
]
HalfLife = Annotated[
    str,
    typer.Option(
        "--half-life", metavar="TIME", help="After which what a user has had counts half, for `fair`."
    ),
]
MaxWaiting = Annotated[
    int,
    typer.Option(
        "--max-waiting", min=1, metavar="N", help="Most jobs of one user that wait; root is exempt."
    ),
]
DefaultTime = Annotated[
    str | None,
    typer.Option("--default-time", metavar="TIME", help="Time limit of jobs without --time. (default: none)"),
]
MaxTime = Annotated[
    str | None,
    typer.Option("--max-time", metavar="TIME", help="Longest time limit that jobs may have. (default: none)"),
]
OomPatterns = Annotated[
    list[str] | None,
    typer.Option(
        "--oom-pattern",
        metavar="REGEX",
        help="A line of a job's output with this says that GPU memory ran out; may be given again.",
    ),
]
Recover = Annotated[
    bool,
    typer.Option(
        "--recover",
        help="Take over jobs from a damaged or lost store, and from the attempts on the disk. Nothing runs twice.",
    ),
]
Scale = Annotated[
    float,
    typer.Option(
        "--memory-scale",
        min=1e-6,
        max=1.0,
        help="Memory of simulated instances, as a share of the real ones.",
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        metavar="PORT",
        help="Serve the energy of GPUs and jobs to Prometheus, on 127.0.0.1.",
    ),
]


@dataclass(frozen=True, slots=True)
class QueueWay:
    """How a queue is run, and for whom.

    Attributes:
        memory_scale: memory of simulated instances over that of real ones.
        metrics_port: where energy is served to Prometheus; None for nowhere.
        recover: whether the store is made anew from what can be read of it and of the attempts on the disk.
    """

    settings: QueueSettings
    access: Access
    memory_scale: float
    metrics_port: int | None
    recover: bool = False


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept of jobs, how long it counts, and what is heard in their output, as it was written."""

    log_size: str
    keep: str
    keep_logs: str
    half_life: str
    oom_patterns: list[str] | None = None


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What jobs are held to, as it was written."""

    max_waiting: int
    default_time: str | None
    max_time: str | None


def queue_way(
    discipline: str,
    admin: list[str] | None,
    keeping: Keeping,
    limits: JobLimits,
    *,
    memory_scale: float,
    metrics_port: int | None,
    recover: bool,
) -> QueueWay:
    """Return what the options say.

    Raises:
        InputError: there is no such discipline, user, group, size or time.
    """
    from partita.cli.quantities import read_bytes, read_seconds  # noqa: PLC0415 -- slow to import
    from partita.errors import InputError  # noqa: PLC0415
    from partita.jobs.disciplines.classes import discipline as named  # noqa: PLC0415
    from partita.jobs.queue.access import Access, admins  # noqa: PLC0415
    from partita.jobs.queue.answers import read_patterns  # noqa: PLC0415
    from partita.jobs.queue.service import QueueSettings  # noqa: PLC0415

    named(discipline)
    users, groups = admins(admin or ())
    default_s, most_s = _time(limits.default_time, "--default-time"), _time(limits.max_time, "--max-time")
    if default_s is not None and most_s is not None and default_s > most_s:
        raise InputError("it is longer than --max-time", where="--default-time")
    settings = QueueSettings(
        discipline,
        log_bytes=read_bytes(keeping.log_size, "--log-size"),
        keep_s=read_seconds(keeping.keep, "--keep"),
        keep_bytes=read_bytes(keeping.keep_logs, "--keep-logs"),
        half_life_s=max(read_seconds(keeping.half_life, "--half-life"), 1.0),
        most_waiting=limits.max_waiting,
        default_limit_s=default_s,
        most_limit_s=most_s,
        oom_patterns=read_patterns(keeping.oom_patterns or []),
    )
    return QueueWay(settings, Access(os.geteuid(), users, groups), memory_scale, metrics_port, recover)


def safe_state_folder() -> Path:
    """Return the state folder of who runs a queue, made if it is not there; root's must be safe from others.

    Raises:
        InputError: it cannot be made, or another user could write it.
    """
    from partita.drive.state import require_safe, state_folder, state_path  # noqa: PLC0415 -- not for --help

    if os.geteuid() == 0:
        require_safe(state_path(), "jobs")
    return state_folder()


def _time(text: str | None, where: str) -> float | None:
    from partita.cli.quantities import read_limit  # noqa: PLC0415 -- slow to import

    return None if text is None else read_limit(text, where) or None


@dataclass(frozen=True, slots=True)
class QueueHost:
    """A queue with its socket and its measurements of energy, on the cluster that `driver` drives."""

    service: QueueService
    server: SocketServer
    energy: QueueEnergy
    driver: Driver

    def step(self, now: float) -> float:
        """Do what is due; return when it wants to be called next."""
        # Before the queue finds what has ended meanwhile: it ran until now as far as anybody knows.
        due = self.energy.step(now, self.service.table.active.values(), self._services)
        return min(due, self.service.step(now))

    def _services(self) -> tuple[Stay, ...]:
        from partita.jobs.energy import services_of  # noqa: PLC0415 -- slow to import

        return services_of(self.driver.observe())


@contextmanager
def queue_host(driver: Driver, name: DriverName, folder: Path, way: QueueWay) -> Iterator[QueueHost]:
    """Open the queue of a cluster for a block.

    Args:
        driver: of the cluster, for the queue.
        name: which driver that is.
        folder: the state folder.
        way: how it is run.

    Raises:
        PartitaError: its store or its socket cannot be used, or the energy cannot be measured.
    """
    from partita.jobs.queue.answers import Answers  # noqa: PLC0415 -- slow to import
    from partita.jobs.queue.folders import ATTEMPTS, make_folders  # noqa: PLC0415
    from partita.jobs.queue.recovery import open_store, recover  # noqa: PLC0415
    from partita.jobs.queue.service import QueueService  # noqa: PLC0415
    from partita.jobs.queue.socket_server import SocketServer  # noqa: PLC0415

    runner = _runner(name, way.memory_scale)
    jobs = make_folders(folder, shared=os.geteuid() == 0)
    with ExitStack() as stack:
        ledger, energy = stack.enter_context(measuring(name, folder, driver.clock, note, way.metrics_port))
        opened = recover(jobs, note) if way.recover else open_store(jobs)
        store = stack.enter_context(closing(opened))
        service = QueueService(
            driver,
            runner,
            store,
            jobs / ATTEMPTS,
            settings=way.settings,
            given=ledger.last_job(),
            tell=note,
        )
        server = SocketServer(jobs, Answers(service, way.access, ledger.joules))
        yield QueueHost(service, stack.enter_context(closing(server)), energy, driver)


@contextmanager
def shared_with_jobs(place: Workplace, name: DriverName, way: QueueWay) -> Iterator[SharedDriver]:
    """Open the queue beside services for a block; yield the services' view of the cluster.

    Raises:
        PartitaError: as for `queue_host`.
    """
    from partita.control.lodging import Lodging  # noqa: PLC0415 -- only where services are kept
    from partita.control.sharing import SharedDriver  # noqa: PLC0415
    from partita.drive.state import state_folder  # noqa: PLC0415

    shared = SharedDriver(place.driver)
    lodging = Lodging(shared.tenants)
    with queue_host(lodging, name, state_folder(), way) as host:
        lodging.take_in(host.service, host.step, lambda: host.server.poll(0.0))
        shared.lodge(lodging)
        note(f"jobs beside services; {len(host.service.table.active):,} jobs are there")
        yield shared


def _runner(name: DriverName, scale: float) -> JobRunner:
    from partita.jobs.run.real import RealJobRunner  # noqa: PLC0415 -- slow to import

    if name is DriverName.SIMULATED:
        return RealJobRunner(scale)
    from partita.drive.nvml.instances import used_bytes  # noqa: PLC0415 -- each driver imports its own modules

    return RealJobRunner(used=used_bytes)


def note(text: str) -> None:
    """Tell something on stderr."""
    stderr().print(f"note: {inline(text)}", soft_wrap=True)
