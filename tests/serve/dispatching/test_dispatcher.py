from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.serve.dispatching.rehearsal import GOOD, hello
from tests.serve.live_routers import ROUTERS

from partita.serve.dispatching.dispatcher import Decisions, Dispatcher
from partita.serve.dispatching.port import Rules
from partita.serve.dispatching.query import ENDED, PendingQuery, QueryOutcome, RefusalReason
from partita.serve.tensors import Answer

if TYPE_CHECKING:
    from partita.serve.dispatching.query import Batch, Worker

PROFILES = {"1g.10gb": {1: 1.0, 8: 5.0}, "3g.40gb": {1: 0.5, 8: 2.0}, "7g.80gb": {4: 0.6}}
MOST = 12
BROKEN, INVALID = Answer(error="out of memory"), Answer(error="wrong", invalid=True)


class Traffic(RuleBasedStateMachine):
    """Everything that can happen to a dispatcher, in any order."""

    @initialize(router=st.sampled_from(sorted(ROUTERS)), batching=st.booleans(), early=st.booleans())
    def begin(self, *, router: str, batching: bool, early: bool) -> None:
        self.router, self.batching = router, batching
        self.dispatcher = Dispatcher(Rules(4.0, batching, early), ROUTERS[router], MOST)
        self.now = 0.0
        self.queries: list[PendingQuery] = []
        self.ended: dict[PendingQuery, QueryOutcome] = {}
        self.workers: list[Worker] = []
        self.gone: set[Worker] = set()
        self.running: list[Batch] = []
        self.starts: dict[PendingQuery, int] = {}

    def carry_out(self, steps: Decisions) -> None:
        for batch in steps.starts:
            worker = batch.worker
            assert worker not in self.gone
            assert len(worker.running) <= worker.hello.processes
            queries = [each for each in batch.queries if each is not None]
            assert sum(each.batch for each in queries) == batch.items <= worker.hello.batch
            assert len(queries) == 1 or (self.batching and len({each.alike for each in queries}) == 1)
            for query in queries:
                assert query not in self.ended
                assert self.now < query.due
                if self.router in {"late-binding", "price"}:
                    assert self.now + batch.expected <= query.due + 1e-6
                self.starts[query] = self.starts.get(query, 0) + 1
                assert self.starts[query] <= 2
            self.running.append(batch)
        for query, outcome, reason, answer in steps.ends:
            assert query not in self.ended
            assert (outcome is QueryOutcome.REFUSED) == (reason is not None)
            assert (answer is GOOD) == (outcome is QueryOutcome.ANSWERED)
            self.ended[query] = outcome

    @rule(profile=st.sampled_from(sorted(PROFILES)), processes=st.integers(1, 2))
    def join(self, profile: str, processes: int) -> None:
        seconds = PROFILES[profile]
        said = hello(profile, seconds, batch=max(seconds), processes=processes, gpu=len(self.workers))
        worker, steps = self.dispatcher.join(said, {}, self.now)
        self.workers.append(worker)
        self.carry_out(steps)

    @rule(
        batch=st.integers(1, 9),
        allowed=st.floats(0.1, 8.0),
        alike=st.integers(0, 1),
        size_class=st.sampled_from([0, 0, 9, 12]),
    )
    def arrive(self, batch: int, allowed: float, alike: int, size_class: int) -> None:
        query = PendingQuery(batch, self.now, allowed, alike=alike, size_class=size_class)
        self.queries.append(query)
        before = self.dispatcher.waiting
        self.carry_out(self.dispatcher.arrive(query, self.now))
        assert before < MOST or query in self.ended

    @precondition(lambda self: self.running)
    @rule(data=st.data(), answer=st.sampled_from([GOOD, GOOD, GOOD, BROKEN, INVALID]))
    def finish(self, data: st.DataObject, answer: Answer) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.carry_out(
            self.dispatcher.done(batch.worker, batch.number, [answer] * len(batch.queries), 0.1, self.now)
        )

    @precondition(lambda self: set(self.workers) - self.gone)
    @rule(data=st.data(), event=st.sampled_from(["silent", "heard", "fault", "no fault"]))
    def tell(self, *, data: st.DataObject, event: str) -> None:
        worker = data.draw(st.sampled_from([each for each in self.workers if each not in self.gone]))
        if event == "silent":
            steps = self.dispatcher.silent(worker, self.now)
        elif event == "heard":
            steps = self.dispatcher.heard(worker, self.now)
        else:
            steps = self.dispatcher.said_fault(worker, self.now, fault=event == "fault")
        self.carry_out(steps)

    @rule(seconds=st.one_of(st.none(), st.floats(0.0, 5.0)), batch=st.integers(1, 9))
    def expect(self, seconds: float | None, batch: int) -> None:
        self.dispatcher.fleet.coming = () if seconds is None else ((self.now + seconds, batch),)

    @rule(seconds=st.one_of(st.floats(0.0, 0.5), st.floats(0.5, 20.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.dispatcher.tick(self.now))

    @precondition(lambda self: self.queries)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        query = data.draw(st.sampled_from(self.queries))
        done = query in self.ended
        steps = self.dispatcher.cancel(query)
        assert [end.outcome for end in steps.ends] == ([] if done else [QueryOutcome.CANCELLED])
        self.carry_out(steps)

    @precondition(lambda self: set(self.workers) - self.gone)
    @rule(data=st.data(), dies=st.booleans())
    def go(self, *, data: st.DataObject, dies: bool) -> None:
        worker = data.draw(st.sampled_from([each for each in self.workers if each not in self.gone]))
        self.gone.add(worker)
        if dies:
            self.die(worker)
        else:
            self.carry_out(self.dispatcher.drain(worker, self.now))

    def die(self, worker: Worker) -> None:
        self.running = [batch for batch in self.running if batch.worker is not worker]
        self.carry_out(self.dispatcher.leave(worker, self.now))

    @invariant()
    def counts_agree(self) -> None:
        alive = [each for each in self.queries if each.state != ENDED]
        assert {each for each in self.queries if each.state == ENDED} == set(self.ended)
        assert self.dispatcher.waiting + self.dispatcher.in_flight >= len(alive)
        waiting = [each for each in alive if each.state == 0]
        assert self.dispatcher.waiting == len(waiting)
        fleet = self.dispatcher.fleet
        idle = sum(len(group.idle) for group in fleet.groups)
        assert fleet.idlers == idle
        assert idle == sum(
            each.hello.processes - len(each.running) for each in self.workers if self.may_start(each)
        )

    def may_start(self, worker: Worker) -> bool:
        return worker in self.dispatcher.fleet.workers and worker.takes_work

    def teardown(self) -> None:
        """Sooner or later every query ends, whatever the workers do."""
        for _ in range(400):
            if self.dispatcher.waiting or self.dispatcher.in_flight:
                self.now += 1.0
                self.carry_out(self.dispatcher.tick(self.now))
        assert set(self.queries) == set(self.ended)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40)


def dispatcher(deadline: float = 4.0, **more: Any) -> Dispatcher:
    return Dispatcher(Rules(deadline, **more), ROUTERS["late-binding"])


def join(made: Dispatcher, now: float = 0.0, **more: object) -> tuple[Worker, Decisions]:
    return made.join(hello(**more), {}, now)  # type: ignore[arg-type]


def test_a_query_whose_worker_dies_starts_elsewhere_before_all_others() -> None:
    made = dispatcher(9.0)
    first, _ = join(made)
    lost, other = PendingQuery(1, 0.0, 9.0), PendingQuery(1, 0.1, 5.0)
    made.arrive(lost, 0.0)
    made.arrive(other, 0.1)
    made.fleet.coming = ((0.3, 1),)
    assert made.leave(first, 0.2).ends == []
    _, steps = join(made, 0.3, gpu=1, batch=1)
    assert [batch.queries for batch in steps.starts] == [[lost]]


def test_a_query_is_tried_twice_and_then_fails() -> None:
    made = dispatcher(9.0)
    query = PendingQuery(1, 0.0, 9.0)
    made.fleet.coming = ((1.0, 8),)
    for gpu in range(2):
        worker, steps = join(made, gpu=gpu)
        if gpu == 0:
            steps = made.arrive(query, 0.0)
        (batch,) = steps.starts
        ends = made.leave(worker, 0.1).ends
        assert [end.outcome for end in ends] == [QueryOutcome.FAILED] * gpu
        assert batch.worker is worker


def test_a_query_that_a_worker_fails_goes_to_another_one() -> None:
    made = dispatcher(9.0)
    bad, _ = join(made, gpu=0)
    good, _ = join(made, gpu=1)
    query = PendingQuery(1, 0.0, 9.0)
    (batch,) = made.arrive(query, 0.0).starts
    (again,) = made.done(batch.worker, batch.number, [BROKEN], 0.1, 0.1).starts
    assert {batch.worker, again.worker} == {bad, good}
    (end,) = made.done(again.worker, again.number, [BROKEN], 0.1, 0.2).ends
    assert (end.outcome, end.answer) == (QueryOutcome.FAILED, BROKEN)


def test_a_query_that_is_at_fault_is_not_tried_again() -> None:
    made = dispatcher()
    join(made)
    (batch,) = made.arrive(PendingQuery(1, 0.0, 4.0), 0.0).starts
    steps = made.done(batch.worker, batch.number, [INVALID], 0.1, 0.1)
    assert (steps.starts, steps.ends[0].outcome) == ([], QueryOutcome.INVALID)


def late_one(made: Dispatcher) -> tuple[Worker, Worker, PendingQuery, Batch, Batch]:
    """Two workers and a query that the first has had for so long that the second runs it too."""
    slow, _ = join(made, gpu=0)
    query = PendingQuery(1, 0.0, 20.0)
    (batch,) = made.arrive(query, 0.0).starts
    other, _ = join(made, gpu=1)
    assert made.tick(3.9).starts == []
    (again,) = made.tick(4.1).starts
    assert (batch.worker, again.worker) == (slow, other)
    return slow, other, query, batch, again


def test_a_worker_that_takes_too_long_gets_nothing_new_and_the_first_answer_counts() -> None:
    made = dispatcher(20.0)
    slow, other, query, batch, again = late_one(made)
    assert made.arrive(PendingQuery(1, 4.2, 1.5), 4.2).starts == []
    late = made.done(slow, batch.number, [GOOD], 4.3, 4.3)
    assert [(end.query, end.query.worker) for end in late.ends] == [(query, slow)]
    assert [each.worker for each in late.starts] == [slow]
    assert made.done(other, again.number, [GOOD], 1.0, 5.1).ends == [], "it has been answered"


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_tries_one_may_fail_or_die_and_the_other_still_counts(first: int) -> None:
    for dies in (False, True):
        made = dispatcher(20.0)
        slow, other, query, batch, again = late_one(made)
        pairs = [(slow, batch), (other, again)]
        worker, bad = pairs[first]
        if dies:
            assert made.leave(worker, 4.3).ends == []
        else:
            assert made.done(worker, bad.number, [BROKEN], 4.3, 4.3).ends == []
        rest, good = pairs[1 - first]
        (end,) = made.done(rest, good.number, [GOOD], 1.0, 5.1).ends
        assert (end.query, end.outcome, made.in_flight) == (query, QueryOutcome.ANSWERED, 0)


def test_without_another_worker_a_slow_one_is_waited_for_until_the_deadline() -> None:
    made = dispatcher(60.0)
    slow, _ = join(made)
    query = PendingQuery(1, 0.0, 60.0)
    (batch,) = made.arrive(query, 0.0).starts
    for moment in range(1, 59):  # its estimate is a second
        assert made.tick(float(moment)) == Decisions([], [])
    assert made.fleet.groups, "it lives, so it can answer"
    (end,) = made.done(slow, batch.number, [GOOD], 59.0, 59.0).ends
    assert (end.query, end.outcome) == (query, QueryOutcome.ANSWERED)


def test_what_is_past_its_deadline_on_a_slow_worker_is_told_and_the_worker_counts_for_nothing() -> None:
    made = dispatcher(2.0)
    slow, _ = join(made)
    (batch,) = made.arrive(PendingQuery(1, 0.0, 2.0), 0.0).starts
    assert made.tick(5.0).ends == []
    (end,) = made.tick(17.0).ends
    assert end.outcome is QueryOutcome.FAILED
    assert made.arrive(PendingQuery(1, 17.0, 2.0), 17.0).ends[0].reason is RefusalReason.NO_WORKER
    made.done(slow, batch.number, [GOOD], 18.0, 18.0)
    assert made.arrive(PendingQuery(1, 18.0, 60.0), 18.0).starts, "it has answered after all"


def test_a_worker_that_gives_no_sign_of_life_is_not_waited_for_beyond_the_deadline() -> None:
    made = dispatcher(2.0)
    mute, _ = join(made)
    running, waiting = PendingQuery(1, 0.0, 2.0), PendingQuery(1, 0.0, 3.0)
    made.arrive(running, 0.0)
    made.arrive(waiting, 0.0)
    (end,) = made.silent(mute, 0.5).ends
    assert (end.query, end.reason) == (waiting, RefusalReason.NO_WORKER), "at once, not at its deadline"
    assert made.tick(1.9).ends == []
    (end,) = made.tick(2.1).ends
    assert (end.query, end.outcome) == (running, QueryOutcome.FAILED)


def test_queries_of_a_silent_worker_go_elsewhere_at_once_and_it_is_trusted_when_it_is_heard() -> None:
    made = dispatcher(9.0)
    mute, _ = join(made, gpu=0)
    (batch,) = made.arrive(PendingQuery(1, 0.0, 9.0), 0.0).starts
    join(made, gpu=1)
    (again,) = made.silent(mute, 0.5).starts
    assert again.queries == batch.queries
    assert made.arrive(PendingQuery(1, 0.6, 1.5), 0.6).starts == []
    made.heard(mute, 0.7)
    assert [each.worker for each in made.done(mute, batch.number, [GOOD], 1.0, 1.0).starts] == [mute]


def test_a_worker_that_says_it_cannot_answer_is_left_alone_until_it_says_it_can() -> None:
    made = dispatcher(9.0)
    ill, _ = join(made)
    made.said_fault(ill, 0.1, fault=True)
    assert made.arrive(PendingQuery(1, 0.2, 9.0), 0.2).ends[0].reason is RefusalReason.NO_WORKER
    made.said_fault(ill, 0.3, fault=False)
    assert made.arrive(PendingQuery(1, 0.4, 9.0), 0.4).starts


def test_queries_that_may_run_once_alone_are_never_tried_elsewhere() -> None:
    made = dispatcher(20.0)
    once, _ = made.join(hello(gpu=0).replace(retry=False), {}, 0.0)
    query = PendingQuery(1, 0.0, 20.0)
    (batch,) = made.arrive(query, 0.0).starts
    join(made, gpu=1)
    assert made.tick(4.1).starts == made.silent(once, 4.2).starts == []
    (end,) = made.leave(once, 4.3).ends
    assert (end.query, end.outcome, batch.queries) == (query, QueryOutcome.FAILED, [query])


@pytest.mark.parametrize("router", ["late-binding", "fifs"])
def test_queries_wait_for_a_worker_that_will_be_there_in_time_and_for_no_other(router: str) -> None:
    made = Dispatcher(Rules(9.0), ROUTERS[router])
    gone, _ = join(made)
    made.fleet.coming = ((2.0, 8),)  # a batch takes one second
    assert made.leave(gone, 0.0).ends == []
    early, late = PendingQuery(1, 0.0, 2.9), PendingQuery(1, 0.0, 3.1)
    assert made.arrive(early, 0.0).ends[0].reason is RefusalReason.NO_WORKER
    assert made.arrive(late, 0.0).ends == []
    assert made.arrive(PendingQuery(9, 0.0, 9.0), 0.0).ends[0].reason is RefusalReason.NO_WORKER, "it takes 8"
    made.fleet.coming = ((5.0, 8),)  # it takes longer
    (end,) = made.tick(1.0).ends
    assert (end.query, end.reason) == (late, RefusalReason.NO_WORKER)
    last = PendingQuery(1, 1.0, 9.0)
    made.arrive(last, 1.0)
    _, steps = join(made, 5.0, gpu=1)
    assert [batch.queries for batch in steps.starts] == [[last]]


def test_where_the_worker_for_large_queries_is_lost_those_alone_are_refused() -> None:
    made = dispatcher(9.0)
    small, _ = join(made, gpu=0, batch=2)
    large, _ = join(made, gpu=1, batch=8, profile="7g.80gb")
    for worker in (small, large):
        made.arrive(PendingQuery(worker.hello.batch, 0.0, 9.0), 0.0)
    big, little = PendingQuery(5, 0.0, 9.0), PendingQuery(1, 0.0, 9.0)
    made.arrive(big, 0.0)
    made.arrive(little, 0.0)
    ends = made.silent(large, 0.1).ends
    assert [(end.query, end.reason) for end in ends] == [(big, RefusalReason.NO_WORKER)]
    assert made.arrive(PendingQuery(5, 0.2, 9.0), 0.2).ends[0].reason is RefusalReason.NO_WORKER


def test_a_worker_that_fails_all_it_gets_rests_and_is_tried_again() -> None:
    made = dispatcher(9.0)
    bad, _ = join(made)
    now, failed = 0.0, 0
    while not bad.unready:
        starts = made.arrive(PendingQuery(1, now, 1.5), now).starts
        while starts:
            now += 0.01
            failed += 1
            starts = made.done(bad, starts[0].number, [BROKEN], 0.01, now).starts
    assert failed == 3
    assert made.arrive(PendingQuery(1, now, 1.5), now).starts == []
    assert made.tick(now + 0.9).starts == []
    made.tick(now + 1.1)
    assert made.arrive(PendingQuery(1, now + 2.0, 1.5), now + 2.0).starts


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_a_draining_worker_finishes_and_gets_nothing_new(router: str) -> None:
    made = Dispatcher(Rules(9.0), ROUTERS[router])
    old, _ = join(made, gpu=0)
    running, waiting = PendingQuery(1, 0.0, 9.0), PendingQuery(1, 0.0, 9.0)
    (batch,) = made.arrive(running, 0.0).starts
    made.arrive(waiting, 0.0)
    made.drain(old, 0.1)
    new, steps = join(made, 0.2, gpu=1)
    assert [(each.worker, each.queries) for each in steps.starts] in ([(new, [waiting])], [])
    (end,) = made.done(old, batch.number, [GOOD], 1.0, 1.0).ends
    assert (end.query, end.outcome) == (running, QueryOutcome.ANSWERED)


def test_a_closing_dispatcher_refuses_and_finishes() -> None:
    made = dispatcher()
    join(made)
    (batch,) = made.arrive(PendingQuery(1, 0.0, 4.0), 0.0).starts
    made.close()
    assert made.arrive(PendingQuery(1, 0.1, 4.0), 0.1).ends[0].reason is RefusalReason.DRAINING
    assert not made.idle
    made.done(batch.worker, batch.number, [GOOD], 1.0, 1.0)
    assert made.idle


def test_errors_say_why() -> None:
    made = dispatcher()
    assert made.arrive(PendingQuery(1, 0.0, 4.0), 0.0).ends[0].reason is RefusalReason.NO_WORKER
    join(made)
    assert made.arrive(PendingQuery(9, 0.0, 4.0), 0.0).ends[0].reason is RefusalReason.NO_WORKER
    assert made.arrive(PendingQuery(1, 0.0, 0.5), 0.0).ends[0].reason is RefusalReason.LATE


def test_overload_is_refused_on_arrival_before_the_queue_is_as_long_as_the_deadline() -> None:
    made = dispatcher(4.0, batching=False)
    join(made, seconds={1: 0.1}, batch=1)
    running: list[Batch] = []
    now, longest, early = 0.0, 0, 0
    for _ in range(2_000):
        now += 0.02
        while running and running[0].begun + 0.1 <= now:
            batch = running.pop(0)
            running += made.done(batch.worker, batch.number, [GOOD], 0.1, batch.begun + 0.1).starts
        steps = made.arrive(PendingQuery(1, now, 4.0), now)
        running += steps.starts
        early += any(end.query.arrived == now for end in steps.ends)
        longest = max(longest, made.waiting)
    assert longest < 45
    assert early > 1_400


def test_an_urgent_query_overtakes_and_a_slow_start_harms_nobody() -> None:
    made = dispatcher(9.0, batching=False)
    worker, _ = join(made)
    (batch,) = made.arrive(PendingQuery(1, 0.0, 9.0), 0.0).starts
    patient, urgent = PendingQuery(1, 0.1, 9.0), PendingQuery(1, 0.2, 3.0)
    made.arrive(patient, 0.1)
    made.arrive(urgent, 0.2)
    (second,) = made.done(worker, batch.number, [GOOD], 1.0, 1.0).starts
    assert second.queries == [urgent]


def test_queries_are_joined_up_to_the_earliest_deadline_and_the_largest_batch() -> None:
    made = dispatcher(9.0)
    worker, _ = join(made, seconds={1: 1.0, 4: 2.0}, batch=4)
    (batch,) = made.arrive(PendingQuery(1, 0.0, 9.0), 0.0).starts
    for _ in range(3):
        made.arrive(PendingQuery(1, 0.0, 9.0), 0.0)
    made.arrive(PendingQuery(1, 0.0, 2.7), 0.0)
    (joint,) = made.done(worker, batch.number, [GOOD], 1.0, 1.0).starts
    assert joint.items == 3  # 1.67 s, and 1.7 s are left
    (rest,) = made.done(worker, joint.number, [GOOD] * 3, 1.67, 2.67).starts
    assert rest.items == 1


def test_unlike_queries_are_not_joined() -> None:
    made = dispatcher(9.0)
    worker, _ = join(made)
    (batch,) = made.arrive(PendingQuery(1, 0.0, 9.0), 0.0).starts
    made.arrive(PendingQuery(1, 0.0, 9.0, alike="a"), 0.0)
    made.arrive(PendingQuery(1, 0.0, 9.0, alike="b"), 0.0)
    (one,) = made.done(worker, batch.number, [GOOD], 1.0, 1.0).starts
    assert one.items == 1


def test_a_slow_worker_is_routed_around_and_probed_again() -> None:
    made = dispatcher(9.0)
    slow, _ = join(made, gpu=0)
    fast, _ = join(made, gpu=1)
    now, used = 0.0, []
    for _ in range(12):
        (batch,) = made.arrive(PendingQuery(1, now, 9.0), now).starts
        used.append(batch.worker)
        now += 3.0 if batch.worker is slow else 1.0
        made.done(batch.worker, batch.number, [GOOD], 1.0, now)
        made.tick(now)
    assert used[-6:] == [fast] * 6
    made.tick(now + 3.0)
    now += 3.0
    both = [made.arrive(PendingQuery(1, now, 9.0), now).starts[0].worker for _ in range(2)]
    assert set(both) == {slow, fast}


def test_a_moment_that_stops_everything_is_over_soon() -> None:
    made = dispatcher(0.1, batching=False)
    for gpu in range(4):
        join(made, gpu=gpu, seconds={1: 0.005})
    now, answered = 0.0, []
    for step in range(600):
        took = 0.3 if 100 <= step < 120 else 0.005
        starts = made.arrive(PendingQuery(1, now, 0.1), now).starts
        now += took
        answered.append(bool(starts))
        for batch in starts:
            made.done(batch.worker, batch.number, [GOOD], took, now)
        made.tick(now)
    assert sum(answered[120:]) > 400
    assert all(answered[-300:])


def test_with_more_than_can_be_run_in_time_those_go_first_that_have_time_for_a_full_batch() -> None:
    made = dispatcher(4.0)
    worker, _ = join(made, seconds={1: 1.0, 4: 2.0}, batch=4)
    (batch,) = made.arrive(PendingQuery(1, 0.0, 4.0), 0.0).starts
    old = [PendingQuery(1, 0.0, 2.5) for _ in range(3)]
    new = [PendingQuery(1, 0.5, 4.0) for _ in range(5)]
    for query in (*old, *new):
        made.arrive(query, query.arrived)
    decided = made.done(worker, batch.number, [GOOD], 1.0, 1.0)
    (joint,) = decided.starts
    assert joint.queries == new[:4]
    assert [(end.query, end.outcome, end.reason) for end in decided.ends[1:]] == [
        (query, QueryOutcome.REFUSED, RefusalReason.LATE) for query in old
    ]


def test_a_pace_that_looks_slow_refuses_nobody_whom_the_workers_can_run_in_time() -> None:
    made = dispatcher(4.0)
    workers = [join(made, seconds={1: 1.0, 8: 1.2}, batch=8, gpu=number)[0] for number in range(4)]
    batches = [made.arrive(PendingQuery(1, 0.0, 4.0), 0.0).starts[0] for _ in workers]
    for number in range(20):
        made.arrive(PendingQuery(1, 0.01 * number, 4.0), 0.01 * number)
    # The first start after a second of none: 12 wait still, and three workers are about to end.
    made.done(workers[0], batches[0].number, [GOOD], 1.0, 1.0)
    late = PendingQuery(1, 1.0, 4.0)
    assert not made.arrive(late, 1.0).ends
    assert late.state != ENDED
