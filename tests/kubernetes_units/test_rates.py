"""Rates from a Prometheus and from gateways that answer wrongly, not at all, or start anew."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from partita.errors import InputError
from partita.kubernetes.objects import EndpointSlice, EndpointTarget, ObjectMeta, SliceEndpoint
from partita.kubernetes.rates import (
    GatewayAccess,
    GatewayCounters,
    KeptRates,
    items_counted,
    prometheus_rates,
    rates_from,
)
from partita.kubernetes.resources import GatewayRates, PrometheusRates, RatesSource

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pages:
    """A server whose answers tests choose: code and body by path."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.answers: dict[str, tuple[int, str]] = {}
        self.asked: list[dict[str, list[str]]] = []
        self.token: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                outer.asked.append(parse_qs(url.query))
                code, body = outer.answers.get(url.path, (404, ""))
                if outer.token is not None and self.headers["Authorization"] != f"Bearer {outer.token}":
                    code, body = 401, "who are you?"
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((host, port), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def vector(self, *samples: tuple[dict[str, str], str]) -> None:
        result = [{"metric": metric, "value": [1.5, value]} for metric, value in samples]
        data = {"resultType": "vector", "result": result}
        self.answers["/api/v1/query"] = 200, json.dumps({"status": "success", "data": data})


@pytest.fixture
def pages() -> Iterator[Pages]:
    found = Pages()
    yield found
    found.close()


def source(pages: Pages, **more: str) -> PrometheusRates:
    return PrometheusRates(f"http://127.0.0.1:{pages.server.server_port}/", "sum(x)", **more)


def test_a_vector_is_read_by_the_label_and_what_is_no_rate_is_left_out(pages: Pages) -> None:
    pages.vector(({"app": "a"}, "12.5"), ({"app": "b"}, "NaN"), ({"app": "c"}, "-1"), ({"app": "d"}, "+Inf"))
    assert prometheus_rates(source(pages, label="app")) == {"a": 12.5}
    assert pages.asked[0]["query"] == ["sum(x)"]


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (200, '{"status": "success", "data": {"resultType": "vector", "result": []}}', "empty result"),
        (
            200,
            '{"status": "success", "data": {"resultType": "matrix", "result": []}}',
            "with a matrix, not a vector",
        ),
        (
            200,
            (
                '{"status": "success", "data": {"resultType": "vector", "result": '
                '[{"metric": {"x": "y"}, "value": [1, "2"]}]}}'
            ),
            "has no label 'service'",
        ),
        (
            400,
            '{"status": "error", "errorType": "bad_data", "error": "parse error"}',
            "answers 400: parse error",
        ),
        (200, '{"status": "error", "errorType": "timeout", "error": "too long"}', "timeout: too long"),
        (200, "<html>", "no answer of a Prometheus"),
        (503, "starting", "answers 503: starting"),
    ],
)
def test_what_a_prometheus_says_else_is_told(pages: Pages, code: int, body: str, said: str) -> None:
    pages.answers["/api/v1/query"] = code, body
    with pytest.raises(InputError, match=said) as found:
        prometheus_rates(source(pages))
    assert str(found.value).startswith("Prometheus http://127.0.0.1:")


def test_while_a_source_fails_the_last_rates_hold(pages: Pages) -> None:
    now = [0.0]
    kept = KeptRates(lambda: prometheus_rates(source(pages)), lambda: now[0])
    assert kept.measured().rates == {}
    assert "answers 404" in str(kept.fault)
    pages.vector(({"service": "a"}, "5"), ({"service": "b"}, "6"))
    assert kept.measured().rates == {}  # it is not asked all the time
    now[0] = 15.0
    assert kept.measured().rates == {"a": 5.0, "b": 6.0}
    assert str(kept.fault) == "None"
    pages.server.shutdown()
    pages.server.server_close()
    now[0] = 30.0
    assert kept.measured().rates == {"a": 5.0, "b": 6.0}
    assert "no answer" in str(kept.fault)


PAGE = """# HELP partita_offered_items_total Inferences
# TYPE partita_offered_items_total counter
partita_offered_items_total{{service="a"}} {a}
partita_offered_items_total{{service="b"}} 7.0
# TYPE partita_other_total counter
partita_other_total{{service="a"}} 1.0
"""


class EndpointsAlone:
    """An API that knows the addresses of one Service; of pods, where their names are given."""

    def __init__(self, *addresses: str, pods: tuple[str, ...] = ()) -> None:
        self.addresses, self.pods = addresses, pods

    def list_objects(self, _kind: object, namespace: str, *, labels: str) -> Any:
        assert namespace == "teams"
        assert labels == "kubernetes.io/service-name=gw"
        targets = [EndpointTarget("Pod", each) for each in self.pods or self.addresses]
        ends = [
            SliceEndpoint((each,), target_ref=target)
            for each, target in zip(self.addresses, targets, strict=True)
        ]
        slices = tuple(EndpointSlice(metadata=ObjectMeta(name="gw"), endpoints=(each,)) for each in ends)
        return type("Listed", (), {"items": slices})()


def test_gateways_are_counted_from_their_second_reading_on_and_anew_after_a_restart(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("partita.kubernetes.rates.time.monotonic", lambda: now[0])
    api: Any = EndpointsAlone("127.0.0.1")
    counters = GatewayCounters(api, "teams", GatewayRates("gw", pages.server.server_port))
    pages.answers["/metrics"] = 200, PAGE.format(a="100.0")
    assert counters.rates() == {}
    now[0] = 110.0
    pages.answers["/metrics"] = 200, PAGE.format(a="150.0")
    assert counters.rates() == {"a": 5.0, "b": 0.0}
    now[0] = 120.0
    pages.answers["/metrics"] = 200, PAGE.format(a="30.0")
    assert counters.rates() == {"a": 3.0, "b": 0.0}
    api.addresses = ()
    with pytest.raises(InputError, match="Service teams/gw: the Service has no endpoints"):
        counters.rates()
    api.addresses = ("127.0.0.1",)
    pages.answers["/metrics"] = 500, "no"
    with pytest.raises(InputError, match="answers 500"):
        counters.rates()


class Clock:
    """Seconds that tests choose."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("partita.kubernetes.rates.time.monotonic", lambda: self.now)


def test_gateways_side_by_side_are_added_up_and_one_that_dies_does_not_count_for_ever(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, other = Clock(monkeypatch), Pages("127.0.0.2", pages.server.server_port)
    api: Any = EndpointsAlone("127.0.0.1")
    counters = GatewayCounters(api, "teams", GatewayRates("gw", pages.server.server_port))
    counted = {pages: 0.0, other: 1000.0}

    def after(seconds: float, **rates: float) -> dict[str, float]:
        clock.now += seconds
        for name, each in (("first", pages), ("other", other)):
            counted[each] += seconds * rates.get(name, 0.0)
            each.answers["/metrics"] = 200, PAGE.format(a=counted[each])
        return counters.rates()

    try:
        assert after(15.0, first=6.0) == {}
        assert after(15.0, first=6.0)["a"] == 6.0
        api.addresses = ("127.0.0.1", "127.0.0.2")
        # Half of the load has moved to a gateway whose rate is not known yet.
        assert after(15.0, first=3.0, other=3.0)["a"] == 6.0
        assert after(15.0, first=3.0, other=4.0)["a"] == 7.0
    finally:
        other.close()
    # It is killed, and still listed: what came there may go elsewhere, or come back.
    assert after(15.0, first=5.0)["a"] == 7.0
    assert after(15.0, first=9.0)["a"] == 9.0
    assert [after(15.0, first=5.0)["a"] for _ in range(3)] == [9.0, 9.0, 5.0]
    assert after(15.0, first=2.0)["a"] == 2.0
    api.addresses = ("127.0.0.1",)
    assert after(15.0, first=1.0)["a"] == 1.0


def test_a_gateway_that_was_silent_for_a_while_is_counted_over_that_while(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, other = Clock(monkeypatch), Pages("127.0.0.2", pages.server.server_port)
    api: Any = EndpointsAlone("127.0.0.1", "127.0.0.2")
    counters = GatewayCounters(api, "teams", GatewayRates("gw", pages.server.server_port))
    told = []
    try:
        for at, silent in ((0, False), (10, False), (20, True), (30, False)):
            clock.now = 100.0 + at
            pages.answers["/metrics"] = 200, PAGE.format(a=4.0 * at)
            other.answers["/metrics"] = (500, "busy") if silent else (200, PAGE.format(a=2.0 * at))
            told.append(counters.rates().get("a"))
    finally:
        other.close()
    assert told == [None, 6.0, 6.0, 6.0]


def test_a_pod_with_two_addresses_is_one_gateway(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service of two address families has a slice for each, and a pod is in both."""
    clock, other = Clock(monkeypatch), Pages("127.0.0.2", pages.server.server_port)
    api: Any = EndpointsAlone("127.0.0.2", "127.0.0.1", pods=("gw-0", "gw-0"))
    counters = GatewayCounters(api, "teams", GatewayRates("gw", pages.server.server_port))
    try:
        for each in (pages, other):
            each.answers["/metrics"] = 200, PAGE.format(a=0.0)
        counters.rates()
        clock.now += 10.0
        for each in (pages, other):
            each.answers["/metrics"] = 200, PAGE.format(a=50.0)
        assert counters.rates()["a"] == 5.0
    finally:
        other.close()


def test_gateways_that_ask_for_a_token_get_it(pages: Pages) -> None:
    """A gateway that listens beyond its host always asks for one, or for a certificate."""
    api: Any = EndpointsAlone("127.0.0.1")
    pages.answers["/metrics"], pages.token = (200, PAGE.format(a="100.0")), "secret"
    source = GatewayRates("gw", pages.server.server_port)
    with pytest.raises(InputError, match="answers 401"):
        GatewayCounters(api, "teams", source).rates()
    assert GatewayCounters(api, "teams", source, GatewayAccess("secret")).rates() == {}


def test_a_page_has_items_by_service() -> None:
    assert items_counted(PAGE.format(a="2.5")) == {"a": 2.5, "b": 7.0}


def test_a_workload_without_a_source_measures_nothing(pages: Pages) -> None:
    api: Any = EndpointsAlone("127.0.0.1")
    assert rates_from(None, api, "teams").measured().rates == {}
    pages.vector(({"service": "a"}, "5"))
    assert rates_from(RatesSource(prometheus=source(pages)), api, "teams").measured().rates == {"a": 5.0}
    pages.answers["/metrics"] = 200, PAGE.format(a="100.0")
    gateway = GatewayRates("gw", pages.server.server_port)
    assert rates_from(RatesSource(gateway=gateway), api, "teams").measured().rates == {}
