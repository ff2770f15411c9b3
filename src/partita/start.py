"""Where the command `partita` begins and ends: Ctrl-C at any moment ends it with 130, and shows no traceback.

It imports next to nothing before it is ready for that. While modules are imported, and once a command is over, Ctrl-C
ends the process at once: there is nothing to clean up. In between commands decide what Ctrl-C does.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` builds enumerations first
import os
import sys

from partita.interrupts import repeat_interrupt

TYPE_CHECKING = False  # typing takes as long to import as all else here
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

_INTERRUPTED = 130


def main() -> None:
    """Run the command line `partita` and leave the process with its exit code."""
    _program("main")


def kubectl_plugin() -> None:
    """Run `kubectl partita`, likewise."""
    _program("kubectl_plugin")


def _program(name: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    heeds = before is signal.default_int_handler  # not where it was begun in the background, as by nohup
    if heeds:
        signal.signal(signal.SIGINT, _leave_now)
    from partita.cli import main as programs  # noqa: PLC0415 -- takes a tenth of a second

    run: Callable[[], None] = getattr(programs, name)
    sys.unraisablehook = repeat_interrupt
    try:
        if heeds:
            signal.signal(signal.SIGINT, before)
        run()
        code: str | int | None = 0
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except SystemExit as end:
        code = end.code
    if heeds:
        signal.signal(signal.SIGINT, _leave_now)
    deadline = sys.modules.get("partita.deadline")
    if deadline is not None and deadline.runs_beside():
        _leave(code)  # else Python would wait for it
    sys.exit(code)


def _leave_now(number: int, frame: FrameType | None) -> None:
    del number, frame
    os._exit(_INTERRUPTED)


def _leave(code: str | int | None) -> NoReturn:
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    for stream in (sys.stdout, sys.stderr):  # noqa: TID251 -- what commands wrote by `cli.output`
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # whoever reads it is gone, or it is closed
    os._exit(code if isinstance(code, int) else int(code is not None))
