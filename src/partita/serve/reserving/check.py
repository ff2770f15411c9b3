"""The checker's part for services with a cut: simulated queries show whether the cut holds the plan's capacity.

The routing comes from the router under test, which may be wrong. So the checker itself verifies for each query that
no instance runs two queries at once, that each takes as long as the table says, and that enough are in time: of each
class of batch sizes where the service promises that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from partita.milp import new_solver
from partita.planning.check import Violation
from partita.serve.problem import REFUSED, TICK
from partita.serve.routers.late_binding import LateBinding
from partita.sim.traffic import unit_queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from partita.planning.plan import Plan
    from partita.planning.problem import Pool
    from partita.serve.problem import ServingOutcome, ServingProblem
    from partita.serve.reserving.services import CutService
    from partita.sim.traffic import Traffic

ROUTER = LateBinding
"""Router of the simulated queries: the gateway's default."""

QUERIES, RUNS = 20_000, 5
SEED = 982_451_653
"""Seed of traffic that no planner uses."""

TOLERANCE = 0.2
"""Relative tolerance of the share of late queries."""
STANDARD_ERRORS = 3.0
"""Standard errors by which the share of one class may exceed that."""


def check_reserved(plan: Plan, services: Sequence[CutService], pools: Sequence[Pool]) -> list[Violation]:
    """Return the faults of the capacities of services with a cut.

    Args:
        plan: the plan.
        services: those of the workload that have a cut.
        pools: of the workload.
    """
    return [fault for service in services for fault in _faults(plan, service, pools)]


def _faults(plan: Plan, service: CutService, pools: Sequence[Pool]) -> Iterator[Violation]:
    name = service.spec.name
    by_model: dict[str, Counter[str]] = defaultdict(Counter)
    batches: set[tuple[str, str, int]] = set()
    capacity, gpus = 0.0, Counter[str]()
    for gpu in plan.gpus:
        mine = [each for each in gpu.instances if each.service == name]
        gpus[gpu.model] += bool(mine)
        for each in mine:
            by_model[gpu.model][each.placement.profile] += 1
            batches.add((gpu.model, each.placement.profile, each.point.batch))
            capacity += each.point.throughput
    if len(by_model) != 1:
        yield Violation(f"service {name}", f"on {len(by_model)} models of GPU, its cut is of one")
        return
    model, counts = by_model.popitem()
    offer = next((each for each in service.offers if pools[each.pool].gpu.name == model), None)
    if offer is None or counts.keys() - set(offer.problem.profiles):
        yield Violation(f"service {name}", f"a slice of {model} cannot run it")
        return
    takes = dict(zip(offer.problem.profiles, offer.takes, strict=True))
    for _, profile, batch in sorted(batches):
        if batch != takes[profile][0]:
            yield Violation(
                f"service {name}", f"{profile} takes {takes[profile][0]} items in time, not {batch}"
            )
    problem = offer.problem.with_gpus(gpus[model])
    at = np.array([counts[profile] for profile in problem.profiles])
    for what in _rate_faults(problem, at, capacity / service.items):
        yield Violation(f"service {name}", what)


def _rate_faults(problem: ServingProblem, counts: NDArray[np.int64], rate: float) -> Iterator[str]:
    bound = most_queries(problem, counts)
    if rate > bound * (1 + 1e-6):
        yield f"capacity of {rate:g} queries/s, and in the long run no router holds more than {bound:g} on its cut"
        return
    serve = ROUTER.on(problem, counts)
    runs = list(_traffic(problem, rate))
    found = [(each, serve(each)) for each in runs]
    for traffic, outcome in found:
        if why := schedule_fault(problem, counts, traffic, outcome):
            yield why
            return
    may_miss = 1 - problem.quantile
    for least, most in pairwise([0, *(problem.classes or (len(problem.share),))]):
        late, asked = _late(problem.deadline, found, least + 1, most)
        # Of few queries, chance alone misses more.
        chance = STANDARD_ERRORS * (problem.quantile * may_miss / max(asked, 1)) ** 0.5
        if late > may_miss * (1 + TOLERANCE) * asked + chance * asked * bool(problem.classes):
            which = f"the queries of {least + 1} to {most} items" if problem.classes else "the queries"
            yield f"at its capacity {late / asked:.2%} of {which} are late or refused, {may_miss:.2%} may be"


def _late(
    deadline: float, found: Sequence[tuple[Traffic, ServingOutcome]], least: int, most: int
) -> tuple[int, int]:
    """Return how many queries of these batch sizes were late or refused, and how many came, without the warm-up."""
    late = asked = 0
    for traffic, outcome in found:
        warm = len(traffic) // 10
        own = (traffic.batch[warm:] >= least) & (traffic.batch[warm:] <= most)
        late += int(np.count_nonzero(own & ~(outcome.latency[warm:] <= deadline + TICK)))
        asked += int(np.count_nonzero(own))
    return late, asked


def most_queries(problem: ServingProblem, counts: NDArray[np.int64]) -> float:
    """Return the queries/s beyond which no router answers the required share in time in the long run.

    Queries are divisible flows to the sizes, each instance has one second per second, and the rest is refused: a
    linear program, which shares no code with the planners. Where each class of batch sizes must keep the quantile,
    each has a row of its own.

    Args:
        problem: latencies of batch sizes on sizes, shares, the deadline and the share to be in time.
        counts: instances of each size, shape (K,).
    """
    solver = new_solver()
    solver.setOptionValue("output_flag", False)
    rate = solver.addVariable(lb=0)
    busy: list[list[Any]] = [[] for _ in counts]
    ends = problem.classes or (len(problem.share),)
    answered: list[list[Any]] = [[] for _ in ends]
    asked = [0.0 for _ in ends]
    for b, share in enumerate(problem.share):
        flows = []
        own = next((at for at, end in enumerate(ends) if b < end), len(ends) - 1)
        asked[own] += float(share)
        for k, seconds in enumerate(problem.latency[:, b]):
            if share > 0 and counts[k] and seconds <= problem.deadline:
                flow = solver.addVariable(lb=0)
                flows.append(flow)
                busy[k].append(float(seconds) * flow)
        if flows:
            solver.addConstr(solver.qsum(flows) <= float(share) * rate)
            answered[own] += flows
    if any(part > 0 and not flows for part, flows in zip(asked, answered, strict=True)):
        return 0.0
    for k, seconds in enumerate(busy):
        if seconds:
            solver.addConstr(solver.qsum(seconds) <= float(counts[k]))
    for part, flows in zip(asked, answered, strict=True):
        if part > 0:
            solver.addConstr(solver.qsum(flows) >= problem.quantile * part * rate)
    solver.maximize(rate)
    return float(solver.variableValue(rate))


def _traffic(problem: ServingProblem, rate: float) -> Iterator[Traffic]:
    """Yield traffic that comes as the service says and that no planner uses, long enough for queues to build up."""
    queries = max(QUERIES, 100 * problem.gpus * problem.gpu.compute_slices)
    for run in range(RUNS):
        rng = np.random.default_rng((SEED, run))
        yield unit_queries(problem.arrivals, problem.share, queries, rng).faster(rate)


def schedule_fault(
    problem: ServingProblem, counts: NDArray[np.int64], traffic: Traffic, outcome: ServingOutcome
) -> str | None:
    """Return why an outcome is impossible, None if it is not: queries run one at a time, none before its arrival.

    Args:
        problem: latencies of batch sizes on sizes.
        counts: instances of each size, shape (K,), numbered size after size.
        traffic: the queries.
        outcome: who answered which, and when.
    """
    size_of = np.repeat(np.arange(len(counts)), counts)
    answered = np.flatnonzero(outcome.instance != REFUSED)
    by = outcome.instance[answered]
    own = problem.latency[size_of[by], traffic.batch[answered] - 1]
    end = traffic.arrival[answered] + outcome.latency[answered]
    start = end - own
    if not np.isfinite(own).all() or (start < traffic.arrival[answered] - TICK * (1 + end)).any():
        return "a query is answered by a size that cannot, or before it has arrived"
    order = np.lexsort((start, by))
    same = by[order][1:] == by[order][:-1]
    overlap = end[order][:-1] - start[order][1:] > TICK * (1 + end[order][1:])
    return "an instance runs two queries at once" if (same & overlap).any() else None
