from __future__ import annotations

from partita.serve.dispatching.query import ENDED, PendingQuery
from partita.serve.routers.shared import Pace, Queues


def test_a_batch_size_is_listed_once_however_many_came_and_went():
    queues = Queues()
    for _ in range(5):
        for batch in (4, 1):
            queues.put(PendingQuery(batch, 0.0, 1.0))
            queues.pop(batch)
    queues.put(PendingQuery(1, 0.0, 1.0))
    assert queues.kinds == [1, 4]
    assert queues.head(4) is None
    assert queues.kinds == [1]


def query(key: float, batch: int = 1) -> PendingQuery:
    return PendingQuery(batch, 0.0, key)  # its key is its deadline


def test_a_kind_that_is_empty_is_listed_no_more_however_often_it_is_looked_at() -> None:
    queues = Queues()
    for batch in (1, 4):
        queues.put(query(1.0, batch))
    queues.pop(1)
    assert queues.head(1) is None
    assert queues.head(1) is None
    assert queues.kinds == [4]
    queues.pop(4)
    assert queues.head(4) is None
    assert queues.head(4) is None
    assert (queues.kinds, queues.waiting) == ([], 0)


def test_what_has_ended_does_not_come_up() -> None:
    queues = Queues()
    first, second = query(1.0), query(2.0)
    queues.put(second)
    queues.put(first)
    first.state = ENDED
    queues.gone(1)
    assert queues.head(1) is second
    assert queues.waiting == 1


def test_the_queries_before_another_are_those_of_no_later_key() -> None:
    queues = Queues()
    assert queues.before(query(1.0)) == 0
    for key in (1.0, 3.0, 2.0):
        queues.put(query(key))
    assert [queues.before(query(key)) for key in (0.5, 1.0, 2.5, 3.0, 4.0)] == [0, 1, 2, 3, 3]
    assert queues.before(query(9.0, 2)) == 0
    for _ in range(3):
        queues.pop(1)
    assert queues.before(query(1.0)) == 0
    queues.put(query(0.5))
    queues.put(query(0.2))
    assert [queues.before(query(key)) for key in (0.1, 0.3, 0.5, 1.0)] == [0, 1, 2, 2], "3.0 is forgotten"


def test_what_has_ended_stands_before_nobody() -> None:
    queues = Queues()
    queries = [query(key) for key in (1.0, 2.0, 3.0, 4.0)]
    for each in queries:
        queues.put(each)
    for each in queries[1:3]:
        each.state = ENDED
        queues.gone(1)
    assert [queues.before(query(key)) for key in (2.5, 4.0)] == [1, 2]
    queues.pop(1)
    assert queues.head(1) is queries[3]
    assert [queues.before(query(key)) for key in (2.5, 4.0)] == [0, 1], "the ended ones are out"


def test_a_pace_is_known_after_four_starts_or_half_a_horizon() -> None:
    pace = Pace(10.0)
    pace.started(99.0)
    assert pace.wait(3, 99.0) == 0.0, "nothing waits"
    pace.waits(100.0)
    pace.waits(101.0)
    assert pace.wait(3, 104.9) == 0.0
    assert pace.wait(3, 105.0) == 15.0
    for second in (101.0, 102.0, 103.0):
        pace.started(second)
        assert pace.wait(2, second) == 0.0
    pace.started(104.0)
    assert (pace.wait(2, 104.0), pace.wait(0, 104.0)) == (2.0, 0.0)
    pace.emptied()
    assert pace.wait(2, 104.0) == 0.0
    pace.waits(200.0)
    assert pace.wait(2, 204.0) == 0.0, "it is counted anew"
    assert pace.wait(2, 206.0) == 12.0


def test_old_starts_fade_from_a_pace() -> None:
    pace = Pace(10.0)
    pace.waits(100.0)
    for second in range(1, 11):
        pace.started(100.0 + second)
    assert pace.wait(1, 110.0) == 1.0
    assert pace.wait(1, 115.0) == 1.5
    pace.started(111.0)
    assert pace.wait(11, 111.0) == 11.0
    assert pace.wait(11, 116.5) == 22.0, "half the starts in half the time"
