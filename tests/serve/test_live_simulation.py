from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.serve.problems import sublinear

from partita.serve.dispatching.turns import InstanceTurns
from partita.serve.gateway.route import ServedService
from partita.serve.live_simulation import LiveSimulation, SimulatedTime, Traffics, run_together
from partita.serve.routers import live_router
from partita.serve.routers.late_binding import LateBinding
from partita.serve.worker.spec import EmulatedSpec, WorkerSpec
from partita.sim.traffic import Traffic, draw, poisson

if TYPE_CHECKING:
    from collections.abc import Mapping


def worker(
    number: int, seconds: Mapping[int, float], profile: str = "1g.10gb", batch: int = 1, processes: int = 1
) -> WorkerSpec:
    return WorkerSpec(
        "one", "m", f"node-0/gpu-{number}", f"{profile}@0", batch, EmulatedSpec(), "x",
        processes=processes, seconds=dict(seconds),
    )  # fmt: skip


def queries(rate: float, seed: int, shares: Mapping[int, float] | None = None) -> Traffics:
    rng, last, known = np.random.default_rng(seed), 0.0, dict(shares or {1: 1.0})
    share = np.array([known.get(size, 0.0) for size in range(1, max(known) + 1)])

    def following(count: int) -> Traffic:
        nonlocal last
        times = last + poisson(rate, count, rng)
        last = float(times[-1])
        return Traffic(times, draw(share, count, rng))

    return Traffics(following, known)


def simulated(
    workers: list[WorkerSpec],
    traffic: Traffics,
    deadline: float,
    count: int,
    *,
    jitter: float = 0.0,
    seed: int = 0,
) -> LiveSimulation:
    router = live_router("late-binding")
    made = LiveSimulation(
        ServedService("one", "m", deadline), workers, traffic, router, jitter=jitter, seed=seed
    )
    made.run(count, lambda: False)
    return made


def in_time(made: LiveSimulation, deadline: float, count: int) -> float:
    return float(np.mean(made.latency[:count] <= deadline + 1e-9))


@pytest.mark.parametrize(("load", "slots"), [(0.5, 2), (0.8, 6)])
def test_one_instance_answers_as_many_in_time_as_the_formula_of_m_d_1(load: float, slots: int) -> None:
    """A query is served if it waits no longer than its slack; the work up to there is distributed as in M/D/1.

    The share is U / (1 + load U), U the unnormalised distribution of the waiting time at the slack. The gateway
    refuses some on arrival that would just have been in time, and has a little less for it.
    """
    seconds, slack = 0.01, 0.01 * (slots - 1)
    rate = load / seconds
    terms = (
        math.exp(rate * (slack - i * seconds)) * (-rate * (slack - i * seconds)) ** i / math.factorial(i)
        for i in range(slots)
    )
    total = sum(terms)
    count = 6000
    made = simulated([worker(0, {1: seconds})], queries(rate, 1), slots * seconds, count)
    assert in_time(made, slots * seconds, count) == pytest.approx(total / (1 + load * total), abs=0.015)


def test_one_instance_without_joining_does_what_a_queue_written_by_hand_does() -> None:
    count, seconds, deadline = 2000, 0.01, 0.6  # so long that none is refused on arrival
    made = simulated([worker(0, {1: seconds})], queries(80.0, 3), deadline, count)
    free, expected = 0.0, []
    for arrival in queries(80.0, 3).next(4096).arrival[:count].tolist():
        start = max(free, arrival)
        if start + seconds > arrival + deadline:
            expected.append(math.inf)
        else:
            free = start + seconds
            expected.append(free - arrival)
    assert np.allclose(made.latency[:count], expected)


def test_unlike_slices_without_joining_hold_what_the_compiled_router_holds() -> None:
    sizes = {5: 0.25, 6: 0.25, 7: 0.25, 8: 0.25}  # no two of which fit into a batch of 8
    asked = replace(sublinear(deadline=10.0), share=np.array([sizes.get(size, 0.0) for size in range(1, 9)]))
    counts, count = np.array([3, 2, 1]), 3000
    workers = [
        worker(number, dict(enumerate(asked.latency[size].tolist(), 1)), asked.profiles[size], batch=8)
        for number, size in enumerate(np.repeat(np.arange(3), counts).tolist())
    ]
    rate = 1.15
    made = simulated(workers, queries(rate, 7, sizes), asked.deadline, count)
    compiled = LateBinding.on(asked, counts)(queries(rate, 7, sizes).next(4096))
    there = float(np.mean(compiled.latency[:count] <= asked.deadline + 1e-9))
    assert 0.8 < there < 0.99
    assert in_time(made, asked.deadline, count) == pytest.approx(there, abs=0.015)


def test_joined_batches_hold_a_rate_that_single_queries_do_not() -> None:
    table = {1: 0.010, 4: 0.014, 8: 0.02}
    alone = simulated([worker(0, table)], queries(250.0, 5), 0.05, 4000)
    joined = simulated([worker(0, table, batch=8)], queries(250.0, 5), 0.05, 4000)
    assert in_time(alone, 0.05, 4000) < 0.45
    assert in_time(joined, 0.05, 4000) > 0.95


def test_processes_of_an_instance_run_side_by_side() -> None:
    one = simulated([worker(0, {1: 0.02})], queries(70.0, 5), 0.1, 3000)
    two = simulated([worker(0, {1: 0.02}, processes=2)], queries(70.0, 5), 0.1, 3000)
    assert in_time(one, 0.1, 3000) < 0.75
    assert in_time(two, 0.1, 3000) > 0.98


def test_a_query_of_more_rows_than_a_worker_takes_is_split_as_the_gateway_does() -> None:
    made = simulated([worker(n, {1: 0.01}, batch=1) for n in range(4)], queries(1.0, 5, {3: 1.0}), 0.05, 50)
    assert np.median(made.latency[:50]) == pytest.approx(0.01)


def test_jitter_keeps_the_mean_and_costs_promises_and_a_seed_gives_the_same_again() -> None:
    table = {1: 0.010, 8: 0.02}
    runs = [
        simulated([worker(0, table, batch=8)], queries(300.0, 5), 0.06, 2000, jitter=jitter, seed=seed)
        for jitter, seed in ((0.0, 1), (0.4, 1), (0.4, 1), (0.4, 2))
    ]
    steady, spread, again, other = (each.latency[:2000] for each in runs)
    assert np.array_equal(spread, again)
    assert not np.array_equal(spread, other)
    assert np.mean(spread <= 0.06) < np.mean(steady <= 0.06)


def test_services_that_share_an_instance_wait_for_each_other_in_order_of_arrival() -> None:
    """Two of half a rate each are one queue, as far as nothing is joined and nobody is late."""
    seconds, count = 0.01, 600
    turns, time = InstanceTurns(), SimulatedTime()
    halves = [queries(40.0, seed) for seed in (1, 2)]
    made = [
        LiveSimulation(
            ServedService(name, "m", 1.0),
            [worker(0, {1: seconds}).replace(service=name)],
            traffic,
            live_router("late-binding"),
            turns=[turns],
            time=time,
        )
        for name, traffic in zip("ab", halves, strict=True)
    ]
    run_together(made, [count, count], lambda: False)
    arrivals = np.concatenate([queries(40.0, seed).next(4096).arrival[: count + 100] for seed in (1, 2)])
    owner = np.repeat([0, 1], count + 100)
    free, expected = 0.0, {0: [], 1: []}  # type: tuple[float, dict[int, list[float]]]
    for at in np.argsort(arrivals, kind="stable").tolist():
        free = max(free, arrivals[at]) + seconds
        expected[owner[at]].append(free - arrivals[at])
    for own, simulation in enumerate(made):
        assert np.allclose(simulation.latency[: count // 2], expected[own][: count // 2])


def test_going_on_gives_the_queries_that_one_long_run_gives() -> None:
    made = simulated([worker(0, {1: 0.01})], queries(80.0, 3), 0.05, 500)
    made.run(1500, lambda: False)
    once = simulated([worker(0, {1: 0.01})], queries(80.0, 3), 0.05, 1500)
    assert np.array_equal(made.latency[:1500], once.latency[:1500])


def test_it_stops_where_it_is_told_to() -> None:
    made = LiveSimulation(
        ServedService("one", "m", 0.05), [worker(0, {1: 0.01})], queries(80.0, 3), live_router("fifs")
    )
    made.run(1_000_000_000, lambda: True)
    assert len(made.latency) < 10_000
