"""Pools that are alike are one pool to the search, and each keeps to its own count afterwards."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.planning.problems import A30, A100, problem
from tests.planning.rightness import assert_right

from partita.deadline import Deadline
from partita.errors import PartitaError
from partita.planning.exact import ExactPlanner, TooFewGpusError
from partita.planning.problem import Pool, Problem, merge_pools

RUNS = {f"s{i}": (9.0 + i, {p.name: p.compute * (1.0 + i % 3) for p in A30.profiles}) for i in range(5)}


def only_in(asked: Problem, service: int, pool: int) -> Problem:
    points = tuple(
        point if size.pool == pool else None
        for point, size in zip(asked.services[service].points, asked.sizes, strict=True)
    )
    services = list(asked.services)
    services[service] = replace(services[service], points=points)
    return asked.with_services(tuple(services))


def test_pools_of_one_gpu_and_cost_are_joined() -> None:
    pools = [Pool("a", A30, 3), Pool("b", A100, 2), Pool("c", A30, 4), Pool("d", A30, None)]
    merged = merge_pools(problem(pools, RUNS))
    assert merged.members == ((0, 2, 3), (1,))
    assert [pool.count for pool in merged.problem.pools] == [None, 2]
    assert merge_pools(problem(pools[:3], RUNS)).problem.pools[0].count == 7


def test_unlike_costs_matter_only_where_cost_is_minimised() -> None:
    pools = [Pool("a", A30, 3, cost=1.0), Pool("b", A30, 4, cost=2.0)]
    assert len(merge_pools(problem(pools, RUNS)).problem.pools) == 1
    assert len(merge_pools(problem(pools, RUNS, objective="cost")).problem.pools) == 2


def test_pools_that_are_not_open_to_the_same_services_stay_apart() -> None:
    asked = problem([Pool("a", A30, 3), Pool("b", A30, 4)], RUNS)
    assert len(merge_pools(only_in(asked, 2, 1)).problem.pools) == 2


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, None]), st.integers(1, 3)), min_size=2, max_size=5),
    st.sampled_from(["gpus", "cost"]),
    st.sampled_from([None, None, 1, 2]),
    st.sampled_from([1, 1, 2]),
)
def test_every_pool_keeps_to_its_own_count(
    sizes: list[tuple[int | None, int]], objective: str, most: int | None, nodes: int
) -> None:
    pools = [Pool(f"p{i}", A30, count, per_node) for i, (count, per_node) in enumerate(sizes)]
    asked = problem(pools, RUNS, objective=objective, max_services_per_gpu=most)
    asked = asked.with_services((replace(asked.services[0], spread=nodes), *asked.services[1:]))
    # Of few GPUs, services that share none may want more than is found or proven in time.
    refused = TooFewGpusError if most is None and nodes == 1 else PartitaError
    try:
        plan = ExactPlanner(deadline=Deadline(3.0)).plan(asked)
    except refused:
        return
    assert_right(plan, asked)
    used = Counter(gpu.pool for gpu in plan.gpus)
    assert all(pool.count is None or used[pool.name] <= pool.count for pool in pools)


def test_the_error_names_each_pool_that_is_too_small() -> None:
    pools = [Pool("first", A30, 1), Pool("second", A30, 1)]
    with pytest.raises(TooFewGpusError, match="1 first, 1 second cannot meet all services"):
        ExactPlanner().plan(problem(pools, RUNS))
