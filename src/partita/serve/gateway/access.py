"""Where the gateway listens, and the authentication of clients: required beyond loopback, by token or certificate."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from errno import EACCES
from hmac import compare_digest
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.serve.gateway.oip import RequestError
from partita.serve.tls import Tls, server_context
from partita.serve.worker.listening import read_token
from partita.serve.worker.spec import is_loopback

if TYPE_CHECKING:
    from pathlib import Path


BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the gateway listens, and the credentials of clients.

    Attributes:
        host: name or address.
        port: of HTTP; 0 for a free one.
        grpc_port: of gRPC; 0 for a free one.
        token: that requests must carry; None for none.
        tls: None for plain text.
    """

    host: str
    port: int
    grpc_port: int
    token: str | None
    tls: Tls | None


def read_endpoint(
    host: str,
    ports: tuple[int, int],
    *,
    token_file: Path | None,
    cert: Path | None,
    key: Path | None,
    client_ca: Path | None,
) -> Endpoint:
    """Return the endpoint of some options, with their files read and checked; `ports` are those of HTTP and gRPC.

    Raises:
        InputError: a file is missing or cannot be used, or the models could be used without authentication.
    """
    host = bare_address(host)
    token = read_token(token_file) if token_file is not None else None
    tls = read_tls(cert, key, client_ca)
    check_exposure(host, token=token is not None, tls=tls)
    return Endpoint(host, *ports, token, tls)


def read_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    """Return the checked TLS files; None if none is given.

    Raises:
        InputError: a file is missing or cannot be used.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise InputError("TLS needs a certificate and its key", hint="give both --tls-cert and --tls-key")
    found = Tls(cert, key, client_ca)
    server_context(found)
    return found


def check_exposure(host: str, *, token: bool, tls: Tls | None) -> None:
    """Refuse to listen beyond loopback without authentication.

    Raises:
        InputError: neither a token nor certificates of clients are required.
    """
    if token or (tls is not None and tls.client_ca is not None) or is_loopback(host):
        return
    raise InputError(
        f"{host} can be reached by others, who could use the models without permission",
        where="--listen",
        hint="give --token-file FILE (a bearer token), or --tls-cert, --tls-key and --tls-client-ca",
    )


class Authenticator:
    """Checks the token of requests.

    Args:
        token: that `Authorization: Bearer` must carry; None to accept all requests.
    """

    def __init__(self, token: str | None = None) -> None:
        self._token = token.encode() if token is not None else None

    def check(self, authorization: bytes | None) -> None:
        """Check the Authorization header of a request.

        Raises:
            RequestError: it does not carry the token.
        """
        if self._token is None:
            return
        scheme, _, token = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not compare_digest(token.strip(), self._token):
            raise RequestError("send the server's token as `Authorization: Bearer TOKEN`", 401)


def listening(host: str, port: int, option: str) -> socket.socket:
    """Return a listening socket; port 0 takes a free port.

    Args:
        host: name or address; `::` is every address of IPv6 and IPv4.
        port: of TCP.
        option: of the command line that chose the port, for errors.

    Raises:
        InputError: the address or the port cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InputError(
            f"{host} is not an address of this host: {error.strerror}",
            where="--listen",
            hint="--listen 127.0.0.1 is this host alone, --listen 0.0.0.0 every address of it",
        ) from None
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        why = "ports below 1024 are for root" if error.errno == EACCES else "another process may be there"
        raise InputError(
            f"cannot listen at {host_and_port(host, port)}: {error.strerror}",
            where=option,
            hint=f"{why}; {option} 0 takes a free port",
        ) from None


def bare_address(host: str) -> str:
    """Return an address of IPv6 without the brackets that it has in URLs."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def host_and_port(host: str, port: int) -> str:
    """Return an address as in URLs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
