from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import partita
from partita import planner
from partita.errors import InputError
from partita.perf.table import Measurement, PerfTable
from partita.verification.losses import Domains, simulate_losses
from partita.verification.losses import without as without_named
from partita.verification.outcome import QUERIES, Trial, Verdict, confident_share
from partita.verification.plan_simulation import simulate_plan
from partita.verification.tasks import Judged
from partita.workload import Batches, LimitsSpec, PoolSpec, ServiceSpec, Slo, SurviveSpec, Workload

if TYPE_CHECKING:
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan

PROFILES = {"1g.10gb": 1.0, "2g.20gb": 1.9, "3g.40gb": 2.8, "7g.80gb": 6.0}
QUICK = Trial(queries=1000)


def table() -> PerfTable:
    rows = []
    for profile, speed in PROFILES.items():
        for batch in (1, 4, 16):
            ms = (4.0 + 2.0 * batch) / speed
            rows.append(Measurement("m", "a100-80gb", profile, batch, 1, batch * 1000 / ms, ms, "mean"))
    return PerfTable(rows)


def service(name: str = "one", rate: float = 900.0, latency_ms: float = 60.0, **fields: Any) -> ServiceSpec:
    return ServiceSpec(name, model="m", rate=rate, slo=Slo(latency_ms), **fields)


def prepared(*services: ServiceSpec, pools: tuple[PoolSpec, ...] = ()) -> PreparedWorkload:
    known = pools or (PoolSpec("a100-80gb", per_node=2),)
    return planner.prepare(Workload(gpus=known, services=services or (service(),)), table(), to_plan=False)


def planned(asked: PreparedWorkload) -> Plan:
    """Plan by arithmetic, which is quicker, what will be simulated as its services say."""
    services = (each.replace(arrivals=None if each.cut else "constant") for each in asked.workload.services)
    return planner.plan(planner.prepare(asked.workload.replace(services=tuple(services)), table())).plan


def without(plan: Plan, names: list[str], asked: PreparedWorkload | None = None) -> Plan:
    return without_named(plan, names, Domains(plan, (asked or prepared()).workload))


def poisson(name: str = "one", rate: float = 900.0, **fields: Any) -> ServiceSpec:
    return service(name, rate, arrivals="poisson", **fields)


def test_a_plan_with_spare_capacity_keeps_its_promise_and_one_that_is_overloaded_does_not() -> None:
    asked = prepared(poisson("calm"), poisson("busy", 700.0))
    plan = planned(asked)
    kept = simulate_plan(plan, asked, replace(QUICK, load=0.5))
    assert [each.verdict for each in kept.services] == [Verdict.KEPT, Verdict.KEPT]
    broken = simulate_plan(plan, asked, replace(QUICK, load=30.0))
    assert [each.service for each in broken.broken] == ["calm", "busy"]
    assert all(each.refused > 0.3 and each.busy > 0.9 for each in broken.services)


def test_what_the_way_takes_of_an_slo_is_neither_planned_with_nor_simulated() -> None:
    def capacity(overhead_ms: float, latency_ms: float) -> float:
        asked = prepared(poisson(rate=200.0, latency_ms=latency_ms, profiles=("1g.10gb",)))
        asked = planner.prepare(
            asked.workload.replace(limits=LimitsSpec(overhead_ms=overhead_ms)), asked.table
        )
        plan = planner.plan(asked).plan
        (found,) = simulate_plan(plan, asked, replace(QUICK, load=0.7)).services
        assert found.verdict is Verdict.KEPT
        return plan.services[0].capacity

    assert capacity(20.0, 60.0) == capacity(0.0, 40.0) < capacity(0.0, 60.0)


def test_the_rate_is_that_which_was_planned_for_with_its_headroom() -> None:
    asked = prepared(poisson(headroom=0.5))
    found = simulate_plan(planned(asked), asked, replace(QUICK, load=0.5))
    assert found.services[0].rate == pytest.approx(900 * 1.5 * 0.5)


def test_plain_arithmetic_promises_no_share_of_the_queries() -> None:
    asked = prepared(service())
    (found,) = simulate_plan(planned(asked), asked, QUICK).services
    assert (found.promised, found.verdict) == (None, Verdict.NONE)


def test_queries_of_several_sizes_are_told_apart_and_add_up() -> None:
    sizes = Batches(histogram={1: 0.6, 3: 0.2, 4: 0.1, 9: 0.1})
    asked = prepared(poisson(cut="homogeneous", batches=sizes, promise="mix"))
    (found,) = simulate_plan(planned(asked), asked, QUICK).services
    assert found.queries_per_second == pytest.approx(900 / (0.6 + 0.6 + 0.4 + 0.9))
    assert [(each.smallest, each.largest, each.items) for each in found.sizes] == [
        (1, 1, "1"),
        (3, 4, "3-4"),
        (9, 16, "9-16"),
    ]
    assert sum(each.queries for each in found.sizes) == found.queries
    met = sum(each.queries * each.in_time.value for each in found.sizes)
    assert met / found.queries == pytest.approx(found.in_time.value)


def test_a_promise_for_each_size_is_kept_only_where_every_class_keeps_it() -> None:
    sizes = Batches(histogram={1: 0.6, 3: 0.2, 4: 0.1, 9: 0.1})
    asked = prepared(poisson(cut="homogeneous", batches=sizes))
    plan = planned(asked)
    (found,) = simulate_plan(plan, asked, QUICK).services
    assert [each.items for each in found.sizes] == ["1-2", "3-8", "9"]
    assert found.verdict is Verdict.KEPT
    assert all(each.in_time.low >= 0.95 for each in found.sizes)
    (more,) = simulate_plan(plan, asked, replace(QUICK, load=30.0)).services
    assert more.verdict is Verdict.BROKEN


def test_a_seed_gives_the_same_again_also_side_by_side_and_another_seed_does_not() -> None:
    asked = prepared(poisson("a"), poisson("b", 400.0))
    plan = planned(asked)
    trial = replace(QUICK, jitter=0.2)
    once = simulate_plan(plan, asked, trial)
    assert simulate_plan(plan, asked, replace(trial, processes=2)).services == once.services
    assert simulate_plan(plan, asked, replace(trial, seed=1)).services != once.services


def test_a_promise_that_is_in_doubt_is_simulated_longer() -> None:
    asked = prepared(poisson())
    plan = planned(asked)
    (clear,) = simulate_plan(plan, asked, replace(QUICK, load=0.3)).services
    near = [
        simulate_plan(plan, asked, replace(QUICK, load=load)).services[0] for load in (0.9, 1.0, 1.05, 1.1)
    ]
    assert max(each.queries for each in near) > clear.queries


def test_queries_in_bursts_wait_longer_than_poisson() -> None:
    asked = prepared(poisson())
    plan = planned(asked)
    bursts = replace_arrivals(asked, {"gamma": {"cv": 4}})
    trial = replace(QUICK, load=0.7)
    (steady,), (bursty,) = (simulate_plan(plan, each, trial).services for each in (asked, bursts))
    before, after = steady.latency_ms[1], bursty.latency_ms[1]
    assert before is not None
    assert after is not None
    assert after > 2.0 * before


def replace_arrivals(asked: PreparedWorkload, arrivals: object) -> PreparedWorkload:
    return replace(asked, workload=partita.replace(asked.workload, services={"one": {"arrivals": arrivals}}))


def test_a_trace_is_repeated_at_the_services_rate(tmp_path: Any) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,batch\n" + "".join(f"{i * 7 + (i % 3)},1\n" for i in range(50)))
    asked = replace_arrivals(prepared(poisson()), {"trace": str(trace)})
    (found,) = simulate_plan(planned(prepared(poisson())), asked, QUICK).services
    assert found.in_time.value == pytest.approx(1.0, abs=0.02)


def test_it_says_what_it_has_when_it_is_stopped() -> None:
    asked = prepared(poisson("a"), poisson("b"))
    ended: list[int] = []
    found = simulate_plan(
        planned(asked), asked, QUICK, stop=lambda: bool(ended), report=lambda done, _: ended.append(done)
    )
    assert found.stopped
    assert [each.service for each in found.services] == ["a"]


# What is gone


def test_without_a_gpu_a_service_has_what_is_left_and_without_all_it_has_nothing() -> None:
    asked = prepared(poisson(rate=3000.0))
    plan = planned(asked)
    first = plan.gpus[0].id
    (less,) = simulate_plan(without(plan, [first]), asked, QUICK).services
    (all_,) = simulate_plan(plan, asked, QUICK).services
    assert less.instances == all_.instances - len(plan.gpus[0].instances)
    nothing = simulate_plan(without(plan, [gpu.id for gpu in plan.gpus]), asked, QUICK)
    assert nothing.services[0].in_time.value == 0.0
    assert nothing.broken


def test_each_loss_comes_to_what_that_loss_alone_does() -> None:
    asked = prepared(poisson("a", 3000.0), poisson("b", 2500.0))
    plan = planned(asked)
    found = simulate_losses(plan, asked, "gpu", QUICK)
    assert sorted(name for each in found.losses for name in each.lost) == sorted(gpu.id for gpu in plan.gpus)
    for loss in found.losses:
        alone = simulate_plan(without(plan, [loss.lost[0]]), asked, QUICK)
        by_name = {each.service: each for each in alone.services}
        assert all(each == by_name[each.service] for each in loss.services)
        hit = {each.service for gpu in plan.gpus if gpu.id == loss.lost[0] for each in gpu.instances}
        assert {each.service for each in loss.services} == hit
    nodes = simulate_losses(plan, asked, "node", QUICK)
    assert {name for each in nodes.losses for name in each.lost} == {
        gpu.id.partition("/")[0] for gpu in plan.gpus
    }


@pytest.mark.parametrize(
    ("name", "hint"), [("node-0/gpu-00", "did you mean node-0/gpu-0"), ("x", "the first is node-0/gpu-0")]
)
def test_what_the_plan_does_not_have_cannot_be_gone(name: str, hint: str) -> None:
    with pytest.raises(InputError, match="no GPU, node, rack or zone") as error:
        without(planned(prepared()), [name])
    assert hint in str(error.value.hint)


def survivors(asked: PreparedWorkload) -> dict[str, Judged]:
    plan = planned(asked)
    return Domains(plan, asked.workload).judged(plan.gpus[:1])


def test_what_survives_a_loss_is_held_to_its_share_of_the_rate_and_others_to_nothing() -> None:
    keeps = SurviveSpec("node", share=0.8)
    asked = prepared(poisson("a", 3000.0, survive=keeps), poisson("b", 3000.0))
    assert survivors(asked) == {"a": Judged(0.95, 0.8), "b": Judged(None)}
    assert survivors(prepared(poisson("a", 3000.0))) == {"a": Judged(0.95)}
    plan = planned(asked)
    assert Domains(plan, asked.workload).judged(()) == {"a": Judged(0.95), "b": Judged(0.95)}
    found = simulate_losses(planned(asked), asked, "node", QUICK)
    for loss in found.losses:
        assert {each.service: (each.rate, each.promised) for each in loss.services} == {
            name: want
            for name, want in {"a": (2400.0, 0.95), "b": (3000.0, None)}.items()
            if name in {each.service for each in loss.services}
        }


def test_gpus_stand_in_racks_and_zones_as_their_pools_say() -> None:
    pools = (
        PoolSpec("a100-80gb", name="near", count=3, per_node=2, nodes_per_rack=1, zone="z1"),
        PoolSpec("a100-80gb", name="far", count=4, per_node=1, nodes_per_rack=2, zone="z2"),
    )
    asked = prepared(poisson(rate=20_000.0), pools=pools)
    plan = planned(asked)
    domains = Domains(plan, asked.workload)
    found = {gpu.id: (domains.of(gpu, "rack"), domains.of(gpu, "zone")) for gpu in plan.gpus}
    expected = {
        "node-0/gpu-0": ("near/rack-0", "z1"),
        "node-0/gpu-1": ("near/rack-0", "z1"),
        "node-1/gpu-0": ("near/rack-1", "z1"),
        "node-2/gpu-0": ("far/rack-0", "z2"),
        "node-3/gpu-0": ("far/rack-0", "z2"),
        "node-4/gpu-0": ("far/rack-1", "z2"),
        "node-5/gpu-0": ("far/rack-1", "z2"),
    }
    assert len(found) > 4
    assert found == {name: expected[name] for name in found}
    assert {gpu.id for gpu in without(plan, ["z1", "far/rack-0"], asked).gpus} == found.keys() & {
        "node-4/gpu-0",
        "node-5/gpu-0",
    }


def test_a_zone_that_the_workload_does_not_say_cannot_be_lost() -> None:
    asked = prepared(poisson())
    with pytest.raises(InputError, match="does not say the zone of node-0/gpu-0"):
        simulate_losses(planned(asked), asked, "zone", QUICK)


# Faults


def test_a_plan_of_other_services_is_refused() -> None:
    plan = planned(prepared(poisson("a"), poisson("b")))
    with pytest.raises(InputError, match="the plan has b, and the workload has not"):
        simulate_plan(plan, prepared(poisson("a")), QUICK)
    more = prepared(poisson("a"), poisson("b"), poisson("c"))
    with pytest.raises(InputError, match="the workload has c, and the plan has not"):
        simulate_plan(plan, more, QUICK)


def test_an_instance_that_the_tables_lack_takes_what_the_plan_says() -> None:
    asked = prepared(poisson())
    plan = planned(asked)
    rows = [row for row in asked.table if row.batch == 1 and row.profile == "7g.80gb"]
    other = planner.prepare(asked.workload.replace(services=(service(),)), PerfTable(rows))
    (found,) = simulate_plan(plan, replace(other, workload=asked.workload), replace(QUICK, load=0.2)).services
    assert found.in_time.value > 0.5


# Confidence


@given(st.floats(0.5, 0.99), st.integers(0, 1000))
def test_independent_queries_are_within_the_interval_nearly_always(share: float, seed: int) -> None:
    """At 1,000 queries the interval is a few per cent wide, and four of its widths away is never."""
    drawn = np.random.default_rng(seed).random(1000) < share
    found = confident_share(drawn)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    width = found.high - found.low
    assert found.low - 1.5 * width <= share <= found.high + 1.5 * width


def test_queries_that_fail_in_runs_have_a_wider_interval() -> None:
    rng = np.random.default_rng(1)
    alone = confident_share(rng.random(QUERIES) < 0.9)
    runs = confident_share(np.repeat(rng.random(QUERIES // 500) < 0.9, 500))
    assert runs.high - runs.low > 5 * (alone.high - alone.low)


def test_no_failure_at_all_is_no_certainty() -> None:
    found = confident_share(np.ones(200, dtype=bool))
    assert found.high == pytest.approx(1.0)
    assert 0.97 < found.low < 0.999
    assert found.verdict(0.99) is Verdict.UNDECIDED
    assert found.verdict(0.95) is Verdict.KEPT
