"""What gateways say on their metrics pages, read as it changes."""

from __future__ import annotations

import http.server
import random
import socket
import threading
import time
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.dash.gateway import GatewayPage, quantile_ms, together
from partita.dash.gateway_watch import GatewayWatch
from partita.errors import PartitaError
from partita.serve.gateway.metrics import Metrics
from partita.serve.gateway.statistics import GatewaySnapshot, ServiceCounters, ServiceView

if TYPE_CHECKING:
    from collections.abc import Iterator


BEARER = "of-the-gateway-and-its-readers"


def page(offered: float, in_time: float, late: float, busy: float = 0.0, refused: float = 0.0) -> str:
    total = in_time + late
    return f"""# TYPE partita_requests counter
partita_requests_total{{service="search",outcome="in_time"}} {in_time}
partita_requests_total{{service="search",outcome="late"}} {late}
partita_requests_total{{service="search",outcome="refused"}} {refused}
# TYPE partita_request_seconds histogram
partita_request_seconds_bucket{{service="search",le="0.01"}} {in_time}
partita_request_seconds_bucket{{service="search",le="0.1"}} {total}
partita_request_seconds_bucket{{service="search",le="+Inf"}} {total}
partita_offered_items_total{{service="search"}} {offered}
partita_queue_length{{service="search"}} 3
partita_in_flight{{service="search"}} 2
partita_refused_total{{service="search",reason="full"}} {refused}
partita_instance_busy_seconds_total{{service="search",gpu_instance="node-0/gpu-3/3g.40gb@4",UUID=""}} {busy}
partita_instance_slowdown{{service="search",gpu_instance="node-0/gpu-3/3g.40gb@4",UUID=""}} 1.5
partita_decision_seconds_bucket{{service="search",le="1"}} 7
"""


def test_rates_and_shares_are_those_of_their_windows() -> None:
    gateway = GatewayPage("http://localhost:1")
    for second in range(0, 700, 2):
        late = max(0, second - 600)
        gateway.take(float(second), page(100 * second, 50 * second - late, late, busy=second / 4))
    found = together([gateway])
    now = found.services["search"]
    assert now.rate == pytest.approx(100.0)
    assert now.attainment == pytest.approx(1 - 98 / (50 * 300), abs=2e-3)
    assert now.p50_ms is not None
    assert now.p50_ms < 10.0
    assert now.p99_ms is not None
    assert 10.0 < now.p99_ms <= 100.0
    assert (now.queue, now.in_flight, now.refused) == (3, 2, {})
    load = found.load["node-0/gpu-3", 4]
    assert (load.busy, load.slowdown) == (0.25, 1.5)


def counted(in_time: float, late: float, slo_s: float) -> str:
    """Return a page of a gateway whose answers take a little less than an SLO, or a little more."""
    total = in_time + late
    edges = {0.025: 0.0, slo_s: in_time, 0.05: total, 0.1: total}
    buckets = "".join(
        f'partita_request_seconds_bucket{{service="search",le="{edge:g}"}} {count}\n'
        for edge, count in sorted(edges.items())
    )
    return f"""partita_offered_items_total{{service="search"}} {total}
{buckets}partita_request_seconds_bucket{{service="search",le="+Inf"}} {total}
"""


def test_a_quantile_is_on_the_side_of_the_slo_where_the_queries_are() -> None:
    def p99(late: float) -> float:
        gateway = GatewayPage("http://localhost:1")
        for second in (0, 60):
            gateway.take(float(second), counted(second * (100 - late), second * late, 0.04))
        found = together([gateway]).services["search"].p99_ms
        assert found is not None
        return found

    assert p99(0.1) <= 40.0 < p99(1.1)


def test_another_slo_in_the_window_makes_no_old_answers_new_ones() -> None:
    gateway = GatewayPage("http://localhost:1")
    gateway.take(0.0, counted(1e6, 0, 0.04))
    gateway.take(30.0, counted(1e6, 1000, 0.03))
    found = together([gateway]).services["search"]
    assert found.p50_ms is not None
    assert 25.0 < found.p50_ms <= 50.0


def test_gateways_of_unlike_slos_are_one_service() -> None:
    pages = [GatewayPage("http://localhost:1"), GatewayPage("http://localhost:2")]
    for each, slo_s in zip(pages, (0.03, 0.04), strict=True):
        for second in (0, 60):
            each.take(float(second), counted(second * 100, 0, slo_s))
    found = together(pages).services["search"]
    assert found.p99_ms is not None
    assert 25.0 < found.p99_ms <= 50.0


def test_readings_are_thinned_so_that_minutes_cost_little() -> None:
    gateway = GatewayPage("http://localhost:1")
    for second in range(0, 2000, 2):
        gateway.take(float(second), page(second, second, 0, refused=second))
        if second > 600:
            found = together([gateway]).services["search"]
            assert 300 <= found.refused["full"] <= 332, "of 5 minutes, and of a tenth more at most"
    assert sum(len(each.points) for each in gateway.windows) < 40


def test_a_gateway_that_was_started_again_counts_from_zero() -> None:
    gateway = GatewayPage("http://localhost:1")
    gateway.take(0.0, page(1000, 900, 100))
    gateway.take(2.0, page(40, 40, 0))
    now = together([gateway]).services["search"]
    assert now.rate == 20.0
    assert now.attainment == 1.0


def test_a_gateway_that_is_started_again_and_again_hides_none_of_its_past() -> None:
    """Its rate does not dip, and neither late queries nor slow ones from before are forgotten."""
    gateway = GatewayPage("http://localhost:1")
    rates = []
    for second in range(0, 100, 2):
        since = second % 30  # seconds since it was started; nothing on its page says so
        gateway.take(float(second), page(10 * since, 8 * since, 2 * since, refused=since))
        found = together([gateway]).services["search"]
        rates.append(found.rate)
    assert all(
        rate is not None and rate >= 7.9 for rate in rates[1:]
    )  # what came between two readings is lost
    assert found.attainment == pytest.approx(8 / 11, abs=1e-3)
    assert found.p99_ms == pytest.approx(95.5, abs=1.0)
    assert found.refused == {"full": pytest.approx(92, abs=3)}


def test_two_gateways_add_up() -> None:
    pages = [GatewayPage("http://localhost:1"), GatewayPage("http://localhost:2")]
    for each, rate in zip(pages, (10, 30), strict=True):
        for second in (0.0, 10.0):
            each.take(second, page(rate * second, rate * second, 0, busy=second / 10))
    found = together(pages)
    assert found.services["search"].rate == pytest.approx(40.0)
    assert found.services["search"].queue == 6
    assert found.load["node-0/gpu-3", 4].busy == pytest.approx(0.2)


def test_one_reading_has_counts_but_no_rates() -> None:
    gateway = GatewayPage("localhost:1")
    gateway.take(0.0, page(10, 10, 0))
    now = together([gateway]).services["search"]
    assert (now.rate, now.attainment, now.p50_ms, now.queue) == (None, None, None, 3)


def series(service: str, **counts: float) -> str:
    """Return a page of one service: `offered`, and answers `in_time` or `late`."""
    lines = [f'partita_offered_items_total{{service="{service}"}} {counts.pop("offered")}']
    lines += (
        f'partita_requests_total{{service="{service}",outcome="{each}"}} {count}'
        for each, count in counts.items()
    )
    return "\n".join(lines) + "\n"


def test_services_and_outcomes_come_and_go_and_what_is_known_of_the_others_stays() -> None:
    asked = GatewayPage("http://localhost:1")
    asked.take(0.0, series("a", offered=100, in_time=90))
    asked.take(4.0, series("a", offered=140, in_time=120) + series("b", offered=1000, in_time=1000))
    found = together([asked]).services
    assert (found["a"].rate, found["b"].rate, found["b"].attainment) == (10.0, None, None)
    # An outcome that is new counts from zero, as its service was there; lines may stand in another order.
    lines = (
        series("b", offered=1080, in_time=1080) + series("a", offered=180, in_time=150, late=20)
    ).splitlines()
    asked.take(8.0, "\n".join(reversed(lines)))
    found = together([asked]).services
    assert (found["a"].rate, found["b"].rate) == (10.0, None)
    assert found["a"].attainment == pytest.approx(60 / 80)
    assert found["b"].attainment == 1.0
    asked.take(14.0, series("b", offered=20, in_time=20))  # it was started again, without the service a
    found = together([asked]).services
    assert found.keys() == {"b"}
    assert found["b"].rate == 10.0
    asked.take(16.0, series("b", offered=40, in_time=40) + series("a", offered=7, in_time=7))
    assert together([asked]).services["a"].rate is None


def test_gateways_that_know_different_services_add_up() -> None:
    pages = [GatewayPage(f"http://localhost:{port}") for port in (1, 2, 3)]
    texts = [("a",), ("a", "b"), ("b", "a")]
    for second in (0, 10):
        for number, (each, names) in enumerate(zip(pages, texts, strict=True), 1):
            each.take(second, "".join(series(name, offered=number * second, in_time=1) for name in names))
    found = together(pages).services
    assert {name: now.rate for name, now in found.items()} == {"a": 6.0, "b": 5.0}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4, unique=True))
def test_any_name_is_read_as_the_gateway_wrote_it(names: list[str]) -> None:
    names = [each.encode("utf-8", "replace").decode() for each in names]
    views = [
        ServiceView(name, number, 0, ServiceCounters(0.1).statistics(0, 0), 0, 0.1, 0.9)
        for number, name in enumerate(dict.fromkeys(names))
    ]
    asked = GatewayPage("http://localhost:1")
    asked.take(0.0, Metrics(lambda: GatewaySnapshot(tuple(views), (), draining=False)).page()[0].decode())
    found = together([asked]).services
    assert {name: now.queue for name, now in found.items()} == {each.name: each.waiting for each in views}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((0.5, 0.95, 0.99)))
def test_a_quantile_lies_in_the_bucket_in_which_that_query_is(seed: int, share: float) -> None:
    rng = random.Random(seed)
    edges = sorted(rng.uniform(0.001, 2.0) for _ in range(rng.randrange(1, 8)))
    times = sorted(rng.uniform(0.0, 2.5) for _ in range(rng.randrange(1, 40)))
    cumulative = {edge: float(sum(t <= edge for t in times)) for edge in (*edges, inf)}
    found = quantile_ms(cumulative, share)
    assert found is not None
    at = times[min(len(times) - 1, max(0, -int(-share * len(times) // 1) - 1))]
    upper = next((edge for edge in edges if at <= edge), None)
    lower = max((edge for edge in edges if edge < at), default=0.0)
    if upper is None:
        assert found == edges[-1] * 1000
    else:
        assert lower * 1000 - 1e-9 <= found <= upper * 1000 + 1e-9


def test_no_query_has_no_quantile() -> None:
    assert quantile_ms({}, 0.5) is None
    assert quantile_ms({0.1: 0.0, inf: 0.0}, 0.5) is None


def test_names_that_need_escapes_are_read_as_they_are() -> None:
    asked = GatewayPage("http://localhost:1")
    asked.take(0.0, 'partita_queue_length{service="a\\"b\\\\c\\n{}"} 4\n')
    assert together([asked]).services['a"b\\c\n{}'].queue == 4


class Gateway:
    """A server of a metrics page that can be stopped and started at the same port."""

    def __init__(self) -> None:
        self.page = page(0, 0, 0)
        self.seen: list[str | None] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append(self.headers.get("Authorization"))
                body = outer.page.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.stop()


def test_a_gateway_that_comes_late_is_read_once_it_is_there(gateway: Gateway) -> None:
    gateway.stop()
    asked = GatewayPage(f"http://127.0.0.1:{gateway.port}", BEARER)
    with pytest.raises(PartitaError, match="does not answer"):
        asked.read()
    gateway.start()
    asked.read()
    assert gateway.seen == [f"Bearer {BEARER}"]
    assert together([asked]).services["search"].queue == 3


def test_a_page_that_is_none_is_a_fault(gateway: Gateway) -> None:
    asked = GatewayPage(f"http://127.0.0.1:{gateway.port}/metrics")
    gateway.page = 'partita_queue_length{service="x} nonsense\n'
    with pytest.raises(PartitaError, match="no metrics page"):
        asked.read()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<html><body>Welcome</body></html>", "no metrics of Partita"),
        ("", "no metrics of Partita"),
        ("# TYPE up gauge\nup 1\n", "no metrics of Partita"),
        ("partita_queue_length" * 5000, "a line is longer than 64 KiB"),
        ('partita_queue_length{service="x"} 1\n' * 2, "a series is on it twice"),
        ('partita_queue_length{service="x"} many\n', "could not convert"),
        ("partita_queue_length{service=x} 1\n", "is no series"),
        ('partita_queue_length{service="x"}\n', "is no series"),
    ],
)  # fmt: skip
def test_rubbish_is_a_fault_and_what_was_known_holds(gateway: Gateway, text: str, why: str) -> None:
    asked = GatewayPage(f"http://127.0.0.1:{gateway.port}")
    asked.read()
    gateway.page = text
    with pytest.raises(PartitaError, match="no metrics page") as caught:
        asked.read()
    assert why in str(caught.value)
    assert together([asked]).services["search"].queue == 3


def test_a_gateway_without_services_is_no_fault(gateway: Gateway) -> None:
    asked = GatewayPage(f"http://127.0.0.1:{gateway.port}")
    gateway.page = "# TYPE partita_draining gauge\npartita_draining 0\n"
    asked.read()
    assert not together([asked]).services


def test_the_watch_reads_by_itself_and_says_what_does_not_answer(gateway: Gateway) -> None:
    watch = GatewayWatch([GatewayPage(f"http://127.0.0.1:{gateway.port}"), GatewayPage("http://127.0.0.1:1")])
    try:
        end = time.monotonic() + 30
        while not watch.latest().services or watch.latest().fault is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert "127.0.0.1:1/metrics" in (watch.latest().fault or "")
    finally:
        watch.close()


def test_a_gateway_that_hangs_holds_no_other_up(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:
        url = f"http://127.0.0.1:{hung.getsockname()[1]}"
        watch = GatewayWatch([GatewayPage(url), GatewayPage(f"http://127.0.0.1:{gateway.port}")])
        try:
            end = time.monotonic() + 30
            while not watch.latest().services:
                assert time.monotonic() < end
                time.sleep(0.01)
            assert watch.latest().fault is None, "the one that hangs is still waited for"
        finally:
            watch.close()


def test_a_page_that_comes_byte_by_byte_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partita.dash.gateway._LONGEST_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while True:
                    connection.sendall(b"#")
                    time.sleep(0.01)

        dripping = threading.Thread(target=drip)
        dripping.start()
        with pytest.raises(PartitaError, match="has not come within"):
            GatewayPage(f"http://127.0.0.1:{server.getsockname()[1]}").read()
        dripping.join()


def test_counts_that_no_document_can_hold_are_left_out() -> None:
    asked = GatewayPage("http://localhost:1")
    for at in (0.0, 2.0):
        asked.take(at, page(at, at, 0).replace("} 3\n", "} 1e300\n", 1).replace("} 2\n", "} 4\n", 1))
    now = together([asked]).services["search"]
    assert (now.queue, now.in_flight) == (0, 4)
    with pytest.raises(ValueError, match="no number"):
        asked.take(4.0, 'partita_request_seconds_bucket{service="x",le="nan"} 1\n')
