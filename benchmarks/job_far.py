"""FAR (arXiv 2507.13601), to compare with: batches of its own kind, and its schedule of one batch on one A100.

In our own words from the paper: tasks are moldable, and a batch is scheduled offline on a tree of instances in which
each one is cut into its children once its own tasks have ended.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.job_cases import A100
from partita.jobs.job import job_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.jobs.job import Job
    from partita.jobs.simulate import Reconfiguration

PROFILE_OF = {1: "1g.5gb", 2: "2g.10gb", 3: "3g.20gb", 4: "4g.20gb", 7: "7g.40gb"}

# The parent of each node and its compute slices: 7, cut into 4 and 3, and so on down to ones. A 4 may become a 3,
# which has as much memory.
_TREE: tuple[tuple[int | None, int], ...] = (
    (None, 7),
    *((0, 4), (0, 3)),
    (1, 3),
    *((3, 2), (3, 2), (2, 2), (2, 1)),
    *((4, 1), (4, 1), (5, 1), (5, 1), (6, 1), (6, 1)),
)


def far_batch(seed: int) -> list[Job]:
    """Return 10 to 40 tasks made as the paper's synthetic ones are.

    A task takes 1 to 100 s on one slice, or in every other batch 90 to 100 s. It scales well up to a number of slices
    and badly beyond: each further slice does 90 to 100 % of its share of the work, or 0 to 50 %. One in five is bound
    by memory, and gains more than its share for some slices, but nothing from the third to the fourth, which have the
    same memory.
    """
    rng, jobs = random.Random(seed), []
    shortest = 90.0 if seed % 2 else 1.0
    for number in range(rng.randint(10, 40)):
        scales, bound, times = (
            rng.choice(tuple(PROFILE_OF)),
            rng.random() < 0.2,
            [rng.uniform(shortest, 100.0)],
        )
        for slices in range(2, 8):
            if slices > scales or (bound and slices == 4):
                lost = min(max(rng.gauss(0.75, 0.25), 0.5), 1.0)
            elif bound:
                lost, bound = min(max(rng.gauss(-0.25, 0.25), -0.3), 0.0), rng.random() > 0.3
            else:
                lost = min(max(rng.gauss(0.05, 0.05), 0.0), 0.1)
            times.append((slices - 1 + lost) / slices * times[-1])
        jobs.append(job_on(A100, number, {name: times[size - 1] for size, name in PROFILE_OF.items()}))
    return jobs


@dataclass
class _Schedule:
    """Which node of the tree each task runs on."""

    jobs: Sequence[Job]
    node: list[int]
    reconfiguration: Reconfiguration

    def makespan(self) -> float:
        """Return when the last task ends: a node begins once its parent's tasks have ended."""
        work = [0.0] * len(_TREE)
        for job, at in zip(self.jobs, self.node, strict=True):
            work[at] += job.seconds[PROFILE_OF[_TREE[at][1]]]
        ends, used = [0.0] * len(_TREE), [False] * len(_TREE)
        for at, (parent, _) in enumerate(_TREE):
            begins, after = (ends[parent], used[parent]) if parent is not None else (0.0, False)
            cost = self.reconfiguration.create + self.reconfiguration.destroy * after
            ends[at] = begins + (work[at] + cost if work[at] else 0.0)
            used[at] = after or work[at] > 0.0
        return max(ends)


def far_makespan(jobs: Sequence[Job], reconfiguration: Reconfiguration) -> float:
    """Return the makespan of FAR's schedule: the best of a family of allocations, improved by moves and swaps."""
    best = min(
        (_placed(jobs, sizes, reconfiguration) for sizes in _family(jobs)), key=lambda each: each.makespan()
    )
    return _improved(best)


def _family(jobs: Sequence[Job]) -> list[list[int]]:
    """Return allocations of slices: the least work for all, and then ever more to the task that lasts longest."""
    sizes = [min(PROFILE_OF, key=lambda size: size * job.seconds[PROFILE_OF[size]]) for job in jobs]
    found = [list(sizes)]
    while True:
        times = [job.seconds[PROFILE_OF[size]] for job, size in zip(jobs, sizes, strict=True)]
        longest = max(range(len(jobs)), key=times.__getitem__)
        seconds = jobs[longest].seconds
        shorter = [
            size
            for size in PROFILE_OF
            if size > sizes[longest] and seconds[PROFILE_OF[size]] < times[longest]
        ]
        if not shorter:
            return found
        sizes[longest] = min(shorter, key=lambda size: size * seconds[PROFILE_OF[size]])
        found.append(list(sizes))


def _placed(jobs: Sequence[Job], sizes: Sequence[int], reconfiguration: Reconfiguration) -> _Schedule:
    """Place the longest task first, each on the node of its size on which it ends first, large sizes before small."""
    ends = [0.0] * len(_TREE)
    node = [0] * len(jobs)
    order = sorted(
        range(len(jobs)), key=lambda each: (-sizes[each], -jobs[each].seconds[PROFILE_OF[sizes[each]]])
    )
    for each in order:
        begins = {at: _begins(ends, at) for at, (_, size) in enumerate(_TREE) if size == sizes[each]}
        node[each] = at = min(begins, key=begins.__getitem__)
        ends[at] = begins[at] + jobs[each].seconds[PROFILE_OF[sizes[each]]]
    return _Schedule(jobs, node, reconfiguration)


def _begins(ends: Sequence[float], at: int) -> float:
    parent = _TREE[at][0]
    return max(ends[at], _begins(ends, parent) if parent is not None else 0.0)


def _improved(schedule: _Schedule) -> float:
    """Move tasks to other nodes, and swap them, as long as that shortens the makespan; return it."""
    node, least = schedule.node, schedule.makespan()
    while True:
        before = least
        for each in range(len(node)):
            least = _moved(schedule, least, each)
        for each in range(len(node)):
            for other in range(each):
                mine, theirs = node[each], node[other]
                node[each], node[other] = theirs, mine
                found = schedule.makespan()
                if found < least - 1e-9:
                    least = found
                else:
                    node[each], node[other] = mine, theirs
        if least >= before - 1e-9:
            return least


def _moved(schedule: _Schedule, least: float, each: int) -> float:
    """Move a task to the node on which it is best; return the makespan."""
    for at in range(len(_TREE)):
        before = schedule.node[each]
        schedule.node[each] = at
        found = schedule.makespan()
        if found < least - 1e-9:
            least = found
        else:
            schedule.node[each] = before
    return least
