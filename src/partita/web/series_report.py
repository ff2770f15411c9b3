"""A planned series as one self-contained HTML page: values over time, each change, and the comparison."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from partita.planning.overview import number
from partita.web.page import Scale, figures, page, row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.series.overview import PeriodRow, SeriesOverview

_STYLES = ("report.css", "transition.css", "series.css")
_MEANING = (
    "<p>What a change saves is what one plan for the time before and after it would take more. Its price is that of "
    "the GPUs that it holds beyond the plans, and of its moves.</p>"
)
_HIGH = 100.0
_HEADROOM = 1.08
_TICKS = 8
_LABEL_FITS = 0.93


def series_report(overview: SeriesOverview) -> str:
    """Return the page."""
    planned = overview.planned
    chosen = planned.chosen
    total = f"{number(round(chosen.total, 2))} {overview.unit}"
    good = f"{planned.gap * 100:.2g} % above the bound"
    parts = (
        f"<h1>{total}, <span class={'proven' if planned.gap < 0.03 else 'open'}>{good}</span></h1>",
        *figures(
            {
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
        ),
        "<h2>Over time</h2>",
        *_chart(overview, overview.periods()),
        "<h2>Changes</h2>",
        _MEANING,
        *_changes(overview),
        "<h2>Compared</h2>",
        *_compared(overview),
        "<footer>Drawn by Partita. The schedule and its plans say the same in full.</footer>",
    )
    return page(f"Series: {total}", _STYLES, parts)


def _chart(overview: SeriesOverview, rows: Sequence[PeriodRow]) -> Iterator[str]:
    """Yield the values over time as steps: the plans as an area, the others as lines."""
    series = overview.planned.series
    scale = Scale(0.0, series.hours)
    peaks = [each.peak for each in rows if each.peak is not None]
    top = _HEADROOM * max(1e-9, *peaks, *(each.value for each in rows))
    ends = [100 * scale.share(period.end) for period in series.periods]
    lines = {
        "chosen": [each.value for each in rows],
        "alone": [each.alone for each in rows],
        "bound": [each.bound for each in rows],
        "peak": peaks,
    }
    paths = {name: _path(values, ends, top) for name, values in lines.items() if values}
    yield '<div class="chart series plain">'
    yield f'<svg viewBox="0 0 {_HIGH:g} {_HIGH:g}" preserveAspectRatio="none" role="img" aria-label="over time">'
    yield f'<path class=area d="{paths["chosen"]}V{_HIGH:g}H0Z"/>'
    yield from (f'<path class="{name}" d="{path}"/>' for name, path in paths.items())
    yield "</svg></div>"
    yield f"<div class=axis>{''.join(_labels(overview, scale))}</div>"
    value = "GPUs" if overview.planned.objective == "gpus" else "cost per hour"
    texts = {
        "chosen": f"{value} of the plans",
        "alone": "a plan for each period alone",
        "bound": "proven bound of each period",
        "peak": f"one plan for the largest rates: {number(max(peaks, default=0.0))}",
    }
    keys = "".join(f'<span><i class="{name}"></i>{texts[name]}</span>' for name in paths)
    yield f"<p class=keys>{keys}</p>"


def _path(values: Sequence[float], ends: Sequence[float], top: float) -> str:
    steps = "".join(
        f"V{_HIGH * (1 - value / top):.3f}H{end:.3f}" for value, end in zip(values[1:], ends[1:], strict=True)
    )
    return f"M0 {_HIGH * (1 - values[0] / top):.3f}H{ends[0]:.3f}{steps}"


def _labels(overview: SeriesOverview, scale: Scale) -> Iterator[str]:
    periods = overview.planned.series.periods
    every = max(1, -(-len(periods) // _TICKS))
    for period in periods[::every]:
        share = scale.share(period.begin)
        end = " class=end" if share > _LABEL_FITS else ""
        yield f'<i{end} style="left:{share:.3%}">{escape(overview.planned.series.when(period.begin))}</i>'


def _changes(overview: SeriesOverview) -> Iterator[str]:
    changes = overview.changes()
    if not changes:
        yield "<p>One plan holds all the time.</p>"
        return
    columns = ("time", "begins", "seconds", "moves", "GPUs meanwhile", "saves", "price")
    yield f"<table class=numbers><thead><tr>{''.join(f'<th>{name}' for name in columns)}</thead><tbody>"
    for each in changes:
        cells = (
            escape(each.when),
            escape(each.begin),
            f"{each.seconds:,.0f}",
            f"{each.moves:,}",
            f"{each.gpus_meanwhile:,}",
            "needed" if each.saves is None else f"{each.saves:,.2f}",
            f"{each.price:,.2f}",
        )
        yield row(dict(zip(columns, cells, strict=True)))
    yield "</tbody></table>"


def _compared(overview: SeriesOverview) -> Iterator[str]:
    columns = (
        "",
        overview.unit,
        "held by changes",
        "over the bound",
        "changes",
        "moves",
        "minutes of change",
    )
    yield f"<table class=numbers><thead><tr>{''.join(f'<th>{name}' for name in columns)}</thead><tbody>"
    for each in overview.compared():
        cells = (
            escape(each.name),
            f"{each.value_hours + each.held:,.2f}",
            f"{each.held:,.2f}",
            f"{each.over * 100:.1f} %",
            f"{each.changes:,}",
            f"{each.moves:,}",
            f"{each.minutes:.0f}",
        )
        yield row(dict(zip(columns, cells, strict=True)))
    yield "</tbody></table>"
