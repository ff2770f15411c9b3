"""The checker holds every GPU to a pool that its services may use, and no pool to more than it has."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from benchmarks.checked import faults
from hypothesis import given
from hypothesis import strategies as st
from tests.planning.problems import A30, problem

from partita.mig.layout import Placement
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver
from partita.planning.problem import Pool, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence


NAMES = ("p0", "p1", "p2")


def asked(counts: Sequence[int | None], allowed: Sequence[Sequence[str]]) -> Problem:
    """One service for each list of pools that it may use, at a rate of one slice each."""
    made = problem(
        [Pool(name, A30, n, 1) for name, n in zip(NAMES, counts, strict=True)],
        {f"s{i}": (1.0, {"4g.24gb": 1.0}) for i in range(len(allowed))},
    )
    services = []
    for service, names in zip(made.services, allowed, strict=True):
        points = tuple(
            point if NAMES[size.pool] in names else None
            for point, size in zip(service.points, made.sizes, strict=True)
        )
        services.append(replace(service, points=points))
    return made.with_services(tuple(services))


def plan(wanted: Problem, pools: Sequence[str]) -> Plan:
    """A whole GPU for each service, each in the pool named, empty for one that does not say."""
    gpus = []
    for n, (service, pool) in enumerate(zip(wanted.services, pools, strict=True)):
        point = next(each for each in service.points if each)
        one = Instance(Placement(0, "4g.24gb"), service.name, service.model, point)
        gpus.append(PlannedGpu(f"node-{n}/gpu-0", A30.name, (one,), pool))
    services = tuple(ServiceCapacity(s.name, 1.0, 1.0, 100.0) for s in wanted.services)
    return Plan(Objective("gpus", len(gpus), 1), Solver("exact", 0, 0.0), services, tuple(gpus))


def can_stand(counts: Sequence[int | None], allowed: Sequence[Sequence[str]], pools: Sequence[str]) -> bool:
    """Try every way to put each GPU into a pool."""
    for chosen in product(NAMES, repeat=len(allowed)):
        right = all(
            name in names and said in ("", name)
            for name, names, said in zip(chosen, allowed, pools, strict=True)
        )
        if right and all(n is None or chosen.count(name) <= n for name, n in zip(NAMES, counts, strict=True)):
            return True
    return False


SOME = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)


@given(
    st.lists(st.sampled_from([1, 1, 2, None]), min_size=3, max_size=3),
    st.lists(st.tuples(SOME, st.sampled_from(["", "", *NAMES])), min_size=1, max_size=4),
)
def test_it_objects_where_no_way_to_put_the_gpus_into_pools_is_left(
    counts: list[int | None], drawn: list[tuple[list[str], str]]
) -> None:
    allowed, pools = [names for names, _ in drawn], [said for _, said in drawn]
    wanted = asked(counts, allowed)
    assert (faults(plan(wanted, pools), wanted) == []) == can_stand(counts, allowed, pools)


def test_it_says_which_services_share_no_pool() -> None:
    wanted = asked([1, 1, 1], [["p0"]])
    told = [str(fault) for fault in faults(plan(wanted, ["p1"]), wanted)]
    assert told == ["node-0/gpu-0: no pool of a30-24gb is open to all its services (s0)"]
    told = [str(fault) for fault in faults(plan(wanted, ["other"]), wanted)]
    assert told == ["node-0/gpu-0: the workload has no pool other of a30-24gb"]


def test_it_counts_each_pool() -> None:
    wanted = asked([1, 2, 2], [["p0"], ["p0"]])
    told = [str(fault) for fault in faults(plan(wanted, ["p0", "p0"]), wanted)]
    assert told == ["p0: 2 GPUs used of 1"]
