"""What a client did wrong, in words for the client."""

from __future__ import annotations

REASONS = {
    400: "invalid", 401: "unauthorized", 404: "not_found", 405: "method", 408: "timeout", 411: "length_required",
    413: "too_large", 414: "path", 415: "media_type", 417: "expectation", 431: "head_too_large", 500: "failed",
}  # fmt: skip
"""For metrics, why a request is not answered, where who says so has no word of their own."""


class RequestError(Exception):
    """A request that cannot be answered as it is.

    Args:
        what: one sentence, sent to the client.
        status: the HTTP status; gRPC's code follows from it.
        reason: one word for metrics, of few in all; that of the status if empty.
    """

    def __init__(self, what: str, status: int = 400, reason: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.status = status
        self.reason = reason or REASONS.get(status, "other")


def shown(value: object) -> str:
    """Return a client's value for a message: quoted, printable and short."""
    try:
        text = repr(value)
    except RecursionError:
        return "lists or objects in each other, hundreds deep"
    return ascii(value)[:80] if not text.isprintable() else text if len(text) <= 80 else text[:77] + "..."
