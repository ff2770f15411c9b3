"""The console that all tables and views are printed on."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment
from rich.text import Span, Text

from partita.cli.terminal import is_shown, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType


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
