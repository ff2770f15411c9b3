"""The body of a request: read within limits of size and time, and unpacked."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

from partita.serve.gateway.http.reply import ClientGoneError
from partita.serve.gateway.oip.faults import RequestError, shown
from partita.serve.gateway.values import Reason, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.serve.gateway.http.asgi import Receive, Scope

_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""By content coding, zlib's window bits: deflate is the zlib format (RFC 9110, section 8.4.1.2)."""
_IN_PLACE = 1 << 16
"""Bytes that are unpacked at once; more go to a thread, so that others need not wait."""
TOGETHER = 1 << 30
WHOLE = "partita.whole"
"""Key of the scope that is there once nothing more of a body is to come."""


class Bodies:
    """Reads bodies.

    Args:
        most: bytes that one may have, also unpacked.
        seconds: within which one must have come.
        together: bytes that those may have which are still on their way.
    """

    def __init__(self, most: int, seconds: float, together: int = TOGETHER) -> None:
        self._most = most
        self.seconds = seconds
        self._left = max(together, 4 * most)

    async def read(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, most: int | None = None
    ) -> bytes:
        """Return the whole body, unpacked.

        Args:
            scope: of the request; told when the body is whole.
            headers: of the request, by name in small letters.
            receive: ASGI's.
            most: bytes that it may have, where that is less than others may.

        Raises:
            RequestError: it is too large (413), too slow (408), or of a form that is not taken (400, 411, 415).
            RefusedError: too much is on its way already.
            ClientGoneError: the client left on the way.
        """
        most = self._most if most is None else most
        _check(headers, most)
        message = await receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        if message.get("more_body"):
            body = await self._rest(body, receive, most)
        scope[WHOLE] = True
        if len(body) > most:
            raise too_large(most)
        coding = headers.get(b"content-encoding", b"identity").lower()
        if coding == b"identity":
            return body
        if len(body) <= _IN_PLACE:
            return unpacked(body, coding, most)
        return await asyncio.to_thread(unpacked, body, coding, most)

    async def _rest(self, first: bytes, receive: Receive, most: int) -> bytes:
        parts, size, more = [first], len(first), True
        self._left -= size
        try:
            async with asyncio.timeout(self.seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    parts.append(part)
                    size += len(part)
                    self._left -= len(part)
                    more = message.get("more_body", False)
                    if more and size > most:
                        raise too_large(most)
                    if self._left < 0:
                        raise RefusedError(Reason.FULL, 1.0)
        except TimeoutError:
            raise RequestError(f"the body did not come within {self.seconds:g} seconds", 408) from None
        finally:
            self._left += size
        return b"".join(parts)


async def throw_away(receive: Receive, seconds: float) -> None:
    """Read what is left of a body for so long at most: who still sends does not look for an answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass


def has_body(headers: Mapping[bytes, bytes]) -> bool:
    """Say whether a request has a body."""
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def unpacked(body: bytes, coding: bytes, most: int) -> bytes:
    """Return a compressed body as it was.

    Raises:
        RequestError: it is damaged, or larger than allowed.
    """
    unpacker = zlib.decompressobj(_WINDOWS[coding])
    try:
        found = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise RequestError(f"the body is no {coding.decode()}: {error}") from None
    if len(found) > most:
        raise too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(f"the body is cut short, or goes on after its {coding.decode()}")
    return found


def too_large(most: int) -> RequestError:
    """Return what is said of a body over the limit."""
    return RequestError(
        f"the body has more than {most} bytes; `partita serve --max-body` sets the limit", 413
    )


def _check(headers: Mapping[bytes, bytes], most: int) -> None:
    """Refuse by its headers, before reading, what cannot be taken."""
    length = headers.get(b"content-length")
    if length is None:
        if b"transfer-encoding" not in headers:
            raise RequestError("the request has no body: send Content-Length", 411)
    elif int(length) > most:
        raise too_large(most)
    if headers.get(b"content-type", b"").startswith(b"multipart/"):
        raise RequestError(
            "a form is no request to infer; send JSON, or JSON with binary data behind it", 415
        )
    coding = headers.get(b"content-encoding", b"identity").lower()
    if coding != b"identity" and coding not in _WINDOWS:
        raise RequestError(
            f"content encoding {shown(coding.decode('latin-1'))}; gzip and deflate are taken", 415
        )
