"""A day in which the batch sizes of a service's queries shift: it is cut anew, and served all along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cli.test_cuts import LARGE, SLICES, SMALL, WORKLOAD
from tests.control.world import World

from partita.cli.run import Planning, WatchedWorkload
from partita.control.reconciler import Demand, Hysteresis, Reconciler, TransitionOptions

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600.0
MORNING, NOON = {1: 0.7, 2: 0.3}, {12: 0.5, 16: 0.5}


class Day:
    """What is measured, hour by hour."""

    def __init__(self) -> None:
        self.now = Demand({})

    def measured(self) -> Demand:
        return self.now


@pytest.fixture
def world(tmp_path: Path) -> World:
    rows = ["model,gpu,profile,batch,processes,throughput,latency_ms,quantile"]
    for profile, speed in SLICES.items():
        for batch in (1, 4, 16):
            ms = 2 + 10 * batch / speed
            rows.append(f"bert,a100-40gb,{profile},{batch},1,{batch / ms * 1000},{ms},0.99")
        rows.append(f"vgg,a100-40gb,{profile},8,1,{60 * speed},20,0.99")
    (tmp_path / "perf.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "workload.yaml").write_text(WORKLOAD.format(rate=300, batches=SMALL, count=8, cut="search"))
    return World(tmp_path, gpus=8)


def cut_of(world: World) -> list[str]:
    return sorted(
        each.placement.profile
        for gpu in world.now().gpus
        for each in gpu.instances
        if each.replica and each.replica.service == "search"
    )


def test_through_a_day_of_shifting_batch_sizes_the_cut_follows_and_floors_are_kept(world: World) -> None:
    day = Day()
    source = WatchedWorkload(world.folder / "workload.yaml", Planning(30.0, 0, lambda: False))
    keeper = Reconciler(
        world.controller, source, day, Hysteresis(0.1, 300.0, 0.15), TransitionOptions("shortest", None)
    )
    keeper.look(0.0)
    small = cut_of(world)
    world.driver.floors = {"search": 300.0, "photos": 90.0}
    began = len(world.driver.began)

    day.now = Demand({"search": 310.0}, {"search": {1: 0.65, 2: 0.35}})
    assert keeper.look(1 * HOUR) is None
    assert len(world.driver.began) == began, "within both bands nothing is done"

    day.now = Demand({"search": 310.0}, {"search": NOON, "photos": NOON})
    reached = keeper.look(2 * HOUR)
    assert reached is not None
    assert any("search has other batch sizes of 100% of its queries" in note for note in world.told.notes)
    large = cut_of(world)
    assert large != small
    assert "1g.5gb" not in large

    began = len(world.driver.began)
    day.now = Demand({"search": 350.0}, {"search": NOON})
    keeper.look(3 * HOUR)
    if cut_of(world) == large:
        assert len(world.driver.began) == began, "a cut that holds the new rate is left alone"

    day.now = Demand({"search": 310.0}, {"search": MORNING})
    keeper.look(4 * HOUR)
    assert cut_of(world) != large
    assert world.now().capacity()["search"] >= 310.0


def test_the_demand_that_is_written_names_batch_sizes_of_services_with_a_cut_alone(world: World) -> None:
    path = world.folder / "workload.yaml"
    path.write_text(path.read_text().replace(SMALL, LARGE))
    demand = WatchedWorkload(path, Planning(30.0, 0, lambda: False)).read().demand
    assert demand.rates == {"search": 300.0, "photos": 90.0}
    assert demand.batches == {"search": {12: 0.5, 16: 0.5}}
