"""Search by simulation: from the fluid and the homogeneous cuts, GPU by GPU to better ones. The default cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError
from partita.serve.cut import ServingCut
from partita.serve.cuts.homogeneous import Homogeneous
from partita.serve.fluid import fluid_cut, fluid_rate
from partita.serve.routers.late_binding import LateBinding
from partita.serve.throughput import enough_queries, keeps, largest_rate, unit_traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from partita.serve.outcome import Router
    from partita.serve.problem import ServingProblem
    from partita.sim.arrivals import Traffic

_MARGINS = (1.0, 0.9, 0.8, 0.65)
_RECUT_MARGIN = 0.8
_BETTER = 1.003
"""A cut must keep a rate larger by this factor to replace another: less is noise."""


@dataclass(frozen=True, slots=True)
class Search:
    """Takes the best start, then re-cuts one GPU at a time while a simulation finds more throughput.

    All cuts are compared under the same traffic, so what comes out is never worse there than the best start.

    Attributes:
        router: what will route the queries.
        queries: in each simulation, more where there are many GPUs.
        seeds: of traffic, pooled.
        tries: re-cuts that are simulated before a cut counts as a local optimum, the most promising first by
            their fluid rate.
        rounds: most improvements.
        over: true once the best cut so far is wanted.
    """

    router: Router = field(default_factory=LateBinding)
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
        queries = enough_queries(problem, self.queries)
        traffic = [unit_traffic(problem.share, queries, seed) for seed in self.seeds]
        best, rate = None, 0.0
        for start in starts(problem):
            if best is not None and self.over():
                break
            if (found := self._rate(problem, start, traffic, above=rate)) > rate:
                best, rate = start, found
        if best is None:
            raise InfeasibleError(
                f"no cut answers {problem.quantile:.0%} of the queries within {problem.deadline * 1000:g} ms",
                hint="allow a longer latency, or send smaller batches",
            )
        for _ in range(self.rounds):
            better = self._better(problem, best, traffic, rate)
            if better is None:
                break
            best, rate = better
        return best

    def _better(
        self, problem: ServingProblem, best: ServingCut, traffic: Sequence[Traffic], rate: float
    ) -> tuple[ServingCut, float] | None:
        """Return the first of the promising re-cuts that keeps a larger rate, and that rate."""
        for cut in _recuts(problem, best)[: self.tries]:
            if self.over():
                break
            if (found := self._rate(problem, cut, traffic, above=rate)) > rate:
                return cut, found
        return None

    def _rate(
        self, problem: ServingProblem, cut: ServingCut, traffic: Sequence[Traffic], above: float
    ) -> float:
        """Return the largest rate that a cut keeps, or 0 if it is hardly larger than `above`."""
        serve = self.router.on(problem, cut.counts)
        guess = above * _BETTER or fluid_rate(problem, cut.counts, served=problem.quantile).rate
        if guess <= 0 or (above > 0 and not keeps(problem, serve, traffic, guess)):
            return 0.0
        return largest_rate(lambda rate: keeps(problem, serve, traffic, rate), guess)


def starts(problem: ServingProblem) -> list[ServingCut]:
    """Return the cuts that the search starts from: fluid ones, with time left for waiting, and homogeneous ones."""
    served = (1.0, problem.quantile)
    fluid = [fluid_cut(problem, served=part, margin=margin)[0] for part in served for margin in _MARGINS]
    alike = [Homogeneous(size).cut(problem) for size in range(len(problem.profiles))]
    return list(dict.fromkeys([*fluid, *alike]))


def _recuts(problem: ServingProblem, cut: ServingCut) -> list[ServingCut]:
    """Return the cuts that differ on one GPU, those of largest fluid rate first."""
    found = {
        ServingCut.of([*cut.gpus[:index], other, *cut.gpus[index + 1 :]])
        for index in map(cut.gpus.index, set(cut.gpus))  # GPUs that are cut alike give the same cuts
        for other in problem.multisets
    } - {cut}

    def promise(each: ServingCut) -> tuple[float, tuple[tuple[int, ...], ...]]:
        fluid = fluid_rate(problem, each.counts, served=problem.quantile, margin=_RECUT_MARGIN)
        return -fluid.rate, each.gpus

    return sorted(found, key=promise)
