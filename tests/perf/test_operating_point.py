from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.mig.catalogue import gpu_model
from partita.perf.operating_point import Limits, ThroughputGrowth, model_classes, operating_points
from partita.perf.reading import read_table
from partita.perf.table import Measurement

if TYPE_CHECKING:
    from pathlib import Path


measured = st.builds(
    Measurement,
    model=st.just("m"),
    gpu=st.just("a30-24gb"),
    profile=st.sampled_from(["1g.6gb", "2g.12gb", "4g.24gb"]),
    batch=st.integers(1, 8),
    processes=st.integers(1, 4),
    throughput=st.integers(1, 6).map(float),
    latency_ms=st.integers(1, 20).map(float),
    quantile=st.sampled_from(["mean", "0.9", "0.99"]),
)
tables = st.lists(measured, max_size=25)
limits = st.builds(
    Limits,
    latency_ms=st.integers(1, 25).map(float),
    quantile=st.sampled_from([None, "mean", "0.9", "0.99"]),
    max_batch=st.none() | st.integers(1, 8),
    max_processes=st.integers(1, 4),
)


def allowed(rows: list[Measurement], limit: Limits) -> list[Measurement]:
    quantile = limit.quantile
    if quantile is None:
        quantile = next((q for q in ("0.99", "0.9", "mean") if any(r.quantile == q for r in rows)), None)
    return [
        row
        for row in rows
        if row.quantile == quantile
        and row.latency_ms <= limit.latency_ms
        and row.processes <= limit.max_processes
        and (limit.max_batch is None or row.batch <= limit.max_batch)
    ]


@given(rows=tables, limit=limits)
def test_a_point_is_the_best_of_all_allowed_rows(rows: list[Measurement], limit: Limits) -> None:
    points = operating_points(rows, limit)
    brute = allowed(rows, limit)
    assert set(points) == {row.profile for row in brute}
    for profile, point in points.items():
        mine = [row for row in brute if row.profile == profile]
        best = min(mine, key=lambda row: (-row.throughput, row.latency_ms, row.processes, row.batch))
        assert (point.throughput, point.latency_ms, point.processes, point.batch) == (
            best.throughput,
            best.latency_ms,
            best.processes,
            best.batch,
        )


@given(rows=tables, limit=limits)
def test_no_point_breaks_a_limit(rows: list[Measurement], limit: Limits) -> None:
    for point in operating_points(rows, limit).values():
        assert point.latency_ms <= limit.latency_ms
        assert point.processes <= limit.max_processes
        assert limit.max_batch is None or point.batch <= limit.max_batch
        assert limit.quantile in (None, point.quantile)


@given(rows=tables, more=tables, limit=limits.filter(lambda limit: limit.quantile is not None))
def test_more_rows_never_lower_throughput(
    rows: list[Measurement], more: list[Measurement], limit: Limits
) -> None:
    before, after = operating_points(rows, limit), operating_points([*rows, *more], limit)
    assert all(after[profile].throughput >= point.throughput for profile, point in before.items())


@given(rows=tables, limit=limits)
def test_a_looser_slo_never_lowers_throughput(rows: list[Measurement], limit: Limits) -> None:
    loose = Limits(limit.latency_ms * 2, limit.quantile, limit.max_batch, limit.max_processes)
    before, after = operating_points(rows, limit), operating_points(rows, loose)
    assert all(after[profile].throughput >= point.throughput for profile, point in before.items())


def test_a_quantile_that_is_not_there_gives_no_point() -> None:
    row = Measurement("m", "a30-24gb", "1g.6gb", 1, 1, 1.0, 1.0, "0.9")
    assert operating_points([row], Limits(10, "0.99")) == {}


def test_an_estimate_stays_marked() -> None:
    row = Measurement("m", "a30-24gb", "1g.6gb", 1, 1, 1.0, 1.0, "mean", estimated=True)
    assert operating_points([row], Limits(10))["1g.6gb"].estimated


A100, A30 = gpu_model("a100-40gb"), gpu_model("a30-24gb")


def row(
    profile: str, throughput: float, *, gpu: str = "a100-40gb", batch: int = 8, processes: int = 1
) -> Measurement:
    return Measurement("m", gpu, profile, batch, processes, throughput, 10.0, "0.9")


@pytest.mark.parametrize(
    ("whole", "growth"),
    [
        (649, ThroughputGrowth.SUB_LINEAR),
        (650, ThroughputGrowth.LINEAR),
        (750, ThroughputGrowth.LINEAR),
        (751, ThroughputGrowth.SUPER_LINEAR),
    ],
)
def test_linear_is_six_and_a_half_to_seven_and_a_half(whole: float, growth: ThroughputGrowth) -> None:
    found = model_classes([row("1g.5gb", 100), row("7g.40gb", whole)], A100)
    assert found[8].growth is growth


def test_the_smallest_profile_that_runs_counts_by_its_slices() -> None:
    found = model_classes([row("2g.10gb", 200), row("3g.20gb", 900), row("7g.40gb", 700)], A100)
    assert (found[8].smallest, found[8].ratio) == ("2g.10gb", 7.0)


def test_an_a30_has_bounds_of_four_slices() -> None:
    whole = {
        3.7: ThroughputGrowth.SUB_LINEAR,
        3.72: ThroughputGrowth.LINEAR,
        4.28: ThroughputGrowth.LINEAR,
        4.3: ThroughputGrowth.SUPER_LINEAR,
    }
    for times, growth in whole.items():
        rows = [row("1g.6gb", 100, gpu="a30-24gb"), row("4g.24gb", 100 * times, gpu="a30-24gb")]
        assert model_classes(rows, A30)[8].growth is growth


def test_several_processes_do_not_count_and_a_batch_without_a_whole_gpu_has_no_class() -> None:
    rows = [
        row("1g.5gb", 100),
        row("7g.40gb", 700),
        row("1g.5gb", 300, processes=2),
        row("1g.5gb", 9, batch=16),
    ]
    assert {batch: each.ratio for batch, each in model_classes(rows, A100).items()} == {8: 7.0}
    assert model_classes([row("7g.40gb", 700)], A100) == {}


def test_the_papers_table_grows_as_its_figure_4_says(shared_data: Path) -> None:
    """Of 49 models all are sub-linear at batch 1, and 35, 22, 15 at 8, 16, 32. The table has 16 series."""
    table = read_table(shared_data / "perf" / "mig_serving_a100.csv")
    classes = [model_classes(table.of(model, "a100-40gb"), A100) for model in table.models]
    share = {
        batch: sum(each[batch].growth is ThroughputGrowth.SUB_LINEAR for each in classes) / len(classes)
        for batch in (1, 8, 16, 32)
    }
    assert share[1] == 1
    assert share[8] > share[16] >= share[32]
    assert share[8] == pytest.approx(35 / 49, abs=0.15)
    assert share[32] == pytest.approx(15 / 49, abs=0.15)
