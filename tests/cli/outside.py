"""Packages of somebody else, as if they were installed, without a process for each command that meets them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from typing import TYPE_CHECKING

import partita
from partita import registry
from partita.jobs.memory.forecasters import forecasters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Have this process see the packages of a folder, first on its path, while the block runs.

    The names of other packages become choices of options when the command line is imported, so it is imported anew.
    Afterwards all is as it was.
    """
    line = import_module("partita.cli")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if _of_the_line(name)}
    sys.path.insert(0, str(site))
    invalidate_caches()
    _forget()
    theirs = {each.stem for each in site.iterdir()}
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _of_the_line(name) or name.partition(".")[0] in theirs]:
            del sys.modules[name]
        sys.modules.update(kept)
        partita.cli = line
        sys.path.remove(str(site))
        _forget()


def _forget() -> None:
    registry._all.cache_clear()
    forecasters.cache_clear()


def _of_the_line(module: str) -> bool:
    return module.split(".")[:2] == ["partita", "cli"]


def started(site: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that has the packages of a folder installed."""
    return subprocess.run(
        [sys.executable, "-m", "partita", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "160", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
