"""A transition of very many actions comes by page, and its capacity in a bounded number of steps."""

from __future__ import annotations

import pytest

from partita.dash.model import (
    ActionBar,
    CapacityLine,
    Event,
    Transition,
    TransitionDetail,
    TransitionState,
)
from partita.dash.transitions import page_of
from partita.errors import InputError

COUNT = 2500


def whole() -> TransitionDetail:
    bars = tuple(
        ActionBar(str(at), "create_instance", f"gpu-{at}", "1g.10gb@0", None, at, at + 1.0)
        for at in range(COUNT)
    )
    steps = tuple((float(at), 5.0 if at == 1234 else 100.0 + at % 7) for at in range(COUNT))
    notes = tuple(Event(at, float(at), "note", f"note {at}") for at in range(COUNT))
    summary = Transition("1", 0.0, "apply", TransitionState.RUNNING, 0, COUNT, 9.0)
    return TransitionDetail(summary, bars, (CapacityLine("s", 5.0, steps, steps[:3]),), notes)


@pytest.mark.parametrize("limit", [1, 999, 1000, COUNT - 1, COUNT, COUNT + 1])
def test_all_pages_are_the_whole(limit: int) -> None:
    made, pages = whole(), 0
    after: str | None = None
    found: list[ActionBar] = []
    while pages == 0 or after is not None:
        page = page_of(made, after, limit)
        assert len(page.actions) <= limit
        assert bool(page.capacity) == bool(page.notes) == (pages == 0)
        found += page.actions
        after, pages = page.next, pages + 1
    assert (tuple(found), pages) == (made.actions, -(-COUNT // limit))


def test_the_first_page_is_bounded_and_keeps_the_lowest_capacity() -> None:
    made = whole()
    page = page_of(made, None, 100)
    (line,) = page.capacity
    assert len(line.predicted) <= 1000
    assert set(line.predicted) <= set(made.capacity[0].predicted)
    assert list(line.predicted) == sorted(line.predicted)
    assert (1234.0, 5.0) in line.predicted
    assert (line.predicted[0], line.predicted[-1]) == (
        made.capacity[0].predicted[0],
        made.capacity[0].predicted[-1],
    )
    assert line.actual == made.capacity[0].actual
    assert page.notes == made.notes[-1000:]


def test_a_cursor_that_is_none_is_refused() -> None:
    for after in ("", "-1", "x", "1.5"):
        with pytest.raises(InputError, match="is no cursor"):
            page_of(whole(), after, 10)
