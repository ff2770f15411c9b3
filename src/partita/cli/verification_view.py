"""How `partita simulate --plan` and `partita plan --verify` show what became of the queries."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from partita.cli.output import stderr
from partita.errors import PartitaError, counted
from partita.planning.overview import id_ranges
from partita.verification.outcome import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from partita.verification.losses import LossesOutcome, LossOutcome
    from partita.verification.outcome import PlanOutcome, ServiceOutcome, Share

MOST_SERVICES = 40
_WIDE = 110
_STYLES = {Verdict.KEPT: "green", Verdict.BROKEN: "red", Verdict.UNDECIDED: "yellow", Verdict.NONE: "dim"}
_MOST_NAMED = 3
_MOST_LISTED = 100


@contextmanager
def simulation_progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function to be told how many simulations are done and of how many; None if stderr is no terminal."""
    console = stderr()
    if not console.is_terminal:
        yield None
        return
    with console.status(f"simulating {what} ...") as status:
        yield lambda done, total: status.update(f"simulating {what}: {done:,} of {total:,}")


class OutcomeTable:
    """What is printed of a plan's simulation. It fits itself to the console's width and encoding.

    Args:
        outcome: to print.
    """

    def __init__(self, outcome: PlanOutcome) -> None:
        self._outcome = outcome

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = sorted(self._outcome.services, key=lambda each: _ORDER[each.verdict])[:MOST_SERVICES]
        if len(self._outcome.services) <= MOST_SERVICES:
            shown = list(self._outcome.services)
        if self._outcome.stopped:
            yield f"interrupted: simulated {counted(len(self._outcome.services), 'service')}"
        if not shown:
            return
        yield summary(self._outcome)
        yield ""
        yield _services(shown, options)
        left = len(self._outcome.services) - len(shown)
        if left:
            yield f"and {left:,} more services, all with -o json; those in doubt come first"
        sized = [each for each in shown if each.sizes]
        if sized:
            yield ""
            yield _sizes(sized, options)


_ORDER = {Verdict.BROKEN: 0, Verdict.UNDECIDED: 1, Verdict.KEPT: 2, Verdict.NONE: 3}


def summary(outcome: PlanOutcome) -> str:
    """Return a sentence on how many services keep their promise."""
    promising = [each for each in outcome.services if each.verdict is not Verdict.NONE]
    if not promising:
        return "no service promises a share of its queries"
    kept = sum(each.verdict is Verdict.KEPT for each in promising)
    promises = counted(len(promising), "service keeps its promise", "services keep their promise")
    told = f"{kept:,} of {promises} at 95 % confidence"
    for found, word in ((outcome.broken, "not kept"), (outcome.undecided, "undecided")):
        if found:
            told += f"; {word}: {_named([each.service for each in found])}"
    return told


def _services(services: Sequence[ServiceOutcome], options: ConsoleOptions) -> Table:
    wide = options.max_width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", overflow="fold", min_width=8)
    names = ["queries/s", "promised", "in time %", "kept", "p50", *(["p95"] if wide else []), "p99 ms"]
    for name in [*names, *(["refused %"] if wide else []), "busy %"]:
        table.add_column(name, justify="right", no_wrap=True)
    for each in services:
        latencies = ["-" if ms is None else f"{ms:,.1f}" for ms in each.latency_ms]
        table.add_row(
            each.service,
            f"{each.queries_per_second:,.6g}",
            _promised(each),
            _share(each.in_time, options),
            _kept(each.verdict),
            *(latencies if wide else [latencies[0], latencies[-1]]),
            *([f"{each.refused * 100:.2f}"] if wide else []),
            f"{each.busy * 100:.0f}",
        )
    return table


def _sizes(services: Sequence[ServiceOutcome], options: ConsoleOptions) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("service", overflow="fold", min_width=8)
    for name in ("items", "queries", "promised", "in time %"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in services:
        for size in each.sizes:
            table.add_row(
                each.service, size.items, f"{size.queries:,}", _promised(each), _share(size.in_time, options)
            )
    return table


def _promised(each: ServiceOutcome) -> str:
    return "-" if each.promised is None else f"{each.promised * 100:g} %"


def _kept(verdict: Verdict) -> Text:
    return Text("-" if verdict is Verdict.NONE else verdict.value, _STYLES[verdict])


def _share(share: Share, options: ConsoleOptions) -> str:
    half = max(share.high - share.value, share.value - share.low) * 100
    return f"{share.value * 100:.2f} {'+-' if options.ascii_only else '±'}{half:.2f}"


class LossesTable:
    """What is printed of a plan's losses.

    Args:
        outcome: to print.
    """

    def __init__(self, outcome: LossesOutcome) -> None:
        self._outcome = outcome

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        losses = self._outcome.losses
        number = sum(len(each.lost) for each in losses)
        broken = sum(len(each.lost) for each in losses if each.broken)
        yield f"{number - broken:,} of {number:,} {_word(self._outcome)}s can be lost with every promise kept"
        yield ""
        yield self._table(options)

    def _table(self, options: ConsoleOptions) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("lost", overflow="fold", min_width=12)
        table.add_column("worst service", overflow="fold", min_width=8)
        for name in ("promised", "in time %", "kept", "not kept"):
            table.add_column(name, justify="right", no_wrap=True)
        for loss in sorted(self._outcome.losses, key=lambda each: -len(each.broken)):
            worst = _worst(loss)
            lost = ", ".join(id_ranges(loss.lost[:_MOST_LISTED]))
            lost += ", ..." if len(loss.lost) > _MOST_LISTED else ""
            if worst is None:
                table.add_row(lost, "-", "-", "-", "-", "0")
                continue
            table.add_row(
                lost,
                worst.service,
                _promised(worst),
                _share(worst.in_time, options),
                _kept(worst.verdict),
                f"{len(loss.broken):,}",
            )
        return table


def _worst(loss: LossOutcome) -> ServiceOutcome | None:
    """Return the service that falls shortest of its promise, or else is worst off."""
    return min(
        loss.services,
        key=lambda each: (_ORDER[each.verdict], each.in_time.value - (each.promised or 0.0)),
        default=None,
    )


def refuse_broken(outcome: PlanOutcome, losses: LossesOutcome | None, where: str | None) -> None:
    """Raise if a service does not keep its promise, so that scripts notice.

    Raises:
        PartitaError: names those services.
    """
    broken = {each.service: None for each in outcome.broken}
    lost = losses.losses if losses is not None else ()
    then = {each.service: None for loss in lost for each in loss.broken if each.service not in broken}
    more = "plan again with more headroom for these services, or with a longer slo.latency_ms"
    for names, when, hint in (
        (broken, "", more),
        (then, *(("", "") if losses is None else _when_lost(losses))),
    ):
        if names:
            verb = "does not keep its promise" if len(names) == 1 else "do not keep their promises"
            raise PartitaError(
                f"{_named([*names])} {verb}{when}",
                where=where,
                hint=hint,
            )


def _when_lost(losses: LossesOutcome) -> tuple[str, str]:
    return (
        f" when a {_word(losses)} is lost",
        f"write `survive: {losses.level}` for these services, with more headroom if they say so already",
    )


def _word(losses: LossesOutcome) -> str:
    return "GPU" if losses.level == "gpu" else losses.level


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    if more <= 0:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMED])} and {more:,} more"
