"""Importers: other tools' measurements as performance tables, one function for each layout.

`partita perf import` has a command for each, with the docstring as help and the parameters as options. So parameters
are plain values as users write them: a GPU as any program calls it, a profile as `nvidia-smi` or Kubernetes does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import InputError, nearest, refuse
from partita.mig.catalogue import gpu_meant
from partita.perf.estimate import plain_profiles
from partita.perf.reading import COLUMNS, NUMBERS, REQUIRED, joined, measurements, profile_name, quantile_text
from partita.perf.records import read_records
from partita.perf.table import Measurement, PerfTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from partita.mig.gpu import GpuModel, Profile
    from partita.perf.records import Record, Records


# Any table whose columns the user names.


def import_columns(path: Path | str, columns: Mapping[str, str], set_: Mapping[str, str]) -> PerfTable:
    """Import any CSV, or JSON lines, by the names of its columns.

    Columns with Partita's own names need not be listed.

    Args:
        path: CSV or JSON lines.
        columns: columns of the file by Partita's names, as in throughput='Items/s',latency_ms='p99 us * 0.001';
            'in + out' adds two.
        set_: one value for all rows, as in gpu=a100-80gb.

    Raises:
        InputError: an unknown name, a column that the file lacks or has twice, rows that cannot be used, or the
            same point twice.
    """
    for name in (*columns, *set_):
        if name not in COLUMNS:
            close = nearest(name, list(COLUMNS))
            hint = f"did you mean {close}?" if close else f"they are {', '.join(COLUMNS)}"
            raise InputError(f"performance tables have no column {name!r}", hint=hint)
    records = read_records(path)
    missing = [name for name in REQUIRED if name not in {**columns, **set_} and not records.has(name)]
    if missing:
        raise InputError(
            f"no column or value for {', '.join(missing)}",
            where=f"{records.path}:{records.header_line}",
            hint=f"add --columns {missing[0]}=COLUMN or --set {missing[0]}=VALUE; "
            f"the file's columns are {', '.join(records.header)}",
        )
    refuse(records.path, records.ragged)
    if not records.fields:
        raise InputError("a header and no rows", where=f"{records.path}:{records.header_line}")
    found, faults = measurements(
        {
            name: _values(records, name, columns, set_)
            for name in COLUMNS
            if _given(records, name, columns, set_)
        }
    )
    refuse(
        records.path,
        [
            InputError(each.what, where=f"{records.path}:{records.lines[each.row]}", hint=each.hint)
            for each in faults
        ],
    )
    return joined(found, [f"{records.path}:{line}" for line in records.lines], path=records.path)


def _given(records: Records, name: str, columns: Mapping[str, str], values: Mapping[str, str]) -> bool:
    return name in columns or name in values or records.has(name)


def _values(
    records: Records, name: str, columns: Mapping[str, str], values: Mapping[str, str]
) -> Sequence[object]:
    if name in values:
        return [values[name]] * len(records.fields)
    column = columns.get(name, name)
    if name in NUMBERS:
        return records.numbers(column)
    at = records.header.index(records.column(column))
    return [fields[at] for fields in records.fields]


# ParvaGPU's raw tables (SC'24; github MunQ-Lee/ParvaGPU_SC24, `prof_data/`).


def import_parvagpu(path: Path | str, gpu: str = "a100-80gb", *, model: str | None = None) -> PerfTable:
    """Import ParvaGPU's raw tables: a file, or the folder prof_data with one file per model.

    The columns are the instance's compute slices, batch, processes, items/s of *each* process, and seconds
    of a batch. Throughput is multiplied by the processes. Seconds are given to a thousandth only, so
    latency is batch over throughput of a process, a mean. Rows of zero did not run and are left out.

    Args:
        path: a CSV file or a folder of them.
        gpu: GPU that was measured, as `partita gpus` names it.
        model: name of the model; by default that of the file.

    Raises:
        InputError: no such table, or a row that cannot be used.
    """
    folder, measured = Path(path), gpu_meant(gpu)
    if not folder.is_dir():
        return PerfTable(_rows(folder, measured, model or folder.stem))
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise InputError("no CSV file in this folder", where=str(path), hint="give the folder prof_data")
    if model is not None and len(files) > 1:
        raise InputError(f"{len(files)} files are not one model", where=str(path), hint="leave out --model")
    return PerfTable(row for file in files for row in _rows(file, measured, model or file.stem))


def _rows(path: Path, gpu: GpuModel, model: str) -> Iterator[Measurement]:
    records = read_records(path)
    records.require("Mig instance", "Batch size", "Workload Number", "Throughput")
    for record in records:
        each = record.number("Throughput")
        if each > 0:
            batch, processes = record.count("Batch size"), record.count("Workload Number")
            yield Measurement(
                model=model,
                gpu=gpu.name,
                profile=_profile(record, gpu).name,
                batch=batch,
                processes=processes,
                throughput=round(each * processes, 3),
                latency_ms=round(1000 * batch / each, 4),
                quantile="mean",
                source=f"ParvaGPU {path.name}",
            )


def _profile(record: Record, gpu: GpuModel) -> Profile:
    slices = record.count("Mig instance")
    for profile in plain_profiles(gpu):  # from small to large: 1g.10gb comes before 1g.20gb
        if profile.compute == slices:
            return profile
    raise InputError(f"{gpu.name} has no profile of {slices} compute slices", where=record.place)


# What Triton's perf_analyzer (`-f FILE`) and Model Analyzer (`metrics-model-inference.csv`) write.
#
# Both measure with a number of requests in flight, their concurrency. A point is kept at one concurrency: the one
# asked for, or the lowest that gives every process a request, so that latency is that of a batch, not of a queue.

CONCURRENCY = "Concurrency"
BATCHES = ("Batch Size", "Batch")
# perf_analyzer writes `p99 latency` in microseconds, Model Analyzer `p99 Latency (ms)`.
_LATENCY = re.compile(r"(p[\d.]+|Avg) latency(?P<ms> \(ms\))?", re.IGNORECASE)
# `2:GPU`, `2/GPU` or `2:GPU + 1:CPU`
_INSTANCES = re.compile(r"(\d+)\s*[:/x]\s*(?:KIND_)?GPU", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Point:
    """One measured line, before a concurrency is chosen."""

    model: str
    batch: int
    processes: int
    concurrency: int
    throughput: float
    latencies_ms: dict[str, float]

    @property
    def key(self) -> tuple[str, int, int]:
        return self.model, self.batch, self.processes


def import_perf_analyzer(
    path: Path | str,
    gpu: str,
    profile: str,
    *,
    model: str,
    batch: int | None = None,
    processes: int = 1,
    concurrency: int | None = None,
) -> PerfTable:
    """Import the CSV that Triton's perf_analyzer writes with -f.

    The file names neither model nor slice, and the batch only in some versions. Rows without a completed inference
    are left out.

    Args:
        path: the file.
        gpu: GPU that was measured, as `partita gpus` names it.
        profile: MIG profile that was measured, as in 2g.20gb.
        model: name of the model, which the file does not say.
        batch: items per request (-b); by default the column Batch Size, or else 1.
        processes: servers or model instances on the slice.
        concurrency: keep rows with this many requests in flight; by default the fewest that occupy every process.

    Raises:
        InputError: not such a file, no row at that concurrency, a batch beside a column of batches, two rows of one
            batch and concurrency, or a field that cannot be used.
    """
    measured, slice_ = _measured(gpu, profile)
    _require_positive(batch=batch, processes=processes, concurrency=concurrency)
    records = read_records(path)
    _require_concurrency(records)
    records.require("Inferences/Second")
    column = next((name for name in BATCHES if records.has(name)), None)
    if column is not None and batch is not None:
        raise InputError(
            f"the file has the batch in column {column!r}",
            where=f"{records.path}:{records.header_line}",
            hint="leave out --batch",
        )
    points: dict[tuple[int, int], _Point] = {}
    for record in records:
        found = (record.count(column) if column else batch or 1, record.count(CONCURRENCY))
        if found in points:
            raise InputError(
                f"concurrency {found[1]} is there already, with batch {found[0]}",
                where=record.place,
                hint="keep one run in a file; runs of several batch sizes need a column 'Batch Size'",
            )
        rate = record.number("Inferences/Second")
        points[found] = _Point(model, found[0], processes, found[1], rate, _latencies(record) if rate else {})
    return _table(
        points.values(), records.path, measured.name, slice_, concurrency=concurrency, tool="perf_analyzer"
    )


def import_model_analyzer(
    path: Path | str, gpu: str, profile: str, *, model: str | None = None, concurrency: int | None = None
) -> PerfTable:
    """Import the metrics-model-inference.csv that Triton's Model Analyzer writes.

    Instances of the model on the GPU count as processes. Of several configurations with the same batch and
    instances, the one with the highest throughput is kept.

    Args:
        path: the file.
        gpu: GPU that was measured, as `partita gpus` names it.
        profile: MIG profile that was measured, as in 2g.20gb.
        model: import only this model.
        concurrency: keep rows with this many requests in flight; by default the fewest that occupy every process.

    Raises:
        InputError: not such a file, no row at that concurrency, or a field that cannot be used.
    """
    measured, slice_ = _measured(gpu, profile)
    _require_positive(concurrency=concurrency)
    records = read_records(path)
    _require_concurrency(records)
    records.require("Model", "Batch", "Throughput (infer/sec)")
    points = [
        _Point(
            record.text("Model"),
            record.count("Batch"),
            _instances(record),
            record.count(CONCURRENCY),
            rate := record.number("Throughput (infer/sec)"),
            _latencies(record) if rate else {},
        )
        for record in records
        if model in (None, record.text("Model"))
    ]
    if not points and records.fields:
        raise InputError(f"no rows of model {model!r}", where=records.path)
    return _table(points, records.path, measured.name, slice_, concurrency=concurrency, tool="Model Analyzer")


def _measured(gpu: str, profile: str) -> tuple[GpuModel, Profile]:
    found = gpu_meant(gpu)
    return found, found.profile(profile_name(profile))


def _require_positive(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"must be at least 1, not {count}", where=f"--{name}")


def _require_concurrency(records: Records) -> None:
    if not records.has(CONCURRENCY) and records.has("Request Rate"):
        raise InputError(
            "measured at request rates: that says how late requests are, not how many the slice can serve",
            where=f"{records.path}:{records.header_line}",
            hint="measure with --concurrency-range",
        )
    records.require(CONCURRENCY)


def _latencies(record: Record) -> dict[str, float]:
    found = {}
    for column in record.fields:
        match = _LATENCY.fullmatch(column)
        if match:
            value = record.number(column) * (1.0 if match["ms"] else 1e-3)
            if value == 0:
                raise InputError(
                    f"{column} is 0",
                    where=record.place,
                    hint="the file's resolution is too low for so fast a model",
                )
            found[quantile_text(match[1])] = value
    return found


def _instances(record: Record) -> int:
    match = _INSTANCES.search(record.fields.get("Instance Group", ""))
    return int(match[1]) if match else 1


def _chosen(points: Iterable[_Point], concurrency: int | None) -> Iterator[_Point]:
    groups: dict[tuple[str, int, int], list[_Point]] = {}
    for point in points:
        if point.throughput > 0:
            groups.setdefault(point.key, []).append(point)
    for key, group in groups.items():
        enough = [p.concurrency for p in group if p.concurrency >= key[2]]
        wanted = concurrency or min(enough, default=None)
        there = [p for p in group if p.concurrency == wanted]
        if there:
            yield max(there, key=lambda p: p.throughput)


def _table(
    points: Iterable[_Point], path: str, gpu: str, profile: Profile, *, concurrency: int | None, tool: str
) -> PerfTable:
    rows = [
        Measurement(
            model=point.model,
            gpu=gpu,
            profile=profile.name,
            batch=point.batch,
            processes=point.processes,
            throughput=point.throughput,
            latency_ms=round(latency, 4),
            quantile=quantile,
            source=f"{tool}, concurrency {point.concurrency}",
        )
        for point in _chosen(points, concurrency)
        for quantile, latency in point.latencies_ms.items()
    ]
    if not rows:
        raise InputError(
            f"no row at concurrency {concurrency}" if concurrency else "no row that can be used",
            where=path,
            hint="rows need a throughput, a latency column, and a request in flight for each process",
        )
    return PerfTable(rows)


# The CSVs of MIGProfiler, also called MIGPerf (github MLSysOps/MIGProfiler, `data/`).

_PROFILE_ID = re.compile(r"MIG_profile_(\d+)", re.IGNORECASE)


def import_migprofiler(
    path: Path | str,
    gpu: str,
    *,
    profile: str | None = None,
    model: str | None = None,
    seq_length: int | None = None,
) -> PerfTable:
    """Import a CSV of MIGProfiler (MIGPerf): model_name, batch_size, latency, throughput, mig_profile.

    Its rows are of one process per instance: milliseconds of a batch (a mean) and items/s. The profile is read from
    the column mig_profile, or from a file name such as `bert_MIG_profile_9.csv`, which has the number that
    `nvidia-smi mig -lgip` prints. Columns gract_mean (activity of the slice) and fb_used_mean (MiB) become
    utilization and memory.

    Args:
        path: the file.
        gpu: GPU that was measured, as `partita gpus` names it.
        profile: MIG profile that was measured, where the file does not say it.
        model: name of the model; by default that of the column.
        seq_length: keep this sequence length; needed where the file has several.

    Raises:
        InputError: not such a file, no slice, several sequence lengths, a point twice, or an unusable field.
    """
    measured = gpu_meant(gpu)
    records = read_records(path)
    records.require("model_name", "batch_size", "latency", "throughput")
    lengths = _lengths(records)
    if len(lengths) > 1 and seq_length is None:
        raise InputError(
            f"the file has sequence lengths {', '.join(map(str, lengths))}",
            where=records.path,
            hint=f"choose one, as in --seq-length {lengths[0]}",
        )
    if seq_length is not None and seq_length not in lengths:
        there = f"it has {', '.join(map(str, lengths))}" if lengths else "it has no sequence lengths"
        raise InputError(f"no row with sequence length {seq_length}", where=records.path, hint=there)
    told = _told_profile(records, measured, profile)
    rows: dict[tuple[str, str, int], Measurement] = {}
    for record in records:
        if seq_length is not None and record.count("seq_length") != seq_length:
            continue
        if record.number("throughput") > 0:
            row = _row(record, measured, told, model)
            key = (row.model, row.profile, row.batch)
            if key in rows:
                raise InputError(
                    f"{row.model} on {row.profile} with batch {row.batch} is there already",
                    where=record.place,
                    hint="keep one of the two rows",
                )
            rows[key] = row
    if not rows:
        raise InputError("no row that can be used", where=records.path)
    return PerfTable(rows.values())


def _lengths(records: Records) -> list[int]:
    if not records.has("seq_length"):
        return []
    return sorted({record.count("seq_length") for record in records})


def _told_profile(records: Records, gpu: GpuModel, profile: str | None) -> Profile | None:
    """Return the slice of all rows, None where each row says its own."""
    if records.has("mig_profile"):
        return None
    if profile is not None:
        return gpu.profile(profile_name(profile))
    number = _PROFILE_ID.search(Path(records.path).name)
    found = [each for each in gpu.profiles if number and each.gi_profile_id == int(number[1])]
    if not found:
        raise InputError(
            "the file does not say which slice was measured", where=records.path, hint="add --profile 1g.10gb"
        )
    return found[0]


def _row(record: Record, gpu: GpuModel, told: Profile | None, model: str | None) -> Measurement:
    try:
        profile = told or gpu.profile(profile_name(record.text("mig_profile")))
    except InputError as error:
        raise InputError(error.what, where=record.place, hint=error.hint) from None
    return Measurement(
        model=model or record.text("model_name"),
        gpu=gpu.name,
        profile=profile.name,
        batch=record.count("batch_size"),
        processes=1,
        throughput=record.number("throughput"),
        latency_ms=record.number("latency"),
        quantile="mean",
        memory_mb=record.number("fb_used_mean") if record.has("fb_used_mean") else None,
        utilization=min(1.0, record.number("gract_mean")) if record.has("gract_mean") else None,
        source=f"MIGProfiler {Path(record.records.path).name}",
    )
