"""A GPU's layout in the terminal: a row of slices, instances as wide as the memory slices they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.text import Text

    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement

_WIDEST_SLICE = 18  # wider rows are no easier to read


@dataclass(frozen=True, slots=True)
class Marks:
    """Characters to draw with."""

    border: str
    free: str
    cut: str
    times: str
    about: str
    encoding: str

    def plain(self, text: str) -> str:
        """Return the text with characters that cannot be shown replaced."""
        return text.encode(self.encoding, "replace").decode(self.encoding)


UNICODE = Marks("│", "·", "…", "\N{MULTIPLICATION SIGN}", "≈", "utf-8")
ASCII = Marks("|", ".", "~", "x", "~", "ascii")


@dataclass(frozen=True, slots=True)
class Cell:
    """A part of a row: its text, padded to its width, and the instance's label; None for a free slice."""

    text: str
    label: str | None


def mosaic(
    gpu: GpuModel, items: Sequence[tuple[Placement, str]], width: int, marks: Marks = UNICODE
) -> list[str]:
    """Return a layout as lines of text: profiles, and below them the labels if there are any.

    Args:
        gpu: the GPU.
        items: its instances, each with a label such as the service's name, or an empty one.
        width: most columns to take.
        marks: characters to draw with.
    """
    rows = mosaic_rows(gpu, items, width, marks)
    return [marks.border + marks.border.join(cell.text for cell in row) + marks.border for row in rows]


def mosaic_rows(
    gpu: GpuModel, items: Sequence[tuple[Placement, str]], width: int, marks: Marks = UNICODE
) -> list[list[Cell]]:
    """Return a layout as rows of cells, to be joined by borders. Arguments as for `mosaic`."""
    inner = max(2, min(_WIDEST_SLICE, (width - 1) // gpu.memory_slices - 1))
    spans = list(_spans(gpu, items))
    profiles = [_profile_cell(span, inner, marks) for span in spans]
    if not any(label for _, label in items):
        return [profiles]
    return [profiles, [_label_cell(span, inner, marks) for span in spans]]


def mosaic_texts(
    rows: Iterable[Sequence[Cell]], marks: Marks, style: Callable[[Cell], str]
) -> Iterator[Text]:
    """Yield rows of cells as lines for a console, each cell in its style."""
    from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

    for cells in rows:
        line = Text(marks.border, no_wrap=True, overflow="crop")
        for cell in cells:
            line.append(cell.text, style(cell))
            line.append(marks.border)
        yield line


@dataclass(frozen=True, slots=True)
class _Span:
    profile: str | None
    label: str
    slices: int


def _spans(gpu: GpuModel, items: Sequence[tuple[Placement, str]]) -> Iterator[_Span]:
    at = 0
    for placement, label in sorted(items):
        yield from _free(placement.start - at)
        size = gpu.profile(placement.profile).memory
        yield _Span(placement.profile, label, size)
        at = placement.start + size
    yield from _free(gpu.memory_slices - at)


def _free(slices: int) -> Iterator[_Span]:
    return (_Span(None, "", 1) for _ in range(slices))


def _profile_cell(span: _Span, inner: int, marks: Marks) -> Cell:
    room = span.slices * (inner + 1) - 1
    if span.profile is None:
        return Cell(marks.free.center(room), None)
    # Where the name does not fit, the number of compute slices does: 1g for 1g.10gb.
    text = span.profile if len(span.profile) <= room else span.profile.partition(".")[0]
    return Cell(_fit(text, room, marks), span.label)


def _label_cell(span: _Span, inner: int, marks: Marks) -> Cell:
    room = span.slices * (inner + 1) - 1
    return Cell(_fit(span.label, room, marks), None if span.profile is None else span.label)


def _fit(text: str, room: int, marks: Marks) -> str:
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415 -- rich is slow to import

    text = marks.plain(text)
    if cell_len(text) <= room:
        return set_cell_size(text, room)
    return set_cell_size(text, room - 1) + marks.cut
