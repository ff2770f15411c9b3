"""What the demo shows: the cluster while it changes, on a terminal, and what has come of it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from partita.cli.cluster_map import COLOURS, ClusterMap
from partita.cli.mosaic import ASCII, UNICODE
from partita.control.observed import deployed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from partita.drive.driver import Observation
    from partita.transition.transition import Request, Transition

_BAR = 30


@contextmanager
def watching(
    console: Console, names: Sequence[str]
) -> Iterator[Callable[[Request, Transition], Callable[[Observation], None]]]:
    """Yield what a stage is to show a way with: on a terminal the cluster as it changes, else nothing.

    Args:
        console: where.
        names: of the services, in the order of their numbers.
    """
    if not console.is_terminal:
        yield lambda _asked, _way: lambda _observation: None
        return
    from rich.console import Group  # noqa: PLC0415 -- rich is slow to import
    from rich.live import Live  # noqa: PLC0415

    with Live(console=console, transient=True, auto_refresh=False) as live:

        def show(asked: Request, way: Transition) -> Callable[[Observation], None]:
            def see(observation: Observation) -> None:
                levels = Group(ClusterMap(observation, names), "", Levels(observation, names, asked, way))
                live.update(levels, refresh=True)

            return see

        yield show


class Levels:
    """A bar for each service: how much it can answer now, with a mark where its floor is.

    Args:
        observation: the cluster.
        names: of the services.
        asked: what is on its way: the widest bar is what a service has at most before and after.
        way: the way there.
    """

    def __init__(
        self, observation: Observation, names: Sequence[str], asked: Request, way: Transition
    ) -> None:
        now = deployed(observation)
        self._now = now.capacity()
        self._used = now.used
        self._names = names
        self._floors = way.floors
        before, after = asked.current.capacity(), way.target.capacity()
        self._tops = {name: max(before.get(name, 0.0), after.get(name, 0.0), 1e-9) * 1.05 for name in names}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text  # noqa: PLC0415 -- rich is slow to import

        full, border = ("#", ASCII.border) if options.ascii_only else ("\N{FULL BLOCK}", UNICODE.border)
        longest = max(map(len, self._names), default=0)
        yield f"{self._used} GPUs in use"
        for n, name in enumerate(self._names, 1):
            now, floor, top = self._now.get(name, 0.0), self._floors.get(name, 0.0), self._tops[name]
            cells = list((full * round(min(1.0, now / top) * _BAR)).ljust(_BAR))
            if floor:
                cells[min(_BAR - 1, int(floor / top * _BAR))] = border
            yield Text.assemble(
                (f"{n} ", "bold"),
                name.ljust(longest + 1),
                ("".join(cells), COLOURS[(n - 1) % len(COLOURS)]),
                f" {now:>7,.0f}/s",
                (f"  floor {floor:,.0f}" if floor else "", "dim"),
                no_wrap=True,
            )
