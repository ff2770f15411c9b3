"""The controller's own API and dashboard: what it knows of transitions, and what people do through it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.cluster import free_ports
from tests.kubernetes.control_plane.dashboard import Dashboard
from tests.kubernetes.control_plane.nodes import Timing
from tests.kubernetes.control_plane.shop import DAY, NIGHT, scaled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kubernetes.control_plane.shop import Shop

SMALL_DAY, SMALL_NIGHT = scaled(DAY, 0.6), scaled(NIGHT, 0.9)
TOKEN = "secret-of-those-who-change-things"  # noqa: S105 -- of this test alone


class Api(Dashboard):
    """The API of a controller, for somebody with the token."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        super().__init__(port, TOKEN)
        path = folder / "dash-token"
        path.write_text(TOKEN)
        path.chmod(0o600)
        self.words = ("--dash-port", str(port), "--dash-write-token-file", str(path))

    def get(self, path: str) -> Any:
        status, found = self.ask(path)
        assert status == 200, found
        return found

    def answers(self) -> bool:
        return self.ask("")[0] == 200

    def newest(self) -> Any:
        """Return the newest transition; one without a state where there is none."""
        found = self.get("/transitions")["transitions"]
        return found[0] if found else {"state": "", "id": ""}


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def test_a_transition_is_shown_gpu_by_gpu_and_what_a_next_controller_did_not_see_is_said(
    shop: Shop, api: Api
) -> None:
    shop.nodes.timing = Timing(scale=0.1)
    before = time.time()
    shop.serve(SMALL_DAY, 2, 8, *api.words)
    shop.go(SMALL_DAY, SMALL_NIGHT)
    shop.partita.wait(lambda: api.newest()["state"] == "reached", "the API has seen it")
    newest = api.newest()
    detail = api.get(f"/transitions/{newest['id']}")
    actions, lines = detail["actions"], detail["capacity"]
    assert len(actions) == newest["done"] == newest["actions"] > 10
    assert all(each["ended"] >= each["began"] >= 0 and each["error"] is None for each in actions)
    assert all(each["end"] >= each["begin"] >= 0 for each in actions)
    floors = shop.floors(SMALL_DAY, SMALL_NIGHT)
    assert {each["service"] for each in lines} <= floors.keys()
    for line in lines:
        assert line["floor"] == pytest.approx(floors[line["service"]])
        for kind in ("predicted", "actual"):
            assert min(capacity for _, capacity in line[kind]) >= line["floor"] - 1e-6
        assert line["actual"][-1][1] == pytest.approx(line["predicted"][-1][1])
    # What happened on each GPU, and how it was cut since.
    target = shop.partita.target()
    changed = sorted({each["gpu"] for each in actions})
    for gpu in changed:
        history = api.get(f"/gpus/{gpu}/history")
        assert history["since"] >= before
        assert {each["gpu"] for each in history["events"]} == {gpu}
        now = {tuple(each.split()) for each in history["cuts"][0]["instances"]}
        assert now == set(target.get(gpu, {}).items())
    page = api.get("/events?limit=7")
    found = page["events"]
    while page["next"]:
        page = api.get(f"/events?limit=7&after={page['next']}")
        found += page["events"]
    assert len({each["number"] for each in found}) == len(found)
    assert {each["kind"] for each in found} == {"action", "goal", "state", "note"}
    assert [each["at"] for each in found] == sorted((each["at"] for each in found), reverse=True)

    shop.partita.running[0].kill()
    shop.partita.free_lease()
    shop.partita.start(*api.words)
    shop.partita.wait(lambda: api.answers() and api.ask("/fleet")[1]["gpus"]["id"], "the next one knows all")
    again = api.get(f"/transitions/{newest['id']}")
    assert (again["transition"]["done"], again["actions"]) == (newest["done"], [])
    assert {each["service"]: each["floor"] for each in again["capacity"]} == pytest.approx(floors)
    assert "an earlier controller carried it out" in again["notes"][0]["text"]
    assert shop.faults() == []
