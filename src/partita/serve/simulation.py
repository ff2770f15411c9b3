"""Simulates a cut and a router: the outcome of the queries, and the largest rate that the cut can hold."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError
from partita.serve.fluid import fluid_rate
from partita.serve.problem import REFUSED, TICK
from partita.sim.traffic import unit_queries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from partita.mig.layout import Placement
    from partita.serve.problem import (
        Cutter,
        Serve,
        ServingCut,
        ServingOutcome,
        ServingProblem,
        SimulatedRouter,
    )
    from partita.sim.traffic import Traffic


_SEEDS = (11, 12, 13)
_QUERIES = 20_000
QUANTILES = (0.5, 0.9, 0.95, 0.99)
_STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % points of Student's t for 1 to 9 degrees of freedom."""
_SMALLEST = 1e-6
"""Fraction of the first guess below which a rate counts as zero."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """The result of simulating some traffic on a cut with a router.

    Attributes:
        cut: of the GPUs.
        outcome: of each query.
        evaluation: summary of the outcome.
        holds: latency-bounded throughput in queries per second, for the problem's arrivals and batch sizes.
        bound: queries per second that no router can exceed on this cut in the long run.
    """

    cut: ServingCut
    outcome: ServingOutcome
    evaluation: Evaluation
    holds: Throughput
    bound: float


def simulate(
    problem: ServingProblem, cutter: Cutter, router: SimulatedRouter, traffic: Traffic
) -> Simulation:
    """Cut the GPUs, serve the traffic, and measure what the cut holds.

    Raises:
        InfeasibleError: no size can answer enough of the queries in time.
    """
    cut = cutter.cut(problem)
    bound = fluid_rate(problem, cut.counts, served=problem.quantile).rate
    if bound <= 0:
        raise InfeasibleError(
            f"this cut can answer fewer than {problem.quantile:.4g} of the queries{_of_each(problem)} within "
            f"{problem.deadline * 1000:g} ms",
            hint="allow a longer latency, send smaller batches, or choose the cut search",
        )
    outcome = router.on(problem, cut.counts)(traffic)
    queries = enough_queries(problem, _QUERIES)
    unit = [unit_traffic(problem, queries, seed) for seed in _SEEDS]
    return Simulation(
        cut,
        outcome,
        evaluate(problem, cut, traffic, outcome),
        throughput(problem, cut.counts, router, unit, bound),
        bound,
    )


def _of_each(problem: ServingProblem) -> str:
    return " of each size" if problem.classes else ""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Queries per second: the mean over independent seeds, and half the width of its 95 % confidence interval."""

    rate: float
    half_width: float


def throughput(
    problem: ServingProblem,
    counts: NDArray[np.int64],
    router: SimulatedRouter,
    traffic: Sequence[Traffic],
    guess: float,
) -> Throughput:
    """Return the latency-bounded throughput of a router on instances in these counts.

    Args:
        problem: latencies, the deadline and its quantile.
        counts: instances of each size, shape (K,).
        router: the policy.
        traffic: of unit rate, one per seed; at least two for a confidence interval, at most ten.
        guess: queries per second to start from.
    """
    serve = router.on(problem, counts)
    rates = [
        largest_rate(lambda rate, each=each: keeps(problem, serve, [each], rate), guess)  # type: ignore[misc]
        for each in traffic
    ]
    if len(rates) < 2:
        return Throughput(rates[0], float("inf"))
    return Throughput(fmean(rates), _STUDENT_T[len(rates) - 2] * stdev(rates) / len(rates) ** 0.5)


def keeps(problem: ServingProblem, serve: Serve, traffic: Sequence[Traffic], rate: float) -> bool:
    """Say whether the required share of each class of queries meets the deadline at this rate.

    Queries of all traffic count together.
    """
    met = attainment_by_class(problem, serve, [each.faster(rate) for each in traffic])
    return bool(met.min() >= problem.quantile)


def attainment_by_class(
    problem: ServingProblem, serve: Serve, traffic: Sequence[Traffic]
) -> NDArray[np.float64]:
    """Return the share of the queries of each class that are in time, over all traffic together; shape (C,)."""
    counts = np.array([serve(each).by_class(problem, each) for each in traffic])
    in_time, asked = counts.sum(axis=0)
    return np.asarray(np.divide(in_time, asked, out=np.ones(len(asked)), where=asked > 0))


def largest_rate(kept: Callable[[float], bool], guess: float, tolerance: float = 0.002) -> float:
    """Return the largest rate that is kept, within a tolerance, by bracketing and bisection.

    Args:
        kept: says whether a rate is kept; nearly monotone, as the same traffic is scaled to each rate. The result is
        a
            rate for which it was true, or 0.
        guess: rate to start from, positive.
        tolerance: relative.
    """
    low = high = guess
    if kept(guess):
        while kept(high := high * 1.15):
            low = high
    else:
        while not kept(low := low / 1.3):
            high = low
            if low < guess * _SMALLEST:
                return 0.0
    return bisected(kept, low, high, tolerance)


def bisected(kept: Callable[[float], bool], low: float, high: float, tolerance: float) -> float:
    """Return the largest rate that is kept between one that is and one that is not, within a relative tolerance."""
    while high - low > tolerance * high:
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def unit_traffic(problem: ServingProblem, queries: int, seed: int) -> Traffic:
    """Return traffic of one query per second, with the problem's arrivals and shares of batch sizes."""
    return unit_queries(problem.arrivals, problem.share, queries, np.random.default_rng(seed))


def enough_queries(problem: ServingProblem, queries: int) -> int:
    """Return the number of queries to simulate: `queries`, or 100 per possible instance, so that queues build up.

    Twice as many where each class of batch sizes counts, since a class has a part of them only.
    """
    return max(queries * (2 if problem.classes else 1), 100 * problem.gpus * problem.gpu.compute_slices)


@dataclass(frozen=True, slots=True)
class SliceUse:
    """Use of one instance: the GPU's number, its placement, the queries it answered, and its busy share of time."""

    gpu: int
    placement: Placement
    queries: int
    busy: float


@dataclass(frozen=True, slots=True)
class ClassUse:
    """Queries of one class: its smallest and largest batch size, how many came, and how many were in time."""

    least: int
    most: int
    queries: int
    in_time: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The summary of an outcome.

    Attributes:
        queries: number that arrived.
        seconds: from the first arrival to the last.
        in_time: queries answered within the deadline.
        refused: queries without an answer.
        latency: seconds at each of `QUANTILES`, over all queries; a refused query counts as inf.
        classes: in order of batch size; one where the promise is for all queries together.
        slices: in order of GPU and start.
    """

    queries: int
    seconds: float
    in_time: int
    refused: int
    latency: tuple[float, ...]
    classes: tuple[ClassUse, ...]
    slices: tuple[SliceUse, ...]

    @property
    def attainment(self) -> float:
        """Share of all queries that were answered within the deadline."""
        return self.in_time / self.queries


def evaluate(
    problem: ServingProblem, cut: ServingCut, traffic: Traffic, outcome: ServingOutcome
) -> Evaluation:
    """Return the summary of an outcome, including the warm-up."""
    latency = np.sort(outcome.latency)
    at = [min(len(latency) - 1, int(np.ceil(q * len(latency))) - 1) for q in QUANTILES]
    return Evaluation(
        queries=len(latency),
        seconds=float(traffic.arrival[-1] - traffic.arrival[0]),
        in_time=int(np.count_nonzero(latency <= problem.deadline + TICK)),
        refused=int(np.count_nonzero(outcome.instance == REFUSED)),
        latency=tuple(float(latency[index]) for index in at),
        classes=_classes(problem, traffic, outcome),
        slices=_slices(problem, cut, traffic, outcome),
    )


def _classes(problem: ServingProblem, traffic: Traffic, outcome: ServingOutcome) -> tuple[ClassUse, ...]:
    ends = problem.classes or (problem.latency.shape[1],)
    own = problem.class_of[traffic.batch - 1]
    in_time = outcome.latency <= problem.deadline + TICK
    return tuple(
        ClassUse(least + 1, most, int(np.count_nonzero(own == at)), int(np.count_nonzero(in_time[own == at])))
        for at, (least, most) in enumerate(pairwise([0, *ends]))
    )


def _slices(
    problem: ServingProblem, cut: ServingCut, traffic: Traffic, outcome: ServingOutcome
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
