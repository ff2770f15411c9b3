"""Four short disciplines: MIGM's two schemes, and two baselines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.jobs.disciplines.discipline import Allocation

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import QueueState, Start
    from partita.jobs.job import Job


class TightestFifo:
    """`tightest-fifo`, MIGM's scheme B.

    Jobs start in order of arrival, each on its tightest slice; no job overtakes another, so none starves.
    """

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the oldest jobs, up to the first that does not fit."""
        allocation = Allocation(state)
        for job in state.waiting:
            if not allocation.try_start(job, job.tightest):
                break
        return tuple(allocation.starts)


@dataclass(frozen=True, slots=True)
class TightestBatched:
    """`tightest-batched`, MIGM's scheme A: each GPU takes jobs of one tightest slice until none is left there.

    An empty GPU takes the group with the most waiting jobs. Once a job has waited for `patience` seconds, only jobs
    of its group start, so that none starves.

    Attributes:
        patience: seconds.
    """

    patience: float = 4 * 3600.0

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the starts of each GPU's group."""
        allocation = Allocation(state)
        left: dict[str, list[Job]] = {}
        for job in reversed(state.waiting):
            left.setdefault(job.tightest, []).append(job)
        sizes = Counter({profile: len(jobs) for profile, jobs in left.items()})
        aged = [job for job in state.waiting if state.now - job.arrival >= self.patience]
        first = aged[0].tightest if aged else None
        group: dict[int, str] = {running.gpu: running.job.tightest for running in state.running}
        for gpu in range(len(allocation.gpus)):
            while True:
                first = first if left.get(first or "") else None
                profile = group.get(gpu) or first or (sizes.most_common(1)[0][0] if sizes else "")
                if (first and profile != first) or not left.get(profile):
                    break
                change = allocation.gpus[gpu].change(profile)
                if change is None:
                    break
                allocation.start(left[profile][-1], gpu, change)
                group[gpu] = profile
                left[profile].pop()
                sizes = Counter({each: len(jobs) for each, jobs in left.items() if jobs})
        return tuple(allocation.starts)


class Whole:
    """`whole`: one job at a time on a whole GPU, in order of arrival, as without MIG."""

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the oldest jobs, one for each GPU that is free."""
        allocation = Allocation(state)
        for job in state.waiting:
            if not allocation.try_start(job, job.largest):
                break
        return tuple(allocation.starts)


class StaticOnes:
    """`static-ones`.

    GPUs stay cut into the smallest instances, and jobs start in order of arrival; a job that the smallest slice does
    not hold waits for a whole GPU.
    """

    def decide(self, state: QueueState) -> tuple[Start, ...]:
        """Return the oldest jobs that fit."""
        allocation = Allocation(state)
        smallest = state.gpus[0].gpu.profiles[0].name
        for job in state.waiting:
            if not allocation.try_start(job, smallest if smallest in job.seconds else job.largest):
                break
        return tuple(allocation.starts)
