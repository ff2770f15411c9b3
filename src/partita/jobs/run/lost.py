"""What is left of an attempt whose watcher was killed: ended, so that no GPU stays busy."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from partita.jobs.run import folder as names
from partita.jobs.run.shepherd import documents, processes

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

_PATIENCE_S = 2.0


def end_what_is_left(folder: int, path: Path) -> dict[str, Any]:
    """Kill the processes of an attempt that nobody watches; return how it ended, as its watcher would have.

    A pid alone names nobody: a process is the attempt's if it began when the watcher saw it begin, or is in the
    session of the job's first process, or carries the attempt's environment. What began in another boot is no more.

    Args:
        folder: open descriptor of its folder.
        path: of the folder.
    """
    try:
        launch = documents.read(folder, names.LAUNCH)
    except (OSError, ValueError):
        return _lost("it never began")
    if launch["boot"] != processes.boot_id():
        return _lost("the host was started anew while it ran", began=_watched(folder).get("began"))
    watched = _watched(folder)
    variable = f"PARTITA_JOB_PROGRESS={path.absolute() / names.PROGRESS}".encode()
    killed = _kill(watched, variable)
    why = _said(folder) or ("its watcher was killed" if watched else "its watcher ended before the job began")
    stuck = sorted(_alive(watched, variable))
    if stuck:
        why += f", and {len(stuck)} of its processes do not end: is its GPU lost?"
    return _lost(why, began=watched.get("began"), left=len(killed), stuck=stuck)


def _lost(
    why: str, *, began: float | None = None, left: int = 0, stuck: list[int] | None = None
) -> dict[str, Any]:
    return {
        "lost": True,
        "code": None,
        "why": why,
        "out_of_memory": False,
        "began": began,
        "ended": max(time.time(), began or 0.0),
        "peak_bytes": None,
        "cpu_s": None,
        "left": left,
        "stuck": stuck or [],
        "log": None,
    }


def _said(folder: int) -> str | None:
    """Return what the watcher itself failed of, None if it was killed."""
    try:
        lines = documents.contents(folder, names.ERRORS).decode(errors="replace").strip().splitlines()
    except OSError:
        return None
    return f"its watcher failed: {lines[-1]}" if lines else None


def _watched(folder: int) -> dict[str, Any]:
    try:
        return documents.read(folder, names.WATCH)
    except (OSError, ValueError):
        return {}


def _kill(watched: dict[str, Any], variable: bytes) -> set[int]:
    killed: set[int] = set()
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        found = _alive(watched, variable)
        if not found:
            break
        for pid in found:
            processes.signal(pid, signal.SIGKILL)
        killed |= found
        time.sleep(0.01)
    return killed


def _alive(watched: dict[str, Any], variable: bytes) -> set[int]:
    seen = {pid for pid, ticks in watched.get("processes", []) if ticks and processes.ticks(pid) == ticks}
    found = seen | set(processes.carrying(variable))
    # The session's leader may be gone: what is in its session began after it, and no pid is given out while a
    # session bears it.
    if "main" in watched:
        found |= {pid for pid in processes.session(watched["main"]) if _began_after(pid, watched)}
    return {pid for pid in found if processes.ticks(pid) is not None} - {os.getpid()}


def _began_after(pid: int, watched: dict[str, Any]) -> bool:
    main = next((ticks for each, ticks in watched["processes"] if each == watched["main"]), None)
    began = processes.ticks(pid)
    return main is None or (began is not None and began >= main)
