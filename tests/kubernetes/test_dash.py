"""The controller's own API and dashboard: what it knows of transitions, and what people do through it."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.cluster import free_ports
from tests.kubernetes.control_plane.dashboard import Dashboard
from tests.kubernetes.control_plane.nodes import Timing
from tests.kubernetes.control_plane.shop import DAY, NIGHT, scaled
from tests.kubernetes.test_advice import PLUGIN

from partita.kubernetes.resources import PAUSED

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


def test_a_pause_holds_over_killed_controllers_and_floors_hold_in_it(shop: Shop, api: Api) -> None:
    """Paused by the API, found by the plugin, resumed by `partita resume`: all of them do one thing."""
    shop.nodes.timing = Timing(scale=0.3)
    partita = shop.partita
    shop.serve(SMALL_DAY, 2, 8, *api.words)
    shop.begin(SMALL_DAY, SMALL_NIGHT, 2)
    partita.wait(lambda: api.newest()["state"] == "running", "the API shows it")
    newest = api.newest()["id"]

    def post(what: str, state: str) -> tuple[int, Any]:
        return api.ask(f"/transitions/{newest}/{what}", "POST", if_match=f'"{newest}.{state}"')

    assert post("resume", "paused")[0] == 412
    status, told = post("pause", "running")
    assert (status, "nothing begins" in told["text"]) == (200, True)
    partita.wait(lambda: api.newest()["state"] == "paused", "the API shows the pause")
    partita.wait(lambda: partita.condition("Paused").get("status") == "True", "the Workload says so")
    assert partita.condition("Paused")["message"].startswith("by the dashboard: no action begins until")

    def transition() -> Any:
        status = partita.transitions()[-1].get("status", {})
        conditions = {each["type"]: each for each in status.get("conditions", ())}
        return status.get("state"), conditions.get("Progressing", {}).get("reason")

    partita.wait(lambda: transition() == ("Paused", "Paused"), "the Transition says so")

    def settled() -> bool:
        """Say whether what was in progress has ended."""
        actions = api.get(f"/transitions/{newest}")["actions"]
        return all(each["began"] is None or each["ended"] is not None for each in actions)

    partita.wait(settled, "what is in progress ends")
    held = shop.driven()
    for _ in range(2):  # each next controller finds the pause, and begins nothing
        partita.running[-1].kill()
        partita.free_lease()
        partita.start(*api.words)
        partita.wait(
            lambda: "leading as" in partita.running[-1].log.read_text() and api.answers(), "it leads"
        )
        partita.wait(lambda: api.newest()["state"] == "paused", "it knows of the pause")
        partita.wait(lambda: api.get(f"/transitions/{newest}")["actions"], "it has the rest before it")
        time.sleep(3.0)
        assert transition() == ("Paused", "Paused")
        assert all(each["began"] is None for each in api.get(f"/transitions/{newest}")["actions"])
    assert shop.driven() == held
    quiet = len(partita.proxy.writes())
    time.sleep(6.0)
    assert len(partita.proxy.writes()) == quiet, partita.proxy.writes()[quiet:]

    def person(*words: str) -> str:
        named = ["-n", partita.namespace, "--kubeconfig", str(shop.plane.kubeconfig("admin"))]
        done = subprocess.run([sys.executable, *words, *named], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "shop: Paused Paused: by the dashboard" in person("-c", PLUGIN, "status")
    assert "paused already, by the dashboard" in person("-c", PLUGIN, "pause", "shop")
    assert post("pause", "running")[0] == 412
    assert person("-m", "partita", "resume", "--workload", "shop") == "shop goes on\n"
    partita.wait_reached()
    assert partita.condition("Paused")["status"] == "False"
    assert transition()[0] == "Reached"
    assert api.get(f"/transitions/{newest}")["notes"][0]["text"].startswith("an earlier controller began it")
    shop.exact()
    assert shop.faults() == []


def test_a_paused_workload_begins_no_transition_at_all_and_drains_when_it_goes_on(
    shop: Shop, api: Api
) -> None:
    partita = shop.partita
    shop.serve(SMALL_DAY, 2, 8, *api.words)
    meta = {"annotations": {PAUSED: "night shift"}}
    partita.admin.patch("workloads", "shop", {"metadata": meta}, partita.namespace)
    driven = shop.driven()
    partita.apply(SMALL_NIGHT)
    partita.wait(lambda: api.newest()["state"] == "paused", "the next transition is paused")
    partita.wait(lambda: partita.condition("Paused").get("status") == "True", "the Workload says so")
    time.sleep(3.0)
    partita.admin.delete("workloads", "shop", partita.namespace)
    partita.wait(lambda: partita.status().get("state") == "Draining", "it is to drain")
    time.sleep(3.0)
    assert shop.driven() == driven
    partita.admin.patch("workloads", "shop", {"metadata": {"annotations": {PAUSED: None}}}, partita.namespace)
    partita.wait(lambda: not partita.admin.objects("workloads", partita.namespace), "it is gone")
    assert not partita.admin.objects("pods", partita.namespace)
