"""A discrete-event simulation of jobs on GPUs of one model, under any discipline."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError, counted
from partita.jobs.disciplines.discipline import QueueState, RunningJob
from partita.jobs.partition import empty
from partita.mig.gpu import CONTEXT_W, IDLE_W

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.jobs.disciplines.discipline import Discipline, Start
    from partita.jobs.job import Job
    from partita.jobs.partition import Change, Partition
    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement


@dataclass(frozen=True, slots=True)
class Reconfiguration:
    """Seconds to create and to destroy an instance. The defaults are the largest mean times measured on an A100.

    Source: github spcl/gpuless-thesis at c2434d8, 300 runs for each of 18 layouts.
    """

    create: float = 0.138
    destroy: float = 0.179

    def seconds(self, change: Change) -> float:
        """Return the seconds that a change takes; NVML performs one action at a time on a GPU."""
        return self.create * change.create + self.destroy * len(change.destroy)


@dataclass(frozen=True, slots=True)
class Run:
    """A job's run in a simulation; times in seconds.

    Attributes:
        job: the job.
        gpu: index of its GPU.
        placement: of its instance.
        decided: when the discipline started it.
        began: when it ran, after its instance was created.
        ended: when it ended.
        destroyed: number of idle instances destroyed for it.
        created: whether its instance was created for it.
    """

    job: Job
    gpu: int
    placement: Placement
    decided: float
    began: float
    ended: float
    destroyed: int
    created: bool


@dataclass(frozen=True, slots=True)
class SimulatedSchedule:
    """The runs of a simulation, in the order in which they were decided."""

    runs: tuple[Run, ...]

    @property
    def makespan(self) -> float:
        """Seconds from the first arrival to the last end."""
        return max(r.ended for r in self.runs) - min(r.job.arrival for r in self.runs)

    @property
    def completion(self) -> float:
        """Mean seconds from a job's arrival to its end."""
        return sum(r.ended - r.job.arrival for r in self.runs) / len(self.runs)

    @property
    def changes(self) -> int:
        """Number of instances created and destroyed."""
        return sum(r.destroyed + r.created for r in self.runs)


def simulate(
    jobs: Iterable[Job],
    gpu: GpuModel,
    count: int,
    discipline: Discipline,
    *,
    reconfiguration: Reconfiguration | None = None,
    factors: Mapping[int, float] | None = None,
    power: PowerModel | None = None,
) -> SimulatedSchedule:
    """Run jobs to their end on `count` GPUs that have no instances at first.

    Args:
        jobs: in any order.
        gpu: the model of all GPUs.
        count: how many there are.
        discipline: decides which job starts when.
        reconfiguration: seconds per action.
        factors: by job id, the real run time over the expected one; 1.0 where absent.
        power: the energy of the work. Where the jobs of a GPU together would exceed its power limit, all of them slow
            down, which no discipline knows in advance. None for no limit.

    Raises:
        InfeasibleError: the discipline never starts some job.
    """
    state = QueueState(0.0, (), tuple(empty(gpu) for _ in range(count)))
    arrivals = sorted(jobs, key=_arrival)
    if power is None:
        return proceed(state, arrivals, discipline, reconfiguration, factors)
    simulation = _CappedSimulation(state, reconfiguration or Reconfiguration(), factors or {}, power)
    simulation.play(arrivals, discipline)
    return SimulatedSchedule(tuple(simulation.runs))


def proceed(
    state: QueueState,
    arrivals: Sequence[Job],
    discipline: Discipline,
    reconfiguration: Reconfiguration | None = None,
    factors: Mapping[int, float] | None = None,
) -> SimulatedSchedule:
    """Simulate from a state until all its jobs and all arrivals have ended.

    Args:
        state: at the start.
        arrivals: further jobs, sorted by arrival.
        discipline: decides which job starts when.
        reconfiguration: seconds per action.
        factors: by job id, the real run time over the expected one; 1.0 where absent.

    Raises:
        InfeasibleError: the discipline never starts some job.
    """
    simulation = _Simulation(state, reconfiguration or Reconfiguration(), factors or {})
    simulation.play(arrivals, discipline)
    return SimulatedSchedule(tuple(simulation.runs))


def _arrival(job: Job) -> tuple[float, int]:
    return job.arrival, job.id


@dataclass
class _Simulation:
    """The state of a simulation."""

    state: QueueState
    reconfiguration: Reconfiguration
    factors: Mapping[int, float]
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.state.now
        self.gpus: list[Partition] = list(self.state.gpus)
        self.waiting: dict[Job, None] = dict.fromkeys(self.state.waiting)
        self.running: dict[Job, RunningJob] = {r.job: r for r in self.state.running}
        self.used = dict(self.state.used)
        self.ready = [self.now] * len(self.gpus)
        self.ends = [(max(r.until, self.now), i, r.job) for i, r in enumerate(self.state.running)]
        heapq.heapify(self.ends)

    def play(self, arrivals: Sequence[Job], discipline: Discipline) -> None:
        coming = iter(arrivals)
        following = next(coming, None)
        while True:
            if self.waiting:
                for start in discipline.decide(self._look()):
                    self._start(start)
            moments = [self.ends[0][0]] if self.ends else []
            if following is not None:
                moments.append(following.arrival)
            if not moments:
                break
            self.now = max(self.now, min(moments))
            while self.ends and self.ends[0][0] <= self.now:
                self._end(heapq.heappop(self.ends)[2])
            while following is not None and following.arrival <= self.now:
                self.waiting[following] = None
                following = next(coming, None)
        if self.waiting:
            raise InfeasibleError(
                f"{type(discipline).__name__} never starts {counted(len(self.waiting), 'job')}"
            )

    def _look(self) -> QueueState:
        running = tuple(self.running.values())
        return QueueState(self.now, tuple(self.waiting), tuple(self.gpus), running, self.used)

    def _start(self, start: Start) -> None:
        job, placement = start.job, start.change.placement
        del self.waiting[job]
        self.gpus[start.gpu] = self.gpus[start.gpu].start(start.change)
        began = max(self.now, self.ready[start.gpu]) + self.reconfiguration.seconds(start.change)
        if start.change.create:
            self.ready[start.gpu] = began
        expected = job.seconds[placement.profile]
        ended = began + expected * self.factors.get(job.id, 1.0)
        self.running[job] = RunningJob(job, start.gpu, placement, began + expected)
        heapq.heappush(self.ends, (ended, len(self.runs) + len(self.state.running), job))
        destroyed, created = len(start.change.destroy), start.change.create
        self.runs.append(Run(job, start.gpu, placement, self.now, began, ended, destroyed, created))
        gpu = self.gpus[start.gpu].gpu
        took = (ended - self.now) * gpu.profile(placement.profile).compute / gpu.compute_slices
        self.used[job.user] = self.used.get(job.user, 0.0) + took

    def _end(self, job: Job) -> None:
        running = self.running.pop(job)
        self.gpus[running.gpu] = self.gpus[running.gpu].end(running.placement)


class _CappedSimulation(_Simulation):
    """A simulation in which a GPU whose jobs would exceed its power limit slows all of them by the same factor.

    Args:
        state: at the start, in which no job runs.
        reconfiguration: seconds per action.
        factors: by job id, the real run time over the expected one.
        power: the energy of the work.
    """

    def __init__(
        self,
        state: QueueState,
        reconfiguration: Reconfiguration,
        factors: Mapping[int, float],
        power: PowerModel,
    ) -> None:
        super().__init__(state, reconfiguration, factors)
        self.power = power
        self.index: dict[Job, int] = {}  # in `runs`
        self.left: dict[Job, float] = {}  # seconds at full speed
        self.watts: dict[Job, float] = {}  # at full speed
        self.due: dict[Job, float] = {}
        self.speed = [1.0] * len(self.gpus)
        self.since = [self.now] * len(self.gpus)

    def _start(self, start: Start) -> None:
        super()._start(start)
        job, run = start.job, self.runs[-1]
        self.index[job] = len(self.runs) - 1
        self.left[job] = run.ended - run.began
        self.watts[job] = self.power.joules[job.id] / (run.ended - run.began)
        self.due[job] = run.ended
        self._retime(start.gpu)

    def _end(self, job: Job) -> None:
        # `ends` still has the old, earlier times of jobs whose end was postponed.
        if job not in self.due or self.due[job] > self.now:
            return
        run = self.runs[self.index[job]]
        self.runs[self.index[job]] = replace(run, ended=self.due.pop(job))
        super()._end(job)
        self._retime(run.gpu)

    def _retime(self, gpu: int) -> None:
        """Recompute when the jobs of a GPU end, after a job beside them has started or ended."""
        here = [job for job in self.due if self.running[job].gpu == gpu]
        began = {job: self.runs[self.index[job]].began for job in here}
        for job in here:
            self.left[job] -= max(self.now - max(self.since[gpu], began[job]), 0.0) * self.speed[gpu]
        self.since[gpu] = self.now
        self.speed[gpu] = self.power.speed(sum(self.watts[job] for job in here))
        for job in here:
            due = max(self.now, began[job]) + max(self.left[job], 0.0) / self.speed[gpu]
            if due != self.due[job]:
                self.due[job] = due
                heapq.heappush(self.ends, (due, len(self.runs) + len(self.ends), job))


LIMIT_W = 250.0
"""Power limit of an A100 PCIe 40GB in W (NVIDIA A100 data sheet), the card that MISO measured."""


@dataclass(frozen=True, slots=True)
class PowerModel:
    """The power of a GPU that several jobs share.

    It is the sum of three parts: idle power, as long as work remains; a constant while any process has a CUDA
    context, which raises the clocks; and the energy of each job's work over its run time. That energy is the same on
    every slice and at every clock: a job's power on a whole GPU beyond the first two parts, times its run time there.
    Where the jobs together would exceed the power limit, the GPU lowers its clocks: they all slow down until they
    draw the limit, and take the same energy over a longer time.

    The jobs' power on a whole A100 is MISO's (github boringlee24/socc22-miso at 39b1ee6), whose readings end at 247
    W, so the card has a limit of 250 W. The power of a context is from arXiv 2605.23918, 26 to 50 W on A100 and H100.
    The equal energy on all slices is an assumption, as no counter measures slices.

    Attributes:
        joules: by job id, the energy of its work beyond idle power and context.
        idle_w: power of a GPU without any process.
        context_w: additional power while a process has a context.
        limit_w: most power of a GPU.
    """

    joules: Mapping[int, float]
    idle_w: float = IDLE_W
    context_w: float = CONTEXT_W
    limit_w: float = LIMIT_W

    def speed(self, watts: float) -> float:
        """Return the fraction of full speed of jobs that would draw `watts` beyond idle power and context."""
        room = self.limit_w - self.idle_w - self.context_w
        return min(1.0, room / watts) if watts > 0.0 else 1.0

    def energy(self, outcome: SimulatedSchedule, gpus: int) -> float:
        """Return the joules that `gpus` GPUs take over the makespan."""
        idle = self.idle_w * outcome.makespan * gpus
        busy = sum(_busy(run for run in outcome.runs if run.gpu == gpu) for gpu in range(gpus))
        return idle + self.context_w * busy + sum(self.joules[run.job.id] for run in outcome.runs)


def _busy(runs: Iterable[Run]) -> float:
    """Return the seconds in which at least one of the runs was active."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted((run.began, run.ended) for run in runs):
        total += max(ended - max(began, until), 0.0)
        until = max(until, ended)
    return total
