"""What someone else has done is told from our own doing and from what changes by itself."""

from __future__ import annotations

import pytest
from tests.control.world import replica

from partita.control.executor import Fact, Snapshot, moved
from partita.mig.layout import Placement
from partita.transition.transition import Action, ActionKind

BERT = Fact(ours=True, busy=False, mig_uuid="MIG-1", serves="bert batch 8", settling=False)
IDLE = BERT._replace(serves=None)
KEY = ("g0", "3g.20gb@4")


def seen(fact: Fact | None, gpu: str = "ready") -> Snapshot:
    return Snapshot({"g0": gpu}, {KEY: fact} if fact else {})


def ours(kind: ActionKind) -> Action:
    return Action(
        "a0",
        kind,
        "g0",
        Placement(4, "3g.20gb"),
        None if "inst" in kind else replica("bert", "3g.20gb"),
        (),
        1.0,
    )


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (None, BERT, "is new"),
        (BERT, None, "is gone"),
        (BERT, BERT._replace(mig_uuid="MIG-2"), "was made anew"),
        (BERT, BERT._replace(ours=False), "is someone else's"),
        (BERT, BERT._replace(busy=True), "is in use by someone else's process"),
        (BERT, IDLE, "does not run bert batch 8 any more"),
        (BERT, IDLE._replace(settling=True), "does not run bert batch 8 any more"),
        (IDLE, BERT, "runs something new"),
    ],
)
def test_a_change_by_someone_else_is_told(before: Fact | None, now: Fact | None, told: str) -> None:
    assert moved(seen(before), seen(now)) == [f"g0: 3g.20gb@4 {told}"]


@pytest.mark.parametrize("now", [BERT, IDLE, IDLE._replace(settling=True)])
def test_a_replica_that_was_starting_or_draining_may_change_by_itself(now: Fact) -> None:
    assert moved(seen(IDLE._replace(settling=True)), seen(now)) == []


@pytest.mark.parametrize(
    ("kind", "before", "now"),
    [
        (ActionKind.CREATE_INSTANCE, None, IDLE),
        (ActionKind.DESTROY_INSTANCE, IDLE, None),
        (ActionKind.START_REPLICA, IDLE, BERT),
        (ActionKind.STOP_REPLICA, BERT, IDLE),
    ],
)
def test_our_own_doing_is_no_change(kind: ActionKind, before: Fact | None, now: Fact | None) -> None:
    assert moved(seen(before), seen(now), {KEY: ours(kind)}) == []


@pytest.mark.parametrize(
    ("kind", "now", "told"),
    [
        (ActionKind.CREATE_INSTANCE, None, "is gone"),
        (ActionKind.DESTROY_INSTANCE, IDLE, "is there again"),
        (ActionKind.START_REPLICA, IDLE, "does not run bert batch 8 any more"),
        (ActionKind.START_REPLICA, BERT._replace(ours=False), "was taken by someone else"),
    ],
)
def test_our_own_doing_undone_at_once_is_told(kind: ActionKind, now: Fact | None, told: str) -> None:
    assert moved(seen(None), seen(now), {KEY: ours(kind)}) == [f"g0: 3g.20gb@4 {told}"]


def test_what_was_under_way_or_failed_may_be_in_any_state_of_ours() -> None:
    for now in (None, IDLE, BERT):
        assert moved(seen(IDLE), seen(now), {KEY: None}) == []


def test_a_lost_gpu_is_told_once_and_not_for_each_instance() -> None:
    assert moved(seen(BERT), Snapshot({"g0": "lost"}, {})) == ["g0: is lost"]


def test_the_fingerprint_changes_with_what_a_transition_depends_on() -> None:
    found = {seen(fact).fingerprint for fact in (None, BERT, IDLE, BERT._replace(mig_uuid="x"))}
    assert len(found) == 4
    assert seen(BERT).fingerprint == seen(BERT).fingerprint
