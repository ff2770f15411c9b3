"""A plan as `partita plan` shows and writes it: its figures, its services, and its GPUs drawn."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from partita.cli.drawing import ASCII, UNICODE, mosaic_rows, mosaic_texts
from partita.cli.output import Format, emit, emit_document, stdout
from partita.files import replacing
from partita.mig.catalogue import gpu_model
from partita.planning.document import write_plan
from partita.planning.overview import (
    VALUE_NAMES,
    PlanOverview,
    amount,
    id_ranges,
    moves_verdict,
    trade_rows,
    verdict,
)
from partita.web.page import page
from partita.web.plan_report import plan_report

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, ConsoleOptions, RenderResult

    from partita.cli.drawing import Marks
    from partita.planning.overview import GpuGroup, ServiceOverview
    from partita.planning.plan import Plan
    from partita.verification.outcome import PlanOutcome

MOST_SERVICES = 40
MOST_GROUPS = 12
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")


def show_plan(
    plan: Plan,
    output: Format,
    out: Path | None,
    html: Path | None,
    verified: PlanOutcome | None = None,
    *,
    workload: str | None = None,
) -> None:
    """Write a plan as a document and as a page, where asked, and print it in a format.

    Args:
        plan: to show.
        output: format on stdout.
        out: file of the document; None for no file.
        html: file of the page; None for no file.
        verified: what became of its queries in simulation; None if it was not simulated.
        workload: name of what was planned, for the page.
    """
    overview = PlanOverview(plan)
    if out is not None:
        with replacing(out) as stream:
            write_plan(plan, stream)
    if html is not None:
        with replacing(html) as stream:
            stream.write(page(plan_report(overview, verified), workload))
    if output is Format.TABLE:
        stdout().print(PlanTable(overview))
        if verified is not None:
            from partita.cli.verification_view import OutcomeTable  # noqa: PLC0415 -- most plans are not simulated

            stdout().print("", OutcomeTable(verified), sep="\n")
    elif verified is not None:
        text = io.StringIO()
        write_plan(plan, text)
        emit({"plan": json.loads(text.getvalue()), "verification": verified.to_dict()}, output)
    else:
        emit_document(lambda stream: write_plan(plan, stream), output)


class PlanTable:
    """What is printed of a plan. It fits itself to the console's width, colour and encoding.

    Args:
        overview: of the plan.
        drawn: whether its GPUs are drawn, too.
    """

    def __init__(self, overview: PlanOverview, *, drawn: bool = True) -> None:
        self._plan = overview.plan
        self._drawn = drawn
        self._groups = overview.groups
        self._services = overview.services
        self._colours = {
            service.name: _COLOURS[index % len(_COLOURS)] for index, service in enumerate(self._plan.services)
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = ASCII if options.ascii_only else UNICODE
        yield self._summary()
        if self._plan.moves is not None:
            yield moves_verdict(self._plan.moves)
        yield ""
        yield self._service_table(marks)
        yield from _left_out(len(self._services) - MOST_SERVICES, "services")
        yield from self._trade()
        if self._drawn:
            yield from self._gpus(options.max_width, marks)
        if any(each.estimated for each in self._services):
            yield ""
            yield f"{marks.about} marks estimates: nobody has measured these figures."

    def _trade(self) -> RenderResult:
        rows = trade_rows(self._plan)
        if not rows:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in (VALUE_NAMES.get(self._plan.objective.name, "value"), "moves"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for row in rows:
            table.add_row(*row)
        yield ""
        yield table
        yield "`--most-moves N` plans with so few."

    def _gpus(self, width: int, marks: Marks) -> RenderResult:
        for group in self._groups[:MOST_GROUPS]:
            yield ""
            yield from self._group(group, width, marks)
        left = self._groups[MOST_GROUPS:]
        if left:
            yield ""
        yield from _left_out(sum(len(group.ids) for group in left), "GPUs")

    def _summary(self) -> Text:
        solver = self._plan.solver
        text = Text(amount(self._plan), style="bold")
        text.append(f", {verdict(self._plan)}", style="green" if self._plan.objective.proven else "yellow")
        text.append(f"  {solver.name}, {solver.seconds:.2f} s", style="dim")
        return text

    def _service_table(self, marks: Marks) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("service", overflow="fold", min_width=8)
        for name in ("rate/s", "capacity/s", "spare", "SLO ms", "latency ms"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("replicas", min_width=8)
        for each in self._services[:MOST_SERVICES]:
            service = Text(marks.plain(each.service.name), self._colours[each.service.name])
            table.add_row(service, *_figures(each, marks))
        return table

    def _group(self, group: GpuGroup, width: int, marks: Marks) -> RenderResult:
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f"{marks.times} {len(group.ids):,}", style="bold")
        head.append(f"  {marks.plain(group.label)}  ")
        head.append(marks.plain(", ".join(id_ranges(group.ids[:200]))), style="dim")
        if marks is ASCII:  # rich cuts with a character that ASCII lacks
            head.truncate(width, overflow="crop")
        yield head
        items = [(instance.placement, instance.service) for instance in group.instances]
        rows = mosaic_rows(gpu_model(group.model), items, width, marks)
        yield from mosaic_texts(rows, marks, lambda cell: self._colours.get(cell.label or "", "dim"))


def _figures(each: ServiceOverview, marks: Marks) -> tuple[str, str, str, str, str, str]:
    about = marks.about if each.estimated else ""
    latency = "-" if each.latency_ms is None else f"{about}{each.latency_ms:.1f}"
    return (
        f"{each.service.rate:,.6g}",
        f"{about}{each.service.capacity:,.6g}",
        f"{each.spare * 100:+z.0f} %",
        f"{each.service.latency_slo_ms:,.6g}",
        latency,
        each.replicas_text(marks.times),
    )


def _left_out(n: int, what: str) -> RenderResult:
    if n > 0:
        yield f"and {n:,} more {what}, all in the plan's file and its HTML report"
