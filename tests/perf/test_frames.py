"""Performance tables from and to frames of pandas, polars and Arrow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import narwhals.stable.v2 as nw
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from partita.errors import InputError
from partita.frames import columns_of, frame_of
from partita.perf.reading import read_table, write_table
from partita.perf.table import PerfTable

EXAMPLES = Path(__file__).resolve().parents[2] / "src" / "partita" / "examples"
BACKENDS = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.Table}


@pytest.fixture(scope="module")
def table() -> PerfTable:
    return read_table(EXAMPLES / "perf.csv")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_table_goes_to_a_frame_and_back(table: PerfTable, backend: str) -> None:
    frame = table.to_frame(backend)
    assert isinstance(frame, BACKENDS[backend])
    assert list(PerfTable.from_frame(frame)) == list(table)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_missing_stays_missing(backend: str) -> None:
    columns: dict[str, list[object]] = {
        "model": ["m", "m"],
        "gpu": ["a100-80gb"] * 2,
        "profile": ["1g.10gb"] * 2,
        "batch": [1, 2],
        "processes": [1, 1],
        "throughput": [10.0, 20],
        "latency_ms": [100.0, 100],
        "quantile": [0.99, 0.99],
        "memory_mb": [None, 7.5],
        "source": ["mine", None],
        "estimated": [True, None],
    }
    first, second = PerfTable.from_frame(frame_of(columns, backend))
    assert (first.memory_mb, first.source, first.estimated, first.quantile) == (None, "mine", True, "0.99")
    assert (second.memory_mb, second.source, second.estimated) == (7.5, "", False)
    assert (first.utilization, first.power_w) == (None, None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_without_values_have_the_type_that_they_have_with_values(backend: str) -> None:
    full: dict[str, list[object]] = {
        "service": ["web"],
        "batch": [1],
        "throughput": [2.0],
        "estimated": [True],
    }
    wanted = nw.from_native(frame_of(full, backend)).schema
    assert nw.from_native(frame_of({name: [] for name in full}, backend)).schema == wanted
    if backend != "pandas":  # it has no missing whole numbers
        assert nw.from_native(frame_of({name: [None] for name in full}, backend)).schema == wanted


def test_others_read_a_table_as_an_arrow_stream(table: PerfTable) -> None:
    assert pa.table(table).column("model").to_pylist() == [row.model for row in table]
    assert pl.DataFrame(table)["throughput"].to_list() == [row.throughput for row in table]


class Stream:
    """An object that is an Arrow stream and nothing else."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def test_lazy_frames_and_bare_arrow_streams_are_read(table: PerfTable) -> None:
    assert list(PerfTable.from_frame(table.to_frame("polars").lazy())) == list(table)
    assert list(PerfTable.from_frame(Stream(table.to_frame("pyarrow")))) == list(table)


def test_names_and_units_are_those_of_files(table: PerfTable) -> None:
    frame = table.to_frame("pandas").rename(columns={"latency_ms": "Latency ms"}).assign(note="x")
    frame["quantile"] = "p99"
    made = PerfTable.from_frame(frame)
    assert {row.quantile for row in made} == {"0.99"}
    assert made.notes[0] == "the frame: ignored columns: 'note'"


def test_faults_are_told_with_their_rows(table: PerfTable) -> None:
    frame = table.to_frame("pandas")
    frame["batch"] = frame["batch"].astype(object)
    frame.loc[3, "batch"] = 1.5
    frame.loc[5, "gpu"] = "a100-80g"
    with pytest.raises(InputError) as error:
        PerfTable.from_frame(frame)
    assert error.value.where == "the frame"
    assert "the frame: row 4: batch is 1.5: it must be a whole number" in error.value.what
    assert "the frame: row 6: gpu is 'a100-80g'" in error.value.what
    with pytest.raises(InputError, match="is already at the frame: row 1"):
        PerfTable.from_frame(pd.concat([table.to_frame("pandas").head(1)] * 2))
    with pytest.raises(InputError, match="no column 'throughput'"):
        PerfTable.from_frame(table.to_frame("polars").drop("throughput"))
    with pytest.raises(InputError, match="a header and no rows"):
        PerfTable.from_frame(table.to_frame("polars").head(0))


@pytest.mark.parametrize("given", [3, [1, 2], {"model": ["m"]}, None, "no-such-file.csv"])
def test_what_is_no_table_is_refused(given: object) -> None:
    with pytest.raises(InputError):
        PerfTable.from_frame(given)


def test_columns_of_one_name_are_refused() -> None:
    with pytest.raises(InputError):
        columns_of(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_an_unknown_or_absent_backend_is_told() -> None:
    with pytest.raises(InputError) as error:
        frame_of({"a": [1]}, "panda")
    assert error.value.hint == "did you mean pandas?"
    text = (
        "import sys; from importlib import util; whole = util.find_spec\n"
        "import partita.frames as f; f.find_spec = lambda name: None\n"
        "from partita.errors import InputError\n"
        "for asked in (None, 'polars'):\n"
        "    try: f.frame_of({'a': [1]}, asked)\n"
        "    except InputError as error: print(error, '|', error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "no library for frames is installed | install one: pip install pandas",
        "polars is not installed | pip install polars",
    ]


def test_the_library_that_is_imported_already_is_taken() -> None:
    text = "import polars; from partita.frames import frame_of; print(type(frame_of({'a': [1]})).__module__)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("polars")


def test_parquet_and_frames_hold_the_same(table: PerfTable, tmp_path: Path) -> None:
    write_table(table, tmp_path / "perf.parquet")
    assert list(PerfTable.from_frame(pd.read_parquet(tmp_path / "perf.parquet"))) == list(table)
