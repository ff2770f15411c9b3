"""Configurations: how many there are, and whether the best ones found are the best there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.planning.deployments import assert_legal
from tests.planning.problems import A30, A100, problem, problems

from partita.mig.layout import maximal_multisets
from partita.planning.paper.configs import PairSearch, count_configs, packed, top_pairs
from partita.planning.paper.demand import Completion, Demand, gpus_left
from partita.planning.plan import GpuConfig
from partita.planning.problem import Pool, Problem


@pytest.mark.parametrize(("services", "configs"), [(12, 157_830), (13, 234_702)])
def test_there_are_as_many_configurations_as_the_paper_says(services: int, configs: int) -> None:
    multisets = maximal_multisets(A100.forbidding(["4g+3g"]))
    assert len(multisets) == 13
    assert count_configs(multisets, services) == configs


@pytest.mark.parametrize("services", [1, 2, 3])
def test_counting_agrees_with_listing(services: int) -> None:
    listed = set()
    multisets = maximal_multisets(A30)
    for counts in multisets:
        slots = [size for size, n in enumerate(counts) for _ in range(n)]
        for owners in product(range(services), repeat=len(slots)):
            listed.add((counts, tuple(sorted(zip(slots, owners, strict=True)))))
    assert count_configs(multisets, services) == len(listed)


def score(demand: Demand, done: Completion, config: GpuConfig) -> float:
    weight = demand.weight(done)
    total = sum(weight[service, size] for size, service in config.assignment)
    return float(total / demand.problem.gpu_cost(config.pool))


def best_score_by_listing(demand: Demand, done: Completion) -> float:
    """Return the best score of all configurations of at most two services."""
    asked = demand.problem
    most = min(2, asked.max_services_per_gpu or 2)
    best = 0.0
    for cut in asked.cuts:
        slots = [size for size, n in enumerate(cut.counts) for _ in range(n)]
        for owners in product(range(len(asked.services)), repeat=len(slots)):
            if len(set(owners)) <= most:
                config = GpuConfig(cut.pool, tuple(zip(slots, owners, strict=True)))
                best = max(best, score(demand, done, config))
    return best


@st.composite
def on_the_way(draw: st.DrawFn) -> tuple[Demand, Completion]:
    """Services on A30s, each some way on."""
    number = draw(st.integers(1, 4))
    runs = {
        f"s{index}": (
            float(draw(st.integers(1, 25))),
            {p.name: float(draw(st.integers(1, 12))) for p in A30.profiles if draw(st.booleans())},
        )
        for index in range(number)
    }
    shared = draw(st.sampled_from([None, 1, 2]))
    demand = Demand(problem([Pool("a30", A30)], runs, max_services_per_gpu=shared))
    rate = np.array([draw(st.floats(0.0, 1.2)) for _ in range(number)])
    some = np.ones(number, dtype=np.int64)
    return demand, Completion(rate, some, some)


@given(on_the_way())
def test_the_best_pair_is_found_without_listing_all(case: tuple[Demand, Completion]) -> None:
    demand, done = case
    best = PairSearch(demand, done).best(gpus_left(demand.problem, {}))
    assert (score(demand, done, best) if best else 0.0) == pytest.approx(best_score_by_listing(demand, done))


@given(on_the_way(), st.data())
def test_the_best_pair_is_followed_as_services_complete(
    case: tuple[Demand, Completion], data: st.DataObject
) -> None:
    demand, done = case
    search = PairSearch(demand, done)
    services = data.draw(st.sets(st.integers(0, len(done.rate) - 1)))
    rate = done.rate.copy()
    for service in services:
        rate[service] = data.draw(st.floats(0.0, 1.2))
    later = Completion(rate, done.instances, done.gpus)
    search.update(later, services)
    best = search.best(gpus_left(demand.problem, {}))
    assert (score(demand, later, best) if best else 0.0) == pytest.approx(
        best_score_by_listing(demand, later)
    )


@given(on_the_way(), st.integers(1, 12))
def test_the_top_pairs_are_distinct_and_start_with_the_best(
    case: tuple[Demand, Completion], most: int
) -> None:
    demand, done = case
    everyone = np.arange(len(done.rate))
    top = top_pairs(demand, done, gpus_left(demand.problem, {}), everyone, most)
    scores = [score(demand, done, config) for config in top]
    assert len(set(top)) == len(top) <= most
    assert scores == pytest.approx(sorted(scores, reverse=True))
    assert (scores[0] if scores else 0.0) == pytest.approx(best_score_by_listing(demand, done))
    for config in top:
        assert_legal(demand.problem, config)


@given(problems())
def test_packed_configurations_are_legal(asked: Problem) -> None:
    demand = Demand(asked)
    everyone = np.arange(len(asked.services))
    for config in packed(demand, demand.start, gpus_left(asked, {}), everyone):
        assert_legal(asked, config)


def test_a_pool_without_gpus_left_gives_no_configuration() -> None:
    asked = problem([Pool("a30", A30, 2)], {"s": (10.0, {"1g.6gb": 1.0})})
    demand = Demand(asked)
    none = np.zeros(1)
    assert PairSearch(demand, demand.start).best(none) is None
    assert top_pairs(demand, demand.start, none, np.array([0]), 10) == []
    assert packed(demand, demand.start, none, np.array([0])) == []
