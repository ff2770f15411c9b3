"""The report of a planned series: values over time, each period, each change, and the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita import __version__
from partita.planning.overview import number, percent
from partita.web.report import Chart, Column, ColumnKind, Line, Report, Section, Table, figures_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.series.overview import ChangeRow, ComparedRow, PeriodRow, SeriesOverview

_SAVES = (
    "What a change saves is what one plan for the time before and after it would take more. Its price is that of the "
    "GPUs that it holds beyond the plans, and of its moves."
)


def series_report(overview: SeriesOverview) -> Report:
    """Return the report."""
    planned = overview.planned
    chosen = planned.chosen
    total = f"{number(round(chosen.total, 2))} {overview.unit}"
    periods, changes = overview.periods(), overview.changes()
    figures = {
        overview.unit: number(round(chosen.total, 2)),
        "lower bound": number(round(planned.bound, 2)),
        "held by changes": f"{chosen.in_change:,.2f}",
        "hours": f"{planned.series.hours:,.6g}",
        "plans": f"{len(chosen.runs):,}",
        "changes": f"{len(chosen.changes):,}",
        "moves": f"{chosen.moves:,}",
        "minutes of change": f"{chosen.seconds / 60:.0f}",
        "price of a move": f"{planned.move_price:.3g}",
    }
    return Report(
        title=f"Series: {total}",
        headline=total,
        verdict=f"{percent(planned.gap)} above the bound",
        good=planned.gap < 0.03,
        figures=figures_of(figures),
        sections=(
            Section(title="Over time", chart=_chart(overview, periods)),
            Section(
                title="Changes",
                notes=(_SAVES,) if changes else ("One plan holds all the time.",),
                table=_changes(changes) if changes else None,
            ),
            Section(title="Compared", table=_compared(overview.unit, overview.compared())),
            Section(title="Periods", table=_periods(periods)),
        ),
        footer="The schedule and its plans say the same in full.",
        version=__version__,
    )


def _chart(overview: SeriesOverview, rows: Sequence[PeriodRow]) -> Chart:
    """Return the values over time as steps: the plans as an area, the others as lines."""
    series = overview.planned.series
    value = "GPUs" if overview.planned.objective == "gpus" else "cost per hour"
    lines = [
        Line(f"{value} of the plans", tuple(each.value for each in rows), "area"),
        Line("a plan for each period alone", tuple(each.alone for each in rows), "dashes"),
        Line("proven bound of each period", tuple(each.bound for each in rows), "dots"),
    ]
    peaks = tuple(each.peak for each in rows if each.peak is not None)
    if len(peaks) == len(rows):
        lines.append(Line(f"one plan for the largest rates: {number(max(peaks))}", peaks, "line"))
    return Chart(
        unit=value,
        ends=tuple(period.end for period in series.periods),
        begins=tuple(series.when(period.begin) for period in series.periods),
        lines=tuple(lines),
    )


def _changes(rows: Sequence[ChangeRow]) -> Table:
    return Table(
        (
            Column("time", ColumnKind.TEXT, tuple(each.when for each in rows)),
            Column("begins", ColumnKind.TEXT, tuple(each.begin for each in rows)),
            Column("seconds", ColumnKind.NUMBER, tuple(round(each.seconds) for each in rows)),
            Column("moves", ColumnKind.NUMBER, tuple(each.moves for each in rows)),
            Column("GPUs meanwhile", ColumnKind.NUMBER, tuple(each.gpus_meanwhile for each in rows)),
            Column(
                "saves",
                ColumnKind.NUMBER,
                tuple(None if each.saves is None else round(each.saves, 2) for each in rows),
                none="needed",
            ),
            Column("price", ColumnKind.NUMBER, tuple(round(each.price, 2) for each in rows)),
        )
    )


def _compared(unit: str, rows: Sequence[ComparedRow]) -> Table:
    return Table(
        (
            Column("sequence of plans", ColumnKind.TEXT, tuple(each.name for each in rows)),
            Column(unit, ColumnKind.NUMBER, tuple(round(each.value_hours + each.held, 2) for each in rows)),
            Column("held by changes", ColumnKind.NUMBER, tuple(round(each.held, 2) for each in rows)),
            Column("over the bound", ColumnKind.CHANGE, tuple(each.over for each in rows), digits=1),
            Column("changes", ColumnKind.NUMBER, tuple(each.changes for each in rows)),
            Column("moves", ColumnKind.NUMBER, tuple(each.moves for each in rows)),
            Column("minutes of change", ColumnKind.NUMBER, tuple(round(each.minutes) for each in rows)),
        )
    )


def _periods(rows: Sequence[PeriodRow]) -> Table:
    return Table(
        (
            Column("begins", ColumnKind.TEXT, tuple(each.when for each in rows)),
            Column("hours", ColumnKind.NUMBER, tuple(each.hours for each in rows)),
            Column("GPUs", ColumnKind.NUMBER, tuple(each.gpus for each in rows)),
            Column("value", ColumnKind.NUMBER, tuple(each.value for each in rows)),
            Column("bound", ColumnKind.NUMBER, tuple(each.bound for each in rows)),
            Column("alone", ColumnKind.NUMBER, tuple(each.alone for each in rows)),
            Column(
                "moves at its begin",
                ColumnKind.NUMBER,
                tuple(None if each.change is None else each.change.moves for each in rows),
                none="",
            ),
        )
    )
