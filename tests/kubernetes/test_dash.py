"""The controller's own API and dashboard: what it knows of transitions, and what people do through it."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.certificates import Authority
from tests.kubernetes.control_plane.dashboard import Dashboard
from tests.kubernetes.control_plane.installation import ACCOUNT
from tests.kubernetes.control_plane.nodes import Timing
from tests.kubernetes.control_plane.shop import DAY, NIGHT, scaled
from tests.kubernetes.test_advice import PLUGIN
from tests.process.ports import free_ports

from partita.kubernetes.leader_mark import LEADS
from partita.kubernetes.resources import APPROVED, PAUSED
from partita.kubernetes.rights import CHANGES, CONTROLLER

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
    partita.wait(lambda: api.get("/fleet")["gpus"]["id"], "the GPUs are seen")
    fleet = api.get("/fleet")
    different = {fleet["gpus"]["id"][index] for index in fleet["planned"]["gpu"]}
    target, runs = partita.target(), shop.watcher.deployed()
    assert different >= {gpu for gpu, placed in target.items() if runs.get(gpu) != placed} > set()

    def quiet() -> bool:
        """Say whether nothing is written for a while; a controller that has just begun to lead still tells of it."""
        before = len(partita.proxy.writes())
        time.sleep(6.0)
        return len(partita.proxy.writes()) == before

    partita.wait(quiet, "nothing is written")

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
    partita.wait(lambda: api.get("/fleet")["planned"] is None, "nothing else is wanted")
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


def test_beyond_the_pod_it_wants_tls_and_a_token_and_the_pod_that_leads_is_marked(
    shop: Shop, tmp_path: Path
) -> None:
    partita, admin = shop.partita, shop.plane.admin
    names = [f"partita-{number}" for number in (1, 2)]
    for name in names:
        body: Any = {
            "metadata": {"name": name, "labels": {"app": "partita"}},
            "spec": {"containers": [{"name": "a", "image": "a:1"}], "nodeSelector": {"no": "node"}},
        }
        admin.create("pods", body, partita.namespace)

    def marked() -> list[str]:
        pods = admin.objects("pods", partita.namespace)
        return [each["metadata"]["name"] for each in pods if each["metadata"].get("labels", {}).get(LEADS)]

    authority = Authority(tmp_path / "ca")
    pair = authority.sign("dash", "dash", addresses=("127.0.0.1", "partita-dash.partita-system.svc"))
    tokens = [tmp_path / "read", tmp_path / "write"]
    for path in tokens:
        path.write_text(f"secret-of-those-who-{path.name}")
        path.chmod(0o600)

    def start(pod: str) -> int:
        (port,) = free_ports(1)
        listen = ("--dash-port", str(port), "--dash-listen", "0.0.0.0", "--mark-leader", pod)  # noqa: S104
        files = ("--dash-token-file", str(tokens[0]), "--dash-write-token-file", str(tokens[1]))
        tls = ("--dash-tls-cert", str(pair.certificate), "--dash-tls-key", str(pair.key))
        partita.start(*listen, *files, *tls, "--dash-name", "partita-dash.partita-system.svc")
        return port

    port = start(names[0])
    trusted = ssl.create_default_context(cafile=str(authority.own.certificate))

    def ask(**headers: str) -> tuple[int, Any]:
        request = urllib.request.Request(f"https://127.0.0.1:{port}/api/v1", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60, context=trusted) as answer:  # noqa: S310
                return answer.status, json.loads(answer.read())["role"]
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return 0, None

    partita.wait(lambda: ask()[0], "it answers")
    assert ask()[0] == 401
    assert ask(Authorization="Bearer no-such")[0] == 401
    for role in ("read", "write"):
        known = {"Authorization": f"Bearer secret-of-those-who-{role}"}
        assert ask(**known) == (200, role)
        assert ask(**known, Host="partita-dash.partita-system.svc") == (200, role)
        assert ask(**known, Host="elsewhere.example.com")[0] == 421
    partita.wait(lambda: marked() == names[:1], "the pod that leads is marked")
    start(names[1])
    partita.running[0].kill()
    partita.free_lease()
    partita.wait(lambda: marked() == names[1:], "the mark goes to the next")
    partita.running[1].end()
    assert marked() == []

    words = partita.words("--dash-port", "1", "--dash-listen", "0.0.0.0")  # noqa: S104
    done = subprocess.run(
        [sys.executable, "-m", "partita", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--dash-listen" in done.stderr
    assert "give --dash-token-file, --dash-tls-cert and --dash-tls-key" in done.stderr.replace("\n", " ")


def test_a_change_of_a_workload_is_applied_where_the_account_may_and_then_planned_and_approved_as_ever(
    shop: Shop, api: Api
) -> None:
    partita, admin = shop.partita, shop.plane.admin
    shop.serve({**SMALL_DAY, "approve": "Automatic"}, 2, 8, *api.words)
    namespace = partita.namespace
    meta = {"annotations": {"mine": "kept"}, "labels": {"team": "a"}}
    changed = admin.patch("workloads", "shop", {"metadata": meta, "spec": {"approve": "Manual"}}, namespace)

    def waits(generation: int) -> bool:
        """Say whether the plan for this generation waits, and not the one for the change before."""
        status = partita.status()
        planned = next(each for each in status["conditions"] if each["type"] == "Planned")
        return bool(status["state"] == "Waiting" and planned["observedGeneration"] == generation)

    partita.wait(lambda: waits(changed["metadata"]["generation"]), "the plan with the approval waits")
    service = SMALL_DAY["services"][0]["name"]
    rate = SMALL_DAY["services"][0]["rate"]

    def apply(change: Any, state: str) -> tuple[int, Any]:
        return api.ask("/apply", "POST", {"change": change}, if_match=f'"{state}"')

    def waiting_state() -> str:
        found = api.get("")
        return str(found["state"])

    change = {
        "services": {service: {"rate": rate * 1.5, "latency_ms": 500}},
        "pools": {"a100-80gb": {"price": 2.5}},
    }
    before = waiting_state()
    status, told = apply(change, before)
    assert status == 403
    assert "bind the role for changes" in told["hint"]
    rules = [each.rule for each in (*CONTROLLER, *CHANGES)]
    admin.patch("clusterroles", f"{ACCOUNT}-{namespace}", {"rules": rules})
    refused: list[tuple[Any, int, str]] = [
        ({"services": {"no-such": {"rate": 1}}}, 422, "change.services"),
        ({"services": {service: {"rate": 0}}}, 422, f"change.services.{service}.rate"),
        ({"pools": {"a100-80gb": {"count": 3}}}, 409, "change.pools.a100-80gb.count"),
        ({"services": {service: {"latency_ms": 1e-9}}, "workload": "no/such"}, 404, "change.workload"),
        ({}, 422, "change"),
    ]
    for wrong, code, where in refused:
        status, told = apply(wrong, waiting_state())
        assert (status, told["where"]) == (code, where), told
    assert api.ask("/apply", "POST", {"plan": {}}, if_match=f'"{waiting_state()}"')[0] == 409
    generation = admin.get("workloads", "shop", namespace)["metadata"]["generation"]
    seen = waiting_state()
    partita.wait(lambda: apply(change, waiting_state())[0] == 202, "the account may")
    found = admin.get("workloads", "shop", namespace)
    assert found["metadata"]["generation"] == generation + 1
    assert found["metadata"]["annotations"]["mine"] == "kept"
    assert found["metadata"]["labels"] == {"team": "a"}
    assert found["metadata"]["finalizers"] == ["partita.dev/drain"]
    assert found["spec"]["services"][0]["rate"] == rate * 1.5
    assert found["spec"]["services"][0]["slo"]["latency_ms"] == 500
    assert found["spec"]["gpus"] == [{"model": "a100-80gb", "cost_per_hour": 2.5}]
    assert found["spec"]["services"][1:] == SMALL_DAY["services"][1:]
    assert apply(change, seen)[0] == 412
    partita.wait(lambda: waits(generation + 1), "its plan waits for approval")
    name = partita.status()["plan"]
    uid = admin.get("plans", name, namespace)["metadata"]["uid"]
    shop.watcher.require(shop.floors(SMALL_DAY, SMALL_DAY))
    admin.patch("plans", name, {"metadata": {"annotations": {APPROVED: uid}}}, namespace)
    partita.wait_reached()
    shop.exact()
    assert shop.faults() == []
