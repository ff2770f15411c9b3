"""An HTTP client of one server with a connection that is kept: the standard library's, in blocking calls."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from partita.files import json_value
from partita.serve.worker.joint import InvalidQueryError

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER_LENGTH = "Inference-Header-Content-Length"
"""How much of a body is JSON, in the binary tensor extension."""
_TOLD = 500


_NOT_TO_BLAME = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 426, 429})
"""Of 4xx, what is no query's fault: that of who set us up, or the server's state of the moment (RFC 9110, 15.5)."""


class UpstreamError(Exception):
    """The server failed, or answered what is no answer."""


class Client:
    """A connection to one server, opened when needed. Not for several threads at once.

    Args:
        url: `http://host:port`, with a path before the protocol's where it has one.
        timeout_s: seconds that any answer may take.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._base = parts.path.rstrip("/")
        self._connection = kind(str(parts.hostname), parts.port, timeout=timeout_s)

    def ready(self, path: str, timeout_s: float) -> bool:
        """Say whether a GET is answered with 200, within so many seconds."""
        usual = self._connection.timeout
        self._limit(timeout_s)
        try:
            return self._ask("GET", path, None, {})[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            self._limit(usual)

    def get(self, path: str) -> dict[str, Any]:
        """Return the object that a GET is answered with.

        Raises:
            UpstreamError: the server says no, or answers no object.
            OSError: it does not answer.
        """
        status, _, body = self._told("GET", path, None, {})
        if status != http.client.OK:
            raise UpstreamError(f"{path}: HTTP {status}")
        try:
            found = json_value(body)
        except ValueError as error:
            raise UpstreamError(f"{path}: no JSON: {error}") from None
        if not isinstance(found, dict):
            raise UpstreamError(f"{path}: no object")
        return found

    def post(self, path: str, header: int | None, body: bytes) -> tuple[int | None, bytes]:
        """Send a request for inference; return the length of the answer's JSON if it has binary data, and the answer.

        Args:
            path: of the model.
            header: length of the body's JSON if binary data follow it.
            body: the request.

        Raises:
            InvalidQueryError: the server says that the query is to blame.
            UpstreamError: the server failed, or does not have the model or let us in, or is no server of HTTP.
            OSError: it does not answer.
        """
        kind = "application/json" if header is None else "application/octet-stream"
        headers = {"Content-Type": kind} | ({} if header is None else {HEADER_LENGTH: str(header)})
        status, told, answer = self._told("POST", path, body, headers)
        if status == http.client.OK:
            return told, answer
        why = f"the server says {status}: {_reason(answer)}"
        if 400 <= status < 500 and status not in _NOT_TO_BLAME:
            raise InvalidQueryError(why)
        raise UpstreamError(why)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _limit(self, seconds: float | None) -> None:
        self._connection.timeout = seconds
        if self._connection.sock is not None:
            self._connection.sock.settimeout(seconds)

    def _told(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, int | None, bytes]:
        try:
            return self._ask(method, path, body, headers)
        except http.client.HTTPException as error:
            raise UpstreamError(f"no answer of HTTP: {error!r}") from None

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, int | None, bytes]:
        kept = self._connection.sock is not None
        try:
            return self._once(method, path, body, headers)
        except (ConnectionError, http.client.RemoteDisconnected):
            # A server may close a kept connection at any time; only then is the request sent again.
            if not kept:
                raise
            return self._once(method, path, body, headers)

    def _once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, int | None, bytes]:
        try:
            self._connection.request(method, self._base + path, body, dict(headers))
            answer = self._connection.getresponse()
            told = answer.getheader(HEADER_LENGTH)
            return answer.status, None if told is None else int(told), answer.read()
        except BaseException:
            self._connection.close()
            raise


def _reason(body: bytes) -> str:
    try:
        return str(json_value(body)["error"])[:_TOLD]
    except (ValueError, KeyError, TypeError):
        return body[:_TOLD].decode(errors="replace")
