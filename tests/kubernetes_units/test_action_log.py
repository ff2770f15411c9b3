"""What a controller has done since it leads: bounded, by Transition and by GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes_units.test_journal import way

from partita.dash.local import cuts
from partita.drive.driver import ActionResult, FailedError
from partita.errors import InputError
from partita.kubernetes import action_log, dash_changes
from partita.kubernetes.action_log import ActionLog

if TYPE_CHECKING:
    from partita.transition.transition import Action

WORKLOAD = "teams", "w"
FIRST, SECOND = ("teams", "w-1"), ("teams", "w-2")


def done(*actions: Action, error: FailedError | None = None) -> list[ActionResult]:
    return [ActionResult(each, error) for each in actions]


def carried_out(log: ActionLog, name: tuple[str, str], gpus: int, at: float = 100.0) -> float:
    """Log a Transition whose actions take a second each, one after the other; return when it ends."""
    made = way(gpus)
    log.begin_round(name, made, at)
    for action in made.actions:
        log.intend(WORKLOAD, name, [action], at)
        at += 1.0
        log.record(WORKLOAD, done(action), at)
    return at


def test_a_transition_is_known_with_its_prediction_and_what_ran() -> None:
    log = ActionLog(90.0)
    carried_out(log, FIRST, 2)
    (found,) = log.rounds(FIRST)
    assert found.prediction is not None
    assert {each.id for each in found.prediction.actions} == {"c0", "c1", "s0", "s1"}
    assert [(each.id, each.begun, each.ended) for each in found.ran] == [
        ("c0", 100.0, 101.0),
        ("c1", 101.0, 102.0),
        ("s0", 102.0, 103.0),
        ("s1", 103.0, 104.0),
    ]
    assert log.rounds(SECOND) == []


def test_a_gpu_has_its_own_records_from_which_its_cuts_follow() -> None:
    log = ActionLog(90.0)
    carried_out(log, FIRST, 2)
    records = log.records("n/gpu-1")
    assert [each.text for each in records] == [
        "start replica a on n/gpu-1 7g.40gb@0",
        "create instance on n/gpu-1 7g.40gb@0",
    ]
    assert [each.instances for each in cuts([("7g.40gb@0", "a")], records)] == [
        ("7g.40gb@0 a",),
        ("7g.40gb@0",),
    ]
    assert log.records()[-1].text.startswith("this controller leads from here on")


def test_news_are_what_began_or_ended_since() -> None:
    log = ActionLog(90.0)
    log.news()
    first, *_ = way(1).actions
    log.begin_round(FIRST, way(1), 100.0)
    log.intend(WORKLOAD, FIRST, [first], 100.0)
    (begun,) = log.news()
    assert (begun.at, begun.ended) == (100.0, None)
    assert log.acting() == {"n/gpu-0": {"7g.40gb@0": first.kind}}
    log.record(WORKLOAD, done(first, error=FailedError("it broke")), 101.0)
    (ended,) = log.news()
    assert (ended.number, ended.ended, ended.error) == (begun.number, 101.0, "it broke")
    assert log.news() == []
    assert log.acting() == {}


def test_actions_left_open_are_closed_and_those_of_other_workloads_are_not() -> None:
    log = ActionLog(90.0)
    first, *_ = way(1).actions
    log.begin_round(FIRST, way(1), 100.0)
    log.intend(WORKLOAD, FIRST, [first], 100.0)
    log.recover(("teams", "other"), 101.0)
    assert log.acting()
    log.recover(WORKLOAD, 102.0)
    assert not log.acting()
    (ran,) = log.rounds(FIRST)[0].ran
    assert ran.ended == 102.0
    assert ran.error is not None


def test_old_records_and_old_transitions_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_log, "MOST_RECORDS", 10)
    monkeypatch.setattr(action_log, "MOST_ACTIONS", 9)
    monkeypatch.setattr(action_log, "MOST_ROUNDS", 3)
    log = ActionLog(90.0)
    at = carried_out(log, FIRST, 2)
    at = carried_out(log, SECOND, 2, at)
    assert log.rounds(FIRST)
    at = carried_out(log, ("teams", "w-3"), 2, at)
    assert not log.rounds(FIRST)
    assert log.rounds(SECOND)
    assert len(log.records()) == 10
    assert len(log.news()) == 10
    carried_out(log, ("teams", "w-4"), 20, at)
    assert [len(log.rounds(("teams", f"w-{n}"))) for n in range(1, 5)] == [0, 0, 0, 1]
    assert all(each.ended for each in log.rounds(("teams", "w-4"))[0].ran)  # though their records are gone
    for n in range(5):
        log.begin_round(SECOND, way(1), at + n)
    assert [each.at for each in log.rounds(SECOND)] == [at + 2, at + 3, at + 4]


def test_events_come_in_pages_each_in_one_of_them_though_more_happen_meanwhile() -> None:
    log = ActionLog(90.0)
    controller: Any = SimpleNamespace(log=log, caches=())
    at = carried_out(log, FIRST, 5)
    known = [each.number for each in log.records()]
    found, after = [], None
    while True:
        page = dash_changes.events(controller, after, 3, None)
        found += [each.number for each in page.events]
        at = carried_out(log, SECOND, 1, at)
        after = page.next
        if after is None:
            break
    assert found == known
    only = dash_changes.events(controller, None, 100, "n/gpu-3").events
    assert {each.gpu for each in only} == {"n/gpu-3"}
    for wrong in ("1", "a.b.c", "1.2", "1.2.", "-1.2.3"):
        with pytest.raises(InputError, match="no cursor"):
            dash_changes.events(controller, wrong, 3, None)
