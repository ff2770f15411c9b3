"""What a controller has begun and done since it leads, in memory: actions and notes, for the dashboard.

The API keeps Plans and Transitions, and no single actions: a controller of ten thousand GPUs would write all day. So
the controller that leads remembers those that it carries out itself. The next one begins with an empty log. What is
kept is bounded: the newest records, and of the newest Transitions what was predicted and what ran.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from zlib import compress, decompress

from partita.control.journal import Prediction, Ran, Record, RoundRecord, predicted
from partita.documents.text import compact, decode
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from partita.drive.driver import ActionResult
    from partita.transition.transition import Action, Transition

Name = tuple[str, str]
"""Namespace and name of an object."""

MOST_RECORDS = 20_000
MOST_ACTIONS = 50_000
"""Actions of all Transitions together that are kept with their prediction; the newest Transition always is."""
MOST_ROUNDS = 20
"""Schedules of one Transition that are kept."""
_UNKNOWN = "unknown: the controller was interrupted meanwhile"


@dataclass(slots=True)
class _Round:
    """One schedule of a Transition: its prediction, compressed, since that is only read when somebody looks."""

    at: float
    prediction: bytes
    actions: int
    ran: list[Ran] = field(default_factory=list)


@dataclass(slots=True)
class _Entry:
    """A record, and where it belongs.

    Attributes:
        place: the schedule of its action, and the action's place in `ran`.
    """

    record: Record
    transition: Name | None
    place: tuple[_Round, int] | None = None


class ActionLog:
    """The log of one time of leadership; all methods may be called from any thread.

    Args:
        now: seconds since 1970.

    Attributes:
        since: from when on it knows what was done.
    """

    def __init__(self, now: float) -> None:
        self.since = now
        self._lock = threading.Lock()
        self._number = int(now * 1000)  # larger than those of all earlier logs, by which pages know events
        self._entries: dict[int, _Entry] = {}
        self._rounds: dict[Name, list[_Round]] = {}
        self._open: dict[Name, dict[str, _Entry]] = {}  # actions in progress, by Workload and id
        self._news: dict[int, None] = {}
        self._note(None, "this controller leads from here on, and knows no earlier actions", now)

    # What the controller tells

    def begin_round(self, transition: Name, way: Transition, at: float) -> None:
        """Take down a schedule of a Transition that begins now."""
        prediction = compress(compact(predicted(way)).encode())
        with self._lock:
            rounds = self._rounds.pop(transition, [])[-(MOST_ROUNDS - 1) :]
            self._rounds[transition] = [*rounds, _Round(at, prediction, len(way.actions))]
            kept = sum(each.actions for rounds in self._rounds.values() for each in rounds)
            for name in [*self._rounds][:-1]:
                if kept > MOST_ACTIONS:
                    kept -= sum(each.actions for each in self._rounds.pop(name))

    def intend(self, workload: Name, transition: Name, actions: Iterable[Action], at: float) -> None:
        """Take down actions that are about to begin."""
        with self._lock:
            rounds = self._rounds.get(transition)
            for each in actions:
                service = each.replica.service if each.replica is not None else None
                place = str(each.placement)
                for_whom = f" {service}" if service else ""
                text = f"{each.kind.value.replace('_', ' ')}{for_whom} on {each.gpu} {place}"
                record = Record(
                    self._next(1), "action", at, None, None, text, each.gpu, service, place, each.kind.value
                )
                entry = _Entry(record, transition)
                if rounds:
                    entry.place = rounds[-1], len(rounds[-1].ran)
                    rounds[-1].ran.append(Ran(each.id, each.kind, each.gpu, place, service, at, None, None))
                self._open.setdefault(workload, {})[each.id] = entry
                self._keep(entry)

    def record(self, workload: Name, ended: Iterable[ActionResult], at: float) -> None:
        """Take down how actions ended."""
        with self._lock:
            for each in ended:
                self._end(workload, each.action.id, at, None if each.error is None else str(each.error))

    def recover(self, workload: Name, at: float) -> None:
        """Close the actions of a Workload that were left open when something went wrong."""
        with self._lock:
            for name in [*self._open.get(workload, ())]:
                self._end(workload, name, at, _UNKNOWN)

    def note(self, transition: Name | None, text: str, at: float) -> None:
        """Take down something that a person should know."""
        with self._lock:
            self._note(transition, text, at)

    # What is asked

    def rounds(self, transition: Name) -> list[RoundRecord]:
        """Return the schedules of a Transition, oldest first; empty if none is known."""
        with self._lock:
            found = [(each.at, each.prediction, tuple(each.ran)) for each in self._rounds.get(transition, ())]
        return [
            RoundRecord(at, decode(decompress(text), Prediction, "a prediction"), ran)
            for at, text, ran in found
        ]

    def notes(self, transition: Name) -> list[Record]:
        """Return the notes of a Transition, oldest first."""
        with self._lock:
            return [
                each.record
                for each in self._entries.values()
                if each.transition == transition and each.record.kind == "note"
            ]

    def records(self, gpu: str | None = None) -> list[Record]:
        """Return what was done, newest first.

        Args:
            gpu: id of the GPU of actions; None for all that is known.
        """
        with self._lock:
            found = [each.record for each in self._entries.values() if gpu in (None, each.record.gpu)]
        return found[::-1]

    def news(self) -> list[Record]:
        """Return what began or ended since the last call, oldest first."""
        with self._lock:
            found = [self._entries[number].record for number in sorted(self._news)]
            self._news.clear()
        return found

    def acting(self) -> Mapping[str, Mapping[str, ActionKind]]:
        """Return the kinds of the actions in progress, by GPU and placement."""
        found: dict[str, dict[str, ActionKind]] = {}
        with self._lock:
            records = [entry.record for each in self._open.values() for entry in each.values()]
        for each in records:
            if each.gpu is not None and each.placement is not None and each.action is not None:
                found.setdefault(each.gpu, {})[each.placement] = ActionKind(each.action)
        return found

    # Parts; all with the lock held

    def _next(self, kind: int) -> int:
        """Return the number of the next record of a kind, as the journal in a file numbers them."""
        self._number += 1
        return self._number * 4 + kind

    def _note(self, transition: Name | None, text: str, at: float) -> None:
        self._keep(_Entry(Record(self._next(2), "note", at, at, None, text), transition))

    def _keep(self, entry: _Entry) -> None:
        self._entries[entry.record.number] = entry
        self._news[entry.record.number] = None
        if len(self._entries) > MOST_RECORDS:
            oldest = next(iter(self._entries))
            del self._entries[oldest]
            self._news.pop(oldest, None)

    def _end(self, workload: Name, action: str, at: float, error: str | None) -> None:
        entry = self._open.get(workload, {}).pop(action, None)
        if entry is None:
            return
        entry.record = replace(entry.record, ended=at, error=error)
        if entry.record.number in self._entries:
            self._news[entry.record.number] = None
        if entry.place is not None:
            of, index = entry.place
            of.ran[index] = replace(of.ran[index], ended=at, error=error)
