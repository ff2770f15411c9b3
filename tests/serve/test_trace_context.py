"""Which trace context is handed on."""

from __future__ import annotations

import http.client

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from partita.serve.trace_context import TraceContext, read_trace_context, shared_context

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("parent", "valid"),
    [
        (VALID, True),
        (f"00-{TRACE}-{PARENT}-00", True),
        (f" \t{VALID} ", True),
        (f"cc-{TRACE}-{PARENT}-01", True),  # of a version to come
        (f"cc-{TRACE}-{PARENT}-01-what-will-be", True),
        (f"cc-{TRACE}-{PARENT}-01.what", False),
        (f"{VALID}-more", False),
        (VALID[:-1], False),
        (VALID + "0", False),
        (VALID.upper(), False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"{VALID}, {VALID}", False),  # two headers
        (f"{VALID}\n", False),
        (f"00_{TRACE}_{PARENT}_01", False),
        ("", False),
        ("nonsense", False),
        ("-" * 9000, False),
    ],
)
def test_a_parent_that_is_not_valid_is_dropped_and_its_state_too(parent: str, *, valid: bool) -> None:
    found = read_trace_context(parent.encode(), b"a=1", b"user=7")
    assert found == (
        TraceContext(parent.strip(" \t"), "a=1", "user=7") if valid else TraceContext(baggage="user=7")
    )
    # OpenTelemetry's own reader says the same, except that it takes what comes with a newline.
    if not parent.endswith("\n"):
        context = TraceContextTextMapPropagator().extract({"traceparent": parent})
        assert get_current_span(context).get_span_context().is_valid == valid


def test_nothing_is_handed_on_where_nothing_came() -> None:
    assert read_trace_context(None, None, None) is None
    assert read_trace_context(b"", b"a=1", b"") is None
    assert read_trace_context(VALID.encode(), None, None) == TraceContext(VALID)


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_what_is_handed_on_is_always_a_header(parent: bytes, state: bytes, baggage: bytes) -> None:
    for first in (parent, VALID.encode()):
        found = read_trace_context(first, state, baggage)
        connection = http.client.HTTPConnection("localhost")
        connection.putrequest("POST", "/")
        for name, value in (found or TraceContext()).headers().items():
            assert value.encode() in (first.strip(b" \t"), state, baggage)
            connection.putheader(name, value)


def test_too_long_a_value_is_dropped() -> None:
    assert read_trace_context(VALID.encode(), b"a" * 8193, b"b" * 8192) == TraceContext(VALID, "", "b" * 8192)


def test_a_batch_has_the_trace_that_is_recorded_and_the_baggage_of_all() -> None:
    quiet, first, second = (
        TraceContext(f"00-{digit * 32}-{PARENT}-0{flags}", f"from={digit}", baggage)
        for digit, flags, baggage in (("1", 0, "user=7"), ("2", 1, "user=7"), ("3", 1, "user=8"))
    )
    assert shared_context([]) is None
    assert shared_context([None, None]) is None
    assert shared_context([quiet]) == quiet
    assert shared_context([quiet, first]) == first
    assert shared_context([first, quiet]) == first
    assert shared_context([first, second]) == first._replace(baggage="")
    assert shared_context([quiet, None]) == quiet._replace(
        baggage=""
    )  # one client's baggage is not another's
    assert shared_context([None, TraceContext(baggage="user=7")]) is None
    bags = [TraceContext(baggage="user=7"), quiet]
    assert shared_context(bags) == quiet
