"""A solver that prints nothing."""

from __future__ import annotations

import os
import tempfile
from threading import Lock
from typing import TYPE_CHECKING

import highspy

if TYPE_CHECKING:
    from collections.abc import Callable

_make: Callable[[], highspy.Highs] = highspy.Highs

_BANNER = (b"Running HiGHS ", b"Includes third-party software ")
"""How the lines begin that HiGHS 1.16 prints in the first `Highs()` of a process, before an option can be set."""

_STDOUT = 1
_lock = Lock()
_introduced = False


def new_solver() -> highspy.Highs:
    """Return a new HiGHS solver that has printed nothing and logs nothing.

    What else arrives on stdout while the first one is made is passed on.
    """
    global _introduced  # noqa: PLW0603 -- the banner comes once in a process
    with _lock:
        solver = _make() if _introduced else _first()
        _introduced = True
    solver.setOptionValue("output_flag", False)
    return solver


def _first() -> highspy.Highs:
    try:
        stdout = os.dup(_STDOUT)
    except OSError:  # it is closed
        return _make()
    with tempfile.TemporaryFile() as printed:
        try:
            os.dup2(printed.fileno(), _STDOUT)
            solver = _make()
        finally:
            os.dup2(stdout, _STDOUT)
            os.close(stdout)
        printed.seek(0)
        rest = b"".join(line for line in printed if not line.startswith(_BANNER))
    if rest:
        os.write(_STDOUT, rest)
    return solver
