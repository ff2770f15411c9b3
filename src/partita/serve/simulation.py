"""One simulation from beginning to end: cut, route, and say what came of it and what the cut would hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError
from partita.serve.evaluation import Evaluation, evaluate
from partita.serve.fluid import fluid_rate
from partita.serve.throughput import Throughput, enough_queries, throughput, unit_traffic

if TYPE_CHECKING:
    from partita.serve.cut import Cutter, ServingCut
    from partita.serve.outcome import Outcome, Router
    from partita.serve.problem import ServingProblem
    from partita.sim.arrivals import Traffic

_SEEDS = (11, 12, 13)
_QUERIES = 20_000


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a cut and a router made of some traffic, and what they hold.

    Attributes:
        cut: of the GPUs.
        outcome: of each query.
        evaluation: what they amount to.
        holds: latency-bounded throughput in queries per second of Poisson arrivals with the same batch sizes.
        bound: queries per second that no router can exceed on this cut in the long run.
    """

    cut: ServingCut
    outcome: Outcome
    evaluation: Evaluation
    holds: Throughput
    bound: float


def simulate(problem: ServingProblem, cutter: Cutter, router: Router, traffic: Traffic) -> Simulation:
    """Cut the GPUs, serve the traffic, and measure what the cut holds.

    Raises:
        InfeasibleError: no size answers enough of the queries in time.
    """
    cut = cutter.cut(problem)
    bound = fluid_rate(problem, cut.counts, served=problem.quantile).rate
    if bound <= 0:
        raise InfeasibleError(
            f"this cut can answer fewer than {problem.quantile:.4g} of the queries within "
            f"{problem.deadline * 1000:g} ms",
            hint="allow a longer latency, send smaller batches, or choose the cut search",
        )
    outcome = router.on(problem, cut.counts)(traffic)
    queries = enough_queries(problem, _QUERIES)
    unit = [unit_traffic(problem.share, queries, seed) for seed in _SEEDS]
    return Simulation(
        cut,
        outcome,
        evaluate(problem, cut, traffic, outcome),
        throughput(problem, cut.counts, router, unit, bound),
        bound,
    )
