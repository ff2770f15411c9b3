from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from partita.perf.operating_point import Limits, operating_points
from partita.perf.table import Measurement

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
