"""A planned series as files: one plan for each run, and a schedule that says when each holds.

The folder has `series.json` and the plans beside it. Each plan is a plan as all others: `partita apply` takes it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

from partita.documents.codec import Amount, DocumentKind, Meta, Name, Text, Value, Whole
from partita.documents.text import number, write
from partita.errors import InputError
from partita.files import replacing
from partita.planning.document import write_plan

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from partita.series.overview import SeriesOverview


class SeriesPlanDocument(Value):
    """A plan of the series: when it holds and, for all but the first, when the change to it has to begin."""

    time: Text
    begin: Text
    until: Text
    file: Name
    gpus: Whole
    value: Amount


class SeriesPeriodDocument(Value):
    """A period: its plan's GPUs and value; the proven bound of plans for it alone, and the value of one."""

    time: Text
    hours: Amount
    gpus: Whole
    value: Amount
    lower_bound: Amount
    alone: Amount


class SeriesChangeDocument(Value):
    """A change: its seconds and moves, what it holds beyond the plans, its price with moves, what it saves."""

    time: Text
    begin: Text
    seconds: Amount
    moves: Whole
    gpus_meanwhile: Whole
    held: float
    price: float
    saves: float | None


class ComparedDocument(Value):
    """A sequence of plans: its value times hours, what its changes hold beyond that, and what they are."""

    name: Text
    value_hours: Amount
    held: float
    gap: float
    changes: Whole
    moves: Whole
    minutes: Amount
    cost: Amount


class SeriesDocument(Value):
    """A series as its file holds it."""

    objective: Text
    move_price: Amount
    lower_bound: Annotated[
        Amount,
        Meta(description="What all sequences of plans take at least: value of the objective times hours."),
    ]
    plans: tuple[SeriesPlanDocument, ...]
    changes: tuple[SeriesChangeDocument, ...]
    periods: tuple[SeriesPeriodDocument, ...]
    compared: tuple[ComparedDocument, ...]
    notes: tuple[str, ...] = ()


SERIES = DocumentKind(
    "Series",
    SeriesDocument,
    "a schedule of plans starts with apiVersion: partita/v1 and kind: Series; `partita plan --series` writes one",
)

SCHEDULE = "series.json"
"""Name of the schedule in its folder."""


def series_document(overview: SeriesOverview) -> SeriesDocument:
    """Return the schedule of a planned series; the files of its plans are named, not written."""
    planned = overview.planned
    when = planned.series.when
    begins = {change.period: change.begin for change in planned.chosen.changes}
    periods = planned.series.periods
    plans = [
        SeriesPlanDocument(
            when(periods[run.first].begin),
            when(begins.get(run.first, periods[run.first].begin)),
            when(periods[run.last - 1].end),
            f"plan-{number:03}.json",
            len(run.plan.gpus),
            _figure(run.plan.objective.value),
        )
        for number, run in enumerate(planned.chosen.runs)
    ]
    return SeriesDocument(
        planned.objective,
        _figure(planned.move_price),
        _figure(planned.bound),
        tuple(plans),
        tuple(
            SeriesChangeDocument(
                row.when,
                row.begin,
                _figure(row.seconds),
                row.moves,
                row.gpus_meanwhile,
                _figure(row.held),
                _figure(row.price),
                None if row.saves is None else _figure(row.saves),
            )
            for row in overview.changes()
        ),
        tuple(
            SeriesPeriodDocument(
                row.when, _figure(row.hours), row.gpus, *map(_figure, (row.value, row.bound, row.alone))
            )
            for row in overview.periods()
        ),
        tuple(
            ComparedDocument(
                row.name,
                _figure(row.value_hours),
                _figure(row.held),
                _figure(row.over),
                row.changes,
                row.moves,
                _figure(row.minutes),
                _figure(row.cost),
            )
            for row in overview.compared()
        ),
        planned.notes,
    )


def write_series(document: SeriesDocument, stream: TextIO) -> None:
    """Write the JSON of a schedule, one period, plan and change a line."""
    head = {
        "objective": document.objective,
        "move_price": document.move_price,
        "lower_bound": document.lower_bound,
    }
    write(
        SERIES,
        stream,
        {
            "plans": document.plans,
            "changes": document.changes,
            "periods": document.periods,
            "compared": document.compared,
            "notes": [json.dumps(each) for each in document.notes],
        },
        head,
    )


def save_series(overview: SeriesOverview, folder: Path) -> None:
    """Write the plans and the schedule into a folder, which is made if it is not there.

    The schedule is written last, and an older one is taken away first: a folder with a schedule has all its plans.

    Raises:
        InputError: there is something else than a series, or it cannot be written.
        PartitaError: writing failed, for instance as the disk is full.
    """
    schedule = folder / SCHEDULE
    if folder.exists() and not folder.is_dir():
        raise InputError(
            "a series is a folder, and this is a file", where=str(folder), hint="name another --out"
        )
    try:
        folder.mkdir(exist_ok=True)
        if any(folder.iterdir()) and not schedule.exists():
            raise InputError(
                "the folder holds other things than a series", where=str(folder), hint="name another --out"
            )
        schedule.unlink(missing_ok=True)
        for old in folder.glob("plan-*.json"):
            old.unlink()
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(folder)) from None
    document = series_document(overview)
    for entry, run in zip(document.plans, overview.planned.chosen.runs, strict=True):
        with replacing(folder / entry.file) as stream:
            write_plan(run.plan, stream)
    with replacing(schedule) as stream:
        write_series(document, stream)


def _figure(value: float) -> float:
    """Return a computed figure to 12 digits, which drops what floating point adds."""
    return number(float(f"{value:.12g}"))
