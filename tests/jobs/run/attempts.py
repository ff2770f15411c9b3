"""Attempts for tests: started with real watchers, and all of their processes ended with the test."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from partita.jobs.run.real import RealJobRunner
from partita.jobs.run.runner import AttemptPhase, AttemptStatus, JobUser, Launch
from partita.process import table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

GIB = 1 << 30
DEADLINE_S = 30.0
ME = JobUser(os.getuid(), os.getgid(), tuple(os.getgroups()), "root" if os.getuid() == 0 else "me")


def until(what: Callable[[], object], seconds: float = DEADLINE_S) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Attempts:
    """Starts attempts in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: list[Path] = []

    def start(self, *command: str, runner: RealJobRunner | None = None, **changes: object) -> Path:
        folder = self.root / f"attempt-{len(self.folders)}"
        self.folders.append(folder)
        launch = Launch(
            job="7",
            attempt=1,
            folder=folder,
            command=command,
            directory=self.root,
            environment={"PATH": os.environ["PATH"]},
            owner=ME,
            device="MIG-0",
            memory_bytes=5 * GIB,
            log_bytes=1 << 20,
            grace_s=5.0,
        )
        (runner or RealJobRunner()).start(replace(launch, **changes))  # type: ignore[arg-type]
        return folder

    def run(
        self, *command: str, runner: RealJobRunner | None = None, **changes: object
    ) -> tuple[AttemptStatus, str]:
        """Run to the end; return how it ended and its log."""
        folder = self.start(*command, runner=runner, **changes)
        return ended(folder, runner), (folder / "log").read_text()

    def end_all(self) -> None:
        """Kill what is left, as a lost watcher's runner would, and see that nothing is."""
        for folder in self.folders:
            watcher = watched(folder).get("watcher")
            if watcher is not None and not (folder / "exit.json").exists():
                table.send(watcher, signal.SIGKILL)
            ended(folder)
            variable = f"PARTITA_JOB_PROGRESS={folder}/progress.jsonl"
            until(partial(_nobody, variable))


def _nobody(variable: str) -> bool:
    return not table.carrying(variable)


def watched(folder: Path) -> dict[str, Any]:
    """Return what the watcher wrote of its processes, nothing before that."""
    try:
        found: dict[str, Any] = json.loads((folder / "watch.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def ended(folder: Path, runner: RealJobRunner | None = None) -> AttemptStatus:
    """Wait for the end of an attempt."""
    runner = runner or RealJobRunner()
    found: list[AttemptStatus] = []

    def over() -> bool:
        found.append(runner.look(folder))
        return found[-1].phase in (AttemptPhase.ENDED, AttemptPhase.LOST)

    until(over)
    return found[-1]


def says(folder: Path, words: str) -> Callable[[], bool]:
    """Return what tells whether the log has these words."""
    return lambda: (folder / "log").exists() and words in (folder / "log").read_text()
