from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.reserving.cases import cut_service

from partita.deadline import Deadline
from partita.errors import InfeasibleError, PartitaError
from partita.serve.fluid import fluid_gpus, fluid_rate
from partita.serve.reserving.reservation import MOST_GPUS, fewest, least_gpus, most_held
from partita.serve.routers.late_binding import LateBinding
from partita.serve.simulation import unit_traffic
from partita.workload import Batches

DEADLINE = Deadline()


@given(st.floats(10.0, 400.0), st.sampled_from([0.9, 0.95, 1.0]))
@settings(max_examples=20, deadline=None)
def test_the_fluid_number_of_gpus_is_the_smallest_of_all_cuts(rate: float, served: float) -> None:
    problem = cut_service().offers[0].problem
    found = fluid_gpus(problem, rate, served=served)

    def best(gpus: int) -> float:
        return max(
            fluid_rate(problem, np.array(cut).sum(axis=0), served=served).rate
            for cut in combinations_with_replacement(problem.multisets, gpus)
        )

    if found <= 5:
        assert best(found) >= rate * (1 - 1e-6)
    if 1 < found <= 6:
        assert best(found - 1) < rate * (1 + 1e-6)


@pytest.mark.parametrize("cut", ["search", "fluid", "homogeneous", "paris"])
@pytest.mark.parametrize("rate", [200.0, 2500.0])
def test_what_is_found_holds_the_rate_on_other_traffic_and_one_gpu_less_does_not(
    cut: str, rate: float
) -> None:
    service = cut_service(cut=cut, rate=rate)
    offer = service.offers[0]
    found = fewest(service, offer, None, DEADLINE)
    assert found.held is not None
    gpus = len(found.held.cut.gpus)
    assert gpus >= found.least == least_gpus(service, offer.problem)
    assert found.held.rate >= service.rate
    serve = LateBinding.on(offer.problem.with_gpus(gpus), found.held.cut.counts)
    unseen = unit_traffic(offer.problem, 40_000, 77)
    assert serve(unseen.faster(service.rate)).attainment(offer.problem.deadline) >= 0.945
    less = most_held(service, offer, gpus - 1, DEADLINE) if gpus > 1 else None
    assert less is None or less.rate < service.rate


def test_replicas_and_nodes_ask_for_more_gpus_than_the_rate() -> None:
    service = cut_service(rate=10, min_replicas=9)
    found = fewest(service, service.offers[0], None, DEADLINE).held
    assert found is not None
    assert found.cut.counts.sum() >= 9
    spread = cut_service(rate=10, spread=3)
    found = fewest(spread, spread.offers[0], None, DEADLINE).held
    assert found is not None
    assert len(found.cut.gpus) >= 3


def test_with_too_few_gpus_nothing_is_found_but_what_they_hold_is_known() -> None:
    service = cut_service(rate=2500)
    offer = service.offers[0]
    assert fewest(service, offer, 2, DEADLINE).held is None
    held = most_held(service, offer, 2, DEADLINE)
    assert held is not None
    assert 0 < held.rate < service.rate


def test_a_rate_beyond_what_can_be_simulated_is_told() -> None:
    service = cut_service(rate=1e9)
    with pytest.raises(InfeasibleError, match=f"more than {MOST_GPUS} by simulation"):
        fewest(service, service.offers[0], None, DEADLINE)


def test_the_cut_that_runs_is_kept_where_it_is_as_good() -> None:
    service = cut_service(cut="search")
    offer = service.offers[0]
    first = fewest(service, offer, None, DEADLINE).held
    assert first is not None
    # Another cut of as many GPUs that holds the rate, if there is one.
    for other in ("homogeneous", "fluid"):
        held = most_held(replace(service, cut=other), offer, len(first.cut.gpus), DEADLINE)
        if held is not None and held.rate >= service.rate:
            kept = fewest(service, offer, None, DEADLINE, keep=held.cut).held
            assert kept is not None
            assert kept.cut == held.cut
    small = cut_service(cut="search", batches=Batches(histogram={8: 1.0}))
    kept = fewest(small, small.offers[0], None, DEADLINE, keep=first.cut).held
    assert kept is not None
    assert kept.rate >= small.rate


def test_no_time_is_said_and_not_made_up_for() -> None:
    service = cut_service(rate=2500, cut="paris")
    with pytest.raises(PartitaError, match="no plan was found in the time there was"):
        fewest(service, service.offers[0], None, Deadline(stop=lambda: True))
