from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.errors import InputError
from partita.sim.traffic import (
    Traffic,
    day_curve,
    draw,
    empirical_share,
    gamma,
    lognormal_share,
    poisson,
    read_trace,
    unit_arrivals,
    unit_queries,
)
from partita.workload import ArrivalsSpec, GammaArrivals

if TYPE_CHECKING:
    from pathlib import Path


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_poisson_arrivals_have_their_rate_and_exponential_gaps() -> None:
    gaps = np.diff(poisson(4.0, 50_000, rng()))
    assert gaps.mean() == pytest.approx(0.25, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("variation", [0.3, 1.0, 3.0])
def test_gamma_gaps_have_their_rate_and_variation(variation: float) -> None:
    gaps = np.diff(gamma(4.0, 100_000, rng(), variation))
    assert gaps.mean() == pytest.approx(0.25, rel=0.04)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05)


def test_a_day_has_a_trough_at_its_ends_and_a_peak_between_them() -> None:
    seen = day_curve(10.0, 2000.0, rng(), swing=0.8, period=1000.0)
    counts, _ = np.histogram(seen % 1000, bins=10, range=(0, 1000))
    assert len(seen) == pytest.approx(20_000, rel=0.03)
    assert (np.diff(seen) >= 0).all()
    assert counts[0] < 0.35 * 2000 < 1.6 * 2000 < counts[4]


def test_denser_traffic_has_each_query_so_often_near_its_time() -> None:
    one = Traffic(np.array([100.0, 200.0]), np.array([3, 7]))
    many = one.denser(50, 10.0, rng())
    assert (np.diff(many.arrival) >= 0).all()
    assert np.abs(many.arrival[many.batch == 3] - 100).max() <= 10
    assert np.bincount(many.batch)[[3, 7]].tolist() == [50, 50]


def test_faster_traffic_comes_in_less_time() -> None:
    assert Traffic(np.array([1.0, 4.0]), np.array([1, 1])).faster(2.0).arrival.tolist() == [0.5, 2.0]


@given(st.floats(0.5, 100), st.floats(0.05, 3), st.integers(1, 64))
def test_lognormal_shares_add_up_to_one(median: float, sigma: float, largest: int) -> None:
    try:
        share = lognormal_share(median, sigma, largest)
    except InputError:
        assert largest < median / 2**sigma
        return
    assert share.sum() == pytest.approx(1.0)
    assert (share >= 0).all()


def test_half_of_a_lognormal_is_up_to_its_median() -> None:
    share = lognormal_share(8.0, 0.9, 4096)
    assert share[:8].sum() - share[7] / 2 == pytest.approx(0.5, abs=0.005)


@given(st.lists(st.integers(1, 9), min_size=1))
def test_what_was_seen_is_drawn_again_in_its_shares(batches: list[int]) -> None:
    share = empirical_share(np.array(batches), 9)
    drawn = draw(share, 500, rng())
    assert set(drawn.tolist()) <= set(batches)
    assert share[batches[0] - 1] == pytest.approx(batches.count(batches[0]) / len(batches))


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_a_trace_counts_from_its_first_query_in_any_order(tmp_path: Path) -> None:
    seen = read_trace(written(tmp_path, "batch,seconds\n3,12.5\n1,10\n"))
    assert (seen.arrival.tolist(), seen.batch.tolist()) == ([0.0, 2.5], [1, 3])


def test_azures_requests_become_items_of_so_many_tokens(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,256,0\n2023-11-16 18:17:04.4799600,500,13\n"
    )
    seen = read_trace(written(tmp_path, text))
    assert (seen.arrival.tolist(), seen.batch.tolist()) == (pytest.approx([0.0, 0.5]), [1, 3])
    assert read_trace(tmp_path / "trace.csv", tokens_per_item=100).batch.tolist() == [3, 6]


@pytest.mark.parametrize(
    ("text", "arrival", "batch"),
    [
        (  # BurstGPT; the last request failed
            (
                "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
                "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n"
                "118,GPT-4,417,0,417,API log\n"
            ),
            [0.0, 40.0, 113.0],
            [2, 6, 2],
        ),
        (  # Azure 2024: offsets of time zones
            (
                "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
                "2024-05-10 02:00:01.009930+02:00,2399,6\n2024-05-10T00:00:02.5Z,0,0\n"
            ),
            [0.0, 1.0, 2.49007],
            [9, 10, 1],
        ),
        (  # Mooncake: JSON lines, milliseconds
            (
                '{"timestamp": 3000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
                '{"timestamp": 27000, "input_length": 100, "output_length": 1, "hash_ids": []}\n'
            ),
            [0.0, 24.0],
            [29, 1],
        ),
        ('{"seconds": 1, "batch": 2}\n\n{"seconds": 1.5, "batch": 1}\n', [0.0, 0.5], [2, 1]),
        ("seconds;batch\n0,25;1\n1,75;2\n", [0.0, 1.5], [1, 2]),
        ("seconds,batch\n1715299200.25,1\n1715299200.75,2\n", [0.0, 0.5], [1, 2]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_published_traces_are_read(
    tmp_path: Path, text: str, arrival: list[float], batch: list[int], *, packed: bool
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    seen = read_trace(path)
    assert seen.arrival.tolist() == pytest.approx(arrival)
    assert seen.batch.tolist() == batch


def test_columns_of_another_trace_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, "id,at_ms,in,out,all\n1,1000,100,300,400\n2,3500,1,0,1\n")
    for size in ("all", "in + out", "in*1+out"):
        seen = read_trace(path, columns={"seconds": "at_ms * 0.001", "tokens": size})
        assert (seen.arrival.tolist(), seen.batch.tolist()) == ([0.0, 2.5], [2, 1])
    assert read_trace(path, columns={"seconds": "at_ms", "batch": "in"}).batch.tolist() == [100, 1]
    for columns, what in (
        ({"second": "at_ms"}, "traces have no 'second'"),
        ({"seconds": "at", "batch": "in"}, "no column 'at'"),
        ({"seconds": "at_ms"}, "the size of a query"),
        ({"seconds": "at_ms", "batch": "in", "tokens": "out"}, "not both"),
    ):
        with pytest.raises(InputError, match=what):
            read_trace(path, columns=columns)


def test_an_unknown_format_is_named_with_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown trace format, with the columns HashApp, 1, 2") as caught:
        read_trace(written(tmp_path, "HashApp,1,2\nx,0,3\n"))
    assert "--columns" in (caught.value.hint or "")
    assert "BurstGPT (Timestamp,Request tokens,Response tokens)" in (caught.value.hint or "")


def test_all_kinds_of_fault_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_trace(written(tmp_path, "seconds,batch\nx,1\n1,0\ny,1\n1715299200123,3\n"))
    assert caught.value.what.startswith("4 faults of 3 kinds")
    assert "1 more like it on line 4" in caught.value.what
    assert "milliseconds?" in caught.value.what


def test_azures_hour_is_an_hour(shared_data: Path) -> None:
    seen = read_trace(shared_data / "traces" / "azure_llm_2023_conv.csv")
    assert len(seen) == 19_366
    assert 3_400 < seen.arrival[-1] < 3_600


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a,b\n1,2\n", ":1", "unknown trace format, with the columns a, b"),
        ("seconds,batch\n", ":1", "no rows"),
        ("seconds,batch\n0,1\n1,0\n", ":3", "batch is '0': not a whole"),
        ("seconds,batch\n-1,1\n", ":2", "seconds is '-1': not a number of zero"),
        ("seconds,batch\nnan,1\n", ":2", "seconds is 'nan'"),
        ("seconds,batch\n0,1.5\n", ":2", "batch is '1.5'"),
        ("seconds,batch\n0,1e300\n", ":2", "batch is '1e300': more than"),
        ("seconds,batch\n1e300,1\n", ":2", "seconds is '1e300': more"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,1\n", ":2", "nor a date and time"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,x,1\n", ":2", "is 'x': not a number"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    with pytest.raises(InputError, match=what) as caught:
        read_trace(written(tmp_path, text))
    assert (caught.value.where or "").endswith(where)


def test_values_within_json_objects_have_their_paths_as_names(tmp_path: Path) -> None:
    text = "".join(
        f'{{"timestamp": {at}, "data": {{"input_tokens": 300, "output_tokens": {at}}}}}\n' for at in range(3)
    )
    columns = {"seconds": "timestamp", "tokens": "data.input_tokens + data.output_tokens"}
    assert list(read_trace(written(tmp_path, text), columns=columns).batch) == [2, 2, 2]


@pytest.mark.parametrize("zone", [" UTC", "UTC", "Z", "+00:00", " GMT"])
def test_utc_is_read_as_databases_write_it(tmp_path: Path, zone: str) -> None:
    rows = f"2024-05-10 00:00:01.5{zone},1,2\n2024-05-10 00:00:02{zone},1,2\n"
    trace = read_trace(written(tmp_path, f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}"))
    assert list(trace.arrival) == [0.0, 0.5]


def test_a_trace_in_parquet_is_answered_with_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    path.write_bytes(b"PAR1....PAR1")
    with pytest.raises(InputError, match="a Parquet file") as error:
        read_trace(path)
    assert error.value.hint == "write it as CSV or JSON lines"


def test_a_traces_sizes_keep_their_order_and_have_the_shares_that_are_asked_for(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    sizes = [1, 1, 2, 8, 8, 8, 2, 1] * 50  # large ones come together, at the shortest gaps
    times = np.cumsum([9, 9, 5, 1, 1, 1, 5, 9] * 50)
    trace.write_text("seconds,batch\n" + "".join(f"{t},{b}\n" for t, b in zip(times, sizes, strict=True)))
    process = ArrivalsSpec(trace=str(trace))
    same = np.bincount(sizes, minlength=9)[1:] / len(sizes)
    made = unit_queries(process, same, 1_000, np.random.default_rng(1))
    gaps = np.diff(made.arrival)
    assert gaps.mean() == pytest.approx(1.0, rel=0.05)
    assert (made.batch[1:][gaps < 0.3] == 8).mean() > 0.98
    assert (made.batch[1:][gaps > 1.2] == 1).mean() > 0.98
    share = np.array([0.75, 0.0, 0.0, 0.25])  # of the 1s, 2s and smaller 8s become 1s
    made = unit_queries(process, share, 20_000, np.random.default_rng(2))
    assert np.bincount(made.batch, minlength=5)[1:] / 20_000 == pytest.approx(share, abs=0.02)
    assert (made.batch[1:][np.diff(made.arrival) > 0.5] == 1).mean() > 0.98


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([1], "come at once"),
        ([1, 2], "too few queries to say how they come: 2; at least 20 are needed"),
        ([7] * 100, "come at once"),
    ],
)
def test_a_trace_that_says_nothing_of_arrivals_is_refused(
    tmp_path: Path, times: list[int], said: str
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,batch\n" + "".join(f"{time},1\n" for time in times))
    with pytest.raises(InputError, match=said):
        unit_arrivals(ArrivalsSpec(trace=str(trace)), 10, np.random.default_rng(0))


def test_without_a_trace_sizes_are_independent() -> None:
    share = np.array([0.5, 0.5])
    made = unit_queries("poisson", share, 4_000, np.random.default_rng(3))
    assert made.batch.mean() == pytest.approx(1.5, abs=0.05)
    assert abs(np.corrcoef(made.batch[:-1], made.batch[1:])[0, 1]) < 0.05
    bursts = unit_queries(ArrivalsSpec(gamma=GammaArrivals(cv=3)), share, 4_000, np.random.default_rng(3))
    assert np.diff(bursts.arrival).std() > 2.0
