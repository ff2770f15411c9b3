"""The API over a real, small cluster in a state folder."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from tests.control.world import World, deployment, goal
from tests.dash.client import client, local

from partita.control.cluster_view import snapshot
from partita.dash.model import Service
from partita.dash.source import Look
from partita.drive.simulated import SimulatedCluster
from partita.drive.state import CLUSTER
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.dash.client import Client


def reached(folder: Path) -> World:
    made = World(folder)
    made.reach(goal(deployment("4g.20gb@0=search 3g.20gb@4=chat", "7g.40gb@0=search", "1g.5gb@6")))
    return made


@pytest.fixture
def world(tmp_path: Path) -> World:
    return reached(tmp_path)


@pytest.fixture
def live(tmp_path: Path, world: World) -> Iterator[Client]:
    """The API of a cluster that the test changes."""
    assert world.folder == tmp_path
    source = local(tmp_path)
    yield client(source)
    source.close()


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("still")
    reached(folder)
    source = local(folder)
    yield client(source)
    source.close()


@pytest.fixture
def api(still: Client) -> Client:
    """The API of a cluster that no test changes."""
    return still


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


def test_a_large_answer_is_zipped_for_who_can_read_it(api: Client) -> None:
    plain = api.get("/api/v1/fleet")
    zipped = api.get("/api/v1/fleet", accept_encoding="br, gzip")
    assert zipped.headers["content-encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == plain.body
    assert zipped.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("", False), ("identity", False), ("gzip;q=0", False), ("br, gzip; q=0.000, *", False), ("xgzip", False),
        ("gzip", True), ("br,GZIP;q=0.5", True), ("gzip ;q=1.0, identity", True), ("deflate, gzip, br", True),
    ],
)  # fmt: skip
def test_who_does_not_want_zipped_answers_gets_none(api: Client, accepted: str, zipped: bool) -> None:  # noqa: FBT001
    found = api.get("/api/v1/fleet", accept_encoding=accepted)
    assert ("content-encoding" in found.headers) is zipped


def test_the_state_is_the_one_that_status_shows(live: Client, world: World) -> None:
    assert live.get("/api/v1").data["state"] == snapshot(world.driver.observe()).fingerprint


def test_a_gpu_is_told_with_all_that_is_known(api: Client) -> None:
    found = api.get("/api/v1/gpus/node-0/gpu-0").data
    assert (found["state"], found["held"], found["fragmentation"]) == ("usable", 1.0, 0.0)
    first = found["instances"][0]
    assert (first["services"], first["throughput"], first["batch"]) == (["search"], 400.0, 8)
    assert first["mig_uuid"].startswith("MIG-")
    listed = api.get("/api/v1/gpus?limit=1").data
    assert (listed["gpus"], listed["next"]) == ([found], "node-0/gpu-0")
    after = api.get("/api/v1/gpus?after=node-0/gpu-0&q=SEARCH").data
    assert ([each["id"] for each in after["gpus"]], after["next"]) == (["node-0/gpu-1"], None)


def test_services_have_capacity_floor_and_plan(api: Client) -> None:
    found = api.get("/api/v1/services").data
    assert found["total"] == 2
    search = api.get("/api/v1/services/search").data
    assert search == found["services"][1]
    assert (search["required"], search["floor"], search["capacity"], search["planned"]) == (1100.0,) * 4
    assert search["where"] == {"a100-40gb 4g.20gb": 1, "a100-40gb 7g.40gb": 1}
    page = api.get("/api/v1/services?limit=1").data
    assert ([each["name"] for each in page["services"]], page["next"]) == (["chat"], "chat")
    rest = api.get("/api/v1/services?limit=1&after=chat").data
    assert ([each["name"] for each in rest["services"]], rest["next"]) == (["search"], None)


def test_events_come_newest_first_and_pages_hold_each_once(api: Client) -> None:
    whole = api.get("/api/v1/events?limit=1000").data
    assert whole["next"] is None
    page = api.get("/api/v1/events?limit=2").data
    found = page["events"]
    while page["next"] is not None:
        page = api.get(f"/api/v1/events?limit=2&after={page['next']}").data
        found += page["events"]
    assert found == whole["events"]
    assert [each["at"] for each in found] == sorted((each["at"] for each in found), reverse=True)
    assert {"action", "goal"} <= {each["kind"] for each in found}
    assert len({each["number"] for each in found}) == len(found)


def test_a_gpu_s_history_ends_with_how_it_is_cut_now(live: Client, world: World) -> None:
    world.reach(goal(deployment("", "7g.40gb@0=search", "7g.40gb@0=chat"), old={"search": 300.0}))
    live.look()
    for name in ("node-0/gpu-0", "node-0/gpu-1", "node-0/gpu-2"):
        gpu = live.get(f"/api/v1/gpus/{name}").data
        history = live.get(f"/api/v1/gpus/{name}/history").data
        now = [" ".join([f"{e['profile']}@{e['start']}", *e["services"]]) for e in gpu["instances"]]
        assert history["cuts"][0]["instances"] == now
        assert all(event["gpu"] == name for event in history["events"])
    assert [] in [each["instances"] for each in live.get("/api/v1/gpus/node-0/gpu-2/history").data["cuts"]]


def test_a_series_has_what_was_recorded(api: Client) -> None:
    found = api.get("/api/v1/fleet/series?seconds=600&points=1000").data
    assert found["values"]["gpus"][-1] == 3.0
    assert found["values"]["used"][-1] == 2.0
    assert len(found["at"]) == len(found["values"]["gpus"])
    service = api.get("/api/v1/services/search/series").data
    assert service["values"]["capacity"][-1] == 1100.0
    assert service["values"]["rate"][-1] is None


@pytest.mark.parametrize(
    ("path", "status", "where"),
    [
        ("/api/v1/gpus/node-9/gpu-9", 404, "id"),
        ("/api/v1/gpus/node-9/gpu-9/history", 404, "id"),
        ("/api/v1/services/serch", 404, "name"),
        ("/api/v1/gpus?limit=0", 422, "limit"),
        ("/api/v1/gpus?limit=1001", 422, "limit"),
        ("/api/v1/gpus?limit=ten", 422, "limit"),
        ("/api/v1/gpus?limit=1&limit=2", 422, "limit"),
        ("/api/v1/gpus?colour=red", 422, None),
        ("/api/v1/events?after=yesterday", 422, "after"),
        ("/api/v1/events?after=1.2", 422, "after"),
        ("/api/v1/fleet/series?seconds=-1", 422, "seconds"),
        ("/api/v1/fleet/series?seconds=nan", 422, "seconds"),
        ("/api/v1/fleet/series?until=inf", 422, "until"),
        ("/api/v1/stream?last_event=x", 422, "Last-Event-ID"),
        ("/api/v1/stream?last_event=%D9%A1", 422, "Last-Event-ID"),
        (f"/api/v1/stream?last_event={'9' * 5000}", 422, "Last-Event-ID"),
        ("/api/v1/nothing", 404, "/api/v1/nothing"),
        ("/nothing", 404, "/nothing"),
    ],
)
def test_what_cannot_be_answered_says_what_where_and_how_to_mend_it(
    api: Client, path: str, status: int, where: str | None
) -> None:
    found = api.get(path)
    assert (found.status, found.data["where"]) == (status, where)
    assert found.data["error"]
    assert found.data["hint"]


def test_a_service_that_is_nearly_right_is_named(api: Client) -> None:
    assert api.get("/api/v1/services/serch").data["hint"] == "did you mean search?"


@pytest.mark.parametrize(
    "name", ["team/chat", "a/b/series", "a%2Fb", "50%", "#1?", "\u05e2 \U0001f600", "series"]
)
def test_a_service_is_found_by_any_name_that_a_workload_can_give_it(live: Client, name: str) -> None:
    services = live.api.fleet.services
    services[name] = services["search"].replace(name=name)
    path = f"/api/v1/services/{quote(name, safe='')}"
    if not name.endswith("/series"):
        assert live.get(path).data["name"] == name
    series = live.get(f"{path}/series")
    assert (series.status, set(series.data)) == (200, {"step", "at", "values"})


def test_other_methods_are_refused(api: Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        found = api.ask(method, "/api/v1/fleet")
        assert found.status == 405
        assert set(found.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert api.ask("HEAD", "/api/v1/fleet").status == 200


def test_a_change_is_told_once_it_is_seen(live: Client, world: World, tmp_path: Path) -> None:
    del world
    before = live.api.stream.last
    cluster = SimulatedCluster(tmp_path / CLUSTER)
    cluster.kill_replica("node-0/gpu-1", Placement(0, "7g.40gb"))
    cluster.lose("node-0/gpu-2")
    cluster.close()
    live.look()
    told = (live.api.stream.after(before) or b"").decode()
    assert told.count("event: gpu\n") == 2
    assert told.count("event: services\n") == 1
    assert live.get("/api/v1/services/search").data["capacity"] == 400.0
    assert live.get("/api/v1/gpus/node-0/gpu-2").data["state"] == "lost"
    after = live.api.stream.last
    live.look()
    assert live.api.stream.last == after, "nothing has changed, so nothing is told"


def test_a_thousand_services_are_not_told_with_every_reading(
    live: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [Service(f"service-{i:04}", 1.0, 1.0, 1.0, 1.0, 1) for i in range(1000)]
    clock = [1e9]
    monkeypatch.setattr("partita.dash.state.time.monotonic", lambda: clock[0])
    told = []
    for second in range(25):
        clock[0] += 1.0
        changed = tuple(each.replace(rate=float(second)) for each in many)
        found = live.api.services_due(Look(0.0, services=changed))
        told.append(len(found))
        if found:
            assert {each.rate for each in found} == {float(second)}, "as they are now"
    assert [second for second, count in enumerate(told) if count] == [0, 10, 20]
    assert set(told) == {0, 1000}
