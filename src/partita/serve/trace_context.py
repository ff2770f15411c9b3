"""The trace context that a query brings, and hands on to the server that runs it.

W3C Trace Context (Recommendation): `traceparent` and `tracestate` are handed on, as they came where the gateway makes
no spans, else with the gateway's own span as the parent. What is not valid is dropped, so that the next one begins a
trace. W3C Baggage (Candidate Recommendation): `baggage` should be handed on, and is, unchanged.

A batch of several queries is one request to the server, which has room for one context (`shared_context`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?"
)
"""Version, trace, parent, flags; what follows is for versions that are yet to come (section 3.2.2)."""
_LONGEST = 8192
"""Bytes of a value that is handed on: what W3C Baggage asks for at least (section 3.3.2), also for `tracestate`."""
_TEXT = re.compile(rb"[\t -~]+")
_FLAGS = slice(53, 55)
_SAMPLED = 1


class TraceContext(NamedTuple):
    """What a query brings; a text is empty where it brings none.

    Attributes:
        traceparent: trace, parent span and flags.
        tracestate: of tracing systems; only with a `traceparent`.
        baggage: of the applications on the query's way.
    """

    traceparent: str = ""
    tracestate: str = ""
    baggage: str = ""

    @property
    def sampled(self) -> bool:
        """Whether the parent span is recorded."""
        return bool(self.traceparent) and bool(int(self.traceparent[_FLAGS], 16) & _SAMPLED)

    def headers(self) -> dict[str, str]:
        """Return the headers that hand it on."""
        return {name: text for name, text in zip(self._fields, self, strict=True) if text}


def read_trace_context(
    traceparent: bytes | None, tracestate: bytes | None, baggage: bytes | None
) -> TraceContext | None:
    """Return the valid part of what a request says; None if there is none.

    Args:
        traceparent: the header's value, several joined by commas; None for none.
        tracestate: likewise.
        baggage: likewise.
    """
    parent = (traceparent or b"").strip(b" \t")
    valid = _TRACEPARENT.fullmatch(parent)
    if valid is None or len(parent) > _LONGEST or (valid[1] == b"00" and valid[2] is not None):
        parent = b""
    found = TraceContext(
        parent.decode("ascii"), _handed_on(tracestate) if parent else "", _handed_on(baggage)
    )
    return found if any(found) else None


def _handed_on(value: bytes | None) -> str:
    if value is None or len(value) > _LONGEST or _TEXT.fullmatch(value) is None:
        return ""
    return value.decode("ascii")


def shared_context(contexts: Iterable[TraceContext | None]) -> TraceContext | None:
    """Return the context of a batch: the trace of the first query that is recorded, or else of the first with one.

    Baggage is handed on where it is that of all queries: one client's must not speak for another's query.
    """
    found = list(contexts)
    traced = [each for each in found if each is not None and each.traceparent]
    first = next((each for each in traced if each.sampled), traced[0] if traced else TraceContext())
    texts = {"" if each is None else each.baggage for each in found}
    shared = first._replace(baggage=texts.pop() if len(texts) == 1 else "")
    return shared if any(shared) else None
