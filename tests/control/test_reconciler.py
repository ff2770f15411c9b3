"""The reconciler keeps a cluster to a workload: when it plans anew, and what becomes of faults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control.world import MODEL, World, gpu

from partita.control.journal import JournalError
from partita.control.reconciler import (
    LEAST_RATE,
    Demand,
    Hysteresis,
    Planned,
    RatesFile,
    Reconciler,
    TransitionOptions,
    distance,
    free_gpus,
    judge,
    wanted,
)
from partita.drive.simulated import FaultKind, InjectedFault
from partita.errors import InfeasibleError, InputError, PartitaError
from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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


@dataclass
class RefusingPlans(HeldPlans):
    """Plans that cannot be kept a few times, as where the API server refuses to write them."""

    refuses: int = 2

    def keep(self, plan: Plan, planned: Planned, why: str) -> None:
        self.refuses -= 1
        if self.refuses >= 0:
            raise PartitaError("the plan cannot be written")
        super().keep(plan, planned, why)


def test_a_plan_that_could_not_be_kept_is_not_executed_but_made_again(
    world: World, source: ChangingSource
) -> None:
    plans = RefusingPlans(approval=True)
    options = TransitionOptions("shortest", None)
    keeper = Reconciler(world.controller, source, source, Hysteresis(0.1, 300.0), options, plans=plans)
    assert keeper.look(0.0) is None
    assert keeper.look(1000.0) is None
    assert not world.now().capacity()
    assert keeper.look(5000.0) is not None
    assert plans.reasons == ["there is no plan yet"]
    assert world.now().capacity()


HYSTERESIS = Hysteresis(dead_band=0.1, hold_s=300.0)
PLANNED = Planned(at=1000.0, document="d", demand=Demand({"bert": 100.0}, {"bert": {1: 0.5, 8: 0.5}}))


@pytest.mark.parametrize(
    ("document", "rate", "now", "why", "now_or_held"),
    [
        ("d", 100.0, 2000.0, None, ""),
        ("d", 109.9, 2000.0, None, ""),
        ("d", 90.1, 2000.0, None, ""),
        ("d", 110.1, 2000.0, "bert is at 110.1 items/s, planned for 100", "now"),
        ("d", 89.9, 2000.0, "bert is at 89.9 items/s, planned for 100", "now"),
        ("d", 200.0, 1299.0, "bert is at 200 items/s, planned for 100", "held"),
        ("e", 100.0, 1300.0, "the workload has changed", "now"),
        ("e", 100.0, 1299.0, "the workload has changed", "held"),
    ],
)
def test_a_plan_is_left_when_a_rate_leaves_its_band_or_the_file_changes(
    document: str, rate: float, now: float, why: str | None, now_or_held: str
) -> None:
    verdict = judge(PLANNED, document, Demand({"bert": rate}), now, HYSTERESIS)
    assert (verdict.why, verdict.now) == (why, now_or_held == "now")


def test_the_first_plan_is_made_at_once() -> None:
    assert judge(None, "d", Demand({}), 0.0, HYSTERESIS).now


@given(st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=50), st.floats(1.0, 100.0))
def test_whatever_the_rates_do_plans_are_held(rates: list[float], step: float) -> None:
    planned, made, now = PLANNED, [PLANNED.at], PLANNED.at
    for rate in rates:
        now += step
        if judge(planned, "d", Demand({"bert": rate}), now, HYSTERESIS).now:
            planned = Planned(now, "d", Demand({"bert": rate}))
            made.append(now)
    assert all(b - a >= HYSTERESIS.hold_s for a, b in pairwise(made))


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        ({1: 0.5, 8: 0.5}, None),
        ({1: 0.4, 8: 0.6}, None),
        ({1: 0.3, 8: 0.7}, "bert has other batch sizes of 20% of its queries than planned for"),
        ({1: 0.5, 9: 0.5}, "bert has other batch sizes of 50% of its queries than planned for"),
    ],
)
def test_a_plan_is_left_when_batch_sizes_shift(shares: dict[int, float], why: str | None) -> None:
    asked = Demand({"bert": 100.0}, {"bert": shares})
    assert judge(PLANNED, "d", asked, 2000.0, HYSTERESIS).why == why
    assert not judge(PLANNED, "d", asked, 1299.0, HYSTERESIS).now


SHARES = st.dictionaries(st.integers(1, 6), st.floats(0.01, 1.0), min_size=1)


@given(SHARES, SHARES)
def test_the_distance_of_distributions_is_a_share_of_the_queries(
    one: dict[int, float], other: dict[int, float]
) -> None:
    one, other = ({size: part / sum(each.values()) for size, part in each.items()} for each in (one, other))
    assert distance(one, one) == 0.0
    assert distance(one, other) == distance(other, one)
    assert -1e-9 <= distance(one, other) <= 1.0 + 1e-9


def test_a_measured_rate_goes_before_the_written_one_and_is_never_nothing() -> None:
    written = Demand({"a": 5.0, "b": 6.0, "c": 7.0}, {"a": {1: 1.0}, "b": {2: 1.0}})
    seen = Demand({"a": 9.0, "b": 0.0, "other": 1.0}, {"a": {3: 1.0}, "c": {4: 1.0}})
    assert wanted(written, seen) == Demand(
        {"a": 9.0, "b": LEAST_RATE, "c": 7.0}, {"a": {3: 1.0}, "b": {2: 1.0}}
    )


def test_rates_are_read_from_a_file_once_it_is_there(tmp_path: Path) -> None:
    source = RatesFile(tmp_path / "rates.json")
    assert source.measured() == Demand({})
    (tmp_path / "rates.json").write_text('{"bert": 12}')
    assert source.measured() == Demand({"bert": 12.0})


def test_what_the_gateway_writes_is_read_beside_plain_rates(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text(
        '{"bert": 12, "vgg": {"rate": 8.5, "batches": {"8": 3, "1": 1, "4": 0}}, "idle": {"rate": 0, "batches": {}}}'
    )
    found = RatesFile(path).measured()
    assert found.rates == {"bert": 12.0, "vgg": 8.5, "idle": 0.0}
    assert found.batches == {"vgg": {1: 0.25, 8: 0.75}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"bert": "12"}',
        '{"bert": -1}',
        '{"bert": true}',
        '{"bert": NaN}',
        "{",
        '{"bert": {}}',
        '{"bert": {"rate": -1}}',
        '{"bert": {"rate": 1, "batches": [1]}}',
        '{"bert": {"rate": 1, "batches": {"0": 1}}}',
        '{"bert": {"rate": 1, "batches": {"x": 1}}}',
        '{"bert": {"rate": 1, "batches": {"1": -1}}}',
        '{"bert": {"rate": 1, "sizes": {}}}',
    ],
)
def test_rates_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"rates\.json"):
        RatesFile(path).measured()
