"""What is done already, kept line by line beside the table, so that a measurement can go on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.files import json_value
from partita.perf.measure.course import Cell, Result

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TOLD = {
    "model": "the model's file",
    "device": "the device",
    "inputs": "the shapes of its inputs",
    "settings": "the quantiles, seconds or threads asked for",
    "runtime": "ONNX Runtime",
}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), hint="see `ls` for the name") from None
    except IsADirectoryError:
        raise InputError("this is a directory, not a file", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None


class Journal:
    """The finished cells of one measurement; each is on the disk before the next begins.

    Args:
        path: the journal's file; None keeps nothing.
        head: what must be the same for results to belong together: model, device, inputs, settings, runtime.
    """

    def __init__(self, path: Path | None, head: Mapping[str, Any]) -> None:
        self.path = path
        self._head = json.loads(json.dumps(head))
        self._whole = 0
        self.results = self._read()

    def add(self, result: Result) -> None:
        """Keep a result.

        Raises:
            InputError: the file cannot be written to.
        """
        self.results = (*self.results, result)
        if self.path is None:
            return
        lines = [asdict(result)] if self._whole else [{"head": self._head}, asdict(result)]
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        try:
            with self.path.open("r+b" if self._whole else "wb") as stream:
                stream.seek(self._whole)
                stream.truncate()
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=str(self.path)) from None
        self._whole += len(text)

    def done(self) -> None:
        """Forget it: the table is whole."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[Result, ...]:
        if self.path is None or not self.path.exists():
            return ()
        try:
            content = self.path.read_bytes()
        except OSError:
            raise InputError("cannot be read", where=str(self.path), hint=self._away()) from None
        # What follows the last line's end was being written when the measurement was killed.
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            return ()
        try:
            head, *rows = map(json_value, whole.splitlines())
            self._compare(head["head"])
            found = tuple(_result(row) for row in rows)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(
                "this is no journal of a measurement", where=str(self.path), hint=self._away()
            ) from None
        self._whole = len(whole)
        return found

    def _compare(self, there: Mapping[str, Any]) -> None:
        for name, value in self._head.items():
            if there.get(name) != value:
                raise InputError(
                    f"{_TOLD[name]} changed since this measurement began: {there.get(name)} then, {value} now",
                    where=str(self.path),
                    hint=f"measure as then, or begin anew: {self._away()}",
                )

    def _away(self) -> str:
        return f"`rm {self.path}`"


def _result(row: Mapping[str, Any]) -> Result:
    return Result(**{**row, "cell": Cell(**row["cell"])})
