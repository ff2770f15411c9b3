from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from partita.perf.table import Measurement, PerfTable

rows = st.lists(
    st.builds(
        Measurement,
        model=st.sampled_from("abc"),
        gpu=st.sampled_from(["a30-24gb", "a100-40gb"]),
        profile=st.just("1g"),
        batch=st.integers(1, 9),
        processes=st.just(1),
        throughput=st.just(1.0),
        latency_ms=st.just(1.0),
        quantile=st.just("mean"),
    )
)


@given(rows=rows)
def test_every_row_is_found_by_its_model_and_gpu_and_by_no_other(rows: list[Measurement]) -> None:
    table = PerfTable(rows)
    assert list(table) == rows
    assert len(table) == len(rows)
    found = [row for model in table.models for gpu in table.gpus(model) for row in table.of(model, gpu)]
    assert sorted(map(repr, found)) == sorted(map(repr, rows))
    assert all(table.of(row.model, row.gpu).count(row) == rows.count(row) for row in rows)


@given(rows=rows)
def test_models_and_gpus_are_in_alphabetical_order(rows: list[Measurement]) -> None:
    table = PerfTable(rows)
    assert list(table.models) == sorted({row.model for row in rows})
    for model in table.models:
        assert list(table.gpus(model)) == sorted({row.gpu for row in rows if row.model == model})


def test_what_nobody_measured_has_no_rows() -> None:
    assert PerfTable([]).of("m", "a30-24gb") == ()
    assert PerfTable([]).gpus("m") == ()
