"""What views draw: a console that is safe for any text, the mosaic of a GPU, the map of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.segment import Segment
from rich.text import Span, Text

from partita.cli.safe_text import is_shown, shown
from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import ConsoleOptions, RenderableType, RenderResult

    from partita.drive.driver import Observation, ObservedGpu, ObservedInstance
    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement


class SafeConsole(Console):
    """A console that shows all text as `shown` has it, whatever a view puts into it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render something; text before it is laid out, so that columns stay columns."""
        if isinstance(renderable, Text) and not is_shown(renderable.plain):
            renderable = _shown_text(renderable)
        for segment in super().render(renderable, options):
            if segment.control or is_shown(segment.text):
                yield segment
            else:
                yield Segment(shown(segment.text), segment.style)


def _shown_text(text: Text) -> Text:
    parts = [shown(each) for each in text.plain]
    at = [0, *accumulate(map(len, parts))]
    made = text.blank_copy("".join(parts))
    made.spans = [Span(at[min(s.start, len(parts))], at[min(s.end, len(parts))], s.style) for s in text.spans]
    return made


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
    text = marks.plain(text)
    if cell_len(text) <= room:
        return set_cell_size(text, room)
    return set_cell_size(text, room - 1) + marks.cut


COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_SLICE = 3  # columns for a memory slice, the border at its end included
_GAP = "  "


class ClusterMap:
    """A cluster as rich renders it.

    An instance has its service's number, where there is room its size, `+` while its replica starts and `-` while
    it drains; without a number it is idle.

    Args:
        observation: the cluster.
        names: of the services, numbered from 1.
    """

    def __init__(self, observation: Observation, names: Sequence[str]) -> None:
        self._observation = observation
        self._names = names

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = ASCII if options.ascii_only else UNICODE
        nodes: dict[str, list[ObservedGpu]] = {}
        for gpu in self._observation.gpus:
            nodes.setdefault(gpu.id.rpartition("/")[0], []).append(gpu)
        columns = {name: [self._gpu(gpu, marks) for gpu in gpus] for name, gpus in nodes.items()}
        wide = max((line.cell_len for lines in columns.values() for line in lines), default=1)
        beside = max(1, (options.max_width + len(_GAP)) // (wide + len(_GAP)))
        for first in range(0, len(columns), beside):
            some = list(columns.items())[first : first + beside]
            yield Text(_GAP.join(name.ljust(wide) for name, _ in some).rstrip(), "dim", no_wrap=True)
            for cells in zip_longest(*(lines for _, lines in some), fillvalue=Text()):
                yield Text(_GAP, no_wrap=True).join(cells)
        yield self._legend(marks)

    def _legend(self, marks: Marks) -> Text:
        return Text("  ").join(
            Text.assemble((f"{n} ", "bold"), (marks.plain(name), COLOURS[(n - 1) % len(COLOURS)]))
            for n, name in enumerate(self._names, 1)
        )

    def _gpu(self, gpu: ObservedGpu, marks: Marks) -> Text:

        model = gpu_model(gpu.model)
        line = Text(marks.border, no_wrap=True, style="")
        at = 0
        for each in sorted(gpu.instances, key=lambda each: each.placement):
            memory = model.profile(each.placement.profile).memory
            line.append_text(_free_places(each.placement.start - at, marks))
            line.append(*self._instance(each, memory * _SLICE - 1))
            line.append(marks.border)
            at = each.placement.start + memory
        return line.append_text(_free_places(model.memory_slices - at, marks))

    def _instance(self, instance: ObservedInstance, room: int) -> tuple[str, str]:
        size = instance.placement.profile.partition(".")[0]
        if instance.replica is None:
            return size.center(room), "dim"
        number = self._names.index(instance.replica.replica.serves[0][0]) + 1
        state = "-" if instance.replica.draining else "" if instance.replica.ready else "+"
        text = f"{number}{state} {size}" if room >= 2 * _SLICE - 1 else f"{number}{state}"
        colour = COLOURS[(number - 1) % len(COLOURS)]
        return text.center(room), colour if state else f"black on {colour}"


def _free_places(slices: int, marks: Marks) -> Text:
    text = (marks.free.center(_SLICE) * slices)[:-1] + marks.border if slices else ""
    return Text(text, "dim")
