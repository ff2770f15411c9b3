"""Goals as Transitions: what a next controller finds, whatever the one before had written."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from partita.control.cluster_view import Snapshot
from partita.control.goal import Goal, fingerprint
from partita.control.journal import JournalError, State
from partita.kubernetes.action_log import ActionLog
from partita.kubernetes.journal import ApiJournal, EventLog, WorkloadRecords, conditions_with, nearest_service
from partita.kubernetes.objects import ForbiddenError, ObjectMeta
from partita.kubernetes.resources import PLANS, TRANSITIONS, Condition, WorkloadObject
from partita.mig.layout import Placement
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.transition.transition import Action, ActionKind, Transition

RUNS = Replica("a", "m", 8, 1, 700.0, 20.0)


class Objects:
    """The API of objects alone, in memory; it refuses what a test says."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}
        self.writes: dict[tuple[str, str], int] = {}
        self.refused: set[str] = set()
        self._version = itertools.count(1)

    def cache(self, kind: Any) -> Any:
        objects = self

        class Cached:
            def values(self) -> tuple[Any, ...]:
                return tuple(
                    objects._typed(kind, each) for key, each in objects.kept.items() if key[0] == kind.plural
                )

        return Cached()

    def _typed(self, kind: Any, body: dict[str, Any]) -> Any:
        return msgspec.convert(body, kind.type)

    def _put(self, kind: Any, verb: str, body: dict[str, Any]) -> Any:
        if verb in self.refused:
            raise ForbiddenError(f"no right to {verb} {kind.plural}")
        self.writes[verb, kind.plural] = self.writes.get((verb, kind.plural), 0) + 1
        meta = body["metadata"]
        meta["resourceVersion"] = str(next(self._version))
        self.kept[kind.plural, meta["name"]] = body
        return self._typed(kind, body)

    def create(self, kind: Any, body: dict[str, Any]) -> Any:
        return self._put(
            kind, "create", {**body, "metadata": {"uid": body["metadata"]["name"], **body["metadata"]}}
        )

    def get(self, kind: Any, name: str, _namespace: str) -> Any:
        return self._typed(kind, self.kept[kind.plural, name])

    def replace(self, kind: Any, body: dict[str, Any]) -> Any:
        before = self.kept[kind.plural, body["metadata"]["name"]]
        return self._put(kind, "update", {**before, "spec": body["spec"]})

    def patch(
        self, kind: Any, name: str, changes: dict[str, Any], _namespace: str, *, subresource: str
    ) -> Any:
        before = self.kept[kind.plural, name]
        status = {**before.get("status", {}), **changes[subresource]}
        return self._put(kind, "patch", {**before, "metadata": dict(before["metadata"]), "status": status})

    def delete(self, kind: Any, name: str, _namespace: str) -> bool:
        del self.kept[kind.plural, name]
        return True

    def of(self, plural: str) -> list[dict[str, Any]]:
        return [each for key, each in self.kept.items() if key[0] == plural]


class Desk:
    """What a controller has of one Workload; another one is another controller's."""

    def __init__(self, objects: Objects) -> None:
        api: Any = objects
        meta = ObjectMeta("w", "teams", "u", "1", 1)
        self.log: list[str] = []
        self.records = WorkloadRecords(
            api,
            WorkloadObject(metadata=meta),
            objects.cache(PLANS),
            objects.cache(TRANSITIONS),
            self.log.append,
        )
        self.serving: list[int] = []
        events = EventLog(self.records, self.log.append)
        self.actions = ActionLog(0.0)
        self.paused_by: str | None = None
        self.journal = ApiJournal(
            self.records,
            events,
            self.actions,
            lambda: self.paused_by,
            lambda _capacity, used: self.serving.append(used),
        )


@pytest.fixture
def objects() -> Objects:
    return Objects()


def target(n: int) -> Deployment:
    cut = (DeployedInstance(Placement(0, "7g.40gb"), RUNS),)
    return Deployment(tuple(DeployedGpu(f"n/gpu-{i}", "a100-40gb", cut) for i in range(n)))


def goal(n: int, old: float = 0.0) -> Goal:
    wanted = target(n)
    return Goal(wanted, {"a": old} if old else {}, {"a": 700.0 * n}, source=fingerprint(wanted))


def way(n: int) -> Transition:
    make = [
        Action(f"c{i}", ActionKind.CREATE_INSTANCE, f"n/gpu-{i}", Placement(0, "7g.40gb"), None, (), 1.0)
        for i in range(n)
    ]
    start = [
        Action(
            f"s{i}", ActionKind.START_REPLICA, f"n/gpu-{i}", Placement(0, "7g.40gb"), RUNS, (f"c{i}",), 60.0
        )
        for i in range(n)
    ]
    return Transition("shortest", (*make, *start), {"a": 100.0}, target(n), 61.0, n, 0)


def test_a_goal_that_a_killed_controller_left_is_found_and_ended_by_the_next(objects: Objects) -> None:
    first = Desk(objects).journal
    assert first.unfinished() is None
    assert first.promised() is None
    first.begin_goal(goal(2), "c", 0.0)
    assert not objects.of("transitions")  # nothing is to be done yet
    first.begin_round(goal(2), way(2), 0.0)
    second = Desk(objects).journal
    assert second.unfinished() == goal(2)
    assert second.promised() == {}
    second.begin_goal(goal(2), "c", 0.0)
    second.end_goal(State.REACHED, 0.0)
    (made,) = objects.of("transitions")
    assert made["status"]["state"] == "Reached"
    assert made["status"]["progress"] == "4/4"
    third = Desk(objects).journal
    assert third.unfinished() is None
    assert third.promised() == {"a": 1400.0}


def test_progress_tells_what_is_left(objects: Objects) -> None:
    desk = Desk(objects)
    desk.journal.begin_goal(goal(2), "c", 0.0)
    desk.journal.begin_round(goal(2), way(2), 0.0)
    (made,) = objects.of("transitions")
    assert made["status"]["left"] == "1m01s"
    assert made["status"]["progress"] == "0/4"
    assert {each["type"]: each["status"] for each in made["status"]["conditions"]} == {
        "Progressing": "True",
        "Degraded": "False",
        "Reached": "False",
    }
    assert any("4 actions, about 1m01s" in each for each in desk.log)


def test_another_goal_replaces_one_that_was_not_reached(objects: Objects) -> None:
    desk = Desk(objects)
    desk.journal.begin_goal(goal(2), "c", 0.0)
    desk.journal.begin_round(goal(2), way(2), 0.0)
    desk.journal.end_goal(State.STOPPED, 0.0)
    desk.journal.begin_goal(goal(1, old=500.0), "c", 0.0)
    desk.journal.begin_round(goal(1, old=500.0), way(1), 0.0)
    assert [each["status"]["state"] for each in objects.of("transitions")] == ["Replaced", "Running"]
    assert desk.journal.promised() == {"a": 500.0}


def test_rates_that_change_alone_are_kept_without_an_action(objects: Objects) -> None:
    desk = Desk(objects)
    for rates in ({"a": 600.0}, {"a": 600.0}, {"a": 650.0}):
        desk.journal.begin_goal(Goal(target(1), {}, rates, source="s"), "c", 0.0)
        desk.journal.end_goal(State.REACHED, 0.0)
    assert [each["spec"]["newRates"] for each in objects.of("transitions")] == [{"a": 600.0}, {"a": 650.0}]
    assert desk.journal.promised() == {"a": 650.0}


def test_old_transitions_go(objects: Objects) -> None:
    desk = Desk(objects)
    for n in range(10):
        desk.journal.begin_goal(Goal(target(1), {}, {"a": 1.0 + n}, source="s"), "c", 0.0)
        desk.journal.end_goal(State.REACHED, 0.0)
    assert [each["metadata"]["name"] for each in objects.of("transitions")] == [
        f"w-{n}" for n in range(5, 11)
    ]


def test_a_goal_that_cannot_be_written_is_not_begun(objects: Objects) -> None:
    desk = Desk(objects)
    objects.refused = {"create"}
    desk.journal.begin_goal(goal(1), "c", 0.0)
    with pytest.raises(JournalError, match="no right to create transitions"):
        desk.journal.begin_round(goal(1), way(1), 0.0)


def test_what_is_seen_is_remembered(objects: Objects) -> None:
    journal = Desk(objects).journal
    assert journal.seen() is None
    journal.record((), Snapshot({"g": "ready"}, {}), 0.0)
    assert journal.seen() == Snapshot({"g": "ready"}, {})
    assert journal.recover(0.0) == {}


def test_a_condition_keeps_the_time_of_its_status() -> None:
    (first,) = conditions_with((), [Condition("Ready", "True", "Serving")])
    old = msgspec.structs.replace(first, last_transition_time="2001-01-01T00:00:00Z")
    (same,) = conditions_with([old], [Condition("Ready", "True", "Other", "text")])
    assert (same.last_transition_time, same.message) == ("2001-01-01T00:00:00Z", "text")
    (other,) = conditions_with([same], [Condition("Ready", "False", "Other")])
    assert other.last_transition_time > "2020"


def test_the_nearest_service_is_the_one_with_the_least_of_its_rate() -> None:
    assert nearest_service({"a": 100.0, "b": 50.0}, {"a": 90.0, "b": 60.0, "c": 0.0}) == "b 50/60"
    assert nearest_service({}, {}) == ""


def test_a_pause_is_told_once_and_a_next_controller_tells_it_too(objects: Objects) -> None:
    desk = Desk(objects)
    journal = desk.journal
    journal.begin_goal(goal(2), "c", 0.0)
    journal.begin_round(goal(2), way(2), 0.0)
    assert journal.paused() is None
    written = dict(objects.writes)
    journal.show_pause()
    assert objects.writes == written
    desk.paused_by = "ann"
    assert journal.paused() == "ann"
    for _ in range(3):
        journal.show_pause()
    (made,) = objects.of("transitions")
    assert made["status"]["state"] == "Paused"
    progressing = next(each for each in made["status"]["conditions"] if each["type"] == "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "Paused")
    assert "paused by ann: 0 of 4 actions done; `kubectl partita resume w`" in progressing["message"]
    assert objects.writes["patch", "transitions"] == written["patch", "transitions"] + 1
    after = Desk(objects)
    after.paused_by = "ann"
    after.journal.begin_goal(goal(2), "c", 0.0)
    after.journal.begin_round(goal(2), way(2), 0.0)
    assert objects.of("transitions")[0]["status"]["state"] == "Paused"
    after.paused_by = None
    after.journal.show_pause()
    (made,) = objects.of("transitions")
    assert made["status"]["state"] == "Running"
    after.journal.end_goal(State.REACHED, 0.0)
    assert objects.of("transitions")[0]["status"]["state"] == "Reached"
