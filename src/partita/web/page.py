"""What all pages share: a frame that needs nothing else, figures at the top, and the looks of services."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TIMES = "\N{MULTIPLICATION SIGN}"
_HUES = 9  # classes h0 to h8 of the style sheet
_HATCHES = 4  # none, and classes p1 to p3: colour alone never tells two services apart


def page(title: str, styles: Iterable[str], parts: Iterable[str]) -> str:
    """Return a page: no scripts, nothing from elsewhere.

    Args:
        title: as text.
        styles: style sheets of this folder.
        parts: HTML of the body.
    """
    folder = resources.files(__package__)
    sheets = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in styles)
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>\n{sheets}</style>",
            *parts,
            "</html>\n",
        )
    )


def figures(values: Mapping[str, str]) -> Iterator[str]:
    """Yield a row of figures, each a name and HTML."""
    yield "<dl class=figures>"
    yield from (f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in values.items())
    yield "</dl>"


def row(cells: Mapping[str, str]) -> str:
    """Return a row of a table from HTML by column; on narrow screens each cell is told by its column's name."""
    return "<tr>" + "".join(f'<td data-label="{name}">{html}' for name, html in cells.items())


def look(number: int) -> str:
    """Return the classes that give the service of this number its look."""
    hatch = (number - 1) % _HATCHES
    return f"h{(number - 1) % _HUES}" + (f" p{hatch}" if hatch else "")


def key(number: int, name: str) -> str:
    """Return a service's number in its look, and its name."""
    return f'<span class="key {look(number)}">{number}</span>{escape(name)}'


def left_out(n: int, what: str) -> Iterator[str]:
    """Yield what a page does not show, if there is anything."""
    if n > 0:
        yield f"<p>{n:,} more {what} here; the JSON file has all.</p>"
