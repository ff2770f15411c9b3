"""Shared parts of the pages: a self-contained frame, colours of services, layouts of GPUs, charts over time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from importlib import resources
from math import floor, log10
from typing import TYPE_CHECKING

from partita.mig.catalogue import gpu_model
from partita.planning.overview import id_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from partita.mig.layout import Placement
    from partita.transition.overview import Point


TIMES = "\N{MULTIPLICATION SIGN}"
_HUES = 9  # classes h0 to h8 of the style sheet
_HATCHES = 4  # none, and classes p1 to p3: colour is never the only difference between two services
_SIGNS = {"stays": "", "goes": "\N{MINUS SIGN} ", "comes": "+ "}
_MOST_RANGES = 24
_HIGH = 100.0
_TICKS = 6
# A centred label further right than this share would be cut off, so it is right-aligned.
_LABEL_FITS = 0.93
_LEAD = 0.04
_HEADROOM = 1.12


def page(title: str, styles: Iterable[str], parts: Iterable[str], *, embedded: bool = False) -> str:
    """Return a page without scripts and without references to other files.

    Args:
        title: as text.
        styles: names of style sheets in this folder.
        parts: HTML of the body.
        embedded: whether to return a part of another page, such as a notebook, whose styles do not affect the rest.
    """
    folder = resources.files(__package__)
    sheets = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in styles)
    if embedded:
        scoped = _WHOLE_PAGE.sub(r"\1&", sheets)
        return "\n".join(
            ("<div class=partita>", f"<style>\n.partita {{\n{scoped}}}</style>", *parts, "</div>")
        )
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>\n{sheets}</style>",
            *parts,
            "</html>\n",
        )
    )


_WHOLE_PAGE = re.compile(r"(?m)^(\s*)(:root|body)(?= \{)")
"""The selectors of rules for a whole page."""


def figures(values: Mapping[str, str]) -> Iterator[str]:
    """Yield a row of figures; `values` maps names to HTML."""
    yield "<dl class=figures>"
    yield from (f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in values.items())
    yield "</dl>"


def row(cells: Mapping[str, str]) -> str:
    """Return a table row from HTML by column; narrow screens show the column's name in each cell."""
    return "<tr>" + "".join(f'<td data-label="{name}">{html}' for name, html in cells.items())


def service_class(number: int) -> str:
    """Return the CSS classes of a service's colour and hatch."""
    hatch = (number - 1) % _HATCHES
    return f"h{(number - 1) % _HUES}" + (f" p{hatch}" if hatch else "")


def key(number: int, name: str) -> str:
    """Return a service's number in its colour, and its name."""
    return f'<span class="key {service_class(number)}">{number}</span>{escape(name)}'


def service_table(
    columns: Sequence[str], rows: Iterable[tuple[int, str, Sequence[str]]], hidden: int
) -> Iterator[str]:
    """Yield a table of services.

    Args:
        columns: names of the columns after the first.
        rows: number, name and HTML by column of each service.
        hidden: number of services that are not in `rows`.
    """
    yield f"<table><thead><tr><th>service<th>{'<th>'.join(columns)}</thead><tbody>"
    for number, name, cells in rows:
        yield row({"service": key(number, name), **dict(zip(columns, cells, strict=True))})
    yield "</tbody></table>"
    yield from left_out(hidden, "services are not listed")


def left_out(n: int, what: str) -> Iterator[str]:
    """Yield a note about `n` things that a page does not show, if `n` is above 0."""
    if n > 0:
        yield f"<p>{n:,} more {what} here; the JSON file has all.</p>"


@dataclass(frozen=True, slots=True)
class InstanceBox:
    """An instance to draw; its texts are not yet escaped.

    Attributes:
        placement: of the instance.
        number: of its service; 0 for none.
        title: in the largest type, after the number.
        hint: the tooltip.
        note: in the smallest type.
        kind: `stays`, or in a transition `goes` or `comes`.
    """

    placement: Placement
    number: int
    title: str
    hint: str
    note: str = ""
    kind: str = "stays"


@dataclass(frozen=True, slots=True)
class GpuCard:
    """GPUs with the same layout, drawn once.

    Attributes:
        model: name in the catalogue.
        label: their description, not yet escaped.
        ids: of the GPUs.
        layouts: their boxes, sorted by placement; two layouts, before and after, in a transition.
    """

    model: str
    label: str
    ids: Sequence[str]
    layouts: Sequence[Iterable[InstanceBox]]


def gpu_cards(cards: Iterable[GpuCard]) -> Iterator[str]:
    """Yield the drawings of GPUs side by side."""
    yield "<div class=gpus>"
    for card in cards:
        ranges = id_ranges(card.ids)
        ids = ", ".join(map(escape, ranges[:_MOST_RANGES]))
        more = f" and more, {len(card.ids):,} in all" if len(ranges) > _MOST_RANGES else ""
        yield f"<section class=gpu><h3>{TIMES} {len(card.ids):,} <span>{escape(card.label)}</span></h3>"
        yield f"<p>{ids}{more}</p>"
        for number, boxes in enumerate(card.layouts):
            yield from ("<div class=arrow>↓</div>",) if number else ()
            yield from _layout(card.model, boxes)
        yield "</section>"
    yield "</div>"


def _layout(model: str, boxes: Iterable[InstanceBox]) -> Iterator[str]:
    gpu = gpu_model(model)
    yield f'<div class=cut style="grid-template-columns:repeat({gpu.memory_slices},1fr)">'
    at = 0
    for box in boxes:
        profile = gpu.profile(box.placement.profile)
        yield "<div class=free></div>" * (box.placement.start - at)
        yield _layout_box(box, profile.memory, profile.compute)
        at = box.placement.start + profile.memory
    yield "<div class=free></div>" * (gpu.memory_slices - at) + "</div>"


def _layout_box(box: InstanceBox, memory: int, compute: int) -> str:
    size, dot, rest = escape(box.placement.profile).partition(".")
    classes = (service_class(box.number) if box.number else "none") + (" slim" if memory == 1 else "")
    if box.kind != "stays":
        classes += f" {box.kind}"
    number = f"{box.number} " if box.number else ""
    note = f"<small>{escape(box.note)}</small>" if box.note else ""
    return (
        f'<div class="on {classes}" style="grid-column:span {memory}" title="{escape(box.hint)}">'
        f"<b>{_SIGNS[box.kind]}{number}{escape(box.title)}</b><i>{size}<s>{dot}{rest}</s></i>"
        f'{note}<u style="--c:{compute}"></u></div>'
    )


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line across a chart, and its text."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """The time range of a drawing, in seconds, from left to right."""

    begin: float
    end: float

    @classmethod
    def with_lead(cls, seconds: float) -> Scale:
        """Return a scale that begins a little before 0, so that changes at 0 can be seen."""
        return cls(-_LEAD * seconds, seconds)

    def share(self, second: float) -> float:
        """Return the position of a time, from 0 at the left end to 1 at the right end."""
        return (second - self.begin) / (self.end - self.begin) if self.end > self.begin else 0.0

    def ticks(self) -> list[float]:
        """Return a few round times from 0 to at most the end."""
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


def steps(
    first: float, points: Sequence[Point], scale: Scale, line: Level | None, look: str
) -> Iterator[str]:
    """Yield a chart of a value that changes in steps.

    Args:
        first: the value before time 0.
        points: the steps, the first at time 0.
        scale: the time range.
        line: a horizontal line to compare with.
        look: CSS classes.
    """
    top = _HEADROOM * max(first, line.value if line else 0.0, *(point.value for point in points), 1e-9)
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
