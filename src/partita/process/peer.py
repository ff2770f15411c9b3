"""The process at the other end of a Unix socket: its CPU time, and killing it."""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_CREDENTIALS = struct.Struct("3i")
"""Pid, uid and gid of the peer (unix(7), SO_PEERCRED)."""


class ThreadTimes(NamedTuple):
    """CPU times of the threads of a process.

    Attributes:
        cpu_s: CPU seconds of all threads together.
        runnable_s: by thread id, seconds in which it ran or waited for a CPU.
    """

    cpu_s: float
    runnable_s: dict[int, float]


class PeerProcess:
    """A process, identified by a pidfd (pidfd_open(2)), so that a reused pid is never taken for it.

    Attributes:
        pid: of the process.

    Args:
        pid: of a running process, as the kernel reports it.

    Raises:
        OSError: there is no such process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def close(self) -> None:
        """Close the pidfd."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def work(self) -> ThreadTimes | None:
        """Return the CPU times of its threads; None if it has ended."""
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
        """Return whether its command line has the name of a Python module, as after `-m`."""
        try:
            return module.encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False

    def kill(self) -> bool:
        """Kill it, and its group if it leads one (SIGKILL); return False if that is not possible."""
        if self._handle < 0 or self.pid == os.getpid():
            return False
        try:
            signal.pidfd_send_signal(self._handle, 0)  # it exists, so its pid is not reused
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        except OSError:
            return False
        return True


def peer_of(connection: socket.socket | None) -> PeerProcess | None:
    """Return the process at the other end of a Unix socket; None if it cannot be determined."""
    if connection is None:
        return None
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, _, _ = _CREDENTIALS.unpack(found)
        return PeerProcess(pid)
    except OSError:
        return None
