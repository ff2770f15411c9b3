"""The body of a request: what is refused before it is read, its chunks put together, its compression undone."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from partita.serve.gateway.http.head import ProtocolError
from partita.serve.gateway.oip import RequestError, quoted

if TYPE_CHECKING:
    from partita.serve.gateway.http.head import RequestHead

IN_PLACE = 1 << 16
"""Bytes that are unpacked at once; more go to a thread, so that others need not wait."""
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""By content coding, zlib's window bits: deflate is the zlib format (RFC 9110, section 8.4.1.2)."""
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_LONGEST_LINE = 1024
_MOST_TRAILERS = 64


def check_body(head: RequestHead, most: int) -> None:
    """Refuse by its head a body that cannot be taken.

    Args:
        head: of the request.
        most: bytes that the body may have.

    Raises:
        RequestError: it is too large (413), of a form that is not taken (415), of unknown length (411), or the
            client expects what is not done (417).
    """
    headers = head.headers
    if not head.has_length:
        raise RequestError("the request has no body: send Content-Length", 411)
    if head.length is not None and head.length > most:
        raise too_large(most)
    expected = headers.get(b"expect")
    if expected is not None and expected.lower() != b"100-continue":
        raise RequestError(f"Expect is {quoted(expected.decode('latin-1'))}; only 100-continue is known", 417)
    if headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
        raise RequestError(
            "a form is no request to infer; send JSON, or JSON with binary data behind it", 415
        )
    coding = content_coding(head)
    if coding is not None and coding not in _WINDOWS:
        raise RequestError(
            f"content encoding {quoted(coding.decode('latin-1'))}; gzip and deflate are taken", 415
        )


def content_coding(head: RequestHead) -> bytes | None:
    """Return how a body is compressed, None where it is not."""
    coding = head.headers.get(b"content-encoding", b"identity").lower()
    return None if coding == b"identity" else coding


def unpacked(body: bytes, coding: bytes, most: int) -> bytes:
    """Return a compressed body as it was.

    Raises:
        RequestError: it is damaged, or larger than `most` bytes.
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


class ChunkedBody:
    """Takes chunks apart (RFC 9112, section 7.1); what trails them is checked and passed over."""

    __slots__ = ("_left", "_line", "_step", "_trailers")

    def __init__(self) -> None:
        self._line = b""  # of a line that has not come whole
        self._left = 0  # bytes of the chunk
        self._step = self._take_size
        self._trailers = 0

    def take(self, data: bytes, parts: list[bytes]) -> bytes | None:
        """Add what data hold of the body to `parts`; return what is behind its end, None before that has come.

        Raises:
            ProtocolError: these are no chunks.
        """
        at = 0
        while at < len(data):
            at = self._step(data, at, parts)
            if self._step == self._end:
                return data[at:]
        return None

    def _take_size(self, data: bytes, at: int, parts: list[bytes]) -> int:  # noqa: ARG002 -- as all steps
        line, at = self._whole_line(data, at)
        if line is not None:
            found = _SIZE.fullmatch(line)
            if found is None:
                raise ProtocolError("a chunk without a size", reason="framing")
            self._left = int(found[1], 16)
            self._step = self._take_data if self._left else self._take_trailer
        return at

    def _take_data(self, data: bytes, at: int, parts: list[bytes]) -> int:
        part = data[at : at + self._left]
        parts.append(part)
        self._left -= len(part)
        if not self._left:
            self._step = self._take_end_of_data
        return at + len(part)

    def _take_end_of_data(self, data: bytes, at: int, parts: list[bytes]) -> int:  # noqa: ARG002 -- as all steps
        line, at = self._whole_line(data, at)
        if line:
            raise ProtocolError("a chunk longer than its size", reason="framing")
        if line is not None:
            self._step = self._take_size
        return at

    def _take_trailer(self, data: bytes, at: int, parts: list[bytes]) -> int:  # noqa: ARG002 -- as all steps
        line, at = self._whole_line(data, at)
        if line == b"":
            self._step = self._end
        elif line is not None:
            self._trailers += 1
            if self._trailers > _MOST_TRAILERS or _FIELD.fullmatch(line) is None:
                raise ProtocolError("what follows the chunks are no headers", reason="framing")
        return at

    def _end(self, data: bytes, at: int, parts: list[bytes]) -> int:
        raise AssertionError(data, at, parts)  # nobody takes a step from here

    def _whole_line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """Return the line that begins here without its end, None if that has not come, and where the next begins."""
        end = data.find(b"\n", at)
        here = self._line + (data[at:] if end < 0 else data[at : end + 1])
        if len(here) > _LONGEST_LINE:
            raise ProtocolError("a line among the chunks that does not end", reason="framing")
        if end < 0:
            self._line = here
            return None, len(data)
        if not here.endswith(b"\r\n"):
            raise ProtocolError("a line among the chunks that does not end with CR and LF", reason="framing")
        self._line = b""
        return here[:-2], end + 1
