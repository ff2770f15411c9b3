from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.serve.problems import A100, problem, sublinear

from partita.errors import InfeasibleError
from partita.serve.cuts import (
    BestHomogeneous,
    FluidCut,
    Homogeneous,
    Paris,
    RandomCut,
    Search,
    nearest_cut,
    starts,
)
from partita.serve.fluid import fluid_rate
from partita.serve.problem import ServingCut, size_classes
from partita.serve.reserving.check import most_queries
from partita.serve.routers.bound import Elsa
from partita.serve.routers.late_binding import LateBinding
from partita.serve.simulation import keeps, largest_rate, unit_traffic
from partita.workload import ArrivalsSpec, GammaArrivals

if TYPE_CHECKING:
    from pathlib import Path

    from partita.serve.problem import Multiset, ServingProblem

SMALL = Search(queries=2_000, rounds=3, tries=4)


def by_hand() -> ServingProblem:
    # Peak rates: 1g 2/s at every batch size above 1 (knee 2), 2g 4/s at 3 and 4 (knee 3), 4g 8/s at 4 alone (knee 4).
    return problem(
        [[0.9, 1.0, 1.5, 2.0], [0.8, 0.8, 0.75, 1.0], [0.8, 0.8, 0.5, 0.5]], [0.4, 0.3, 0.2, 0.1], 4.0, gpus=3
    )


def test_paris_knees_are_where_a_size_first_reaches_80_percent_of_its_peak() -> None:
    assert Paris().knees(by_hand()).tolist() == [2, 3, 4]


def test_paris_divides_the_slices_by_the_work_each_size_owns() -> None:
    # 1g owns 1 and 2: 0.4 x 0.9 + 0.3 x 1 = 0.66; 2g owns 3: 0.2 x 0.75 = 0.15; 4g owns 4: 0.1 x 0.5 = 0.05.
    # 12 slices over 1 x 0.66 + 2 x 0.15 + 4 x 0.05 = 1.16.
    assert Paris().instances(by_hand()) == pytest.approx(
        [0.66 * 12 / 1.16, 0.15 * 12 / 1.16, 0.05 * 12 / 1.16]
    )


def test_paris_takes_the_legal_cut_nearest_to_that() -> None:
    wanted = Paris().instances(by_hand())
    cut = Paris().cut(by_hand())
    every = [ServingCut.of(each) for each in _triples(by_hand().multisets)]

    def off(each: ServingCut) -> float:
        return float(np.abs(each.counts - wanted) @ by_hand().compute)

    assert off(cut) == pytest.approx(min(map(off, every)))


def _triples(multisets: tuple[Multiset, ...]) -> list[tuple[Multiset, ...]]:
    return [(a, b, c) for a in multisets for b in multisets for c in multisets]


def test_paris_refuses_batch_sizes_that_their_owner_cannot_run() -> None:
    found = problem([[1.0, np.inf], [1.0, np.inf], [1.0, np.inf]], [0.5, 0.5], 4.0)
    with pytest.raises(InfeasibleError, match="cannot run"):
        Paris().cut(found)


def test_homogeneous_cuts_have_as_many_of_one_size_as_fit() -> None:
    found = problem([[1.0]] * 5, [1.0], 2.0, gpus=2)
    assert [Homogeneous(k).cut(found).counts.tolist() for k in range(5)] == [
        [14, 0, 0, 0, 0],
        [0, 6, 0, 0, 0],
        [0, 0, 4, 0, 0],
        [0, 0, 0, 2, 0],
        [0, 0, 0, 0, 2],
    ]


def test_the_best_homogeneous_cut_is_that_of_the_size_that_holds_most() -> None:
    flat = problem([[1.0]] * 3, [1.0], 4.0)
    whole = problem([[3.9], [3.9], [0.1]], [1.0], 4.0)
    assert BestHomogeneous(LateBinding).cut(flat).counts.tolist() == [4, 0, 0]
    assert BestHomogeneous(Elsa).cut(whole).counts.tolist() == [0, 0, 1]


def test_random_cuts_are_maximal_and_repeat_with_their_seed() -> None:
    found = problem([[1.0]] * 5, [1.0], 2.0, gpus=4)
    cut = RandomCut(3).cut(found)
    assert cut == RandomCut(3).cut(found) != RandomCut(4).cut(found)
    assert all(layout.maximal for layout in cut.layouts(A100))


@pytest.mark.parametrize(
    "cutter", [Paris(), FluidCut(), RandomCut(), SMALL], ids=lambda each: type(each).__name__
)
def test_every_cut_is_legal_and_uses_all_gpus(cutter) -> None:
    found = sublinear(gpus=3)
    layouts = cutter.cut(found).layouts(found.gpu)
    assert len(layouts) == 3
    assert sum(map(len, layouts)) == cutter.cut(found).counts.sum()


@pytest.mark.parametrize("deadline", [3.0, 4.0, 8.0])
def test_search_is_never_worse_than_its_best_start(deadline: float) -> None:
    found = sublinear(gpus=2, deadline=deadline)
    traffic = [unit_traffic(found, SMALL.queries, seed) for seed in SMALL.seeds]

    def rate(cut: ServingCut) -> float:
        guess = fluid_rate(found, cut.counts, served=found.quantile).rate
        serve = SMALL.router.on(found, cut.counts)
        return largest_rate(lambda rate: keeps(found, serve, traffic, rate), guess) if guess else 0.0

    assert rate(SMALL.cut(found)) >= max(map(rate, starts(found))) * 0.995


def test_search_says_when_nothing_can_be_in_time() -> None:
    with pytest.raises(InfeasibleError, match="no cut answers 95%"):
        SMALL.cut(sublinear(deadline=0.1))


def test_nearest_cut_returns_what_is_legal_already() -> None:
    found = problem([[1.0]] * 5, [1.0], 2.0, gpus=2)
    legal = RandomCut(5).cut(found)
    assert nearest_cut(found, legal.counts.astype(float)).counts.tolist() == legal.counts.tolist()


def test_a_search_for_each_size_finds_nearly_the_best_of_all_cuts_of_two_gpus() -> None:
    share = np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05])
    found = replace(sublinear(gpus=2, deadline=3.2), share=share, classes=size_classes(share), quantile=0.9)
    traffic = [unit_traffic(found, 6_000, seed) for seed in (5, 6)]

    def rate(cut: ServingCut) -> float:
        serve = LateBinding.on(found, cut.counts)
        guess = fluid_rate(found, cut.counts, served=found.quantile).rate
        return largest_rate(lambda rate: keeps(found, serve, traffic, rate), guess) if guess > 0 else 0.0

    best = max(rate(ServingCut.of(each)) for each in combinations_with_replacement(found.multisets, 2))
    assert rate(Search(queries=3_000).cut(found)) >= 0.97 * best


def test_the_bound_for_each_size_is_below_the_bound_for_the_mix_and_above_what_is_held() -> None:
    found = replace(sublinear(gpus=2), classes=(2, 4, 8), quantile=0.9)
    counts = np.array([4, 2, 1])
    bound = fluid_rate(found, counts, served=0.9).rate
    assert bound < fluid_rate(replace(found, classes=()), counts, served=0.9).rate
    assert bound == pytest.approx(most_queries(found, counts))
    serve = LateBinding.on(found, counts)
    traffic = [unit_traffic(found, 10_000, 3)]
    assert largest_rate(lambda rate: keeps(found, serve, traffic, rate), bound) <= bound * 1.03


def test_a_search_uses_the_services_own_arrivals() -> None:
    found = sublinear(gpus=4)
    bursts = replace(found, arrivals=ArrivalsSpec(gamma=GammaArrivals(cv=2.0)))
    counts = np.array([0, 0, 4])

    def rate(given: ServingProblem) -> float:
        serve, traffic = LateBinding.on(given, counts), [unit_traffic(given, 10_000, 4)]
        return largest_rate(lambda rate: keeps(given, serve, traffic, rate), 1.0)

    assert rate(bursts) < 0.8 * rate(found)
    cut = SMALL.cut(bursts)
    serve, traffic = LateBinding.on(bursts, cut.counts), [unit_traffic(bursts, 4_000, 8)]
    held = largest_rate(lambda rate: keeps(bursts, serve, traffic, rate), 1.0)
    for start in starts(bursts):
        other = LateBinding.on(bursts, start.counts)
        assert not keeps(bursts, other, traffic, held * 1.3)


def test_on_a_trace_no_batch_size_is_left_out_where_each_class_counts(tmp_path: Path) -> None:
    seconds = [0.3, 0.5, 0.9]
    rows = [[*seconds, np.inf], [*seconds, 1.0], [*seconds, 1.0]]
    found = replace(problem(rows, [0.4, 0.3, 0.29, 0.01], 3.0), classes=(2, 4), quantile=0.9)
    assert SMALL.cut(found).counts.tolist() == [4, 0, 0], (
        "a small slice costs least, and 4 is rarer than may be missed"
    )
    rng = np.random.default_rng(6)
    trace = tmp_path / "trace.csv"
    times, sizes = np.cumsum(rng.exponential(1.0, 500)).tolist(), rng.integers(1, 5, 500).tolist()
    lines = [f"{at},{size}" for at, size in zip(times, sizes, strict=True)]
    trace.write_text("\n".join(["seconds,batch", *lines]))
    on_trace = replace(found, arrivals=ArrivalsSpec(trace=str(trace)))
    assert SMALL.cut(on_trace).counts[1:].sum() > 0
    assert SMALL.cut(replace(on_trace, classes=())).counts.tolist() == [4, 0, 0], "the mix may miss it"


def test_where_no_cut_answers_all_sizes_often_enough_a_trace_gets_one_that_answers_most(
    tmp_path: Path,
) -> None:
    rows = [[0.3, 0.5, np.inf], [np.inf] * 3, [np.inf, np.inf, 1.0]]
    found = replace(problem(rows, [0.4, 0.59, 0.01], 3.0), classes=(3,), quantile=0.95)
    trace = tmp_path / "trace.csv"
    trace.write_text("\n".join(["seconds,batch", *(f"{at},{at % 2 + 1}" for at in range(50))]))
    on_trace = replace(found, arrivals=ArrivalsSpec(trace=str(trace)))
    assert SMALL.cut(on_trace).counts.tolist() == [4, 0, 0]
