"""A measurement from its first cell, or from where it stopped, to its last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partita.perf.measure.cell import measure_cell
from partita.perf.measure.journal import digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.perf.measure.cell import Setup
    from partita.perf.measure.course import Cell, Course, Result
    from partita.perf.measure.journal import Journal
    from partita.perf.measure.meter import Meter


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a measurement is.

    Attributes:
        result: of the cell that has just ended; None when one begins.
        seconds_left: as the cells so far took.
    """

    cell: Cell
    done: int
    left: int
    seconds_left: float
    result: Result | None = None


def head(setup: Setup, version: str) -> dict[str, Any]:
    """Return what must not change between the parts of one measurement.

    Raises:
        InputError: the model cannot be read.
    """
    effort, device = setup.effort, setup.device
    return {
        "model": digest(setup.path),
        "device": f"{device.gpu} {device.profile}, {device.title}"
        + (f", {device.uuid}" if device.uuid else ""),
        "inputs": [[each.name, each.dtype, list(each.dims)] for each in setup.feed.inputs],
        "settings": [list(effort.quantiles), effort.seconds, effort.max_seconds, effort.threads, setup.cores],
        "runtime": version,
    }


def measure(
    setup: Setup, course: Course, journal: Journal, meter: Meter, tell: Callable[[Progress], None]
) -> None:
    """Measure all cells that are neither done nor ruled out; each is in the journal before the next begins.

    Raises:
        InputError: the model cannot be run.
        PartitaError: a process failed.
    """
    guess = setup.effort.seconds + setup.effort.warmup_seconds / 4
    while remaining := course.remaining(journal.results):
        cell = remaining[0]
        left = course.seconds_left(journal.results, guess=guess)
        tell(Progress(cell, len(journal.results), len(remaining), left))
        result = measure_cell(setup, cell, meter)
        journal.add(result)
        remaining = course.remaining(journal.results)
        left = course.seconds_left(journal.results, guess=guess)
        tell(Progress(cell, len(journal.results), len(remaining), left, result))
