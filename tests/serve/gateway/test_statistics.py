from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from partita.serve.gateway.statistics import LEAST_QUERIES, WINDOW_S, ObservedQueries, rates


def asked(rate: float, seconds: float, batch: int = 1, start: float = 100.0) -> tuple[ObservedQueries, float]:
    made = ObservedQueries()
    for number in range(int(rate * seconds)):
        made.add(batch, start + number / rate)
    return made, start + seconds


@given(st.integers(20, 60), st.integers(5, 100), st.integers(1, 32))
def test_a_steady_rate_is_seen_as_it_is(rate: int, seconds: int, batch: int) -> None:
    made, now = asked(rate, seconds, batch)
    found = rates([("one", made)], now)["one"]
    assert isinstance(found, dict)
    assert abs(found["rate"] / (rate * batch) - 1.0) < 1.5 / min(seconds, WINDOW_S) + 0.01
    assert found["batches"] == {str(batch): 1.0}


def test_services_that_nobody_asks_any_more_go_away() -> None:
    made, now = asked(20, 10)
    assert "one" in rates([("one", made)], now)
    assert rates([("one", made)], now + WINDOW_S + 1) == {}
    assert rates([("one", ObservedQueries())], now) == {}


def test_rates_count_items_and_shares_count_queries() -> None:
    made = ObservedQueries()
    for batch in (1, 1, 1, 8) * 100:
        made.add(batch, 100.0)
    assert rates([("one", made)], 102.0) == {"one": {"rate": 550.0, "batches": {"1": 0.75, "8": 0.25}}}


def test_a_few_queries_say_no_rate() -> None:
    made = ObservedQueries()
    for number in range(LEAST_QUERIES):
        assert rates([("one", made)], 101.0) == {}
        made.add(1, 100.0 + number / LEAST_QUERIES)
    assert rates([("one", made)], 101.0).keys() == {"one"}
