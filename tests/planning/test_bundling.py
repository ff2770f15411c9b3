"""Services that share instances: what fits together, the fewest GPUs, and the checker of both."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.errors import InputError
from partita.perf.table import Measurement, PerfTable
from partita.planner import check, plan, prepare
from partita.planning import bundling, tenants
from partita.planning.tenants import needs_of, simulated_waits
from partita.transition.deployment import deployment_of
from partita.workload import LimitsSpec, ModelSpec, PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.planning.tenants import Needs

PROFILES = {"1g.6gb": 4.0, "2g.12gb": 2.0, "4g.24gb": 1.0}
"""Profiles of an A30, and how much longer a batch takes there than on the whole GPU."""


def rows(model: str, latency_ms: float, memory_mb: float | None) -> Iterator[Measurement]:
    for profile, factor in PROFILES.items():
        for batch in (1, 4):
            latency = latency_ms * factor * batch**0.5
            yield Measurement(
                model, "a30-24gb", profile, batch, 1, 1000 * batch / latency, latency, "0.99", memory_mb
            )


def workload(
    services: Sequence[tuple[float, float, float, float]],
    *,
    share: bool | None = True,
    memory: bool = True,
    limits: LimitsSpec | None = None,
    arrivals: Literal["constant"] | None = None,
) -> PreparedWorkload:
    """Prepare services on A30s: (rate, ms of a batch on a whole GPU, MB beside the context, SLO in ms) each."""
    table = PerfTable(
        row
        for i, (_, latency, mb, _) in enumerate(services)
        for row in rows(f"m{i}", latency, mb + 322 if memory else None)
    )
    specs = tuple(
        ServiceSpec(
            name=f"s{i}",
            model=f"m{i}",
            rate=rate,
            slo=Slo(latency_ms=slo, quantile=0.99),
            share=share,
            arrivals=arrivals,
        )
        for i, (rate, _, _, slo) in enumerate(services)
    )
    return prepare(
        Workload(gpus=(PoolSpec(model="a30-24gb"),), services=specs, limits=limits or LimitsSpec()), table
    )


def shared(found: Plan) -> list[tuple[str, ...]]:
    """Return the services on each instance that several share."""
    return sorted(
        tuple(name for name, _ in each.serves)
        for gpu in found.gpus
        for each in gpu.instances
        if len(each.serves) > 1
    )


def needs_in(asked: PreparedWorkload) -> Needs:
    found = needs_of(asked.problem, asked.workload, asked.formulation.measured)
    assert found is not None
    return found


def partitions(things: list[int]) -> Iterator[list[list[int]]]:
    if not things:
        yield []
        return
    first, rest = things[0], things[1:]
    for parts in partitions(rest):
        yield [[first], *parts]
        for i in range(len(parts)):
            yield [*parts[:i], [first, *parts[i]], *parts[i + 1 :]]


def fewest_by_trying(asked: PreparedWorkload) -> float:
    """Return the fewest GPUs over all ways to group the services and to give each group a size."""
    needs, problem = needs_in(asked), asked.problem
    best = math.inf
    for parts in partitions(list(range(len(needs)))):
        # An A30 has four slices: a size that fits takes as many as it is large, and they pack without waste.
        widths = [
            min(
                (int(size.profile[0]) for k, size in enumerate(problem.sizes) if needs.fits(part, k)),
                default=99,
            )
            for part in parts
        ]
        if max(widths) > 4:
            continue
        ones, twos, fours = (widths.count(n) for n in (1, 2, 4))
        best = min(best, fours + math.ceil((2 * twos + ones) / 4))
    return best


SERVICE = st.tuples(
    st.sampled_from([0.5, 2.0, 8.0, 20.0]),
    st.sampled_from([1.0, 3.0, 8.0]),
    st.sampled_from([300.0, 2500.0, 5000.0, 9000.0]),
    st.sampled_from([60.0, 120.0, 400.0]),
)


@given(st.lists(SERVICE, min_size=1, max_size=6))
@settings(max_examples=15)
def test_no_other_way_to_share_takes_fewer_gpus(services: list[tuple[float, float, float, float]]) -> None:
    asked = workload(services)
    fewest = fewest_by_trying(asked) if len(needs_in(asked)) == len(services) else None
    found = plan(asked).plan
    assert check(found, asked) == []
    assert found.objective.value == len(found.gpus)
    if fewest is not None:
        assert found.objective.proven
        assert len(found.gpus) == fewest


@given(st.lists(SERVICE, min_size=20, max_size=60))
@settings(max_examples=8)
def test_many_kinds_are_packed_close_to_the_bound(services: list[tuple[float, float, float, float]]) -> None:
    services = [(rate + i / 1000, *more) for i, (rate, *more) in enumerate(services)]  # type: ignore[misc]
    asked = workload(services)
    found = plan(asked).plan
    assert check(found, asked) == []
    assert found.objective.lower_bound <= len(found.gpus)
    assert [each.name for each in found.services] == [spec.name for spec in asked.workload.services]


def test_the_bound_of_many_kinds_holds_for_the_exact_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = workload([(1.0 + i / 10, 3.0, 2000.0 + 400 * i, 200.0) for i in range(9)])
    exact = plan(asked).plan
    assert exact.objective.proven
    monkeypatch.setattr(bundling, "MOST_KINDS", 0)
    found = plan(asked).plan
    assert (
        found.objective.lower_bound <= exact.objective.value <= len(found.gpus) <= exact.objective.value + 1
    )


@given(st.lists(SERVICE, min_size=2, max_size=8), st.integers(0, 2))
@settings(max_examples=30)
def test_what_fits_is_in_time_in_a_simulation(
    services: list[tuple[float, float, float, float]], k: int
) -> None:
    needs = needs_in(workload([(rate, ms, 10.0, slo) for rate, ms, _, slo in services], share=True))
    members: list[int] = []
    for s in range(len(needs)):
        if needs.fits([*members, s], k):
            members.append(s)
    if not members:
        return
    of = np.array(members)
    waits = simulated_waits(needs.rate[of], needs.seconds[of, k], 100_000, 1)
    for s in members:
        # Waits follow each other closely: the share of late ones scatters more than that of independent ones.
        assert (waits > needs.slack[s, k]).mean() <= 1 - needs.quantile[s] + 0.004


def test_an_instance_is_filled_as_far_as_its_queue_allows() -> None:
    needs = needs_in(workload([(1.0, 5.0, 10.0, 100.0)] * 300))
    most = max(n for n in range(1, 300) if needs.fits(list(range(n)), 2))
    of = np.arange(most + most // 20)
    waits = simulated_waits(needs.rate[of], needs.seconds[of, 2], 400_000, 1)
    assert (waits > needs.slack[0, 2]).mean() > 0.01
    assert most > 100


def test_bundles_that_a_simulation_refutes_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = workload([(1.0, 5.0, 10.0, 100.0)] * 198)
    assert max(map(len, shared(plan(asked).plan))) < 198
    monkeypatch.setattr(
        tenants.Needs, "fits", lambda self, members, k: bool(self.able[list(members), k].all())
    )
    assert max(map(len, shared(plan(asked).plan))) == 99


def test_who_may_not_share_has_an_instance_alone() -> None:
    four = [(0.5, 2.0, 300.0, 200.0)] * 4
    asked = workload(four)
    assert shared(plan(asked).plan) == [("s0", "s1", "s2", "s3")]
    assert shared(plan(workload(four, share=False, limits=LimitsSpec(share_below=0.5))).plan) == []
    assert shared(plan(workload(four, share=None)).plan) == []


def test_a_policy_lets_services_share_that_need_little_of_an_instance() -> None:
    # On the smallest instance a batch takes 8 ms: the first two are busy 0.4 % of the time, the third 40 %.
    asked = workload(
        [(0.5, 2.0, 300.0, 200.0), (0.5, 2.0, 300.0, 200.0), (50.0, 2.0, 300.0, 200.0)],
        share=None,
        limits=LimitsSpec(share_below=0.25),
        arrivals="constant",
    )
    found = plan(asked)
    assert shared(found.plan) == [("s0", "s1")]
    assert found.sharing[-1].startswith("2 services share 1 instance, up to 2 on one")
    assert check(found.plan, asked) == []


def test_without_a_figure_of_memory_no_service_shares() -> None:
    services = [(0.5, 2.0, 300.0, 200.0)] * 2
    with pytest.raises(
        InputError, match="s0 cannot share an instance: nothing says how much memory m0 takes"
    ):
        plan(workload(services, memory=False))
    found = plan(workload(services, memory=False, share=None, limits=LimitsSpec(share_below=0.5)))
    assert shared(found.plan) == []


def test_the_memory_of_a_model_stands_in_for_rows_without_it() -> None:
    asked = workload([(0.5, 2.0, 300.0, 200.0)] * 2, memory=False)
    models = tuple(
        ModelSpec(name=f"m{i}", gflop=1, mbytes=100, weights_mb=4000, live_mb=100) for i in range(2)
    )
    known = prepare(asked.workload.replace(models=models), asked.table)
    found = plan(known).plan
    assert {each.memory_mb for g in found.gpus for i in g.instances for each in i.point.tenants} == {4100.0}
    assert check(found, known) == []


def test_a_service_that_needs_more_than_one_instance_shares_none() -> None:
    asked = workload([(5000.0, 2.0, 300.0, 200.0), (0.5, 2.0, 300.0, 200.0)])
    found = plan(asked)
    assert "s0: they need more than one instance, so they share none" in found.sharing
    assert check(found.plan, asked) == []


def test_services_that_share_stay_together_while_that_takes_no_more_gpus() -> None:
    services = [(0.5 + i / 100, 2.0, 300.0 + 20 * i, 200.0) for i in range(40)]
    first = plan(workload(services)).plan
    services[7] = (1.5, *services[7][1:])
    later = plan(workload(services), current=deployment_of(first)).plan
    assert shared(later) == shared(first)
    assert {gpu.id for gpu in later.gpus} == {gpu.id for gpu in first.gpus}


def faults_of(asked: PreparedWorkload, found: Plan, **changes: object) -> str:
    """Return what the checker says of a plan in which the first tenant of the first shared instance is changed."""
    gpu = next(gpu for gpu in found.gpus if any(i.point.tenants for i in gpu.instances))
    at = next(i for i, each in enumerate(gpu.instances) if each.point.tenants)
    instance = gpu.instances[at]
    first, *others = instance.point.tenants
    tenants = (replace(first, **changes), *others)  # type: ignore[arg-type]
    wrong = replace(instance, point=replace(instance.point, tenants=tenants))
    gpus = [each for each in found.gpus if each.id != gpu.id]
    gpus.append(replace(gpu, instances=(*gpu.instances[:at], wrong, *gpu.instances[at + 1 :])))
    return "; ".join(map(str, check(replace(found, gpus=tuple(gpus)), asked)))


def test_the_checker_finds_what_is_wrong_with_an_instance_that_is_shared() -> None:
    asked = workload([(0.5, 2.0, 300.0, 100.0)] * 3)
    found = plan(asked).plan
    assert check(found, asked) == []
    assert "would wait too long for its SLO" in faults_of(asked, found, throughput=490.0)
    assert "would keep it busy for" in faults_of(asked, found, throughput=1000.0)
    assert "memory 10 MB of s0, it takes 299.877" in faults_of(asked, found, memory_mb=10.0)
    assert "its services need 30,922 MB of memory" in faults_of(asked, found, memory_mb=30_000.0)
    assert "the table says" in faults_of(asked, found, latency_ms=1.0)
    assert "has no row for m0" in faults_of(asked, found, batch=3)
    assert "service s9 is not in the workload" in faults_of(asked, found, service="s9")
    assert "service s1 shares it with itself" in faults_of(asked, found, service="s1")
    assert "runs model m7, service s0 is m0" in faults_of(asked, found, model="m7")
    assert "wrongly marked" in faults_of(asked, found, estimated=True)
    alone = prepare(
        asked.workload.replace(services=tuple(s.replace(share=None) for s in asked.workload.services)),
        asked.table,
    )
    assert "service s0 may not share an instance" in "; ".join(map(str, check(found, alone)))
