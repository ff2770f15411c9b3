"""`partita plan`: the fewest GPUs for a workload."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from partita.cli.mosaic import ASCII, UNICODE, mosaic_rows, mosaic_texts
from partita.cli.options import DryRun, Format, Out, Output, WorkloadFile, emit, emit_document, stderr, stdout
from partita.deadline import Deadline
from partita.errors import PartitaError
from partita.files import replacing
from partita.mig.catalogue import gpu_model
from partita.planner import check, read_prepared
from partita.planner import plan as plan_workload
from partita.planning.document import read_plan, write_plan
from partita.planning.explain import amount, gpu_groups, id_ranges, replicas_text, service_overviews, verdict
from partita.web.plan_report import plan_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from partita.cli.mosaic import Marks
    from partita.deadline import SearchProgress
    from partita.planner import PlanResult, PreparedWorkload
    from partita.planning.explain import GpuGroup, ServiceOverview
    from partita.planning.plan import Plan
    from partita.transition.deployment import Deployment

MOST_SERVICES = 40
MOST_GROUPS = 12
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")


class PlannerName(StrEnum):
    """The planners there are."""

    EXACT = "exact"
    GREEDY = "greedy"
    MCTS = "mcts"
    GENETIC = "genetic"
    WHOLE = "whole"
    ONES = "ones"
    MIX = "mix"


TimeLimit = Annotated[
    float, typer.Option(min=0.1, help="Seconds of search; the best so far is returned then.")
]
PlanToCheck = Annotated[
    Path | None, typer.Option("--check", metavar="PLAN", help="Plan nothing: say what is wrong in this plan.")
]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with the GPUs drawn.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random choices: same input and seed, same plan.")]


def plan(
    workload: WorkloadFile,
    *,
    planner: Annotated[
        PlannerName, typer.Option(help="Algorithm: exact proves its plan; the others are the paper's.")
    ] = PlannerName.EXACT,
    time_limit: TimeLimit = 30.0,
    seed: Seed = 0,
    best_effort: Annotated[
        bool, typer.Option("--best-effort", help="With too few GPUs, meet the most services by priority.")
    ] = False,
    check: PlanToCheck = None,
    html: Html = None,
    out: Out = None,
    output: Output = Format.TABLE,
    dry_run: DryRun = False,
) -> None:
    """Plan the fewest GPUs that meet the services of a workload, and prove how good the plan is.

    Reads services, rates and SLOs from the workload, and measurements from the performance tables it names;
    says how each GPU is cut and what runs where. Exits with 4 if the GPUs do not suffice.

    See it at work: `partita demo`. Ctrl-C returns the best plan so far.
    """
    loaded = read_prepared(workload)
    if check is not None:
        _check(loaded, check, output)
        return
    made = planned(loaded, planner, time_limit=time_limit, seed=seed, best_effort=best_effort)
    if not dry_run:
        _write(made.plan, out, html)
    show_plan(made.plan, output)
    for note in made.notes:
        stderr().print(f"note: {note}", markup=False)


def planned(
    asked: PreparedWorkload,
    planner: PlannerName = PlannerName.EXACT,
    *,
    time_limit: float = 30.0,
    seed: int = 0,
    best_effort: bool = False,
    current: Deployment | None = None,
) -> PlanResult:
    """Plan with progress on stderr, and let Ctrl-C return the best so far; arguments as for `planner.plan`.

    Raises:
        InfeasibleError: the GPUs do not suffice; says which services are left out then.
    """
    with stoppable() as stop, search_progress("planning", time_limit) as report:
        deadline = Deadline(time_limit, stop, report)
        return plan_workload(
            asked,
            planner=planner.value,
            deadline=deadline,
            seed=seed,
            best_effort=best_effort,
            current=current,
        )


def _check(loaded: PreparedWorkload, path: Path, output: Format) -> None:
    faults = check(read_plan(path), loaded)
    if output is not Format.TABLE:
        told = [{"where": fault.where, "what": fault.what} for fault in faults]
        emit({"plan": str(path), "workload": str(loaded.path), "meets": not faults, "faults": told}, output)
    elif not faults:
        stdout().print(f"{path} meets {loaded.path}", markup=False)
    else:
        for fault in faults:
            stdout().print(f"{fault.where}: {fault.what}", markup=False, soft_wrap=True)
    if not faults:
        return
    raise PartitaError(
        f"{len(faults)} fault{'' if len(faults) == 1 else 's'}: this plan does not meet {loaded.path}",
        where=str(path),
        hint=f"make a new one with `partita plan -f {loaded.path} --out {path}`",
    )


def _write(made: Plan, out: Path | None, html: Path | None) -> None:
    if out is not None:
        with replacing(out) as stream:
            write_plan(made, stream)
    if html is not None:
        with replacing(html) as stream:
            stream.write(plan_report(made))


def show_plan(made: Plan, output: Format) -> None:
    """Print a plan in a format."""
    if output is Format.TABLE:
        stdout().print(plan_table(made))
    else:
        emit_document(lambda stream: write_plan(made, stream), output)


def plan_table(plan: Plan, *, drawn: bool = True) -> RenderableType:
    """Return what is printed of a plan. It fits itself to the console's width, colour and encoding.

    Args:
        plan: the plan.
        drawn: whether its GPUs are drawn, too.
    """
    return _PlanView(plan, drawn=drawn)


class _PlanView:
    def __init__(self, plan: Plan, *, drawn: bool) -> None:
        self._plan = plan
        self._drawn = drawn
        self._groups = gpu_groups(plan)
        self._services = service_overviews(plan, self._groups)
        self._colours = {
            service.name: _COLOURS[index % len(_COLOURS)] for index, service in enumerate(plan.services)
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = ASCII if options.ascii_only else UNICODE
        yield self._summary()
        yield ""
        yield self._service_table(marks)
        yield from _left_out(len(self._services) - MOST_SERVICES, "services")
        if self._drawn:
            yield from self._gpus(options.max_width, marks)
        if any(each.estimated for each in self._services):
            yield ""
            yield f"{marks.about} marks estimates: nobody has measured these figures."

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
        replicas_text(each, marks.times),
    )


def _left_out(n: int, what: str) -> RenderResult:
    if n > 0:
        yield f"and {n:,} more {what}, all in the plan's file and its HTML report"


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the user has pressed Ctrl-C since the block began."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            signal.default_int_handler(number, frame)
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def search_progress(what: str, time_limit: float) -> Iterator[Callable[[SearchProgress], None]]:
    """Yield a function to be told progress, and show a line of it on a terminal meanwhile."""
    console = stderr()
    if not console.is_terminal:
        yield lambda _: None
        return
    best: float | None = None
    bound: float | None = None
    with console.status(f"{what} ...") as status:

        def show(progress: SearchProgress) -> None:
            nonlocal best, bound
            best = progress.best if progress.best is not None else best
            bound = progress.bound if progress.bound is not None else bound
            status.update(
                f"{what}: {_progress_figures(best, bound)}, {max(0.0, time_limit - progress.seconds):.0f} s left"
            )

        yield show


def _progress_figures(best: float | None, bound: float | None) -> str:
    if best is None:
        return "no plan yet" if bound is None else f"at least {bound:.6g}"
    if bound is None:
        return f"best {best:.6g}"
    return f"best {best:.6g}, at least {bound:.6g}, gap {max(0.0, best - bound) / best:.2%}"
