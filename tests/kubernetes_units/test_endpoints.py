"""Which endpoints of a cluster take queries, and what their pods tell of them."""

from __future__ import annotations

import msgspec
import pytest
from tests.kubernetes_units.specs import good

from partita.errors import InputError
from partita.kubernetes.endpoints import ready_endpoints, served_by, slice_of
from partita.kubernetes.objects import EndpointSlice
from partita.kubernetes.pods import Pod, PodPlace, pod_body
from partita.serve.gateway.route import ServedService
from partita.serve.services import ServerSlice
from partita.transition.deployment import Replica

RESNET = Replica("resnet50", "resnet50", 8, 2, 900.0, 12.0)


def pod(name: str, replica: Replica = RESNET, *, leaving: bool = False) -> Pod:
    place = PodPlace(name, "node-1/gpu-3 3g.20gb@4", "node-1", "claim")
    body = pod_body({"spec": {"containers": [{"name": "server"}]}}, replica, place, "day", [])
    body["metadata"]["name"] = name
    if leaving:
        body["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    return msgspec.convert(body, Pod)


def endpoint(pod: str, address: str, **conditions: bool | None) -> dict[str, object]:
    return {"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod}}


def endpoint_slice(
    *endpoints: dict[str, object], ports: list[dict[str, object]] | None = None
) -> EndpointSlice:
    body = {"metadata": {"name": "s"}, "endpoints": endpoints, "ports": ports or [{"name": "", "port": 9000}]}
    return msgspec.convert(body, EndpointSlice)


def addresses(*slices: EndpointSlice, **pods: Pod) -> list[str]:
    return [f"{each.service}@{each.address}:{each.port}" for each in ready_endpoints(slices, pods)]


def test_only_ready_endpoints_of_pods_that_stay_take_queries() -> None:
    found = endpoint_slice(
        endpoint("a", "10.0.0.1", ready=True),
        endpoint("b", "10.0.0.2", ready=False),
        endpoint("c", "10.0.0.3", ready=True, terminating=True),
        endpoint("d", "10.0.0.4"),
        endpoint("e", "10.0.0.5", ready=True),
        endpoint("stranger", "10.0.0.6", ready=True),
        {"addresses": ["10.0.0.7"]},
    )
    pods = {name: pod(name) for name in "abcd"} | {"e": pod("e", leaving=True)}
    assert addresses(found, **pods) == ["resnet50@10.0.0.1:9000", "resnet50@10.0.0.4:9000"]


def test_a_service_is_told_by_its_whole_name_and_once_whatever_services_select_it() -> None:
    long = "a-service-with-a-name-of-more-than-sixty-three-characters-in-all-of-it"
    pods = {"a": pod("a", Replica(long, "m", 1, 1, 1.0, 1.0))}
    one = endpoint("a", "10.0.0.1", ready=True)
    assert addresses(endpoint_slice(one), endpoint_slice(one), **pods) == [f"{long}@10.0.0.1:9000"]


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        ([{"name": "http", "port": 8000}, {"name": "partita", "port": 9000}], ["resnet50@10.0.0.1:9000"]),
        ([{"name": "http", "port": 8000}, {"name": "grpc", "port": 8001}], ["resnet50@10.0.0.1:8000"]),
        ([{"name": "any"}], []),
    ],
)
def test_the_port_of_workers_is_the_one_of_their_name(
    ports: list[dict[str, object]], found: list[str]
) -> None:
    assert addresses(endpoint_slice(endpoint("a", "10.0.0.1"), ports=ports), a=pod("a")) == found


def test_a_slice_without_endpoints_is_no_error() -> None:
    empty = msgspec.convert({"metadata": {"name": "s"}, "endpoints": None, "ports": None}, EndpointSlice)
    assert addresses(empty) == []


def test_the_slice_of_a_pod_is_what_was_written_with_its_claim() -> None:
    assert slice_of(pod("a")) == ServerSlice("node-1/gpu-3", "3g.20gb@4", 8, 2, {8: 0.012})
    bare = msgspec.convert({"metadata": {"name": "a", "labels": {"partita.dev/service": "x"}}}, Pod)
    assert slice_of(bare) is None


def test_services_promise_what_the_workload_says() -> None:
    assert served_by(good(), "day") == [ServedService("resnet50", "resnet50", 0.1)]
    with pytest.raises(InputError, match="services is missing"):
        served_by({"gpus": [{"model": "a100-40gb"}]}, "day")
