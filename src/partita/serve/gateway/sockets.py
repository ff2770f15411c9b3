"""Where the gateway listens."""

from __future__ import annotations

import socket

from partita.errors import InputError

BACKLOG = 2048


def listening(host: str, port: int, option: str) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Args:
        host: name or address.
        port: of TCP.
        option: of the command line that chose the port, for errors.

    Raises:
        InputError: it cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InputError(
            f"{host} is no address of this host: {error.strerror}",
            where="--listen",
            hint="--listen 127.0.0.1 is this host alone, --listen 0.0.0.0 every address of it",
        ) from None
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(
            f"cannot listen at {shown(host, port)}: {error.strerror}",
            where=option,
            hint=f"another process may be there; {option} 0 takes a free port",
        ) from None


def shown(host: str, port: int) -> str:
    """Return an address as URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
