from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sim.kernel import Kernel

from partita.sim.clock import SimulatedClock, WallClock


def test_simulated_time_passes_only_where_something_waits_and_never_goes_back() -> None:
    clock = SimulatedClock(5.0)
    assert clock.now() == 5.0
    clock.sleep_until(7.0)
    clock.sleep_until(6.0)
    assert clock.now() == 7.0
    clock.catch_up(9.0)
    clock.catch_up(8.0)
    assert clock.now() == 9.0


def test_the_wall_clock_tells_the_systems_time_and_sleeps() -> None:
    clock = WallClock()
    assert clock.now() == pytest.approx(time.time(), abs=5)
    before = clock.now()
    clock.sleep_until(before + 0.02)
    assert clock.now() >= before + 0.02
    clock.sleep_until(before)


def test_the_wall_clock_is_not_disturbed_by_the_system_clock_being_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = WallClock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now() >= before


def test_the_wall_clock_goes_on_from_a_time_that_another_process_saw() -> None:
    clock = WallClock()
    ahead = clock.now() + 1000
    clock.catch_up(ahead)
    assert ahead <= clock.now() < ahead + 5
    clock.catch_up(0.0)
    assert clock.now() >= ahead


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2))))
def test_actions_come_by_time_then_rank_then_in_the_order_they_were_scheduled(
    asked: list[tuple[int, int]],
) -> None:
    kernel, seen = Kernel(SimulatedClock()), list[tuple[int, int, int]]()
    for number, (moment, rank) in enumerate(asked):
        kernel.at(moment, lambda entry=(moment, rank, number): seen.append(entry), rank)  # type: ignore[misc]
    kernel.run()
    assert seen == sorted(seen)
    assert len(seen) == len(asked)


def test_actions_can_schedule_more_and_time_is_theirs() -> None:
    kernel = Kernel(SimulatedClock())
    seen = []

    def tick() -> None:
        seen.append(kernel.clock.now())
        if len(seen) < 4:
            kernel.after(2.5, tick)

    kernel.after(1.0, tick)
    kernel.run()
    assert seen == [1.0, 3.5, 6.0, 8.5]


def test_a_run_ends_at_its_moment_and_the_next_one_goes_on() -> None:
    kernel = Kernel(SimulatedClock())
    seen: list[str] = []
    kernel.at(1.0, lambda: seen.append("in"))
    kernel.at(2.0, lambda: seen.append("at the end"))
    kernel.at(2.1, lambda: seen.append("after"))
    kernel.run(until=2.0)
    assert (seen, kernel.clock.now()) == (["in", "at the end"], 2.0)
    kernel.run()
    assert seen[2:] == ["after"]


def test_on_the_wall_clock_it_waits() -> None:
    kernel, seen = Kernel(WallClock()), list[float]()
    begin = time.monotonic()
    kernel.after(0.03, lambda: seen.append(time.monotonic()))
    kernel.run()
    assert seen[0] - begin >= 0.029
