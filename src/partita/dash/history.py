"""A ring of the past: a point each 10 s for a day, and each minute for 30 days, in a file that outlives the process.

Points are kept in chunks, a row for each series and five minutes (or an hour of minutes), instead of one for
each point. The newest chunks are in memory and are written every five minutes and at the end; a process that is
killed loses no more than that. Times are the cluster's: where a simulated clock stands still, so does the history.
"""

from __future__ import annotations

import logging
import threading
import zlib
from dataclasses import dataclass
from math import ceil, floor, isfinite
from typing import TYPE_CHECKING

import msgspec

from partita.dash.model import Series
from partita.documents.text import number
from partita.errors import PartitaError
from partita.store import Database, DatabaseFormat, StoreError, has_log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_LOG = logging.getLogger("partita.dash")

FILE = "history.sqlite3"

_FORMAT = DatabaseFormat(
    name="the history",
    version=1,
    steps={
        0: [
            (
                "CREATE TABLE chunks (tier INTEGER NOT NULL, series TEXT NOT NULL, chunk INTEGER NOT NULL,"
                " points BLOB NOT NULL, PRIMARY KEY (tier, series, chunk))"
            ),
            "CREATE INDEX chunks_age ON chunks (tier, chunk)",
        ]
    },
    if_damaged="it is left as it is; move it away to start a new one: "
    "mv {path} {path}.kept; mv {path}-wal {path}.kept-wal",
    durable=False,
    whole=False,
    private=True,
)


@dataclass(frozen=True, slots=True)
class Tier:
    """Points of one resolution.

    Attributes:
        step: seconds between two points.
        chunk: points of a chunk.
        kept_s: seconds for which they are kept.
    """

    step: float
    chunk: int
    kept_s: float


FINE, COARSE = Tier(10.0, 30, 86_400.0), Tier(60.0, 60, 30 * 86_400.0)
TIERS = (FINE, COARSE)
_IN_MEMORY_S = (3_600.0, 86_400.0)
"""Seconds for which each tier's points are kept where no file holds them: 0.05 MB a service; a file has 1.3 MB."""
_LATEST_SIMULATED = 1e8
"""Seconds; simulated clocks begin at 0, and a wall clock is beyond, in 1973."""
_REMOVED_AT_ONCE = 3
"""Most of a tier's oldest chunks that go every five minutes: a clock that is ahead for a while costs no more."""
_FINE_IN_COARSE = round(COARSE.step / FINE.step)

_Points = dict[str, list[float | None]]
"""The points of a chunk, by name."""


class History:
    """The past of some series; thread-safe.

    Args:
        path: the file; None, or one that cannot be used, for memory alone, which holds a day by minutes.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._open: tuple[dict[str, tuple[int, _Points]], ...] = ({}, {})
        self._unwritten: dict[tuple[int, str, int], bytes] = {}  # chunks by tier, series and number
        self._slot: int | None = None
        self._path = path
        self._file: Database | None = None
        self._fault: str | None = None
        try:
            self._file = None if path is None else Database(path, _FORMAT)
        except StoreError as error:
            self._warn(f"no history is kept beyond this process: {error.with_hint}")

    @property
    def fault(self) -> str | None:
        """Why the past is not written now, in a sentence; None where it is, or is to be in memory alone."""
        return self._fault

    def due(self, at: float) -> bool:
        """Return whether a moment is in another slot than the last point."""
        return floor(at / FINE.step) != self._slot

    def record(self, at: float, values: Mapping[str, Mapping[str, float | None]]) -> None:
        """Add a point to each series.

        Args:
            at: the cluster's clock. Where a simulated one has gone back, points after this moment are another
                cluster's, and go.
            values: by series, and then by name.
        """
        slot = floor(at / FINE.step)
        with self._lock:
            if self._slot is None or slot < self._slot:
                self._begin(slot)
            over = self._slot is not None and slot // FINE.chunk != self._slot // FINE.chunk
            minute = self._slot is not None and slot // _FINE_IN_COARSE != self._slot // _FINE_IN_COARSE
            if minute and self._slot is not None:
                self._end_minute(self._slot // _FINE_IN_COARSE)
            if over:
                self._write(at)
            self._slot = slot
            for series, named in values.items():
                self._put(0, series, slot, named)

    def series(self, series: str, since: float, until: float, most: int) -> Series:
        """Return the points of a series over a time.

        Args:
            series: its name.
            since: the cluster's clock.
            until: likewise.
            most: points; where there are more, each is the mean of several.
        """
        number = 0 if until - since <= (FINE.kept_s if self._file else _IN_MEMORY_S[0]) else 1
        tier = TIERS[number]
        first, last = ceil(since / tier.step), floor(until / tier.step)
        together = max(1, ceil((last - first + 1) / most))
        first -= first % together
        with self._lock:
            chunks = dict(self._chunks(number, series, first // tier.chunk, last // tier.chunk))
        names = sorted({name for points in chunks.values() for name in points})
        slots = range(first, last + 1, together)
        values = {
            name: tuple(_mean(_points(chunks, tier, name, slot, together)) for slot in slots)
            for name in names
        }
        step = tier.step * together
        return Series(step, tuple(slot * tier.step for slot in slots), values)

    def close(self) -> None:
        """Write what is in memory alone, and close the file."""
        with self._lock:
            if self._slot is not None:
                self._end_minute(self._slot // _FINE_IN_COARSE)
                self._write((self._slot + 1) * FINE.step)
            if self._file is not None:
                self._file.close()

    def _begin(self, slot: int) -> None:
        """Begin where the clock was set, or at the start.

        A simulated clock that goes back is another cluster's, and what lies in its future is not this one's. A wall
        clock may be wrong now, or was: what is known is kept, and is overwritten once that time comes.
        """
        if self._slot is not None:
            self._write(min(self._slot, slot) * FINE.step)  # what is old by a clock that was ahead is kept
        self._slot = None
        if slot * FINE.step >= _LATEST_SIMULATED:
            return
        spans = [(_chunk_at(slot * FINE.step, tier), _chunk_at(_LATEST_SIMULATED, tier)) for tier in TIERS]
        for known, (last, end) in zip(self._open, spans, strict=True):
            for series in [name for name, (chunk, _) in known.items() if last < chunk <= end]:
                del known[series]
        self._unwritten = {
            key: each
            for key, each in self._unwritten.items()
            if not spans[key[0]][0] < key[2] <= spans[key[0]][1]
        }
        if self._file is None:
            return
        rows = [(number, *span) for number, span in enumerate(spans)]
        try:
            with self._file.transaction() as db:
                db.executemany("DELETE FROM chunks WHERE tier = ? AND chunk > ? AND chunk <= ?", rows)
        except StoreError as error:
            self._warn(f"the history cannot be written: {error.with_hint}")

    def _put(self, number: int, series: str, slot: int, named: Mapping[str, float | None]) -> None:
        size = TIERS[number].chunk
        chunk, place = divmod(slot, size)
        known = self._open[number].get(series)
        if known is None or known[0] != chunk:
            known = self._open[number][series] = (chunk, self._stored(number, series, chunk))
        for name, value in named.items():
            points = known[1].get(name)
            if points is None:
                points = known[1][name] = [None] * size
            points[place + 1 :] = [None] * (size - place - 1)  # of a clock that went ahead
            points[place] = value if value is not None and isfinite(value) else None

    def _end_minute(self, minute: int) -> None:
        """Add the means of a minute's points to the coarse series."""
        first = minute * _FINE_IN_COARSE
        chunk, place = divmod(first, FINE.chunk)
        for series, (found, points) in self._open[0].items():
            if found == chunk:
                means = {name: _mean(all_[place : place + _FINE_IN_COARSE]) for name, all_ in points.items()}
                self._put(1, series, minute, means)

    def _stored(self, number: int, series: str, chunk: int) -> _Points:
        """Return a chunk that an earlier process has begun; an empty one if none has."""
        found = dict(self._rows(number, series, chunk, chunk))
        return found.get(chunk, {})

    def _chunks(self, number: int, series: str, first: int, last: int) -> Iterable[tuple[int, _Points]]:
        yield from self._rows(number, series, first, last)
        known = self._open[number].get(series)
        if known is not None and first <= known[0] <= last:
            yield known[0], known[1]

    def _rows(self, number: int, series: str, first: int, last: int) -> Iterable[tuple[int, _Points]]:
        """Yield the chunks of the file, and then those that no file holds."""
        yield from self._written(number, series, first, last)
        for chunk in range(first, last + 1) if self._unwritten else ():
            packed = self._unwritten.get((number, series, chunk))
            if packed is not None:
                yield chunk, _unpacked(packed)

    def _written(self, number: int, series: str, first: int, last: int) -> Iterable[tuple[int, _Points]]:
        if self._file is None:
            return
        find = "SELECT chunk, points FROM chunks WHERE tier = ? AND series = ? AND chunk BETWEEN ? AND ?"
        try:
            with self._file.reading() as db:
                rows = db.execute(find, (number, series, first, last)).fetchall()
            for chunk, packed in rows:
                yield chunk, _unpacked(packed)
        except (PartitaError, zlib.error, msgspec.MsgspecError) as error:
            self._warn(f"the history cannot be read: {error}")

    def _write(self, at: float) -> None:
        """Write the chunks in memory, and remove what is older than is kept."""
        kept = self._recent(at) | {
            (number, series, chunk): zlib.compress(msgspec.json.encode(_rounded(points)), 1)
            for number in (0, 1)
            for series, (chunk, points) in self._open[number].items()
        }
        self._unwritten = kept
        self._open_anew()
        if self._file is not None:
            rows = [(*key, packed) for key, packed in kept.items()]
            old = [
                (i, _chunk_at(at - tier.kept_s, tier), _REMOVED_AT_ONCE, i) for i, tier in enumerate(TIERS)
            ]
            try:
                with self._file.transaction() as db:
                    db.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)", rows)
                    db.executemany(
                        "DELETE FROM chunks WHERE tier = ? AND chunk <"
                        " min(?, (SELECT min(chunk) + ? FROM chunks WHERE tier = ?))",
                        old,
                    )
            except StoreError as error:
                self._warn(f"the history cannot be written: {error.with_hint}")
            else:
                if self._fault is not None:
                    _LOG.info("the history is written again")
                self._fault = None
                self._unwritten = {}
        # A series that has ended is not in memory for ever.
        now = floor(at / FINE.step)
        for tier, known in zip(TIERS, self._open, strict=True):
            newest = floor(now * FINE.step / tier.step) // tier.chunk
            for series in [name for name, (chunk, _) in known.items() if chunk < newest - 1]:
                del known[series]

    def _recent(self, at: float) -> dict[tuple[int, str, int], bytes]:
        """Return what no file holds, without what is older than memory keeps."""
        if not self._unwritten:
            return {}
        limits = []
        for i, (tier, kept_s) in enumerate(zip(TIERS, _IN_MEMORY_S, strict=True)):
            oldest = min((key[2] for key in self._unwritten if key[0] == i), default=0)
            limits.append(min(_chunk_at(at - kept_s, tier), oldest + _REMOVED_AT_ONCE))
        return {key: each for key, each in self._unwritten.items() if key[2] >= limits[key[0]]}

    def _open_anew(self) -> None:
        """Where the file went away with its folder, and the folder is there again, begin a new one."""
        path = self._path
        if self._file is None or path is None or path.exists() or has_log(path) or not path.parent.is_dir():
            return
        self._file.close()
        try:
            self._file = Database(path, _FORMAT)
        except StoreError as error:
            self._file = None
            self._warn(f"no history is kept beyond this process: {error.with_hint}")

    def _warn(self, text: str) -> None:
        if self._fault is None:
            _LOG.warning("%s", text)
        self._fault = text


def _chunk_at(at: float, tier: Tier) -> int:
    return floor(at / tier.step) // tier.chunk


def _unpacked(packed: bytes) -> _Points:
    return msgspec.json.decode(zlib.decompress(packed), type=_Points)


def _rounded(points: _Points) -> _Points:
    """Return points to four digits: as text they then take less than half of what they take as binary numbers."""
    return {
        name: [None if v is None else number(float(f"{v:.4g}")) for v in all_]
        for name, all_ in points.items()
    }


def _points(
    chunks: Mapping[int, _Points], tier: Tier, name: str, slot: int, count: int
) -> list[float | None]:
    found: list[float | None] = []
    for each in range(slot, slot + count):
        chunk, place = divmod(each, tier.chunk)
        all_ = chunks.get(chunk, {}).get(name)
        found.append(all_[place] if all_ is not None and place < len(all_) else None)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None
