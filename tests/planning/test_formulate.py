from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.documents.codec import DocumentSource, convert
from partita.errors import InfeasibleError, InputError
from partita.perf.reading import read_table
from partita.perf.table import Measurement, PerfTable
from partita.planning.formulate import Formulation, formulate
from partita.workload import WORKLOAD

if TYPE_CHECKING:
    from pathlib import Path


A100 = "a100-40gb"
A30 = "a30-24gb"
SLO = {"latency_ms": 100}


def row(profile: str, throughput: float, latency: float = 50.0, **other: Any) -> Measurement:
    fields = {"model": "m", "gpu": A100, "batch": 1, "processes": 1, "quantile": "0.9", **other}
    return Measurement(profile=profile, throughput=throughput, latency_ms=latency, **fields)


def service(name: str = "s", **other: Any) -> dict[str, Any]:
    return {"name": name, "model": "m", "rate": 10.0, "slo": SLO, "arrivals": "constant", **other}


def formulated(rows: list[Measurement], *services: dict[str, Any], **other: Any) -> Formulation:
    document = {
        "apiVersion": "partita/v1",
        "kind": "Workload",
        "gpus": [{"model": A100}],
        "services": list(services or [service()]),
        **other,
    }
    return formulate(convert(document, WORKLOAD, DocumentSource("w")), PerfTable(rows))


def points(made: Formulation, index: int = 0) -> dict[str, float]:
    """Throughput by profile, where the service can run."""
    sizes, found = made.problem.sizes, made.problem.services[index].points
    return {size.profile: point.throughput for size, point in zip(sizes, found, strict=True) if point}


ROWS = [row("1g.5gb", 10), row("2g.10gb", 25), row("7g.40gb", 60)]


def test_a_service_gets_its_rate_with_headroom_and_the_rate_as_asked() -> None:
    made = formulated(ROWS, service(headroom=0.5, min_replicas=3, spread=2, priority=7)).problem.services[0]
    assert (made.rate, made.asked_rate, made.latency_slo_ms) == (15.0, 10.0, 100.0)
    assert (made.min_replicas, made.spread, made.priority) == (3, 2, 7)


@pytest.mark.parametrize("rate", [1e-300, 1e-20, 1e-9])
def test_a_rate_of_next_to_nothing_stays_one_that_a_solver_can_hold(rate: float) -> None:
    made = formulated(ROWS, service(rate=rate)).problem
    assert made.services[0].asked_rate == rate
    assert (made.throughput / made.rate[:, None]).min() >= 1.0
    assert (made.throughput / made.rate[:, None]).max() < 1e8


def test_a_rate_that_nobody_means_is_refused() -> None:
    assert formulated(ROWS, service(rate=5e7)).problem.services[0].rate == 5e7
    with pytest.raises(
        InputError, match=r"services\[1\].rate: 1e\+12 items/s would take more than 13,333,333,333"
    ):
        formulated(ROWS, service(), service("t", rate=1e12))


def test_sizes_are_the_profiles_that_some_service_can_run_on_from_small_to_large() -> None:
    assert [size.profile for size in formulated(ROWS).problem.sizes] == ["1g.5gb", "2g.10gb", "7g.40gb"]


def test_the_throughput_at_the_latency_limit_decides_the_point() -> None:
    rows = [row("1g.5gb", 10, 40), row("1g.5gb", 20, 45, batch=2), row("1g.5gb", 30, 46, batch=4)]
    made = formulated(rows, limits={"latency_factor": 0.45})
    assert points(made) == {"1g.5gb": 20}
    assert made.problem.services[0].latency_slo_ms == 100.0


def test_batches_and_processes_beyond_the_limits_do_not_count() -> None:
    rows = [*ROWS, row("1g.5gb", 99, batch=64), row("1g.5gb", 98, processes=4)]
    assert points(formulated(rows))["1g.5gb"] == 99
    assert points(formulated(rows, limits={"max_batch": 32}))["1g.5gb"] == 10
    assert points(formulated(rows, limits={"max_batch": 32, "max_processes": 4}))["1g.5gb"] == 98


@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        (["1g"], {"1g.5gb"}),
        (["2g.10gb", "7g"], {"2g.10gb", "7g.40gb"}),
        (None, {"1g.5gb", "2g.10gb", "7g.40gb"}),
    ],
)
def test_a_service_runs_only_on_the_profiles_it_allows(
    profiles: list[str] | None, expected: set[str]
) -> None:
    assert set(points(formulated(ROWS, service(profiles=profiles)))) == expected


def test_a_variant_with_media_engines_is_used_only_where_it_is_named_or_measured() -> None:
    assert "1g.5gb+me" not in points(formulated(ROWS))
    assert "1g.5gb+me" not in points(formulated(ROWS, service(profiles=["1g"])))
    assert points(formulated(ROWS, service(profiles=["1g.5gb+me"]))) == {"1g.5gb+me": 10}
    assert points(formulated([*ROWS, row("1g.5gb+me", 11)]))["1g.5gb+me"] == 11


def test_pools_of_unlike_gpus_have_sizes_of_their_own() -> None:
    rows = [*ROWS, row("1g.6gb", 8, gpu=A30)]
    gpus = [{"model": A30, "count": 3, "per_node": 4}, {"model": A100, "cost_per_hour": 2.0}]
    problem = formulated(rows, gpus=gpus, limits={"forbid": ["4g+3g"]}).problem
    assert [(size.pool, size.profile) for size in problem.sizes][:2] == [(0, "1g.6gb"), (1, "1g.5gb")]
    assert [(pool.name, pool.count, pool.per_node, pool.cost) for pool in problem.pools] == [
        (A30, 3, 4, 1.0),
        (A100, None, 8, 2.0),
    ]
    assert all(str(pool.gpu.forbidden[0]) == "3g+4g" for pool in problem.pools)


def test_two_pools_of_one_gpu_share_its_measurements() -> None:
    gpus = [{"name": "a", "model": A100, "count": 1}, {"name": "b", "model": A100}]
    made = formulated(ROWS, gpus=gpus).problem
    assert len(made.sizes) == 6
    assert made.throughput.tolist() == [[10, 25, 60, 10, 25, 60]]


def test_services_that_run_alike_share_one_tuple_of_points_though_their_slos_differ() -> None:
    rows = [row("1g.5gb", 10, 20), row("1g.5gb", 20, 60, batch=2)]
    services = [service(f"s{i}", slo={"latency_ms": 30 + i / 100}) for i in range(5000)]
    made = formulated(rows, *services).problem
    assert len({id(each.points) for each in made.services}) == 2
    assert [each.points[0].throughput for each in made.services if each.points[0]] == [10] * 3000 + [
        20
    ] * 2000


LATENCIES = st.floats(1, 200)
RANDOM_ROWS = st.lists(
    st.builds(
        row,
        st.sampled_from(["1g.5gb", "2g.10gb", "3g.20gb", "7g.40gb"]),
        st.floats(1, 1000),
        LATENCIES,
        batch=st.integers(1, 4),
        processes=st.integers(1, 3),
        quantile=st.sampled_from(["mean", "0.9"]),
    ),
    min_size=1,
    max_size=30,
)


@given(RANDOM_ROWS, st.lists(LATENCIES, min_size=1, max_size=5), st.sampled_from([None, 0.9]))
def test_every_point_is_the_best_row_within_all_limits(
    rows: list[Measurement], slos: list[float], quantile: float | None
) -> None:
    services = [service(f"s{i}", slo={"latency_ms": slo, "quantile": quantile}) for i, slo in enumerate(slos)]
    used = "0.9" if quantile or any(r.quantile == "0.9" for r in rows) else "mean"
    right = [r for r in rows if r.quantile == used and r.batch <= 2 and r.processes <= 2]
    try:
        made = formulated(rows, *services, limits={"max_batch": 2, "max_processes": 2, "latency_factor": 0.5})
    except InputError:
        assert all(r.quantile == "mean" for r in rows)
        return
    except InfeasibleError:
        assert any(not any(r.latency_ms <= slo / 2 for r in right) for slo in slos)
        return
    for index, slo in enumerate(slos):
        best: dict[str, float] = {}
        for each in right:
            if each.latency_ms <= slo / 2:
                best[each.profile] = max(best.get(each.profile, 0), each.throughput)
        assert points(made, index) == best


def test_the_strictest_quantile_is_used_and_said_where_none_is_asked() -> None:
    rows = [row("1g.5gb", 20), row("1g.5gb", 10, quantile="0.99"), row("1g.5gb", 30, quantile="mean")]
    made = formulated(rows)
    assert points(made) == {"1g.5gb": 10}
    assert made.notes == ("m: no quantile asked, the strictest on a100-40gb is used: 0.99",)


def test_an_asked_quantile_is_matched_by_value() -> None:
    rows = [row("1g.5gb", 20, quantile="0.90"), row("1g.5gb", 10, quantile="0.99")]
    made = formulated(rows, service(slo={"latency_ms": 100, "quantile": 0.9}))
    assert points(made) == {"1g.5gb": 20}
    assert made.notes == ()


def test_latencies_that_are_means_are_said_once_for_all_models_and_services() -> None:
    rows = [row("1g.5gb", 20, quantile="mean", model=f"m{i}") for i in range(9)]
    made = formulated(rows, *(service(f"s{i}", model=f"m{i % 9}") for i in range(100)))
    (note,) = made.notes
    assert note.startswith("m0, m1, m2, m3 and 5 more: latencies on a100-40gb are means")


def test_a_quantile_that_is_not_in_the_table_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError) as caught:
        formulated(ROWS, service("a"), service("b", slo={"latency_ms": 100, "quantile": 0.99}))
    assert caught.value.where == "services[1].slo.quantile"
    assert caught.value.what == "m has no latencies at quantile 0.99, only 0.9"
    assert caught.value.hint


def test_a_gpu_without_the_asked_quantile_is_left_out_and_that_is_said() -> None:
    rows = [*ROWS, row("1g.6gb", 8, gpu=A30, quantile="mean")]
    slo = {"latency_ms": 100, "quantile": 0.9}
    made = formulated(rows, service(slo=slo), gpus=[{"model": A30}, {"model": A100}])
    assert {size.pool for size in made.problem.sizes} == {1}
    assert made.notes == ("m: no latency at quantile 0.9 on a30-24gb, so not placed on it",)


def test_a_gpu_that_nobody_measured_on_is_left_out_and_that_is_said() -> None:
    made = formulated(ROWS, service(slo={**SLO, "quantile": 0.9}), gpus=[{"model": A30}, {"model": A100}])
    assert made.notes == ("m: not measured on a30-24gb, so not placed on it",)
    assert made.problem.cuts


WORK = {"name": "new", "gflop": 8.2, "mbytes": 60, "weights_mb": 102}


def test_a_model_that_nobody_measured_is_estimated_from_its_work_and_that_is_said() -> None:
    made = formulated([], service(model="new"), models=[WORK])
    assert made.problem.services[0].points
    assert all(point.estimated for point in made.problem.services[0].points if point)
    assert "new: no measurement on a100-40gb, planned with an estimate" in made.notes


def test_measurements_come_before_estimates() -> None:
    made = formulated(ROWS, models=[{**WORK, "name": "m"}])
    assert points(made) == {"1g.5gb": 10, "2g.10gb": 25, "7g.40gb": 60}


def test_a_model_that_nobody_measured_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="no measurements of 'resnet5' on a100-40gb") as caught:
        formulated([row("1g.5gb", 1, model="resnet50")], service(model="resnet5"))
    assert caught.value.where == "services[0].model"
    assert caught.value.hint == "did you mean resnet50?"


def test_a_model_measured_elsewhere_only_is_refused_with_where() -> None:
    with pytest.raises(InputError) as caught:
        formulated([row("1g.6gb", 1, gpu=A30)])
    assert "measured on a30-24gb" in (caught.value.hint or "")


def test_a_precision_whose_peak_nobody_knows_is_refused() -> None:
    rtx = {"model": "rtx-pro-6000-96gb"}
    with pytest.raises(InputError) as caught:
        formulated([], service(model="new"), models=[{**WORK, "precision": "tf32"}], gpus=[rtx])
    assert caught.value.where == "models[0].precision"


def unplaceable(rows: list[Measurement], *services: dict[str, Any], **other: Any) -> InfeasibleError:
    with pytest.raises(InfeasibleError) as caught:
        formulated(rows, *services, **other)
    return caught.value


def test_an_slo_that_no_profile_meets_is_told_with_the_best_there_is() -> None:
    error = unplaceable(
        [row("7g.40gb", 9, 24.1)], service(slo={"latency_ms": 50}), limits={"latency_factor": 0.45}
    )
    assert error.where == "services[0]"
    assert "too slow: one batch may take 22.5 ms (0.45 x 50)" in error.what
    assert "24.1 ms, on a100-40gb 7g.40gb at batch 1" in error.what
    assert error.hint == "raise slo.latency_ms to at least 53.6 (latency_factor 0.45)"
    formulated([row("7g.40gb", 9, 24.1)], service(slo={"latency_ms": 53.6}), limits={"latency_factor": 0.45})


def test_a_model_too_large_for_the_profiles_it_may_use_is_told_with_those_that_hold_it() -> None:
    error = unplaceable([row("7g.40gb", 9)], service(profiles=["1g", "2g.10gb"]))
    assert "no measurement on 1g, 2g.10gb; no row means that it did not fit in memory" in error.what
    assert "7g.40gb" in (error.hint or "")


def test_a_model_that_fits_no_slice_is_told() -> None:
    error = unplaceable([], service(model="new"), models=[{**WORK, "weights_mb": 90_000}])
    assert "it fits in the memory of no profile" in error.what


def test_limits_that_leave_no_row_are_told() -> None:
    error = unplaceable([row("7g.40gb", 9, batch=8, processes=2)], limits={"max_batch": 4})
    assert "no measurement within limits.max_batch 4 and limits.max_processes 1" in error.what
    assert "batch 8 and 2 processes" in (error.hint or "")


def test_many_unplaceable_services_are_told_by_kind() -> None:
    models = [f"m{i}" for i in range(12)]
    rows = [row("1g.5gb", 1, 500, model=model) for model in models]
    error = unplaceable(rows, *(service(f"s{i}", model=models[i % 12]) for i in range(36)))
    assert "s0 and 2 like it: too slow" in error.what
    assert error.what.count("\n") == 9
    assert error.hint == "and 2 more kinds of service"


def test_watts_need_power_in_every_row_that_is_used() -> None:
    powered = [row("1g.5gb", 10, power_w=50.0), row("1g.5gb", 5)]
    made = formulated(powered, objective="watts")
    assert made.problem.instance_cost.tolist() == [[50.0]]
    with pytest.raises(InputError, match=r"a100-40gb 2g\.10gb batch 1 x1") as caught:
        formulated([*powered, row("2g.10gb", 20)], objective="watts")
    assert caught.value.where == "objective"


@pytest.fixture(scope="session")
def parvagpu(shared_data: Path) -> dict[str, Formulation]:
    table = read_table(shared_data / "perf" / "parvagpu_a100_80gb.csv")
    with (shared_data / "scenarios" / "parvagpu.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    made = {}
    for scenario in sorted({each["scenario"] for each in rows}):
        services = [
            {
                "name": each["model"],
                "model": each["model"],
                "rate": float(each["rate"]),
                "slo": {"latency_ms": float(each["latency_ms"])},
            }
            for each in rows
            if each["scenario"] == scenario
        ]
        document = {
            "apiVersion": "partita/v1",
            "kind": "Workload",
            "gpus": [{"model": "a100-80gb"}],
            "services": services,
            "limits": {"latency_factor": 0.45, "max_batch": 128, "max_processes": 5},
        }
        made[scenario] = formulate(convert(document, WORKLOAD, DocumentSource("w")), table)
    return made


def test_parvagpus_scenarios_are_formulated(parvagpu: dict[str, Formulation]) -> None:
    assert [len(made.problem.services) for made in parvagpu.values()] == [6, 11, 11, 11, 11, 11]
    for made in parvagpu.values():
        assert [size.profile for size in made.problem.sizes] == [
            "1g.10gb",
            "2g.20gb",
            "3g.40gb",
            "4g.40gb",
            "7g.80gb",
        ]
        assert len(made.notes) == 1
        for each in made.problem.services:
            for point in filter(None, each.points):
                assert point.latency_ms <= 0.45 * each.latency_slo_ms
                assert point.batch <= 128
                assert point.processes <= 5


POOLS = [{"model": A100, "name": "own", "count": 2}, {"model": A100, "name": "spot"}, {"model": A30}]
ON_BOTH = [*ROWS, row("4g.24gb", 30, gpu=A30)]


def test_a_service_runs_on_its_pools_alone() -> None:
    made = formulated(ON_BOTH, service("a"), service("b", pools=["spot", A30]), gpus=POOLS).problem
    pools = [
        {made.pools[size.pool].name for size, point in zip(made.sizes, each.points, strict=True) if point}
        for each in made.services
    ]
    assert pools == [{"own", "spot", A30}, {"spot", A30}]


def test_services_of_the_same_pools_share_their_points() -> None:
    made = formulated(
        ON_BOTH, *(service(f"s{i}", pools=["own"] if i % 2 else None) for i in range(6)), gpus=POOLS
    ).problem
    assert len({id(each.points) for each in made.services}) == 2


def test_a_service_that_runs_on_none_of_its_pools_says_where_it_could() -> None:
    with pytest.raises(InfeasibleError, match=f"it can run on none of its pools, {A30}") as told:
        formulated(ROWS, service(pools=[A30]), gpus=POOLS)
    assert told.value.hint == "allow own, spot in `pools`"
