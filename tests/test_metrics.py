"""What a metrics page is made of, and how it is asked for."""

from __future__ import annotations

import gzip
import urllib.error
import urllib.request

import pytest
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
    instance_labels,
    serving_pages,
    states,
    wants_open_metrics,
)

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
            pytest.raises(InputError, match=rf"port {port} cannot be opened.*in use"),
            serving_pages(pages, "127.0.0.1", port, "--metrics-port"),
        ):
            pass
