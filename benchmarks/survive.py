"""Plans that survive losses: GPUs more than without, the gap that is left, and the seconds."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.report import table
from benchmarks.scale import random_problem
from partita.deadline import Deadline
from partita.planning.exact import ExactPlanner
from partita.planning.problem import Problem, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.planning.plan import Plan

SERVICES = 300
SECONDS = 30.0
SEEDS = (1, 2, 3)
PER_NODE = 8


def run(*, quick: bool) -> str:
    """Return the table."""
    ExactPlanner().plan(
        _surviving(random_problem(20, 0), "node")
    )  # compiles, as the first plan on a machine does
    services, seeds = (30, SEEDS[:1]) if quick else (SERVICES, SEEDS)
    rows: list[list[object]] = []
    for seed in seeds:
        problem = random_problem(services, seed)
        without = _planned(problem, seed)
        node = _surviving(problem, "node")
        on_nodes = _planned(node, seed)
        count = math.ceil(len(on_nodes.gpus) * 1.02 / PER_NODE) * PER_NODE
        counted = replace(node, pools=(replace(problem.pools[0], count=count),))
        rows.append(_row(seed, "a node", node, without, on_nodes))
        rows.append(_row(seed, f"a node, {count:,} GPUs", counted, without, _planned(counted, seed)))
        for what, asked in _others(problem) if seed == SEEDS[0] else ():
            rows.append(_row(seed, what, asked, without, _planned(asked, seed)))
    header = [
        "seed", "survives", "GPUs without", "GPUs", "proven bound", "gap", "more", "seconds", "nodes",
        "least left of what must be left",
    ]  # fmt: skip
    return (
        "## Losses survived\n\n"
        f"{services} random services of ParvaGPU's table, as in [planning at scale](#planning-at-scale), each of "
        f"which survives the loss; nodes of {PER_NODE} GPUs. A pool with a count has the GPUs of the plan without a "
        "count and 2 % more, in whole nodes. Zones are three pools alike. The time limit is "
        f"{SECONDS:g} s, after which a first plan is finished. The last column takes away each GPU, node or zone in "
        "turn and adds up the instances that are left: the least share of what must be left, over all services and "
        f"losses.\n\n{table(header, rows)}"
    )


def _planned(problem: Problem, seed: int) -> Plan:
    return ExactPlanner(seed=seed, deadline=Deadline(SECONDS)).plan(problem)


def _row(seed: int, what: str, asked: Problem, without: Plan, plan: Plan) -> list[object]:
    more = plan.objective.value - without.objective.value
    return [
        seed,
        what,
        int(without.objective.value),
        int(plan.objective.value),
        int(plan.objective.lower_bound),
        f"{plan.objective.gap:.3%}",
        f"{more:.0f} ({more / without.objective.value:.1%})",
        plan.solver.seconds,
        len({gpu.id.partition("/")[0] for gpu in plan.gpus}),
        worst(plan, asked),
    ]


def _others(problem: Problem) -> Iterator[tuple[str, Problem]]:
    yield "a node, 0.8 of the rate", _surviving(problem, "node", 0.8)
    yield "a GPU", _surviving(problem, "gpu")
    yield "one of three zones", _in_zones(problem)


def _surviving(problem: Problem, level: Any, share: float = 1.0) -> Problem:  # noqa: ANN401 -- a level
    return problem.with_services(
        tuple(replace(each, survive=level, survive_share=share) for each in problem.services)
    )


def _in_zones(problem: Problem) -> Problem:
    pools = tuple(replace(problem.pools[0], name=zone, zone=zone) for zone in ("a", "b", "c"))
    sizes = tuple(Size(i, size.profile) for i in range(len(pools)) for size in problem.sizes)
    services = tuple(
        replace(each, points=each.points * len(pools), survive="zone") for each in problem.services
    )
    return Problem(pools, services, sizes)


def worst(plan: Plan, problem: Problem) -> float:
    """Return the least share of what must be left that any loss leaves, over all services."""
    levels = {each.name: each.survive for each in problem.services}
    held: defaultdict[tuple[str, str], float] = defaultdict(float)
    total: defaultdict[str, float] = defaultdict(float)
    for gpu in plan.gpus:
        domains = {"gpu": gpu.id, "node": gpu.id.partition("/")[0], "zone": gpu.pool}
        for each in gpu.instances:
            total[each.service] += each.point.throughput
            held[each.service, domains[levels[each.service] or "gpu"]] += each.point.throughput
    least = {each.name: each.survivor_rate for each in problem.services}
    return min((total[name] - lost) / least[name] for (name, _), lost in held.items())
