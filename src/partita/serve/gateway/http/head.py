"""A request's line and headers: what RFC 9110 and RFC 9112 ask of them, checked before anything is done with them.

httptools (llhttp) reads the grammar; what it leaves to a server, or would tell as a less fitting status, is here.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from partita.serve.gateway.oip import RequestError, quoted

END = b"\r\n\r\n"
METHODS = "GET, HEAD, POST"
"""What some path takes, for `Allow`."""
_KNOWN = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH"})
_METHOD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})(?: |\Z)")
_CONTROLS = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n|\r\n[ \t]")
"""What no head holds: control characters, line ends that are not both of CR and LF, and folded lines."""
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?#]*)([^?#]*)(?:\?.*)?")
_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SINGLE = frozenset(
    {
        b"authorization", b"content-encoding", b"content-length", b"content-type", b"expect", b"host",
        b"inference-header-content-length", b"partita-deadline-ms",
    }
)  # fmt: skip
"""Headers of which a second one would leave open which counts."""
_MOST_LENGTH = 15
_MOST_PATH = 4096


class ProtocolError(RequestError):
    """What came is no request that can be read, so that what follows on its connection cannot be either.

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
        method: in capitals.
        path: its segments, each with its percent-escapes resolved: a `/` in one separates nothing.
        headers: by name in small letters; values of several joined by commas.
        length: bytes of the body; None where it comes in chunks.
        keep_alive: whether the connection stays open behind the answer.
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
        """Whether the client says where the body ends, or that there is one."""
        return self.length is None or b"content-length" in self.headers

    @property
    def expects(self) -> bool:
        """Whether the client waits for leave to send its body."""
        return self.version == "1.1" and self.has_body and b"expect" in self.headers


class _Parsed:
    """What the parser tells."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))


def check_beginning(data: bytes) -> None:
    """Refuse what cannot become a head, though it may not have come whole yet.

    Raises:
        ProtocolError: it cannot.
    """
    found = _METHOD.match(data)
    if found is None:
        raise ProtocolError("this is no HTTP request")
    if found[1] not in _KNOWN and found.end() < len(data):
        raise ProtocolError(f"method {quoted(found[1].decode())} is not known here", 501, "method")
    if _CONTROLS.search(data) is not None:
        raise ProtocolError(
            "control characters, folded lines, or lines that do not end with CR and LF, in the head"
        )


def read_head(data: bytes) -> RequestHead:
    """Return what a head says, `data` being all of it.

    Raises:
        ProtocolError: it is none, or leaves open where its request ends.
    """
    check_beginning(data)
    parsed = _Parsed()
    parser = HttpRequestParser(parsed)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        pass  # a wish for another protocol may be passed over (RFC 9110, section 7.8)
    except HttpParserError as error:
        raise _told(error, data) from None
    version = parser.get_http_version()
    if version not in {"1.0", "1.1"}:
        raise ProtocolError(f"HTTP/{version} is not spoken here; HTTP/1.1 is", 505, "version")
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


def _told(error: HttpParserError, data: bytes) -> ProtocolError:
    what = str(error) or "malformed"
    lines = data.lower().split(b"\r\n")
    names = [line.partition(b":")[0] for line in lines[1:]]
    framed = names.count(b"content-length") + names.count(b"transfer-encoding")
    if b"transfer-encoding" in names and "ransfer-" in what and framed == 1:
        coding = next(line for line in lines if line.startswith(b"transfer-encoding:"))
        if coding.replace(b" ", b"").endswith(b",chunked") and coding.count(b"chunked") == 1:
            return ProtocolError("of transfer codings only chunked is taken", 501, "framing")
    return ProtocolError(f"malformed request: {what}", reason="framing" if framed else "malformed")


def _joined(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers = dict(pairs)
    if len(headers) == len(pairs):
        return headers
    headers = {}
    for name, value in pairs:
        if name in headers and name in _SINGLE:
            reason = "host" if name == b"host" else "framing" if name == b"content-length" else "malformed"
            raise ProtocolError(f"{name.decode()} is there twice", reason=reason)
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _check_host(host: bytes | None, version: str) -> None:
    """Refuse what RFC 9112, section 3.2, has a server refuse."""
    if host is None:
        if version == "1.1":
            raise ProtocolError("a request of HTTP/1.1 needs a Host", reason="host")
    elif _HOST.fullmatch(host) is None:
        raise ProtocolError(f"Host is {quoted(host.decode('latin-1'))}, no host and port", reason="host")


def _length(headers: dict[bytes, bytes], version: str) -> int | None:
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        if length is not None or version == "1.0":
            other = "Content-Length" if length is not None else "HTTP/1.0"
            raise ProtocolError(f"Transfer-Encoding beside {other}", reason="framing")
        codings = [each.strip().lower() for each in coding.split(b",")]
        if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
            raise ProtocolError("a Transfer-Encoding that does not end with chunked", reason="framing")
        if len(codings) > 1:
            raise ProtocolError("of transfer codings only chunked is taken", 501, "framing")
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
    """Return the segments of a target's path, in the forms of RFC 9112, section 3.2, that servers are sent.

    Nothing is resolved but percent-escapes, and those behind the split: neither `%2F` nor `..` leads elsewhere.
    """
    if target.startswith(b"/"):
        path = target.partition(b"?")[0]
    else:
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return (target.decode("latin-1"),)
        if not absolute[1] or _HOST.fullmatch(absolute[1]) is None:
            raise ProtocolError("the target is an URL without a host", reason="host")
        path = absolute[2] or b"/"
    if b"#" in path or _PERCENT.search(path) is not None:
        raise ProtocolError("the path has a # or a % that begins no escape")
    if len(path) > _MOST_PATH:
        raise ProtocolError(f"a path of {len(path)} characters, {_MOST_PATH} at most", 414, "path")
    parts = path.split(b"/")[1:]
    if len(parts) > 1 and not parts[-1]:
        del parts[-1]
    if b"%" not in path:
        return tuple([each.decode("latin-1") for each in parts])
    return tuple([unquote_to_bytes(each).decode("utf-8", "surrogateescape") for each in parts])
