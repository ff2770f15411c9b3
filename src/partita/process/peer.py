"""The process at the other end of a Unix socket: whether it computes, and ending it by force."""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_CREDENTIALS = struct.Struct("3i")
"""Pid, uid and gid of whoever listens (unix(7), SO_PEERCRED)."""


class ThreadTimes(NamedTuple):
    """What the threads of a process have done.

    Attributes:
        cpu_s: seconds of CPU, all together.
        runnable_s: seconds in which each, by its id, ran or waited for a CPU.
    """

    cpu_s: float
    runnable_s: dict[int, float]


class PeerProcess:
    """A process. Its pid cannot become another's meanwhile: a handle of it is held (pidfd_open(2)).

    Attributes:
        pid: of the process that listens.

    Args:
        pid: of a process that is there, as the kernel tells it.

    Raises:
        OSError: there is no such process any more.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def close(self) -> None:
        """Let go of it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def work(self) -> ThreadTimes | None:
        """Return what its threads have done so far, None if it is gone."""
        cpu_s, runnable_s = 0.0, {}
        try:
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                with suppress(OSError):  # that thread has ended
                    run, wait, _ = (task / "schedstat").read_text(encoding="ascii").split()
                    cpu_s += int(run) / 1e9
                    runnable_s[int(task.name)] = (int(run) + int(wait)) / 1e9
        except (OSError, ValueError):
            return None
        return ThreadTimes(cpu_s, runnable_s)

    def runs(self, module: str) -> bool:
        """Say whether its command line names a module of Python, as behind `-m`."""
        try:
            return module.encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False

    def kill(self) -> bool:
        """End it, and the processes that it has started, by SIGKILL; False if that is not ours to do."""
        if self._handle < 0 or self.pid == os.getpid():
            return False
        try:
            signal.pidfd_send_signal(self._handle, 0)  # it is there, so the number of its group is its own
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        except OSError:
            return False
        return True


def peer_of(connection: socket.socket | None) -> PeerProcess | None:
    """Return the process that listens at the other end of a Unix socket, None where that cannot be told."""
    if connection is None:
        return None
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, _, _ = _CREDENTIALS.unpack(found)
        return PeerProcess(pid)
    except OSError:
        return None
