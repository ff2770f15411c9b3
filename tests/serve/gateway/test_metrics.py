"""Metrics add up, and log lines are what they should be."""

from __future__ import annotations

import json
import logging

from prometheus_client.parser import text_string_to_metric_families
from tests.serve.gateway.fake_gateway import ECHO, FakeGateway

from partita.serve.dispatching.query import PendingQuery, QueryOutcome, RefusalReason
from partita.serve.gateway.metrics import Metrics
from partita.serve.gateway.server import logged
from partita.serve.gateway.statistics import LATENCY_EDGES_S, GatewaySnapshot, ServiceCounters, ServiceView


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Return each sample by its name and the values of its labels."""
    families = text_string_to_metric_families(metrics.page().decode())
    return {
        (each.name, " ".join(each.labels.values())): each.value
        for family in families
        for each in family.samples
    }


def test_every_end_is_counted_once():
    counters = ServiceCounters()
    for took, allowed in ((0.004, 0.1), (0.005, 0.1), (60.0, 0.1)):
        counters.answered(PendingQuery(1, 100.0, allowed), 100.0 + took)
    query = PendingQuery(1, 100.0, 0.1)
    counters.failed(query, 100.1, QueryOutcome.REFUSED, RefusalReason.LATE)
    counters.failed(query, 100.1, QueryOutcome.CANCELLED, None)
    counters.failed(query, 100.1, QueryOutcome.FAILED, None)
    counters.failed(query, 100.1, QueryOutcome.INVALID, None)
    view = ServiceView("echo", 0, 0, counters.statistics(0))
    found = samples(Metrics(lambda: GatewaySnapshot((view,), (), draining=False)))
    for outcome, count in (
        ("in_time", 2),
        ("late", 1),
        ("refused", 1),
        ("cancelled", 1),
        ("failed", 1),
        ("invalid", 1),
    ):
        assert found["partita_requests_total", f"{outcome} echo"] == count
    assert found["partita_refused_total", "late echo"] == 1
    assert found["partita_request_seconds_count", "echo"] == 3
    assert found["partita_request_seconds_bucket", "0.0025 echo"] == 0
    assert found["partita_request_seconds_bucket", "0.01 echo"] == 2
    assert found["partita_request_seconds_bucket", "10 echo"] == 2
    assert found["partita_request_seconds_bucket", "+Inf echo"] == 3
    assert abs(found["partita_request_seconds_sum", "echo"] - 60.009) < 1e-9


def test_a_latency_on_an_edge_is_in_its_bucket():
    counters = ServiceCounters()
    for edge in LATENCY_EDGES_S:
        counters.answered(PendingQuery(1, 0.0, 1.0), edge)
    assert counters.statistics(0).latency == (*(1,) * len(LATENCY_EDGES_S), 0)


def test_the_gateway_s_state_is_on_the_page():
    found = samples(Metrics(FakeGateway(ECHO).snapshot))
    assert found["partita_queue_length", "echo"] == 3
    assert found["partita_in_flight", "echo"] == 2
    assert abs(found["partita_slo_attainment", "echo"] - 5 / 7) < 1e-9
    assert found["partita_instance_state", "node-0/gpu-0/1g.10gb@0 1g.10gb echo busy"] == 1
    assert found["partita_decision_seconds_bucket", "1e-06 echo"] == 5
    assert found["partita_decision_seconds_bucket", "+Inf echo"] == 80
    assert found["partita_draining", ""] == 0


def test_log_lines_are_for_people_or_for_programs(capsys):
    log = logging.getLogger("partita.serve.test")
    with logged(as_json=True):
        log.info("%s is ready", "echo", extra={"event": "ready", "service": "echo"})
        try:
            raise ValueError("é")
        except ValueError:
            log.exception("it failed")
    with logged(as_json=False):
        log.warning("a worker\nended")
        log.info("news")
    log.info("heard by nobody")
    first, second, *lines = capsys.readouterr().err.splitlines()
    told = json.loads(first)
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "info",
        "logger": "partita.serve.test",
        "message": "echo is ready",
        "event": "ready",
        "service": "echo",
    }
    assert "ValueError: é" in json.loads(second)["exception"]
    assert lines[0].endswith(r"warning: a worker\nended")
    assert lines[-1].endswith(" news")
