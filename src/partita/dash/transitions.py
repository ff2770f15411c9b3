"""Transitions from the journal: a list of them, and one in full, predicted and actual."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from partita.control.journal import State
from partita.dash.model import (
    ActionBar,
    CapacityLine,
    Event,
    Transition,
    TransitionDetail,
    TransitionPage,
    TransitionState,
)
from partita.errors import InputError
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from partita.control.journal import GoalRecord, Journal, Progress, Ran, Record, RoundRecord

_MOST_STEPS, _MOST_NOTES = 1000, 1000
"""Of a service's capacity, and of a transition."""

_STATES = {
    State.RUNNING: TransitionState.RUNNING,
    State.REACHED: TransitionState.REACHED,
    State.STOPPED: TransitionState.STOPPED,
    State.REPLACED: TransitionState.REPLACED,
}


def state_of(state: State, paused: str | None) -> TransitionState:
    """Return where a transition is, by where its goal is and who paused it."""
    return _STATES[state] if paused is None else TransitionState.PAUSED


def transitions(journal: Journal | None, after: str | None, limit: int) -> TransitionPage:
    """Return a page of transitions, newest first.

    Args:
        journal: None where nothing was ever applied.
        after: id of the last one of the page before; None for the newest.
        limit: most transitions.

    Raises:
        InputError: it is no id.
        JournalError: the journal cannot be read.
    """
    if after is not None and not _is_id(after):
        raise InputError(
            f"{after!r} is no cursor", where="after", hint="use `next` of the page before, or leave it out"
        )
    if journal is None:
        return TransitionPage(())
    found = journal.goals(limit + 1, *(() if after is None else (int(after),)))
    page = tuple(map(transition_of, found[:limit]))
    return TransitionPage(page, page[-1].id if len(found) > limit else None)


def transition(journal: Journal | None, number: str) -> TransitionDetail | None:
    """Return a transition in full; None if there is none of that id.

    Raises:
        JournalError: the journal cannot be read.
    """
    if journal is None or not _is_id(number):
        return None
    found = journal.goals(1, int(number) + 1)
    if not found or found[0].id != int(number):
        return None
    rounds, notes = journal.rounds(found[0].id), journal.notes(found[0].id)
    return detail(transition_of(found[0]), rounds, notes, rounds[0].at if rounds else found[0].at)


def page_of(whole: TransitionDetail, after: str | None, limit: int) -> TransitionDetail:
    """Return a page of a transition's actions; the first has its capacity and notes, too, and not without end.

    Args:
        whole: the transition with all of its actions.
        after: how many actions the pages before had; None for the first page.
        limit: most actions.

    Raises:
        InputError: `after` is no such number.
    """
    if after is not None and not _is_id(after):
        raise InputError(
            f"{after!r} is no cursor", where="after", hint="use `next` of the page before, or leave it out"
        )
    begin = int(after or 0)
    following = begin + limit
    first = after is None
    return whole.replace(
        actions=whole.actions[begin:following],
        capacity=tuple(map(_thinned, whole.capacity)) if first else (),
        notes=whole.notes[-_MOST_NOTES:] if first else (),
        next=str(following) if following < len(whole.actions) else None,
    )


def _thinned(line: CapacityLine) -> CapacityLine:
    return line.replace(predicted=_fewer(line.predicted), actual=_fewer(line.actual))


def _fewer(steps: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Return at most so many steps: the first, the last, and of each run of others the lowest."""
    if len(steps) <= _MOST_STEPS:
        return steps
    first, *inner, last = steps
    size = -(-len(inner) // (_MOST_STEPS - 2))
    runs = (inner[at : at + size] for at in range(0, len(inner), size))
    return (first, *(min(run, key=lambda step: step[1]) for run in runs), last)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def transition_of(goal: GoalRecord | Progress) -> Transition:
    """Return how far a goal is, as a transition."""
    return Transition(
        str(goal.id),
        goal.at,
        goal.command,
        state_of(goal.state, goal.paused),
        goal.done,
        goal.actions,
        goal.makespan,
        goal.ended,
        goal.replans,
    )


def detail(
    of: Transition, rounds: Sequence[RoundRecord], notes: Iterable[Record], start: float
) -> TransitionDetail:
    """Return a goal's transitions as one.

    Where a transition was ordered again, what the earlier one predicted counts until then, and those of its actions
    that were never begun are left out.

    Args:
        of: the goal as a transition.
        rounds: the transitions for it, oldest first.
        notes: of it.
        start: when it began; all times are seconds from then on.
    """
    bars: list[ActionBar] = []
    for index, each in enumerate(rounds):
        prefix = f"{index + 1}." if index else ""
        bars += _bars(each, each.at - start, start, prefix, last=index == len(rounds) - 1)
    bars.sort(key=lambda bar: (bar.begin, bar.end, bar.id))
    told = tuple(
        Event(each.number, each.at, each.kind, each.text, ended=each.ended, error=each.error)
        for each in notes
    )
    return TransitionDetail(of, tuple(bars), tuple(_lines(rounds, start)), told)


def _bars(of: RoundRecord, offset: float, start: float, prefix: str, *, last: bool) -> Iterator[ActionBar]:
    ran: dict[str, list[Ran]] = defaultdict(list)
    for each in of.ran:
        ran[each.id].append(each)
    for action in of.prediction.actions if of.prediction is not None else ():
        tries = ran.pop(action.id, [])
        if not tries and not last:
            continue
        yield ActionBar(
            prefix + action.id,
            action.kind.value,
            action.gpu,
            action.placement,
            action.service,
            offset + action.begin,
            offset + action.end,
            *_actual(tries, start),
        )
    # What had to come before an action, and all actions that an older version wrote down, was not predicted.
    for name, tries in ran.items():
        first, (began, ended, error) = tries[0], _actual(tries, start)
        at = first.begun - start
        yield ActionBar(
            prefix + name,
            first.kind.value,
            first.gpu,
            first.placement,
            first.service,
            at,
            at if ended is None else ended,
            began,
            ended,
            error,
        )


def _actual(tries: Sequence[Ran], start: float) -> tuple[float | None, float | None, str | None]:
    """Return when an action began, when its last try ended, and the error of that."""
    if not tries:
        return None, None, None
    last = tries[-1]
    return tries[0].begun - start, None if last.ended is None else last.ended - start, last.error


_Steps = list[tuple[float, float]]
"""Seconds from the begin, and the items/s from then on."""


def _lines(rounds: Sequence[RoundRecord], start: float) -> Iterator[CapacityLine]:
    """Yield the capacity of each service that a transition changes, by name."""
    known = [each for each in rounds if each.prediction is not None]
    if not known:
        return
    predicted: dict[str, _Steps] = defaultdict(list)
    floors: dict[str, float] = {}
    changes: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for index, each in enumerate(known):
        if each.prediction is None:
            continue
        until = known[index + 1].at - start if index + 1 < len(known) else None
        first = each.prediction.capacity
        floors |= each.prediction.floors
        planned: dict[str, list[tuple[float, float]]] = defaultdict(list)
        serves = {}
        for action in each.prediction.actions:
            serves[action.id] = action.serves
            begun = action.kind is ActionKind.STOP_REPLICA
            for service, throughput in action.serves.items():
                planned[service].append((action.begin, -throughput) if begun else (action.end, throughput))
        offset = each.at - start
        for service in first.keys() | planned.keys():
            steps = _steps(first.get(service, 0.0), planned[service], offset)
            predicted[service] += [step for step in steps if until is None or step[0] < until]
        for ran in each.ran:
            for service, throughput in serves.get(ran.id, {}).items():
                changes[service] += _change(ran, throughput, start)
    first = known[0].prediction.capacity if known[0].prediction is not None else {}
    for service in sorted(predicted):
        before = _items(first.get(service, 0.0))
        actual = _steps(before, changes[service], 0.0)
        if len(predicted[service]) > len(known) or len(actual) > 1 or actual[0][1] != before:
            floor = floors.get(service, 0.0)
            yield CapacityLine(service, floor, tuple(predicted[service]), tuple(actual), before)


def _change(ran: Ran, throughput: float, start: float) -> Iterator[tuple[float, float]]:
    """Yield what an action that was begun did to a service's capacity."""
    if ran.kind is ActionKind.STOP_REPLICA:
        yield ran.begun - start, -throughput
    elif ran.ended is not None and ran.error is None:
        yield ran.ended - start, throughput


def _items(rate: float) -> float:
    """Return items/s to nine digits, without the rest of 1e-13 that adding and taking away leaves."""
    return float(f"{round(rate, 6):z.9g}")


def _steps(first: float, changes: Iterable[tuple[float, float]], offset: float) -> _Steps:
    """Return a value over time in steps, the first one at `offset`; changes at one moment are one step."""
    at: dict[float, float] = {0.0: 0.0}
    for second, change in sorted(changes):
        at[second] = at.get(second, 0.0) + change
    steps: _Steps = []
    value = first
    for second, change in at.items():
        value += change
        if not steps or change:
            steps.append((round(offset + second, 3), _items(value)))
    return steps
