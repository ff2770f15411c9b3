"""Certificates of servers: read and checked at the start, and followed while files are replaced.

Certificates are renewed under servers that run: cert-manager replaces the files of a mounted Secret, certbot those
that its links lead to. A connection gets the newest files that belong together; until these are there, and where they
never come, the ones from before.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.files import file_stamp, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name."""

_HANDSHAKE_STEPS = 10


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the server's certificate and key, and the authority of the clients' certificates."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class ServerCertificate:
    """A server's certificate in its files, which may be replaced at any time.

    Args:
        tls: the files.
        tell: called with a sentence about what is wrong with the certificate, and when another one is served.
        alpn: protocols that the server offers.

    Raises:
        InputError: the files are no certificate with its key, or no authority.
    """

    def __init__(self, tls: Tls, tell: Callable[[str], None], alpn: Sequence[str] = ()) -> None:
        self._tls, self._tell, self._alpn = tls, tell, list(alpn)
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._current = self._read()
        self._ends = self._check_dates()

    def current(self) -> ssl.SSLContext:
        """Return a context with the newest files that belong together."""
        with self._lock:
            seen = self._stamps()
            if seen != self._seen:
                self._seen = seen
                try:
                    self._current = self._read()
                except InputError as error:
                    self._tell(f"the certificate from before is served: {error}")
                else:
                    self._tell(f"the certificate of {self._tls.cert} is another now")
                    self._ends = self._check_dates()
            elif time.time() > self._ends:
                self._ends = self._check_dates()
            return self._current

    def context(self) -> ssl.SSLContext:
        """Return a context whose connections get the certificate that is the current one when they are opened."""
        made = self._read()

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, *_: object) -> None:
            connection.context = self.current()

        made.sni_callback = choose  # called for clients that name no server, too
        return made

    def _read(self) -> ssl.SSLContext:
        made = server_context(self._tls)
        if self._alpn:
            made.set_alpn_protocols(self._alpn)
        return made

    def _stamps(self) -> list[tuple[int, int, int, int] | None]:
        return [
            None if path is None else file_stamp(path)
            for path in (self._tls.cert, self._tls.key, self._tls.client_ca)
        ]

    def _check_dates(self) -> float:
        """Say what clients will not like about the certificate; return when, by the wall clock, to look again."""
        cert, now = self._tls.cert, time.time()
        try:
            begins, ends = _dates(self._current, cert)
        except (OSError, ValueError) as error:
            why = getattr(error, "verify_message", None) or error
            self._tell(f"clients will not trust the certificate of {cert}: {why}")
            return float("inf")
        if now > ends:
            self._tell(f"the certificate of {cert} expired on {_day(ends)}: have it renewed")
        elif now < begins:
            self._tell(f"the certificate of {cert} is not valid before {_day(begins)}")
        return ends if now <= ends else float("inf")


class ClientTrust:
    """The authority that clients trust, whose file may be replaced at any time.

    Args:
        ca: PEM file of the authority; None for those of the system.
        named: whether a server's certificate must be of its name.

    Raises:
        InputError: the file has no certificate.
    """

    def __init__(self, ca: Path | None, *, named: bool = True) -> None:
        self._ca, self._named = ca, named
        self._seen = self._stamp()
        self._current = self._read()

    def current(self) -> ssl.SSLContext:
        """Return a context that trusts the authority in the newest file that has one."""
        seen = self._stamp()
        if seen != self._seen:
            self._seen = seen
            with suppress(InputError):  # who cannot connect then is told why by whom it connects to
                self._current = self._read()
        return self._current

    def _stamp(self) -> tuple[int, ...] | None:
        return None if self._ca is None else file_stamp(self._ca)

    def _read(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = self._named
        if self._ca is None:
            made.load_default_certs()
        else:
            _load_authority(made, self._ca)
        return made


def server_context(tls: Tls) -> ssl.SSLContext:
    """Return the TLS context of a server, with the files as they are now.

    Raises:
        InputError: the files are no certificate with its key, or no authority.
    """
    for path in (tls.cert, tls.key):
        read_bytes(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    encrypted = False

    def no_password() -> str:  # else OpenSSL asks for it on the terminal, where nobody may be
        nonlocal encrypted
        encrypted = True
        return ""

    try:
        context.load_cert_chain(tls.cert, tls.key, no_password)
    except (OSError, ValueError) as error:
        raise _unusable(tls, error, encrypted=encrypted) from None
    if tls.client_ca is not None:
        _load_authority(context, tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_authority(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        why = (
            error.strerror
            if isinstance(error, FileNotFoundError | PermissionError)
            else "it has no PEM certificate"
        )
        raise InputError(f"not a certificate of an authority: {why}", where=str(ca)) from None


def _unusable(tls: Tls, error: Exception, *, encrypted: bool) -> InputError:
    cert, key = str(tls.cert), str(tls.key)
    if encrypted:
        return InputError(
            "the key is encrypted",
            where=key,
            hint=f"a server cannot ask for its password: openssl pkey -in {key} -out FILE",
        )
    for path, kind, what in ((cert, b"CERTIFICATE", "certificate"), (key, b"PRIVATE KEY", "private key")):
        marks = rb"-----BEGIN ([A-Z0-9 ]* )?%b-----.*-----END ([A-Z0-9 ]* )?%b-----" % (kind, kind)
        if re.search(marks, read_bytes(path), re.DOTALL) is None:
            return InputError(
                f"the file has no whole {what} in PEM",
                where=path,
                hint="PEM is text from -----BEGIN to -----END; `openssl x509` and `openssl pkey` make it of DER",
            )
    why = getattr(error, "reason", None) or str(error)
    if why == "KEY_VALUES_MISMATCH":
        return InputError(
            "not a certificate with its key: the key is of another certificate",
            where=f"{cert}, {key}",
            hint="the server's own certificate comes first in its file, those of authorities after it",
        )
    return InputError(
        f"not a certificate with its key: {why.replace('_', ' ').lower()}",
        where=f"{cert}, {key}",
        hint=f"look at it: openssl x509 -in {cert} -noout -text",
    )


def _dates(context: ssl.SSLContext, cert: Path) -> tuple[float, float]:
    """Return from when until when a server's certificate is valid, in Unix seconds.

    Python reads a certificate only for those who connect and verify it. So a client in memory does, which trusts
    that certificate alone and minds no time.

    Raises:
        OSError: it cannot be verified for another reason than its time.
        ValueError: it has no such dates.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(cert)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there)
    server = context.wrap_bio(there, back, server_side=True)
    for _ in range(_HANDSHAKE_STEPS):
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
        with suppress(ssl.SSLWantReadError):
            server.do_handshake()
    found = client.getpeercert() or {}
    begins, ends = (ssl.cert_time_to_seconds(str(found.get(name))) for name in ("notBefore", "notAfter"))
    return float(begins), float(ends)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
