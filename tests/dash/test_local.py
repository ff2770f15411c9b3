"""The cluster of a state folder, which others change, make anew and take away while it is looked at."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from tests.control.world import World, deployment, goal
from tests.dash.client import client, local

from partita.control.cluster_view import Snapshot
from partita.control.journal import FILE, Journal
from partita.dash.gateway import GatewayPage, together
from partita.dash.local import cuts
from partita.dash.model import InstanceState
from partita.dash.power import CounterPower, SimulatedPower
from partita.drive.driver import ActionResult, EnergyReading
from partita.drive.state import CLUSTER
from partita.errors import InputError, PartitaError
from partita.mig.layout import Placement
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind, Transition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from partita.dash.local import LocalSource
    from partita.dash.source import Look

FULL = "7g.40gb@0=search"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def source(tmp_path: Path, world: World) -> Iterator[LocalSource]:
    assert world.folder == tmp_path
    made = local(tmp_path, power=lambda _: SimulatedPower())
    yield made
    made.close()


def _action(
    name: str, kind: ActionKind, gpu: str, place: Placement, replica: Replica | None = None
) -> Action:
    return Action(name, kind, gpu, place, replica, (), 1.0)


def states(look: Look) -> dict[str, list[tuple[str, str]]]:
    return {
        gpu.id: [(f"{each.profile}@{each.start}", each.state.value) for each in gpu.instances]
        for gpu in look.gpus
    }


def test_a_look_tells_only_what_changed(source: LocalSource, world: World) -> None:
    first = source.look()
    assert len(first.gpus) == 3
    assert not source.look().gpus
    world.reach(goal(deployment(FULL)))
    found = source.look()
    assert states(found) == {"node-0/gpu-0": [("7g.40gb@0", "serving")]}
    assert [each.name for each in found.services] == ["search"]
    assert found.transition is not None
    assert (found.transition.state.value, found.transition.done) == ("reached", found.transition.actions)
    assert {each.kind for each in found.events} >= {"goal", "action"}
    assert found.goal is None
    again = source.look()
    assert not any((again.gpus, again.services, again.events, again.transition, again.load, again.watts))


def test_a_journal_that_is_there_already_is_no_news(source: LocalSource, world: World) -> None:
    world.reach(goal(deployment(FULL)))
    assert not source.look().events
    assert source.events(None, 100).events


def test_a_cluster_that_is_made_anew_is_looked_at_from_the_start(
    source: LocalSource, world: World, tmp_path: Path
) -> None:
    world.reach(goal(deployment(FULL)))
    found = client(source)
    for each in tmp_path.iterdir():
        each.unlink()
    found.look()
    assert found.get("/api/v1").data["fault"]["error"]
    assert found.get("/api/v1/fleet").data["services"] == ["search"], "what was seen last is shown still"
    World(tmp_path, gpus=2).reach(goal(deployment("3g.20gb@0=chat")))
    before = found.api.stream.last
    found.look()
    told = (found.api.stream.after(before) or b"").decode()
    assert "event: reset" in told
    assert "the cluster was made anew" in told
    fleet = found.get("/api/v1/fleet").data
    assert (len(fleet["gpus"]["id"]), fleet["services"]) == (2, ["chat"])
    assert [each["name"] for each in found.get("/api/v1/services").data["services"]] == ["chat"]
    assert found.get("/api/v1").data["fault"] is None


def test_a_journal_that_is_replaced_is_read_from_the_start(
    source: LocalSource, world: World, tmp_path: Path
) -> None:
    world.reach(goal(deployment(FULL)))
    source.look()
    for each in tmp_path.glob(f"{FILE}*"):
        each.unlink()
    source.look()
    journal = Journal(tmp_path / FILE)
    journal.note("a new beginning", 5.0)
    journal.close()
    source.look()
    assert [each.text for each in source.events(None, 10).events] == ["a new beginning"]


def test_actions_in_progress_show_what_changes(source: LocalSource, world: World, tmp_path: Path) -> None:
    """A controller that is killed in the middle leaves them; the next one closes them."""
    world.reach(goal(deployment("4g.20gb@0=search", "")))
    source.look()
    journal = Journal(tmp_path / FILE)
    wanted = goal(deployment("4g.20gb@0=search 3g.20gb@4=chat", ""), {"search": 400.0}, {"search": 300.0})
    journal.begin_goal(wanted, "partita apply plan.json", 10.0)
    made = _action("create", ActionKind.CREATE_INSTANCE, "node-0/gpu-0", Placement(4, "3g.20gb"))
    ended = _action("destroy", ActionKind.DESTROY_INSTANCE, "node-0/gpu-0", Placement(0, "4g.20gb"))
    journal._round = 1
    journal.intend([made, ended], 11.0)
    found = source.look()
    assert states(found) == {"node-0/gpu-0": [("4g.20gb@0", "changing"), ("3g.20gb@4", "changing")]}
    assert [each.ended for each in found.events if each.kind == "action"] == [None, None]
    assert found.goal == wanted.target
    search = next(each for each in found.services if each.name == "search")
    assert (search.floor, search.required, search.capacity) == (300.0, 400.0, 400.0)
    journal.recover(12.0)
    found = source.look()
    assert states(found) == {"node-0/gpu-0": [("4g.20gb@0", "serving")]}
    assert [each.kind for each in found.events] == ["fault", "fault"]
    journal.close()


def test_the_goal_is_shown_until_it_is_reached(source: LocalSource, world: World, tmp_path: Path) -> None:
    world.reach(goal(deployment("4g.20gb@0=search")))
    found = client(source)
    assert found.get("/api/v1/fleet").data["planned"] is None
    journal = Journal(tmp_path / FILE)
    journal.begin_goal(goal(deployment("4g.20gb@0=search", "7g.40gb@0=chat")), "partita apply", 10.0)
    journal.close()
    found.look()
    fleet = found.get("/api/v1/fleet").data
    planned = fleet["planned"]
    assert [fleet["gpus"]["id"][each] for each in planned["gpu"]] == ["node-0/gpu-1"]
    assert [fleet["services"][each] for each in planned["service"]] == ["chat"]


def test_watts_are_told_for_gpus_that_changed(source: LocalSource, world: World) -> None:
    first = source.look().watts
    world.reach(goal(deployment(FULL)))
    found = source.look().watts
    assert list(found) == ["node-0/gpu-0"]
    busy, idle = found["node-0/gpu-0"], first["node-0/gpu-0"]
    assert busy is not None
    assert idle is not None
    assert busy > idle > 0


def test_services_promise_what_the_workload_says_also_after_it_changed(world: World, tmp_path: Path) -> None:
    workload = tmp_path / "vision.yaml"
    text = (
        "apiVersion: partita/v1\nkind: Workload\ngpus: [{model: a100-40gb, count: 2}]\nperformance: [perf.csv]\n"
        "services: [{name: search, model: resnet50, rate: 10, slo: {latency_ms: 40, quantile: 0.9}}]\n"
    )
    (tmp_path / "perf.csv").write_text("")
    workload.write_text(text)
    world.reach(goal(deployment(FULL)))
    source = local(tmp_path, workload=workload)
    assert source.workload == "vision"
    (service,) = source.look().services
    assert (service.slo_ms, service.quantile) == (40.0, 0.9)
    workload.write_text(text.replace("latency_ms: 40", "latency_ms: 80.5"))
    (service,) = source.look().services
    assert service.slo_ms == 80.5
    workload.write_text("nonsense: [")
    assert not source.look().services, "what cannot be read changes nothing"
    source.close()


def test_what_a_gateway_says_is_joined_with_the_instances(world: World, tmp_path: Path) -> None:
    world.reach(goal(deployment(FULL)))
    page = GatewayPage("http://127.0.0.1:1")
    source = local(tmp_path, gateways=[page])
    try:
        found = client(source)
        text = (
            'partita_offered_items_total{{service="search"}} {0}\n'
            'partita_instance_busy_seconds_total{{service="search",gpu_instance="node-0/gpu-0/7g.40gb@0"}} {1}\n'
        )
        page.take(0.0, text.format(0, 0.0))
        page.take(10.0, text.format(500, 2.5))
        source._watch._now = together([page])
        found.look()
        assert found.get("/api/v1/services/search").data["rate"] == 50.0
        assert found.get("/api/v1/gpus/node-0/gpu-0").data["working"] == 0.25
        assert found.get("/api/v1/fleet/load").data["busy"] == [250]
        page.forget()
        source._watch._now = together([page])
        found.look()
        assert found.get("/api/v1/services/search").data["rate"] is None
        assert found.get("/api/v1/fleet/load").data["busy"] == [None]
    finally:
        source.close()


def test_a_folder_without_a_cluster_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(PartitaError, match="there is no simulated cluster"):
        local(tmp_path).look()


def test_a_workload_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        local(tmp_path, workload=tmp_path / "none.yaml")


def test_looking_writes_nothing(source: LocalSource, world: World, tmp_path: Path) -> None:
    world.reach(goal(deployment(FULL)))
    others = [sqlite3.connect(tmp_path / name) for name in (CLUSTER, FILE)]
    # It changes when another connection has written.
    before = [each.execute("PRAGMA data_version").fetchone() for each in others]
    source.look()
    source.events(None, 10)
    source.history("node-0/gpu-0")
    source.state()
    source.look()
    assert [each.execute("PRAGMA data_version").fetchone() for each in others] == before
    for each in others:
        each.close()


def test_cuts_are_undone_one_action_at_a_time(tmp_path: Path) -> None:
    """What a random walk of creating, starting, stopping and destroying left behind at each step."""
    journal = Journal(tmp_path / FILE)
    journal.begin_goal(goal(deployment(FULL)), "partita apply", 0.0)
    journal.begin_round(
        goal(deployment(FULL)), Transition("shortest", (), {}, deployment(FULL), 0.0, 0, 0), 0.0
    )
    replica = Replica("search", "search", 8, 1, 100.0, 20.0)
    place, now, right = Placement(0, "3g.20gb"), 0.0, []
    walk = [
        (ActionKind.CREATE_INSTANCE, ("3g.20gb@0",)),
        (ActionKind.START_REPLICA, ("3g.20gb@0 search",)),
        (ActionKind.STOP_REPLICA, ("3g.20gb@0",)),
        (ActionKind.DESTROY_INSTANCE, ()),
        (ActionKind.CREATE_INSTANCE, ("3g.20gb@0",)),
    ]
    for number, (kind, after) in enumerate(walk):
        action = _action(f"a{number}", kind, "g", place, replica if "REPLICA" in kind.name else None)
        now += 1.0
        journal.intend([action], now)
        journal.record([ActionResult(action)], Snapshot({}, {}), now + 0.5)
        right.append((now + 0.5, after))
    found = cuts([("3g.20gb@0", None)], journal.records(100, gpu="g")[0])
    assert [(each.at, each.instances) for each in reversed(found)] == right
    journal.close()


class Counters:
    """Energy counters that can be set."""

    def __init__(self) -> None:
        self.joules: float | None = 0.0

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:
        del busy
        return (EnergyReading("g", "GPU-g", "a30-24gb", self.joules),)


def test_watts_are_the_mean_between_two_readings() -> None:
    counters = Counters()
    power = CounterPower(counters)
    assert power.read(100.0, (), ()) == {}
    counters.joules = 500.0
    assert power.read(102.0, (), ()) == {}, "too soon"
    assert power.read(105.0, (), ()) == {"g": 100.0}
    counters.joules = None
    assert power.read(110.0, (), ()) == {"g": None}
    counters.joules = 20.0
    assert power.read(115.0, (), ()) == {}
    counters.joules = 270.0
    assert power.read(120.0, (), ()) == {"g": 50.0}


def test_states_have_all_their_words() -> None:
    assert {each.value for each in InstanceState} == {
        "serving", "job", "free", "starting", "draining", "changing", "foreign", "lost",
    }  # fmt: skip
