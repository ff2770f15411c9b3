"""What a metrics page is made of, and how it is asked for."""

from __future__ import annotations

import gzip
import http.client
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from partita import __version__
from partita.errors import InputError
from partita.metrics import (
    OPEN_METRICS,
    TEXT,
    MetricsPage,
    ServedPages,
    accepts_gzip,
    instance_labels,
    page_url,
    serving_pages,
    states,
    wants_open_metrics,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def gauge():
    family = GaugeMetricFamily("partita_test", "A state", labels=("gpu", "state"))
    states(family, {"gpu": "node-0/gpu-0"}, ("idle", "busy"), "busy")
    yield family


@pytest.mark.parametrize(
    ("accept", "open_metrics"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text; q=0.2, text/plain; q=0.9", False),
        ("Text/Plain;q=0.1, Application/OpenMetrics-Text;q=0.2", True),
        ("application/openmetrics-text;q=nonsense", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;q=-1, text/plain;q=0", False),
        ("application/openmetrics-text;q=0.5,text/plain;q=1e9", True),
        ("application/openmetrics-text;q=0.001,text/plain;q=0.000", True),
        ("application/*", False),
        (";;;,,", False),
    ],
)
def test_the_format_is_what_the_client_prefers(accept, open_metrics):
    assert wants_open_metrics(accept) == open_metrics
    page, media = MetricsPage(gauge).read(accept)
    assert media == (OPEN_METRICS if open_metrics else TEXT)
    assert page.endswith(b"# EOF\n") == open_metrics
    read = read_open_metrics if open_metrics else read_text
    found = {each.name: each for family in read(page.decode()) for each in family.samples}
    assert found["partita_build_info"].labels["version"] == __version__
    assert found["partita_build_info"].value == 1
    assert found["process_cpu_seconds_total"].value > 0


def test_each_state_has_a_sample():
    found = [
        (each.labels["state"], each.value)
        for family in read_text(MetricsPage(gauge).read()[0].decode())
        for each in family.samples
        if each.name == "partita_test"
    ]
    assert sorted(found) == [("busy", 1.0), ("idle", 0.0)]


def test_an_instance_has_the_labels_of_nvidia_s_exporter():
    assert instance_labels("node-0/gpu-3", "3g.40gb@4", "GPU-1", 0) == (
        "node-0/gpu-3/3g.40gb@4",
        "GPU-1",
        "0",
        "3g.40gb",
    )
    assert instance_labels("g0", "1g.10gb+me@2", None, None) == ("g0/1g.10gb+me@2", "", "", "1g.10gb+me")


def got(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


@pytest.mark.parametrize(
    ("accept_encoding", "zipped"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("*, gzip; q=0.000", False),
        ("x-gzip-not", False),
        ("identity", False),
        ("", False),
        ("gzip;q=nan", False),
    ],
)
def test_gzip_is_sent_to_who_takes_it(accept_encoding: str, *, zipped: bool) -> None:
    assert accepts_gzip(accept_encoding) == zipped


@given(st.text(max_size=40))
def test_headers_of_any_kind_are_read(header: str) -> None:
    assert wants_open_metrics(header) in {True, False}
    assert accepts_gzip(header) in {True, False}


def test_pages_are_served():
    why: list[str | None] = [None]
    pages = ServedPages(MetricsPage(gauge).read, ready=lambda: why[0])
    with serving_pages(pages, "127.0.0.1", 0) as port:
        status, headers, page = got(port, "/metrics?a=b", Accept=PROMETHEUS_2)
        assert (status, headers["Content-Type"]) == (200, OPEN_METRICS)
        assert b"partita_build_info{" in page
        _, headers, zipped = got(port, "/metrics", **{"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert b"partita_test{" in gzip.decompress(zipped)
        assert got(port, "/healthz")[::2] == (200, b"ok")
        assert got(port, "/readyz")[::2] == (200, b"ok")
        why[0] = "it waits"
        assert got(port, "/readyz")[::2] == (503, b"it waits")
        assert got(port, "/")[0] == 404
        with (
            pytest.raises(InputError, match=rf"--metrics-port: cannot listen at 127.0.0.1:{port}: .*in use"),
            serving_pages(pages, "127.0.0.1", port, ("--metrics-listen", "--metrics-port")),
        ):
            pass


def test_a_head_is_that_of_the_page() -> None:
    pages = ServedPages(lambda _: (b"x" * 2000, TEXT))
    with serving_pages(pages, "127.0.0.1", 0) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for method, body in (("HEAD", b""), ("GET", b"x" * 2000)):
            connection.request(method, "/metrics")
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("Content-Length"), answer.read()) == (200, "2000", body)
        connection.request("HEAD", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize("host", ["::1", ""])
def test_pages_are_served_over_ipv6(host: str) -> None:
    with serving_pages(ServedPages(MetricsPage(gauge).read), host, 0) as port:
        for each in ("::1", "127.0.0.1") if not host else (host,):
            with urllib.request.urlopen(page_url(each, port)) as answer:  # noqa: S310
                assert b"partita_test{" in answer.read()


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ("no.such.host.invalid", "--listen: no.such.host.invalid is not an address of this host"),
        ("192.0.2.1", "--port: cannot listen at 192.0.2.1:0: Cannot assign"),
        ("2001:db8::1", r"--port: cannot listen at \[2001:db8::1\]:0: Cannot assign"),
        ("." * 300, "--listen: '[.]+' is not an address"),
    ],
)
def test_an_address_of_another_host_is_refused(host: str, what: str) -> None:
    with (
        pytest.raises(InputError, match=what),
        serving_pages(ServedPages(MetricsPage(gauge).read), host, 0),
    ):
        pass


def test_a_fault_is_told_to_the_client_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[Metric]:
        yield GaugeMetricFamily("partita_test", "A state")
        raise ValueError("a source is broken")

    with serving_pages(ServedPages(MetricsPage(broken).read), "127.0.0.1", 0) as port:
        assert got(port, "/metrics")[::2] == (500, b"a fault; the log says more")
        assert got(port, "/healthz")[0] == 200
    assert "a source is broken" in caplog.text


def test_clients_that_are_slow_or_leave_keep_nobody_out(capfd: pytest.CaptureFixture[str]) -> None:
    page = b"x" * (8 << 20)  # more than the kernel keeps for a client that does not read
    with serving_pages(ServedPages(lambda _: (page, TEXT)), "127.0.0.1", 0) as port, ExitStack() as stack:
        silent, unread = (
            [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
            for count in (70, 20)
        )
        for each in unread:
            each.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        with ThreadPoolExecutor(2) as pool:  # two at a time
            assert [each[2] == page for each in pool.map(lambda _: got(port, "/metrics"), range(2))] == [
                True
            ] * 2
        silent[0].settimeout(30.0)
        assert silent[0].recv(1) == b""  # the oldest was closed
        for each in unread:
            each.close()
    assert capfd.readouterr() == ("", "")
