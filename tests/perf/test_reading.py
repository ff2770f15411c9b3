from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from partita.errors import InputError
from partita.perf.reading import quantile_text, read_table, read_tables, write_table
from partita.perf.table import Measurement, PerfTable

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
    assert "1g.10gb" in (refused(table(tmp_path, GOOD.replace("1g.10gb", "1g.10g"))).hint or "")


@pytest.mark.parametrize(
    "gpu", ["NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB", "nvidia a100-sxm4-80gb", "A100-80GB", " a100-80gb "]
)
@pytest.mark.parametrize(
    "profile", ["1g.10gb", "MIG 1g.10gb", "1G.10GB", "mig-1g.10gb", "nvidia.com/mig-1g.10gb"]
)
def test_gpus_and_profiles_are_read_as_nvidia_smi_and_kubernetes_print_them(
    tmp_path: Path, gpu: str, profile: str
) -> None:
    (row,) = read_table(
        table(
            tmp_path, GOOD.replace("a100-80gb", gpu).replace("1g.10gb", profile).replace("G.10gb", "G.10GB")
        )
    )
    assert (row.gpu, row.profile) == ("a100-80gb", "1g.10gb")


def test_columns_that_lack_are_all_named(tmp_path: Path) -> None:
    error = refused(table(tmp_path, "1,2", header="batch,tput"))
    for name in set(HEADER.split(",")) - {"batch"}:
        assert f"no column '{name}'" in error.what


def test_every_kind_of_fault_is_told_at_once_with_its_count_and_places(tmp_path: Path) -> None:
    lines = [GOOD.replace("358.3", "x").replace(",8,", f",{b},") for b in range(1, 14)]
    lines += [GOOD.replace("1g.10gb", "1g.5gb"), GOOD.replace("22.3", "-1"), "a,b"]
    error = refused(table(tmp_path, *lines, header=HEADER.replace("quantile", "quantil")))
    path = f"{tmp_path}/perf.csv"
    assert error.what.startswith("17 faults of 5 kinds")
    assert f"{path}:1: no column 'quantile' (is 'quantil' meant?)" in error.what
    assert f"{path}:2: throughput is 'x': not a number; 12 more like it on lines 3, 4, 5, 6," in error.what
    assert f"{path}:15: a100-80gb has no profile '1g.5gb'" in error.what
    assert f"{path}:16: latency_ms is '-1': it must be above zero" in error.what
    assert f"{path}:17: 2 fields under 8 columns" in error.what


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


def test_a_missing_column_is_told_with_the_nearest_that_is_there(tmp_path: Path) -> None:
    error = refused(table(tmp_path, GOOD, header=HEADER.replace("latency_ms", "latency")))
    assert error.where == f"{tmp_path}/perf.csv:1"
    assert error.what == "no column 'latency_ms' (is 'latency' meant?)"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (HEADER.encode() + b"\n", "a header and no rows"),
        (b"\x00\x01\x02", "not a text file"),
        (b"\xff\xfe\x00", "not UTF-16"),
        (b"caf\xe9,b\n", "not UTF-8"),
        (b"a,b\n1,2\n", "this is not a performance table: its columns are a, b"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"PK\x03\x04...", "an Excel workbook"),
        (b"PAR1...", "a Parquet file"),
        (gzip.compress(HEADER.encode(), mtime=0)[:-4], "ends too early"),
        (b"\x1f\x8b" + b"?" * 30, "damaged"),
        ((HEADER + "\n" + GOOD + ",7").encode(), "9 fields under 8 columns"),
        ((HEADER + ",model\n" + GOOD + ",x").encode(), "'model' appears twice"),
        ((HEADER + '\n"' + "x" * 200_000).encode(), "not CSV"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "perf.csv"
    path.write_bytes(content)
    assert said in refused(path).what


TWO = [GOOD.split(","), GOOD.replace(",8,", ",16,").replace("358.3", "1204.25").split(",")]
FIELD_FORMS = {
    "a byte order mark": ("\ufeff" + HEADER + "\n" + "\n".join(map(",".join, TWO))).encode(),
    "Windows' line ends": "\r\n".join([HEADER, *map(",".join, TWO), ""]).encode(),
    "old Macs' line ends": "\r".join([HEADER, *map(",".join, TWO)]).encode(),
    "UTF-16": "\r\n".join([HEADER, *map(",".join, TWO)]).encode("utf-16"),
    "UTF-16 without a mark": "\n".join([HEADER, *map(",".join, TWO)]).encode("utf-16-be"),
    "gzip": gzip.compress("\n".join([HEADER, *map(",".join, TWO)]).encode(), mtime=0),
    "semicolons": "\n".join(";".join(each) for each in [HEADER.split(","), *TWO]).encode(),
    "tabs": "\n".join("\t".join(each) for each in [HEADER.split(","), *TWO]).encode(),
    "Excel in Europe": "\r\n".join(
        ["sep=;", HEADER.replace(",", ";"), *(";".join(each).replace(".", ",") for each in TWO)]
    )
    .replace("1204,25", "1.204,25")
    .replace("1g,10gb", "1g.10gb")
    .encode("utf-8-sig"),
    "thousands separators": "\n".join([HEADER, *map(",".join, TWO)])
    .replace("1204.25", '"1,204.25"')
    .encode(),
    "thin spaces": "\n".join([HEADER, *map(",".join, TWO)]).replace("1204.25", "1\u202f204.25").encode(),
    "comments": "\n".join(
        ["# run 7, on node 3", "", HEADER, "# warm", *map(",".join, TWO), "# end", ",,,,,,,"]
    ).encode(),
    "a commented header": "\n".join(["# " + HEADER, *map(",".join, TWO)]).encode(),
    "capitals and spaces": "\n".join(
        ["Model, GPU ,Profile,Batch,Processes,Throughput,Latency (ms),Quantile", *map(",".join, TWO)]
    ).encode(),
    "trailing delimiters": "\n".join([HEADER + ",", *(",".join(each) + ",," for each in TWO)]).encode(),
    "JSON lines": "\n".join(
        json.dumps(dict(zip(HEADER.split(","), each, strict=True))) for each in TWO
    ).encode(),
}


@pytest.mark.parametrize("content", FIELD_FORMS.values(), ids=FIELD_FORMS)
def test_a_table_is_read_as_other_programs_write_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "perf.csv"
    path.write_bytes(content)
    assert [
        (r.gpu, r.profile, r.batch, r.throughput, r.latency_ms, r.quantile) for r in read_table(path)
    ] == [
        ("a100-80gb", "1g.10gb", 8, 358.3, 22.3, "0.9"),
        ("a100-80gb", "1g.10gb", 16, 1204.25, 22.3, "0.9"),
    ]


def test_a_comma_that_may_mean_two_things_is_refused(tmp_path: Path) -> None:
    line = GOOD.replace("358.3", "1,204").replace("22.3", "22").replace("0.9", "mean")
    fields = line.replace("1,204", "1~204").replace(",", ";").replace("~", ",")
    error = refused(table(tmp_path, fields, header=HEADER.replace(",", ";")))
    assert "throughput is '1,204': not a number" in error.what
    assert "ambiguous" in (error.hint or "")


def test_columns_of_others_are_passed_over_and_named(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, GOOD + ",node-3,7", header=HEADER + ",host,run"))
    assert len(found) == 1
    assert found.notes == (f"{tmp_path}/perf.csv: ignored columns: 'host', 'run'",)


def test_what_can_hardly_be_true_is_told_with_its_lines(tmp_path: Path) -> None:
    seconds = [GOOD.replace("22.3", "0.0223"), GOOD.replace("22.3", "0.0446").replace(",8,", ",16,")]
    (note,) = read_table(table(tmp_path, *seconds)).notes
    assert note.startswith(f"{tmp_path}/perf.csv:2: hard to believe: throughput x latency is 0.000999 times")
    assert note.endswith("1 more like it, as at perf.csv:3")
    swapped = [GOOD.replace("358.3,22.3", "5000,1.6"), GOOD.replace("1g.10gb", "7g.80gb")]
    (note,) = read_table(table(tmp_path, *swapped)).notes
    assert "perf.csv:2: hard to believe: 14 times as fast as a larger slice, on perf.csv:3" in note


@pytest.mark.parametrize("name", ["mig_serving_a100.csv", "parvagpu_a100_80gb.csv"])
def test_the_public_tables_are_believed(shared_data: Path, name: str) -> None:
    assert read_table(shared_data / "perf" / name).notes == ()


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


def fields(lines: list[list[str]]) -> list[list[str]]:
    return [
        [f'"{each}"' if not each[0].isdigit() or "g." in each else each for each in line] for line in lines
    ]


R = fields([HEADER.split(","), *TWO])
OTHER_PROGRAMS = {
    "R's write.table": "\n".join(
        [" ".join(R[0]), *(f'"{row}" ' + " ".join(line) for row, line in enumerate(R[1:], 1))]
    ),
    "R's write.csv2": "\n".join(
        [
            '"";' + ";".join(R[0]),
            *(
                f'"{row}";' + ";".join(each if '"' in each else each.replace(".", ",") for each in line)
                for row, line in enumerate(R[1:], 1)
            ),
        ]
    ),
    "R's missing values": "\n".join(
        [HEADER + ",memory_mb,power_w", *(",".join(each) + ",NA,NA" for each in TWO)]
    ),
    "pandas' index and NaN": "\n".join(
        [
            "," + HEADER + ",memory_mb,estimated",
            *(f"{at}," + ",".join(each) + ",nan,NaN" for at, each in enumerate(TWO)),
        ]
    ),
    "polars' null": "\n".join([HEADER + ",memory_mb", *(",".join(each) + ",null" for each in TWO)]),
    "Excel's errors": "\n".join([HEADER + ",memory_mb", *(",".join(each) + ",#N/A" for each in TWO)]),
    "numpy's savetxt": "\n".join(["# " + HEADER.replace(",", " "), *map(" ".join, TWO)]),
    "files one after the other": "\n".join([HEADER, ",".join(TWO[0]), HEADER, ",".join(TWO[1])]),
    "percent": "\n".join([HEADER, *map(",".join, TWO)]).replace("0.9", "90%"),
}


@pytest.mark.parametrize("content", OTHER_PROGRAMS.values(), ids=OTHER_PROGRAMS)
def test_what_statistics_programs_write_is_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(content)
    assert [
        (r.batch, r.throughput, r.latency_ms, r.quantile, r.memory_mb, r.power_w, r.source, r.estimated)
        for r in read_table(path)
    ] == [(8, 358.3, 22.3, "0.9", None, None, "", False), (16, 1204.25, 22.3, "0.9", None, None, "", False)]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        (",5", 0.5),
        ("0,125", 0.125),
        ("0.125", 0.125),
        ("1.204,5", 1204.5),
        ("1.204", 1204.0),
        ("1 204,5", 1204.5),
        ("1,5E+03", 1500.0),
    ],
)
def test_numbers_beside_a_decimal_comma(tmp_path: Path, written: str, number: float) -> None:
    line = f"resnet50;a100-80gb;1g.10gb;8;1;{written};22,3;p99,9"
    (row,) = read_table(table(tmp_path, line, header=HEADER.replace(",", ";")))
    assert (row.throughput, row.latency_ms, row.quantile) == (number, 22.3, "0.999")


def test_indian_groups_and_percents_with_a_comma(tmp_path: Path) -> None:
    (row,) = read_table(table(tmp_path, GOOD.replace("358.3", '"1,23,456.5"')))
    assert row.throughput == 123456.5
    line = GOOD.replace(",", ";").replace("358.3", "358,3") + ";85,5 %"
    (row,) = read_table(table(tmp_path, line, header=HEADER.replace(",", ";") + ";utilization"))
    assert (row.throughput, row.utilization) == (358.3, 0.855)


def test_a_unit_in_a_field_is_answered_with_what_to_write(tmp_path: Path) -> None:
    for unit in ("22.3ms", "22.3 ms", "22.3 \u00b5s", "22.3/s"):
        assert "number alone" in (refused(table(tmp_path, GOOD.replace("22.3", unit))).hint or "")


def test_a_byte_of_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.write_bytes(f"{HEADER}\n{GOOD}\n{GOOD.replace('resnet50', 'Größe')}\n".encode("cp1252"))
    error = refused(path)
    assert (error.where, error.what) == (f"{path}:3", "not UTF-8 text (byte 0xf6 in this line)")
    assert "windows-1252" in (error.hint or "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "Git LFS"),
        (b"\x93NUMPY\x01\x00v\x00", "numpy"),
        (b"\x80\x04\x95\x10", "pickle"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (gzip.compress(gzip.compress(HEADER.encode(), mtime=0), mtime=0), "packed twice"),
        (b"x\x9c\x01\x02\x03\xff\xfe", "not a text file"),
    ],
    ids=["git-lfs", "numpy", "pickle", "hdf5", "gzip of gzip", "bytes"],
)
def test_a_foreign_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "perf.csv"
    path.write_bytes(content)
    assert said in refused(path).what


def test_a_key_that_is_twice_in_a_json_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "perf.jsonl"
    path.write_text('\n{"model": "a", "gpu": "x", "model": "b"}\n')
    error = refused(path)
    assert (error.where, error.what) == (f"{path}:2", "'model' appears twice in one object")


@pytest.mark.parametrize(
    "written",
    [
        "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c)",
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb",
        "A100-80GB",
        "A100 80GB",
    ],
)
@pytest.mark.parametrize(
    "profile", ["MIG 1g.10gb+me", "nvidia.com/mig-1g.10gb.me", "MIG 1g.10gb+me  Device  0: (UUID: MIG-1)"]
)
def test_gpus_and_profiles_are_read_as_nvidia_smi_and_kubernetes_write_them(
    tmp_path: Path, written: str, profile: str
) -> None:
    (row,) = read_table(
        table(tmp_path, GOOD.replace("1g.10gb,", f"{profile},").replace("a100-80gb", written))
    )
    assert (row.gpu, row.profile) == ("a100-80gb", "1g.10gb+me")


@pytest.mark.parametrize("written", ["H100", "a100", "gh200"])
def test_a_family_of_gpus_is_none(tmp_path: Path, written: str) -> None:
    error = refused(table(tmp_path, GOOD.replace("a100-80gb", written)))
    assert "no GPU of that name" in error.what
    assert f"did you mean {written.lower()}-" in (error.hint or "")
