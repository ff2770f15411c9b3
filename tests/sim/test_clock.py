from __future__ import annotations

import time

import pytest

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
