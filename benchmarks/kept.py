"""Keeps the results of a long benchmark's cases, so that a run that was stopped goes on where it ended."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / "build" / "benchmarks"


class KeptResults:
    """The results of cases, one JSON line each, in `build/benchmarks`.

    A result counts only as long as the code that it measures is the same.

    Args:
        name: of the benchmark.
        code: files and folders of `src/partita` whose Python files are measured.
    """

    def __init__(self, name: str, code: Iterable[str]) -> None:
        files = [file for part in code for file in _python_files(_ROOT / "src" / "partita" / part)]
        self._code = sha256(b"".join(each.read_bytes() for each in files)).hexdigest()[:16]
        self._path = _FOLDER / f"{name}.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        rows = [json.loads(line) for line in lines]
        self._known = {row["case"]: row["result"] for row in rows if row["code"] == self._code}

    def get(self, case: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of a case, which is measured and kept if it is not known yet.

        Args:
            case: its name, with all that it depends on.
            measure: returns what JSON can hold.
        """
        if case not in self._known:
            result = measure()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as stream:
                stream.write(json.dumps({"case": case, "code": self._code, "result": result}) + "\n")
            self._known[case] = result
        return dict(self._known[case])


def _python_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
