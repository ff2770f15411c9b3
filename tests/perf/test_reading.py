from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from partita.errors import InputError
from partita.perf.columns import quantile_text
from partita.perf.reading import read_table, read_tables
from partita.perf.table import Measurement, PerfTable
from partita.perf.writing import write_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEADER = "model,gpu,profile,batch,processes,throughput,latency_ms,quantile"
GOOD = "resnet50,a100-80gb,1g.10gb,8,1,358.3,22.3,0.9"


def table(tmp_path: Path, *lines: str, header: str = HEADER, name: str = "perf.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_table(path)
    return caught.value


def test_a_row_is_read_with_its_units(tmp_path: Path) -> None:
    (row,) = read_table(table(tmp_path, GOOD))
    assert row == Measurement("resnet50", "a100-80gb", "1g.10gb", 8, 1, 358.3, 22.3, "0.9")


def test_optional_columns_may_be_left_empty(tmp_path: Path) -> None:
    header = HEADER + ",memory_mb,utilization,power_w,source,estimated"
    bare, full = read_table(
        table(tmp_path, GOOD + ",,,,,", GOOD.replace(",8,", ",16,") + ",900,0.5,70,lab,true", header=header)
    )
    assert (bare.memory_mb, bare.utilization, bare.power_w, bare.source, bare.estimated) == (
        None,
        None,
        None,
        "",
        False,
    )
    assert (full.memory_mb, full.utilization, full.power_w, full.source, full.estimated) == (
        900,
        0.5,
        70,
        "lab",
        True,
    )


def test_columns_may_come_in_any_order_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "",
        "0.9,22.3,358.3,1,8,1g.10gb,a100-80gb,resnet50",
        header=",".join(reversed(HEADER.split(","))),
    )
    assert read_table(path).models == ("resnet50",)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("0.9", "0.9"),
        ("0.90", "0.9"),
        ("p90", "0.9"),
        ("P99.9", "0.999"),
        ("mean", "mean"),
        ("avg", "mean"),
        (0.95, "0.95"),
    ],
)
def test_quantiles_are_kept_as_one_text(written: object, kept: str) -> None:
    assert quantile_text(written) == kept


@pytest.mark.parametrize("written", ["0", "1", "90", "-0.5", "p0", "p100", "nan", "inf", "median", "", None])
def test_what_is_no_quantile_is_refused(written: object) -> None:
    with pytest.raises(InputError):
        quantile_text(written)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("batch", "0", "batch is '0': it must be above zero"),
        ("batch", "1.5", "batch is '1.5': it must be a whole number"),
        ("batch", "eight", "batch is 'eight': not a number"),
        ("processes", "-1", "processes is '-1': it must be above zero"),
        ("throughput", "", "throughput is empty: a number is needed"),
        ("throughput", "0", "it must be above zero"),
        ("throughput", "nan", "not a finite number"),
        ("latency_ms", "inf", "not a finite number"),
        ("latency_ms", "-3", "it must be above zero"),
        ("quantile", "90", "quantile is '90': it must lie between 0 and 1"),
        ("model", " ", "a name is needed"),
        ("gpu", "a100-80g", "no GPU of that name is in the catalogue"),
        ("profile", "1g.5gb", "a100-80gb has no profile '1g.5gb'"),
    ],
)
def test_a_field_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, column: str, value: str, said: str
) -> None:
    fields = dict(zip(HEADER.split(","), GOOD.split(","), strict=True)) | {column: value}
    other = GOOD.replace(",8,", ",16,")
    error = refused(table(tmp_path, other, ",".join(fields.values())))
    assert str(error).startswith(f"{tmp_path}/perf.csv:3: ")
    assert said in error.what


def test_a_misspelt_gpu_or_profile_is_answered_with_the_nearest(tmp_path: Path) -> None:
    assert "a100-80gb" in (refused(table(tmp_path, GOOD.replace("a100-80gb", "a100-80g"))).hint or "")
    assert "a100-80gb" in (
        refused(table(tmp_path, GOOD.replace("a100-80gb", "NVIDIA A100-SXM4-80GB"))).hint or ""
    )
    assert "1g.10gb" in (refused(table(tmp_path, GOOD.replace("1g.10gb", "1g.10g"))).hint or "")


def test_up_to_ten_faults_are_told_at_once(tmp_path: Path) -> None:
    error = refused(
        table(tmp_path, *(GOOD.replace("358.3", "x").replace(",8,", f",{b},") for b in range(1, 14)))
    )
    assert error.what.startswith("13 faults")
    assert error.what.count("not a number") == 10
    assert error.what.endswith("and 3 more")
    assert "perf.csv:2: throughput" in error.what


def test_the_same_point_twice_names_both_lines(tmp_path: Path) -> None:
    error = refused(table(tmp_path, GOOD, GOOD.replace("0.9", "p90")))
    assert str(error).startswith(f"{tmp_path}/perf.csv:3: resnet50 on a100-80gb 1g.10gb, batch 8")
    assert f"{tmp_path}/perf.csv:2" in error.what


def test_the_same_point_in_two_files_names_both(tmp_path: Path) -> None:
    first, second = table(tmp_path, GOOD, name="a.csv"), table(tmp_path, "", GOOD, name="b.csv")
    with pytest.raises(InputError, match=r"b\.csv:3: .* is already at .*a\.csv:2"):
        read_tables([first, second])


def test_tables_are_joined(tmp_path: Path) -> None:
    first = table(tmp_path, GOOD, name="a.csv")
    second = table(tmp_path, GOOD.replace("0.9", "mean"), name="b.csv")
    assert {row.quantile for row in read_tables([first, second])} == {"0.9", "mean"}


def test_missing_and_unknown_columns_are_told_with_the_nearest(tmp_path: Path) -> None:
    error = refused(table(tmp_path, GOOD, header=HEADER.replace("latency_ms", "latency")))
    assert error.where == f"{tmp_path}/perf.csv:1"
    assert "unknown column 'latency' (did you mean latency_ms?)" in error.what
    assert "no column 'latency_ms'" in error.what


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (HEADER.encode() + b"\n", "a header and no rows"),
        (b"\x00\x01\x02", "not a text file"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ((HEADER + "\n" + GOOD).replace(",", ";").encode(), "not separated by commas"),
        ((HEADER + "\n" + GOOD + ",7").encode(), "9 fields under 8 columns"),
        ((HEADER + ",model\n" + GOOD + ",x").encode(), "'model' is there twice"),
        ((HEADER + '\n"' + "x" * 200_000).encode(), "not CSV"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "perf.csv"
    path.write_bytes(content)
    assert said in refused(path).what


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    assert "directory" in refused(tmp_path).what
    assert "no such file" in refused(tmp_path / "none.csv").what
    (tmp_path / "folder.parquet").mkdir()
    assert "directory" in refused(tmp_path / "folder.parquet").what
    assert "no such file" in refused(tmp_path / "none.parquet").what


def test_a_hundred_thousand_rows_are_read_in_about_a_second(tmp_path: Path) -> None:
    profiles = ("1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
    lines = [
        f"model{m},a100-80gb,{profile},{batch},1,{m + batch}.25,{batch}.5,0.9"
        for m in range(2000)
        for profile in profiles
        for batch in range(1, 11)
    ]
    path = table(tmp_path, *lines)
    start = time.process_time()
    assert len(read_table(path)) == 100_000
    assert time.process_time() - start < 5  # about 0.6 s; the margin is for slow machines


@pytest.mark.parametrize(("name", "rows"), [("mig_serving_a100.csv", 320), ("parvagpu_a100_80gb.csv", 1747)])
def test_the_public_tables_are_read(shared_data: Path, name: str, rows: int) -> None:
    assert len(read_table(shared_data / "perf" / name)) == rows


numbers = st.floats(min_value=1e-6, max_value=1e12)
maybe = st.none() | st.floats(min_value=0, max_value=1e9)
measured = st.builds(
    Measurement,
    model=st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1),
    gpu=st.just("a30-24gb"),
    profile=st.sampled_from(["1g.6gb", "2g.12gb", "4g.24gb"]),
    batch=st.integers(1, 4096),
    processes=st.integers(1, 48),
    throughput=numbers,
    latency_ms=numbers,
    quantile=st.sampled_from(["mean", "0.5", "0.99", "0.999"]),
    memory_mb=maybe,
    utilization=st.none() | st.floats(0, 1),
    power_w=maybe,
    source=st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
    estimated=st.booleans(),
)
tables = st.lists(
    measured, min_size=1, unique_by=lambda r: (r.model, r.profile, r.batch, r.processes, r.quantile)
)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@given(rows=tables)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[Measurement]
) -> None:
    path = tmp_path_factory.mktemp("tables") / f"perf.{suffix}"
    write_table(PerfTable(rows), path)
    assert list(read_table(path)) == rows


@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_file_is_answered_with_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    for name in ("perf.csv", "perf.parquet"):
        path = tmp_path_factory.mktemp("fuzz") / name
        path.write_bytes(content)
        with pytest.raises(InputError):
            read_table(path)


def test_parquet_says_the_row_of_a_fault(tmp_path: Path) -> None:
    fields = dict(zip(HEADER.split(","), GOOD.split(","), strict=True))
    path = tmp_path / "perf.parquet"
    parquet.write_table(pa.table({k: [v, "-1" if k == "throughput" else v] for k, v in fields.items()}), path)
    assert refused(path).where == f"{path}: row 2"
    parquet.write_table(pa.table({k: [v if k != "batch" else [1]] for k, v in fields.items()}), path)
    assert "holds lists" in refused(path).what


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "partita[parquet]" in (refused(tmp_path / "perf.parquet").hint or "")
    with pytest.raises(InputError, match="need pyarrow"):
        write_table(PerfTable([]), tmp_path / "perf.parquet")


def test_a_table_is_never_half_written(tmp_path: Path) -> None:
    class Torn(PerfTable):
        def __iter__(self) -> Iterator[Measurement]:
            yield from ()
            raise RuntimeError

    path = tmp_path / "perf.csv"
    path.write_text("before")
    with pytest.raises(RuntimeError):
        write_table(Torn([]), path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
