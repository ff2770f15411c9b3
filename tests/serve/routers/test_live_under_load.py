from __future__ import annotations

import numpy as np
import pytest
from tests.serve.dispatching.rehearsal import Rehearsal
from tests.serve.live_routers import ROUTERS
from tests.serve.problems import A30, sublinear

from partita.serve.fluid import fluid_rate
from partita.serve.problem import REFUSED, ServingProblem
from partita.serve.routers.late_binding import LateBinding
from partita.serve.simulation import unit_traffic

COUNTS = np.array([3, 2, 1])
TICK = 0.2
"""Seconds between two ticks: three while the quickest query runs, twenty until a deadline."""


@pytest.mark.parametrize("load", [0.5, 0.95, 1.3])
def test_under_load_it_decides_as_the_simulated_router(load: float) -> None:
    found = sublinear()
    rate = load * fluid_rate(found, COUNTS, served=1.0).rate
    queries = unit_traffic(found, 3_000, 1).faster(rate)
    mine, pure = Rehearsal(found, COUNTS).run(queries), LateBinding.on(found, COUNTS)(queries)
    np.testing.assert_array_equal(mine.instance, pure.instance)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("load", [0.8, 1.2, 1.6, 3.0])
def test_joining_answers_at_least_as_many_in_time(router: str, load: float) -> None:
    found = sublinear()
    rate = load * fluid_rate(found, COUNTS, served=1.0).rate
    queries = unit_traffic(found, 1_000, 2).faster(rate)
    alone = Rehearsal(found, COUNTS, router=router, early=True).run(queries, tick=TICK)
    joined = Rehearsal(found, COUNTS, router=router, batching=True, early=True, most_batch=16)
    outcome = joined.run(queries, tick=TICK)
    assert outcome.attainment(found.deadline) >= alone.attainment(found.deadline) - 0.01


@pytest.mark.parametrize("router", ["late-binding", "price", "elsa"])
def test_what_is_answered_is_in_time_however_much_comes(router: str) -> None:
    found = sublinear()
    rate = 4.0 * fluid_rate(found, COUNTS, served=1.0).rate
    queries = unit_traffic(found, 2_000, 3).faster(rate)
    seen = Rehearsal(found, COUNTS, router=router, batching=True, early=True).run(queries, tick=TICK)
    answered = seen.latency[seen.instance != REFUSED]
    assert len(answered) > 300
    assert (answered <= found.deadline * 1.001).all()


@pytest.mark.parametrize("load", [1.3, 2.0])
def test_joining_pays_where_a_batch_costs_little_more_than_one(load: float) -> None:
    batch = np.arange(1, 17)
    latency = np.array([(1.0 + 0.1 * batch) / slices**0.5 for slices in (1, 2, 4)])
    found = ServingProblem(A30, 1, latency, np.eye(16)[0], 6.0)
    queries = unit_traffic(found, 3_000, 4).faster(load * fluid_rate(found, COUNTS, served=1.0).rate)
    alone = Rehearsal(found, COUNTS, early=True).run(queries, tick=TICK)
    joined = Rehearsal(found, COUNTS, early=True, batching=True).run(queries, tick=TICK)
    assert alone.attainment(found.deadline) < 0.8
    assert joined.attainment(found.deadline) > 0.99
