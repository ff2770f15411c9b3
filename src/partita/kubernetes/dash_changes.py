"""Plans, Transitions and what was done, as the API shows them: from a controller's caches and its log of actions."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

from partita.control.journal import State
from partita.dash.local import event_of
from partita.dash.model import (
    CapacityLine,
    Event,
    EventPage,
    Transition,
    TransitionDetail,
    TransitionState,
)
from partita.dash.transitions import detail, state_of
from partita.errors import InputError, counted
from partita.kubernetes.journal import unfinished
from partita.kubernetes.pausing import paused_by
from partita.kubernetes.resources import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.kubernetes.action_log import ActionLog, Name
    from partita.kubernetes.api import Cache
    from partita.kubernetes.controller import ClusterController
    from partita.kubernetes.objects import ObjectMeta
    from partita.kubernetes.resources import PlanObject, TransitionObject, WorkloadObject

_GOES_ON = {TransitionState.RUNNING, TransitionState.PAUSED, TransitionState.STOPPED}
_WHOLE_S = 2.0
"""A status has whole seconds, and is written after the Transition has begun."""


def transitions(controller: ClusterController) -> list[Transition]:
    """Return all Transitions, newest first, and among them the Plans that wait for approval."""
    kept = _caches(controller)
    if kept is None:
        return []
    plans, found = kept
    waiting = [_waiting(each) for each in plans.values() if each.status.state == "Waiting"]
    paused = _paused(controller)
    begun = [_transition(each, paused.get(workload_of(each)), controller.log) for each in found.values()]
    return sorted([*waiting, *begun], key=lambda each: (-each.at, each.id))


def transition(controller: ClusterController, number: str) -> TransitionDetail | None:
    """Return a Transition in full, as far as this controller carried it out; None if there is none of that id."""
    of = next((each for each in transitions(controller) if each.id == number), None)
    kept, log = _caches(controller), controller.log
    if of is None or kept is None:
        return None
    found = next((each for each in kept[1].values() if _id(each.metadata) == number), None)
    if found is None or log is None:
        return TransitionDetail(of, (), (), ())
    name = found.metadata.namespace, found.metadata.name
    rounds = log.rounds(name)
    seen_from_its_begin = bool(rounds) and abs(rounds[0].at - of.at) <= _WHOLE_S
    start = rounds[0].at if seen_from_its_begin else min(of.at, *(each.at for each in rounds[:1]), of.at)
    made = detail(of, rounds, log.notes(name), start)
    if not seen_from_its_begin:
        made = made.replace(notes=(_unseen(found, log), *made.notes))
    if not rounds:  # all that its status says
        floors = sorted(found.status.floors.items())
        rates = found.spec.old_rates
        lines = (CapacityLine(name, floor, (), (), rates.get(name, 0.0)) for name, floor in floors)
        made = made.replace(capacity=tuple(lines))
    return made


def newest_plan(controller: ClusterController, key: Name | None = None) -> PlanObject | None:
    """Return the newest Plan of a Workload (namespace and name), or of all; None if there is none."""
    kept = _caches(controller)
    if kept is None:
        return None
    found = [each for each in kept[0].values() if key is None or workload_of(each) == key]
    return max(
        found,
        key=lambda each: (each.metadata.creation_timestamp, number_of(each.metadata.name)),
        default=None,
    )


def workload_of(made: PlanObject | TransitionObject) -> Name:
    """Return namespace and name of the Workload that a Plan or Transition is of."""
    return made.metadata.namespace, made.spec.workload.name


def in_progress(controller: ClusterController) -> list[TransitionObject]:
    """Return the Transitions that are neither reached nor replaced."""
    kept = _caches(controller)
    return [] if kept is None else [each for each in kept[1].values() if unfinished(each)]


def workload_in_progress(controller: ClusterController, number: str) -> WorkloadObject | None:
    """Return the Workload of a Transition that is in progress; None if it is not."""
    of = next((each for each in transitions(controller) if each.id == number), None)
    kept = _caches(controller)
    if kept is None or of is None or of.state not in _GOES_ON:
        return None
    found = next((each for each in kept[1].values() if _id(each.metadata) == number), None)
    if found is None:
        return None
    namespace, name = workload_of(found)
    workload: WorkloadObject | None = controller.caches[0].get(name, namespace)
    return workload


def _unseen(found: TransitionObject, log: ActionLog) -> Event:
    """Return a note that says that not all of a Transition is known."""
    ended = found.status.ended and _seconds(found.status.ended) < log.since
    text = "an earlier controller carried it out" if ended else "an earlier controller began it"
    number = _number(found.metadata, 2)
    return Event(number, log.since, "note", f"{text}, and its actions are not known", ended=log.since)


def events(controller: ClusterController, after: str | None, limit: int, gpu: str | None) -> EventPage:
    """Return a page of what was planned and done, newest first.

    Args:
        controller: the controller.
        after: the cursor of the page before: microseconds, and a number; None for the newest.
        limit: most events.
        gpu: id of the GPU that they are of; None for all.

    Raises:
        InputError: it is no cursor.
    """
    found = [] if controller.log is None else [event_of(each) for each in controller.log.records(gpu)]
    if gpu is None:
        found += _objects(controller)
    found.sort(key=_place, reverse=True)
    if after is not None:
        before = _cursor(after)
        found = [each for each in found if _place(each) < before]
    page = tuple(found[:limit])
    following = ".".join(map(str, (*_place(page[-1]), 0))) if len(found) > limit else None
    return EventPage(page, following)


def _place(event: Event) -> tuple[int, int]:
    return int(event.at * 1e6), event.number


def _cursor(text: str) -> tuple[int, int]:
    parts = text.split(".")
    if len(parts) != 3 or not all(each.isascii() and each.isdecimal() and len(each) < 19 for each in parts):
        raise InputError(f"{text!r} is no cursor", where="after", hint="use `next` of the page before")
    return int(parts[0]), int(parts[1])


def _objects(controller: ClusterController) -> Iterator[Event]:
    kept = _caches(controller)
    if kept is None:
        return
    plans, found = kept
    for plan in plans.values():
        text = f"{plan.metadata.name}: {counted(plan.spec.used, 'GPU')}: {plan.spec.why}"
        yield Event(_number(plan.metadata, 3), _seconds(plan.metadata.creation_timestamp), "goal", text)
    for each in found.values():
        status = each.status
        text = f"{each.metadata.name}: {status.state or 'begins'}, {status.progress or 'no actions yet'}"
        at = _seconds(status.begun or each.metadata.creation_timestamp)
        yield Event(_number(each.metadata, 0), at, "state", text, ended=_seconds(status.ended) or None)


def _number(meta: ObjectMeta, kind: int) -> int:
    """Return a number of an object's own, below 2**52, so that JavaScript reads it whole."""
    digits = "".join(each for each in meta.uid if each in "0123456789abcdef")[:12]
    return int(digits or "0", 16) * 4 + kind


def _caches(
    controller: ClusterController,
) -> tuple[Cache[PlanObject], Cache[TransitionObject]] | None:
    """Return the caches of Plans and Transitions; None before the controller ever led."""
    caches = controller.caches
    return (caches[1], caches[2]) if len(caches) >= 3 else None


def _waiting(plan: PlanObject) -> Transition:
    return Transition(
        _id(plan.metadata),
        _seconds(plan.metadata.creation_timestamp),
        f"kubectl partita approve {plan.metadata.name}",
        TransitionState.WAITING,
        0,
        0,
        0.0,
    )


def _paused(controller: ClusterController) -> dict[Name, str]:
    """Return who paused Workloads, by those."""
    found = controller.caches[0].values() if controller.caches else ()
    return {
        (each.metadata.namespace, each.metadata.name): by
        for each in found
        if (by := paused_by(each)) is not None
    }


def _transition(found: TransitionObject, paused: str | None, log: ActionLog | None) -> Transition:
    status = found.status
    state = State(status.state.lower()) if status.state not in {"", "Paused"} else State.RUNNING
    begun, ended = _seconds(status.begun), _seconds(status.ended)
    predicted = (time.time() - begun + status.seconds_left) if begun and not ended else _predicted(found, log)
    return Transition(
        _id(found.metadata),
        begun or _seconds(found.metadata.creation_timestamp),
        f"kubectl get workload {found.spec.workload.name}",
        state_of(state, paused if state in {State.RUNNING, State.STOPPED} else None),
        status.done,
        status.actions,
        round(max(0.0, predicted)),
        ended or None,
        max(0, status.replans),
    )


def _predicted(found: TransitionObject, log: ActionLog | None) -> float:
    """Return the seconds that were predicted of an ended Transition; where nobody knows, those that it took."""
    begun, ended = _seconds(found.status.begun), _seconds(found.status.ended)
    rounds = [] if log is None else log.rounds((found.metadata.namespace, found.metadata.name))
    if not rounds or abs(rounds[0].at - begun) > _WHOLE_S or rounds[-1].prediction is None:
        return ended - begun
    last = max((each.end for each in rounds[-1].prediction.actions), default=0.0)
    return rounds[-1].at - rounds[0].at + last


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _id(meta: ObjectMeta) -> str:
    """Return an id for paths: no namespace has a dot in its name."""
    return f"{meta.namespace}.{meta.name}"
