"""`partita run`: keep a cluster to a workload."""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.apply import asked_to_stop, lines, make_controller
from partita.cli.cluster import (
    SIMULATED,
    AllowMigMode,
    ClockName,
    Cluster,
    DriverOption,
    ServicesFile,
    Simulate,
    note_other_gpus,
    open_cluster,
    refuse_unrunnable,
    simulated_gpus,
)
from partita.cli.daemon import (
    LOOPBACK,
    Admins,
    DefaultTime,
    Discipline,
    HalfLife,
    JobLimits,
    Keep,
    Keeping,
    KeepLogs,
    LogSize,
    MaxTime,
    MaxWaiting,
    MetricsListen,
    MetricsPort,
    OomPatterns,
    Recover,
    Scale,
    metrics_served,
    queue_options,
    safe_state_folder,
    shared_with_jobs,
)
from partita.cli.options import Algorithm, ExtraGpus, LogForm, LogFormat
from partita.cli.output import WorkloadFile, stderr
from partita.cli.what_runs import gpus_for
from partita.control.controller import StopRequestedError
from partita.control.following import FollowedSchedule, RatesAbove
from partita.control.journal import FILE as JOURNAL
from partita.control.journal import Journal
from partita.control.metrics import Promise, cluster_metrics, facts, promises
from partita.control.reconciler import FILE, Demand, Hysteresis, RatesFile, Reconciler, TransitionOptions
from partita.control.watched import WatchedDriver
from partita.deadline import Deadline
from partita.drive.state import state_folder
from partita.errors import InputError, counted
from partita.planner import plan, read_prepared
from partita.serve.served import measured_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from partita.cli.apply import Stop
    from partita.cli.daemon import QueueHost
    from partita.control.controller import Reached
    from partita.control.following import ScheduledWorkload
    from partita.control.sharing import SharedDriver
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment


RunClock = Annotated[
    ClockName | None,
    typer.Option(
        "--clock",
        envvar="PARTITA_CLOCK",
        help="Clock of a simulated cluster. (default: wall; with --once the cluster's own)",
        show_default=False,
    ),
]
RatesOption = Annotated[
    Path | None,
    typer.Option(
        "--rates",
        metavar="FILE",
        help='Measured demand, {"service": items/s}, or with shares of batch sizes {"service": {"rate": items/s, '
        '"batches": {"1": 0.4, "8": 0.6}}}. (default: rates.json in the state folder, where the gateway writes it)',
    ),
]
FollowSeries = Annotated[
    Path | None,
    typer.Option(
        "--series",
        metavar="DIR",
        help="Follow the schedule that `partita plan --series --out DIR` wrote; plan anew only for rates above it.",
    ),
]
DeadBand = Annotated[
    float,
    typer.Option("--dead-band", min=0.0, help="Plan again when a rate differs by more than this fraction."),
]
BatchShift = Annotated[
    float,
    typer.Option(
        "--batch-shift",
        min=0.0,
        max=1.0,
        help="Plan again when this share of the queries of a service with a cut has other sizes (total variation).",
    ),
]
Hold = Annotated[float, typer.Option("--hold", min=0.0, help="Seconds for which a plan is held at least.")]
Jobs = Annotated[
    bool, typer.Option("--jobs", help="Run the queue of jobs, too, on slices that services leave free.")
]
Poll = Annotated[
    float, typer.Option("--poll", min=0.01, help="Seconds between two observations of the cluster.")
]
TimeLimit = Annotated[float, typer.Option("--time-limit", min=0.1, help="Seconds of search for each plan.")]


def run(
    workload: WorkloadFile,
    *,
    once: Annotated[bool, typer.Option("--once", help="Observe once, act, and exit.")] = False,
    rates: RatesOption = None,
    series: FollowSeries = None,
    dead_band: DeadBand = 0.1,
    batch_shift: BatchShift = 0.15,
    hold: Hold = 300.0,
    poll: Poll = 5.0,
    time_limit: TimeLimit = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random choices.")] = 0,
    extra_gpus: ExtraGpus = None,
    algorithm: Algorithm = "shortest",
    driver: DriverOption = SIMULATED,
    clock: RunClock = None,
    simulate: Simulate = None,
    services: ServicesFile = None,
    allow_mig_mode: AllowMigMode = False,
    jobs: Jobs = False,
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
    metrics_port: MetricsPort = None,
    metrics_listen: MetricsListen = LOOPBACK,
    log_format: LogForm = LogFormat.TEXT,
) -> None:
    """Keep a cluster to a workload, until stopped.

    Plans again when the file or the measured load has changed: rates, and for services with a cut the batch sizes of
    their queries. Repairs what others change. SIGTERM or Ctrl-C finish actions under way and end in a safe state.

    With --series the plans are those of a schedule, each from the time at which the change to it has to begin. Times
    of a day come again every day. A rate above the schedule by more than --dead-band is planned for.

    With --jobs it also runs the queue of `partita daemon`: jobs run on slices that services leave free, and
    checkpoint and wait again when a transition needs their slices.
    """
    del log_format  # read in main()
    keeping = Keeping(log_size, keep, keep_logs, half_life, oom_pattern)
    limits = JobLimits(max_waiting, default_time, max_time)
    queue = (
        queue_options(
            discipline,
            admin,
            keeping,
            limits,
            memory_scale=memory_scale,
            recover=recover,
        )
        if jobs
        else None
    )
    lives_by = clock or (None if once else ClockName.WALL)
    if jobs and (once or lives_by is ClockName.SIMULATED):
        raise InputError(
            "jobs take real time", where="--jobs", hint="leave out --once, and --clock simulated"
        )
    if queue is not None:
        safe_state_folder()
    with asked_to_stop() as stop, lines() as reporter:
        watched = WatchedWorkload(workload, Planning(time_limit, seed, stop))
        first = watched.read()  # a fault in it is told before anything is opened
        followed = None if series is None else FollowedSchedule(watched, series)
        scheduled = None if followed is None else followed.read()
        seconds = measured_seconds(first.loaded.workload, first.loaded.formulation.measured)
        cluster = Cluster(driver, lives_by, services, allow_mig_mode, seconds)
        refuse_unrunnable(cluster, first.demand.rates)
        with ExitStack() as stack:
            opened = stack.enter_context(
                open_cluster(
                    cluster,
                    lambda: simulated_gpus(simulate or ()) or _gpus_of(first, scheduled),
                    with_jobs=jobs,
                )
            )
            note_other_gpus(opened.driver, simulate)
            driven = WatchedDriver(opened.driver)
            shared = host = None
            if queue is not None:
                beside = shared_with_jobs(driven, driver, queue, opened.driver)
                shared, host = stack.enter_context(beside)
            page = _Page(driven, watched, host)
            stack.enter_context(metrics_served(metrics_listen, metrics_port, page.collect))
            controller = make_controller(replace(opened, driver=driven), algorithm, reporter, stop, shared)
            file = RatesFile(rates or state_folder() / FILE)
            measured = file if followed is None else RatesAbove(file, followed, dead_band)
            hysteresis = Hysteresis(dead_band, hold, batch_shift)
            keeper = Reconciler(
                controller,
                followed or watched,
                measured,
                hysteresis,
                TransitionOptions(algorithm, extra_gpus),
            )
            if once:
                _tell(keeper.step(time.monotonic()))
            else:
                _loop(keeper, stop, poll, shared)


@dataclass(frozen=True, slots=True)
class _Page:
    """The metrics of a cluster that is kept to a workload."""

    driven: WatchedDriver
    watched: WatchedWorkload
    queue: QueueHost | None

    def collect(self) -> Iterator[Metric]:
        """Yield them; called in other threads than the loop's, with a look at the journal of its own."""
        if self.driven.seen is not None:
            with closing(Journal(state_folder() / JOURNAL, read_only=True)) as journal:
                progress = journal.progress()
            jobs = self.queue.places() if self.queue else ()
            found = facts(*self.driven.seen, progress, self.watched.promises, jobs)
            yield from cluster_metrics([({}, found)])
        if self.queue is not None:
            yield from self.queue.metrics()


def _loop(keeper: Reconciler, stop: Stop, poll: float, shared: SharedDriver | None) -> None:
    try:
        while not stop():
            _tell(keeper.look(time.monotonic()))
            _pause(stop, poll, shared)
    except StopRequestedError as error:
        stderr().print(f"{error}: {error.hint}", markup=False, soft_wrap=True)  # to be stopped is no failure


def _pause(stop: Stop, poll: float, shared: SharedDriver | None) -> None:
    """Wait for the next look; jobs go on meanwhile."""
    if shared is None:
        stop.wait(poll)
        return
    end = shared.clock.now() + poll
    while not stop() and (now := shared.clock.now()) < end:
        shared.wait(min(end, now + _STOPS_S))


def _tell(reached: Reached | None) -> None:
    if reached is not None and reached.actions:
        stderr().print(
            f"reached in {reached.seconds:.0f} s with {counted(reached.actions, 'action')}", markup=False
        )


def _gpus_of(first: FileWorkload, scheduled: ScheduledWorkload | None) -> list[tuple[str, str]]:
    if scheduled is None:
        return gpus_for(first.loaded, first.planned)
    largest = scheduled.schedule.largest
    return gpus_for(first.loaded, lambda _: largest)


_STOPS_S = 0.5
"""Most seconds for which a wish to stop is not noticed."""


@dataclass(frozen=True, slots=True)
class Planning:
    """How plans are made: seconds of search at most, seed, and when the user wants the best so far."""

    time_limit: float
    seed: int
    stop: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class FileWorkload:
    """A workload as it was read (control's `CurrentWorkload`)."""

    document: str
    loaded: PreparedWorkload
    planning: Planning

    @property
    def demand(self) -> Demand:
        """What services are asked, as written: all rates, and batch sizes of those with a cut."""
        rates = {service.name: service.rate for service in self.loaded.workload.services}
        return Demand(rates, {cut.spec.name: cut.shares for cut in self.loaded.cuts})

    @property
    def forbid(self) -> tuple[str, ...]:
        """Combinations of instances that must not stand together."""
        return self.loaded.workload.limits.forbid

    def plan(self, demand: Demand, gpus: Mapping[str, int], current: Deployment) -> Plan:
        """Return the plan with the fewest GPUs that is nearest to what runs; with too few, by priority.

        Arguments as in control's `CurrentWorkload`.

        Raises:
            InfeasibleError: there is no plan at all.
        """
        return self.planned(self.loaded.at(demand.rates, demand.batches, gpus), current)

    def planned(self, asked: PreparedWorkload, current: Deployment | None = None) -> Plan:
        """Return the plan of this workload on some GPUs; arguments as for `planner.plan`."""
        deadline = Deadline(self.planning.time_limit, self.planning.stop)
        return plan(asked, deadline=deadline, seed=self.planning.seed, best_effort=True, current=current).plan


class WatchedWorkload:
    """A workload's file and the tables it names (control's `Source`); `-` is read once.

    Args:
        path: the file.
        planning: how plans are made.
    """

    def __init__(self, path: Path, planning: Planning) -> None:
        self._path = path
        self._planning = planning
        self._last: FileWorkload | None = None

    def read(self) -> FileWorkload:
        """Return the workload as it is now.

        Raises:
            InputError: it cannot be read.
            InfeasibleError: a service can run nowhere.
        """
        if self._last is not None and (str(self._path) == "-" or self._fingerprint() == self._last.document):
            return self._last
        loaded = read_prepared(self._path)
        self._tables = tuple(loaded.workload.performance)
        self._last = FileWorkload(self._fingerprint(), loaded, self._planning)
        return self._last

    @property
    def promises(self) -> dict[str, Promise]:
        """The SLOs of the services, as they were read last."""
        last = self._last
        return {} if last is None else promises(last.loaded.workload)

    _tables: tuple[str, ...] = ()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in (str(self._path), *self._tables):
            try:
                digest.update(hashlib.sha256(Path(name).read_bytes()).digest())
            except OSError:
                digest.update(b"-")
        return digest.hexdigest()
