"""Performance tables: read from CSV, Parquet and frames, and written; what planning cannot rely on is refused.

A source becomes columns, with names in any case. Columns become measurements: each value is parsed, and each fault
has its row. The rows of all sources become one table, with notes of what is hard to believe.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isfinite
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from partita.errors import InputError, nearest, refuse
from partita.files import replacing
from partita.frames import columns_of
from partita.mig.catalogue import gpu_meant, gpu_model, gpu_names
from partita.perf.records import MISSING, Notation, number_hint, plain_name, read_records
from partita.perf.table import Measurement, PerfTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


PARQUET = frozenset({".parquet", ".pq"})
REQUIRED = ("model", "gpu", "profile", "batch", "processes", "throughput", "latency_ms", "quantile")
OPTIONAL = ("memory_mb", "utilization", "power_w", "source", "estimated")
COLUMNS = (*REQUIRED, *OPTIONAL)
NUMBERS = (
    "batch",
    "processes",
    "throughput",
    "latency_ms",
    "quantile",
    "memory_mb",
    "utilization",
    "power_w",
)


def read_table(path: Path | str) -> PerfTable:
    """Read one performance table; `-` reads CSV from stdin.

    Raises:
        InputError: no such file, no table, or rows that cannot be used; all are counted, and each kind is described.
    """
    return read_tables([path])


def read_tables(sources: Iterable[object]) -> PerfTable:
    """Read performance tables and join them.

    Each is the path of a file, CSV or Parquet, or a frame of pandas, polars or Arrow. The table's notes say which
    columns were ignored and which rows are implausible.

    Raises:
        InputError: as `read_table`, or the same point in two places.
    """
    rows: list[Measurement] = []
    places: list[tuple[_Source, int]] = []
    notes: list[str] = []
    sources = list(sources)
    frames = sum(not isinstance(each, str | Path) for each in sources)
    for number, each in enumerate(sources, 1):
        source = _source_of(each, "the frame" if frames == 1 else f"frame {number}")
        found, faults = measurements(source.columns)
        told = [InputError(fault.what, where=source.place(fault.row), hint=fault.hint) for fault in faults]
        refuse(source.path, [*source.faults, *told])
        if source.extra:
            notes.append(f"{source.path}: ignored columns: {', '.join(map(repr, source.extra))}")
        rows += found
        places += [(source, row) for row in range(len(found))]
    stand = [source.place(row) for source, row in places]
    return joined(rows, stand, path=places[-1][0].path if places else "", notes=notes)


# From a source to columns


@dataclass(frozen=True, slots=True)
class _Source:
    """A file's columns, and where each row stands: `file:line` of CSV, `file: row N` of Parquet.

    Attributes:
        columns: values by the name of a column of performance tables.
        lines: of each row, None where the file has none.
        faults: what is wrong with the header, and rows of another length.
        extra: columns that are ignored.
    """

    path: str
    columns: Mapping[str, Sequence[object]]
    lines: Sequence[int] | None
    faults: tuple[InputError, ...]
    extra: tuple[str, ...]

    def place(self, row: int) -> str:
        return f"{self.path}: row {row + 1}" if self.lines is None else f"{self.path}:{self.lines[row]}"


def _source_of(given: object, name: str) -> _Source:
    if isinstance(given, str | Path):
        return _parquet(given) if Path(given).suffix.lower() in PARQUET else _csv(given)
    columns = columns_of(given)
    filled = bool(next(iter(columns.values()), ()))
    return _source(
        name,
        list(columns),
        columns if filled else {},
        where=name,
        hint="give the frame's columns these names",
    )


def _csv(path: Path | str) -> _Source:
    records = read_records(path)
    columns: dict[str, Sequence[object]] = dict(
        zip(records.header, zip(*records.fields, strict=True), strict=False)
    )
    if records.notation is not Notation.PLAIN:
        plain = records.notation.plain
        for name in columns.keys() & {records.columns.get(each) for each in NUMBERS}:
            columns[name] = [plain(str(each)) for each in columns[name]]
    where = f"{records.path}:{records.header_line}"
    return _source(
        records.path, records.header, columns, where=where, lines=records.lines, ragged=records.ragged
    )


def _parquet(path: Path | str) -> _Source:
    name = str(path)
    pa = _pyarrow(name)
    if Path(path).is_dir():
        raise InputError("this is a directory, not a file", where=name)
    try:
        table = pa.parquet.read_table(name)
    except FileNotFoundError:
        raise InputError("no such file", where=name) from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not a Parquet file: {str(error).splitlines()[0]}", where=name) from None
    nested = [f.name for f in table.schema if pa.types.is_nested(f.type) and plain_name(f.name) in COLUMNS]
    if nested:
        raise InputError(f"column {nested[0]!r} holds lists, not values", where=name)
    plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    columns = {each: table.column(each).to_pylist() for each in plain} if table.num_rows else {}
    return _source(name, plain, columns, where=name)


def _pyarrow(name: str) -> Any:  # noqa: ANN401 -- the module
    try:
        import pyarrow.parquet  # noqa: PLC0415 -- an extra, and 45 MB
    except ImportError:
        raise InputError(
            "Parquet tables need pyarrow", where=name, hint="pip install 'partita[parquet]'"
        ) from None
    return pyarrow


def _source(
    path: str,
    header: Sequence[str],
    columns: Mapping[str, Sequence[object]],
    *,
    where: str,
    lines: Sequence[int] | None = None,
    ragged: Sequence[InputError] = (),
    hint: str = "`partita perf import csv --columns` maps others",
) -> _Source:
    names, extra, wrong = _compared(header)
    if not columns and not ragged and not wrong:
        raise InputError("a header and no rows", where=where, hint="`partita perf import` fills tables")
    if wrong and not names:
        raise InputError(
            f"this is not a performance table: {_columns_it_has(header)}",
            where=where,
            hint="`partita perf import --help` lists what other tools write; `import csv` maps any columns",
        )
    needed = f"the columns are {', '.join(COLUMNS)}; {hint}"
    faults = [InputError(each, where=where, hint=needed) for each in wrong]
    known = {name: columns[written] for name, written in names.items() if written in columns}
    return _Source(path, known, lines, (*faults, *ragged), tuple(extra))


def _columns_it_has(header: Sequence[str]) -> str:
    return f"its columns are {', '.join(header)}" if header else "it has no columns"


def _compared(header: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Compare a table's column names with the known ones; case, spaces and hyphens do not matter.

    Returns:
        The column of each known name, as the source writes it; columns that are ignored; what is wrong.
    """
    names: dict[str, str] = {}
    extra, faults = [], []
    for written in header:
        name = plain_name(written)
        if name not in COLUMNS:
            extra.append(written)
        elif name in names:
            faults.append(f"column {name!r} appears twice")
        else:
            names[name] = written
    missing = [name for name in REQUIRED if name not in names]
    unused = dict.fromkeys(extra)
    for name in missing:
        close = nearest(name, [plain_name(each) for each in unused])
        meant = next((each for each in unused if close and plain_name(each) == close), None)
        faults.append(f"no column {name!r}" + (f" (is {meant!r} meant?)" if meant else ""))
    return names, extra, faults


# From columns to measurements


@dataclass(frozen=True, slots=True)
class RowFault:
    """What is wrong in a row of a table: the row's position, and the error without its place."""

    row: int
    what: str
    hint: str | None = None


def measurements(columns: Mapping[str, Sequence[object]]) -> tuple[list[Measurement], list[RowFault]]:
    """Turn columns into rows. A faulty table gives no rows, but all faults in the order of rows.

    Args:
        columns: required and optional columns, all of one length. If a required one is missing, there are no rows,
            but the faults of the others are found.
    """
    faults: list[RowFault] = []
    fields: dict[str, Sequence[object]] = {}
    length = len(next(iter(columns.values()), ()))
    for name in COLUMNS:
        values = columns.get(name)
        fields[name] = (_DEFAULTS.get(name),) * length if values is None else _parsed(values, name, faults)
    faults += _unknown_profiles(fields["gpu"], fields["profile"])
    if faults or not set(REQUIRED) <= set(columns):
        return [], sorted(faults, key=lambda fault: fault.row)
    return list(map(Measurement, *fields.values())), []


def _parsed(values: Sequence[object], name: str, faults: list[RowFault]) -> list[object]:
    parse, known, out = _PARSERS[name], {}, []
    for row, value in enumerate(values):
        try:
            # Most columns repeat few values, so each is parsed once.
            if value not in known:
                known[value] = parse(value)
            out.append(known[value])
        except TypeError:  # a list or the like, which no dictionary takes
            faults.append(RowFault(row, f"{name} is a {type(value).__name__}, not a single value"))
            out.append(None)
        except InputError as error:
            shown = "empty" if value is None or value == "" else repr(value)
            faults.append(RowFault(row, f"{name} is {shown}: {error.what}", error.hint))
            out.append(None)
    return out


def _unknown_profiles(gpus: Sequence[object], profiles: Sequence[object]) -> list[RowFault]:
    faults: dict[tuple[object, object], InputError | None] = {}
    found = []
    for row, pair in enumerate(zip(gpus, profiles, strict=True)):
        if pair not in faults:
            faults[pair] = _profile_error(*pair)
        error = faults[pair]
        if error:
            found.append(RowFault(row, error.what, error.hint))
    return found


def _profile_error(gpu: object, profile: object) -> InputError | None:
    if isinstance(gpu, str) and isinstance(profile, str):
        try:
            gpu_model(gpu).profile(profile)
        except InputError as error:
            return error
    return None  # an empty cell or an unknown GPU is reported as a fault of its own


def _text(value: object) -> str:
    text = "" if value is None else str(value).strip()
    if not text:
        raise InputError("a name is needed")
    return text


def _gpu(value: object) -> str:
    """Return the catalogue's name of a GPU, which nvidia-smi and people write in other ways."""
    text = _text(value)
    try:
        return gpu_meant(text).name
    except InputError:
        if text == "cpu":
            raise InputError(
                "it was measured on a CPU, which no plan has",
                hint="measure with `--as GPU/PROFILE` to have a CPU's figures stand in for a GPU's",
            ) from None
        close = nearest(text.lower(), list(gpu_names()))
        hint = f"did you mean {close}?" if close else "`partita gpus` lists them"
        raise InputError("no GPU of that name is in the catalogue", hint=hint) from None


def _profile(value: object) -> str:
    """Return a profile's name: `MIG 1g.10gb` of nvidia-smi and `mig-1g.10gb` of Kubernetes are `1g.10gb`."""
    return profile_name(_text(value))


def profile_name(text: str) -> str:
    """Return the profile of a name as nvidia-smi (`MIG 1g.10gb`) or Kubernetes (`mig-1g.10gb.me`) writes it."""
    bare = _DEVICE.sub("", _MIG.sub("", text.strip())).lower()
    return _VARIANT.sub("+", bare)


_MIG = re.compile(r"(?:nvidia\.com/)?mig[-\s]+", re.IGNORECASE)
_DEVICE = re.compile(r"\s+Device\s+\d+:.*", re.IGNORECASE)
_VARIANT = re.compile(r"(?<=gb)\.(?=[a-z])")


def _is_missing(value: object) -> bool:
    return value is None or str(value).strip().casefold() in MISSING


def _number(value: object) -> float:
    if value is None or value == "":
        raise InputError("a number is needed")
    try:
        number = float(value)  # type: ignore[arg-type]  # what cannot be turned is refused
    except (TypeError, ValueError):
        raise InputError("not a number", hint=number_hint(str(value))) from None
    if not isfinite(number):
        raise InputError("not a finite number")
    return number


def _positive(value: object) -> float:
    number = _number(value)
    if number <= 0:
        raise InputError("it must be above zero")
    return number


def _count(value: object) -> int:
    number = _positive(value)
    if not number.is_integer():
        raise InputError("it must be a whole number")
    return int(number)


def _amount(value: object) -> float | None:
    if _is_missing(value):
        return None
    number = _number(value)
    if number < 0:
        raise InputError("it must not be negative")
    return number


def _share(value: object) -> float | None:
    if isinstance(value, str) and value.strip().endswith("%"):
        percent = _amount(value.strip().removesuffix("%").strip())
        number = None if percent is None else percent / 100
    else:
        number = _amount(value)
    if number is not None and number > 1:
        raise InputError("it must be a share from 0 to 1", hint="divide percent by 100")
    return number


def _note(value: object) -> str:
    return "" if value is None or value != value else str(value)  # noqa: PLR0124 -- NaN of a column without text


def _flag(value: object) -> bool:
    text = "" if _is_missing(value) else str(value).strip().lower()
    if text not in _FLAGS:
        raise InputError("it must be true or false")
    return _FLAGS[text]


def quantile_text(value: object) -> str:
    """Return a quantile as tables keep it: `0.9` for `0.90`, `p90` and `P90`, and `mean`.

    Raises:
        InputError: neither `mean` nor a number between 0 and 1, both excluded.
    """
    text = "" if value is None else str(value).strip().lower()
    if text in {"mean", "avg", "average"}:
        return "mean"
    if text.endswith("%"):
        text = "p" + text.removesuffix("%").strip()
    hint = "write 0.9 or p90 for the 90th percentile, or mean"
    try:
        number = Decimal(text[1:]) / 100 if text.startswith("p") else Decimal(text)
        within = 0 < number < 1
    except InvalidOperation:  # NaN is one, once it is compared
        raise InputError("not a quantile", hint=hint) from None
    if not within:
        raise InputError("it must lie between 0 and 1", hint=hint)
    return f"{number.normalize():f}"


_FLAGS = {"": False, "false": False, "0": False, "no": False, "true": True, "1": True, "yes": True}
_DEFAULTS: dict[str, object] = {
    "memory_mb": None,
    "utilization": None,
    "power_w": None,
    "source": "",
    "estimated": False,
}
_PARSERS: dict[str, Callable[[object], object]] = {
    "model": _text,
    "gpu": _gpu,
    "profile": _profile,
    "batch": _count,
    "processes": _count,
    "throughput": _positive,
    "latency_ms": _positive,
    "quantile": quantile_text,
    "memory_mb": _amount,
    "utilization": _share,
    "power_w": _amount,
    "source": _note,
    "estimated": _flag,
}


# Checks across rows


def joined(
    rows: Sequence[Measurement], places: Sequence[str], *, path: str, notes: Iterable[str] = ()
) -> PerfTable:
    """Return rows as a table, with notes of what is hard to believe.

    Args:
        rows: the measurements.
        places: where each stands.
        path: the file's name in an error about several rows.
        notes: earlier notes, which come first.

    Raises:
        InputError: the same point twice.
    """
    _refuse_duplicates(rows, places, path)
    return PerfTable(rows, (*notes, *implausible(rows, lambda row: places[row])))


def _refuse_duplicates(rows: Sequence[Measurement], places: Sequence[str], path: str) -> None:
    keys = [(r.model, r.gpu, r.profile, r.batch, r.processes, r.quantile) for r in rows]
    if len(set(keys)) == len(keys):
        return
    first: dict[tuple[object, ...], int] = {}
    faults: list[InputError] = []
    for index, key in enumerate(keys):
        earlier = first.setdefault(key, index)
        if earlier != index:
            faults.append(
                InputError(
                    "{} on {} {}, batch {}, processes {}, quantile {}".format(*key)
                    + f" is already at {places[earlier]}",
                    where=places[index],
                    hint="keep one of the two rows",
                )
            )
    refuse(path, faults)


_MOST_TIMES_FASTER = 10.0
"""A slice this many times as fast as a larger one is hard to believe."""
_MOST_APART = 10.0
"""Throughput, latency and batch that contradict each other by this factor are hard to believe."""
_PLACES = 4


def implausible(rows: Sequence[Measurement], place: Callable[[int], str]) -> list[str]:
    """Return notes of rows that are hard to believe, one sentence for each kind, with its first places.

    There are two checks. On a slice whose processes are always busy, throughput x latency is the work in progress:
    batch x processes (Little's law); a factor of ten means a wrong unit, such as seconds for milliseconds. And a
    slice is not ten times as fast as a larger one.

    Args:
        rows: measurements.
        place: where the row at a position stands.
    """
    told = [
        (
            "throughput x latency is {ratio:,.3g} times batch x processes (seconds, or one process alone?)",
            _against_little(rows),
        ),
        (
            "{ratio:,.3g} times as fast as a larger slice, on {other} (rows swapped, or other units?)",
            _against_larger(rows, place),
        ),
    ]
    notes = []
    for text, found in told:
        cases = list(found)
        if cases:
            row, ratio, other = cases[0]
            more = ", ".join(place(each).rpartition("/")[2] for each, _, _ in cases[1:_PLACES])
            others = f"; {len(cases) - 1:,} more like it, as at {more}" if more else ""
            notes.append(f"{place(row)}: hard to believe: " + text.format(ratio=ratio, other=other) + others)
    return notes


def _against_little(rows: Sequence[Measurement]) -> Iterator[tuple[int, float, str]]:
    for index, row in enumerate(rows):
        ratio = row.throughput * row.latency_ms / 1000 / (row.batch * row.processes)
        if not 1 / _MOST_APART <= ratio <= _MOST_APART and not row.estimated:
            yield index, ratio, ""


def _against_larger(
    rows: Sequence[Measurement], place: Callable[[int], str]
) -> Iterator[tuple[int, float, str]]:
    groups: dict[tuple[str, str, int, int, str], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.model, row.gpu, row.batch, row.processes, row.quantile), []).append(index)
    for (_, gpu, *_), group in groups.items():
        if len(group) > 1:
            yield from _faster_than_larger(rows, group, gpu, place)


def _faster_than_larger(
    rows: Sequence[Measurement], group: Sequence[int], gpu: str, place: Callable[[int], str]
) -> Iterator[tuple[int, float, str]]:
    sizes = {profile.name: (profile.compute, profile.memory) for profile in gpu_model(gpu).profiles}
    slowest: tuple[float, int] | None = None
    for index in sorted(group, key=lambda each: sizes[rows[each].profile], reverse=True):
        throughput = rows[index].throughput
        if slowest is not None and throughput >= _MOST_TIMES_FASTER * slowest[0]:
            larger = slowest[1]
            if sizes[rows[index].profile] < sizes[rows[larger].profile]:
                yield index, throughput / slowest[0], place(larger).rpartition("/")[2]
        if slowest is None or throughput < slowest[0]:
            slowest = throughput, index


# Writing


def write_table(table: PerfTable, path: Path | str) -> None:
    """Write a table: Parquet where the name ends in `.parquet` or `.pq`, else CSV.

    Optional columns that no row fills are left out. Reading the file gives the same rows again.

    Raises:
        InputError: the place cannot be written to, or Parquet without pyarrow.
    """
    if Path(path).suffix.lower() in PARQUET:
        pa = _pyarrow(str(path))
        columns = {each: [getattr(row, each) for row in table] for each in columns_filled(table)}
        buffer = io.BytesIO()
        pa.parquet.write_table(pa.table(columns), buffer)
        with replacing(path) as stream:
            stream.buffer.write(buffer.getvalue())
    else:
        with replacing(path) as stream:
            write_csv(table, stream)


def write_csv(table: PerfTable, stream: IO[str]) -> None:
    """Write a table as CSV to an open text stream."""
    names = columns_filled(table)
    out = csv.writer(stream, lineterminator="\n")
    quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    out.writerow(names)
    for row in table:  # a line that begins with # would be read as a comment
        writer = quoted if row.model.startswith("#") else out
        writer.writerow([_plain(getattr(row, name)) for name in names])


def columns_filled(table: PerfTable) -> list[str]:
    """Return the names of the columns that a table has: all that are required, and the others that a row fills."""
    return [*REQUIRED, *(name for name in OPTIONAL if any(not _empty(getattr(row, name)) for row in table))]


def _empty(value: object) -> bool:
    return value is None or value is False or value == ""


def _plain(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
