"""Services that survive the loss of a GPU, node, rack or zone, against every plan that there is."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.losses import least_objective, losses
from tests.planning.problems import A30, A100, problem, service
from tests.planning.rightness import assert_right

from partita.deadline import Deadline
from partita.errors import InfeasibleError, PartitaError
from partita.planning.exact import ExactPlanner, compile_for
from partita.planning.pricing import cheapest_covers_on_parts, cheapest_surviving_covers
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
            draw(st.sampled_from([2, 3, None])),
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
        throughput = {name: float(draw(st.integers(1, 4))) for name in sorted(profiles)}
        made.append(
            service(
                f"s{index}",
                float(draw(st.integers(1, 5))),
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
@settings(max_examples=20)
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


@given(st.data())
@settings(max_examples=40)
def test_no_cover_that_survives_is_cheaper(data: st.DataObject) -> None:
    sizes = data.draw(st.integers(1, 3))
    whole = st.lists(st.integers(0, 6), min_size=sizes, max_size=sizes)
    throughput = np.array(data.draw(whole), dtype=float)
    throughput[0] += 1
    cost = np.array([data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.7])) for _ in range(sizes)])
    rate, replicas = float(data.draw(st.integers(1, 9))), data.draw(st.integers(1, 3))
    left = float(data.draw(st.integers(0, 9)))
    parts = data.draw(st.lists(st.lists(st.booleans(), min_size=sizes, max_size=sizes), max_size=2))
    rates = np.array([float(data.draw(st.integers(1, 6))) for _ in parts])
    masks = np.array(parts, dtype=np.bool_).reshape(len(parts), sizes)
    found = np.zeros((1, sizes), dtype=np.int32)
    asked = cost[None, :], throughput[None, :], np.array([rate]), np.array([replicas]), np.array([left])
    if left and not parts:
        bound = cheapest_surviving_covers(*asked, found)[0]
    else:
        bound = cheapest_covers_on_parts(*asked, np.array([0, len(parts)]), masks, rates, found)[0]

    def enough(counts: np.ndarray) -> Any:
        """Say of each of N ways, shape (K, N), whether it is a cover."""
        held = throughput[:, None] * counts
        lost = np.where(counts > 0, throughput[:, None], 0.0).max(axis=0)
        good = (held.sum(axis=0) >= rate) & (counts.sum(axis=0) >= replicas)
        if left:
            good &= held.sum(axis=0) - lost >= left
        for mask, part in zip(masks, rates, strict=True):
            good &= held[mask].sum(axis=0) >= part
        return good

    every = np.indices([17 if t else 1 for t in throughput]).reshape(sizes, -1)
    good = enough(every)
    least = float((cost @ every)[good].min()) if good.any() else np.inf
    assert bound == pytest.approx(least)
    if np.isfinite(least):
        assert enough(found.T.astype(np.int64)).all()
        assert float(found[0] @ cost) == pytest.approx(least)


def many(count: int | None, seed: int, level: str, *more_pools: Pool, **more: Any) -> Problem:
    """Forty services on A100s, of a tenth to a few GPUs each: too many for the compact program alone."""
    rng = np.random.default_rng(seed)
    pools = [Pool("a", A100, count, 4, zone="a"), Pool("b", A100, count, 4, zone="b"), *more_pools]
    sizes = tuple(Size(i, p.name) for i, pool in enumerate(pools) for p in pool.gpu.profiles)
    made = []
    for index in range(40):
        whole = float(rng.uniform(50, 200))
        runs = {p.name: whole * p.compute / 7 * float(rng.uniform(0.8, 1.2)) for p in A100.profiles}
        made.append(
            service(f"s{index}", whole * float(rng.lognormal(-1, 1)), sizes, runs, survive=level, **more)
        )
    return Problem(tuple(pools), tuple(made), sizes)


@pytest.mark.parametrize(
    ("count", "level", "more"),
    [
        (None, "node", {}),
        (40, "node", {"survive_share": 0.8}),
        (40, "gpu", {}),
        (None, "zone", {"survive_share": 0.7}),
    ],
)
def test_plans_of_many_services_survive_every_loss(
    count: int | None, level: str, more: dict[str, Any]
) -> None:
    asked = many(count, 1, level, **more)
    compile_for(asked)  # takes seconds where nothing has been compiled yet
    # Seconds of computing, of which a busy machine gives as many, only later.
    begin = time.process_time()
    deadline = Deadline(60.0, stop=lambda: time.process_time() > begin + 1.5)
    plan = ExactPlanner(deadline=deadline).plan(asked)
    assert_right(plan, asked)
    assert losses(plan, asked) == []
    assert plan.objective.gap < 0.05
    assert plan.objective.value >= ExactPlanner().plan(asked.without_losses()).objective.lower_bound


@given(tiny_problems())
@settings(max_examples=20)
def test_a_plan_made_when_time_is_over_survives_too(asked: Problem) -> None:
    try:
        plan = ExactPlanner(deadline=Deadline(0.0)).plan(asked)
    except PartitaError:
        return
    assert_right(plan, asked)
    assert losses(plan, asked) == []


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("more", [{"survive_share": 0.7}, {}, {"spot": 0.3, "survive_share": 0.5}])
def test_plans_of_many_services_made_when_time_is_over_survive_too(seed: int, more: dict[str, Any]) -> None:
    """A greedy pass makes them, which knows zones and spot pools no more than the paper does."""
    spot = Pool("c", A100, None, 4, cost=0.5, zone="a", spot=True)
    asked = many(None, seed, "zone", *([spot] if "spot" in more else []), **more)
    plan = ExactPlanner(deadline=Deadline(0.0)).plan(asked)
    assert_right(plan, asked)
    assert losses(plan, asked) == []


@pytest.mark.parametrize("level", ["gpu", "node"])
def test_services_that_are_spread_stand_beside_those_that_survive_losses(level: str) -> None:
    asked = many(None, 1, level)
    kinds: list[dict[str, Any]] = [{}, {"spread": 2, "survive": None}, {"spread": 3}]
    asked = asked.with_services(tuple(replace(each, **kinds[s % 3]) for s, each in enumerate(asked.services)))
    plan = ExactPlanner(deadline=Deadline(0.0)).plan(asked)  # no program with nodes is solved
    assert_right(plan, asked)
    assert losses(plan, asked) == []


@pytest.mark.parametrize("level", ["gpu", "node", "rack"])
def test_pools_of_unlike_counts_and_racks_survive_with_the_fewest_gpus(level: str) -> None:
    """Totals whose share per instance is a billionth from whole once made HiGHS prove that there is no plan."""
    for counts, racks in itertools.product(
        [(1, 2), (2, 1), (2, 2), (3, 2)], [(1, 1), (1, 2), (2, 1), (2, 2)]
    ):
        pools = [
            Pool(f"p{i}", A30, n, 1, nodes_per_rack=per_rack, zone="a")
            for i, (n, per_rack) in enumerate(zip(counts, racks, strict=True))
        ]
        sizes = tuple(Size(i, p.name) for i in range(2) for p in A30.profiles)
        asked = Problem(tuple(pools), (service("s", 2.0, sizes, {"1g.6gb": 3.0}, survive=level),), sizes)
        assert ExactPlanner().plan(asked).objective.value == least_objective(asked) == 2


RUNS = {"a": (4.0, {"1g.6gb": 1.0})}


def surviving(pools: list[Pool], level: Any, **more: Any) -> Problem:
    asked = problem(pools, RUNS)
    return asked.with_services(tuple(replace(each, survive=level, **more) for each in asked.services))


def test_one_node_cannot_be_lost() -> None:
    with pytest.raises(
        InfeasibleError, match="a must survive the loss of a node, and only one can run it"
    ) as told:
        ExactPlanner().plan(surviving([Pool("p", A30, 8, 8)], "node"))
    assert told.value.exit_code == 4
    assert told.value.hint == "add a node, or write survive: none"


def test_a_service_that_may_not_depend_on_spot_gpus_cannot_run_on_those_alone() -> None:
    asked = problem([Pool("p", A30, None, spot=True)], RUNS)
    asked = asked.with_services(tuple(replace(each, spot=0.5) for each in asked.services))
    with pytest.raises(
        InfeasibleError, match="a may have 50% of its rate on spot GPUs, and only those can run"
    ):
        ExactPlanner(deadline=Deadline(0.0)).plan(asked)


def test_one_zone_cannot_be_lost() -> None:
    pools = [Pool("p", A30, None, 8, zone="z"), Pool("q", A30, None, 8, zone="z")]
    with pytest.raises(InfeasibleError, match="a must survive the loss of a zone, and only one can run it"):
        ExactPlanner().plan(surviving(pools, "zone"))


def test_too_few_nodes_for_what_must_be_left_is_proven() -> None:
    """Two nodes of one GPU: without either, four items/s must be left, and one GPU holds four; five are too many."""
    asked = surviving([Pool("p", A30, 2, 1)], "node")
    assert ExactPlanner().plan(asked).objective.value == 2
    more = asked.with_services((replace(asked.services[0], rate=5.0),))
    with pytest.raises(InfeasibleError):
        ExactPlanner().plan(more)
    less = more.with_services((replace(more.services[0], survive_share=0.8),))
    assert ExactPlanner().plan(less).objective.value == 2


def test_nodes_of_a_pool_without_a_count_are_as_many_as_needed() -> None:
    plan = ExactPlanner().plan(surviving([Pool("p", A30, None, 8)], "node"))
    assert (plan.objective.value, plan.objective.proven) == (2.0, True)
    assert len({gpu.id.split("/")[0] for gpu in plan.gpus}) == 2


@pytest.mark.parametrize("level", ["gpu", "node"])
def test_services_that_may_not_share_a_gpu_survive_losses_too(level: Any) -> None:
    runs = {"a": (4.0, {"1g.6gb": 1.0}), "b": (3.0, {"2g.12gb": 2.0})}
    asked = replace(problem([Pool("p", A30, 6, 2)], runs), max_services_per_gpu=1)
    asked = asked.with_services(tuple(replace(each, survive=level) for each in asked.services))
    plan = ExactPlanner(deadline=Deadline(20.0)).plan(asked)
    assert_right(plan, asked)
    assert losses(plan, asked) == []
