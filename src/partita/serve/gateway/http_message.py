"""Parses requests and writes responses of HTTP/1.1, by the rules of RFC 9110 and RFC 9112."""

from __future__ import annotations

import re
import time
import zlib
from http import HTTPStatus
from math import ceil
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from partita.serve.gateway.oip import REASONS, RequestError, quoted

END = b"\r\n\r\n"
METHODS = "GET, HEAD, POST"
"""All methods that any path accepts, for `Allow`."""
_KNOWN = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH"})
_METHOD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})(?: |\Z)")
_CONTROLS = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n|\r\n[ \t]")
"""What a head must not contain: control characters, line ends other than CR LF, and folded lines."""
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?#]*)([^?#]*)(?:\?.*)?")
_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SINGLE = frozenset(
    {
        b"authorization", b"content-encoding", b"content-length", b"content-type", b"expect", b"host",
        b"inference-header-content-length", b"partita-deadline-ms",
    }
)  # fmt: skip
"""Headers that must not be repeated, as it would be unclear which one counts."""
_MOST_LENGTH = 15
_MOST_PATH = 4096


class ProtocolError(RequestError):
    """The data is no valid request, so the rest of the connection cannot be read either.

    Args:
        what: one sentence, sent to the client.
        status: of HTTP.
        reason: one word for metrics.
    """

    def __init__(self, what: str, status: int = 400, reason: str = "malformed") -> None:
        super().__init__(what, status, reason)


class RequestHead(NamedTuple):
    """A request without its body.

    Attributes:
        method: in upper case.
        path: its segments with percent-escapes resolved; a segment may contain `/`.
        headers: by name in lower case; values of repeated headers are joined by commas.
        length: bytes of the body; None if it is chunked.
        keep_alive: whether the connection stays open after the answer.
        version: `1.0` or `1.1`.
    """

    method: str
    path: tuple[str, ...]
    headers: dict[bytes, bytes]
    length: int | None
    keep_alive: bool
    version: str

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.length != 0

    @property
    def has_length(self) -> bool:
        """Whether the client gives the length of the body, or sends it in chunks."""
        return self.length is None or b"content-length" in self.headers

    @property
    def expects(self) -> bool:
        """Whether the client waits for 100 Continue before it sends its body."""
        return self.version == "1.1" and self.has_body and b"expect" in self.headers


def check_beginning(data: bytes) -> None:
    """Check the beginning of a head that may be incomplete.

    Raises:
        ProtocolError: it cannot become a valid head.
    """
    found = _METHOD.match(data)
    if found is None:
        raise ProtocolError("this is not an HTTP request")
    if found[1] not in _KNOWN and found.end() < len(data):
        raise ProtocolError(f"method {quoted(found[1].decode())} is not supported", 501, "method")
    if _CONTROLS.search(data) is not None:
        raise ProtocolError(
            "control characters, folded lines, or lines that do not end with CR and LF, in the head"
        )


def read_head(data: bytes) -> RequestHead:
    """Return the head in `data`, which must be complete.

    Raises:
        ProtocolError: it is not valid, or does not say where its request ends.
    """
    check_beginning(data)
    parsed = _Parsed()
    parser = HttpRequestParser(parsed)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        pass  # a server may ignore Upgrade (RFC 9110, section 7.8)
    except HttpParserError as error:
        raise _told(error, data) from None
    version = parser.get_http_version()
    if version not in {"1.0", "1.1"}:
        raise ProtocolError(f"HTTP/{version} is not supported; use HTTP/1.1", 505, "version")
    headers = _joined(parsed.headers)
    _check_host(headers.get(b"host"), version)
    method = parser.get_method().decode()
    return RequestHead(
        method,
        _segments(parsed.target),
        headers,
        _length(headers, version),
        _keeps_alive(headers, version),
        version,
    )


class _Parsed:
    """Collects what the parser finds."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))


def _told(error: HttpParserError, data: bytes) -> ProtocolError:
    what = str(error) or "malformed"
    lines = data.lower().split(b"\r\n")
    names = [line.partition(b":")[0] for line in lines[1:]]
    framed = names.count(b"content-length") + names.count(b"transfer-encoding")
    if b"transfer-encoding" in names and "ransfer-" in what and framed == 1:
        coding = next(line for line in lines if line.startswith(b"transfer-encoding:"))
        if coding.replace(b" ", b"").endswith(b",chunked") and coding.count(b"chunked") == 1:
            return ProtocolError("chunked is the only supported transfer coding", 501, "framing")
    return ProtocolError(f"malformed request: {what}", reason="framing" if framed else "malformed")


def _joined(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers = dict(pairs)
    if len(headers) == len(pairs):
        return headers
    headers = {}
    for name, value in pairs:
        if name in headers and name in _SINGLE:
            reason = "host" if name == b"host" else "framing" if name == b"content-length" else "malformed"
            raise ProtocolError(f"{name.decode()} is given twice", reason=reason)
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _check_host(host: bytes | None, version: str) -> None:
    """Check the Host header by RFC 9112, section 3.2."""
    if host is None:
        if version == "1.1":
            raise ProtocolError("a request of HTTP/1.1 needs a Host", reason="host")
    elif _HOST.fullmatch(host) is None:
        raise ProtocolError(f"Host is {quoted(host.decode('latin-1'))}, not a host and port", reason="host")


def _length(headers: dict[bytes, bytes], version: str) -> int | None:
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        if length is not None or version == "1.0":
            other = "Content-Length" if length is not None else "HTTP/1.0"
            raise ProtocolError(f"Transfer-Encoding together with {other}", reason="framing")
        codings = [each.strip().lower() for each in coding.split(b",")]
        if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
            raise ProtocolError("a Transfer-Encoding that does not end with chunked", reason="framing")
        if len(codings) > 1:
            raise ProtocolError("chunked is the only supported transfer coding", 501, "framing")
        return None
    if length is None:
        return 0
    if not length.isdigit() or len(length) > _MOST_LENGTH:
        what = quoted(length.decode("latin-1"))
        raise ProtocolError(f"Content-Length is {what}, not a number of bytes", reason="framing")
    return int(length)


def _keeps_alive(headers: dict[bytes, bytes], version: str) -> bool:
    told = headers.get(b"connection")
    if told is None:
        return version == "1.1"
    words = {each.strip().lower() for each in told.split(b",")}
    return b"close" not in words and (version == "1.1" or b"keep-alive" in words)


def _segments(target: bytes) -> tuple[str, ...]:
    """Return the path segments of a request target, in origin, absolute or asterisk form (RFC 9112, section 3.2).

    Only percent-escapes are resolved, after splitting, so neither `%2F` nor `..` leads to another path.
    """
    if target.startswith(b"/"):
        path = target.partition(b"?")[0]
    else:
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return (target.decode("latin-1"),)
        if not absolute[1] or _HOST.fullmatch(absolute[1]) is None:
            raise ProtocolError("the target is a URL without a host", reason="host")
        path = absolute[2] or b"/"
    if b"#" in path or _PERCENT.search(path) is not None:
        raise ProtocolError("the path has a # or a % that does not begin an escape")
    if len(path) > _MOST_PATH:
        raise ProtocolError(f"a path of {len(path)} characters, {_MOST_PATH} at most", 414, "path")
    parts = path.split(b"/")[1:]
    if len(parts) > 1 and not parts[-1]:
        del parts[-1]
    if b"%" not in path:
        return tuple([each.decode("latin-1") for each in parts])
    return tuple([unquote_to_bytes(each).decode("utf-8", "surrogateescape") for each in parts])


IN_PLACE = 1 << 16
"""Maximum bytes that are decompressed in the event loop; larger bodies are decompressed in a thread."""
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""zlib's window bits by content coding; `deflate` means the zlib format (RFC 9110, section 8.4.1.2)."""
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_LONGEST_LINE = 1024
_MOST_TRAILERS = 64


def check_body(head: RequestHead, most: int) -> None:
    """Check by its head whether a body can be accepted.

    Args:
        head: of the request.
        most: maximum bytes of the body.

    Raises:
        RequestError: the body is too large (413), of an unsupported type (415) or unknown length (411), or the
            expectation is not supported (417).
    """
    headers = head.headers
    if not head.has_length:
        raise RequestError("the request has no body: send Content-Length", 411)
    if head.length is not None and head.length > most:
        raise too_large(most)
    expected = headers.get(b"expect")
    if expected is not None and expected.lower() != b"100-continue":
        raise RequestError(
            f"Expect is {quoted(expected.decode('latin-1'))}; only 100-continue is supported", 417
        )
    if headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
        raise RequestError(
            "a form is not an inference request; send JSON, or JSON followed by binary data", 415
        )
    coding = content_coding(head)
    if coding is not None and coding not in _WINDOWS:
        raise RequestError(
            f"content encoding {quoted(coding.decode('latin-1'))} is not supported; gzip and deflate are", 415
        )


def content_coding(head: RequestHead) -> bytes | None:
    """Return the compression of a body, None if it is not compressed."""
    coding = head.headers.get(b"content-encoding", b"identity").lower()
    return None if coding == b"identity" else coding


def unpacked(body: bytes, coding: bytes, most: int) -> bytes:
    """Return a decompressed body.

    Raises:
        RequestError: it is damaged, or larger than `most` bytes.
    """
    unpacker = zlib.decompressobj(_WINDOWS[coding])
    try:
        found = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not valid {coding.decode()}: {error}") from None
    if len(found) > most:
        raise too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(f"the body is cut short, or has data after the end of its {coding.decode()}")
    return found


def too_large(most: int) -> RequestError:
    """Return the error for a body over the limit."""
    return RequestError(
        f"the body has more than {most} bytes; `partita serve --max-body` sets the limit", 413
    )


class ChunkedBody:
    """Decodes a chunked body (RFC 9112, section 7.1); trailers are checked and ignored."""

    __slots__ = ("_left", "_line", "_step", "_trailers")

    def __init__(self) -> None:
        self._line = b""  # an incomplete line
        self._left = 0  # missing bytes of the chunk
        self._step = self._take_size
        self._trailers = 0

    def take(self, data: bytes, parts: list[bytes]) -> bytes | None:
        """Append the body's bytes in `data` to `parts`; return the data after the body, None before its end.

        Raises:
            ProtocolError: the data are no valid chunks.
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
                raise ProtocolError("what follows the chunks is not headers", reason="framing")
        return at

    def _end(self, data: bytes, at: int, parts: list[bytes]) -> int:
        raise AssertionError(data, at, parts)  # never called: it only marks the end

    def _whole_line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """Return the line at `at`, None if it is incomplete, and the position after it."""
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


JSON = b"application/json"
_STATUS_LINES = {
    each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus
}
Headers = tuple[tuple[bytes, bytes], ...]


class Reply(NamedTuple):
    """A response: status, body, media type, further headers, and for errors one word for metrics."""

    status: int
    body: bytes
    media: bytes = JSON
    headers: Headers = ()
    reason: str = ""


def json_reply(value: Any) -> Reply:  # noqa: ANN401 -- whatever orjson writes
    """Return plain data as JSON."""
    return Reply(200, orjson.dumps(value))


def failure(what: str, status: int, headers: Headers = (), reason: str = "") -> Reply:
    """Return an error in the protocol's format."""
    return Reply(status, orjson.dumps({"error": what}), JSON, headers, reason or REASONS[status])


def unavailable(what: str, reason: str, retry_after_s: float) -> Reply:
    """Return 503, with the reason and the time to retry as headers."""
    after = str(max(1, ceil(retry_after_s))).encode()
    headers = ((b"retry-after", after), (b"partita-reason", reason.encode()))
    return failure(what, 503, headers, reason)


class Writer:
    """Writes responses; first lines are cached, with a date that is renewed each second."""

    def __init__(self) -> None:
        self._firsts: dict[tuple[int, bytes], bytes] = {}
        self._date = b""
        self.renew()

    def renew(self) -> None:
        """Update the date (RFC 9110, section 6.6.1)."""
        self._date = time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime()).encode()
        self._firsts.clear()

    def head(self, reply: Reply, *, connection: bytes = b"") -> bytes:
        """Return the head of a response.

        Args:
            reply: the response.
            connection: value of the Connection header; empty for none.
        """
        status, body, media, headers, _ = reply
        first = self._firsts.get((status, media))
        if first is None:
            first = b"%b%bcontent-type: %b\r\ncontent-length: " % (_STATUS_LINES[status], self._date, media)
            self._firsts[status, media] = first
        if not headers and not connection:
            return b"%b%d\r\n\r\n" % (first, len(body))
        more = b"".join([b"%b: %b\r\n" % each for each in headers])
        if connection:
            more += b"connection: %b\r\n" % connection
        return b"%b%d\r\n%b\r\n" % (first, len(body), more)
