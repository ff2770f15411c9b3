"""GPUs that change, on the terminal: each drawn slice by slice before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.cli.mosaic import ASCII, UNICODE, mosaic_rows, mosaic_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

    from partita.cli.mosaic import Marks
    from partita.transition.deployment import DeployedInstance, Deployment

MOST_GROUPS = 12
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_HEAD = 5


@dataclass(frozen=True, slots=True)
class _Side:
    """A GPU before or after; `sign` marks those instances that the other side does not have."""

    name: str
    sign: str
    instances: tuple[DeployedInstance, ...]
    others: tuple[DeployedInstance, ...]


def gpu_changes_table(current: Deployment, target: Deployment) -> RenderableType:
    """Return what is printed of the GPUs that change; `-` marks what goes and `+` what comes."""
    return _ChangeView(current, target)


class _ChangeView:
    def __init__(self, current: Deployment, target: Deployment) -> None:
        from partita.transition.overview import gpu_changes  # noqa: PLC0415 -- only where changes are shown

        self._groups = gpu_changes(current, target)
        names = sorted(current.capacity().keys() | target.capacity().keys())
        self._colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

        from partita.planning.explain import id_ranges  # noqa: PLC0415

        marks = ASCII if options.ascii_only else UNICODE
        for group in self._groups[:MOST_GROUPS]:
            yield ""
            head = Text(f"{marks.times} {len(group.ids):,}", "bold", no_wrap=True, overflow="crop")
            head.append(f"  {group.model}  ", "not bold")
            head.append(marks.plain(", ".join(id_ranges(group.ids[:200]))), "dim not bold")
            yield head
            for side in (
                _Side("now", "-", group.before, group.after),
                _Side("then", "+", group.after, group.before),
            ):
                yield from self._drawn(side, group.model, options.max_width, marks)
        left = self._groups[MOST_GROUPS:]
        if left:
            yield f"\nand {sum(len(group.ids) for group in left):,} more GPUs, all in the HTML report and -o json"

    def _drawn(self, side: _Side, model: str, width: int, marks: Marks) -> Iterator[Text]:
        from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

        from partita.mig.catalogue import gpu_model  # noqa: PLC0415

        labels = {
            each.placement: _label(each, "" if each in side.others else side.sign) for each in side.instances
        }
        services = {labels[each.placement]: each.replica.service for each in side.instances if each.replica}
        rows = mosaic_rows(gpu_model(model), list(labels.items()), width - _HEAD, marks)
        lines = mosaic_texts(
            rows, marks, lambda cell: self._colours.get(services.get(cell.label or "", ""), "dim")
        )
        for number, line in enumerate(lines):
            yield Text((side.name if number == 0 else "").ljust(_HEAD), no_wrap=True) + line


def _label(instance: DeployedInstance, sign: str) -> str:
    if instance.replica is None:
        return f"{sign}someone else's" if instance.fixed else f"{sign}idle"
    return f"{sign}{instance.replica.service}"
