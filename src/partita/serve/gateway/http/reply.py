"""A response, and sending it."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from partita.serve.gateway.http.asgi import Send
    from partita.serve.gateway.values import RefusedError

JSON = b"application/json"

Headers = tuple[tuple[bytes, bytes], ...]


class Reply(NamedTuple):
    """Status, body, the body's media type, and further headers."""

    status: int
    body: bytes
    media: bytes = JSON
    headers: Headers = ()


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


def json_reply(value: Any) -> Reply:  # noqa: ANN401 -- whatever orjson writes
    """Return plain data as JSON."""
    return Reply(200, orjson.dumps(value))


def failure(what: str, status: int, headers: Headers = ()) -> Reply:
    """Return an error as the protocol has it."""
    return Reply(status, orjson.dumps({"error": what}), JSON, headers)


def refusal(error: RefusedError) -> Reply:
    """Return 503 with the seconds after which another try may be of use (RFC 9110, section 10.2.3)."""
    after = str(max(1, ceil(error.retry_after_s))).encode()
    return failure(
        str(error), 503, ((b"retry-after", after), (b"partita-reason", str(error.reason).encode()))
    )


async def send_reply(send: Send, reply: Reply, *, more: bool = False) -> None:
    """Send a response; with `more` its end is left to be sent."""
    status, body, media, headers = reply
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", media), (b"content-length", b"%d" % len(body)), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": more})
