from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.serve.dispatching.rehearsal import GOOD, Rehearsal, hello
from tests.serve.live_routers import ROUTERS
from tests.serve.problems import exact_problems, random_problems, traffic

from partita.serve.dispatching.dispatcher import Dispatcher
from partita.serve.dispatching.port import Rules
from partita.serve.dispatching.query import PendingQuery
from partita.serve.dispatching.query import QueryOutcome as Ending
from partita.serve.problem import TICK, ServingProblem
from partita.serve.routers.late_binding import LateBinding
from partita.serve.tensors import Answer
from partita.sim.traffic import Traffic

COUNTS = np.array([3, 2, 1])


def possible(found: ServingProblem, counts: np.ndarray, queries: Traffic) -> Traffic:
    """Leave out queries that no worker could ever answer in time: they are refused before the router sees them."""
    able = np.isfinite(np.where((counts > 0)[:, None], found.feasible, np.inf).min(axis=0))
    keep = able[queries.batch - 1]
    assume(keep.any())
    return Traffic(queries.arrival[keep], queries.batch[keep])


@given(st.data())
@settings(max_examples=100)
def test_without_joining_and_with_equal_deadlines_it_decides_as_the_simulated_router(
    data: st.DataObject,
) -> None:
    found, counts = data.draw(random_problems())
    queries = possible(found, counts, data.draw(traffic(found.latency.shape[1])))
    mine, pure = Rehearsal(found, counts).run(queries), LateBinding.on(found, counts)(queries)
    np.testing.assert_array_equal(mine.instance, pure.instance)
    np.testing.assert_allclose(mine.latency, pure.latency, rtol=1e-12)


@pytest.mark.parametrize("router", ROUTERS)
@given(st.data())
@settings(max_examples=100)
def test_every_router_decides_alike_live_and_in_simulation(router: str, data: st.DataObject) -> None:
    found, counts, queries = data.draw(exact_problems())
    queries = possible(found, counts, queries)
    late = router in {"elsa", "fifs"}
    mine = Rehearsal(found, counts, router=router, patient=late).run(queries)
    pure = ROUTERS[router].on(found, counts)(queries)
    np.testing.assert_array_equal(mine.instance, pure.instance)
    np.testing.assert_array_equal(mine.latency, pure.latency)


@given(st.data())
@settings(max_examples=100)
def test_elsa_takes_the_smallest_slice_that_is_in_time(data: st.DataObject) -> None:
    found, counts = data.draw(random_problems())
    queries = possible(found, counts, data.draw(traffic(found.latency.shape[1])))
    size_of = np.repeat(np.arange(len(counts)), counts)
    idle_at, by, latency = np.zeros(len(size_of)), [], []
    for now, batch in zip(queries.arrival, queries.batch, strict=True):
        ends = np.maximum(now, idle_at) + found.latency[size_of, batch - 1]
        in_time = np.flatnonzero(ends - now <= found.deadline + TICK)
        margin = np.abs(ends - now - found.deadline - TICK)
        assume(margin.min() > 1e-9)
        if not len(in_time):
            break  # such a query waits in vain
        idle_at[in_time[0]] = ends[in_time[0]]
        by.append(size_of[in_time[0]])
        latency.append(ends[in_time[0]] - now)
    some = Traffic(queries.arrival[: len(by)], queries.batch[: len(by)])
    mine = Rehearsal(found, counts, router="elsa").run(some)
    np.testing.assert_array_equal(size_of[mine.instance], by)
    np.testing.assert_allclose(mine.latency, latency, rtol=1e-9)


@pytest.mark.parametrize(
    ("deadline", "answered"), [(0.99, 0), (1.01, 2), (1.99, 2), (2.01, 3), (2.49, 3), (2.51, 4)]
)
def test_elsa_promises_what_a_worker_of_two_processes_holds(deadline: float, answered: int) -> None:
    # Two run at once; who waits behind n others starts when the first is done and their share of two processes is.
    dispatcher = Dispatcher(Rules(deadline, batching=False, early=True), ROUTERS["elsa"])
    dispatcher.join(hello(seconds={1: 1.0}, processes=2), {}, 0.0)
    refused = 0
    for _ in range(4):
        steps = dispatcher.arrive(PendingQuery(1, 0.0, deadline), 0.0)
        refused += sum(outcome is Ending.REFUSED for _, outcome, _, _ in steps.ends)
    assert 4 - refused == answered


@pytest.mark.parametrize("router", ["elsa", "price"])
def test_what_was_bound_to_a_lost_worker_starts_elsewhere_and_only_there(router: str) -> None:
    made = Dispatcher(Rules(9.0, batching=False), ROUTERS[router])
    workers = [made.join(hello(gpu=gpu).replace(retry=False), {}, 0.0)[0] for gpu in range(2)]
    first, second, third = (PendingQuery(1, 0.0, allowed) for allowed in (1.5, 1.5, 9.0))
    batches = [made.arrive(query, 0.0).starts[0] for query in (first, second)]
    assert made.arrive(third, 0.0).starts == []
    lost, other = third.worker, next(each for each in workers if each is not third.worker)
    assert lost is not None
    made.silent(lost, 0.1)
    assert third.worker is other
    made.heard(lost, 0.2)
    own = {batch.worker: batch.number for batch in batches}
    assert made.done(lost, own[lost], [GOOD], 1.0, 1.0).starts == []
    (start,) = made.done(other, own[other], [GOOD], 1.0, 1.0).starts
    assert (start.worker, start.queries) == (other, [third])


@pytest.mark.parametrize("router", ["elsa", "price"])
def test_a_bound_query_that_can_no_longer_be_in_time_is_refused(router: str) -> None:
    made = Dispatcher(Rules(9.0, batching=False), ROUTERS[router])
    worker, _ = made.join(hello(), {}, 0.0)
    (batch,) = made.arrive(PendingQuery(1, 0.0, 9.0), 0.0).starts
    late = PendingQuery(1, 0.0, 2.1)
    assert made.arrive(late, 0.0).ends == []
    decided = made.done(worker, batch.number, [GOOD], 1.5, 1.5)
    assert decided.starts == []
    assert [end.query for end in decided.ends if end.outcome is Ending.REFUSED] == [late]


@pytest.mark.parametrize("router", ["late-binding", "fifs"])
def test_a_second_try_comes_before_all_that_wait(router: str) -> None:
    made = Dispatcher(Rules(9.0, batching=False), ROUTERS[router])
    worker, _ = made.join(hello(), {}, 0.0)
    again, other = PendingQuery(1, 0.2, 9.0), PendingQuery(1, 0.3, 5.0)
    made.arrive(again, 0.2)
    made.arrive(other, 0.3)
    made.fleet.coming = ((0.5, 8),)
    assert made.leave(worker, 0.4).ends == []
    _, decided = made.join(hello(gpu=1), {}, 0.5)
    assert [start.queries for start in decided.starts] == [[again]]


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_a_second_try_goes_to_another_worker_if_there_is_any(router: str) -> None:
    for others in (0, 1):
        made = Dispatcher(Rules(9.0, batching=False), ROUTERS[router])
        workers = [made.join(hello(gpu=gpu), {}, 0.0)[0] for gpu in range(1 + others)]
        (batch,) = made.arrive(PendingQuery(1, 0.0, 9.0), 0.0).starts
        assert made.waiting == 0
        broken = Answer(error="out of memory")
        (again,) = made.done(batch.worker, batch.number, [broken], 0.1, 0.1).starts
        assert (again.worker is batch.worker) == (not others)
        assert again.worker in workers


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_a_query_that_is_given_up_waits_no_more_and_holds_nobody_up(router: str) -> None:
    made = Dispatcher(Rules(2.5, batching=False), ROUTERS[router])
    made.join(hello(), {}, 0.0)
    made.arrive(PendingQuery(1, 0.0, 2.5), 0.0)
    waiting = PendingQuery(1, 0.0, 2.5)
    made.arrive(waiting, 0.0)
    assert made.waiting == 1
    made.cancel(waiting)
    assert made.waiting == 0
    assert made.arrive(PendingQuery(1, 0.0, 2.5), 0.0).ends == [], "only the first stands before it"
