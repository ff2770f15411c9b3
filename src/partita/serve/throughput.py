"""Latency-bounded throughput: the largest rate at which enough queries meet the deadline, with confidence."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np

from partita.sim.arrivals import Traffic, poisson
from partita.sim.batches import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from partita.serve.outcome import Router, Serve
    from partita.serve.problem import ServingProblem

_STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % points of Student's t for 1 to 9 degrees of freedom."""

_SMALLEST = 1e-6
"""Part of the first guess below which a rate counts as zero."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Queries per second: the mean over independent seeds, and half the width of its 95 % confidence interval."""

    rate: float
    half_width: float


def unit_traffic(share: NDArray[np.float64], queries: int, seed: int) -> Traffic:
    """Return Poisson traffic of one query per second with batch sizes drawn from `share`."""
    rng = np.random.default_rng(seed)
    return Traffic(poisson(1.0, queries, rng), draw(share, queries, rng))


def enough_queries(problem: ServingProblem, queries: int) -> int:
    """Return so many queries, or 100 for each instance there can be: waiting needs time to build up."""
    return max(queries, 100 * problem.gpus * problem.gpu.compute_slices)


def keeps(problem: ServingProblem, serve: Serve, traffic: Sequence[Traffic], rate: float) -> bool:
    """Say whether at this rate the asked share of queries meets the deadline, over all traffic together."""
    met = fmean(serve(each.faster(rate)).attainment(problem.deadline) for each in traffic)
    return met >= problem.quantile


def largest_rate(kept: Callable[[float], bool], guess: float, tolerance: float = 0.002) -> float:
    """Return a rate that is kept while one larger by the tolerance is not, by doubling and bisection.

    The same traffic is squeezed to each rate, so that noise hardly ever breaks monotony.

    Args:
        kept: whether a rate is kept; the answer is one for which it was true, or 0.
        guess: where to start, positive.
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
    while high - low > tolerance * high:
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def throughput(
    problem: ServingProblem,
    counts: NDArray[np.int64],
    router: Router,
    traffic: Sequence[Traffic],
    guess: float,
) -> Throughput:
    """Return the latency-bounded throughput of a router on instances in these counts.

    Args:
        problem: latencies, the deadline and its quantile.
        counts: instances of each size, shape (K,).
        router: who answers what.
        traffic: of unit rate, one per seed; two at least for a confidence interval, ten at most.
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
