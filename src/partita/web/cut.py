"""A GPU's layout as HTML: each instance a box as wide as the memory slices it takes."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from partita.web.page import look

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement


@dataclass(frozen=True, slots=True)
class Box:
    """An instance to draw, its texts not yet escaped.

    Attributes:
        number: of its service; 0 for none.
        title: the largest text, after the number.
        hint: shown where the pointer rests.
        note: the smallest text.
        kind: `stays`, or `goes` or `comes` in a change.
    """

    placement: Placement
    number: int
    title: str
    hint: str
    note: str = ""
    kind: str = "stays"


_SIGNS = {"stays": "", "goes": "\N{MINUS SIGN} ", "comes": "+ "}


def cut(gpu: GpuModel, boxes: Iterable[Box]) -> Iterator[str]:
    """Yield the drawing of a GPU whose boxes are sorted by placement."""
    yield f'<div class=cut style="grid-template-columns:repeat({gpu.memory_slices},1fr)">'
    at = 0
    for box in boxes:
        profile = gpu.profile(box.placement.profile)
        yield "<div class=free></div>" * (box.placement.start - at)
        yield _box(box, profile.memory, profile.compute)
        at = box.placement.start + profile.memory
    yield "<div class=free></div>" * (gpu.memory_slices - at) + "</div>"


def _box(box: Box, memory: int, compute: int) -> str:
    size, dot, rest = escape(box.placement.profile).partition(".")
    classes = (look(box.number) if box.number else "none") + (" slim" if memory == 1 else "")
    if box.kind != "stays":
        classes += f" {box.kind}"
    number = f"{box.number} " if box.number else ""
    note = f"<small>{escape(box.note)}</small>" if box.note else ""
    return (
        f'<div class="on {classes}" style="grid-column:span {memory}" title="{escape(box.hint)}">'
        f"<b>{_SIGNS[box.kind]}{number}{escape(box.title)}</b><i>{size}<s>{dot}{rest}</s></i>"
        f'{note}<u style="--c:{compute}"></u></div>'
    )
