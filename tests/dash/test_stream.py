"""The stream: numbered events, resumed where a reader left off, and `reset` for those who fall behind."""

from __future__ import annotations

import asyncio
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from partita.dash.model import Reset
from partita.dash.stream import EventStream


def batch(first: int, count: int) -> list[tuple[str, Reset]]:
    return [("reset", Reset("v", f"event {first + i}")) for i in range(count)]


def heard(sent: bytes) -> list[str]:
    return re.findall(r'"why":"([^"]*)"', sent.decode())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12), st.integers(0, 60))
def test_a_reader_gets_each_later_event_once_wherever_it_left_off(sizes: list[int], back: int) -> None:
    stream = EventStream()
    start = stream.last
    names: list[str] = []
    for size in sizes:
        events = batch(len(names), size)
        names += [document.why for _, document in events]
        stream.publish(events)
    position = stream.last - back
    found = stream.after(position)
    if position < start:
        assert found is None, "nobody knows what came before the first event"
    else:
        assert found is not None
        assert heard(found) == names[position - start :]


def test_numbers_of_events_are_their_ids() -> None:
    stream = EventStream()
    start = stream.last
    stream.publish(batch(0, 3))
    sent = (stream.after(start) or b"").decode()
    assert [int(each) for each in re.findall(r"^id: (\d+)$", sent, re.MULTILINE)] == [
        start + 1,
        start + 2,
        start + 3,
    ]
    assert sent.endswith("\n\n")


def test_what_is_kept_has_a_limit_and_a_reader_behind_it_knows() -> None:
    stream = EventStream(most_bytes=2000)
    start = stream.last
    for number in range(100):
        stream.publish(batch(number, 1))
    assert stream.after(start) is None
    assert stream.after(stream.last + 1) is None, "a number of another process"
    assert heard(stream.after(stream.last - 5) or b"") == [f"event {i}" for i in range(95, 100)]


def test_another_process_goes_on_above_all_numbers_of_this_one() -> None:
    stream = EventStream()
    stream.publish(batch(0, 1000))
    later = EventStream()
    assert later.last > stream.last or later.after(stream.last) is None


def test_waiting_ends_with_an_event_with_the_end_or_with_time() -> None:
    async def run() -> list[bool]:
        stream = EventStream()
        found = [await stream.wait(stream.last, 0.01)]
        at = stream.last
        waiting = asyncio.create_task(stream.wait(at, 60))
        await asyncio.sleep(0)
        stream.publish(batch(0, 1))
        found.append(await waiting)
        waiting = asyncio.create_task(stream.wait(stream.last, 60))
        await asyncio.sleep(0)
        stream.close()
        found.append(await waiting)
        return found

    assert asyncio.run(run()) == [False, True, True]
