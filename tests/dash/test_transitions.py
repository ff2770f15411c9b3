"""Transitions from the journal: as predicted and as they ran, held to what the drivers did."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from tests.control.world import World, deployment, goal, gpu

from partita.control.journal import FILE, Journal
from partita.dash.model import Transition, TransitionState
from partita.dash.transitions import transition, transitions
from partita.drive.simulated import FaultKind, InjectedFault
from partita.errors import InputError
from partita.mig.layout import Placement
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from pathlib import Path

DAY = deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet")
NIGHT = deployment("4g.20gb@0=bert 2g.10gb@4=resnet 1g.5gb@6=resnet")
RATES = {"bert": 400.0, "resnet": 300.0}


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.reach(goal(DAY))
    return made


def test_pages_of_transitions_are_newest_first(world: World) -> None:
    for _ in range(2):
        world.reach(goal(NIGHT, RATES, DAY.capacity()))
        world.reach(goal(DAY, old=RATES))
    found: list[Transition] = []
    after = None
    while True:
        page = transitions(world.journal, after, 2)
        found += page.transitions
        after = page.next
        if after is None:
            break
    assert [each.id for each in found] == ["5", "4", "3", "2", "1"]
    assert {each.state for each in found} == {TransitionState.REACHED}
    for each in found:
        assert each.done == each.actions > 0
        assert each.ended is not None
        assert each.ended >= each.at
        assert each.version == f"{each.id}.reached"
    assert transitions(None, None, 5).transitions == ()
    with pytest.raises(InputError, match="no cursor"):
        transitions(world.journal, "x", 5)


def test_a_transition_in_full_is_what_was_predicted_and_what_ran(world: World) -> None:
    world.reach(goal(NIGHT, RATES, DAY.capacity()))
    found = transition(world.journal, "2")
    assert found is not None
    assert len(found.actions) == found.transition.actions
    assert max(bar.end for bar in found.actions) == pytest.approx(found.transition.seconds)
    for bar in found.actions:
        assert bar.error is None
        assert bar.began is not None
        assert bar.ended is not None
        assert 0 <= bar.began <= bar.ended
    lines = {line.service: line for line in found.capacity}
    for name in ("bert", "resnet"):
        line = lines[name]
        assert (line.floor, line.before) == (RATES[name], DAY.capacity()[name])
        for steps in (line.predicted, line.actual):
            assert steps[0][0] == 0.0
            assert steps[-1][1] == NIGHT.capacity()[name]
            assert min(value for _, value in steps) >= line.floor
            assert [second for second, _ in steps] == sorted(second for second, _ in steps)


def test_a_failed_try_and_a_new_order_are_in_it(world: World) -> None:
    world.cluster.inject(InjectedFault(FaultKind.FAILS, kind=ActionKind.START_REPLICA, times=1))
    looks = iter(range(100))

    def interfere() -> None:
        if next(looks) == 1:
            world.cluster.create_foreign(gpu(2), Placement(6, "1g.5gb"))

    world.driver.before_observing = interfere
    world.driver.floors = world.floors(goal(NIGHT, RATES, DAY.capacity()))
    world.controller.reach(goal(NIGHT, RATES, DAY.capacity()))
    found = transition(world.journal, "2")
    assert found is not None
    assert found.transition.state is TransitionState.REACHED
    assert len({bar.id for bar in found.actions}) == len(found.actions)
    for line in found.capacity:
        assert line.actual[-1][1] == NIGHT.capacity()[line.service]
        assert min(value for _, value in line.actual) >= line.floor
    if found.transition.replans:
        assert any(bar.id.startswith("2.") for bar in found.actions)
        assert any("someone else changed" in note.text for note in found.notes)


def test_what_is_not_there_is_not_found(world: World) -> None:
    for number in ("99", "0", "-1", "x", "1" * 40, "²"):
        assert transition(world.journal, number) is None
    assert transition(None, "1") is None


def test_a_paused_transition_says_so_and_who_did_it(world: World) -> None:
    world.journal.begin_goal(goal(NIGHT), "partita apply night.json", 7.0)
    world.journal.pause("ada", 9.0)
    (newest,) = transitions(world.journal, None, 1).transitions
    assert (newest.state, newest.version) == (TransitionState.PAUSED, "2.paused")
    found = transition(world.journal, "2")
    assert found is not None
    assert [(note.at, note.text) for note in found.notes] == [(9.0, "paused by ada")]
    assert [each.state for each in transitions(world.journal, "2", 5).transitions] == [
        TransitionState.REACHED
    ]


def test_a_journal_of_an_older_version_is_read_with_what_ran(world: World, tmp_path: Path) -> None:
    world.journal.close()
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("DROP TABLE pauses")
        db.execute("ALTER TABLE rounds DROP COLUMN prediction")
        db.execute("PRAGMA user_version = 1")
    found = transition(Journal(tmp_path / FILE), "1")
    assert found is not None
    assert len(found.actions) == found.transition.actions
    assert all((bar.begin, bar.end) == (bar.began, bar.ended) for bar in found.actions)
    assert found.capacity == ()
