from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, maximal_layouts
from partita.perf.operating_point import OperatingPoint
from partita.perf.table import Measurement, PerfTable
from partita.planning.check import RequiredPool, RequiredService, Requirements, check_plan, requirements
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver
from partita.workload import LimitsSpec, PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


A100 = gpu_model("a100-80gb").forbidding(["4g+3g"])
A30 = gpu_model("a30-24gb")
SERVICES = ("alpha", "beta", "gamma")


def table() -> PerfTable:
    return PerfTable(
        Measurement(
            f"net-{name}",
            gpu.name,
            p.name,
            b,
            n,
            10.5 * p.compute * b * n + i,
            1.7 * b * n + i,
            q,
            power_w=40.0,
        )
        for i, name in enumerate(SERVICES)
        for gpu in (A100, A30)
        for p in gpu.profiles
        for b in (1, 8)
        for n in (1, 2)
        for q in ("0.9", "mean")
    )


TABLE = table()


def point(service: str, gpu: str, profile: str, batch: int, processes: int) -> OperatingPoint:
    row = next(
        r
        for r in TABLE.of(f"net-{service}", gpu)
        if (r.profile, r.batch, r.processes, r.quantile) == (profile, batch, processes, "0.9")
    )
    return OperatingPoint(profile, batch, processes, row.throughput, row.latency_ms, "0.9", row.power_w)


def right_case(seed: int) -> tuple[Plan, Requirements]:
    """Return a plan that is right by construction: random GPUs, services that ask what they get."""
    rng = random.Random(seed)
    gpus = []
    for n in range(rng.randint(3, 9)):
        gpu = rng.choice((A100, A30))
        layout = rng.choice(maximal_layouts(gpu))
        instances = tuple(
            Instance(p, s, f"net-{s}", point(s, gpu.name, p.profile, rng.choice((1, 8)), rng.choice((1, 2))))
            for i, p in enumerate(layout)
            for s in (SERVICES[(i + n) % 3],)
        )
        twins = 2 if rng.random() < 0.3 else 1
        gpus += [PlannedGpu(f"node-{n}/gpu-{k}", gpu.name, instances) for k in range(twins)]
    held = {s: [(g, i) for g in gpus for i in g.instances if i.service == s] for s in SERVICES}
    held = {s: found for s, found in held.items() if found}
    capacity = {s: sum(i.point.throughput for _, i in found) for s, found in held.items()}
    services = tuple(
        RequiredService(
            name=s,
            model=f"net-{s}",
            asked_rate=capacity[s] * 0.8,
            rate=capacity[s] * rng.choice((1, 0.9)),
            latency_slo_ms=100.0,
            latency_ms=max(i.point.latency_ms for _, i in found),
            quantile=rng.choice((None, 0.9)),
            profiles=rng.choice((None, tuple({i.placement.profile for _, i in found}))),
            min_replicas=len(found),
            spread=len({g.id.split("/")[0] for g, _ in found}),
        )
        for s, found in held.items()
    )
    pools = tuple(
        RequiredPool(gpu, 2 * len({g.id.split("/")[0] for g in gpus if g.model == gpu.name}), 2, cost)
        for gpu, cost in ((A100, 3.25), (A30, 1.5))
    )
    values = {
        "gpus": float(len(gpus)),
        "cost": sum(3.25 if g.model == A100.name else 1.5 for g in gpus),
        "watts": 40.0 * sum(len(g.instances) for g in gpus),
    }
    name = rng.choice(sorted(values))
    plan = Plan(
        Objective(name, values[name], values[name] * rng.choice((1, 0.9))),
        Solver("exact", 0, 0.1),
        tuple(ServiceCapacity(s.name, s.asked_rate, capacity[s.name], 100.0) for s in services),
        tuple(gpus),
    )
    most = max(len({i.service for i in g.instances}) for g in gpus)
    return plan, Requirements(services, pools, max_batch=8, max_processes=2, max_services_per_gpu=most)


@given(st.integers(0, 2**32))
def test_a_right_plan_raises_no_alarm(seed: int) -> None:
    plan, wanted = right_case(seed)
    assert check_plan(plan, wanted, TABLE) == []


Case = tuple[Plan, Requirements]
Mutation = tuple["Callable[[Case, random.Random], Case | None]", str]


def on_gpu(
    change: Callable[[PlannedGpu, random.Random], PlannedGpu | None],
) -> Callable[[Case, random.Random], Case | None]:
    def mutate(case: Case, rng: random.Random) -> Case | None:
        plan, wanted = case
        at = rng.randrange(len(plan.gpus))
        changed = change(plan.gpus[at], rng)
        gpus = (*plan.gpus[:at], changed, *plan.gpus[at + 1 :]) if changed else ()
        return (replace(plan, gpus=gpus), wanted) if changed else None

    return mutate


def on_instance(change: Callable[[Instance], Instance]) -> Callable[[Case, random.Random], Case | None]:
    def mutate(gpu: PlannedGpu, rng: random.Random) -> PlannedGpu:
        at = rng.randrange(len(gpu.instances))
        changed = change(gpu.instances[at])
        return replace(gpu, instances=(*gpu.instances[:at], changed, *gpu.instances[at + 1 :]))

    return on_gpu(mutate)


def on_point(**change: Any) -> Callable[[Case, random.Random], Case | None]:
    return on_instance(lambda i: replace(i, point=replace(i.point, **change)))


def on_service(
    change: Callable[[RequiredService, Plan], RequiredService],
) -> Callable[[Case, random.Random], Case]:
    def mutate(case: Case, rng: random.Random) -> Case:
        plan, wanted = case
        at = rng.randrange(len(wanted.services))
        changed = change(wanted.services[at], plan)
        services = (*wanted.services[:at], changed, *wanted.services[at + 1 :])
        return plan, replace(wanted, services=services)

    return mutate


def on_listed(
    change: Callable[[ServiceCapacity], Sequence[ServiceCapacity]],
) -> Callable[[Case, random.Random], Case]:
    def mutate(case: Case, rng: random.Random) -> Case:
        plan, wanted = case
        at = rng.randrange(len(plan.services))
        services = (*plan.services[:at], *change(plan.services[at]), *plan.services[at + 1 :])
        return replace(plan, services=services), wanted

    return mutate


def on_objective(change: Callable[[Objective], Objective]) -> Callable[[Case, random.Random], Case]:
    return lambda case, _: (replace(case[0], objective=change(case[0].objective)), case[1])


def on_wanted(
    change: Callable[[Plan, Requirements], Requirements | None],
) -> Callable[[Case, random.Random], Case | None]:
    def mutate(case: Case, _: random.Random) -> Case | None:
        changed = change(*case)
        return (case[0], changed) if changed else None

    return mutate


def pools_of(wanted: Requirements, **change: Any) -> Requirements:
    return replace(wanted, pools=tuple(replace(p, **change) for p in wanted.pools))


def overlap(gpu: PlannedGpu, _: random.Random) -> PlannedGpu:
    return replace(gpu, instances=(*gpu.instances, gpu.instances[0]))


def used(plan: Plan, model: str) -> int:
    return sum(gpu.model == model for gpu in plan.gpus)


MUTATIONS: dict[str, Mutation] = {
    "start": (
        on_instance(lambda i: replace(i, placement=replace(i.placement, start=7))),
        "cannot start at 7",
    ),
    "overlap": (on_gpu(overlap), "overlap in memory slice"),
    "profile": (
        on_instance(lambda i: replace(i, placement=Placement(i.placement.start, "5g.50gb"))),
        "has no profile 5g.50gb",
    ),
    "point of another profile": (on_point(profile="1g.1gb"), "operating point is for 1g.1gb"),
    "gpu model": (on_gpu(lambda g, _: replace(g, model="v100")), "the workload has no GPUs v100"),
    "id without node": (on_gpu(lambda g, _: replace(g, id="gpu-0")), "does not say the node"),
    "service unknown": (
        on_instance(lambda i: replace(i, service="delta")),
        "service delta is not in the workload",
    ),
    "model of the service": (on_instance(lambda i: replace(i, model="vgg")), "runs model vgg"),
    "batch that nobody measured": (on_point(batch=4), "the table has no row"),
    "batch above the limit": (on_point(batch=9), "batch 9 is above 8"),
    "processes above the limit": (on_point(processes=3), "3 processes, at most 2"),
    "throughput": (on_point(throughput=1e4), "throughput 10000, the table says"),
    "throughput not a number": (on_point(throughput=float("nan")), "throughput nan, the table says"),
    "latency": (on_point(latency_ms=0.5), "latency 0.5 ms, the table says"),
    "estimate": (on_point(estimated=True), "marked as an estimate, but measured"),
    "latency limit": (on_service(lambda s, _: replace(s, latency_ms=s.latency_ms * 0.99)), "ms it may take"),
    "quantile": (on_service(lambda s, _: replace(s, quantile=0.99)), "at quantile 0.99"),
    "allowed profiles": (on_service(lambda s, _: replace(s, profiles=("9g",))), "may not run on"),
    "rate": (
        on_service(
            lambda s, p: replace(s, rate=1.001 * next(x.capacity for x in p.services if x.name == s.name))
        ),
        "is below the rate",
    ),
    "replicas": (
        on_service(lambda s, _: replace(s, min_replicas=s.min_replicas + 1)),
        "replicas of at least",
    ),
    "spread": (on_service(lambda s, _: replace(s, spread=s.spread + 5)), "nodes of at least"),
    "listed twice": (on_listed(lambda s: (s, s)), "listed 2 times"),
    "not listed": (on_listed(lambda _: ()), "missing in the plan"),
    "listed and not asked": (on_listed(lambda s: (s, replace(s, name="delta"))), "not in the workload"),
    "listed rate": (on_listed(lambda s: (replace(s, rate=s.rate / 2),)), "the workload asks"),
    "listed SLO": (
        on_listed(lambda s: (replace(s, latency_slo_ms=50),)),
        "SLO 50 ms, the workload asks 100 ms",
    ),
    "listed capacity": (on_listed(lambda s: (replace(s, capacity=s.capacity * 1.01),)), "its instances give"),
    "value": (on_objective(lambda o: replace(o, value=o.value + 1)), "the plan holds"),
    "objective": (on_objective(lambda o: replace(o, name="joy")), "none of gpus, cost, watts"),
    "bound": (on_objective(lambda o: replace(o, lower_bound=o.value + 1)), "above the value"),
    "pool": (
        on_wanted(lambda p, w: pools_of(w, count=0) if used(p, A100.name) else None),
        "GPUs used of 0",
    ),
    "node": (
        on_wanted(
            lambda p, w: pools_of(w, per_node=1) if any(g.id.endswith("/gpu-1") for g in p.gpus) else None
        ),
        "in a node of 1",
    ),
    "services per gpu": (
        on_wanted(lambda _, w: replace(w, max_services_per_gpu=(w.max_services_per_gpu or 0) - 1)),
        "services share it",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
@given(seed=st.integers(0, 2**32))
def test_one_thing_broken_is_named(name: str, seed: int) -> None:
    mutate, what = MUTATIONS[name]
    changed = mutate(right_case(seed), random.Random(seed))
    if changed is not None:
        plan, wanted = changed
        found = check_plan(plan, wanted, TABLE)
        assert any(what in str(fault) for fault in found), found


def single(*placements: Placement, gpu: str = "a100-80gb") -> Plan:
    instances = tuple(
        Instance(p, "alpha", "net-alpha", point("alpha", gpu, p.profile, 1, 1)) for p in placements
    )
    capacity = sum(i.point.throughput for i in instances)
    return Plan(
        Objective("gpus", 1, 1),
        Solver("exact", 0, 0.1),
        (ServiceCapacity("alpha", 1.0, capacity, 100.0),),
        (PlannedGpu("node-0/gpu-0", gpu, instances),),
    )


def ask(**change: Any) -> Requirements:
    service = RequiredService("alpha", "net-alpha", 1.0, 1.0, 100.0, 100.0)
    return Requirements((service,), (RequiredPool(gpu_model("a100-80gb").forbidding(["4g+3g"])),), **change)


def test_two_gpus_with_one_id_are_named() -> None:
    plan = single(Placement(0, "1g.10gb"))
    twice = replace(plan, gpus=plan.gpus * 2)
    assert "2 GPUs have this id" in [fault.what for fault in check_plan(twice, ask(), TABLE)]


def test_a_forbidden_combination_is_named() -> None:
    plan = single(Placement(0, "4g.40gb"), Placement(4, "3g.40gb"))
    assert [fault.what for fault in check_plan(plan, ask(), TABLE)] == ["3g+4g is forbidden"]


def test_a_profile_beside_its_media_variant_counts_once_each() -> None:
    right = single(Placement(0, "1g.10gb"), Placement(1, "1g.10gb+me"))
    assert check_plan(right, ask(), TABLE) == []
    wrong = single(Placement(0, "1g.10gb+me"), Placement(1, "1g.10gb+me"))
    assert "several instances own the media engines, only one can" in [
        f.what for f in check_plan(wrong, ask(), TABLE)
    ]


def test_more_compute_slices_than_there_are_is_named() -> None:
    plan = single(
        Placement(0, "4g.40gb"), Placement(4, "2g.20gb"), Placement(6, "1g.20gb"), Placement(0, "1g.10gb")
    )
    assert "8 compute slices used of 7" in [fault.what for fault in check_plan(plan, ask(), TABLE)]


def test_rows_of_the_plain_profile_stand_for_its_media_variant() -> None:
    plan = single(Placement(0, "1g.10gb+me"))
    plain = PerfTable(row for row in TABLE if "+me" not in row.profile)
    assert check_plan(plan, ask(), plain) == []


def test_gpus_cut_alike_are_reported_once() -> None:
    plan = single(Placement(3, "2g.20gb"))
    many = replace(plan, gpus=tuple(replace(plan.gpus[0], id=f"node-0/gpu-{n}") for n in range(5)))
    places = [fault.where for fault in check_plan(many, ask(), TABLE) if "start" in fault.what]
    assert places == ["node-0/gpu-0 and 4 more cut like it"]


def test_watts_without_power_in_the_table_are_named() -> None:
    plan = replace(single(Placement(0, "1g.10gb")), objective=Objective("watts", 40, 40))
    dark = PerfTable(replace(row, power_w=None) for row in TABLE)
    assert [f.where for f in check_plan(plan, ask(), dark)] == ["objective"]


def test_two_pools_of_one_model_are_counted_together() -> None:
    plan = single(Placement(0, "1g.10gb"))
    two = tuple(replace(plan.gpus[0], id=f"node-{n}/gpu-0") for n in range(2))
    both = replace(
        plan,
        gpus=two,
        services=(replace(plan.services[0], capacity=2 * plan.services[0].capacity),),
        objective=Objective("cost", 7.0, 7.0),
    )
    pools = (RequiredPool(A100, 1, 8, 3.0), RequiredPool(A100, 1, 8, 4.0))
    assert check_plan(both, replace(ask(), pools=pools), TABLE) == []
    dear = replace(both, objective=Objective("cost", 8.0, 8.0))
    assert [f.what for f in check_plan(dear, replace(ask(), pools=pools), TABLE)] == [
        "value 8, the plan holds 7"
    ]


@pytest.mark.parametrize(
    ("ids", "pool", "said"),
    [
        (["node-0/gpu-0", "node-0/gpu-1", "node-1/gpu-0"], RequiredPool(A100, 3, 2), None),
        (["node-0/gpu-0", "node-7/gpu-0"], RequiredPool(A100, 3, 2), None),
        (["node-0/gpu-0", "node-1/gpu-0"], RequiredPool(A100, None, 2), None),
        (["node-0/gpu-0", "node-1/gpu-0"], RequiredPool(A100, 2, 2), "2 nodes used of 1"),
        (["node-0/gpu-0", "node-1/gpu-0", "node-2/gpu-0"], RequiredPool(A100, 3, 2), "3 nodes used of 2"),
        (
            ["node-0/gpu-0", "node-0/gpu-1", "node-1/gpu-0", "node-1/gpu-1"],
            RequiredPool(A100, 5, 3),
            None,
        ),
        (
            ["node-0/gpu-0", "node-0/gpu-1", "node-1/gpu-0", "node-1/gpu-1"],
            RequiredPool(A100, 4, 3),
            "2 nodes used, not all of them have as many GPUs as the plan puts there",
        ),
        (["node-0/gpu-1"], RequiredPool(A100, 4, 2), None),
        (["node-0/gpu-2"], RequiredPool(A100, 4, 2), "no such position in a node of 2, whose last is gpu-1"),
    ],
)
def test_gpus_stand_on_nodes_that_the_pool_has(ids: list[str], pool: RequiredPool, said: str | None) -> None:
    plan = single(Placement(0, "1g.10gb"))
    each = plan.services[0].capacity
    many = replace(
        plan,
        gpus=tuple(replace(plan.gpus[0], id=gpu_id) for gpu_id in ids),
        services=(replace(plan.services[0], capacity=len(ids) * each),),
        objective=Objective("gpus", len(ids), 1),
    )
    found = check_plan(many, replace(ask(), pools=(pool,)), TABLE)
    assert [fault.what for fault in found] == ([] if said is None else [said])


def test_requirements_take_headroom_and_the_latency_factor_into_account() -> None:
    workload = Workload(
        gpus=(PoolSpec(model="a100-80gb", count=4),),
        services=(ServiceSpec(name="a", model="m", rate=100.0, slo=Slo(latency_ms=200.0), headroom=0.2),),
        limits=LimitsSpec(latency_factor=0.45, forbid=("4g+3g",)),
    )
    wanted = requirements(workload)
    assert wanted.services[0].asked_rate == 100
    assert wanted.services[0].rate == pytest.approx(120)
    assert wanted.services[0].latency_ms == pytest.approx(90)
    assert wanted.services[0].latency_slo_ms == 200
    assert wanted.pools[0].gpu == A100
    assert wanted.pools[0].count == 4
