from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.test_live_simulation import queries, simulated, worker

from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.perf.operating_point import batch_times
from partita.perf.table import Measurement, PerfTable
from partita.planner import PreparedWorkload, check, plan, prepare
from partita.planning.formulate import formulate
from partita.serve.problem import TICK
from partita.serve.routers.joined import Servers, count_late, serve
from partita.serve.waiting import CapacityModel, InstanceKind, Promise
from partita.transition.between import with_room
from partita.transition.deployment import deployment_of
from partita.transition.moves import moves_between, total_moves
from partita.verification.outcome import Trial, Verdict
from partita.verification.plan_simulation import simulate_plan
from partita.workload import ArrivalsSpec, GammaArrivals, PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from partita.planning.formulate import Measured, Points

ONES = np.ones(1)
SIZES = ("1g.10gb", "2g.20gb", "3g.40gb", "7g.80gb")


def row(profile: str, batch: int, latency_ms: float, quantile: str = "mean") -> Measurement:
    throughput = batch / latency_ms * 1000
    return Measurement("m", "a100-80gb", profile, batch, 1, throughput, latency_ms, quantile)


def table() -> PerfTable:
    """Return a model that gains from batches, and from slices less than in proportion."""
    return PerfTable(
        [
            row(name, batch, 4.0 + batch * 8.0 / slices**0.85)
            for name, slices in zip(SIZES, (1, 2, 3, 7), strict=True)
            for batch in (1, 2, 4, 8, 16, 32)
        ]
    )


def workload(*services: ServiceSpec) -> Workload:
    return Workload(gpus=(PoolSpec(model="a100-80gb"),), services=services)


def service(name: str, rate: float, latency_ms: float, quantile: float = 0.95) -> ServiceSpec:
    return ServiceSpec(name=name, model="m", rate=rate, slo=Slo(latency_ms=latency_ms, quantile=quantile))


def model() -> CapacityModel:
    return CapacityModel(prepare(workload(service("a", 1.0, 1000.0)), table()).formulation.measured)


# The simulation that capacities come from


@pytest.mark.parametrize(
    "groups",
    [
        [("1g.10gb", 1, 1, {1: 0.10})],
        [("1g.10gb", 3, 8, {1: 0.05, 8: 0.2})],
        [("1g.10gb", 2, 4, {1: 0.12, 4: 0.3}), ("7g.80gb", 1, 16, {1: 0.02, 16: 0.1})],
        [("2g.20gb", 2, 2, {1: 0.05, 2: 0.09}), ("3g.40gb", 2, 32, {1: 0.03, 8: 0.05, 32: 0.21})],
    ],
)
@pytest.mark.parametrize("load", [0.7, 1.0])
def test_decides_as_the_gateway_does(
    groups: list[tuple[str, int, int, Mapping[int, float]]], load: float
) -> None:
    deadline, count = 0.35, 4000
    workers = [
        worker(number, seconds, profile, batch, processes)
        for number, (profile, processes, batch, seconds) in enumerate(groups)
    ]
    rate = load * sum(n * batch / seconds[batch] for _, n, batch, seconds in groups)
    live = simulated(workers, queries(rate, 5), deadline, count)
    took = serve(queries(rate, 5).next(count).arrival, servers(groups), deadline, ONES)
    theirs = live.latency[:count]
    # Up to the first refusal all is equal: the gateway drops what is hopeless at its next tick, not at once.
    differ = np.flatnonzero(~np.isclose(took, theirs, rtol=0.0, atol=1e-6))
    refused = np.flatnonzero(np.isinf(took) | np.isinf(theirs))
    assert differ.min(initial=count) >= min(refused.min(initial=count), count) - 32
    assert abs(np.mean(took <= deadline + 1e-9) - np.mean(theirs <= deadline + 1e-8)) < 0.02


def servers(groups: Sequence[tuple[str, int, int, Mapping[int, float]]]) -> Servers:
    most = max(batch for _, _, batch, _ in groups)
    seconds = np.full((len(groups), most + 1), np.inf)
    for at, (_, _, batch, known) in enumerate(groups):
        seconds[at, : batch + 1] = np.interp(np.arange(batch + 1), list(known), list(known.values()))
    return Servers(seconds, np.array([each[2] for each in groups]), np.array([each[1] for each in groups]))


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.lists(st.floats(0.001, 0.5), min_size=1, max_size=40),
    st.floats(0.3, 2.0),
)
def test_answers_nobody_early_or_late(lanes: int, most: int, gaps: list[float], deadline: float) -> None:
    seconds = np.array([[0.0, *(0.1 + 0.05 * b for b in range(1, most + 1))]])
    took = serve(np.cumsum(gaps), Servers(seconds, np.array([most]), np.array([lanes])), deadline, ONES)
    answered = took[np.isfinite(took)]
    assert (answered >= seconds[0, 1] - 1e-9).all()
    assert (answered <= deadline + 1e-9).all()


@given(
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.floats(0.5, 1.3),
    st.integers(0, 300),
    st.integers(0, 400),
)
def test_late_queries_are_counted_as_they_are_answered_and_no_further_than_matters(
    seed: int, groups: int, load: float, first: int, most: int
) -> None:
    rng = np.random.default_rng(seed)
    largest, lanes = rng.integers(1, 9, groups), rng.integers(1, 5, groups)
    batches = np.arange(int(largest.max()) + 1)
    seconds = rng.uniform(0.005, 0.05, (groups, 1)) + batches * rng.uniform(0.001, 0.02, (groups, 1))
    seconds[batches[None, :] > largest[:, None]] = np.inf
    asked = Servers(seconds, largest, lanes)
    rate = load * float((lanes * largest / seconds[np.arange(groups), largest]).sum())
    arrivals, jitter = np.cumsum(rng.exponential(1 / rate, 600)), np.exp(rng.normal(0.0, 0.1, 101))
    deadline = float(rng.uniform(0.05, 0.3))
    took = serve(arrivals, asked, deadline, jitter)[first:]
    late = int(np.count_nonzero(took > deadline + TICK))
    found = count_late(arrivals, asked, deadline, jitter, first, most, deadline + TICK)
    assert min(found, most + 1) == min(late, most + 1)


# Capacities


def kind(jitter: float = 0.0, most: int = 16) -> InstanceKind:
    return InstanceKind(1, (0.0, *(0.01 + 0.005 * b for b in range(1, most + 1))), 1, jitter)


def test_more_instances_hold_more_each_and_never_more_than_arithmetic() -> None:
    found, promise = model(), Promise(0.15, 0.99, "poisson")
    each = [found.holds(kind(), n, promise) / n for n in (1, 2, 4, 16, 64)]
    assert each == sorted(each)
    assert each[0] < 0.97 * each[-1]
    assert each[-1] <= kind().arithmetic


def test_a_stricter_promise_bursts_and_jitter_cost_capacity() -> None:
    found = model()

    def held(share: float = 0.95, process: object = "poisson", jitter: float = 0.0) -> float:
        return found.holds(kind(jitter), 2, Promise(0.12, share, process))  # type: ignore[arg-type]

    assert held(0.99) < held(0.95)
    assert held(process=ArrivalsSpec(gamma=GammaArrivals(cv=4))) < 0.9 * held()
    assert held(jitter=0.2) < held()
    assert held(process="constant") > held()


def test_a_trace_that_changes_is_read_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"

    def held(gaps: list[float]) -> float:
        times = np.cumsum(gaps * 100)
        trace.write_text("seconds,batch\n" + "".join(f"{time:.3f},1\n" for time in times))
        process = ArrivalsSpec(trace=str(trace))
        return model().holds(kind(), 2, Promise(0.15, 0.95, process))

    steady, bursty = held([0.1] * 10), held([0.001] * 199 + [20.0])
    assert bursty < 0.9 * steady
    assert held([0.1] * 10) == steady


def test_bursts_that_no_instance_holds_are_named() -> None:
    bursts = service("a", 50.0, 100.0).replace(arrivals=ArrivalsSpec(gamma=GammaArrivals(cv=100)))
    with pytest.raises(InfeasibleError, match=r"too many come at once \(`arrivals`\)") as error:
        prepare(workload(bursts), table())
    assert error.value.hint == "raise slo.latency_ms, or lower the quantile"


def test_what_takes_too_long_alone_holds_nothing() -> None:
    assert model().holds(kind(), 4, Promise(0.014, 0.9, "poisson")) == 0.0


@pytest.mark.parametrize(
    ("quantiles", "asked", "used", "jitter"),
    [
        (["mean"], 0.99, "mean", 0.05),
        (["0.9", "0.99"], 0.9, "0.9", 0.0),
        (["0.9"], 0.99, "0.9", 0.05),
        (["0.99"], 0.9, "0.99", 0.0),
        (["mean", "0.99"], 0.9, "mean", math.log(1.2) / 2.3263),
    ],
)
def test_batch_times_are_means_with_what_is_known_of_their_spread(
    quantiles: list[str], asked: float, used: str, jitter: float
) -> None:
    rows = [row("1g.10gb", 1, 12.0 if q == "0.99" else 10.0, quantile=q) for q in quantiles]
    taken, spread = batch_times(rows, asked)
    assert [each.quantile for each in taken] == [used]
    assert spread == pytest.approx(jitter, abs=1e-4)


# Plans


def kept(prepared: PreparedWorkload) -> None:
    """Assert that a plan keeps its promises in the simulation of the gateway's own code."""
    found = plan(prepared)
    assert check(found.plan, prepared) == []
    seen = simulate_plan(found.plan, prepared, Trial(queries=6000, jitter=0.05, processes=1))
    assert not [each for each in seen.services if each.verdict is Verdict.BROKEN]


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_a_plan_keeps_its_promises(data: st.DataObject) -> None:
    services = [
        service(
            f"s{index}",
            data.draw(st.floats(5.0, 1500.0)),
            data.draw(st.sampled_from([40.0, 80.0, 300.0])),
            data.draw(st.sampled_from([0.9, 0.99])),
        )
        for index in range(data.draw(st.integers(1, 3)))
    ]
    kept(prepare(workload(*services), table()))


def test_a_lower_rate_has_less_of_the_gains_of_pooling() -> None:
    prepared = prepare(workload(service("a", 3000.0, 60.0, 0.99)), table())
    lower = prepared.at({"a": 30.0}, {}, {"a100-80gb": 10}).problem
    assert (lower.throughput < prepared.problem.throughput).any()
    assert (lower.throughput <= prepared.problem.throughput + 1e-9).all()
    assert prepared.at({"a": 3000.0}, {}, {"a100-80gb": 10}).problem.throughput == pytest.approx(
        prepared.problem.throughput
    )


def test_what_is_not_planned_has_the_throughput_of_its_table() -> None:
    asked = workload(service("a", 3000.0, 60.0, 0.99))
    served = prepare(asked, table(), to_plan=False)
    assert (served.problem.throughput > prepare(asked, table()).problem.throughput).any()
    with pytest.raises(AssertionError, match="not prepared"):
        plan(served)


class Boaster(CapacityModel):
    """Says that instances hold a half more than they do."""

    def points(self, service: ServiceSpec, rate: float, deadline: Deadline | None = None) -> Points:
        found = super().points(service, rate, deadline)
        return {at: replace(point, throughput=1.5 * point.throughput) for at, point in found.items()}


def test_a_plan_that_falls_short_in_simulation_is_made_again() -> None:
    asked = workload(service("a", 700.0, 60.0), service("b", 350.0, 80.0))
    honest = prepare(asked, table())

    def boasting(measured: Measured) -> Boaster:
        return Boaster(measured)

    prepared = replace(honest, formulation=formulate(asked, table(), boasting))
    found = plan(prepared)
    assert any("unlike instances hold less together" in note for note in found.notes)
    assert found.plan.objective.value >= plan(honest).plan.objective.value
    assert found.plan.objective.lower_bound <= plan(honest).plan.objective.value
    seen = simulate_plan(found.plan, honest, Trial(queries=6000, jitter=0.05, processes=1))
    assert not [each for each in seen.services if each.verdict is Verdict.BROKEN]


def test_a_plan_from_what_runs_that_falls_short_in_simulation_is_made_again() -> None:
    asked = workload(service("a", 700.0, 60.0), service("b", 350.0, 80.0))
    honest = prepare(asked, table())
    before = workload(service("a", 500.0, 60.0), service("b", 350.0, 80.0))
    runs = deployment_of(plan(prepare(before, table())).plan)
    prepared = replace(honest, formulation=formulate(asked, table(), Boaster))
    found = plan(prepared, current=runs)
    assert found.plan.moves is not None
    assert found.plan.moves.count == total_moves(
        moves_between(with_room(runs, found.plan, honest.problem.pools), deployment_of(found.plan))
    )
    seen = simulate_plan(found.plan, honest, Trial(queries=6000, jitter=0.05, processes=1))
    assert not [each for each in seen.services if each.verdict is Verdict.BROKEN]


def test_where_time_is_over_instances_count_with_less_and_a_plan_keeps_its_promises() -> None:
    asked = workload(service("a", 700.0, 60.0), service("b", 35.0, 80.0, 0.99), service("c", 5000.0, 300.0))
    hurried, unhurried = prepare(asked, table(), deadline=Deadline(0.0)), prepare(asked, table())
    assert (hurried.problem.throughput <= unhurried.problem.throughput).all()
    assert (hurried.problem.throughput > 0.0).any(axis=1).all()
    (said,) = set(hurried.formulation.notes) - set(unhurried.formulation.notes)
    assert said.startswith("a, b, c: there was no time to simulate all")
    kept(hurried)


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    asked = workload(service("a", 700.0, 60.0), service("b", 350.0, 80.0))
    limited, unlimited = prepare(asked, table(), deadline=Deadline(1e6)), prepare(asked, table())
    assert (limited.problem.throughput == unlimited.problem.throughput).all()
    assert limited.formulation.notes == unlimited.formulation.notes


def test_who_watches_is_told_which_service_is_simulated() -> None:
    told: list[str] = []
    asked = workload(service("a", 700.0, 60.0), service("b", 350.0, 80.0))
    prepare(asked, table(), deadline=Deadline(report=lambda progress: told.append(progress.doing)))
    assert told == [f"simulating waiting queries, service {n} of 2" for n in (1, 2)]


def test_notes_say_what_is_assumed_of_batches() -> None:
    found = plan(prepare(workload(service("a", 10.0, 100.0)), table()))
    assert any("latencies on a100-80gb are means; batches vary around them by 5.0%" in n for n in found.notes)
