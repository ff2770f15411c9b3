"""Optional, for the code of a job: report its progress, and learn when to write a checkpoint.

    import partita.job

    for n in range(start, steps):
        train(n)
        if partita.job.step(n + 1, of=steps):
            save_checkpoint(n + 1)
            break

From the reports the queue predicts whether the job will outgrow its slice, and moves it to a larger one before it
fails. Outside Partita this module does nothing. It never raises an error into the job.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

__all__ = ["step"]

PAUSE_S = 0.05
"""Least seconds between two reports, so that reporting costs almost nothing even with short steps."""

MOST_BYTES = 1 << 20
"""Length at which the file of reports is truncated."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


def step(n: int, of: int | None = None) -> bool:
    """Report that `n` steps are done; return True if the job should write its checkpoint and end.

    The report includes the bytes that PyTorch has allocated on the GPU, if the job has imported PyTorch and uses
    CUDA; on a simulated instance, the memory of the process. It may be called from any thread, and as often as you
    like: calls within 50 ms of the last report write nothing.

    Args:
        n: steps done so far, including those before a restart.
        of: total number of steps, if known.
    """
    return False if _report is None else _report.step(n, of)


class _Report:
    """Writes reports to one file, and checks whether the checkpoint file exists.

    Threads need no lock: each report is a single appending write, and an extra report does no harm.
    """

    __slots__ = ("_checkpoint", "_due", "_file", "_simulated", "_stop")

    def __init__(self, progress: str, checkpoint: str, *, simulated: bool) -> None:
        self._checkpoint = checkpoint
        self._simulated = simulated
        self._due = 0.0
        self._stop = False
        try:
            self._file = os.open(progress, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def step(self, n: int, of: int | None) -> bool:
        now = time.monotonic()
        if now >= self._due or n == of:
            self._due = now + PAUSE_S
            # A full disk or an unknown version of PyTorch must not fail the job.
            with suppress(Exception):
                self._write(n, of)
            self._stop = self._stop or os.access(self._checkpoint, os.F_OK)
        return self._stop

    def _write(self, n: int, of: int | None) -> None:
        allocated, peak = _allocated() or (_resident() if self._simulated else None, None)
        fields = (int(n), None if of is None else int(of), allocated, peak)
        line = ",".join("null" if each is None else str(each) for each in fields)
        if os.fstat(self._file).st_size > MOST_BYTES:
            os.ftruncate(self._file, 0)
        os.write(self._file, f"[{line}]\n".encode())


def _allocated() -> tuple[int, int] | None:
    """Return the bytes that PyTorch has allocated on the GPU now and at its peak; None if it is not in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.memory_allocated()), int(torch.cuda.max_memory_allocated())


def _resident() -> int:
    """Return the resident bytes of this process that are not shared (proc(5), statm)."""
    handle = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fields = os.read(handle, 256).split()
    finally:
        os.close(handle)
    return (int(fields[1]) - int(fields[2])) * _PAGE


def _from_environment() -> _Report | None:
    progress, checkpoint = os.environ.get("PARTITA_JOB_PROGRESS"), os.environ.get("PARTITA_JOB_CHECKPOINT")
    if not progress or not checkpoint:
        return None
    return _Report(progress, checkpoint, simulated="PARTITA_JOB_SIMULATED" in os.environ)


_report = _from_environment()
