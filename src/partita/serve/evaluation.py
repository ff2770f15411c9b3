"""What a simulation of serving showed: how many queries were in time, latencies, and the use of each slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partita.serve.outcome import REFUSED, TICK

if TYPE_CHECKING:
    from partita.mig.layout import Placement
    from partita.serve.cut import ServingCut
    from partita.serve.outcome import Outcome
    from partita.serve.problem import ServingProblem
    from partita.sim.arrivals import Traffic

QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class SliceUse:
    """What one instance did: the GPU's number, its placement, queries answered and share of the time busy."""

    gpu: int
    placement: Placement
    queries: int
    busy: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The whole of a simulation.

    Attributes:
        queries: how many arrived.
        seconds: from the first arrival to the last.
        in_time: queries answered within the deadline.
        refused: queries that were not answered at all.
        latency: seconds at each of `QUANTILES`, over all queries, inf where that falls on a refused one.
        slices: in order of GPU and start.
    """

    queries: int
    seconds: float
    in_time: int
    refused: int
    latency: tuple[float, ...]
    slices: tuple[SliceUse, ...]

    @property
    def attainment(self) -> float:
        """Share of all queries that were answered within the deadline."""
        return self.in_time / self.queries


def evaluate(problem: ServingProblem, cut: ServingCut, traffic: Traffic, outcome: Outcome) -> Evaluation:
    """Return what an outcome amounts to, warm-up included."""
    latency = np.sort(outcome.latency)
    at = [min(len(latency) - 1, int(np.ceil(q * len(latency))) - 1) for q in QUANTILES]
    return Evaluation(
        queries=len(latency),
        seconds=float(traffic.arrival[-1] - traffic.arrival[0]),
        in_time=int(np.count_nonzero(latency <= problem.deadline + TICK)),
        refused=int(np.count_nonzero(outcome.instance == REFUSED)),
        latency=tuple(float(latency[index]) for index in at),
        slices=_slices(problem, cut, traffic, outcome),
    )


def _slices(
    problem: ServingProblem, cut: ServingCut, traffic: Traffic, outcome: Outcome
) -> tuple[SliceUse, ...]:
    size_of = np.repeat(np.arange(len(cut.counts)), cut.counts)
    answered = outcome.instance != REFUSED
    by, batch = outcome.instance[answered], traffic.batch[answered]
    queries = np.bincount(by, minlength=len(size_of))
    work = np.bincount(by, weights=problem.latency[size_of[by], batch - 1], minlength=len(size_of))
    ends = traffic.arrival[answered] + outcome.latency[answered]
    span = float(ends.max() - traffic.arrival[0]) if len(ends) else 1.0
    free = {
        name: iter(np.flatnonzero(size_of == index).tolist()) for index, name in enumerate(problem.profiles)
    }
    return tuple(
        SliceUse(gpu, placement, int(queries[number]), float(work[number] / span))
        for gpu, layout in enumerate(cut.layouts(problem.gpu))
        for placement in layout
        for number in [next(free[placement.profile])]
    )
