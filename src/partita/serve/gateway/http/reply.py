"""A response, and its bytes."""

from __future__ import annotations

import time
from http import HTTPStatus
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from partita.serve.gateway.oip import REASONS

if TYPE_CHECKING:
    from partita.serve.gateway.oip import RequestError
    from partita.serve.gateway.values import RefusedError

JSON = b"application/json"
_STATUS_LINES = {
    each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus
}
Headers = tuple[tuple[bytes, bytes], ...]


class Reply(NamedTuple):
    """Status, body, the body's media type, further headers, and in a word why it is no answer, if so."""

    status: int
    body: bytes
    media: bytes = JSON
    headers: Headers = ()
    reason: str = ""


def json_reply(value: Any) -> Reply:  # noqa: ANN401 -- whatever orjson writes
    """Return plain data as JSON."""
    return Reply(200, orjson.dumps(value))


def failure(what: str, status: int, headers: Headers = (), reason: str = "") -> Reply:
    """Return an error as the protocol has it."""
    return Reply(status, orjson.dumps({"error": what}), JSON, headers, reason or REASONS[status])


def fault_reply(error: RequestError, headers: Headers = ()) -> Reply:
    """Return what is said of a request that cannot be answered as it is."""
    return failure(error.what, error.status, headers, error.reason)


def refusal(error: RefusedError) -> Reply:
    """Return 503 with the seconds after which another try may be of use (RFC 9110, section 10.2.3)."""
    return unavailable(str(error), str(error.reason), error.retry_after_s)


def unavailable(what: str, reason: str, retry_after_s: float) -> Reply:
    """Return 503 for a reason that clients can read."""
    after = str(max(1, ceil(retry_after_s))).encode()
    headers = ((b"retry-after", after), (b"partita-reason", reason.encode()))
    return failure(what, 503, headers, reason)


class Writer:
    """Writes responses; their first lines are kept, with a date that is renewed each second."""

    def __init__(self) -> None:
        self._firsts: dict[tuple[int, bytes], bytes] = {}
        self._date = b""
        self.renew()

    def renew(self) -> None:
        """Take the date of now (RFC 9110, section 6.6.1)."""
        self._date = time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime()).encode()
        self._firsts.clear()

    def head(self, reply: Reply, *, connection: bytes = b"") -> bytes:
        """Return all of a response but its body.

        Args:
            reply: that is sent.
            connection: what the client is told of the connection; nothing if empty.
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
