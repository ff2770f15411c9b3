"""What a router that binds on arrival promises, one worker or two at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.serve.dispatching.rehearsal import GOOD, hello
from tests.serve.live_routers import ROUTERS
from tests.serve.problems import problem

from partita.serve.dispatching.dispatcher import Dispatcher
from partita.serve.dispatching.port import Rules
from partita.serve.dispatching.query import PendingQuery, QueryOutcome
from partita.serve.problem import TICK
from partita.serve.routers.bound import Elsa, Price
from partita.serve.tensors import Answer
from partita.sim.traffic import Traffic

if TYPE_CHECKING:
    from partita.serve.dispatching.dispatcher import Decisions
    from partita.serve.dispatching.query import Batch, Worker

BOTH = pytest.mark.parametrize("router", ["elsa", "price"])
BROKEN = Answer(error="out of memory")


def made(router: str, *, batching: bool = False, early: bool = True) -> Dispatcher:
    return Dispatcher(Rules(9.0, batching, early), ROUTERS[router])


def join(found: Dispatcher, now: float = 0.0, **more: object) -> Worker:
    return found.join(hello(**more), {}, now)[0]  # type: ignore[arg-type]


def arrive(found: Dispatcher, now: float, allowed: float, batch: int = 1, **more: object) -> PendingQuery:
    query = PendingQuery(batch, now, allowed, **more)  # type: ignore[arg-type]
    found.arrive(query, now)
    return query


def running(worker: Worker) -> list[Batch]:
    return list(worker.running.values())


def done(found: Dispatcher, worker: Worker, now: float, answer: Answer = GOOD) -> Decisions:
    """End the batch that a worker began first."""
    batch = running(worker)[0]
    return found.done(worker, batch.number, [answer] * len(batch.queries), now - batch.begun, now)


def refused(found: Dispatcher, query: PendingQuery, now: float) -> bool:
    """Whether a query that arrives is refused; one that is not is cancelled again, unless it has started."""
    decided = found.arrive(query, now)
    return any(end.outcome is QueryOutcome.REFUSED for end in decided.ends)


@BOTH
def test_an_answer_at_the_last_moment_is_in_time_live(router: str) -> None:
    found = made(router)
    small, large = join(found, profile="1g.6gb"), join(found, profile="2g.12gb", gpu=1, seconds={1: 0.9})
    found.fleet.set_prices({small.key: 0.1, large.key: 1.0})
    assert arrive(found, 0.0, 1.0).worker is small
    assert arrive(found, 0.0, 1.0).worker is large, "the small one would be a second late"


@pytest.mark.parametrize("policy", [Elsa, Price])
def test_an_answer_at_the_last_moment_is_in_time_in_simulation(policy: type[Elsa | Price]) -> None:
    last = 1.0 + TICK
    found = problem([[last], [0.9], [0.9]], [1.0], 1.0)
    seen = policy.on(found, np.array([1, 1, 0]))(Traffic(np.array([0.0, 0.0]), np.array([1, 1])))
    assert seen.instance.tolist() == [0, 1]


@BOTH
def test_a_query_that_is_just_in_time_after_those_before_it_starts(router: str) -> None:
    found = made(router)
    worker = join(found)
    arrive(found, 0.0, 9.0)
    second, third = arrive(found, 0.0, 2.0), arrive(found, 0.0, 3.0)
    for query, now in ((second, 1.0), (third, 2.0)):
        (start,) = done(found, worker, now).starts
        assert start.queries == [query]


@BOTH
def test_what_waits_counts_by_its_seconds_and_no_more(router: str) -> None:
    found = made(router)
    worker = join(found, seconds={1: 0.25})
    arrive(found, 0.0, 9.0)
    arrive(found, 0.0, 9.0)
    arrive(found, 0.0, 9.0)
    done(found, worker, 0.25)
    assert refused(found, PendingQuery(1, 0.25, 0.74), 0.25)
    assert not refused(found, PendingQuery(1, 0.25, 0.75), 0.25)
    done(found, worker, 0.5)
    done(found, worker, 0.75)
    done(found, worker, 1.0)
    assert (found.waiting, found.in_flight, worker.bound_s) == (0, 0, 0.0)


@BOTH
def test_of_several_processes_the_one_that_is_done_first_counts(router: str) -> None:
    found = made(router)
    join(found, processes=2)
    arrive(found, 0.0, 9.0)
    arrive(found, 0.5, 9.0)
    assert refused(found, PendingQuery(1, 0.6, 1.35), 0.6)
    assert not refused(found, PendingQuery(1, 0.6, 1.45), 0.6), "0.4 s, then its own second"
    assert refused(found, PendingQuery(1, 0.6, 1.85), 0.6)
    assert not refused(found, PendingQuery(1, 0.6, 1.95), 0.6), "half a second more for the one before it"


@BOTH
def test_all_processes_take_up_work_when_another_gateway_leaves_them(router: str) -> None:
    found = made(router)
    worker = join(found, processes=2)
    found.said_load(worker, 0.0, batches=2)
    queries = [arrive(found, 0.0, 60.0) for _ in range(3)]
    assert not worker.running
    started = found.said_load(worker, 0.5, batches=0).starts
    assert [start.queries for start in started] == [[query] for query in queries[:2]]


@BOTH
@pytest.mark.parametrize("batching", [True, False])
def test_what_waits_for_a_worker_is_joined_where_the_rules_say_so(router: str, *, batching: bool) -> None:
    found = made(router, batching=batching)
    worker = join(found, seconds={1: 1.0, 8: 1.2})
    queries = [arrive(found, 0.0, 9.0) for _ in range(4)]
    (start,) = done(found, worker, 1.0).starts
    assert start.queries == (queries[1:] if batching else queries[1:2])
    assert start.items == len(start.queries)
    assert start.expected == pytest.approx(1.0 + 0.2 * (len(start.queries) - 1) / 7)
    assert found.waiting == 3 - len(start.queries)


@pytest.mark.parametrize(
    ("table", "more", "joined"),
    [
        ({1: 1.0, 2: 1.0}, {}, 1),  # as many as it takes
        ({1: 1.0, 4: 1.0}, {}, 3),
        ({1: 1.0, 4: 1.0}, {"alike": "other"}, 0),
        ({1: 1.0, 4: 1.0}, {"size_class": 3}, 0),
        ({1: 1.0, 4: 4.0}, {}, 3),  # a row more costs as much as a batch of its own
        ({1: 1.0, 4: 4.1}, {}, 0),
        ({1: 1.0, 4: 1.0}, {"batch": 2}, 1),  # of two rows each
    ],
)
def test_queries_are_joined_that_are_alike_and_cost_no_more_together(
    table: dict[int, float], more: dict[str, object], joined: int
) -> None:
    found = made("elsa", batching=True)
    worker = join(found, seconds=table, batch=max(table))
    arrive(found, 0.0, 30.0)
    head = arrive(found, 0.0, 30.0)
    others = [arrive(found, 0.0, 30.0, **more) for _ in range(3)]  # type: ignore[arg-type]
    (start,) = done(found, worker, 1.0).starts
    assert start.queries == [head, *others[:joined]]


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize(("allowed", "joined"), [(1.9, 1), (2.0, 2)])
def test_no_query_of_a_batch_becomes_late_by_the_others(late: int, allowed: float, joined: int) -> None:
    found = made("elsa", batching=True)
    worker = join(found, seconds={1: 1.0, 2: 1.5, 3: 2.0})
    arrive(found, 0.0, 30.0)
    queries = [arrive(found, 0.0, 30.0) for _ in range(3)]
    queries[late].due = 1.0 + allowed  # three together take 2 s
    (start,) = done(found, worker, 1.0).starts
    assert start.queries == queries[: 1 + joined]


def test_a_query_that_was_given_up_is_left_out_of_a_batch() -> None:
    found = made("elsa", batching=True)
    worker = join(found, seconds={1: 1.0, 8: 1.0})
    arrive(found, 0.0, 9.0)
    queries = [arrive(found, 0.0, 9.0) for _ in range(3)]
    found.cancel(queries[1])
    (start,) = done(found, worker, 1.0).starts
    assert (start.queries, found.waiting) == ([queries[0], queries[2]], 0)


@BOTH
def test_a_query_that_was_given_up_at_the_head_is_not_refused_as_well(router: str) -> None:
    found = made(router)
    worker = join(found)
    arrive(found, 0.0, 9.0)
    gone = arrive(found, 0.0, 1.5 + 0.5)
    found.cancel(gone)
    decided = done(found, worker, 1.9)
    assert gone not in [end.query for end in decided.ends]
    assert found.waiting == 0


@BOTH
def test_what_can_no_longer_be_in_time_is_refused_by_the_clock_and_waits_no_more(router: str) -> None:
    found = made(router)
    worker = join(found)
    arrive(found, 0.0, 9.0)
    late = arrive(found, 0.0, 2.1)
    assert found.tick(1.05).ends == []
    assert [end.query for end in found.tick(1.2).ends] == [late]
    assert (found.waiting, worker.bound_s) == (0, 0.0)


def test_without_early_refusal_a_late_query_starts_while_its_deadline_is_to_come() -> None:
    found = made("elsa", early=False)
    worker = join(found)
    for allowed in (9.0, 1.5, 2.0, 9.0):
        arrive(found, 0.0, allowed)
    (start,) = done(found, worker, 1.0).starts
    assert start.queries[0] is not None
    assert start.queries[0].allowed == 1.5
    decided = done(found, worker, 2.0)
    assert [end.query.allowed for end in decided.ends if end.outcome is QueryOutcome.REFUSED] == [2.0]
    assert [start.queries[0].allowed for start in decided.starts if start.queries[0]] == [9.0]


@pytest.mark.parametrize("early", [True, False])
def test_without_early_refusal_elsa_takes_the_worker_that_is_done_soonest(*, early: bool) -> None:
    found = made("elsa", early=early)
    workers = [
        join(found, profile=profile, seconds={1: seconds}, gpu=gpu)
        for gpu, (profile, seconds) in enumerate([("1g.6gb", 5.0), ("2g.12gb", 4.0), ("4g.24gb", 4.5)])
    ]
    for _ in range(3):
        arrive(found, 0.0, 5.0)
    assert [len(each.running) for each in workers] == [1, 1, 1]
    late = PendingQuery(1, 0.0, 7.9)
    ends = found.arrive(late, 0.0).ends
    if early:
        assert [end.outcome for end in ends] == [QueryOutcome.REFUSED]
    else:
        assert late.worker is workers[1], "at 8 s; the others at 10 and 9 s"


@BOTH
def test_a_worker_that_takes_too_long_gets_nothing_bound_to_it(router: str) -> None:
    found = made(router)
    slow = join(found, profile="1g.6gb")
    arrive(found, 0.0, 60.0)
    found.tick(9.5)
    assert slow.overdue
    other = join(found, 9.5, profile="2g.12gb", gpu=1)
    for batch in running(other):
        found.done(other, batch.number, [GOOD], 0.5, 10.0)
    assert arrive(found, 10.0, 60.0).worker is other
    assert arrive(found, 10.0, 60.0).worker is other


@BOTH
def test_what_a_lost_worker_was_to_run_is_bound_anew_and_what_was_given_up_is_not(router: str) -> None:
    found = made(router)
    first = join(found)
    arrive(found, 0.0, 30.0)
    kept, gone = arrive(found, 0.0, 30.0), arrive(found, 0.0, 30.0)
    other = join(found, profile="2g.12gb", gpu=1)
    arrive(found, 0.0, 30.0)
    found.cancel(gone)
    assert found.waiting + found.in_flight == 3
    found.silent(first, 0.1)
    assert kept.worker is other
    assert gone.worker is first
    waiting = found.waiting
    assert waiting == sum(each.state == 0 for each in other.bound)
    assert (first.bound_s, list(first.bound)) == (0.0, [])
    found.heard(first, 0.2)
    while running(other):
        done(found, other, 1.0)
    assert found.waiting == 0


@BOTH
def test_a_second_try_comes_before_what_is_bound_to_its_worker(router: str) -> None:
    found = made(router)
    workers = [join(found, gpu=gpu) for gpu in range(2)]
    first, second = arrive(found, 0.0, 1.5), arrive(found, 0.0, 1.5)
    first.due = 30.0
    lost, other = first.worker, second.worker
    assert lost is not None
    assert other is not None
    assert {lost, other} == set(workers)
    waiting = [arrive(found, 0.0, 30.0) for _ in range(3)]
    found.leave(lost, 0.2)
    (start,) = done(found, other, 1.0).starts
    assert start.queries == [first]
    assert found.waiting == len(waiting)


@BOTH
def test_a_second_try_waits_for_another_worker_even_where_the_first_is_idle(router: str) -> None:
    found = made(router)
    join(found, gpu=0)
    join(found, gpu=1)
    query, other = arrive(found, 0.0, 1.5), arrive(found, 0.0, 1.5)
    query.due = 9.0
    bad, good = query.worker, other.worker
    assert bad is not None
    assert good is not None
    assert done(found, bad, 0.1, BROKEN).starts == []
    (start,) = done(found, good, 1.0).starts
    assert (start.worker, start.queries) == (good, [query])
