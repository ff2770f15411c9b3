"""The API over a real, small cluster in a state folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.control.world import World, deployment, goal
from tests.dash.client import client, local

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.dash.client import Client


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def api(tmp_path: Path, world: World) -> Iterator[Client]:
    world.reach(goal(deployment("4g.20gb@0=search 3g.20gb@4=chat", "7g.40gb@0=search", "1g.5gb@6")))
    source = local(tmp_path)
    yield client(source)
    source.close()


def test_the_fleet_is_columns_of_gpus_and_instances(api: Client) -> None:
    fleet = api.get("/api/v1/fleet").data
    assert fleet["gpus"]["id"][:3] == ["node-0/gpu-0", "node-0/gpu-1", "node-0/gpu-2"]
    rows = fleet["instances"]
    profiles = [each["name"] for each in fleet["models"][0]["profiles"]]
    seen = [
        (fleet["gpus"]["id"][g], profiles[p], start, fleet["states"][state], service)
        for g, p, start, state, service in zip(
            *(rows[name] for name in ("gpu", "profile", "start", "state", "service")), strict=True
        )
    ]
    chat, search = (fleet["services"].index(name) for name in ("chat", "search"))
    assert seen == [
        ("node-0/gpu-0", "4g.20gb", 0, "serving", search),
        ("node-0/gpu-0", "3g.20gb", 4, "serving", chat),
        ("node-0/gpu-1", "7g.40gb", 0, "serving", search),
        ("node-0/gpu-2", "1g.5gb", 6, "free", -1),
    ]


def test_an_etag_spares_the_answer(api: Client) -> None:
    for path in ("", "/fleet", "/fleet/load", "/gpus", "/gpus/node-0/gpu-1", "/services", "/events"):
        first = api.get(f"/api/v1{path}")
        assert first.status == 200, path
        again = api.get(f"/api/v1{path}", if_none_match=first.headers["etag"])
        assert (again.status, again.body) == (304, b""), path
