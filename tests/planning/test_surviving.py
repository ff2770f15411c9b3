"""Services that survive the loss of a GPU, node, rack or zone, against every plan that there is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.losses import least_objective, losses
from tests.planning.problems import A30, service
from tests.planning.rightness import assert_right

from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.planning.exact import ExactPlanner
from partita.planning.problem import Pool, Problem, Size

if TYPE_CHECKING:
    from partita.planning.problem import ObjectiveName


@st.composite
def tiny_problems(draw: st.DrawFn) -> Problem:
    """One or two services on a handful of A30s in nodes, racks, zones and spot pools."""
    pools = [
        Pool(
            f"p{index}",
            A30,
            draw(st.sampled_from([2, 3, 4, None])),
            draw(st.integers(1, 2)),
            float(draw(st.sampled_from([1, 1, 2]))),
            nodes_per_rack=draw(st.integers(1, 2)),
            zone=draw(st.sampled_from(["a", "b"])),
            spot=draw(st.sampled_from([False, False, True])),
        )
        for index in range(draw(st.integers(1, 2)))
    ]
    pools = [replace(pool, nodes_per_rack=None) if pool.count is None else pool for pool in pools]
    racks = ["rack"] if all(pool.count for pool in pools) else []
    levels: list[Any] = ["gpu", "node", "zone", None, *racks]
    sizes = tuple(Size(i, p.name) for i, pool in enumerate(pools) for p in pool.gpu.profiles)
    made = []
    for index in range(draw(st.integers(1, 2))):
        profiles = draw(st.sets(st.sampled_from([p.name for p in A30.profiles]), min_size=1))
        throughput = {name: float(draw(st.integers(1, 6))) for name in sorted(profiles)}
        made.append(
            service(
                f"s{index}",
                float(draw(st.integers(1, 8))),
                sizes,
                throughput,
                survive=draw(st.sampled_from(levels)),
                survive_share=draw(st.sampled_from([1.0, 1.0, 0.5])),
                spot=draw(st.sampled_from([1.0, 0.5])),
            )
        )
    objective: ObjectiveName = draw(st.sampled_from(["gpus", "cost"]))
    return Problem(tuple(pools), tuple(made), sizes, objective)


@given(tiny_problems())
@settings(max_examples=60)
def test_the_plan_is_proven_best_wherever_there_is_one(asked: Problem) -> None:
    least = least_objective(asked)
    if least is None:
        with pytest.raises(InfeasibleError):
            ExactPlanner(deadline=Deadline(60.0)).plan(asked)
        return
    plan = ExactPlanner(deadline=Deadline(60.0)).plan(asked)
    assert_right(plan, asked)
    assert losses(plan, asked) == []
    assert plan.objective.value == pytest.approx(least)
    assert plan.objective.proven
