"""A planned series as `partita plan --series` shows and writes it: a table with a chart, and the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from partita.cli.output import Format, emit_document, note, stdout
from partita.cli.searching import search_progress, stoppable
from partita.deadline import Deadline
from partita.errors import InputError, counted
from partita.files import replacing
from partita.planning.overview import number, percent
from partita.series.document import SCHEDULE, save_series, series_document, write_series
from partita.series.forecast import forecast_file
from partita.series.overview import SeriesOverview
from partita.series.planning import plan_series
from partita.series.rates import read_series
from partita.web.page import page
from partita.web.series_report import series_report

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, ConsoleOptions, RenderResult

    from partita.planner import PreparedWorkload
    from partita.series.overview import PeriodRow
    from partita.series.planning import PlannedSeries
    from partita.series.rates import RateSeries

_BAR = 24
"""Characters of the longest bar beside times of day; dates take some of them."""

_LEAST_BAR = 8

_MOST_PERIODS = 96


def read_rates(
    prepared: PreparedWorkload, series: Path | None, history: Path | None, share: float
) -> RateSeries:
    """Return the rates of a file, or their forecast from a history, which a note describes.

    Raises:
        InputError: the file cannot be used, or there are both.
    """
    written = {spec.name: spec.rate for spec in prepared.workload.services}
    if series is not None and history is not None:
        raise InputError(
            "rates over time are either given or forecast",
            where="--forecast",
            hint="leave out --series, or this",
        )
    if history is None:
        return read_series(series or "-", written)
    found = forecast_file(history, written, share)
    note(found.note)
    return found.series


def plan_rates(
    prepared: PreparedWorkload,
    series: RateSeries,
    planner: str,
    move_price: float | None,
    *,
    time_limit: float,
    seed: int,
    output: Format,
    out: Path | None,
    html: Path | None,
) -> None:
    """Plan rates over time with progress on stderr, and let Ctrl-C return the best so far.

    Raises:
        InfeasibleError: the GPUs do not suffice at some time.
    """
    with stoppable() as stop, search_progress("planning the series", None) as report:
        planned = plan_series(
            prepared,
            series,
            move_price=move_price,
            planner=planner,
            deadline=Deadline(time_limit, stop, report),
            seed=seed,
        )
    named = None if prepared.path is None else prepared.path.name
    show_series(planned, output, out, html, named)
    note(*planned.notes)


def show_series(
    planned: PlannedSeries, output: Format, out: Path | None, html: Path | None, workload: str | None
) -> None:
    """Write a planned series as a folder and as a page, which names the workload, where asked, and print it."""
    overview = SeriesOverview(planned)
    if out is not None:
        save_series(overview, out)
    if html is not None:
        with replacing(html) as stream:
            stream.write(page(series_report(overview), workload))
    if output is Format.TABLE:
        stdout().print(SeriesTable(overview))
        if out is not None:
            stdout().print(
                f"\n{out / SCHEDULE} and {_plans(len(planned.chosen.runs))} beside it", markup=False
            )
    else:
        emit_document(lambda stream: write_series(series_document(overview), stream), output)


def _plans(count: int) -> str:
    return counted(count, "plan")


class SeriesTable:
    """What is printed of a planned series.

    Args:
        overview: of the series.
    """

    def __init__(self, overview: SeriesOverview) -> None:
        self._overview = overview

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = self._overview.periods()
        yield self._summary()
        yield ""
        yield self._periods(rows[:_MOST_PERIODS], ascii_only=options.ascii_only)
        if len(rows) > _MOST_PERIODS:
            yield f"and {len(rows) - _MOST_PERIODS:,} more periods, all in the schedule and the HTML report"
        peak = (
            ""
            if self._overview.planned.peak is None
            else "; the mark beyond is one plan for the largest rates"
        )
        yield f"bars: {self._value_name()}{peak}"
        yield ""
        yield self._compared()

    def _value_name(self) -> str:
        return "GPUs" if self._overview.planned.objective == "gpus" else "cost per hour"

    def _summary(self) -> Text:
        planned = self._overview.planned
        chosen = planned.chosen
        text = Text(f"{number(round(chosen.total, 2))} {self._overview.unit}", style="bold")
        text.append(
            f" in {planned.series.hours:,.6g} h, {percent(planned.gap)} above the bound "
            f"({number(round(planned.bound, 2))})",
            style="green" if planned.gap < 0.03 else "yellow",
        )
        n = len(chosen.changes)
        text.append(f"; {_plans(len(chosen.runs))}, ")
        if n:
            text.append(
                f"{counted(n, 'change')} with {counted(chosen.moves, 'move')} in "
                f"{chosen.seconds / 60:.0f} min"
            )
        else:
            text.append("no change")
        return text

    def _periods(self, rows: list[PeriodRow], *, ascii_only: bool) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("time", no_wrap=True)
        names = ("GPUs", "bound") if self._overview.planned.objective == "gpus" else ("cost/h", "bound")
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for name in ("moves", "seconds", "saves", "price"):
            table.add_column(name, justify="right", no_wrap=True)
        most = max(row.peak or row.value for row in rows) or 1.0
        shown = _shown_times([row.when for row in rows])
        length = max(_LEAST_BAR, _BAR - max(0, max(map(len, shown)) - len("00:00")))
        for when, row in zip(shown, rows, strict=True):
            change = row.change
            cells = (
                ("", "", "", "")
                if change is None
                else (
                    f"{change.moves:,}",
                    f"{change.seconds:.0f}",
                    "needed" if change.saves is None else f"{change.saves:,.2f}",
                    f"{change.price:,.2f}",
                )
            )
            table.add_row(
                when,
                number(row.value),
                number(row.bound),
                _bar(row, most, length, ascii_only=ascii_only),
                *cells,
            )
        return table

    def _compared(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", overflow="fold")
        for name in (self._overview.unit, "in changes", "over bound", "changes", "moves", "minutes"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self._overview.compared():
            table.add_row(
                row.name,
                f"{row.value_hours + row.held:,.2f}",
                f"{row.held:,.2f}",
                f"{row.over * 100:.1f} %",
                f"{row.changes:,}",
                f"{row.moves:,}",
                f"{row.minutes:.0f}",
            )
        return table


def _shown_times(times: list[str]) -> list[str]:
    """Return times without their date where all are of one day, and otherwise with it where it is another."""
    found, date = [], None
    for when in times:
        day, separator, clock = when.partition("T")
        if not separator:
            found.append(when)
            continue
        found.append(clock if day == date else f"{day} {clock}")
        date = day
    return found


def _bar(row: PeriodRow, most: float, longest: int, *, ascii_only: bool) -> Text:
    full, mark = ("#", "|") if ascii_only else ("█", "│")
    length = round(longest * row.value / most)
    text = Text(full * length, style="cyan" if row.change is None else "magenta")
    if row.peak is not None:
        text.append(" " * (round(longest * row.peak / most) - length) + mark, style="dim")
    return text
