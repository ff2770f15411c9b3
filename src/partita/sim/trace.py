"""Replays traces: queries as they once arrived."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InputError
from partita.perf.records import read_records
from partita.sim.arrivals import Traffic

if TYPE_CHECKING:
    from pathlib import Path

    from partita.perf.records import Record

OURS = ("seconds", "batch")
AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_MOST = 1e9
"""Seconds, items and tokens beyond this are no measurements."""


def read_trace(path: Path | str, *, tokens_per_item: int = 256) -> Traffic:
    """Read a trace (CSV): columns `seconds,batch`, or Azure's `TIMESTAMP,ContextTokens,GeneratedTokens`.

    A request of Azure's LLM traces becomes a query of ceil((context + generated) / tokens_per_item) items. Times
    count from the first query; rows may stand in any order.

    Raises:
        InputError: no such file, other columns, no rows, or a row that cannot be used.
    """
    records = read_records(path)
    if not set(OURS) <= set(records.header) and not set(AZURE) <= set(records.header):
        raise InputError(
            f"no trace has the columns {', '.join(records.header)}",
            where=f"{records.path}:1",
            hint=f"write {','.join(OURS)}; Azure's {','.join(AZURE)} is read as well",
        )
    if set(OURS) <= set(records.header):
        rows = [(_number(each, "seconds"), _count(each, "batch")) for each in records]
    else:
        rows = [(_stamp(each), _items(each, tokens_per_item)) for each in records]
    if not rows:
        raise InputError("a header and no rows", where=f"{records.path}:1", hint="one row for each query")
    rows.sort(key=lambda row: row[0])
    start = rows[0][0]
    return Traffic(np.array([at - start for at, _ in rows]), np.array([n for _, n in rows], dtype=np.int64))


def _stamp(record: Record) -> float:
    text = record.text("TIMESTAMP")
    try:
        # Azure writes seven digits of a second, one more than Python keeps.
        return datetime.fromisoformat(text[:26]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise InputError(f"TIMESTAMP is {text!r}, not a date and time", where=record.place) from None


def _items(record: Record, tokens_per_item: int) -> int:
    tokens = _count(record, "ContextTokens") + round(_number(record, "GeneratedTokens"))
    return -(-tokens // tokens_per_item)


def _count(record: Record, name: str) -> int:
    _number(record, name)
    return record.count(name)


def _number(record: Record, name: str) -> float:
    number = record.number(name)
    if number > _MOST:
        raise InputError(f"{name} is {record.fields[name]}, more than {_MOST:,.0f}", where=record.place)
    return number
