"""Values over time as drawings: no script, text beside them, and as wide as the page has room for."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.transition.overview import Point

_HIGH = 100.0
_TICKS = 6
# A label whose middle lies further right than this share would be cut off: it ends at its moment.
_LABEL_FITS = 0.93
_LEAD = 0.04
_ROOM = 1.12


@dataclass(frozen=True, slots=True)
class Line:
    """A level drawn across a chart, and its text."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """The seconds that a drawing is wide, from left to right."""

    begin: float
    end: float

    @classmethod
    def with_lead(cls, seconds: float) -> Scale:
        """Return a scale that begins a little before 0, so that what happens at once can be seen."""
        return cls(-_LEAD * seconds, seconds)

    def share(self, second: float) -> float:
        """Return where a moment is, 0 for the left end and 1 for the right one."""
        return (second - self.begin) / (self.end - self.begin) if self.end > self.begin else 0.0

    def ticks(self) -> list[float]:
        """Return round moments from 0 to at most the end, a handful of them."""
        if self.end <= 0:
            return [0.0]
        rough = self.end / _TICKS
        unit = 10.0 ** floor(log10(rough))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
        return [step * n for n in range(int(self.end / step + 1e-9) + 1)]


def axis(scale: Scale) -> str:
    """Return the labels of a time axis."""
    marks = (
        f'<i{" class=end" if share > _LABEL_FITS else ""} style="left:{share:.3%}">{at:g} s</i>'
        for at, share in ((at, scale.share(at)) for at in scale.ticks())
    )
    return f"<div class=axis>{''.join(marks)}</div>"


def figure(value: float) -> str:
    """Return a number short enough for a drawing."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def steps(first: float, points: Sequence[Point], scale: Scale, line: Line | None, look: str) -> Iterator[str]:
    """Yield a chart of a value that changes in steps.

    Args:
        first: the value before 0.
        points: the steps, the first at 0.
        scale: the seconds that it shows.
        line: a level to compare with.
        look: classes.
    """
    top = _ROOM * max(first, line.value if line else 0.0, *(point.value for point in points), 1e-9)
    path = f"M0 {_y(first, top)}" + "".join(
        f"H{_number(_HIGH * scale.share(point.second))}V{_y(point.value, top)}" for point in points
    )
    path += f"H{_HIGH:g}"
    yield f'<div class="chart {look}">'
    yield f'<svg viewBox="0 0 {_HIGH:g} {_HIGH:g}" preserveAspectRatio="none" aria-hidden="true">'
    yield f'<path class=area d="{path}V{_HIGH:g}H0Z"/><path class=edge d="{path}"/>'
    if line is not None:
        y = _y(line.value, top)
        yield f'<path class=level d="M0 {y}H{_HIGH:g}"/></svg>'
        yield f'<span class=level style="top:{y}%">{escape(line.text)}</span></div>'
    else:
        yield "</svg></div>"


def _y(value: float, top: float) -> str:
    return _number(_HIGH * (1 - value / top))


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
