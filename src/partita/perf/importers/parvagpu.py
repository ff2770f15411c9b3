"""Imports the raw tables of ParvaGPU (SC'24; github MunQ-Lee/ParvaGPU_SC24, `prof_data/`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.perf.estimate import plain_profiles
from partita.perf.records import read_records
from partita.perf.table import Measurement, PerfTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.mig.gpu import GpuModel, Profile
    from partita.perf.records import Record

SIZE, BATCH, PROCESSES, THROUGHPUT = "Mig instance", "Batch size", "Workload Number", "Throughput"


def import_parvagpu(path: Path | str, gpu: GpuModel, *, model: str | None = None) -> PerfTable:
    """Read one raw table, or a folder with one per model.

    The columns are the instance's compute slices, batch, processes, items/s of *each* process, and seconds
    of a batch. Throughput is multiplied by the processes. Seconds are given to a thousandth only, so
    latency is batch over throughput of a process, a mean. Rows of zero did not run and are left out.

    Args:
        path: a CSV file or a folder of them.
        gpu: the GPU that was measured (theirs was an A100 80GB).
        model: the model's name; by default that of the file.

    Raises:
        InputError: no such table, or a row that cannot be used.
    """
    folder = Path(path)
    if not folder.is_dir():
        return PerfTable(_rows(folder, gpu, model or folder.stem))
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise InputError("no CSV file in this folder", where=str(path), hint="give the folder prof_data")
    if model is not None and len(files) > 1:
        raise InputError(f"{len(files)} files are not one model", where=str(path), hint="leave out --model")
    return PerfTable(row for file in files for row in _rows(file, gpu, model or file.stem))


def _rows(path: Path, gpu: GpuModel, model: str) -> Iterator[Measurement]:
    records = read_records(path)
    records.require(SIZE, BATCH, PROCESSES, THROUGHPUT)
    for record in records:
        each = record.number(THROUGHPUT)
        if each > 0:
            batch, processes = record.count(BATCH), record.count(PROCESSES)
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
    slices = record.count(SIZE)
    for profile in plain_profiles(gpu):  # from small to large: 1g.10gb comes before 1g.20gb
        if profile.compute == slices:
            return profile
    raise InputError(f"{gpu.name} has no profile of {slices} compute slices", where=record.place)
