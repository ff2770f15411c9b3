"""Who may ask: tokens with roles, the cookie of browsers, and the hosts and origins that requests may name."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest
from math import inf
from secrets import token_urlsafe
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from partita.dash.model import Role
from partita.dash.refusal import RequestFault
from partita.errors import InputError
from partita.files import file_stamp
from partita.serve.gateway.access import bare_address, host_and_port, read_tls
from partita.serve.worker.listening import read_token
from partita.serve.worker.spec import is_loopback

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from partita.serve.tls import Tls

_LOG = logging.getLogger("partita.dash")

COOKIE = "partita"
SESSION_S = 12 * 3600.0
_MOST_SESSIONS = 1000
_ADDRESS = re.compile(r"\[[0-9a-f:.%]+\]|\d{1,3}(\.\d{1,3}){3}", re.IGNORECASE)
_PATH = re.compile(r"(/[\w.~@+-]+)*/?", re.ASCII)
_FORWARDED = {"": "ssh -L {0}:localhost:{0}", "dash-": "kubectl port-forward POD {0}"}
"""How to reach a port on loopback from elsewhere, by the prefix of the options."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """The address by which browsers reach a proxy that stands in front.

    Attributes:
        origin: as browsers send it, such as `https://gpus.example.org`.
        host: its name or address, without a port.
        path: of the first page; it begins and ends with a slash.
    """

    origin: str
    host: str
    path: str = "/"

    def __str__(self) -> str:
        """Return the address as it is written."""
        return f"{self.origin}{self.path}"

    @property
    def secure(self) -> bool:
        """Whether browsers come by TLS."""
        return self.origin.startswith("https:")


def parse_public_url(text: str, where: str = "--public-url") -> PublicUrl:
    """Return the parts of a public address, which came from an option.

    Raises:
        InputError: it is none.
    """
    example = "such as https://gpus.example.org/ or https://gpus.example.org/partita/"
    try:
        found = urlsplit(text)
        port = found.port
    except ValueError as error:
        raise InputError(f"{text!r} is no URL: {error}", where=where, hint=example) from None
    host, scheme = (found.hostname or "").rstrip("."), found.scheme
    if scheme not in _PORTS or not host or found.query or found.fragment or "@" in found.netloc:
        raise InputError(f"{text!r} is no address of a website", where=where, hint=example)
    if scheme == "http" and not is_loopback(host):
        raise InputError(
            f"{text!r} is plain HTTP: others on the way could read along, tokens included",
            where=where,
            hint="let the proxy end TLS, and give its https:// address",
        )
    path = found.path.rstrip("/") + "/"
    if not _PATH.fullmatch(path) or "/api/v1/".startswith(path) != (path == "/"):
        raise InputError(
            f"the path {path} cannot be used",
            where=where,
            hint="a path of letters, digits and . _ ~ @ + -, which does not begin as /api/v1 does",
        )
    name = f"[{host}]" if ":" in host else host
    origin = f"{scheme}://{name}" + ("" if port in (None, _PORTS[scheme]) else f":{port}")
    return PublicUrl(origin, name, path)


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
        public: address of a proxy in front; None where there is none.
        read_file: where the token that reads is kept; None where it never changes.
        write_file: likewise.
    """

    host: str = "127.0.0.1"
    port: int = 0
    read: str | None = None
    write: str | None = None
    tls: Tls | None = None
    names: Collection[str] = ()
    public: PublicUrl | None = None
    read_file: Path | None = None
    write_file: Path | None = None

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
    public_url: str | None = None,
    prefix: str = "",
) -> Access:
    """Return the access of some options, with their files read and checked.

    Args:
        host: name or address to listen on.
        port: of TCP; 0 for a free one.
        read: file with the token of those who read.
        write: file with the token of those who may write.
        cert: file with the certificate of TLS.
        key: file with its key.
        names: other names of this host.
        public_url: as browsers have it, where a proxy stands in front.
        prefix: of the options' names, as `dash-` in `--dash-listen`.

    Raises:
        InputError: a file cannot be used, or others could read along.
    """
    host = bare_address(host)
    tls = read_tls(cert, key, None)
    public = None if public_url is None else parse_public_url(public_url, f"--{prefix}public-url")
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
            where=f"--{prefix}listen",
            hint=f"give --{prefix}token-file, --{prefix}tls-cert and --{prefix}tls-key; or keep to this host, and "
            f"reach it by {_FORWARDED[prefix].format(port or 8080)}",
        )
    beyond = not is_loopback(host) or (public is not None and not is_loopback(public.host.strip("[]")))
    if beyond and (reading or writing) is None:
        raise InputError(
            f"everybody who reaches {public} could read along",
            where=f"--{prefix}public-url",
            hint=f"give --{prefix}token-file; a proxy that knows its users may send the token for them, as "
            "`Authorization: Bearer TOKEN`",
        )
    if beyond and reading is None:
        reading, read = writing, write
    known = tuple(name.lower() for name in names)
    return Access(host, port, reading, writing, tls, known, public, read, write)


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


@dataclass(slots=True, eq=False)
class Grant:
    """Why a request is answered: a token, or a session that was begun with one; or nothing, where none is needed.

    Attributes:
        role: what it allows.
        token: None where none is needed.
        ends: when it ends by itself, by time.monotonic().
        ended: set when it holds no longer: its browser has signed out, or its token was taken back.
    """

    role: Role
    token: str | None = None
    ends: float = inf
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def holds(self) -> bool:
        """Whether it still allows something."""
        return not self.ended.is_set() and time.monotonic() < self.ends


class Guard:
    """Checks requests; of one thread.

    Args:
        access: for whom.
        port: of TCP, where it listens. It is part of the cookie's name: browsers send cookies to all ports of a host.
    """

    def __init__(self, access: Access, port: int = 0) -> None:
        self.access = access
        self._open = Grant(Role.READ)
        self._sessions: dict[str, Grant] = {}
        self._bearers: dict[str, Grant] = {}
        self._tokens: dict[Role, str | None] = {Role.READ: access.read, Role.WRITE: access.write}
        self._files = {
            role: (path, file_stamp(path))
            for role, path in ((Role.READ, access.read_file), (Role.WRITE, access.write_file))
            if path is not None
        }
        # Through ssh, dashboards of several hosts are one host to a browser.
        place = f"{socket.gethostname()} {port} {access.public}"
        self._name = f"{COOKIE}-{blake2b(place.encode(), digest_size=5).hexdigest()}"

    def check_host(self, host: str) -> None:
        """Refuse a request for another host: a page elsewhere may have its name lead here (DNS rebinding).

        Raises:
            RequestFault: it names a host that is not this one.
        """
        access, name = self.access, _bare(host)
        known = {"localhost", access.host.lower(), *access.names}
        if access.public is not None:
            known.add(access.public.host)
        if not is_loopback(access.host):
            known |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        if name not in known and not _ADDRESS.fullmatch(name):
            raise RequestFault(
                421,
                f"this is not {host[:100]!r}",
                where="Host",
                hint="if it is another name of this host, start with --name NAME; if it is a proxy's, with "
                "--public-url https://NAME/",
            )

    def check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """Refuse what a page of another origin asks for.

        Raises:
            RequestFault: the origin is another one, or a browser says that the page is of another site.
        """
        origin, site, host = headers.get("origin"), headers.get("sec-fetch-site"), headers.get("host", "")
        foreign = origin is not None and not self._ours(origin.lower(), host.lower())
        if foreign and (origin != "null" or method not in _SAFE):
            proxied = origin == f"https://{host}" and not self.access.tls
            hint = f"if a proxy in front ends TLS, start with --public-url {origin}/" if proxied else None
            raise RequestFault(403, "a page of another origin asks for this", where="Origin", hint=hint)
        if site in ("cross-site", "same-site") and method not in _SAFE:
            raise RequestFault(403, "a page of another site asks for this", where="Sec-Fetch-Site")

    def _ours(self, origin: str, host: str) -> bool:
        public = self.access.public
        if public is not None and origin == public.origin:
            return True
        if public is not None and (
            public.origin.endswith(f"://{host}")
            or (_bare(host) == public.host and not is_loopback(public.host))
        ):
            return False  # an unsafe page of the same name
        return origin == f"{'https' if self.access.tls else 'http'}://{host}"

    def inner_path(self, path: str) -> str | None:
        """Return a path as it is without a proxy; None for the public one that lacks its last slash.

        Some proxies take the public path away before they ask, and some leave it.
        """
        prefix = "/" if self.access.public is None else self.access.public.path
        if prefix != "/" and path == prefix[:-1]:
            return None
        return path[len(prefix) - 1 :] if path.startswith(prefix) else path

    def grant(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Grant | None:
        """Return what the caller may do, and why; None for nothing, since a token is needed.

        Raises:
            RequestFault: the token that it sends is none of ours.
        """
        told = headers.get("authorization")
        if told is not None:
            scheme, _, token = told.partition(" ")
            role = self._known(token.strip()) if scheme.lower() == "bearer" else None
            if role is None:
                raise RequestFault(401, "the token is wrong", where="Authorization", hint="Bearer TOKEN")
            return self._bearers.setdefault(token.strip(), Grant(role, token.strip()))
        session = self._session(cookies)
        if session is not None and session.holds:
            return session
        return self._open if self.access.read is None else None

    def sign_in(self, token: str, origin: str | None) -> tuple[Role, str]:
        """Return the role of a token, and the header that sets the cookie.

        Args:
            token: that was sent.
            origin: of the page that sent it; None if no browser did.

        Raises:
            RequestFault: it is none of ours.
        """
        token = token.strip()
        role = self._known(token)
        if role is None:
            raise RequestFault(401, "the token is wrong", where="token")
        for each in [name for name, session in self._sessions.items() if not session.holds]:
            del self._sessions[each]
        while len(self._sessions) >= _MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions))).ended.set()
        name = token_urlsafe(32)
        self._sessions[name] = Grant(role, token, time.monotonic() + SESSION_S)
        return role, self._cookie(name, int(SESSION_S), origin)

    def sign_out(self, cookies: Mapping[str, str], origin: str | None) -> str:
        """End a session and its streams; return the header that removes the cookie."""
        session = self._session(cookies)
        if session is not None:
            session.ended.set()
        return self._cookie("", 0, origin)

    def read_tokens(self) -> None:
        """Read the tokens' files again if they have changed; what a token allowed that is there no more ends."""
        changed = False
        for role, (path, before) in self._files.items():
            now = file_stamp(path)
            if now != before:
                self._files[role] = path, now
                self._tokens[role] = self._read(path)
                changed = True
        if not changed:
            return
        reading, writing = self._tokens[Role.READ], self._tokens[Role.WRITE]
        if reading is not None and reading == writing and self.access.read != self.access.write:
            _LOG.warning(
                "the token that reads is the one that writes, too: nobody may write until it is another"
            )
            self._tokens[Role.WRITE] = None
        for grants in (self._sessions, self._bearers):
            for name in [
                name for name, each in grants.items() if self._known(each.token or "") is not each.role
            ]:
                grants.pop(name).ended.set()

    def _read(self, path: Path) -> str | None:
        try:
            token = private_token(path)
        except (InputError, OSError) as error:
            what = error.what if isinstance(error, InputError) else error.strerror
            _LOG.warning("nobody may use the token of %s any more: %s", path, what)
            return None
        _LOG.info("the token of %s is another now", path)
        return token

    def _session(self, cookies: Mapping[str, str]) -> Grant | None:
        for prefix in ("__Host-", "__Secure-", ""):
            session = self._sessions.get(cookies.get(f"{prefix}{self._name}", ""))
            if session is not None:
                return session
        return None

    def _known(self, token: str) -> Role | None:
        given, found = token.encode(errors="surrogateescape"), None
        for role, own in self._tokens.items():
            if own is not None and compare_digest(given, own.encode()):
                found = role
        return found

    def _cookie(self, value: str, seconds: int, origin: str | None) -> str:
        """Return the header of a cookie, for browsers that come through a proxy, or that come directly."""
        public, secure, path = self.access.public, self.access.tls is not None, "/"
        if public is not None and origin in (None, public.origin):
            secure, path = public.secure, public.path
        prefix = "" if not secure else "__Host-" if path == "/" else "__Secure-"
        rest = f"Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}"
        return f"{prefix}{self._name}={value}; {rest}"


def _bare(host: str) -> str:
    """Return the name or address of a Host header without its port."""
    name = host.lower()
    return name.rpartition(":")[0] if name.rpartition(":")[2].isdecimal() else name
