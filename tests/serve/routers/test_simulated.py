from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.problems import problem, random_problems, sublinear, traffic
from tests.serve.reference import (
    KairosReference,
    LateBindingReference,
    bound_on_arrival,
    elsa,
    sizes_of,
)

from partita.serve.fluid import fluid_rate, second_prices
from partita.serve.problem import REFUSED, TICK, ServingOutcome, SimulatedRouter
from partita.serve.routers.bound import Elsa, Price, RefusingElsa
from partita.serve.routers.fifs import Fifs, RefusingFifs
from partita.serve.routers.kairos import Kairos, match, relative_speed
from partita.serve.routers.late_binding import LateBinding, cheapest, comes, lead_of, misses
from partita.serve.simulation import unit_traffic
from partita.sim.traffic import Traffic

if TYPE_CHECKING:
    from partita.serve.problem import ServingProblem

ROUTERS: list[SimulatedRouter] = [Elsa, RefusingElsa, Fifs, RefusingFifs, Price, LateBinding, Kairos()]
COUNTS = np.array([3, 1, 1])


def same(one: ServingOutcome, other: ServingOutcome) -> None:
    np.testing.assert_array_equal(one.instance, other.instance)
    np.testing.assert_array_equal(one.latency, other.latency)


def busy(given_: ServingProblem, counts: np.ndarray, queries: int, load: float, seed: int) -> Traffic:
    bound = fluid_rate(given_, counts, served=1.0).rate
    return unit_traffic(given_, queries, seed).faster(load * bound)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_late_binding_does_what_its_reference_does(data: st.DataObject) -> None:
    found, counts = data.draw(random_problems())
    queries = data.draw(traffic(found.latency.shape[1]))
    same(LateBinding.on(found, counts)(queries), LateBindingReference(found, counts).run(queries))


@pytest.mark.parametrize("load", [0.95, 1.3, 3.0])
@pytest.mark.parametrize("instances", [1, 3])
def test_late_binding_for_the_mix_takes_queries_in_their_order_where_all_instances_are_alike(
    instances: int, load: float
) -> None:
    found, counts = sublinear(), np.array([0, 0, instances])
    queries = busy(found, counts, 3_000, load, 4)
    one, other = LateBinding.on(found, counts)(queries), RefusingFifs.on(found, counts)(queries)
    np.testing.assert_allclose(one.latency, other.latency, rtol=1e-9)


@pytest.mark.parametrize("load", [0.5, 0.95, 1.3])
def test_late_binding_does_what_its_reference_does_under_load(load: float) -> None:
    found = sublinear()
    queries = busy(found, COUNTS, 3_000, load, 1)
    same(LateBinding.on(found, COUNTS)(queries), LateBindingReference(found, COUNTS).run(queries))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_kairos_does_what_its_reference_does(data: st.DataObject) -> None:
    found, counts = data.draw(random_problems())
    queries = data.draw(traffic(found.latency.shape[1]))
    window = data.draw(st.integers(1, 5))
    same(Kairos(window).on(found, counts)(queries), KairosReference(found, counts, window).run(queries))


@pytest.mark.parametrize("load", [0.5, 0.95, 1.3])
def test_kairos_does_what_its_reference_does_under_load(load: float) -> None:
    found = sublinear()
    queries = busy(found, COUNTS, 1_000, load, 1)
    same(Kairos().on(found, COUNTS)(queries), KairosReference(found, COUNTS).run(queries))


def test_kairos_does_what_its_reference_does_where_queries_end_together() -> None:
    found = problem([[1.0, 2.0], [1.0, 1.0], [0.5, 1.0]], [0.5, 0.5], 3.0)
    rng = np.random.default_rng(3)
    queries = Traffic(np.sort(rng.integers(0, 200, 600) / 2), rng.integers(1, 3, 600))
    same(Kairos().on(found, COUNTS)(queries), KairosReference(found, COUNTS).run(queries))


@given(st.integers(1, 4), st.integers(0, 2), st.data())
def test_a_matching_costs_least_of_all(rows: int, more: int, data: st.DataObject) -> None:
    columns = rows + more
    entry = st.one_of(st.integers(0, 3).map(float), st.floats(0.0, 10.0))
    cost = np.array([[data.draw(entry) for _ in range(columns)] for _ in range(rows)])
    chosen = match(cost)
    assert len(set(chosen.tolist())) == rows
    best = min(sum(cost[r, c] for r, c in enumerate(each)) for each in permutations(range(columns), rows))
    assert sum(cost[r, c] for r, c in enumerate(chosen)) == pytest.approx(best)


def test_a_matching_costs_least_of_all_where_its_paths_are_long() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        rows = int(rng.integers(2, 6))
        columns = int(rng.integers(rows, 6))
        cost = rng.integers(0, 12, (rows, columns)).astype(float)
        chosen = match(cost)
        assert sorted(set(chosen.tolist())) == sorted(chosen.tolist())
        best = min(sum(cost[r, c] for r, c in enumerate(each)) for each in permutations(range(columns), rows))
        assert sum(cost[r, c] for r, c in enumerate(chosen)) == best


@pytest.mark.parametrize("seed", range(8))
def test_late_binding_and_kairos_do_what_their_references_do_on_slices_of_any_speed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = problem(rng.uniform(0.1, 3.0, (3, 4)).tolist(), [0.25] * 4, float(rng.uniform(2.0, 4.0)))
    queries = busy(found, COUNTS, 300, float(rng.uniform(0.9, 1.6)), seed)
    same(LateBinding.on(found, COUNTS)(queries), LateBindingReference(found, COUNTS).run(queries))
    same(Kairos(3).on(found, COUNTS)(queries), KairosReference(found, COUNTS, 3).run(queries))


def waiting_to_the_last() -> tuple[ServingProblem, Traffic]:
    """The second query starts when the first is done, and its answer is then in time to the last bit."""
    found = problem([[1.0, 0.5]] * 3, [0.5, 0.5], 1.0)
    second = 0.4999999989999999
    assert second + (found.deadline + TICK) - 1.0 == 0.5
    return found, Traffic(np.array([0.0, second]), np.array([1, 2]))


@pytest.mark.parametrize("router", [LateBinding, Kairos()], ids=["late-binding", "kairos"])
def test_a_query_waits_to_the_last_moment_at_which_its_answer_is_in_time(router: SimulatedRouter) -> None:
    found, queries = waiting_to_the_last()
    seen = router.on(found, np.array([1, 0, 0]))(queries)
    assert seen.instance.tolist() == [0, 0]
    assert seen.latency[1] == pytest.approx(1.0)


def test_a_size_is_as_much_faster_as_it_is_at_the_largest_batch_that_all_present_run() -> None:
    found = problem([[1.0, 4.0, np.inf], [0.5, 1.0, 3.0], [0.25, np.inf, np.inf]], [0.5, 0.3, 0.2], 9.0)
    assert relative_speed(found, np.array([1, 1, 0])).tolist() == [1.0, 4.0, 0.0]
    assert relative_speed(found, np.array([1, 1, 1])).tolist() == [1.0, 2.0, 4.0]
    unlike = problem([[1.0, np.inf], [np.inf, 1.0], [1.0, 1.0]], [0.5, 0.5], 9.0)
    assert relative_speed(unlike, np.array([1, 1, 0])).tolist() == [1.0, 1.0, 1.0]


def test_kairos_leaves_the_slice_on_which_a_query_is_just_in_time_to_that_query() -> None:
    _, queries = waiting_to_the_last()
    found = problem([[1.0, 0.5], [1.0, 0.6], [1.0, 1.0]], [0.5, 0.5], 1.0)
    just = float(queries.arrival[1])
    seen = Kairos().on(found, np.array([1, 1, 0]))(
        Traffic(np.array([0.0, 0.0, just, 0.6]), np.array([1, 1, 2, 2]))
    )
    assert seen.instance.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("router", [LateBinding, Kairos()], ids=["late-binding", "kairos"])
def test_a_size_without_an_instance_keeps_no_query_waiting(router: SimulatedRouter) -> None:
    found = problem([[1.0], [0.1], [0.1]], [1.0], 1.5)
    queries = Traffic(np.array([0.0, 0.1, 0.6]), np.array([1, 1, 1]))
    assert router.on(found, np.array([1, 0, 0]))(queries).instance.tolist() == [0, REFUSED, 0]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_elsa_does_what_its_reference_does(data: st.DataObject) -> None:
    found, counts = data.draw(random_problems())
    queries = data.draw(traffic(found.latency.shape[1]))
    same(Elsa.on(found, counts)(queries), bound_on_arrival(found, counts, queries, elsa(found.deadline)))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_price_does_what_its_reference_does(data: st.DataObject) -> None:
    found, counts = data.draw(random_problems())
    queries = data.draw(traffic(found.latency.shape[1]))
    prices = second_prices(found, counts)

    def choose(waits: list[float], latency: list[float], ends: list[float]) -> int | None:
        del ends
        sizes = sizes_of(counts)
        options = [
            (prices[sizes[p]] * latency[p], waits[p], p)
            for p in range(len(sizes))
            if waits[p] + latency[p] <= found.deadline + TICK
        ]
        return min(options)[2] if options else None

    other = bound_on_arrival(found, counts, queries, choose)
    mine = Price.on(found, counts)(queries)
    np.testing.assert_array_equal(mine.instance, other.instance)
    np.testing.assert_allclose(mine.latency, other.latency)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_elsa_that_refuses_does_what_its_reference_does(data: st.DataObject) -> None:
    found, counts = data.draw(random_problems())
    queries = data.draw(traffic(found.latency.shape[1]))

    def choose(waits: list[float], latency: list[float], ends: list[float]) -> int | None:
        del ends
        in_time = (p for p, wait in enumerate(waits) if wait + latency[p] <= found.deadline + TICK)
        return next(in_time, None)

    same(RefusingElsa.on(found, counts)(queries), bound_on_arrival(found, counts, queries, choose))


def test_first_idle_that_refuses_keeps_no_slice_for_what_is_hopeless() -> None:
    found = problem([[1.0], [1.0], [1.0]], [1.0], 2.0)
    queries = Traffic(np.array([0.0, 0.1, 0.2, 0.3]), np.array([1, 1, 1, 1]))
    counts = np.array([1, 0, 0])
    assert Fifs.on(found, counts)(queries).latency == pytest.approx([1.0, 1.9, 2.8, 3.7])
    assert RefusingFifs.on(found, counts)(queries).latency == pytest.approx([1.0, 1.9, np.inf, np.inf])


def test_late_binding_serves_all_classes_alike_where_the_mix_lets_the_largest_go() -> None:
    found = replace(sublinear(gpus=3), quantile=0.9)
    counts = np.array([0, 2, 2])
    queries = busy(found, counts, 20_000, 0.8, 5)
    parts = []
    for classes in ((), (2, 4, 8)):
        given_ = replace(found, classes=classes)
        judged = replace(found, classes=(2, 4, 8))
        in_time, asked = LateBinding.on(given_, counts)(queries).by_class(judged, queries)
        parts.append(in_time / asked)
    mix, fair = parts
    assert mix[-1] < 0.9 * mix[0]
    assert fair.min() > mix.min()
    assert fair.max() - fair.min() < 0.05


def test_a_query_of_a_class_that_is_well_off_leaves_a_dear_slice_to_the_others() -> None:
    seconds, extra, idle = [1.0, 0.5], [0.0, 1.0], [0, 1]
    asked = (range(2), 9.0, 0.5)
    score, size = cheapest(seconds, extra, idle, *asked, 3.9, math.inf)
    assert (score, size) == (1.5 + 0.2 * 3.9, 1)
    assert cheapest(seconds, extra, idle, *asked, 4.1, math.inf) == (math.inf, -1)
    assert cheapest(seconds, extra, [1, 0], *asked, 90.0, math.inf)[1] == 0


def test_an_account_forgets_and_has_ends() -> None:
    account = [0.0, 0.0]
    for _ in range(300):
        misses(account, 1)
    assert account == [0.0, 100.0]
    assert (lead_of(account, 0), lead_of(account, 1)) == (100.0, 0.0)
    comes(account, 1, 0.5)
    assert account[1] == pytest.approx(100.0 * (1 - 2e-5) - 0.5)
    for _ in range(200_000):
        comes(account, 0, 0.5)
    assert account[0] == 0.0
    assert account[1] < 2.0


def test_first_idle_is_first_served_in_order_of_arrival() -> None:
    found = problem([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], [0.5, 0.5], 9.0)
    queries = Traffic(np.array([0.0, 0.5, 0.6, 0.7]), np.array([2, 1, 1, 1]))
    seen = Fifs.on(found, np.array([2, 0, 0]))(queries)
    assert seen.instance.tolist() == [0, 1, 1, 0]
    assert seen.latency == pytest.approx([2.0, 1.0, 1.9, 2.3])


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: type(router).__name__)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_an_instance_runs_one_query_at_a_time_each_for_its_latency(
    router: SimulatedRouter, data: st.DataObject
) -> None:
    found, counts = data.draw(random_problems())
    queries = data.draw(traffic(found.latency.shape[1]))
    seen = router.on(found, counts)(queries)
    sizes = sizes_of(counts)
    assert np.array_equal(np.isinf(seen.latency), seen.instance == REFUSED)
    for instance in range(len(sizes)):
        own = np.flatnonzero(seen.instance == instance)
        latency = found.latency[sizes[instance], queries.batch[own] - 1]
        end = queries.arrival[own] + seen.latency[own]
        begin = end - latency
        assert (begin >= queries.arrival[own] - 1e-9).all()
        order = np.argsort(end)
        assert (begin[order][1:] >= end[order][:-1] - 1e-9).all()


@pytest.mark.parametrize("router", [Price, LateBinding], ids=lambda router: type(router).__name__)
def test_what_is_answered_is_in_time_however_much_comes(router: SimulatedRouter) -> None:
    found = sublinear()
    seen = router.on(found, COUNTS)(busy(found, COUNTS, 5_000, 4.0, 2))
    answered = seen.latency[seen.instance != REFUSED]
    assert len(answered) > 500
    assert (answered <= found.deadline + 2 * TICK).all()


def test_no_slice_idles_while_the_oldest_query_of_a_batch_size_waits_that_it_could_answer() -> None:
    found = sublinear()
    queries = busy(found, COUNTS, 2_000, 1.1, 3)
    seen = LateBinding.on(found, COUNTS)(queries)
    sizes = np.array(sizes_of(COUNTS))
    end = np.where(seen.instance != REFUSED, queries.arrival + seen.latency, np.nan)
    begin = end - found.latency[sizes[seen.instance], queries.batch - 1]
    last = queries.arrival + found.deadline - found.latency.min(axis=0)[queries.batch - 1]
    # One that is refused stands in the queue until the next arrival or end.
    gone = np.where(np.isnan(begin), last + found.deadline, begin)
    looked = 0
    for query in np.flatnonzero(begin > queries.arrival + 1e-6):
        moment = (queries.arrival[query] + begin[query]) / 2
        before = (queries.batch[:query] == queries.batch[query]) & (gone[:query] >= moment)
        if before.any():
            continue
        running = {int(seen.instance[q]) for q in np.flatnonzero((begin <= moment) & (moment < end))}
        for idle in set(range(len(sizes))) - running:
            looked += 1
            latency = found.latency[sizes[idle], queries.batch[query] - 1]
            assert moment + latency > queries.arrival[query] + found.deadline
    assert looked > 10


def test_late_binding_answers_queries_of_one_batch_size_in_order() -> None:
    found = sublinear()
    queries = busy(found, COUNTS, 3_000, 1.2, 4)
    seen = LateBinding.on(found, COUNTS)(queries)
    sizes = np.array(sizes_of(COUNTS))
    for batch in range(1, 9):
        own = np.flatnonzero((queries.batch == batch) & (seen.instance != REFUSED))
        begin = queries.arrival[own] + seen.latency[own] - found.latency[sizes[seen.instance[own]], batch - 1]
        assert (np.diff(begin) >= -1e-9).all()


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: type(router).__name__)
def test_what_no_slice_can_run_is_refused_and_stops_nothing(router: SimulatedRouter) -> None:
    found = problem([[1.0, np.inf]] * 3, [0.96, 0.04], 5.0)
    queries = Traffic(np.array([0.0, 0.1, 0.2]), np.array([1, 2, 1]))
    seen = router.on(found, np.array([1, 0, 0]))(queries)
    assert seen.instance.tolist() == [0, REFUSED, 0]
    assert seen.latency[2] == pytest.approx(1.8)
