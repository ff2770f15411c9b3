"""Who may ask: tokens with roles, the cookie of browsers, and the hosts and origins that requests may name."""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass, field
from hmac import compare_digest
from secrets import token_urlsafe
from typing import TYPE_CHECKING

from partita.dash.endpoint import RequestFault
from partita.dash.model import Role
from partita.errors import InputError
from partita.serve.gateway.access import host_and_port, read_tls
from partita.serve.worker.listening import read_token
from partita.serve.worker.spec import is_loopback

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from partita.serve.gateway.access import Tls

COOKIE = "partita"
SESSION_S = 12 * 3600.0
_MOST_SESSIONS = 1000
_ADDRESS = re.compile(r"\[[0-9a-f:.%]+\]|\d{1,3}(\.\d{1,3}){3}", re.IGNORECASE)
_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API listens, and for whom.

    Attributes:
        host: name or address.
        port: of TCP; 0 for a free one.
        read: token that reading needs; None where everybody who reaches the port may read.
        write: token that writing needs; None where nobody may write.
        tls: None for plain text.
        names: of this host, that requests may name beside its addresses.
    """

    host: str = "127.0.0.1"
    port: int = 0
    read: str | None = None
    write: str | None = None
    tls: Tls | None = None
    names: Collection[str] = ()

    def url(self, port: int) -> str:
        """Return the address for a browser."""
        host = "localhost" if is_loopback(self.host) else self.host
        if self.host in ("0.0.0.0", "::"):  # noqa: S104 -- it is compared, not bound
            host = socket.gethostname()
        return f"{'https' if self.tls else 'http'}://{host_and_port(host, port)}/"


def read_access(
    host: str,
    port: int,
    *,
    read: Path | None = None,
    write: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    names: Collection[str] = (),
) -> Access:
    """Return the access of some options, with their files read and checked.

    Raises:
        InputError: a file cannot be used, or others could read along.
    """
    tls = read_tls(cert, key, None)
    reading, writing = (None if each is None else private_token(each) for each in (read, write))
    if reading is not None and reading == writing:
        raise InputError(
            "the token that reads is the one that writes, too",
            where=str(write),
            hint=f"make another: openssl rand -hex 32 > {write}",
        )
    if not is_loopback(host) and (tls is None or (reading or writing) is None):
        raise InputError(
            f"{host} can be reached by others, who could read along",
            where="--listen",
            hint="give --token-file, --tls-cert and --tls-key; or keep to this host, and reach it by "
            f"ssh -L {port or 8080}:localhost:{port or 8080}",
        )
    if not is_loopback(host) and reading is None:
        reading = writing
    return Access(host, port, reading, writing, tls, tuple(name.lower() for name in names))


def private_token(path: Path) -> str:
    """Return the token in a file that other users of this host cannot read.

    Raises:
        InputError: it cannot be read, holds no token, or others can read it.
    """
    token = read_token(path)
    if os.stat(path).st_mode & 0o007:  # noqa: PTH116 -- as open() finds it, through links
        raise InputError(
            "everybody on this host can read the token", where=str(path), hint=f"chmod 600 {path}"
        )
    return token


@dataclass(slots=True)
class Guard:
    """Checks requests.

    Attributes:
        access: for whom.
        sessions: of browsers that signed in: by cookie, the role and when it ends.
    """

    access: Access
    sessions: dict[str, tuple[Role, float]] = field(default_factory=dict)

    def check_host(self, host: str) -> None:
        """Refuse a request for another host: a page elsewhere may have its name lead here (DNS rebinding).

        Raises:
            RequestFault: it names a host that is not this one.
        """
        name = host.lower()
        if name.rpartition(":")[2].isdecimal():
            name = name.rpartition(":")[0]
        known = {"localhost", self.access.host.lower(), *self.access.names}
        if not is_loopback(self.access.host):
            known |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        if name not in known and not _ADDRESS.fullmatch(name):
            raise RequestFault(
                421,
                f"this is not {host[:100]!r}",
                where="Host",
                hint="if it is another name of this host, start with --name NAME",
            )

    def check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """Refuse what a page of another origin asks for.

        Raises:
            RequestFault: the origin is another one, or a browser says that the page is of another site.
        """
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        scheme = "https" if self.access.tls else "http"
        foreign = origin is not None and origin.lower() != f"{scheme}://{headers.get('host', '')}".lower()
        if foreign and (origin != "null" or method not in _SAFE):
            raise RequestFault(403, "a page of another origin asks for this", where="Origin")
        if site in ("cross-site", "same-site") and method not in _SAFE:
            raise RequestFault(403, "a page of another site asks for this", where="Sec-Fetch-Site")

    def role(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Role | None:
        """Return what the caller may do; None for nothing, since a token is needed.

        Raises:
            RequestFault: the token that it sends is none of ours.
        """
        told = headers.get("authorization")
        if told is not None:
            scheme, _, token = told.partition(" ")
            found = self._known(token.strip()) if scheme.lower() == "bearer" else None
            if found is None:
                raise RequestFault(401, "the token is wrong", where="Authorization", hint="Bearer TOKEN")
            return found
        session = self.sessions.get(cookies.get(COOKIE, ""))
        if session is not None and session[1] > time.monotonic():
            return session[0]
        return Role.READ if self.access.read is None else None

    def sign_in(self, token: str) -> tuple[Role, str]:
        """Return the role of a token, and the header that sets the cookie.

        Raises:
            RequestFault: it is none of ours.
        """
        role = self._known(token.strip())
        if role is None:
            raise RequestFault(401, "the token is wrong", where="token")
        now = time.monotonic()
        for each in [name for name, (_, ends) in self.sessions.items() if ends <= now]:
            del self.sessions[each]
        while len(self.sessions) >= _MOST_SESSIONS:
            del self.sessions[next(iter(self.sessions))]
        name = token_urlsafe(32)
        self.sessions[name] = (role, now + SESSION_S)
        return role, self._cookie(name, int(SESSION_S))

    def sign_out(self, cookies: Mapping[str, str]) -> str:
        """Forget a session; return the header that removes the cookie."""
        self.sessions.pop(cookies.get(COOKIE, ""), None)
        return self._cookie("", 0)

    def _known(self, token: str) -> Role | None:
        given, found = token.encode(errors="surrogateescape"), None
        for role, own in ((Role.READ, self.access.read), (Role.WRITE, self.access.write)):
            if own is not None and compare_digest(given, own.encode()):
                found = role
        return found

    def _cookie(self, value: str, seconds: int) -> str:
        secure = "; Secure" if self.access.tls else ""
        return f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
