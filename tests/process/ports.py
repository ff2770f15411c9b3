"""Ports of TCP for programs that are to be told theirs beforehand."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import tempfile
from functools import cache
from pathlib import Path

_FIRST, _LAST = 10_000, 29_999
"""Below what Linux gives to whoever asks for any port (`ip_local_port_range`), as all others here do meanwhile."""
_TAKEN: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on, and that no other process of tests was given and still runs.

    The programs may take a minute until they listen.
    """
    found: list[int] = []
    while len(found) < count:
        port = _FIRST + secrets.randbelow(_LAST - _FIRST + 1)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except OSError:
                continue
        if port not in _TAKEN:
            _TAKEN.add(port)
            found.append(port)
    return found


@cache
def _locks() -> int:
    """Return a file of which each byte that is locked is a port that was given away; locks end with their process."""
    path = Path(tempfile.gettempdir()) / f"partita-test-ports-{os.geteuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
