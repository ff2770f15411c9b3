"""The rates of the past weeks in a file, from which `partita plan --forecast` forecasts the next day."""

from __future__ import annotations

import csv
import io
import os
from datetime import timedelta
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.files import reading, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

RATES_HISTORY = "rates-history.csv"
"""Name of the file, in the state folder."""
FORGET_S = 86_400.0
"""Seconds between two times at which old rates are dropped."""
HISTORY_S = 300.0
"""Seconds over which a rate of the history is a mean."""
_HISTORY_DAYS = 35
_HISTORY_HEADER = "time,service,rate\n"


class RatesHistory:
    """A file of rates of the past weeks, `time,service,rate` with times in UTC.

    Args:
        path: the file; it is made when there is something to say.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offered: dict[str, int] = {}

    def rows(self, items: Mapping[str, int], seconds: float, now: datetime) -> str:
        """Return the lines of the time since the last call, none for a service that was not there then.

        Args:
            items: items of all queries since the gateway's start, by service.
            seconds: since the last call.
            now: the end of that time.
        """
        begin = (now - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
        lines = io.StringIO()
        write = csv.writer(lines, lineterminator="\n")
        for name, offered in items.items():
            if name in self._offered:
                write.writerow((begin, name, round((offered - self._offered[name]) / seconds, 3)))
        self._offered = dict(items)
        return lines.getvalue()

    def append(self, rows: str) -> None:
        """Append lines.

        Raises:
            PartitaError: the file cannot be written.
        """
        try:
            with self._path.open("a+b") as stream:
                size = stream.seek(0, os.SEEK_END)
                lead = b"" if size else _HISTORY_HEADER.encode()
                if size:  # a line that a full disk or a kill has cut short stays one line
                    stream.seek(size - 1)
                    lead = b"" if stream.read() == b"\n" else b"\n"
                stream.write(lead + rows.encode())
        except OSError as error:
            raise PartitaError(f"could not be written: {error.strerror}", where=str(self._path)) from error

    def forget(self, now: datetime) -> None:
        """Drop what is older than some weeks, and lines that were cut short.

        Raises:
            PartitaError: the file cannot be read or written.
        """
        if not self._path.exists():
            return
        oldest = (now - timedelta(days=_HISTORY_DAYS)).isoformat(timespec="seconds")
        with reading(self._path), self._path.open(newline="", encoding="utf-8") as stream:
            kept = [
                row for row in csv.reader(stream) if len(row) == 3 and row[0] != "time" and row[0] >= oldest
            ]
        with replacing(self._path) as stream:
            stream.write(_HISTORY_HEADER)
            csv.writer(stream, lineterminator="\n").writerows(kept)
