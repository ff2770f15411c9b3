"""Results as rows of a performance table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.perf.table import Measurement, PerfTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.perf.measure.course import Result
    from partita.perf.measure.device import Device


def to_table(results: Iterable[Result], *, model: str, device: Device, made_by: str) -> PerfTable:
    """Return one row for each quantile of each cell that ran.

    A stand-in's rows count as estimated, so that plans mark what rests on them.

    Args:
        results: what was measured.
        model: its name in the table.
        device: where.
        made_by: the program, date and runtime, in words.
    """
    rows = [
        Measurement(
            model=model,
            gpu=device.gpu,
            profile=device.profile,
            batch=result.cell.batch,
            processes=result.cell.processes,
            throughput=_rounded(result.throughput),
            latency_ms=_rounded(latency),
            quantile=quantile,
            memory_mb=_maybe(result.memory_mb),
            utilization=_maybe(result.utilization),
            power_w=_maybe(result.power_w),
            source=_source(result, device, made_by),
            estimated=device.stand_in,
        )
        for result in sorted(results, key=lambda each: each.cell)
        if result.throughput is not None
        for quantile, latency in sorted(result.latency_ms.items(), key=lambda each: float(each[0]))
    ]
    return PerfTable(rows)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")  # repetitions differ by more


def _maybe(value: float | None) -> float | None:
    return None if value is None else _rounded(value)


def _source(result: Result, device: Device, made_by: str) -> str:
    parts = [device.note, made_by, f"{result.repetitions} repetitions"]
    if result.memory_mb is not None:
        parts.append(f"memory: {result.memory_source}")
    if not result.steady:
        parts.append("latencies not steady before measuring")
    return "; ".join(parts)
