"""A cluster on few lines: a column for each node, a row for each of its GPUs, slice by slice."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from partita.cli.mosaic import ASCII, UNICODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

    from partita.cli.mosaic import Marks
    from partita.drive.driver import Observation, ObservedGpu, ObservedInstance

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
        from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

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
        from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

        return Text("  ").join(
            Text.assemble((f"{n} ", "bold"), (marks.plain(name), COLOURS[(n - 1) % len(COLOURS)]))
            for n, name in enumerate(self._names, 1)
        )

    def _gpu(self, gpu: ObservedGpu, marks: Marks) -> Text:
        from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

        from partita.mig.catalogue import gpu_model  # noqa: PLC0415

        model = gpu_model(gpu.model)
        line = Text(marks.border, no_wrap=True, style="")
        at = 0
        for each in sorted(gpu.instances, key=lambda each: each.placement):
            memory = model.profile(each.placement.profile).memory
            line.append_text(_free(each.placement.start - at, marks))
            line.append(*self._instance(each, memory * _SLICE - 1))
            line.append(marks.border)
            at = each.placement.start + memory
        return line.append_text(_free(model.memory_slices - at, marks))

    def _instance(self, instance: ObservedInstance, room: int) -> tuple[str, str]:
        size = instance.placement.profile.partition(".")[0]
        if instance.replica is None:
            return size.center(room), "dim"
        number = self._names.index(instance.replica.replica.service) + 1
        state = "-" if instance.replica.draining else "" if instance.replica.ready else "+"
        text = f"{number}{state} {size}" if room >= 2 * _SLICE - 1 else f"{number}{state}"
        colour = COLOURS[(number - 1) % len(COLOURS)]
        return text.center(room), colour if state else f"black on {colour}"


def _free(slices: int, marks: Marks) -> Text:
    from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

    text = (marks.free.center(_SLICE) * slices)[:-1] + marks.border if slices else ""
    return Text(text, "dim")
