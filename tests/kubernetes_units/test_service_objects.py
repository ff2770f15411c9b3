"""Names and ports of the Services that are made for services."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from partita.kubernetes.service_objects import service_object_name, service_ports


def ports(*containers: list[dict[str, object]]) -> list[tuple[str, int, str]]:
    template = {"spec": {"containers": [{"name": "a", "ports": each} for each in containers]}}
    return [(each.name, each.port, each.protocol) for each in service_ports(template)]


def test_the_port_of_the_workers_comes_first_and_each_has_a_name_of_its_own() -> None:
    assert ports([]) == []
    assert service_ports({"spec": {"containers": [{"name": "a"}]}}) == ()
    assert ports([{"containerPort": 8000}]) == [("tcp-8000", 8000, "TCP")]
    assert ports(
        [{"name": "http", "containerPort": 8000}, {"name": "http", "containerPort": 53, "protocol": "UDP"}],
        [{"name": "partita", "containerPort": 9000}, {"containerPort": 8000}],
    ) == [("partita", 9000, "TCP"), ("http", 8000, "TCP"), ("udp-53", 53, "UDP")]


def test_a_port_that_is_none_is_left_to_the_server() -> None:
    assert ports([{"containerPort": "http"}, {"name": "a"}]) == []


_NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?", fullmatch=True)


@given(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,100}[a-z0-9])?", fullmatch=True), _NAMES)
def test_a_name_is_one_that_the_server_takes(workload: str, service: str) -> None:
    name = service_object_name(workload, service)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 63


def test_long_names_that_begin_alike_stay_apart() -> None:
    long = "a" * 60
    assert service_object_name(long, "b") != service_object_name(long, "c")
    assert service_object_name("day", "search") == "day-search"
    assert service_object_name("1.2", "search") == "partita-1-2-search"
