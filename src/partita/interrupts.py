"""Interruptions, by Ctrl-C, that get lost: Python drops errors in callbacks, and compilers turn them into others."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` builds enumerations first
import sys

_lost = False  # whether Python dropped an interruption
_AGAIN_S = 0.05
"""Seconds until an interruption that was lost is repeated."""


def repeat_interrupt(found: sys.UnraisableHookArgs) -> None:
    """Repeat an interruption that came where Python drops errors, as in a callback; tell of all else."""
    global _lost  # noqa: PLW0603 -- interrupts are the process's
    if not issubclass(found.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(found)
        return
    _lost = True
    import threading  # noqa: PLC0415 -- next to never needed

    main = threading.main_thread().ident
    again = threading.Timer(_AGAIN_S, signal.pthread_kill, (main, signal.SIGINT))
    again.daemon = True
    again.start()


def follows_interrupt(error: BaseException) -> bool:
    """Say whether an error is what an interruption left behind, as one in the middle of a compiler does."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return _lost or seen is not None
