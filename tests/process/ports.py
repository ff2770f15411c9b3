"""Ports of TCP for programs that are to be told theirs beforehand."""

from __future__ import annotations

import secrets
import socket

_FIRST, _LAST = 10_000, 29_999
"""Below what Linux gives to whoever asks for any port (`ip_local_port_range`), as all others here do meanwhile."""


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    found: set[int] = set()
    while len(found) < count:
        port = _FIRST + secrets.randbelow(_LAST - _FIRST + 1)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.add(port)
    return list(found)
