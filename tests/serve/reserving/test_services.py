from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from tests.serve.reserving.cases import cut_service, formulated, service, table, workload

from partita.errors import InfeasibleError, InputError
from partita.perf.table import PerfTable
from partita.serve.reserving.services import promised_classes
from partita.workload import Batches, PoolSpec, Slo


def test_a_rate_of_items_is_asked_as_queries_with_headroom() -> None:
    found = cut_service(rate=600, headroom=0.5)
    items = 0.5 * 1 + 0.3 * 4 + 0.2 * 8
    assert found.items == pytest.approx(items)
    assert found.rate == pytest.approx(600 * 1.5 / items)
    assert found.shares == pytest.approx({1: 0.5, 4: 0.3, 8: 0.2})


def test_log_normal_sizes_end_at_their_largest_or_at_the_largest_measured() -> None:
    assert max(cut_service(batches=Batches(median=4), slo=Slo(latency_ms=200)).shares) == 16
    assert max(cut_service(batches=Batches(median=4, max=9)).shares) == 9


def test_a_log_normal_of_which_nothing_is_left_is_told_with_its_place() -> None:
    with pytest.raises(InputError, match="hardly any batch size") as error:
        cut_service(batches=Batches(median=1000, sigma=0.1, max=8))
    assert error.value.where == "services[0].batches"


def test_each_slice_takes_the_largest_query_that_it_answers_in_time() -> None:
    offer = cut_service(slo=Slo(latency_ms=62)).offers[0]
    assert [batch for batch, _ in offer.takes] == [6, 11, 16]
    assert all(seconds <= 0.062 for _, seconds in offer.takes)
    assert offer.problem.latency.shape == (3, 8)


def test_larger_queries_than_the_limit_or_the_table_are_never_answered_and_that_is_said() -> None:
    sizes = Batches(histogram={1: 0.97, 12: 0.02, 20: 0.01})
    made = formulated(workload(service(batches=sizes), limits={"max_batch": 8}))[1][0]
    assert np.isinf(made.offers[0].problem.latency[:, 8:]).all()
    assert made.offers[0].takes[2][0] == 8
    assert any("queries of 12 items and more (3.00%) are never in time" in note for note in made.notes)
    measured = cut_service(batches=sizes)
    assert any("queries of 20 items and more (1.00%) are never in time" in note for note in measured.notes)


def test_too_many_late_queries_are_infeasible_with_what_would_do() -> None:
    with pytest.raises(
        InfeasibleError, match=r"no slice answers more than 0\.8 of the queries within"
    ) as error:
        cut_service(slo=Slo(latency_ms=24), promise="mix")
    assert error.value.where == "services[0].slo.latency_ms"
    assert "24.86 ms" in (error.value.hint or "")
    with pytest.raises(
        InfeasibleError, match="more than 0 of the queries of 5-8 items within 24 ms"
    ) as error:
        cut_service(slo=Slo(latency_ms=24))
    assert "24.86 ms: raise slo.latency_ms, or send smaller ones; promise: mix" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("batches", "promise", "classes"),
    [
        (Batches(histogram={1: 0.5, 4: 0.3, 8: 0.2}), "each_size", (2, 4, 8)),
        (Batches(histogram={1: 0.5, 4: 0.3, 8: 0.2}), "mix", ()),
        (Batches(histogram={3: 1.0}), "each_size", (3,)),
        (Batches(median=8, max=32), "each_size", (2, 4, 8, 16, 32)),
    ],
)
def test_the_gateway_counts_the_classes_that_the_cut_was_searched_for(
    batches: Batches, promise: Literal["each_size", "mix"], classes: tuple[int, ...]
) -> None:
    spec = service(batches=batches, promise=promise, slo=Slo(latency_ms=500))
    assert promised_classes(spec) == classes
    batches_measured = (1, 4, 16, 32)
    assert (
        formulated(workload(spec), table(batches=batches_measured))[1][0].offers[0].problem.classes == classes
    )
    assert promised_classes(service(cut=None, batches=None)) == ()


def test_without_rows_of_one_process_it_is_told_to_measure() -> None:
    rows = PerfTable(replace(row, processes=2) for row in table())
    with pytest.raises(InputError, match="no row with one process"):
        formulated(workload(service()), rows)


def test_the_quantile_is_a_share_of_the_queries_whichever_latencies_there_are() -> None:
    assert cut_service().offers[0].problem.quantile == 0.95
    asked = cut_service(slo=Slo(latency_ms=80, quantile=0.9))
    assert (asked.offers[0].problem.quantile, asked.offers[0].quantile) == (0.9, "0.99")
    means = formulated(workload(service()), table("mean"))[1][0]
    assert any("are means" in note for note in means.notes)


def test_profiles_and_forbidden_combinations_restrict_the_cuts() -> None:
    assert cut_service(profiles=("2g", "4g.24gb")).offers[0].problem.profiles == ("2g.12gb", "4g.24gb")
    asked = workload(service(), gpus=(PoolSpec(model="a100-40gb"),), limits={"forbid": ("4g+3g",)})
    problem = formulated(asked)[1][0].offers[0].problem
    both = [problem.profiles.index(name) for name in ("3g.20gb", "4g.20gb")]
    assert not any(each[both[0]] and each[both[1]] for each in problem.multisets)


def test_services_with_a_cut_are_no_part_of_what_shares() -> None:
    asked = workload(service(), service(name="b", cut=None, batches=None), service(name="c"))
    made, cuts = formulated(asked)
    assert [each.name for each in made.problem.services] == ["b"]
    assert [each.index for each in cuts] == [0, 2]
