"""The loop keeps a cluster to a workload through faults of files, failures of actions and lost GPUs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from tests.control.world import MODEL, World, gpu

from partita.control.journal import JournalError
from partita.control.reconciler import (
    Demand,
    Hysteresis,
    Planned,
    Reconciler,
    TransitionOptions,
    free_gpus,
)
from partita.drive.simulated import FaultKind, InjectedFault
from partita.errors import InfeasibleError, InputError
from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.transition.deployment import Deployment


@dataclass
class PlannableWorkload:
    """A workload of one service that takes a whole GPU for every 700 items/s."""

    document: str = "d"
    demand: Demand = field(default_factory=lambda: Demand({"bert": 700.0}))
    forbid: tuple[str, ...] = ()
    planned: list[tuple[float, int]] = field(default_factory=list)

    def plan(self, demand: Demand, gpus: Mapping[str, int], current: Deployment) -> Plan:
        del current
        rates = demand.rates
        there = gpus.get(MODEL, 0)
        self.planned.append((rates["bert"], there))
        if not there:
            raise InfeasibleError("no GPUs at all")
        n = min(there, -int(-rates["bert"] // 700))
        point = OperatingPoint("7g.40gb", 8, 1, 700.0, 20.0, "")
        one = Instance(Placement(0, "7g.40gb"), "bert", "bert", point)
        return Plan(
            Objective("gpus", n, n),
            Solver("exact", 0, 0.0),
            (ServiceCapacity("bert", rates["bert"], 700.0 * n, 100.0),),
            tuple(PlannedGpu(gpu(i), MODEL, (one,)) for i in range(n)),
        )


@dataclass
class ChangingSource:
    """A source and rates that tests change."""

    workload: PlannableWorkload = field(default_factory=PlannableWorkload)
    rates: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None

    def read(self) -> PlannableWorkload:
        if self.error is not None:
            raise self.error
        return self.workload

    def measured(self) -> Demand:
        return Demand(dict(self.rates))


@pytest.fixture
def source() -> ChangingSource:
    return ChangingSource()


@pytest.fixture
def keeper(world: World, source: ChangingSource) -> Reconciler:
    return Reconciler(
        world.controller, source, source, Hysteresis(0.1, 300.0), TransitionOptions("shortest", None)
    )


def test_the_first_look_plans_and_acts_and_the_next_does_nothing(
    world: World, keeper: Reconciler, source: ChangingSource
) -> None:
    reached = keeper.look(0.0)
    assert reached is not None
    assert reached.actions == 2
    assert keeper.look(1.0) is None
    assert len(source.workload.planned) == 1
    assert world.now().capacity() == {"bert": 700.0}


def test_a_rate_beyond_the_band_waits_for_the_holding_time(
    world: World, keeper: Reconciler, source: ChangingSource
) -> None:
    keeper.look(0.0)
    source.rates["bert"] = 1400.0
    assert keeper.look(299.0) is None
    keeper.look(300.0)
    assert world.now().capacity() == {"bert": 1400.0}


def test_a_replica_that_died_is_replaced_without_a_new_plan(
    world: World, keeper: Reconciler, source: ChangingSource
) -> None:
    keeper.look(0.0)
    world.cluster.kill_replica(gpu(0), Placement(0, "7g.40gb"))
    keeper.look(1.0)
    assert world.now().capacity() == {"bert": 700.0}
    assert len(source.workload.planned) == 1


def test_with_gpus_gone_it_plans_at_once_for_the_rest_and_again_when_they_are_back(
    world: World, keeper: Reconciler, source: ChangingSource
) -> None:
    source.rates["bert"] = 2100.0
    keeper.look(0.0)
    world.cluster.lose(gpu(2))
    keeper.look(1.0)
    assert world.now().capacity() == {"bert": 1400.0}
    world.cluster.restore(gpu(2))
    keeper.look(2.0)
    assert world.now().capacity() == {"bert": 2100.0}
    assert [n for _, n in source.workload.planned] == [3, 2, 3]


def test_a_workload_that_cannot_be_read_is_told_once_and_the_last_one_kept(
    world: World, keeper: Reconciler, source: ChangingSource
) -> None:
    keeper.look(0.0)
    source.error = InputError("nonsense", where="w.yaml:3")
    world.cluster.kill_replica(gpu(0), Placement(0, "7g.40gb"))
    keeper.look(1.0)
    keeper.look(2.0)
    assert world.now().capacity() == {"bert": 700.0}
    assert len([note for note in world.told.notes if "w.yaml:3: nonsense" in note]) == 1


def test_a_workload_that_never_could_be_read_ends_it(keeper: Reconciler, source: ChangingSource) -> None:
    source.error = InputError("nonsense")
    with pytest.raises(InputError):
        keeper.look(0.0)


def test_what_fails_is_tried_again_after_longer_and_longer(world: World, keeper: Reconciler) -> None:
    world.cluster.inject(InjectedFault(FaultKind.FAILS, times=15))
    assert keeper.look(0.0) is None
    assert keeper.look(0.1) is None, "it did not wait"
    later = [keeper.look(now) for now in (10.0, 20.0, 30.0)]
    assert later[:2] == [None, None]
    assert later[2] is not None
    assert len([each for each in world.told.ends if each.error]) == 15
    assert any("looking again in" in note for note in world.told.notes)


def test_without_any_gpu_it_goes_on_looking(world: World, keeper: Reconciler) -> None:
    for index in range(3):
        world.cluster.lose(gpu(index))
    assert keeper.look(0.0) is None
    world.cluster.restore(gpu(1))
    assert keeper.look(100.0) is not None


def test_a_journal_that_cannot_be_written_ends_it(
    world: World, keeper: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise JournalError("the journal cannot be used: database or disk is full")

    monkeypatch.setattr(world.journal, "begin_goal", full)
    with pytest.raises(JournalError):
        keeper.look(0.0)


def test_a_gpu_with_someone_elses_instance_is_not_planned_with(world: World) -> None:
    world.cluster.create_foreign(gpu(1), Placement(0, "1g.5gb"))
    world.cluster.set_mig(gpu(2), on=False)
    assert free_gpus(world.now()) == {MODEL: 1}


def test_a_changed_workload_takes_its_new_rates(
    world: World, keeper: Reconciler, source: ChangingSource
) -> None:
    keeper.look(0.0)
    source.workload = replace(source.workload, document="e", demand=Demand({"bert": 1000.0}))
    keeper.look(400.0)
    assert world.now().capacity() == {"bert": 1400.0}


@dataclass
class HeldPlans:
    """Plans that a person lets go, and that outlive a reconciler."""

    approval: bool = False
    kept: list[tuple[Plan, Planned]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def last(self) -> tuple[Plan, Planned] | None:
        return self.kept[-1] if self.kept else None

    def keep(self, plan: Plan, planned: Planned, why: str) -> None:
        self.kept.append((plan, planned))
        self.reasons.append(why)

    def approved(self) -> bool:
        return self.approval


def test_a_plan_waits_for_its_approval_and_the_next_reconciler_goes_on_with_it(
    world: World, source: ChangingSource
) -> None:
    plans = HeldPlans()

    def reconciler() -> Reconciler:
        options = TransitionOptions("shortest", None)
        return Reconciler(world.controller, source, source, Hysteresis(0.1, 300.0), options, plans=plans)

    first = reconciler()
    assert first.look(0.0) is None
    assert first.look(1.0) is None
    assert plans.reasons == ["there is no plan yet"]
    assert not world.now().capacity()
    plans.approval = True
    reached = reconciler().look(2.0)
    assert reached is not None
    assert reached.actions == 2
    assert len(plans.kept) == 1
    assert len(source.workload.planned) == 1
