"""The journal: what a controller wants, intends, has done and has seen, on the disk before it acts on it."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol, TextIO
from zlib import compress, decompress

from partita.control.cluster_view import Fact, Snapshot
from partita.control.goal import goal_of, goal_text
from partita.documents.codec import Value
from partita.documents.text import compact, decode, line
from partita.errors import InputError, PartitaError
from partita.store import Database, DatabaseFormat
from partita.transition.check import ActionGraph
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from sqlite3 import Connection

    from partita.control.cluster_view import Key
    from partita.control.goal import Goal
    from partita.drive.driver import ActionResult
    from partita.transition.transition import Action, Transition


FILE = "journal.sqlite3"
_KEPT_GOALS = 100

_SCHEMA = """
CREATE TABLE goals (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, command TEXT NOT NULL, document TEXT NOT NULL,
    state TEXT NOT NULL, ended REAL
);
CREATE TABLE rounds (
    id INTEGER PRIMARY KEY, goal INTEGER NOT NULL REFERENCES goals (id) ON DELETE CASCADE, at REAL NOT NULL,
    actions INTEGER NOT NULL, makespan REAL NOT NULL, moved INTEGER NOT NULL, prediction BLOB
);
CREATE TABLE actions (
    seq INTEGER PRIMARY KEY, round INTEGER NOT NULL REFERENCES rounds (id) ON DELETE CASCADE,
    id TEXT NOT NULL, kind TEXT NOT NULL, gpu TEXT NOT NULL, placement TEXT NOT NULL, service TEXT,
    begun REAL NOT NULL, ended REAL, error TEXT
);
CREATE INDEX actions_open ON actions (round, id) WHERE ended IS NULL;
CREATE TABLE notes (
    seq INTEGER PRIMARY KEY, goal INTEGER REFERENCES goals (id) ON DELETE CASCADE, at REAL NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE seen (gpu TEXT NOT NULL, placement TEXT NOT NULL, fact TEXT NOT NULL, PRIMARY KEY (gpu, placement))
    WITHOUT ROWID;
CREATE TABLE pauses (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL, by TEXT NOT NULL)
"""
_TO_2 = (
    "ALTER TABLE rounds ADD COLUMN prediction BLOB",
    "CREATE TABLE pauses (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL, by TEXT NOT NULL)",
)


class JournalError(PartitaError):
    """The journal cannot be read or written."""


_ANEW = (
    "start a new one: `mv {path} {path}.kept; mv {path}-wal {path}.kept-wal`; what runs is observed again, but the "
    "rates promised until now are lost (the capacity that runs replaces them)"
)
_FORMAT = DatabaseFormat(
    name="the journal",
    version=2,
    steps={0: _SCHEMA.split(";"), 1: _TO_2},
    if_damaged=f"it is kept as it is; {_ANEW}",
    if_other=f"use the partita that wrote it, or {_ANEW}",
    if_removed="put the file back, and run the command again",
    patience_s=30.0,
    raises=JournalError,
)

_ACTIONS = (
    "SELECT seq * 4 + 1, 'action', begun, ended, error,"
    " replace(kind, '_', ' ') || coalesce(' ' || service, '') || ' on ' || gpu || ' ' || placement,"
    " gpu, service, placement, kind FROM actions"
)
_NOTES = "SELECT seq * 4 + 2, 'note', at, at, NULL, text FROM notes"
_GOALS = "SELECT id * 4 + 3, 'goal', at, ended, NULL, command FROM goals"
"""Rows as `Record` has its fields."""

_LAST = "(SELECT max(id) FROM rounds WHERE goal = g.id)"
_DONE = "ended IS NOT NULL AND error IS NULL AND id NOT LIKE '%/%'"
_GOAL_RECORDS = f"""
SELECT g.id, g.at, g.command, g.state, g.ended,
       (SELECT count(DISTINCT id) FROM actions WHERE round = {_LAST} AND {_DONE}),
       coalesce((SELECT actions FROM rounds WHERE id = {_LAST}), 0),
       coalesce((SELECT makespan FROM rounds WHERE id = {_LAST}), 0.0),
       (SELECT count(*) FROM rounds WHERE goal = g.id)
FROM goals g
"""  # noqa: S608 -- all from constants of this file
"""Rows as `GoalRecord` has its fields."""

_RAN = "SELECT id, kind, gpu, placement, service, begun, ended, error FROM actions"
"""Rows as `Ran` has its fields."""

_Rows = dict[str, "Fact | str"]
"""What was seen of a GPU: its condition under an empty text, and each instance under its placement."""


class State(StrEnum):
    """Where a goal is: in progress, reached, stopped before that, or replaced by another."""

    RUNNING = "running"
    REACHED = "reached"
    STOPPED = "stopped"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal: when it began, on the cluster's clock, what it was, when it ended, and its error."""

    at: float
    text: str
    ended: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the journal, with what it is about.

    Attributes:
        number: unique among all kinds.
        kind: action, note or goal.
        at: when it began, on the cluster's clock.
        action: the kind of action; None for what is none.
    """

    number: int
    kind: str
    at: float
    ended: float | None
    error: str | None
    text: str
    gpu: str | None = None
    service: str | None = None
    placement: str | None = None
    action: str | None = None


class Position(NamedTuple):
    """A place in the journal: a number in each of its lists."""

    action: int
    note: int
    goal: int


END = Position(10**15, 10**15, 10**15)
"""After all records."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the newest goal is.

    Attributes:
        done: actions of the current transition that have ended well.
        actions: actions of the current transition.
        replans: earlier transitions for this goal.
        id: the goal's number.
        ended: when it was reached or replaced.
        paused: who paused it; None where nobody did.
    """

    goal: Goal
    state: State
    command: str
    at: float
    done: int
    actions: int
    makespan: float
    replans: int
    id: int = 0
    ended: float | None = None
    paused: str | None = None


class PredictedAction(Value):
    """An action of a transition as it was predicted.

    Attributes:
        serves: items/s of each service that it starts or stops; empty for instances.
        begin: seconds from the transition's begin, as `end`.
    """

    id: str
    kind: ActionKind
    gpu: str
    placement: str
    service: str | None
    serves: dict[str, float]
    begin: float
    end: float


class Prediction(Value):
    """A transition as it was predicted when it began.

    Attributes:
        capacity: items/s of each service at first.
        floors: items/s below which no service falls.
        actions: in no order.
    """

    capacity: dict[str, float]
    floors: dict[str, float]
    actions: tuple[PredictedAction, ...]


@dataclass(frozen=True, slots=True)
class GoalRecord:
    """A goal and how far it is, without what is to run.

    Attributes:
        done: actions of its last transition that ended well.
        actions: actions of its last transition.
        makespan: predicted seconds of its last transition.
        replans: earlier transitions for it.
        paused: who paused it; None where nobody did.
    """

    id: int
    at: float
    command: str
    state: State
    ended: float | None
    done: int
    actions: int
    makespan: float
    replans: int
    paused: str | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """An action that was begun: `id` as predicted, or with a suffix for what had to come before it."""

    id: str
    kind: ActionKind
    gpu: str
    placement: str
    service: str | None
    begun: float
    ended: float | None
    error: str | None


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A transition for a goal: when it began, what was predicted, and what ran.

    Attributes:
        prediction: None for a transition that an older version wrote down.
    """

    at: float
    prediction: Prediction | None
    ran: tuple[Ran, ...]


class TransitionJournal(Protocol):
    """What a controller writes down: what is wanted, begun, done and seen, in a file or elsewhere.

    All methods raise JournalError where nothing can be written any more; no action begins then.
    """

    def begin_goal(self, goal: Goal, command: str, at: float) -> object:
        """Write down the goal from now on; it replaces one that was not reached."""
        ...

    def begin_round(self, goal: Goal, transition: Transition, at: float) -> None:
        """Write down the transition that begins now, and the goal on the physical GPUs that it leads to."""
        ...

    def intend(self, actions: Sequence[Action], at: float) -> None:
        """Write down actions that are about to begin."""
        ...

    def record(
        self, ended: Sequence[ActionResult], seen: Snapshot, at: float, gpus: Collection[str] | None = None
    ) -> None:
        """Write down how actions ended and the state of all GPUs (None) or of some."""
        ...

    def note(self, text: str, at: float) -> None:
        """Write down something that a person should know."""
        ...

    def end_goal(self, state: State, at: float) -> None:
        """Write down that the goal was reached, or that it was stopped before that."""
        ...

    def recover(self, at: float) -> Mapping[Key, None]:
        """Close actions that a killed controller left open; return their instances."""
        ...

    def seen(self) -> Snapshot | None:
        """Return the last recorded state of the cluster, None if there is none."""
        ...

    def unfinished(self) -> Goal | None:
        """Return the goal that was begun last, if it was not reached."""
        ...

    def promised(self) -> Mapping[str, float] | None:
        """Return the rates that what runs now must give, None if nothing was ever applied."""
        ...

    def paused(self) -> str | None:
        """Return who paused what is in progress, None if nobody did: no action begins while it is paused."""
        ...


class Journal:
    """A journal in a file, created if it does not exist.

    Args:
        path: the file; None for an empty journal in memory.
        read_only: whether it is only read, without a right to write.

    Raises:
        JournalError: it cannot be read; it is left as it is.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self._file = Database(path, _FORMAT, read_only=read_only)
        self._seen: dict[str, _Rows] | None = None
        self._goal: int | None = None
        self._round: int | None = None
        self._read_goal: tuple[str, Goal] | None = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def begin_goal(self, goal: Goal, command: str, at: float) -> int:
        """Write down the goal from now on; return its number. It replaces one that was not reached."""
        with self._file.transaction() as db:
            db.execute("UPDATE goals SET state = ?, ended = ? WHERE ended IS NULL", (State.REPLACED, at))
            row = (at, command, goal_text(goal), State.RUNNING)
            made = db.execute("INSERT INTO goals (at, command, document, state) VALUES (?, ?, ?, ?)", row)
            self._goal = int(made.lastrowid or 0)
            db.execute("DELETE FROM goals WHERE id <= ?", (self._goal - _KEPT_GOALS,))
        return self._goal

    def begin_round(self, goal: Goal, transition: Transition, at: float) -> None:
        """Write down the transition that begins now, and the goal on the physical GPUs that it leads to."""
        prediction = compress(compact(predicted(transition)).encode())
        row = (self._goal, at, len(transition.actions), transition.makespan, transition.moved, prediction)
        with self._file.transaction() as db:
            db.execute("UPDATE goals SET document = ? WHERE id = ?", (goal_text(goal), self._goal))
            made = db.execute(
                "INSERT INTO rounds (goal, at, actions, makespan, moved, prediction) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
            self._round = made.lastrowid

    def intend(self, actions: Iterable[Action], at: float) -> None:
        """Write down actions that are about to begin."""
        rows = [
            (self._round, a.id, a.kind, a.gpu, str(a.placement), a.replica.service if a.replica else None, at)
            for a in actions
        ]
        with self._file.transaction() as db:
            db.executemany(
                "INSERT INTO actions (round, id, kind, gpu, placement, service, begun) VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def record(
        self, ended: Sequence[ActionResult], seen: Snapshot, at: float, gpus: Collection[str] | None = None
    ) -> None:
        """Write down how actions ended and what is seen now.

        Args:
            ended: actions that ended.
            seen: the state of all GPUs or of some.
            at: when, on the cluster's clock.
            gpus: the GPUs that were observed; those of them not in `seen` are gone. None for all.
        """
        close = "UPDATE actions SET ended = ?, error = ? WHERE round = ? AND id = ? AND ended IS NULL"
        rows = [(at, str(each.error) if each.error else None, self._round, each.action.id) for each in ended]
        known, found = self._known(), _by_gpu(seen)
        looked = known.keys() | found.keys() if gpus is None else gpus
        before = {gpu: known[gpu] for gpu in looked if gpu in known}
        gone, new = _difference(before, found)
        if not (rows or gone or new):
            return
        with self._file.transaction() as db:
            db.executemany(close, rows)
            db.executemany("DELETE FROM seen WHERE gpu = ? AND placement = ?", gone)
            db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", new)
        for gpu in before:
            del known[gpu]
        known.update(found)

    def note(self, text: str, at: float) -> None:
        """Write down something that a person should know."""
        with self._file.transaction() as db:
            db.execute("INSERT INTO notes (goal, at, text) VALUES (?, ?, ?)", (self._goal, at, text))

    def end_goal(self, state: State, at: float) -> None:
        """Write down that the goal was reached, or that it was stopped before that."""
        ended = None if state is State.STOPPED else at
        with self._file.transaction() as db:
            db.execute("UPDATE goals SET state = ?, ended = ? WHERE id = ?", (state, ended, self._goal))
            if state is State.REACHED:
                db.execute("DELETE FROM pauses")

    def recover(self, at: float) -> Mapping[Key, None]:
        """Close actions that a killed controller left open; return their instances."""
        with self._file.transaction() as db:
            rows = db.execute(
                "UPDATE actions SET ended = ?, error = ? WHERE ended IS NULL RETURNING gpu, placement",
                (at, "unknown: the controller was killed meanwhile"),
            ).fetchall()
        return dict.fromkeys((gpu, placement) for gpu, placement in rows)

    def seen(self) -> Snapshot | None:
        """Return the last recorded state of the cluster, None if there is none."""
        known = self._known()
        return _snapshot(known) if known else None

    def _known(self) -> dict[str, _Rows]:
        """Return the last recorded state, by GPU; `record` changes it in place."""
        if self._seen is None:
            found: dict[str, _Rows] = {}
            with self._file.reading() as db:
                for gpu, placement, fact in db.execute("SELECT gpu, placement, fact FROM seen"):
                    try:
                        told = decode(fact, Fact, "a fact") if placement else decode(fact, str, "a fact")
                    except InputError as error:
                        raise self._file.damaged(str(error)) from error
                    found.setdefault(gpu, {})[placement] = told
            self._seen = found
        return self._seen

    def unfinished(self) -> Goal | None:
        """Return the goal that was begun last, if it was not reached."""
        with self._file.reading() as db:
            row = db.execute("SELECT document, ended FROM goals ORDER BY id DESC LIMIT 1").fetchone()
        return goal_of(row[0]) if row is not None and row[1] is None else None

    def promised(self) -> Mapping[str, float] | None:
        """Return the rates that what runs now must give, None if nothing was ever applied.

        Until a goal is reached, that is the lesser of what the last goal and this one require.
        """
        with self._file.reading() as db:
            row = db.execute("SELECT document, state FROM goals ORDER BY id DESC LIMIT 1").fetchone()
        if row is None:
            return None
        goal = goal_of(row[0])
        return goal.new_rates if row[1] == State.REACHED else goal.guaranteed

    def progress(self) -> Progress | None:
        """Return how far the newest goal is, None if there never was one."""
        with self._file.reading() as db:
            row = db.execute(
                "SELECT id, document, state, command, at, ended FROM goals ORDER BY id DESC LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            rounds = db.execute(
                "SELECT id, actions, makespan FROM rounds WHERE goal = ? ORDER BY id", (row[0],)
            ).fetchall()
            now = rounds[-1] if rounds else (0, 0, 0.0)
            (done,) = db.execute(
                "SELECT count(DISTINCT id) FROM actions WHERE round = ? AND ended IS NOT NULL AND error IS NULL"
                " AND id NOT LIKE '%/%'",
                (now[0],),
            ).fetchone()
            paused = _paused(db)
        if self._read_goal is None or self._read_goal[0] != row[1]:
            self._read_goal = row[1], goal_of(row[1])  # at ten thousand GPUs this takes half a second
        goal, state = self._read_goal[1], State(row[2])
        replans = max(0, len(rounds) - 1)
        return Progress(
            goal,
            state,
            row[3],
            row[4],
            done,
            now[1],
            now[2],
            replans,
            row[0],
            row[5],
            paused if _goes_on(state) else None,
        )

    def paused(self) -> str | None:
        """Return who paused what is in progress, None if nobody did."""
        with self._file.reading() as db:
            return _paused(db)

    def pause(self, by: str, at: float) -> int:
        """Have no further action begin until `resume`, whichever process carries the goal out; return its number.

        Args:
            by: who, for people.
            at: when, on the cluster's clock.

        Raises:
            InputError: nothing is in progress.
        """
        with self._file.transaction() as db:
            goal = _unfinished(db)
            if _paused(db) is None:
                db.execute("INSERT INTO pauses VALUES (1, ?, ?)", (at, by))
                _note(db, goal, at, f"paused by {by}")
        return goal

    def resume(self, by: str, at: float) -> int:
        """End a pause; arguments and errors as for `pause`. Where there is none, nothing changes."""
        with self._file.transaction() as db:
            goal = _unfinished(db)
            if _paused(db) is not None:
                db.execute("DELETE FROM pauses")
                _note(db, goal, at, f"resumed by {by}")
        return goal

    def goals(self, limit: int, before: int = 2**62) -> list[GoalRecord]:
        """Return goals, newest first.

        Args:
            limit: most goals.
            before: the number below which theirs are.
        """
        with self._file.reading() as db:
            rows = db.execute(f"{_GOAL_RECORDS} WHERE g.id < ? ORDER BY g.id DESC LIMIT ?", (before, limit))
            found = [
                GoalRecord(
                    number, at, command, State(state), ended, done, actions, makespan, max(0, rounds - 1)
                )
                for number, at, command, state, ended, done, actions, makespan, rounds in rows
            ]
            paused = _paused(db)
            (newest,) = db.execute("SELECT coalesce(max(id), 0) FROM goals").fetchone()
        return [
            replace(each, paused=paused) if each.id == newest and _goes_on(each.state) else each
            for each in found
        ]

    def rounds(self, goal: int) -> list[RoundRecord]:
        """Return the transitions for a goal, oldest first; empty if there is none of that number."""
        with self._file.reading() as db:
            rounds = db.execute(
                "SELECT id, at, prediction FROM rounds WHERE goal = ? ORDER BY id", (goal,)
            ).fetchall()
            actions = [
                db.execute(f"{_RAN} WHERE round = ? ORDER BY seq", (number,)).fetchall()
                for number, _, _ in rounds
            ]
        return [
            RoundRecord(
                at,
                None if text is None else decode(decompress(text), Prediction, "the journal's prediction"),
                tuple(Ran(row[0], ActionKind(row[1]), *row[2:]) for row in ran),
            )
            for (_, at, text), ran in zip(rounds, actions, strict=True)
        ]

    def notes(self, goal: int) -> list[Record]:
        """Return the notes that were written down for a goal, oldest first."""
        with self._file.reading() as db:
            rows = db.execute(f"{_NOTES} WHERE goal = ? ORDER BY seq", (goal,)).fetchall()
        return [Record(*row) for row in rows]

    def version(self) -> tuple[int, int]:
        """Return a value that is another one once another process has written to the journal."""
        return self._file.version()

    def records(
        self, limit: int, before: Position = END, gpu: str | None = None
    ) -> tuple[list[Record], Position]:
        """Return the newest records, newest first, and the position before the last of them.

        Args:
            limit: most records.
            before: the position before which they stand.
            gpu: id of the GPU of actions; None for all that is written down.
        """
        selects = [
            f"{_ACTIONS} WHERE seq < :action AND (:gpu IS NULL OR gpu = :gpu) ORDER BY seq DESC LIMIT :limit",
            f"{_NOTES} WHERE seq < :note AND :gpu IS NULL ORDER BY seq DESC LIMIT :limit",
            f"{_GOALS} WHERE id < :goal AND :gpu IS NULL ORDER BY id DESC LIMIT :limit",
        ]
        values = {**before._asdict(), "gpu": gpu, "limit": limit}
        with self._file.reading() as db:
            found = [[Record(*row) for row in db.execute(select, values)] for select in selects]
        # Within a kind they are in the order in which they were written, whatever a clock did meanwhile.
        merged = list(islice(merge(*found, key=lambda each: -each.at), limit))
        for each in merged:
            before = before._replace(**{each.kind: each.number >> 2})
        return merged, before

    def news(self, known: Position, in_progress: Collection[int]) -> list[Record]:
        """Return the records after a position, and those of actions that were in progress, oldest first.

        Args:
            known: number of the newest of each kind.
            in_progress: numbers of actions, as `Record.number` has them.
        """
        marks = ",".join("?" * len(in_progress))
        numbers = [each >> 2 for each in in_progress]
        with self._file.reading() as db:
            rows = [
                *db.execute(f"{_ACTIONS} WHERE seq > ? OR seq IN ({marks})", (known.action, *numbers)),
                *db.execute(f"{_NOTES} WHERE seq > ?", (known.note,)),
                *db.execute(f"{_GOALS} WHERE id > ?", (known.goal,)),
            ]
        return sorted((Record(*row) for row in rows), key=lambda each: (each.at, each.number))

    def tail(self, n: int) -> list[Entry]:
        """Return the newest entries, oldest first."""
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT seq, begun AS at, kind || ' ' || coalesce(service || ' on ', '') || gpu || ' ' || placement,"
                " ended, error FROM actions UNION ALL SELECT seq, at, text, at, NULL FROM notes"
                " ORDER BY at DESC, seq DESC LIMIT ?",
                (n,),
            ).fetchall()
        return [Entry(at, text, ended, error) for _, at, text, ended, error in reversed(rows)]


def _goes_on(state: State) -> bool:
    return state in {State.RUNNING, State.STOPPED}


def _paused(db: Connection) -> str | None:
    row = db.execute("SELECT by FROM pauses").fetchone()
    return None if row is None else str(row[0])


def _unfinished(db: Connection) -> int:
    """Return the number of the goal that is in progress.

    Raises:
        InputError: there is none.
    """
    row = db.execute("SELECT id, ended FROM goals ORDER BY id DESC LIMIT 1").fetchone()
    if row is None or row[1] is not None:
        raise InputError("no transition is in progress", hint="`partita status` shows what runs")
    return int(row[0])


def _note(db: Connection, goal: int, at: float, text: str) -> None:
    db.execute("INSERT INTO notes (goal, at, text) VALUES (?, ?, ?)", (goal, at, text))


def predicted(transition: Transition) -> Prediction:
    """Return a transition's actions and capacities as predicted if every action begins as soon as it may."""
    graph = ActionGraph(transition.actions)
    capacity = transition.target.capacity()
    actions = []
    for i, action in enumerate(transition.actions):
        serves = {} if action.replica is None else dict(action.replica.serves)
        sign = -1 if action.kind is ActionKind.START_REPLICA else 1
        for name, throughput in serves.items():
            # What is there at first is what is there at the end, without what comes and with what goes.
            capacity[name] = capacity.get(name, 0.0) + sign * throughput
        service = action.replica.service if action.replica else None
        place = str(action.placement)
        begin, end = graph.begin[i], graph.end(i)
        actions.append(
            PredictedAction(action.id, action.kind, action.gpu, place, service, serves, begin, end)
        )
    rounded = {name: max(0.0, float(f"{value:.12g}")) for name, value in capacity.items()}
    return Prediction(rounded, dict(transition.floors), tuple(actions))


def _by_gpu(seen: Snapshot) -> dict[str, _Rows]:
    found: dict[str, _Rows] = {gpu: {"": condition} for gpu, condition in seen.gpus.items()}
    for (gpu, placement), fact in seen.instances.items():
        found[gpu][placement] = fact
    return found


def _difference(
    before: Mapping[str, _Rows], now: Mapping[str, _Rows]
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """Return the keys of the rows that are gone, and the rows that are new or changed."""
    nothing: _Rows = {}
    gone = [(gpu, at) for gpu, rows in before.items() for at in rows if at not in now.get(gpu, nothing)]
    new = [
        (gpu, at, line(fact))
        for gpu, rows in now.items()
        for at, fact in rows.items()
        if before.get(gpu, nothing).get(at) != fact
    ]
    return gone, new


def _snapshot(known: Mapping[str, _Rows]) -> Snapshot:
    gpus: dict[str, str] = {}
    instances: dict[Key, Fact] = {}
    for gpu, rows in known.items():
        for placement, fact in rows.items():
            if isinstance(fact, str):
                gpus[gpu] = fact
            else:
                instances[gpu, placement] = fact
    return Snapshot(gpus, instances)


LOCK_FILE, GATEWAY_FILE = "controller.lock", "gateway.lock"
_TRIES, _PAUSE_S = 5, 0.05  # `holder` takes the lock for an instant, too


@dataclass(frozen=True, slots=True)
class ActingProcess:
    """The process that acts on a cluster, or serves from a state folder.

    Attributes:
        started: seconds since 1970.
        command: its command line.
    """

    host: str
    pid: int
    started: float
    command: str

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.started).astimezone().isoformat(" ", "seconds")
        return f"process {self.pid} on {self.host} since {since}: {self.command}"


class LockedError(PartitaError):
    """Another process holds the lock."""


@contextmanager
def controlling(folder: Path) -> Iterator[ActingProcess | None]:
    """Hold the controllers' lock while the block runs. Yields the last controller if it was killed, else None.

    The kernel holds the lock (flock), so that a killed process frees it; the text in the file is for people.

    Raises:
        LockedError: another controller acts on this cluster; the error names it.
        PartitaError: the lock's file cannot be opened.
    """
    with _alone(folder / LOCK_FILE, "another controller acts on this cluster", "") as before:
        yield before


@contextmanager
def serving(folder: Path) -> Iterator[ActingProcess | None]:
    """Hold the lock of a state folder's gateway while the block runs, as `controlling` does.

    Raises:
        LockedError: another gateway serves from there; the error names it.
        PartitaError: the lock's file cannot be opened.
    """
    hint = ", or set PARTITA_STATE to a folder of this one's own"
    with _alone(folder / GATEWAY_FILE, f"another gateway serves from {folder}", hint) as before:
        yield before


@contextmanager
def _alone(path: Path, taken: str, hint: str) -> Iterator[ActingProcess | None]:
    try:
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise PartitaError(
            f"the lock cannot be opened: {error.strerror}",
            where=str(path),
            hint="who acts on a cluster writes in this folder: run this as its owner, or set PARTITA_STATE to a "
            "folder of yours",
        ) from None
    with stream:
        if not _take(stream):
            raise _locked(_read(stream), taken, hint)
        before = _read(stream)
        command = " ".join(["partita", *sys.argv[1:]])
        stream.truncate(0)
        stream.write(line(ActingProcess(socket.gethostname(), os.getpid(), time.time(), command)))
        stream.flush()
        try:
            yield before
        finally:
            stream.truncate(0)


def holder(folder: Path) -> ActingProcess | None:
    """Return the controller that acts on this cluster now, None if there is none."""
    try:
        stream = (folder / LOCK_FILE).open(encoding="utf-8")
    except OSError:
        return None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(stream)
        return None


def _take(stream: TextIO) -> bool:
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def _locked(who: ActingProcess | None, taken: str, hint: str) -> LockedError:
    if who is None:
        return LockedError(taken, hint=f"try again when it has ended{hint}")
    stop = (
        f"kill -INT {who.pid}" if who.host == socket.gethostname() else f"kill -INT {who.pid}` on `{who.host}"
    )
    return LockedError(
        f"{taken}: {who}",
        hint=f"wait until it has ended, or stop it in a safe state: `{stop}`{hint}",
    )


def _read(stream: TextIO) -> ActingProcess | None:
    stream.seek(0)
    try:
        return decode(stream.read(), ActingProcess, stream.name)
    except InputError:
        return None  # empty after an orderly end, or cut short by a crash
