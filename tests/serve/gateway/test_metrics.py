"""Metrics add up, and log lines are what they should be."""

from __future__ import annotations

import json
import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.gateway.fake_gateway import ECHO, FakeGateway

from partita.serve.dispatching.query import PendingQuery, QueryOutcome, RefusalReason
from partita.serve.gateway.metrics import Metrics
from partita.serve.gateway.server import logged
from partita.serve.gateway.statistics import (
    ATTAINMENT_WINDOW_S,
    LATENCY_EDGES_S,
    GatewaySnapshot,
    RecentAttainment,
    ServiceCounters,
    ServiceView,
    WorkerStatus,
    WorkerView,
)


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Return each sample by its name and the values of its labels."""
    families = text_string_to_metric_families(metrics.page()[0].decode())
    return {
        (each.name, " ".join(each.labels.values())): each.value
        for family in families
        for each in family.samples
    }


def test_every_end_is_counted_once():
    counters = ServiceCounters(0.1)
    for took, allowed in ((0.004, 0.1), (0.005, 0.1), (60.0, 0.1)):
        counters.answered(PendingQuery(1, 100.0, allowed), 100.0 + took)
    query = PendingQuery(1, 100.0, 0.1)
    counters.failed(query, 100.1, QueryOutcome.REFUSED, RefusalReason.LATE)
    counters.failed(query, 100.1, QueryOutcome.CANCELLED, None)
    counters.failed(query, 100.1, QueryOutcome.FAILED, None)
    counters.failed(query, 100.1, QueryOutcome.INVALID, None)
    view = ServiceView("echo", 0, 0, counters.statistics(0), 0, 0.1, 0.95)
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
    assert found["partita_request_seconds_bucket", "10.0 echo"] == 2
    assert found["partita_request_seconds_bucket", "+Inf echo"] == 3
    assert abs(found["partita_request_seconds_sum", "echo"] - 60.009) < 1e-9


def test_a_latency_on_an_edge_is_in_its_bucket():
    counters = ServiceCounters(0.1)
    for edge in LATENCY_EDGES_S:
        counters.answered(PendingQuery(1, 0.0, 1.0), edge)
    assert counters.statistics(0).latency == (*(1,) * len(LATENCY_EDGES_S), 0)


def test_the_slo_is_a_bucket_s_bound():
    counters = ServiceCounters(0.04)
    for took in (0.03, 0.04, 0.041):
        counters.answered(PendingQuery(1, 0.0, 0.04), took)

    def within() -> dict[str, float]:
        view = ServiceView("echo", 0, 0, counters.statistics(0), 0, 0.04, 0.95)
        page = samples(Metrics(lambda: GatewaySnapshot((view,), (), draining=False)))
        name = "partita_request_seconds_bucket"
        return {labels.split()[0]: count for (each, labels), count in page.items() if each == name}

    seen = within()
    assert (seen["0.025"], seen["0.04"], seen["0.05"], seen["+Inf"]) == (0, 2, 3, 3)
    counters.promise(0.045)  # the two within 0.04 s are in time by it, too; of the third it is not known
    counters.answered(PendingQuery(1, 0.0, 0.045), 0.042)
    seen = within()
    assert "0.04" not in seen
    assert (seen["0.025"], seen["0.045"], seen["0.05"], seen["+Inf"]) == (0, 3, 4, 4)
    counters.promise(0.05)
    assert list(within()) == [*(str(float(each)) for each in LATENCY_EDGES_S), "+Inf"]


def test_the_gateway_s_state_is_on_the_page():
    found = samples(Metrics(FakeGateway(ECHO).snapshot))
    assert found["partita_queue_length", "echo"] == 3
    assert found["partita_in_flight", "echo"] == 2
    assert found["partita_slo_attainment", "echo"] == 0.75
    assert found["partita_slo_objective", "echo"] == 0.95
    assert found["partita_slo_seconds", "echo"] == 0.1
    assert found["partita_busy_seconds_total", "1g.10gb echo"] == 12.5
    instance = "7 1g.10gb GPU-1 node-0/gpu-0/1g.10gb@0 echo"
    assert found["partita_instance_busy_seconds_total", instance] == 12.5
    for state in WorkerStatus:
        assert found["partita_instance_state", f"{instance} {state}"] == (state == "busy")
    assert found["partita_decision_seconds_bucket", "1e-06 echo"] == 5
    assert found["partita_decision_seconds_bucket", "+Inf echo"] == 80
    assert found["partita_draining", ""] == 0


def test_two_workers_on_one_instance_have_one_series():
    old, new, other = (
        WorkerView(
            "echo", f"gpu/{at}", ("gpu/" + at, "GPU-1", "7", "1g.10gb"), 1, state, 1, 1, 2.0, answered, slow
        )
        for at, state, answered, slow in (
            ("a", WorkerStatus.DRAINING, 5, 1.5),
            ("a", WorkerStatus.IDLE, 2, 1.0),
            ("b", WorkerStatus.BUSY, 1, 1.0),
        )
    )
    page = Metrics(lambda: GatewaySnapshot((), (old, new, other), draining=False)).page()[0].decode()
    samples = [line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")]
    assert len(samples) == len(set(samples))
    found = {
        (each.name, each.labels["gpu_instance"], each.labels.get("state")): each.value
        for family in text_string_to_metric_families(page)
        for each in family.samples
        if "gpu_instance" in each.labels
    }
    assert found["partita_instance_answered_total", "gpu/a", None] == 7
    assert found["partita_instance_busy_seconds_total", "gpu/a", None] == 4.0
    assert found["partita_instance_slowdown", "gpu/a", None] == 1.5
    assert found["partita_instance_state", "gpu/a", "idle"] == 1
    assert found["partita_instance_state", "gpu/a", "draining"] == 0
    assert found["partita_instance_answered_total", "gpu/b", None] == 1


HOSTILE = ["a\nb", 'q"x"', "back\\slash", "\\n", "ü漢\u2028", "x" * 10_240, "{a='b'} 1 #", ""]


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_names_of_any_kind_are_read_as_they_are(accept):
    count = ServiceCounters(0.1).statistics(0)
    views = tuple(ServiceView(name, 0, 0, count, 0, 0.1, 0.95) for name in HOSTILE)
    page, _ = Metrics(lambda: GatewaySnapshot(views, (), draining=False)).page(accept)
    read = read_open_metrics if accept else text_string_to_metric_families
    (family,) = (each for each in read(page.decode()) if each.name == "partita_queue_length")
    assert [each.labels["service"] for each in family.samples] == HOSTILE


def test_no_label_is_one_that_prometheus_sets_itself():
    for family in Metrics(FakeGateway(ECHO).snapshot).taken()():
        for sample in family.samples:
            assert not sample.labels.keys() & {"instance", "job", "namespace", "pod", "container"}, (
                family.name
            )


def test_what_may_come_is_there_as_zero():
    view = ServiceView("echo", 0, 0, ServiceCounters(0.1).statistics(0), 0, 0.1, 0.95)
    found = samples(Metrics(lambda: GatewaySnapshot((view,), (), draining=False)))
    for outcome in ("in_time", "late", "refused", "cancelled", "failed", "invalid"):
        assert found["partita_requests_total", f"{outcome} echo"] == 0
    for reason in RefusalReason:
        assert found["partita_refused_total", f"{reason} echo"] == 0
        assert found["partita_errors_total", f"{reason} 503 http"] == 0
    assert found["partita_request_seconds_count", "echo"] == 0
    assert math.isnan(found["partita_slo_attainment", "echo"])  # of no queries there is no share


@given(st.lists(st.tuples(st.floats(0.1, 400), st.integers(0, 5), st.integers(0, 5)), max_size=40))
def test_attainment_is_that_of_the_last_minutes(steps):
    recent, counters = RecentAttainment(), ServiceCounters(0.1)
    now, ended = 0.0, []
    recent.look(now, counters.judged)
    looks = [now]
    for seconds, kept, missed in steps:
        now += seconds
        for at in range(kept + missed):
            allowed = 1.0 if at < kept else 0.0
            counters.answered(PendingQuery(1, now - 0.5, allowed), now)
            ended.append((now, at < kept))
        counters.failed(PendingQuery(1, now, 1.0), now, QueryOutcome.INVALID, None)
        counters.failed(PendingQuery(1, now, 1.0), now, QueryOutcome.CANCELLED, None)
        recent.look(now, counters.judged)
        looks.append(now)
        # The window begins with the last look that is as old as the window, or with the first one.
        begin = max((at for at in looks if at <= now - ATTAINMENT_WINDOW_S), default=0.0)
        wanted = [good for at, good in ended if at > begin]
        found = recent.share(counters.judged)
        assert found == (pytest.approx(sum(wanted) / len(wanted)) if wanted else None)


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
