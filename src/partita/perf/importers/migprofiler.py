"""Imports the CSVs of MIGProfiler, also called MIGPerf (github MLSysOps/MIGProfiler, `data/`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.perf.columns import profile_name
from partita.perf.records import read_records
from partita.perf.table import Measurement, PerfTable

if TYPE_CHECKING:
    from partita.mig.gpu import GpuModel, Profile
    from partita.perf.records import Record, Records

LATENCY, THROUGHPUT, SEQUENCE = "latency", "throughput", "seq_length"
_PROFILE_ID = re.compile(r"MIG_profile_(\d+)", re.IGNORECASE)


def import_migprofiler(
    path: Path | str,
    gpu: GpuModel,
    *,
    profile: Profile | None = None,
    model: str | None = None,
    seq_length: int | None = None,
) -> PerfTable:
    """Read a table of one process per instance: milliseconds of a batch (a mean) and items/s.

    The slice stands in the column `mig_profile`, or in a name such as `bert_MIG_profile_9.csv` as the number that
    `nvidia-smi mig -lgip` prints, or must be told. Its own analysis adds `gract_mean` (activity of the slice) and
    `fb_used_mean` (MiB), which are kept as utilization and memory.

    Args:
        path: the file.
        gpu: the GPU that was measured.
        profile: the slice, where the file does not say it.
        model: the model's name; by default that of the column.
        seq_length: keep rows with this sequence length; needed where the file has several.

    Raises:
        InputError: not such a file, no slice, several sequence lengths, a point twice, or an unusable field.
    """
    records = read_records(path)
    records.require("model_name", "batch_size", LATENCY, THROUGHPUT)
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
    told = _told_profile(records, gpu, profile)
    rows: dict[tuple[str, str, int], Measurement] = {}
    for record in records:
        if seq_length is not None and record.count(SEQUENCE) != seq_length:
            continue
        if record.number(THROUGHPUT) > 0:
            row = _row(record, gpu, told, model)
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
    if not records.has(SEQUENCE):
        return []
    return sorted({record.count(SEQUENCE) for record in records})


def _told_profile(records: Records, gpu: GpuModel, profile: Profile | None) -> Profile | None:
    """Return the slice of all rows, None where each row says its own."""
    if records.has("mig_profile"):
        return None
    if profile is not None:
        return profile
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
        throughput=record.number(THROUGHPUT),
        latency_ms=record.number(LATENCY),
        quantile="mean",
        memory_mb=record.number("fb_used_mean") if record.has("fb_used_mean") else None,
        utilization=min(1.0, record.number("gract_mean")) if record.has("gract_mean") else None,
        source=f"MIGProfiler {Path(record.records.path).name}",
    )
