"""`partita daemon`: the queue of jobs."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from partita import registry
from partita.cli.apply import asked_to_stop
from partita.cli.cluster import (
    NVML,
    SIMULATED,
    AllowMigMode,
    ClockName,
    Cluster,
    DriverOption,
    Simulate,
    note_other_gpus,
    open_driver,
    simulated_gpus,
)
from partita.cli.options import LogForm, LogFormat, read_bytes, read_limit, read_seconds
from partita.cli.output import stderr
from partita.cli.safe_text import inline
from partita.control.journal import controlling
from partita.control.metrics import ClusterFacts, cluster_metrics
from partita.control.sharing import QueueTenant, SharedDriver
from partita.control.watched import WatchedDriver
from partita.drive.driver import EnergyMeter
from partita.drive.nvml.driver import NvmlEnergyMeter
from partita.drive.nvml.instances import used_bytes
from partita.drive.simulated.cluster import SimulatedEnergyMeter
from partita.drive.state import CLUSTER, host_folder, require_safe, state_folder, state_path
from partita.errors import InputError
from partita.jobs.disciplines.classes import discipline as named
from partita.jobs.energy import FILE, EnergyLedger, EnergySampler, QueueEnergy, energy_metrics, services_of
from partita.jobs.queue.access import Access, admins
from partita.jobs.queue.answers import Answers, read_patterns
from partita.jobs.queue.folders import ATTEMPTS, make_folders
from partita.jobs.queue.gpus import in_use
from partita.jobs.queue.metrics import queue_metrics
from partita.jobs.queue.recovery import open_store, recover
from partita.jobs.queue.service import QueueService
from partita.jobs.queue.settings import QueueSettings
from partita.jobs.queue.socket_server import SocketServer
from partita.jobs.run.real import RealJobRunner
from partita.metrics import MetricsPage, ServedPages, page_url, serving_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from partita.control.sharing import Place
    from partita.drive.driver import Driver, EnergyReading
    from partita.jobs.energy import Stay
    from partita.jobs.run.runner import JobRunner
    from partita.metrics import MetricsSource


_LONGEST_POLL_S = 0.5
LOOPBACK = "127.0.0.1"
"""Where metrics are served if no other address is named."""


def daemon(
    *,
    driver: DriverOption = SIMULATED,
    simulate: Simulate = None,
    discipline: Discipline = "lookahead",
    admin: Admins = None,
    log_size: LogSize = "64MiB",
    keep: Keep = "30d",
    keep_logs: KeepLogs = "20GiB",
    half_life: HalfLife = "7d",
    max_waiting: MaxWaiting = 10_000,
    default_time: DefaultTime = None,
    max_time: MaxTime = None,
    oom_pattern: OomPatterns = None,
    recover: Recover = False,
    memory_scale: Scale = 1 / 64,
    allow_mig_mode: AllowMigMode = False,
    metrics_port: MetricsPort = None,
    metrics_listen: MetricsListen = LOOPBACK,
    log_format: LogForm = LogFormat.TEXT,
) -> None:
    """Run the queue of jobs on a cluster, until stopped.

    SIGTERM or Ctrl-C end the daemon, not the jobs: they go on, and the next daemon finds them, also after a kill -9.
    A daemon of root serves all users, each job with the rights of its submitter; a daemon of another user serves only
    that user. On a simulated cluster processes and memory limits are real. `partita run --jobs` runs the same queue
    on slices that services leave free.
    """
    del log_format  # read in main()
    keeping = Keeping(log_size, keep, keep_logs, half_life, oom_pattern)
    limits = JobLimits(max_waiting, default_time, max_time)
    queue = queue_options(
        discipline,
        admin,
        keeping,
        limits,
        memory_scale=memory_scale,
        recover=recover,
    )
    cluster = Cluster(driver, ClockName.WALL, None, allow_mig_mode)
    folder = safe_state_folder()
    with asked_to_stop() as stop, ExitStack() as stack:
        if driver == NVML:
            stack.enter_context(controlling(host_folder()))
        stack.enter_context(controlling(folder))
        opened = stack.enter_context(open_driver(cluster, folder, lambda: simulated_gpus(simulate or ())))
        note_other_gpus(opened, simulate)
        watched = WatchedDriver(opened)
        host = stack.enter_context(
            queue_host(watched, driver, folder, queue, opened, kept=partial(_kept, watched))
        )
        stack.enter_context(
            metrics_served(metrics_listen, metrics_port, lambda: _cluster(watched, host), host.metrics)
        )
        note(f"serving on {folder / 'jobs'}; {len(host.service.table.active):,} jobs are there")
        _loop(host, stop)


def _kept(watched: WatchedDriver) -> Iterator[Place]:
    """Yield the instances that a queue without services may use."""
    gpus = () if watched.seen is None else watched.seen[0].gpus
    return ((gpu.id, each.placement) for gpu in gpus for each in gpu.instances if not in_use(each))


def _cluster(watched: WatchedDriver, host: QueueHost) -> Iterator[Metric]:
    if watched.seen is not None:
        yield from cluster_metrics([({}, ClusterFacts(*watched.seen, jobs=host.places()))])


def _loop(host: QueueHost, stop: Callable[[], bool]) -> None:
    while not stop():
        due = host.step(host.service.now)
        host.server.poll(min(due - host.service.now, _LONGEST_POLL_S))


Discipline = Annotated[
    str,
    typer.Option(
        "--discipline",
        autocompletion=lambda: list(registry.names("disciplines")),
        help=f"Who starts first: {', '.join(registry.names('disciplines'))}.",
    ),
]
Admins = Annotated[
    list[str] | None,
    typer.Option("--admin", metavar="USER|@GROUP", help="Who may act on everybody's jobs. Repeatable."),
]
LogSize = Annotated[
    str, typer.Option("--log-size", metavar="SIZE", help="Most output of an attempt that is kept.")
]
Keep = Annotated[
    str, typer.Option("--keep", metavar="TIME", help="Time after which jobs that have ended are forgotten.")
]
KeepLogs = Annotated[
    str,
    typer.Option(
        "--keep-logs", metavar="SIZE", help="Most space for the logs of ended jobs; the oldest are removed."
    ),
]
HalfLife = Annotated[
    str,
    typer.Option(
        "--half-life", metavar="TIME", help="Time after which a user's past use counts half, for `fair`."
    ),
]
MaxWaiting = Annotated[
    int,
    typer.Option("--max-waiting", min=1, metavar="N", help="Most waiting jobs of one user; root is exempt."),
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
        help="A line of a job's output that matches says that GPU memory ran out. Repeatable.",
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
        help="Serve metrics to Prometheus; 0 takes a free port.",
    ),
]
MetricsListen = Annotated[
    str,
    typer.Option(
        "--metrics-listen",
        metavar="ADDRESS",
        help="Address of --metrics-port; beyond this host, everybody who reaches it can read the metrics.",
    ),
]


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How a queue is run, and for whom.

    Attributes:
        memory_scale: memory of simulated instances over that of real ones.
        recover: whether the store is made anew from what can be read of it and of the attempts on the disk.
    """

    settings: QueueSettings
    access: Access
    memory_scale: float
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


def queue_options(
    discipline: str,
    admin: list[str] | None,
    keeping: Keeping,
    limits: JobLimits,
    *,
    memory_scale: float,
    recover: bool,
) -> QueueOptions:
    """Return what the options say.

    Raises:
        InputError: there is no such discipline, user, group, size or time.
    """
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
    return QueueOptions(settings, Access(os.geteuid(), users, groups), memory_scale, recover)


def safe_state_folder() -> Path:
    """Return the state folder of who runs a queue, made if it is not there; root's must be safe from others.

    Raises:
        InputError: it cannot be made, or another user could write it.
    """
    if os.geteuid() == 0:
        require_safe(state_path(), "jobs")
    return state_folder()


def _time(text: str | None, where: str) -> float | None:
    return None if text is None else read_limit(text, where) or None


@dataclass(frozen=True, slots=True)
class QueueHost:
    """A queue with its socket and its measurements of energy, on the cluster that `driver` drives."""

    service: QueueService
    server: SocketServer
    energy: QueueEnergy
    ledger: EnergyLedger
    driver: Driver

    def step(self, now: float) -> float:
        """Do what is due; return when it wants to be called next."""
        # Before the queue finds what has ended meanwhile: it ran until now as far as anybody knows.
        due = self.energy.step(now, self.service.table.active.values(), self._services)
        return min(due, self.service.step(now))

    def metrics(self) -> Iterator[Metric]:
        """Yield the metrics of the queue and of the energy; may be called in any thread."""
        yield from queue_metrics(self.service.table, time.time())
        yield from energy_metrics(self.ledger)

    def places(self) -> frozenset[tuple[str, str]]:
        """Return GPU and placement of the instances that jobs hold; may be called in any thread."""
        attempts = (job.attempts[-1] for job in self.service.table.holding if job.attempts)
        return frozenset((each.gpu, str(each.placement)) for each in attempts)

    def _services(self) -> tuple[Stay, ...]:
        return services_of(self.driver.observe())


@contextmanager
def queue_host(
    driver: Driver,
    name: str,
    folder: Path,
    options: QueueOptions,
    meters: Driver,
    *,
    kept: Callable[[], Iterable[Place]],
    yields: bool = False,
) -> Iterator[QueueHost]:
    """Open the queue of a cluster for a block.

    Args:
        driver: of the cluster, for the queue.
        name: which driver that is.
        folder: the state folder.
        options: how it is run.
        meters: the driver of the cluster itself, of which `driver` is a view: it may have energy counters.
        kept: returns the instances that the queue keeps, those of its jobs among them.
        yields: whether jobs leave when services need the room.

    Raises:
        PartitaError: its store or its socket cannot be used, or the energy cannot be measured.
    """
    runner = _runner(name, options.memory_scale)
    jobs = make_folders(folder, shared=os.geteuid() == 0)
    with ExitStack() as stack:
        ledger, energy = stack.enter_context(measuring(meters, name, folder, note))
        opened = recover(jobs, note) if options.recover else open_store(jobs)
        store = stack.enter_context(closing(opened))
        service = QueueService(
            driver,
            runner,
            store,
            jobs / ATTEMPTS,
            settings=options.settings,
            given=ledger.last_job(),
            tell=note,
        )
        answers = Answers(service, options.access, ledger.joules, kept, yields=yields)
        server = SocketServer(jobs, answers)
        yield QueueHost(service, stack.enter_context(closing(server)), energy, ledger, driver)


@contextmanager
def shared_with_jobs(
    watched: WatchedDriver, name: str, options: QueueOptions, meters: Driver
) -> Iterator[tuple[SharedDriver, QueueHost]]:
    """Open the queue beside services for a block; yield the services' view of the cluster, and the queue.

    Raises:
        PartitaError: as for `queue_host`.
    """
    shared = SharedDriver(watched)
    tenant = QueueTenant(shared.tenants)
    with queue_host(tenant, name, state_folder(), options, meters, kept=tenant.holds, yields=True) as host:
        tenant.attach(host.service, host.step, lambda: host.server.poll(0.0))
        shared.share_with(tenant)
        note(f"jobs beside services; {len(host.service.table.active):,} jobs are there")
        yield shared, host


@contextmanager
def metrics_served(host: str, port: int | None, *sources: MetricsSource) -> Iterator[None]:
    """Serve metrics while the block runs.

    Args:
        host: name or address.
        port: of HTTP; None for no metrics.
        sources: of metrics, called in other threads.

    Raises:
        InputError: prometheus-client is not installed, or the address or port cannot be used.
    """
    if port is None:
        if host != LOOPBACK:
            raise InputError(
                "no metrics are served", where="--metrics-listen", hint="name a port: --metrics-port 9400"
            )
        yield
        return
    pages = ServedPages(MetricsPage(*sources).read)
    with serving_pages(pages, host, port, ("--metrics-listen", "--metrics-port")) as got:
        note(f"metrics on {page_url(host, got)}")
        yield


def _runner(name: str, scale: float) -> JobRunner:
    if name == SIMULATED:
        return RealJobRunner(scale)
    return RealJobRunner(used=used_bytes) if name == NVML else RealJobRunner()


def note(text: str) -> None:
    """Tell something on stderr."""
    stderr().print(f"note: {inline(text)}", soft_wrap=True)


@contextmanager
def measuring(
    driver: Driver, name: str, folder: Path, tell: Callable[[str], None]
) -> Iterator[tuple[EnergyLedger, QueueEnergy]]:
    """Open the ledger of energy for a block, and what fills it.

    Args:
        driver: of the cluster.
        name: which driver that is.
        folder: the state folder.
        tell: told what goes wrong later.

    Raises:
        PartitaError: no GPU answers.
    """
    with ExitStack() as stack:
        meter = stack.enter_context(_meter(driver, name, folder))
        ledger = stack.enter_context(closing(EnergyLedger(folder / FILE, tell)))
        yield ledger, QueueEnergy(EnergySampler(meter, ledger), tell)


@contextmanager
def _meter(driver: Driver, name: str, folder: Path) -> Iterator[EnergyMeter]:
    """Open what reads the counters of a cluster for a block; another package's driver may be a meter itself."""
    if name == NVML:
        with closing(NvmlEnergyMeter()) as of_host:
            yield of_host
    elif name == SIMULATED:
        with closing(SimulatedEnergyMeter(folder / CLUSTER, driver.clock)) as simulated:
            yield simulated
    else:
        yield driver if isinstance(driver, EnergyMeter) else NoEnergyMeter()


class NoEnergyMeter:
    """The meter of GPUs that have no counters."""

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:  # noqa: ARG002 -- the port's
        """Return nothing."""
        return ()
