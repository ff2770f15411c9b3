"""Rows of a performance table that can be read and hardly be true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from partita.perf.table import Measurement

FASTER = 10.0
"""A smaller slice is not so many times as fast as a larger one."""
APART = 10.0
"""Throughput, latency and batch do not differ by such a factor from what they say of each other."""
_PLACES = 4


def implausible(rows: Sequence[Measurement], place: Callable[[int], str]) -> list[str]:
    """Return what is hard to believe of rows, one sentence for each kind, with its first places.

    Two things are held against each other. On a slice whose processes always work, throughput x latency is what is
    under way: batch x processes (Little's law); a factor of ten is a unit mistaken, as in seconds for milliseconds.
    And a slice is not ten times as fast as one with more of everything.

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
        if not 1 / APART <= ratio <= APART and not row.estimated:
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
        if slowest is not None and throughput >= FASTER * slowest[0]:
            larger = slowest[1]
            if sizes[rows[index].profile] < sizes[rows[larger].profile]:
                yield index, throughput / slowest[0], place(larger).rpartition("/")[2]
        if slowest is None or throughput < slowest[0]:
            slowest = throughput, index
