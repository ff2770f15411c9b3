"""What the API answers on demand, and what it changes: on a small cluster and a real queue in a state folder."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.control.world import World, deployment, goal
from tests.dash.client import Client, local
from tests.jobs.queue.world import queue, served

from partita import examples
from partita.cli.cluster import named
from partita.control.journal import FILE, Journal, State, controlling
from partita.dash.access import Access
from partita.dash.history import History
from partita.dash.local_on_demand import LocalOnDemand
from partita.dash.model import ServiceWhatIf, WhatIf, WhatIfAnswer
from partita.dash.plans import plan_data, plan_of
from partita.dash.searches import Searches, SupersededError, WorkloadFile
from partita.dash.state import ApiState
from partita.drive.simulated import SimulatedCluster
from partita.drive.state import CLUSTER
from partita.errors import DeniedError, InputError, PartitaError, UnknownNameError
from partita.jobs.energy import FILE as LEDGER
from partita.jobs.energy import NOBODY, Counter, Energy, EnergyLedger, EnergyOwner, LedgerEntry, OwnerKind
from partita.jobs.queue.client import BusyDaemonError, QueueClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.dash.client import Answer

DAY = deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet")
NIGHT = deployment("4g.20gb@0=bert 2g.10gb@4=resnet 1g.5gb@6=resnet")
SLOS = {"bert": 100.0, "resnet": 100.0}
WORKLOAD = Path(examples.__file__).parent / "day.yaml"
WRITE = {"authorization": "Bearer secret-of-those-who-write"}


def made(folder: Path, **more: Any) -> Client:
    source = local(folder, **more)
    on_demand = LocalOnDemand(source, "simulated", threading.Lock())
    found = Client(ApiState.of(source, History(None), on_demand), Access(write="secret-of-those-who-write"))
    found.look()
    return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.reach(goal(DAY))
    return found


@pytest.fixture
def api(tmp_path: Path, world: World) -> Iterator[Client]:
    del world
    found = made(tmp_path)
    yield found
    found.api.source.close()


def post(api: Client, path: str, body: object = None, **headers: str) -> Answer:
    return api.ask("POST", f"/api/v1{path}", {**WRITE, **headers}, body)


def night() -> dict[str, object]:
    return plan_data(plan_of(goal(NIGHT), SLOS))


def test_the_plan_and_what_lies_between_it_and_what_runs(api: Client) -> None:
    plan = api.get("/api/v1/plan").data
    assert (plan["gpus"], plan["instances"], plan["bound"], plan["proven"]) == (2, 3, None, False)
    there = api.get("/api/v1/plan/difference").data
    assert (there["actions"], there["services"], there["gpus"]) == (0, [], [])
    assert there["state"] == api.get("/api/v1").data["state"]
    other = api.ask("POST", "/api/v1/plan/difference", body={"plan": night()}).data
    assert other["actions"] > 0
    assert {each["name"] for each in other["services"]} == {"bert", "resnet"}
    for each in other["services"]:
        assert each["least"] >= each["floor"]


@pytest.mark.parametrize("plan", [{}, {"apiVersion": "partita/v1", "kind": "Workload"}, {"gpus": 3}])
def test_what_is_no_plan_is_refused(api: Client, plan: dict[str, object]) -> None:
    assert api.ask("POST", "/api/v1/plan/difference", body={"plan": plan}).status == 422
    state = api.get("/api/v1").data["state"]
    answer = post(api, "/apply", {"plan": plan}, if_match=f'"{state}"')
    assert answer.status == 422
    assert set(answer.data) == {"error", "where", "hint"}


def test_a_plan_is_applied_by_a_process_of_its_own(api: Client, world: World, tmp_path: Path) -> None:
    state = api.get("/api/v1").data["state"]
    body = {"plan": night()}
    assert api.ask("POST", "/api/v1/apply", {"if-match": f'"{state}"'}, body).status == 403
    assert post(api, "/apply", body).status == 428
    change = {"change": {"services": {"photo": {"rate": 1.0}}}}
    refused = post(api, "/apply", change, if_match=f'"{state}"')
    assert refused.status == 404  # no workload is known here
    assert post(api, "/apply", {}, if_match=f'"{state}"').status == 422
    assert post(api, "/apply", {**body, **change}, if_match=f'"{state}"').status == 422
    assert post(api, "/apply", body, if_match='"0123456789ab"').status == 412
    anything = post(api, "/apply", body, if_match="*")
    assert (anything.status, anything.data["error"]) == (428, "`*` does not say what you saw")
    for unquoted in (state, f'W/"{state}"'):
        bare = post(api, "/apply", body, if_match=unquoted)
        assert (bare.status, "must be in quotes" in bare.data["error"]) == (412, True)
    with controlling(tmp_path):
        taken = post(api, "/apply", body, if_match=f'"{state}"')
    assert taken.status == 409
    assert "another controller" in taken.data["error"]
    begun = post(api, "/apply", body, if_match=f'"{state}"')
    assert (begun.status, begun.data["id"]) == (202, "2")
    deadline = time.monotonic() + 60
    while (progress := world.journal.progress()) is None or progress.state is not State.REACHED:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert world.running() == World(tmp_path).running()
    assert world.now().capacity() == NIGHT.capacity()
    api.look()
    found = api.get("/api/v1/transitions").data["transitions"]
    assert [(each["id"], each["state"]) for each in found] == [("2", "reached"), ("1", "reached")]
    assert "--expect" in found[0]["command"]
    detail = api.get("/api/v1/transitions/2").data
    assert len(detail["actions"]) == found[0]["actions"]
    begin = api.get("/api/v1/transitions/2?limit=1").data
    assert (begin["actions"], begin["next"]) == (detail["actions"][:1], "1")
    rest = api.get(f"/api/v1/transitions/2?limit=1000&after={begin['next']}").data
    assert [*begin["actions"], *rest["actions"]] == detail["actions"]
    plan = api.get("/api/v1/plan").data
    assert (plan["gpus"], plan["bound"], plan["objective"]) == (1, 0.0, "gpus")


def test_searches_hold_up_nothing_else(api: Client) -> None:
    api.api.searches = asyncio.Semaphore(0)
    assert api.get("/api/v1/events").status == 200
    assert api.get("/api/v1/plan").status == 200


def test_of_two_who_apply_at_once_one_is_refused(api: Client) -> None:
    state = api.get("/api/v1").data["state"]
    other = plan_data(plan_of(goal(deployment("7g.40gb@0=bert", "7g.40gb@0=resnet")), SLOS))
    with ThreadPoolExecutor(2) as both:
        answers = list(
            both.map(
                lambda plan: post(api, "/apply", {"plan": plan}, if_match=f'"{state}"'), (night(), other)
            )
        )
    begun, refused = sorted(answers, key=lambda each: each.status)
    assert (begun.status, refused.status in (409, 412)) == (202, True), (begun.data, refused.data)


def test_a_transition_is_paused_and_goes_on_as_it_was_seen(api: Client, world: World) -> None:
    assert post(api, "/transitions/9/pause", if_match='"9.running"').status == 404
    assert post(api, "/transitions/1/pause", if_match='"1.reached"').status == 409
    world.journal.begin_goal(goal(NIGHT), "partita apply night.json", 7.0)
    assert post(api, "/transitions/2/pause").status == 428
    assert post(api, "/transitions/2/pause", if_match='"2.paused"').status == 412
    assert api.ask("POST", "/api/v1/transitions/2/pause", {"if-match": '"2.running"'}).status == 403
    assert post(api, "/transitions/2/pause", if_match='"2.running"').status == 200
    assert world.journal.paused() == "the dashboard"
    assert api.get("/api/v1/transitions/2").data["transition"]["state"] == "paused"
    told = post(api, "/transitions/2/resume", if_match='"2.paused"')
    assert told.data["text"] == "no process carries it out: go on with `partita apply night.json`"
    assert world.journal.paused() is None
    assert post(api, "/transitions/2/approve", if_match='"2.running"').status == 409


def test_parts_are_those_that_there_are(api: Client, tmp_path: Path) -> None:
    assert api.get("/api/v1").data["parts"] == ["fleet", "services", "plan", "transitions"]
    for path in ("/jobs", "/jobs/1", "/jobs/1/log", "/energy", "/what-if", "/services/bert/explain"):
        assert api.get(f"/api/v1{path}").status == 404, path
    assert api.ask("POST", "/api/v1/what-if", body={}).status == 404
    (tmp_path / FILE).unlink()
    assert api.get("/api/v1/plan").status == 404
    assert api.get("/api/v1/transitions").data == {"transitions": [], "next": None}


# Jobs


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Client]:
    state = tmp_path / "state"
    state.mkdir()
    with queue(state) as world, served(world):
        World(state)
        found = made(state)
        yield found
        found.api.source.close()


def submitted(jobs: Client, *command: str, **more: object) -> str:
    answer = post(jobs, "/jobs", {"command": list(command), **more})
    assert answer.status == 202, answer.data
    return str(answer.data["id"])


def over(jobs: Client, number: str) -> Any:
    deadline = time.monotonic() + 60
    while (found := jobs.get(f"/api/v1/jobs/{number}").data)["state"] not in ("done", "failed", "cancelled"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_what_jobs_hold_is_no_difference(jobs: Client, tmp_path: Path) -> None:
    World(tmp_path / "state").reach(goal(deployment("4g.20gb@0=bert")))
    number = submitted(jobs, "sleep", "600")
    deadline = time.monotonic() + 60
    while jobs.get(f"/api/v1/jobs/{number}").data["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    jobs.look()
    (gpu,) = jobs.get("/api/v1/gpus").data["gpus"]
    assert number in json.dumps(gpu)
    there = jobs.get("/api/v1/plan/difference").data
    assert (there["actions"], there["gpus"], there["moves"]) == (0, [], 0)
    assert there["state"] == jobs.get("/api/v1").data["state"]


def test_a_job_is_submitted_followed_and_listed(jobs: Client, tmp_path: Path) -> None:
    program = "print('zażółć ' * 3)"
    number = submitted(jobs, sys.executable, "-c", program, directory=str(tmp_path), name="hello")
    found = over(jobs, number)
    assert (found["state"], found["name"]) == ("done", "hello")
    (attempt,) = found["attempts"]
    assert (attempt["number"], attempt["verdict"], attempt["code"]) == (1, "done", 0)
    assert attempt["limit_bytes"] > 0
    text, after, end = "", 0, False
    while not end:
        piece = jobs.get(f"/api/v1/jobs/{number}/log?after={after}").data
        text, after, end = text + piece["text"], piece["next"], piece["over"]
    assert text == "zażółć zażółć zażółć \n"
    page = jobs.get("/api/v1/jobs?state=done&q=HELLO").data
    assert [each["id"] for each in page["jobs"]] == [number]


def test_a_job_is_told_when_it_holds_an_instance_and_when_it_ends(jobs: Client, tmp_path: Path) -> None:
    jobs.look()
    go = tmp_path / "go"
    words = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    number = submitted(jobs, sys.executable, "-c", words, directory=str(tmp_path))
    states: list[str] = []
    deadline = time.monotonic() + 60
    while not states or states[-1] != "done":
        assert time.monotonic() < deadline, states
        seen = jobs.api.source.look()
        states += [each.state for each in seen.jobs if each.id == number]
        if "running" in states:
            go.touch()
        time.sleep(0.02)
    assert states[-2:] == ["running", "done"]


def test_jobs_are_no_news_again_once_a_busy_daemon_answers(
    jobs: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.look()
    number = submitted(jobs, "true", memory_bytes=2**49)
    deadline = time.monotonic() + 60
    while number not in [each.id for each in jobs.api.source.look().jobs]:
        assert time.monotonic() < deadline

    def busy(*_: object, **__: object) -> None:
        raise BusyDaemonError("the daemon has not answered for 0.5 s")

    with monkeypatch.context() as late:
        late.setattr(QueueClient, "ask", busy)
        assert jobs.api.source.look().jobs == []
    assert jobs.api.source.look().jobs == []


def test_pages_of_jobs_hold_each_once(jobs: Client, tmp_path: Path) -> None:
    ended = [submitted(jobs, "true", directory=str(tmp_path)) for _ in range(3)]
    for number in ended:
        over(jobs, number)
    waiting = [submitted(jobs, "true", memory_bytes=2**49) for _ in range(4)]
    seen, after, pages = [], "", 0
    while True:
        page = jobs.get(f"/api/v1/jobs?limit=2{after and '&after=' + after}").data
        seen += [each["id"] for each in page["jobs"]]
        pages += 1
        if page["next"] is None:
            break
        after = page["next"]
    assert sorted(seen) == sorted([*ended, *waiting])
    assert seen[:4] == waiting
    assert pages == 4
    first = jobs.get(f"/api/v1/jobs/{waiting[0]}").data
    assert "larger than any slice" in first["reason"]
    assert "less --memory" in first["advice"]
    assert page["counts"]["waiting"] == 4


def test_a_job_is_cancelled_as_it_was_seen(jobs: Client) -> None:
    number = submitted(jobs, "true", memory_bytes=2**49)
    assert post(jobs, f"/jobs/{number}/cancel").status == 428
    assert post(jobs, f"/jobs/{number}/cancel", if_match=f'"{number}.running"').status == 412
    assert (
        jobs.ask("POST", f"/api/v1/jobs/{number}/cancel", {"if-match": f'"{number}.waiting"'}).status == 403
    )
    assert post(jobs, f"/jobs/{number}/cancel", if_match=f'"{number}.waiting"').status == 200
    assert over(jobs, number)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/jobs/99", 404), ("/jobs/x", 404), ("/jobs/99/log", 404), ("/jobs?after=x", 422), ("/jobs?state=lost", 422),
     ("/jobs?limit=0", 422), ("/jobs/1/log?after=-1", 422), (f"/jobs/1/log?after={2**64}", 422),
     (f"/jobs/1/log?attempt={2**64}", 422)],
)  # fmt: skip
def test_what_cannot_be_asked_of_the_queue_is_refused(jobs: Client, path: str, status: int) -> None:
    answer = jobs.get(f"/api/v1{path}")
    assert answer.status == status
    assert answer.data["error"]


def test_an_attempt_that_never_was_is_not_found(jobs: Client) -> None:
    number = submitted(jobs, "true", memory_bytes=2**49)
    answer = jobs.get(f"/api/v1/jobs/{number}/log?attempt=7")
    assert answer.status == 404
    assert (answer.data["error"], answer.data["where"]) == (
        f"job {number} has no attempt 7, but 0",
        "attempt",
    )


@pytest.mark.parametrize(
    ("error", "status", "where"),
    [
        (UnknownNameError("it has another name", where="--attempt"), 404, "attempt"),
        (DeniedError("admins alone do this"), 403, None),
        (InputError("there is no job to wait for", where="--after"), 422, "after"),
        (PartitaError("the disk is full"), 503, None),
    ],
    ids=["unknown", "denied", "wrong", "failed"],
)
def test_what_the_queue_refuses_has_a_status_by_its_kind_whatever_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: PartitaError, status: int, where: str | None
) -> None:
    state = tmp_path / "state"
    state.mkdir()

    def refuse(*_: object) -> None:
        raise error

    with queue(state) as world:
        monkeypatch.setattr(world, "answers", refuse)
        with served(world):
            World(state)
            api = made(state)
            found = api.get("/api/v1/jobs/1")
            api.api.source.close()
    assert (found.status, found.data["error"], found.data["where"]) == (status, error.what, where)


def test_a_submission_that_is_wrong_is_refused(jobs: Client) -> None:
    wrong: list[dict[str, object]] = [
        {}, {"command": []}, {"command": ["true"], "directory": "here"}, {"command": "true"}
    ]  # fmt: skip
    for body in wrong:
        assert post(jobs, "/jobs", body).status == 422, body
    assert jobs.ask("POST", "/api/v1/jobs", body={"command": ["true"]}).status == 403


# Energy


def test_idle_is_a_row_and_time_is_divided_by_size(tmp_path: Path, world: World) -> None:
    del world
    bert = EnergyOwner(OwnerKind.SERVICE, "bert")
    ledger = EnergyLedger(tmp_path / LEDGER)
    now = time.time()
    counter = Counter("node-0/gpu-0", "GPU-0", now, 5000.0, None, 50.0)
    entries = [
        LedgerEntry("node-0/gpu-0", bert, Energy(1500.0, 2000.0, 60.0)),
        LedgerEntry("node-0/gpu-0", NOBODY, Energy(1500.0, 0.0, 60.0)),
    ]
    ledger.add(now, [counter], entries)
    ledger.close()
    api = made(tmp_path)
    found = api.get(f"/api/v1/energy?since={now - 3600:.0f}").data
    rows = {(each["kind"], each["name"]): each for each in found["rows"]}
    assert rows["service", "bert"]["joules"] == 3500.0
    assert (rows["idle", ""]["joules"], rows["idle", ""]["seconds"]) == (1500.0, 30.0)
    assert rows["service", "bert"]["seconds"] == 30.0
    assert found["watts"] == pytest.approx(5000 / 60)
    assert rows["idle", ""]["cost"] is None
    assert api.get("/api/v1/gpus/node-0/gpu-0/history").data["energy"] == found["rows"]
    assert api.get("/api/v1/gpus/node-0/gpu-1/history").data["energy"] == []
    assert [api.get(f"/api/v1/energy?since={each}").status for each in ("inf", "1e308")] == [422, 422]
    api.api.source.close()


# Searches


def test_a_newer_what_if_ends_those_before_and_what_is_wrong_is_refused() -> None:
    searches, workload = Searches(), WorkloadFile(WORKLOAD)
    ends: dict[int, WhatIfAnswer | PartitaError] = {}

    def ask(number: int, rate: float) -> None:
        try:
            ends[number] = searches.what_if(
                workload, WhatIf(services={"photo-search": ServiceWhatIf(rate=rate)}), {"a100-80gb": 16}
            )
        except PartitaError as error:
            ends[number] = error

    asking = []
    for number, rate in enumerate((9000.0, 9100.0, 300.0)):
        asking.append(threading.Thread(target=ask, args=(number, rate)))
        asking[-1].start()
        while number not in ends and searches.asked <= number:
            time.sleep(0.001)
    for each in asking:
        each.join()
    assert isinstance(ends[0], SupersededError)
    assert isinstance(ends[1], SupersededError)
    last = ends[2]
    assert isinstance(last, WhatIfAnswer)
    assert last.plan is not None
    assert last.plan.gpus < (last.now or 0)
    assert last.command.startswith(f"partita plan -f {WORKLOAD} --set")
    with pytest.raises(InputError, match="photo-serch"):
        searches.what_if(workload, WhatIf(services={"photo-serch": ServiceWhatIf(rate=1)}), None)
    searches.close()
    with pytest.raises(PartitaError, match="this program ends"):
        searches.what_if(workload, WhatIf(), None)


def test_a_service_is_explained_and_asked_about_over_the_api(tmp_path: Path, world: World) -> None:
    del world
    api = made(tmp_path, workload=WORKLOAD)
    on_demand = api.api.on_demand
    assert on_demand is not None
    assert api.get("/api/v1/what-if").data["objective"] == "gpus"
    found = api.ask("POST", "/api/v1/what-if", body={"until": "bound"}).data
    assert (found["bound"], found["now"], found["plan"]) == (16.0, 2, None)
    wrong = api.ask("POST", "/api/v1/what-if", body={"services": {"photo-search": {"rate": -1}}})
    assert wrong.status == 422
    assert "services.photo-search.rate" in wrong.data["error"]
    unknown = api.ask("POST", "/api/v1/what-if", body={"pools": {"h100": {"count": 1}}, "until": "bound"})
    assert (unknown.status, unknown.data["where"]) == (422, "pools.h100")
    few = api.ask("POST", "/api/v1/what-if", body={"pools": {"a100-80gb": {"count": 1}}, "until": "bound"})
    assert (few.status, few.data["feasible"]) == (200, False)
    told = api.get("/api/v1/services/photo-search/explain").data
    assert set(told["explanation"]["gpus"]) == {"a100-80gb"}
    assert api.get("/api/v1/services/bert/explain").status == 422
    on_demand.close()
    api.api.source.close()


def test_the_journal_that_is_there_now_is_read(api: Client, tmp_path: Path) -> None:
    assert api.get("/api/v1/transitions").data["transitions"]
    for each in tmp_path.glob(f"{FILE}*"):
        each.unlink()
    Journal(tmp_path / FILE).close()
    assert api.get("/api/v1/transitions").data["transitions"] == []


def test_a_change_is_applied_as_its_what_if_showed_it(tmp_path: Path) -> None:
    SimulatedCluster.create(tmp_path / CLUSTER, named(["a100-80gb"] * 24)).close()
    api = made(tmp_path, workload=WORKLOAD)
    try:
        change = {"services": {"photo-search": {"rate": 1500.0}}}
        shown = api.ask("POST", "/api/v1/what-if", body={**change, "document": True}).data["plan"]
        there = api.ask("POST", "/api/v1/plan/difference", body={"plan": shown["document"]}).data
        assert there["state"] == api.get("/api/v1").data["state"]
        match = f'"{there["state"]}"'
        assert post(api, "/apply", {"change": {}}, if_match=match).status == 422
        unknown = {"change": {**change, "workload": "other"}}
        assert post(api, "/apply", unknown, if_match=match).status == 404
        begun = post(api, "/apply", {"change": change}, if_match=match)
        assert (begun.status, begun.data["id"]) == (202, "1"), begun.data
        deadline = time.monotonic() + 60
        while (found := api.get("/api/v1/transitions/1").data)["transition"]["state"] != "reached":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(found["actions"]) == there["actions"]
        with closing(Journal(tmp_path / FILE)) as journal:
            progress = journal.progress()
        assert progress is not None
        assert progress.goal.source == shown["version"]
        api.look()
        assert api.get("/api/v1/plan/difference").data["actions"] == 0
    finally:
        api.api.source.close()
