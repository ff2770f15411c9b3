"""Cuts of GPUs for the queries of one model: a search by simulation (the default), and others for comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.milp import INFINITY, Program
from partita.serve.fluid import fluid_cut, fluid_rate
from partita.serve.problem import ServingCut
from partita.serve.routers.late_binding import LateBinding
from partita.serve.simulation import enough_queries, keeps, largest_rate, throughput, unit_traffic
from partita.sim.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from partita.serve.problem import Serve, ServingProblem, SimulatedRouter


_MARGINS = (1.0, 0.9, 0.8, 0.65)
_RECUT_MARGIN = 0.8
_CLASS_TRIES = 3
"""Times as many re-cuts where each class of batch sizes counts, whose largest queries the fluid model flatters."""
_FIRST = 8_000
"""Queries that a cut which is clearly worse is told by."""
_BETTER = 1.003
"""Factor by which a cut's rate must be larger to replace another cut; smaller differences are noise."""
_GUARD = 0.1
"""Part of the queries of a class that count as of its largest batch size, against sizes that change with time."""


@dataclass(frozen=True, slots=True)
class Search:
    """Local search: from the best start, re-cuts one GPU at a time as long as the simulated throughput grows.

    All cuts are compared under the same traffic, so the result is never worse on it than the best start, of which
    every homogeneous cut is one. Where each class of batch sizes counts on a trace, that traffic has more large
    queries than the trace.

    Attributes:
        router: of the simulations.
        queries: number in each simulation; more if there are many GPUs.
        seeds: of the traffic; results are pooled.
        tries: number of re-cuts to simulate before a cut counts as a local optimum, largest fluid rates first; three
            times as many where each class of batch sizes counts.
        rounds: maximum number of improvements.
        over: says whether the search must end with the best cut so far.
    """

    router: SimulatedRouter = LateBinding
    queries: int = 20_000
    seeds: tuple[int, ...] = (101, 102)
    tries: int = 16
    rounds: int = 20
    over: Callable[[], bool] = lambda: False

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the best cut found.

        Raises:
            InfeasibleError: no start answers enough queries in time at any rate.
        """
        for each in dict.fromkeys((_guarded(problem), problem)):
            if (best := self._best(each)) is not None:
                return best
        raise InfeasibleError(
            f"no cut answers {problem.quantile:.0%} of the queries{' of each size' if problem.classes else ''} "
            f"within {problem.deadline * 1000:g} ms",
            hint="allow a longer latency, or send smaller batches",
        )

    def _best(self, problem: ServingProblem) -> ServingCut | None:
        """Return the best cut found; None if no start answers enough queries in time at any rate."""
        queries = enough_queries(problem, self.queries)
        traffic = [unit_traffic(problem, queries, seed) for seed in self.seeds]
        best, rate = None, 0.0
        for start in starts(problem):
            if best is not None and self.over():
                break
            if (found := self._rate(problem, start, traffic, above=rate)) > rate:
                best, rate = start, found
        if best is None:
            return None
        for _ in range(self.rounds):
            better = self._better(problem, best, traffic, rate)
            if better is None:
                break
            best, rate = better
        return best

    def _better(
        self, problem: ServingProblem, best: ServingCut, traffic: Sequence[Traffic], rate: float
    ) -> tuple[ServingCut, float] | None:
        """Return the first re-cut that keeps a larger rate, and that rate; None if none does."""
        for cut in _recuts(problem, best)[: self.tries * (_CLASS_TRIES if problem.classes else 1)]:
            if self.over():
                break
            if (found := self._rate(problem, cut, traffic, above=rate)) > rate:
                return cut, found
        return None

    def _rate(
        self, problem: ServingProblem, cut: ServingCut, traffic: Sequence[Traffic], above: float
    ) -> float:
        """Return the largest rate that a cut keeps; 0 if it is not `_BETTER` than `above`."""
        serve = self.router.on(problem, cut.counts)
        guess = above * _BETTER or fluid_rate(problem, cut.counts, served=problem.quantile).rate
        if guess <= 0 or (
            above > 0
            and (_falls_short(problem, serve, traffic[0], guess) or not keeps(problem, serve, traffic, guess))
        ):
            return 0.0
        return largest_rate(lambda rate: keeps(problem, serve, traffic, rate), guess)


def _falls_short(problem: ServingProblem, serve: Serve, traffic: Traffic, rate: float) -> bool:
    """Say whether the first queries show already that a rate is not kept, by two standard errors of a share."""
    some = Traffic(traffic.arrival[:_FIRST], traffic.batch[:_FIRST]).faster(rate)
    in_time, asked = serve(some).by_class(problem, some)
    missed = asked - in_time
    may_miss = asked * (1 - problem.quantile)
    return bool((missed > may_miss + 2 * np.sqrt(may_miss * problem.quantile)).any())


def starts(problem: ServingProblem) -> list[ServingCut]:
    """Return the starts of the search: fluid cuts with several margins for waiting, and homogeneous cuts."""
    served = (1.0, problem.quantile)
    fluid = [fluid_cut(problem, served=part, margin=margin)[0] for part in served for margin in _MARGINS]
    alike = [Homogeneous(size).cut(problem) for size in range(len(problem.profiles))]
    return list(dict.fromkeys([*fluid, *alike]))


def _guarded(problem: ServingProblem) -> ServingProblem:
    """Return the problem that a cut is searched for.

    In a trace the sizes change with time: one that is rare in the part at hand may be common in the next, and a cut
    that just keeps the promise by leaving it out, or with one slice for it, breaks it then. So where each class
    counts on a trace, `_GUARD` of the queries of each class count as of its largest batch size that can be answered.
    """
    if not problem.classes or isinstance(problem.arrivals, str) or problem.arrivals.trace is None:
        return problem
    able = np.isfinite(problem.feasible).any(axis=0)
    share = problem.share.copy()
    for own in range(len(problem.classes)):
        sizes = np.flatnonzero((problem.class_of == own) & able)
        if len(sizes):
            moved = _GUARD * share[sizes]
            share[sizes] -= moved
            share[sizes[-1]] += moved.sum()
    return replace(problem, share=share)


def _recuts(problem: ServingProblem, cut: ServingCut) -> list[ServingCut]:
    """Return the cuts that differ on one GPU, by descending fluid rate."""
    found = {
        ServingCut.of([*cut.gpus[:index], other, *cut.gpus[index + 1 :]])
        for index in map(cut.gpus.index, set(cut.gpus))  # GPUs that are cut alike give the same cuts
        for other in problem.multisets
    } - {cut}

    def promise(each: ServingCut) -> tuple[float, tuple[tuple[int, ...], ...]]:
        fluid = fluid_rate(problem, each.counts, served=problem.quantile, margin=_RECUT_MARGIN)
        return -fluid.rate, each.gpus

    return sorted(found, key=promise)


@dataclass(frozen=True, slots=True)
class FluidCut:
    """Cuts by the integer fluid model.

    Attributes:
        margin: fraction of the deadline that a query may run; the rest is left for waiting.
    """

    margin: float = 1.0

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the cut with the largest fluid rate."""
        return fluid_cut(problem, served=1.0, margin=self.margin)[0]


@dataclass(frozen=True, slots=True)
class Paris:
    """The partitioning of PARIS and ELSA (DAC'22, section IV.B), with utilisation relative to each size's peak.

    Attributes:
        knee: fraction of its peak throughput from which a size counts as well used.
    """

    knee: float = 0.8

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the cut nearest to the instances that PARIS wants."""
        return nearest_cut(problem, self.instances(problem))

    def knees(self, problem: ServingProblem) -> NDArray[np.int64]:
        """Return each size's smallest batch with `knee` of its peak throughput, shape (K,)."""
        batch = np.arange(1, problem.latency.shape[1] + 1)
        rate = batch / problem.latency
        return np.asarray(np.argmax(rate >= self.knee * rate.max(axis=1, keepdims=True), axis=1) + 1)

    def instances(self, problem: ServingProblem) -> NDArray[np.float64]:
        """Return the fractional N_k = R_k G / sum_j(j R_j), with R_k the time of size k for its batch sizes.

        Size k owns the batch sizes from the next smaller size's knee up to its own; the largest owns the rest.

        Raises:
            InfeasibleError: a size cannot run a batch size that it owns.
        """
        knees = self.knees(problem)
        knees[-1] = problem.latency.shape[1]
        work, below = np.zeros(len(knees)), 0
        for k, knee in enumerate(knees):
            own = [b for b in range(below, knee) if problem.share[b] > 0]
            work[k] = problem.share[own] @ problem.latency[k, own]
            below = max(below, int(knee))
        if not np.isfinite(work).all():
            name = problem.profiles[int(np.argmax(~np.isfinite(work)))]
            raise InfeasibleError(
                f"PARIS assigns batch sizes to {name} that it cannot run",
                hint="choose another cut, such as search",
            )
        return np.asarray(work * problem.gpu.compute_slices * problem.gpus / (problem.compute @ work))


def nearest_cut(problem: ServingProblem, wanted: NDArray[np.float64]) -> ServingCut:
    """Return the legal cut of all GPUs that differs from the wanted instances in the fewest compute slices.

    Args:
        problem: of which the GPUs are cut.
        wanted: instances of each size, possibly fractional, shape (K,).
    """
    sizes, multisets = len(wanted), problem.multisets
    program = Program()
    rows = program.add_rows(wanted, wanted)
    gpus = program.add_rows(np.array([float(problem.gpus)]), np.array([float(problem.gpus)]))
    for sign in (1.0, -1.0):  # instances that are missing, and those too many
        entries = [(np.array([rows + k], dtype=np.int32), np.array([sign])) for k in range(sizes)]
        program.add_columns(problem.compute.astype(np.float64), np.full(sizes, INFINITY), entries)
    all_rows = np.append(np.arange(rows, rows + sizes), gpus).astype(np.int32)
    ways = [(all_rows, np.append(np.array(each, dtype=np.float64), 1.0)) for each in multisets]
    none, limit = np.zeros(len(ways)), np.full(len(ways), float(problem.gpus))
    first = program.add_columns(none, limit, ways, integer=True)
    numbers = np.rint(program.solve(Deadline()).columns[first:]).astype(int)
    return ServingCut.of(each for each, n in zip(multisets, numbers, strict=True) for _ in range(n))


_SEED, _QUERIES = 101, 20_000


@dataclass(frozen=True, slots=True)
class Homogeneous:
    """Cuts every GPU into instances of one size; remaining slices stay empty.

    Attributes:
        size: index of the size, from 0.
    """

    size: int

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the cut with as many instances of the size as fit."""
        most = max(each[self.size] for each in problem.multisets)
        one = tuple(most if k == self.size else 0 for k in range(len(problem.profiles)))
        return ServingCut.of([one] * problem.gpus)


@dataclass(frozen=True, slots=True)
class BestHomogeneous:
    """The homogeneous cut with the largest simulated throughput: GPU(max) of PARIS and ELSA.

    Attributes:
        router: of the simulations.
    """

    router: SimulatedRouter

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the best homogeneous cut."""
        traffic = [unit_traffic(problem, enough_queries(problem, _QUERIES), _SEED)]

        def rate(cut: ServingCut) -> float:
            guess = fluid_rate(problem, cut.counts, served=problem.quantile).rate
            return throughput(problem, cut.counts, self.router, traffic, guess).rate if guess > 0 else 0.0

        return max((Homogeneous(size).cut(problem) for size in range(len(problem.profiles))), key=rate)


@dataclass(frozen=True, slots=True)
class RandomCut:
    """Cuts each GPU into a maximal multiset, chosen uniformly at random."""

    seed: int = 0

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return the cut, the same for the same seed."""
        return ServingCut.of(Random(self.seed).choices(problem.multisets, k=problem.gpus))
