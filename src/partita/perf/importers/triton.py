"""Imports what Triton's perf_analyzer (`-f FILE`) and Model Analyzer (`metrics-model-inference.csv`) write.

Both measure with a number of requests in flight, their concurrency. Here a point is kept at one
concurrency: the one asked for, or the lowest that gives every process a request, so that latency is that of
a batch and not of a queue.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.perf.columns import quantile_text
from partita.perf.records import read_records
from partita.perf.table import Measurement, PerfTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from partita.mig.gpu import Profile
    from partita.perf.records import Record, Records

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
    profile: Profile,
    *,
    model: str,
    batch: int | None = None,
    processes: int = 1,
    concurrency: int | None = None,
) -> PerfTable:
    """Read perf_analyzer's CSV, which says neither model nor slice, and the batch in a column of some versions alone.

    Levels without an answer (no inference in the window) are left out.

    Args:
        path: the file.
        gpu: the GPU's name in the catalogue.
        profile: the slice that was measured.
        model: the model's name.
        batch: items per request (`-b`); by default that of the column, or else 1.
        processes: servers, or model instances, side by side on the slice.
        concurrency: requests in flight of the row to keep.

    Raises:
        InputError: not such a file, no row at that concurrency, a batch beside a column of batches, two rows of one
            batch and concurrency, or a field that cannot be used.
    """
    records = read_records(path)
    _require_concurrency(records)
    records.require("Inferences/Second")
    column = next((name for name in BATCHES if records.has(name)), None)
    if column is not None and batch is not None:
        raise InputError(
            f"the file says the batch itself, in column {column!r}",
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
    return _table(points.values(), records.path, gpu, profile, concurrency=concurrency, tool="perf_analyzer")


def import_model_analyzer(
    path: Path | str, gpu: str, profile: Profile, *, model: str | None = None, concurrency: int | None = None
) -> PerfTable:
    """Read Model Analyzer's `metrics-model-inference.csv`.

    Instances of the model on the GPU count as processes. Of several configurations with the same batch and
    instances, the one of most throughput is kept.

    Args:
        path: the file.
        gpu: the GPU's name in the catalogue.
        profile: the slice that was measured.
        model: keep this model alone; by default all.
        concurrency: requests in flight of the rows to keep.

    Raises:
        InputError: not such a file, no row at that concurrency, or a field that cannot be used.
    """
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
    return _table(points, records.path, gpu, profile, concurrency=concurrency, tool="Model Analyzer")


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
                    f"{column} is 0", where=record.place, hint="too fast for what the file resolves"
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
