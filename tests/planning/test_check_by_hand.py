"""The checker of plans, held to plans made by hand: a right one, and each with one thing wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from partita.mig.catalogue import gpu_model
from partita.mig.gpu import GpuModel, Profile
from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.perf.table import Measurement, PerfTable
from partita.planning.check import (
    GpuChecker,
    RequiredPool,
    RequiredService,
    Requirements,
    check_plan,
    close,
    layout_violations,
    requirements,
)
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver
from partita.workload import LimitsSpec, PoolSpec, ServiceSpec, Slo, Workload

A30 = gpu_model("a30-24gb")
ROWS = tuple(
    Measurement(f"net-{s}", A30.name, profile, batch, n, 100.0 * batch * n, 10.0 * batch, q, power_w=30.0)
    for s in ("a", "b")
    for profile in ("1g.6gb", "2g.12gb", "4g.24gb")
    for batch in (1, 4)
    for n in (1, 2)
    for q in ("0.9", "mean")
)
TABLE = PerfTable(ROWS)


def point(profile: str, batch: int = 1, processes: int = 1, **more: Any) -> OperatingPoint:
    made = OperatingPoint(profile, batch, processes, 100.0 * batch * processes, 10.0 * batch, "0.9", 30.0)
    return replace(made, **more)


def instance(place: str, service: str = "a", **more: Any) -> Instance:
    placement = Placement.parse(place)
    made = more.pop("point", None) or point(placement.profile, **more)
    return Instance(placement, service, f"net-{service}", made)


def gpu(name: str, *instances: Instance, pool: str = "") -> PlannedGpu:
    return PlannedGpu(name, A30.name, instances, pool)


def plan(*gpus: PlannedGpu, objective: Objective | None = None, **capacity: float) -> Plan:
    """A plan of these GPUs that lists what they give, unless told otherwise."""
    held: dict[str, float] = {}
    for each in gpus:
        for one in each.instances:
            held[one.service] = held.get(one.service, 0.0) + one.point.throughput
    held.update(capacity)
    return Plan(
        objective or Objective("gpus", float(len(gpus)), float(len(gpus))),
        Solver("exact", 0, 0.1),
        tuple(ServiceCapacity(name, 90.0, c, 50.0) for name, c in held.items()),
        gpus,
    )


def service(name: str = "a", **more: Any) -> RequiredService:
    made = RequiredService(name, f"net-{name}", 90.0, 100.0, 50.0, 40.0, quantile=0.9)
    return replace(made, **more)


def wanted(*services: RequiredService, pools: tuple[RequiredPool, ...] = (), **more: Any) -> Requirements:
    limits = {"max_batch": 4, "max_processes": 2, **more}
    return Requirements(services or (service(),), pools or (RequiredPool(A30, 4, 2),), **limits)


def told(made: Plan, asked: Requirements, table: PerfTable = TABLE) -> list[str]:
    return [str(fault) for fault in check_plan(made, asked, table)]


ONE = gpu("n0/g0", instance("1g.6gb@0"))


def test_a_right_plan_raises_no_alarm() -> None:
    assert told(plan(ONE), wanted()) == []


# --- ids and nodes


def test_ids_name_one_gpu_and_its_node() -> None:
    assert "n0/g0: 2 GPUs have this id" in told(plan(ONE, ONE), wanted())
    lone = replace(ONE, id="g0")
    assert told(plan(lone), wanted()) == ["g0: the id does not say the node, as in node-0/gpu-3"]


def test_a_node_holds_so_many_gpus() -> None:
    three = [replace(ONE, id=f"n0/g{n}") for n in range(3)]
    assert told(plan(*three), wanted()) == ["n0: 3 GPUs of a30-24gb in a node of 2"]
    assert told(plan(*three[:2]), wanted()) == []
    spread = [replace(ONE, id=f"n{n}/g0") for n in range(3)]
    assert told(plan(*spread[:2]), wanted()) == []
    assert told(plan(*spread), wanted()) == ["a30-24gb: 3 nodes used of 2"]
    wide = (RequiredPool(A30, 4, 2, name="x"), RequiredPool(A30, 4, 3, name="y"))
    assert told(plan(*three), wanted(pools=wide)) == [], "a GPU that does not say its pool may be of the wide"
    narrow = [replace(each, pool="x") for each in three]
    assert told(plan(*narrow), wanted(pools=wide)) == ["n0: 3 GPUs of a30-24gb in a node of 2"]


def test_the_parts_of_a_node_in_two_groups_are_added() -> None:
    other = [gpu(f"n0/g{n}", instance("1g.6gb@1")) for n in (1, 2)]
    assert told(plan(ONE, *other), wanted()) == ["n0: 3 GPUs of a30-24gb in a node of 2"]


# --- pools


def test_a_pool_has_so_many_gpus() -> None:
    two = [replace(ONE, id=f"n{n}/g0") for n in range(2)]
    assert told(plan(*two), wanted(pools=(RequiredPool(A30, 1),))) == ["a30-24gb: 2 GPUs used of 1"]
    assert told(plan(*two), wanted(pools=(RequiredPool(A30, 2, 1),))) == []
    assert told(plan(*two), wanted(pools=(RequiredPool(A30, 2),))) == ["a30-24gb: 2 nodes used of 1"]
    assert told(plan(*two), wanted(pools=(RequiredPool(A30),))) == []
    both = (RequiredPool(A30, 1, name="x"), RequiredPool(A30, 0, name="y"))
    assert told(plan(*two), wanted(pools=both)) == ["x, y: 2 GPUs used of 1"]
    named = [replace(each, pool="x") for each in two]
    plenty = (RequiredPool(A30, 1, name="x"), RequiredPool(A30, None, name="y"))
    assert told(plan(*named), wanted(pools=plenty)) == ["x: 2 GPUs used of 1"]
    assert told(plan(*two), wanted(pools=plenty)) == []


def test_a_gpu_of_no_pool_is_told() -> None:
    assert told(plan(replace(ONE, pool="z")), wanted()) == ["n0/g0: the workload has no pool z of a30-24gb"]
    strange = replace(ONE, model="v100")
    assert told(plan(strange), wanted()) == ["n0/g0: the workload has no GPUs v100"]
    named = told(plan(replace(strange, pool="z")), wanted())
    assert "n0/g0: the workload has no pool z of v100" in named


def test_only_services_on_the_gpu_limit_its_pool() -> None:
    pools = (RequiredPool(A30, 4, name="x"), RequiredPool(A30, 4, name="y"))
    limited = wanted(service(pools=("x",)), service("b", pools=("y",), rate=0.0, min_replicas=0), pools=pools)
    both = gpu("n0/g0", instance("1g.6gb@0"), instance("1g.6gb@1", "b"))
    assert told(plan(both), limited) == ["n0/g0: no pool of a30-24gb is open to all its services (a, b)"]
    assert told(plan(replace(ONE, pool="x"), b=0.0), limited) == []
    free = wanted(service(pools=("x",)), service("b", rate=0.0), pools=pools)
    assert told(plan(both), free) == []
    wrong = told(plan(replace(both, pool="y")), free)
    assert wrong == ["n0/g0: no pool of a30-24gb is open to all its services (a)"]


# --- services


def test_services_are_listed_once_as_they_were_asked() -> None:
    made = plan(ONE)
    (listed,) = made.services
    assert told(replace(made, services=(listed, listed)), wanted()) == ["service a: listed 2 times"]
    assert told(replace(made, services=()), wanted()) == ["service a: missing in the plan"]
    more = (listed, replace(listed, name="z", capacity=0.0))
    assert told(replace(made, services=more), wanted()) == ["service z: not in the workload"]
    assert told(replace(made, services=(replace(listed, rate=91.0),)), wanted()) == [
        "service a: rate 91, the workload asks 90"
    ]
    assert told(replace(made, services=(replace(listed, latency_slo_ms=51.0),)), wanted()) == [
        "service a: SLO 51 ms, the workload asks 50 ms"
    ]


@pytest.mark.parametrize("capacity", [99.0, 99.99, 100.01, 101.0])
def test_the_capacity_is_what_the_instances_give(capacity: float) -> None:
    assert told(plan(ONE, a=capacity), wanted()) == [
        f"service a: capacity {capacity:g}, its instances give 100"
    ]


def test_capacities_of_gpus_cut_alike_are_added() -> None:
    two = replace(ONE, id="n0/g1")
    assert two.instances is ONE.instances
    assert told(plan(ONE, two), wanted(service(rate=200.0, min_replicas=2))) == []


@pytest.mark.parametrize(("rate", "short"), [(100.0, False), (100.001, True), (100.00000001, False)])
def test_the_rate_is_met_but_for_rounding(rate: float, *, short: bool) -> None:
    found = told(plan(ONE), wanted(service(rate=rate)))
    assert found == ([f"service a: capacity 100 is below the rate {rate:g}"] if short else [])


def test_a_capacity_that_is_no_number_meets_no_rate() -> None:
    odd = gpu("n0/g0", instance("1g.6gb@0", point=point("1g.6gb", throughput=float("nan"))))
    assert "service a: capacity nan is below the rate 100" in told(plan(odd), wanted())


def test_replicas_and_nodes_are_as_many_as_asked() -> None:
    two = [replace(ONE, id=f"n{n}/g0") for n in range(2)]
    assert told(plan(*two), wanted(service(min_replicas=2, spread=2))) == []
    assert told(plan(*two), wanted(service(min_replicas=3))) == ["service a: 2 replicas of at least 3"]
    assert told(plan(*two), wanted(service(spread=3))) == ["service a: on 2 nodes of at least 3"]
    together = [replace(ONE, id=f"n0/g{n}") for n in range(2)]
    assert told(plan(*together), wanted(service(spread=2))) == ["service a: on 1 nodes of at least 2"]
    halves = gpu("n0/g0", instance("1g.6gb@0"), instance("1g.6gb@1"))
    assert told(plan(halves), wanted(service(min_replicas=2))) == []
    other = gpu("n1/g0", instance("1g.6gb@0", "b"))
    mixed = wanted(service(spread=2), service("b"))
    assert told(plan(ONE, other), mixed) == ["service a: on 1 nodes of at least 2"]
    nothing = told(plan(b=0.0), wanted(service("b", rate=0.0, min_replicas=0, spread=2)))
    assert nothing == ["service b: on 0 nodes of at least 2"]


# --- the objective


@pytest.mark.parametrize("value", [0.0, 0.5, 1.5, 1.999, 2.001, 3.0, 100.0])
@pytest.mark.parametrize(("name", "unit"), [("gpus", 1.0), ("cost", 7.0), ("watts", 30.0)])
def test_a_value_too_low_or_too_high_is_told(name: str, unit: float, value: float) -> None:
    two = [replace(ONE, id=f"n{n}/g0") for n in range(2)]
    asked = wanted(pools=(RequiredPool(A30, 4, 2, 7.0),))
    right = plan(*two, objective=Objective(name, 2 * unit, 0.0))
    assert told(right, asked) == []
    wrong = plan(*two, objective=Objective(name, value * unit, 0.0))
    assert told(wrong, asked) == [f"objective: value {value * unit:g}, the plan holds {2 * unit:g}"]


@pytest.mark.parametrize(("off", "right"), [(1e-8, True), (-1e-8, True), (1e-5, False), (-1e-5, False)])
def test_a_value_is_right_but_for_rounding(off: float, *, right: bool) -> None:
    small = plan(ONE, objective=Objective("gpus", 1 + off, 0.0))
    assert (told(small, wanted()) == []) == right
    dear = (RequiredPool(A30, 4, 2, 5000.0),)
    large = plan(ONE, objective=Objective("cost", 5000.0 * (1 + off), 0.0))
    assert (told(large, wanted(pools=dear)) == []) == right
    cheap = (RequiredPool(A30, 4, 2, 0.001),)
    little = plan(ONE, objective=Objective("cost", 0.001 + off * 10, 0.0))
    assert (told(little, wanted(pools=cheap)) == []) == right


def test_the_cost_is_that_of_the_pools_that_are_named() -> None:
    pools = (RequiredPool(A30, 1, 1, 3.0, "x"), RequiredPool(A30, 2, 1, 5.0, "y"))
    two = [replace(ONE, id=f"n{n}/g0") for n in range(2)]

    def cost(value: float, *names: str) -> list[str]:
        named = [replace(each, pool=name) for each, name in zip(two, names, strict=True)]
        return told(plan(*named, objective=Objective("cost", value, 0.0)), wanted(pools=pools))

    assert cost(8.0, "x", "y") == []
    assert cost(10.0, "y", "y") == []
    assert cost(8.0, "y", "y") == ["objective: value 8, the plan holds 10"]
    assert cost(10.0, "", "") == cost(8.0, "", "") == cost(9.0, "", "") == []
    assert cost(7.9, "", "") == ["objective: value 7.9, the plan holds 8 to 10"]
    assert cost(10.1, "", "") == ["objective: value 10.1, the plan holds 8 to 10"]
    assert cost(10.0, "", "y") == cost(8.0, "", "y") == []
    free = (replace(pools[0], cost=None), pools[1])
    named = [replace(two[0], pool="x"), replace(two[1], pool="y")]
    made = plan(*named, objective=Objective("cost", 5.0, 0.0))
    assert told(made, wanted(pools=free)) == []


def test_pools_of_other_models_do_not_count() -> None:
    three = [replace(ONE, id=f"n0/g{n}") for n in range(3)]
    pools = (RequiredPool(gpu_model("a100-80gb"), 9, 8), RequiredPool(A30, 2, 2))
    found = told(plan(*three), wanted(pools=pools))
    assert found == ["a30-24gb: 3 GPUs used of 2", "n0: 3 GPUs of a30-24gb in a node of 2"]


def test_gpus_cut_alike_are_told_of_together() -> None:
    three = [replace(ONE, id=f"n{n}/g0", pool="z") for n in range(3)]
    assert told(plan(*three), wanted())[0].startswith("n0/g0 and 2 more cut like it: ")


def test_a_variant_alone_on_its_gpu_runs_as_its_own_size() -> None:
    slow = PerfTable(
        row if row.profile == "1g.6gb" else replace(row, latency_ms=2 * row.latency_ms)
        for row in reversed(ROWS)
    )
    asked = wanted(service(rate=0.0, latency_ms=1000.0, alone=True), max_batch=None)
    assert told(plan(gpu("n0/g0", instance("1g.6gb+me@0", batch=4))), asked, slow) == []


def test_a_layout_that_cannot_be_is_told_of_its_gpu() -> None:
    wrong = gpu("n0/g0", instance("2g.12gb@0"), instance("1g.6gb@1"))
    assert told(plan(wrong), wanted()) == ["n0/g0: 2 instances overlap in memory slice 1"]


def test_alone_only_rows_of_one_process_count() -> None:
    crowded = [replace(row, latency_ms=3 * row.latency_ms) for row in ROWS if row.processes == 2]
    single = [row for row in ROWS if row.processes == 1]
    assert alone(point("1g.6gb", 3, latency_ms=30.0), PerfTable([*crowded, *single])) == []
    none = ["the table has no row for net-a on a30-24gb 1g.6gb that runs 1 items"]
    assert alone(point("1g.6gb", estimated=True), PerfTable(crowded)) == none


def test_the_cost_is_that_of_pools_of_its_model() -> None:
    pools = (RequiredPool(gpu_model("a100-80gb"), 4, 8, 1.0), RequiredPool(A30, 4, 8, 3.0))
    right = plan(ONE, objective=Objective("cost", 3.0, 0.0))
    assert told(right, wanted(pools=pools)) == []
    wrong = plan(ONE, objective=Objective("cost", 1.0, 0.0))
    assert told(wrong, wanted(pools=pools)) == ["objective: value 1, the plan holds 3"]


@pytest.mark.parametrize("by", [1.0, -1.0])
def test_small_values_and_bounds_may_be_wrong_by_a_millionth(by: float) -> None:
    pools = (RequiredPool(A30, 4, 2, 0.001),)

    def right(value: float, bound: float = 0.0) -> bool:
        return told(plan(ONE, objective=Objective("cost", value, bound)), wanted(pools=pools)) == []

    assert right(0.001 + by * 8e-7)
    assert not right(0.001 + by * 1.2e-6)
    assert right(0.001, 0.001 + 8e-7)
    assert not right(0.001, 0.001 + 1.2e-6)


def test_a_pool_without_count_holds_all() -> None:
    pools = (RequiredPool(A30, None, 8, 3.0, "x"), RequiredPool(A30, 1, 8, 5.0, "y"))
    two = [replace(ONE, id=f"n{n}/g0") for n in range(2)]
    assert told(plan(*two, objective=Objective("cost", 6.0, 0.0)), wanted(pools=pools)) == []
    assert told(plan(*two, objective=Objective("cost", 8.0, 0.0)), wanted(pools=pools)) == []
    wrong = plan(*two, objective=Objective("cost", 5.9, 0.0))
    assert told(wrong, wanted(pools=pools)) == ["objective: value 5.9, the plan holds 6 to 8"]


def test_watts_are_those_of_the_table() -> None:
    both = gpu("n0/g0", instance("1g.6gb@0"), instance("1g.6gb@1"))
    two = (both, replace(both, id="n1/g0"))
    assert told(plan(*two, objective=Objective("watts", 120.0, 0.0)), wanted()) == []
    dark = PerfTable(replace(row, power_w=None) for row in ROWS)
    unknown = told(plan(both, objective=Objective("watts", 60.0, 0.0)), wanted(), dark)
    assert unknown == ["objective: value 60, the plan holds nan to nan"]
    checker = GpuChecker(wanted(), TABLE)
    assert str(checker.watts(A30.name, (instance("1g.6gb@0", "z"),))) == "nan"


def test_a_bound_above_the_value_is_told() -> None:
    wrong = plan(ONE, objective=Objective("gpus", 1.0, 1.00001))
    assert told(wrong, wanted()) == ["objective: lower bound 1.00001 above the value 1"]
    assert told(plan(ONE, objective=Objective("gpus", 1.0, 1.0 + 5e-7)), wanted()) == []
    tiny = (RequiredPool(A30, 4, 2, 0.001),)
    near = plan(ONE, objective=Objective("cost", 0.001, 0.001 + 5e-7))
    assert told(near, wanted(pools=tiny)) == []
    nan = plan(ONE, objective=Objective("gpus", 1.0, float("nan")))
    assert told(nan, wanted()) == ["objective: lower bound nan above the value 1"]
    dear = (RequiredPool(A30, 4, 2, 1e6),)
    large = plan(ONE, objective=Objective("cost", 1e6, 1e6 + 0.5))
    assert told(large, wanted(pools=dear)) == []
    unknown = plan(ONE, objective=Objective("joy", 1.0, 1.0))
    assert told(unknown, wanted()) == ["objective: 'joy' is none of gpus, cost, watts"]


# --- one GPU


def test_services_share_a_gpu_as_far_as_they_may() -> None:
    both = gpu("n0/g0", instance("1g.6gb@0"), instance("1g.6gb@1", "b"))
    asked = (service(), service("b"))
    assert told(plan(both), wanted(*asked)) == []
    assert told(plan(both), wanted(*asked, max_services_per_gpu=2)) == []
    assert told(plan(both), wanted(*asked, max_services_per_gpu=1)) == [
        "n0/g0: 2 services share it, at most 1 may"
    ]
    alone = (service(alone=True), service("b"))
    assert told(plan(both), wanted(*alone)) == ["n0/g0: service a must have its GPUs for itself"]
    assert told(plan(ONE), wanted(service(alone=True))) == []


@pytest.mark.parametrize(
    ("change", "asked", "what"),
    [
        ({"service": "z"}, {}, ["service z is not in the workload"]),
        ({"model": "vgg"}, {}, ["runs model vgg, service a is net-a"]),
        ({}, {"profiles": ("2g",)}, ["service a may not run on 1g.6gb"]),
        ({}, {"profiles": ("1g",)}, []),
        ({}, {"profiles": ("1g.6gb",)}, []),
        ({}, {"latency_ms": 9.9}, ["latency 10 ms is above the 9.9 ms it may take"]),
        ({}, {"latency_ms": 10.0 - 1e-9}, []),
        ({}, {"latency_ms": 10.0 - 1e-6}, ["latency 10 ms is above the 10 ms it may take"]),
    ],
)
def test_an_instance_runs_its_service_where_it_may(
    change: dict[str, Any], asked: dict[str, Any], what: list[str]
) -> None:
    one = gpu("n0/g0", replace(ONE.instances[0], **change))
    found = told(plan(one), wanted(service(**asked)))
    assert [each.removeprefix("n0/g0, 1g.6gb@0: ") for each in found if "1g.6gb@0" in each] == what


def at_point(made: OperatingPoint, asked: Requirements | None = None, table: PerfTable = TABLE) -> list[str]:
    one = gpu("n0/g0", instance("1g.6gb@0", point=made))
    found = told(plan(one), asked or wanted(service(rate=0.0, latency_ms=1000.0)), table)
    return [each.removeprefix("n0/g0, 1g.6gb@0: ") for each in found if "1g.6gb@0" in each]


def test_an_operating_point_is_one_of_the_table() -> None:
    assert at_point(point("1g.6gb", 4, 2)) == []
    assert at_point(point("2g.12gb")) == ["its operating point is for 2g.12gb"]
    missing = "the table has no row for net-a on a30-24gb 1g.6gb, batch 2, processes 1 at quantile 0.9"
    assert at_point(point("1g.6gb", 2)) == [missing]
    assert at_point(point("1g.6gb", throughput=101.0)) == ["throughput 101, the table says 100"]
    assert at_point(point("1g.6gb", latency_ms=9.0)) == ["latency 9 ms, the table says 10 ms"]
    assert at_point(point("1g.6gb", estimated=True)) == ["marked as an estimate, but measured"]
    guessed = PerfTable(replace(row, estimated=True) for row in ROWS)
    assert at_point(point("1g.6gb"), table=guessed) == ["an estimate, not marked as one"]
    assert at_point(point("1g.6gb", estimated=True), table=guessed) == []


def test_points_keep_the_limits() -> None:
    loose = service(rate=0.0, latency_ms=1000.0)
    assert at_point(point("1g.6gb", 4, 2), wanted(loose, max_batch=3)) == ["batch 4 is above 3"]
    assert at_point(point("1g.6gb", 4, 2), wanted(loose, max_batch=None)) == []
    assert at_point(point("1g.6gb", 1, 2), wanted(loose, max_processes=1)) == [
        "2 processes, at most 1 may share an instance"
    ]


def test_without_a_quantile_the_strictest_counts() -> None:
    loose = wanted(service(rate=0.0, latency_ms=1000.0, quantile=None))
    rows = [
        Measurement("net-a", A30.name, "1g.6gb", 1, 1, 100.0, ms, q)
        for q, ms in (("0.99", 12.0), ("0.5", 8.0), ("mean", 9.0))
    ]
    assert at_point(point("1g.6gb", latency_ms=12.0), loose, PerfTable(rows)) == []
    assert at_point(point("1g.6gb", latency_ms=9.0), loose, PerfTable(rows)) == [
        "latency 9 ms, the table says 12 ms"
    ]
    mean = PerfTable(rows[-1:])
    assert at_point(point("1g.6gb", latency_ms=9.0), loose, mean) == []
    none = "the table has no row for net-a on a30-24gb 1g.6gb, batch 1, processes 1"
    assert at_point(point("1g.6gb"), loose, PerfTable([replace(rows[0], model="other")])) == [none]
    low = wanted(service(rate=0.0, latency_ms=1000.0, quantile=0.5))
    assert at_point(point("1g.6gb", latency_ms=8.0), low, PerfTable(rows)) == []


def test_a_variant_has_its_own_rows_first() -> None:
    variant = Measurement("net-a", A30.name, "1g.6gb+me", 1, 1, 90.0, 11.0, "0.9", power_w=31.0)
    one = gpu("n0/g0", instance("1g.6gb+me@0", throughput=90.0, latency_ms=11.0))
    loose = wanted(service(rate=0.0))
    assert told(plan(one), loose, PerfTable([*ROWS, variant])) == []
    plain = gpu("n0/g0", instance("1g.6gb+me@0"))
    assert told(plan(plain), loose) == []
    sized = wanted(service(rate=0.0, profiles=("1g",)))
    assert told(plan(plain), sized) == ["n0/g0, 1g.6gb+me@0: service a may not run on 1g.6gb+me"]
    named = wanted(service(rate=0.0, profiles=("1g.6gb+me",)))
    assert told(plan(plain), named) == []


# --- services with GPUs of their own


def alone(made: OperatingPoint, table: PerfTable = TABLE, **more: Any) -> list[str]:
    asked = wanted(service(rate=0.0, latency_ms=1000.0, alone=True, **more), max_batch=None)
    return at_point(made, asked, table)


def test_the_largest_query_of_an_instance_takes_what_the_table_says_between_its_batches() -> None:
    assert alone(point("1g.6gb", 1)) == []
    assert alone(point("1g.6gb", 4)) == []
    assert alone(point("1g.6gb", 2, latency_ms=20.0)) == []
    assert alone(point("1g.6gb", 3, latency_ms=30.0)) == []
    assert alone(point("1g.6gb", 3, latency_ms=31.0)) == ["latency 31 ms, by the table 30 ms"]
    assert alone(point("1g.6gb", 5)) == [
        "the table has no row for net-a on a30-24gb 1g.6gb that runs 5 items"
    ]
    late = PerfTable(row for row in ROWS if row.batch == 4)
    assert alone(point("1g.6gb", 2, latency_ms=40.0), late) == [], "below the first, as the first"
    assert alone(point("1g.6gb", 1, throughput=7.0)) == [], "what it answers in all is a matter of traffic"
    assert alone(point("2g.12gb", 1)) == ["its operating point is for 2g.12gb"]
    assert alone(point("1g.6gb", 1, 2)) == ["2 processes; a service with `cut` runs one, a query at a time"]
    assert alone(point("1g.6gb", 1, estimated=True)) == ["wrongly marked as measured or as an estimate"]
    four = [replace(row, batch=8, latency_ms=60.0) for row in ROWS if row.batch == 4]
    assert alone(point("1g.6gb", 6, latency_ms=50.0), PerfTable([*ROWS, *four])) == []
    part = PerfTable(replace(row, estimated=row.batch == 4) for row in ROWS)
    assert alone(point("1g.6gb", 1, estimated=True), part) == []


def test_rows_of_its_own_profile_and_quantile_come_first() -> None:
    own = [
        Measurement("net-a", A30.name, "1g.6gb+me", 1, 1, 90.0, 11.0, "0.9"),
        Measurement("net-a", A30.name, "1g.6gb", 1, 1, 90.0, 13.0, "0.99"),
    ]
    asked = wanted(service(rate=0.0, latency_ms=1000.0, alone=True), max_batch=None)
    one = gpu("n0/g0", instance("1g.6gb+me@0", latency_ms=11.0))
    assert told(plan(one), asked, PerfTable([*ROWS, *own])) == []
    plain = gpu("n0/g0", instance("1g.6gb+me@0"))
    assert told(plan(plain), asked) == []
    assert alone(point("1g.6gb", latency_ms=13.0), PerfTable([*ROWS, *own]), quantile=0.99) == []
    assert alone(point("1g.6gb", latency_ms=13.0), PerfTable([*ROWS, *own]), quantile=0.95) == []
    assert alone(point("1g.6gb", latency_ms=13.0), PerfTable([*ROWS, *own]), quantile=None) == []


# --- layouts


TOY = GpuModel(
    "toy",
    "toy",
    "toy",
    3,
    8,
    (
        Profile("1g.1gb", 1, 1, (0, 1, 2, 3, 4, 5), 4),
        Profile("1g.2gb", 1, 2, (0, 2, 4, 6), 2),
        Profile("0g.1gb+me", 0, 1, (0, 1, 2, 3), 4, media=True),
    ),
)


@pytest.mark.parametrize(
    ("places", "what"),
    [
        ("", []),
        ("1g.1gb@0 1g.1gb@1 1g.1gb@2", []),
        ("1g.1gb@0 1g.1gb@1 1g.1gb@2 1g.1gb@3", ["4 compute slices used of 3"]),
        ("1g.2gb@0 1g.2gb@2", []),
        ("1g.2gb@0 1g.2gb@2 1g.2gb@4", ["3 instances of 1g.2gb, a GPU holds at most 2"]),
        ("0g.1gb+me@0 1g.1gb@1", []),
        ("0g.1gb+me@0 0g.1gb+me@1", ["several instances own the media engines, only one can"]),
        ("1g.1gb@0 1g.1gb@0", ["2 instances overlap in memory slice 0"]),
        ("1g.2gb@0 1g.1gb@1", ["2 instances overlap in memory slice 1"]),
        ("1g.2gb@6", []),
        ("1g.2gb@7", ["1g.2gb cannot start at 7"]),
        ("9g.9gb@0", ["toy has no profile 9g.9gb"]),
    ],
)
def test_instances_stand_together_as_the_profiles_say(places: str, what: list[str]) -> None:
    assert list(layout_violations(TOY, [Placement.parse(each) for each in places.split()])) == what


@pytest.mark.parametrize(
    ("rule", "places", "broken"),
    [
        ("1g+1g", "1g.1gb@0 1g.2gb@2", True),
        ("1g+1g", "1g.1gb@0", False),
        ("1g.1gb+1g.1gb", "1g.1gb@0 1g.2gb@2", False),
        ("1g.1gb+1g.1gb", "1g.1gb@0 1g.1gb@2", True),
        ("1g.1gb+1g.2gb", "1g.1gb@0 1g.2gb@2", True),
        ("1g+1g+1g", "1g.1gb@0 1g.2gb@2", False),
        ("1g.1gb+1g.2gb", "1g.1gb@0", False),
        ("1g.1gb+1g.2gb", "1g.2gb@0", False),
    ],
)
def test_rules_count_sizes_and_profiles(rule: str, places: str, *, broken: bool) -> None:
    gpu_ = TOY.forbidding([rule])
    found = list(layout_violations(gpu_, [Placement.parse(each) for each in places.split()]))
    assert found == ([f"{rule} is forbidden"] if broken else [])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1.0, 1.0, True),
        (1e6, 1e6 + 0.5, True),
        (1e6, 1e6 + 2, False),
        (0.0, 5e-7, True),
        (0.0, 2e-6, False),
        (float("nan"), float("nan"), False),
    ],
)
def test_figures_are_the_same_but_for_rounding(a: float, b: float, *, same: bool) -> None:
    assert close(a, b) == same


# --- what a workload asks


def test_a_workload_is_asked_for_as_it_is_written() -> None:
    workload = Workload(
        gpus=(
            PoolSpec(model="a30-24gb", count=3, per_node=5, cost_per_hour=2.5, name="x"),
            PoolSpec(model="a100-80gb"),
        ),
        services=(
            ServiceSpec(
                name="a",
                model="m",
                rate=100.0,
                slo=Slo(latency_ms=200.0, quantile=0.9),
                headroom=0.2,
                profiles=("1g",),
                min_replicas=3,
                spread=2,
                pools=("x",),
            ),
            ServiceSpec(name="b", model="m", rate=100.0, slo=Slo(latency_ms=200.0), cut="search"),
        ),
        limits=LimitsSpec(
            latency_factor=0.45, forbid=("2g+1g",), max_batch=16, max_processes=3, max_services_per_gpu=2
        ),
    )
    found = requirements(workload)
    assert found.services[0] == RequiredService(
        "a", "m", 100.0, 120.0, 200.0, 90.0, 0.9, ("1g",), 3, 2, alone=False, waits=True, pools=("x",)
    )
    assert (found.services[1].latency_ms, found.services[1].alone) == (200.0, True)
    assert found.pools == (
        RequiredPool(A30.forbidding(["2g+1g"]), 3, 5, 2.5, "x"),
        RequiredPool(gpu_model("a100-80gb").forbidding(["2g+1g"]), None, 8, None, "a100-80gb"),
    )
    assert (found.max_batch, found.max_processes, found.max_services_per_gpu) == (16, 3, 2)
