"""A simulated cluster in wall-clock time looks the same to whoever looks: `status`, `diff` and `apply`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.commands import Commands
from tests.control.world import MODEL, deployment, gpu, replica

from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.mig.layout import Placement
from partita.sim.clock import SimulatedClock, WallClock
from partita.transition.transition import Action, ActionKind, Durations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from partita.sim.clock import Clock


SOON = Durations(0.02, 0.02, 0.3, 0.3)
WHOLE = Placement(0, "7g.40gb")
LONGEST_S = 30.0


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    made = Commands(tmp_path, monkeypatch, capsys)
    made.state.mkdir()
    SimulatedCluster.create(made.state / "cluster.sqlite3", [(gpu(i), MODEL) for i in range(2)]).close()
    return made


def opened(partita: Commands, clock: Clock, seconds: Durations = SOON) -> SimulatedDriver:
    return SimulatedDriver(partita.state / "cluster.sqlite3", clock, seconds=seconds, jitter=0.0)


@pytest.fixture
def driver(partita: Commands) -> Iterator[SimulatedDriver]:
    made = opened(partita, WallClock())
    yield made
    made.close()


def action(kind: ActionKind) -> Action:
    wants = kind in {ActionKind.START_REPLICA, ActionKind.STOP_REPLICA}
    return Action(kind.value, kind, gpu(0), WHOLE, replica("bert", "7g.40gb") if wants else None, (), 1.0)


def do(driver: SimulatedDriver, *kinds: ActionKind) -> None:
    for kind in kinds:
        driver.begin(action(kind))
        (ended,) = driver.wait()
        assert ended.error is None


def state(partita: Commands) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(partita("status", "-o", "json").out)
    return found


def instance(partita: Commands) -> str | None:
    """The state that `status` shows of the one instance, None where there is none."""
    found = [each["state"] for each in state(partita)["gpus"][0]["instances"]]
    return found[0] if found else None


def becomes(partita: Commands, wanted: str) -> bool:
    end = time.monotonic() + LONGEST_S
    while instance(partita) != wanted:
        assert time.monotonic() < end
    return True


def agreed(partita: Commands, plan: Path) -> int:
    """Hold `apply` and `diff` to what `status` shows, all in one state; return how many actions are left."""
    shown = json.loads(partita("apply", plan, "--dry-run", "-o", "json").out)
    assert shown["state"] == state(partita)["state"]
    return len(shown["actions"])


def test_what_nobody_waits_for_any_more_becomes_ready_to_all(
    partita: Commands, driver: SimulatedDriver
) -> None:
    plan = partita.plan("plan.json", deployment("7g.40gb@0=bert", ""))
    do(driver, ActionKind.CREATE_INSTANCE)
    slow = opened(partita, WallClock(), Durations(0.1, 0.1, 2.0, 0.1))
    slow.begin(action(ActionKind.START_REPLICA))
    slow.close()  # its controller is killed
    assert instance(partita) == "starting"
    assert becomes(partita, "ready")
    assert agreed(partita, plan) == 0
    assert partita("diff", plan).code == 0


def test_a_replica_that_drains_is_gone_when_its_time_is_over(
    partita: Commands, driver: SimulatedDriver
) -> None:
    empty = partita.plan("empty.json", deployment("7g.40gb@0=other", ""))
    do(driver, ActionKind.CREATE_INSTANCE, ActionKind.START_REPLICA)
    slow = opened(partita, WallClock(), Durations(0.1, 0.1, 0.1, 2.0))
    slow.begin(action(ActionKind.STOP_REPLICA))
    slow.close()
    assert instance(partita) == "draining"
    assert becomes(partita, "idle")
    assert agreed(partita, empty) == len(json.loads(partita("diff", empty, "-o", "json").out)["actions"])


def test_half_way_is_shown_half_way(partita: Commands, driver: SimulatedDriver) -> None:
    driver.begin(action(ActionKind.CREATE_INSTANCE))
    assert instance(partita) == "incomplete"
    driver.wait()
    assert instance(partita) == "idle"


def test_a_clock_that_is_ahead_is_ahead_for_all(partita: Commands) -> None:
    """Simulated time took the cluster beyond the system's clock; in wall-clock time it goes on from there."""
    simulated = opened(partita, SimulatedClock(time.time() + 1e6))
    do(simulated, ActionKind.CREATE_INSTANCE)
    simulated.close()
    wall = opened(partita, WallClock(), Durations(0.1, 0.1, 2.0, 0.1))
    wall.begin(action(ActionKind.START_REPLICA))
    assert instance(partita) == "starting"
    assert becomes(partita, "ready")
    wall.close()


def test_on_a_simulated_clock_no_time_passes_by_itself(partita: Commands) -> None:
    driver = opened(partita, SimulatedClock(), Durations(0.02, 0.02, 0.05, 0.05))
    do(driver, ActionKind.CREATE_INSTANCE)
    driver.begin(action(ActionKind.START_REPLICA))
    driver.close()
    time.sleep(0.1)
    assert instance(partita) == "starting"


def test_the_cluster_remembers_its_clock_until_another_is_asked_for(partita: Commands) -> None:
    plan = partita.plan("plan.json", deployment("7g.40gb@0=bert", "7g.40gb@0=bert"))
    driver = opened(partita, WallClock())
    do(driver, ActionKind.CREATE_INSTANCE)
    driver.begin(action(ActionKind.START_REPLICA))
    driver.close()
    # By a simulated clock it takes no time, and starts from the time that has passed.
    assert partita("apply", plan, "--yes", "--clock", "simulated").code == 0
    assert instance(partita) == "ready"
    assert isinstance(SimulatedDriver(partita.state / "cluster.sqlite3").clock, SimulatedClock)


def test_a_cluster_of_the_format_before_is_brought_up_to_date(partita: Commands) -> None:
    import sqlite3  # noqa: PLC0415 -- only here a file is made as an older version made it

    path = partita.state / "cluster.sqlite3"
    db = sqlite3.connect(path)
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    for statement in (
        "DROP TABLE changes",
        "DROP INDEX replicas_ready",
        "DROP INDEX replicas_gone",
        "ALTER TABLE meta DROP COLUMN wall",
        "ALTER TABLE meta DROP COLUMN ahead",
        "ALTER TABLE replicas DROP COLUMN tenants",
        "PRAGMA user_version = 1",
    ):
        db.execute(statement)
    db.commit()
    db.close()
    plan = partita.plan("plan.json", deployment("7g.40gb@0=bert", ""))
    assert partita("apply", plan, "--yes").code == 0
    assert instance(partita) == "ready"
