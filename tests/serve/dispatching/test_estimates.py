from __future__ import annotations

import heapq
import math
import random
from itertools import accumulate, count
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.dispatching.rehearsal import GOOD, hello
from tests.serve.live_routers import ROUTERS

from partita.serve.dispatching.dispatcher import Dispatcher
from partita.serve.dispatching.estimates import (
    STEP,
    InputFactors,
    RunningMedian,
    SizeEstimate,
    Slowdown,
    Slowdowns,
    isotonic,
    size_class_of,
    slowed,
    table_of,
)
from partita.serve.dispatching.port import Rules
from partita.serve.dispatching.query import PendingQuery, QueryOutcome, RefusalReason
from partita.serve.tensors import Query, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.serve.dispatching.query import Batch

noise = st.floats(0.95, 1.05)
batches = st.integers(1, 8)


@given(st.lists(noise, min_size=5, max_size=30), st.floats(1e-3, 1e3), st.integers(0, 29))
def test_one_outlier_moves_no_worker(ratios: list[float], outlier: float, at: int) -> None:
    ratios.insert(min(at, len(ratios)), outlier)
    seen = Slowdown()
    changes = [seen.observe(ratio) for ratio in ratios]
    assert not any(changes)
    assert seen.factor == 1.0


@given(st.lists(noise, max_size=20), st.floats(1.5, 100.0))
def test_a_real_slow_down_shows_within_three_batches(before: list[float], slow: float) -> None:
    seen = Slowdown()
    for ratio in before:
        seen.observe(ratio)
    changes = [seen.observe(slow) for _ in range(3)]
    assert any(changes)
    assert slow / STEP <= seen.factor <= slow * STEP


@given(st.floats(1.5, 100.0), noise)
def test_a_worker_that_recovers_is_believed_within_three_batches(slow: float, after: float) -> None:
    seen = Slowdown()
    for _ in range(5):
        seen.observe(slow)
    for _ in range(3):
        seen.observe(after)
    assert seen.factor <= STEP


@given(st.floats(2.0, 100.0))
def test_a_probe_costs_one_batch_if_the_worker_is_still_slow(slow: float) -> None:
    seen = Slowdown()
    for _ in range(5):
        seen.observe(slow)
    before = seen.step
    seen.probe()
    assert seen.factor == 1.0
    assert seen.observe(slow)
    assert seen.step == before


def test_a_probe_ends_the_slowness_of_a_worker_that_is_quick_again() -> None:
    seen = Slowdown()
    for _ in range(5):
        seen.observe(4.0)
    seen.probe()
    changes = [seen.observe(1.0) for _ in range(5)]
    assert not any(changes)
    assert seen.factor == 1.0


@given(st.lists(st.floats(0.1, 10.0), min_size=9, max_size=9))
def test_a_full_window_forgets_the_prior(values: list[float]) -> None:
    median = RunningMedian(100.0, length=9, trust=3)
    for value in values:
        median.add(value)
    assert median.value == sorted(values)[4]


@given(st.dictionaries(batches, st.floats(1e-4, 10.0)), st.integers(1, 12), st.floats(1e-3, 1.0))
def test_tables_keep_what_is_measured_and_are_finite_between(
    seconds: dict[int, float], batch: int, unknown: float
) -> None:
    table = table_of(seconds, batch, unknown)
    assert len(table) == batch + 1
    assert table[0] == 0.0
    assert all(0.0 < each < math.inf for each in table[1:])
    for size, each in seconds.items():
        assert size > batch or table[size] == each
    if not seconds:
        assert set(table[1:]) == {unknown}


def test_tables_are_linear_between_padded_below_and_in_proportion_above() -> None:
    assert table_of({2: 1.0, 4: 2.0}, 6, 9.0) == pytest.approx([0.0, 1.0, 1.0, 1.5, 2.0, 2.5, 3.0])


@given(st.floats(0.5, 4.0), batches)
def test_what_a_size_really_takes_is_learned_for_each_batch(truth: float, batch: int) -> None:
    size = SizeEstimate(table_of({1: 1.0, 8: 4.0}, 8, 1.0))
    given_ = size.seconds[batch]
    for moment in range(9):
        size.observe(batch, truth * given_, 1.0, float(moment))
    assert size.changed == (abs(truth - 1.0) > 0.02)
    if size.changed:
        size.apply()
        assert size.seconds[batch] >= truth * given_ * 0.999
        assert size.seconds == sorted(size.seconds)


def test_a_slow_worker_does_not_spoil_what_is_known_of_its_size() -> None:
    size, slow = SizeEstimate([0.0, 1.0]), Slowdown()
    for moment in range(30):
        slow.observe(3.0 / size.seconds[1])
        size.observe(1, 3.0, slow.factor, float(moment))
        size.apply()
    assert size.seconds[1] == pytest.approx(1.0, rel=0.1)
    assert slow.factor * size.seconds[1] == pytest.approx(3.0, rel=0.05)


def test_corrections_are_forgotten() -> None:
    size = SizeEstimate([0.0, 1.0])
    for moment in range(9):
        size.observe(1, 2.0, 1.0, float(moment))
    size.apply()
    assert size.seconds[1] == 2.0
    size.forget()
    size.apply()
    assert size.seconds[1] == 1.0


def test_a_moment_that_slows_all_workers_is_one_outlier() -> None:
    size = SizeEstimate([0.0, 0.005])
    for worker in range(56):
        size.observe(1, 0.2, 1.0, 10.0 + worker * 1e-4)
    assert not size.changed


def fed(ratios: dict[int, float], rounds: int) -> Slowdowns:
    """Return what is known of a worker whose batches took so many times what they should, one of each a second."""
    seen = Slowdowns(32)
    for second in range(rounds):
        for batch, ratio in ratios.items():
            seen.observe(batch, ratio, float(second))
    return seen


def test_a_worker_that_is_slow_at_large_batches_alone_is_believed_quick_at_small_ones() -> None:
    seen = fed({1: 1.0, 2: 1.0, 8: 1.0, 32: 4.0}, 3)
    assert seen.factor(1) == seen.factor(8) == 1.0
    assert seen.factor(32) == seen.factor(20) >= 4.0 / STEP
    assert seen.value == 4.0


def test_what_was_never_run_is_taken_for_as_slow_as_what_is_nearest_below() -> None:
    seen = fed({4: 4.0}, 3)
    assert seen.factor(1) == seen.factor(4) == seen.factor(32) >= 4.0 / STEP


def test_each_band_is_probed_for_itself_once_it_was_quiet_for_long_enough() -> None:
    seen = fed({1: 1.0, 32: 4.0}, 3)
    assert not seen.probe(2.1, ())
    assert not seen.probe(3.0, (32,)), "one is under way, and will tell"
    assert seen.probe(3.0, (1,))
    assert seen.factor(32) == 1.0
    assert seen.observe(32, 4.0, 3.5)
    assert not seen.probe(3.9, ())
    assert seen.probe(4.1, ())


@given(
    st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=40),
    st.lists(st.integers(-5, 9), min_size=3, max_size=3),
)
def test_a_band_that_is_less_slow_never_makes_larger_batches_quicker(
    grown: list[float], steps: list[int]
) -> None:
    seconds = [0.0, *accumulate(grown)]
    found = slowed(seconds, tuple(steps))
    assert found == sorted(found)
    assert all(each >= plain * STEP ** min(steps) for each, plain in zip(found, seconds, strict=True))


def tokens(length: int, rows: int = 1) -> int:
    """The size class of sequences of so many tokens."""
    data = bytes(8 * length * rows)
    return size_class_of(Query((Tensor("ids", "INT64", (rows, length), data),)), rows)


@given(st.integers(0, 1 << 40), st.integers(1, 64))
def test_classes_rise_with_the_bytes_of_a_row_two_for_each_doubling(size: int, rows: int) -> None:
    def of(each: int) -> int:
        return size_class_of(Query((Tensor("x", "UINT8", (rows,), Sized(each * rows)),)), rows)  # type: ignore[arg-type]

    assert of(size) >= 1
    assert of(size) <= of(size + 1)
    if size > 1:
        assert of(2 * size) == of(size) + 2


class Sized:
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def test_rows_do_not_count() -> None:
    assert tokens(16) == tokens(16, rows=8) < tokens(4096)


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(0.5, 9.0)), min_size=1, max_size=12))
def test_values_are_made_to_rise_and_are_kept_where_they_do(values: list[tuple[float, float]]) -> None:
    found = isotonic(values)
    assert found == pytest.approx(sorted(found))
    assert min(found) >= min(value for value, _ in values) * 0.999
    assert max(found) <= max(value for value, _ in values) * 1.001
    risen = sorted(value for value, _ in values)
    assert isotonic([(value, 1.0) for value in risen]) == pytest.approx(risen)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(1e-2, 1e2)), max_size=30),
    st.integers(1, 60),
    st.integers(1, 60),
)
def test_a_larger_class_never_takes_less_whatever_was_observed(
    seen: list[tuple[int, float]], one: int, other: int
) -> None:
    factors = InputFactors()
    for size_class, ratio in seen:
        factors.observe(size_class, 0, ratio)
    small, large = sorted((one, other))
    assert 0.0 < factors.factor(small, 0) <= factors.factor(large, 0) * 1.000001 < math.inf


def test_an_outlier_moves_no_class_and_few_samples_suffice() -> None:
    factors = InputFactors()
    factors.observe(10, 0, 50.0)
    assert factors.factor(10, 0) == 1.0
    for _ in range(3):
        factors.observe(10, 0, 4.0)
    assert factors.factor(10, 0) == pytest.approx(4.0)
    factors.observe(10, 0, 50.0)
    assert factors.factor(10, 0) == pytest.approx(4.0)


def known(**ratios: float) -> InputFactors:
    factors = InputFactors()
    for name, ratio in ratios.items():
        for _ in range(9):
            factors.observe(int(name[1:]), 0, ratio)
    return factors


def test_between_classes_that_were_seen_it_rises_evenly() -> None:
    assert known(c10=1.0, c14=16.0).factor(12, 0) == pytest.approx(4.0)


def test_what_is_smaller_than_all_that_was_seen_is_tried() -> None:
    assert known(c20=8.0).factor(10, 0) == pytest.approx(8.0 / 32.0)  # as many times smaller
    assert known(c20=8.0).factor(18, 0) == 1.0


def test_what_is_larger_than_all_that_was_seen_takes_what_the_table_says_at_least() -> None:
    assert known(c10=0.1).factor(20, 0) == 1.0
    assert known(c10=0.5, c14=2.0).factor(16, 0) == pytest.approx(4.0)
    assert known(c10=0.1, c11=2.0).factor(13, 0) == pytest.approx(4.0), "never more than in proportion"


def test_workers_of_another_size_tell_of_classes_that_those_of_this_one_have_not_seen() -> None:
    shared = InputFactors()
    large, small = SizeEstimate([0.0, 1.0], shared), SizeEstimate([0.0, 4.0], shared)
    for moment in range(9):
        large.observe_inputs(20, 1, 8.0, 1.0, float(moment))
    assert large.expected(20, 1) == pytest.approx(8.0)
    assert small.expected(20, 1) == pytest.approx(32.0)
    for moment in range(9):
        small.observe_inputs(20, 1, 20.0, 1.0, float(moment))
    assert small.expected(20, 1) == pytest.approx(20.0)


SHORT, LONG = tokens(16), tokens(4096)


class Bimodal:
    """One service whose short queries take 10 ms and whose long ones take a second, at one batch size."""

    def __init__(self, workers: int = 2, took: Callable[[int], float] | None = None, **more: object) -> None:
        router = ROUTERS[str(more.pop("router", "late-binding"))]
        self.dispatcher = Dispatcher(Rules(2.0, batching=False), router)
        for gpu in range(workers):
            self.dispatcher.join(hello(seconds={1: 0.1}, batch=1, gpu=gpu), {}, 0.0)
        self.took = took or (lambda size_class: 0.01 if size_class < LONG else 1.0)
        self.ends: list[tuple[float, int, Batch]] = []
        self.numbers = count()
        self.outcomes: dict[PendingQuery, tuple[QueryOutcome, RefusalReason | None, float]] = {}

    def run(self, asked: list[tuple[float, int, float]]) -> list[PendingQuery]:
        """Let queries come: moment, size class and deadline of each."""
        queries, ticks = [], 0.0
        for moment, size_class, allowed in asked:
            while (self.ends and self.ends[0][0] <= moment) or ticks <= moment:
                if self.ends and self.ends[0][0] <= ticks:
                    now, _, batch = heapq.heappop(self.ends)
                    done = self.dispatcher.done(batch.worker, batch.number, [GOOD], 0.0, now)
                    self._carry_out(done, now)
                else:
                    self._carry_out(self.dispatcher.tick(ticks), ticks)
                    ticks += 0.02
            queries.append(PendingQuery(1, moment, allowed, size_class=size_class))
            self._carry_out(self.dispatcher.arrive(queries[-1], moment), moment)
        return queries

    def _carry_out(self, steps, now: float) -> None:
        for batch in steps.starts:
            (query,) = batch.queries
            end = now + self.took(query.input_class)
            heapq.heappush(self.ends, (end, next(self.numbers), batch))
        for query, outcome, reason, _ in steps.ends:
            self.outcomes[query] = outcome, reason, now


def mixed(seconds: float, every: float, seed: int = 0) -> list[tuple[float, int, float]]:
    """Short and long queries in turn, at random moments; the short have 0.1 s, the long 1.5 s."""
    draw = random.Random(seed)
    found, now = [], 0.0
    while now < seconds:
        now += draw.expovariate(1.0 / every)
        long = draw.random() < 0.1
        found.append((now, LONG, 1.5) if long else (now, SHORT, 0.1))
    return found


@pytest.mark.parametrize("router", ["late-binding", "price", "elsa", "fifs"])
def test_short_queries_are_not_refused_because_long_ones_are_slow(router: str) -> None:
    service = Bimodal(router=router)
    service.run([(0.3 * each, LONG, 3.0) for each in range(20)])
    last = service.run([(30.0 + each, SHORT, 0.05) for each in range(10)])
    service.run([(60.0, SHORT, 1.0)])
    assert all(service.outcomes[query][0] is QueryOutcome.ANSWERED for query in last)


@pytest.mark.parametrize("router", ["late-binding", "price", "elsa"])
def test_long_queries_are_not_promised_what_short_ones_take(router: str) -> None:
    service = Bimodal(router=router)
    service.run([(0.05 * each, SHORT, 1.0) for each in range(100)])
    service.run([(10.0 + 2.0 * each, LONG, 3.0) for each in range(4)])
    (hopeless,) = service.run([(30.0, LONG, 0.5)])
    assert service.outcomes[hopeless] == (QueryOutcome.REFUSED, RefusalReason.LATE, 30.0), "at once"
    (possible,) = service.run([(40.0, LONG, 1.2)])
    service.run([(50.0, SHORT, 1.0)])
    assert service.outcomes[possible][0] is QueryOutcome.ANSWERED


def test_of_a_mix_nearly_all_that_is_taken_is_in_time() -> None:
    service = Bimodal(workers=4)
    queries = service.run(mixed(60.0, 0.05))
    service.run([(90.0, SHORT, 1.0)])
    late = [
        query
        for query in queries[100:]
        if service.outcomes[query][0] is QueryOutcome.ANSWERED and service.outcomes[query][2] > query.due
    ]
    short = [query for query in queries[100:] if query.input_class == SHORT]
    answered = [query for query in short if service.outcomes[query][0] is QueryOutcome.ANSWERED]
    assert len(late) <= 0.01 * len(queries)
    assert len(answered) > 0.7 * len(short)
    long = [query for query in queries[100:] if query.input_class == LONG]
    assert sum(service.outcomes[query][0] is QueryOutcome.ANSWERED for query in long) > 0.5 * len(long)


def test_a_class_that_was_slow_for_a_while_is_tried_again_though_all_its_queries_are_refused() -> None:
    slow = True
    service = Bimodal(took=lambda size_class: 0.01 if size_class < LONG else 1.0 if slow else 0.2)
    service.run([(2.0 * each, LONG, 3.0) for each in range(9)])
    before = service.run([(30.0, LONG, 0.5)])
    slow = False
    asked = [(31.0 + 0.3 * each, LONG if each % 2 else SHORT, 0.5) for each in range(100)]
    after = service.run(asked)
    service.run([(90.0, SHORT, 1.0)])
    assert service.outcomes[before[0]][0] is QueryOutcome.REFUSED
    assert all(service.outcomes[query][0] is QueryOutcome.ANSWERED for query in after[-20:])


def test_a_class_that_stays_too_slow_is_tried_ever_more_rarely() -> None:
    service = Bimodal()
    service.run([(2.0 * each, LONG, 3.0) for each in range(9)])
    asked = service.run([(30.0 + 0.1 * each, LONG, 0.5) for each in range(1200)])
    tried = [query for query in asked if query.tries]
    assert 2 <= len(tried) <= 10
    assert all(query.size_class == 0 for query in tried)
