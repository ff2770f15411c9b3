"""The dashboard's own page for Prometheus."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.dash.client import Client
from tests.dash.test_access import Empty

from partita.dash.access import Access
from partita.dash.model import InstanceDetail, InstanceState, Service
from partita.dash.source import LOST, USABLE, Look, SeenGpu
from partita.dash.state import ApiState
from partita.errors import PartitaError


class Small(Empty):
    """A source of two GPUs and a service, which can fail."""

    fault = False

    def look(self) -> Look:
        if self.fault:
            raise PartitaError("nothing is seen")
        instance = InstanceDetail("1g.6gb", 0, InstanceState.SERVING, services=("search",))
        gpus = [
            SeenGpu("n/gpu-0", "GPU-0", "a30-24gb", "n", USABLE, (instance,)),
            SeenGpu("n/gpu-1", "GPU-1", "a30-24gb", "n", LOST, ()),
        ]
        return Look(1.0, gpus, services=[Service("search", 90.0, 80.0, 100.0, 120.0, 1, 100.0, 0.95)])


def samples(client: Client) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics", accept="application/openmetrics-text;version=1.0.0")
    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (
        200,
        "application/openmetrics-text",
    )
    return {
        (each.name, *each.labels.values()): each.value
        for family in text_string_to_metric_families(answer.body.decode())  # type: ignore[no-untyped-call]
        for each in family.samples
    }


def test_it_says_what_is_seen() -> None:
    source = Small()
    client = Client(ApiState(source))
    client.look()
    found = samples(client)
    assert found[("partita_dash_sees",)] == 1
    assert found[("partita_dash_streams",)] == 0
    for state, count in (("used", 1), ("free", 0), ("lost", 1), ("leaving", 0), ("mig_off", 0)):
        assert found["partita_gpus", "a30-24gb", state] == count
    for name, value in (
        ("required_rate", 90),
        ("planned_capacity", 120),
        ("ready_capacity", 100),
        ("capacity_floor", 80),
        ("slo_seconds", 0.1),
        ("slo_objective", 0.95),
    ):
        assert found[f"partita_{name}", "search"] == value
    source.fault = True
    client.look()
    assert samples(client)[("partita_dash_sees",)] == 0


def test_it_needs_a_token_where_the_api_does() -> None:
    client = Client(ApiState(Small()), Access(read="correct-horse-battery"))
    assert client.get("/metrics").status == 401
    assert client.get("/metrics", authorization="Bearer correct-horse-battery").status == 200
