"""The body of a request: read within limits of size and time, and unpacked."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

from partita.serve.gateway.http.reply import ClientGoneError
from partita.serve.gateway.oip.faults import RequestError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.serve.gateway.http.asgi import Receive, Scope

_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""By content coding, zlib's window bits: deflate is the zlib format (RFC 9110, section 8.4.1.2)."""
_IN_PLACE = 1 << 16
"""Bytes that are unpacked at once; more go to a thread, so that others need not wait."""


WHOLE = "partita.whole"
"""Key of the scope that is there once nothing more of a body is to come."""


async def read_body(
    scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, most: int, seconds: float
) -> bytes:
    """Return the whole body, unpacked.

    Args:
        scope: of the request; told when the body is whole.
        headers: of the request, by name in small letters.
        receive: ASGI's.
        most: bytes that it may have, also unpacked.
        seconds: within which it must have come.

    Raises:
        RequestError: it is too large (413), too slow (408), or of a form that is not taken (400, 415).
        ClientGoneError: the client left on the way.
    """
    _check(headers, most)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    if message.get("more_body"):
        body = await _rest(body, receive, most, seconds)
    scope[WHOLE] = True
    if len(body) > most:
        raise too_large(most)
    coding = headers.get(b"content-encoding", b"identity").lower()
    if coding == b"identity":
        return body
    if len(body) <= _IN_PLACE:
        return unpacked(body, coding, most)
    return await asyncio.to_thread(unpacked, body, coding, most)


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


async def _rest(first: bytes, receive: Receive, most: int, seconds: float) -> bytes:
    parts, size, more = [first], len(first), True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                more = message.get("more_body", False)
                if more and size > most:
                    raise too_large(most)
    except TimeoutError:
        raise RequestError(f"the body did not come within {seconds:g} seconds", 408) from None
    return b"".join(parts)
