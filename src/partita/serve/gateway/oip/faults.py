"""What a client did wrong, in words for the client."""

from __future__ import annotations


class RequestError(Exception):
    """A request that cannot be answered as it is.

    Args:
        what: one sentence, sent to the client.
        status: the HTTP status; gRPC's code follows from it.
    """

    def __init__(self, what: str, status: int = 400) -> None:
        super().__init__(what)
        self.what = what
        self.status = status


def shown(value: object) -> str:
    """Return a client's value for a message: quoted, printable and short."""
    try:
        text = repr(value)
    except RecursionError:
        return "lists or objects in each other, hundreds deep"
    return ascii(value)[:80] if not text.isprintable() else text if len(text) <= 80 else text[:77] + "..."
