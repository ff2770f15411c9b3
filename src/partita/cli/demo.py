"""`partita demo`: a day of five services on a simulated cluster, from the first plan to the next morning."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from partita.cli.apply import make_controller
from partita.cli.cluster import OpenCluster, named
from partita.cli.dash import missing
from partita.cli.diff import print_way, way_data
from partita.cli.drawing import ASCII, COLOURS, UNICODE, ClusterMap
from partita.cli.output import stderr, stdout, to_write
from partita.cli.plan_view import PlanTable
from partita.cli.searching import planned
from partita.control.cluster_view import deployed
from partita.control.controller import request, standing_rates
from partita.control.goal import goal_for
from partita.control.journal import FILE, Journal
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.errors import counted
from partita.files import replacing
from partita.planner import read_prepared
from partita.planning.overview import PlanOverview, amount, verdict
from partita.sim.clock import SimulatedClock
from partita.transition.overview import Bar, timeline
from partita.transition.transition import MEASURED
from partita.web.page import page
from partita.web.transition_report import day_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from partita.control.cluster_view import ClusterView
    from partita.drive.driver import ActionResult, Observation
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.sim.clock import Clock
    from partita.transition.overview import Timeline
    from partita.transition.transition import Action, Request, Transition


Html = Annotated[
    Path | None,
    typer.Option(metavar="FILE", callback=to_write, help="Write a report of the day, with timelines."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of durations: same seed, same day.")]

_SIMPLER = (
    ("whole", "whole GPUs, no MIG"),
    ("ones", "every GPU in sevenths"),
    ("greedy", "the paper's greedy"),
)


SEE_IT, INSTALL = "partita dash --demo", 'pip install "partita[dash]"'

_SECONDS = 600.0
"""Most seconds of search for each plan: it ends by itself long before, and so each day is the same."""


def demo(*, html: Html = None, seed: Seed = 0) -> None:
    """A day of five services on 24 simulated GPUs: plan, apply, and change twice with the services running.

    Takes some ten seconds, needs no GPU, and leaves nothing behind but the report of --html.
    """
    folder = Path(str(resources.files("partita.examples")))
    day, night = (read_prepared(folder / name) for name in ("day.yaml", "night.yaml"))
    names = [service.name for service in day.workload.services]
    console = stdout()
    with demo_cluster(named(_models(day)), seed) as demo:
        console.print("By day: the fewest GPUs that meet five services", style="bold")
        by_day = plan_for(day, demo)
        console.print(PlanTable(PlanOverview(by_day), drawn=False))
        console.print()
        counts = _compare(console, day, by_day)
        _head(console, "Applied to 24 simulated A100s in three nodes")
        setup = _act(console, demo, by_day, names)
        _head(console, "In the evening rates fall to a third: planned again, changed while serving")
        evening = _act(console, demo, plan_for(night, demo), names)
        _head(console, "In the morning they rise again")
        morning = _act(console, demo, plan_for(day, demo), names)
    acts = {"Setting up": setup, "Evening": evening, "Morning": morning}
    _end(console, acts, counts, folder, html)


def _models(loaded: PreparedWorkload) -> list[str]:
    return [pool.model for pool in loaded.workload.gpus for _ in range(pool.count or 0)]


def _head(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False)


def plan_for(loaded: PreparedWorkload, demo: DemoCluster) -> Plan:
    """Return the plan with the fewest GPUs that is nearest to what runs."""
    return planned(loaded, "exact", time_limit=_SECONDS, current=deployed(demo.observe())).plan


def _compare(console: Console, loaded: PreparedWorkload, by_day: Plan) -> dict[str, int]:
    """Print how many GPUs simpler ways take, and return it."""
    counts = {what: len(planned(loaded, name).plan.gpus) for name, what in _SIMPLER}
    counts["this plan"] = len(by_day.gpus)
    for what, n in counts.items():
        console.print(f"{n:5} GPUs  {what}", markup=False)
    return counts


def _act(console: Console, demo: DemoCluster, plan: Plan, names: Sequence[str]) -> DemoStep:
    """Bring the cluster to a plan, and print how that went."""
    with watching(console, names) as show:
        act = demo.reach(plan, show)
    if act.request.current.used:
        console.print(f"{amount(plan)}, {verdict(plan)}", markup=False)
        print_way(console, way_data(act.request, act.transition))
        console.print(f"carried out in {act.seconds:.0f} s, {_kept(act)}", markup=False)
    else:
        console.print(
            f"{counted(len(act.transition.actions), 'action')}, carried out in {act.seconds:.0f} s",
            markup=False,
        )
    console.print()
    console.print(ClusterMap(demo.observe(), names))
    return act


def _kept(act: DemoStep) -> str:
    """Say in words how near any service came to its floor."""
    floors = {name: floor for name, floor in act.transition.floors.items() if floor}
    name, margin = min(
        ((name, act.least(name) / floor - 1) for name, floor in floors.items()), key=lambda each: each[1]
    )
    if margin < 0:
        return f"and {name} fell {-margin * 100:.1f} % under its floor"
    return f"no floor broken; nearest was {name}, {margin * 100:.1f} % above"


def _end(
    console: Console, acts: Mapping[str, DemoStep], counts: Mapping[str, int], folder: Path, html: Path | None
) -> None:
    if html is not None:
        with replacing(html) as stream:
            stream.write(page(day_report(acts, counts), "day.yaml and night.yaml"))
    lines = (
        f"The day:    {folder / 'day.yaml'}",
        f"A report:   {html or 'partita demo --html demo.html'}",
        "Your own:   partita plan -f workload.yaml --out plan.json, then partita apply plan.json",
        f"See it:     {SEE_IT if not missing() else f'{INSTALL}, then {SEE_IT}'}",
    )
    console.print("\n" + "\n".join(lines), markup=False, soft_wrap=True)


_BAR = 30


@contextmanager
def watching(
    console: Console, names: Sequence[str]
) -> Iterator[Callable[[Request, Transition], Callable[[Observation], None]]]:
    """Yield what shows a transition: on a terminal the cluster as it changes, else nothing.

    Args:
        console: where.
        names: of the services, in the order of their numbers.
    """
    if not console.is_terminal:
        yield lambda _asked, _way: lambda _observation: None
        return

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
        full, border = ("#", ASCII.border) if options.ascii_only else ("\N{FULL BLOCK}", UNICODE.border)
        longest = max(map(len, self._names), default=0)
        yield f"{counted(self._used, 'GPU')} in use"
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


_TIMES_FASTER = 40.0


@dataclass(frozen=True, slots=True)
class DemoStep:
    """A transition that was carried out: what was asked and predicted, and how it went."""

    plan: Plan
    request: Request
    transition: Transition
    course: Timeline

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max((bar.end for bar in self.course.bars), default=0.0)

    def least(self, service: str) -> float:
        """Return the least capacity that a service had, in items/s."""
        return min((point.value for point in self.course.capacity.get(service, ())), default=0.0)


class DemoCluster:
    """The cluster, with one thing after the other done on it.

    Args:
        opened: its driver and journal.
    """

    def __init__(self, opened: OpenCluster) -> None:
        self._opened = opened

    def observe(self) -> Observation:
        """Return the cluster as it is."""
        return self._opened.driver.observe()

    def reach(
        self, plan: Plan, show: Callable[[Request, Transition], Callable[[Observation], None]]
    ) -> DemoStep:
        """Bring the cluster to a plan.

        Args:
            plan: what is wanted.
            show: is told the transition before it begins, and returns what sees the cluster meanwhile.
        """
        driver, journal = self._opened.driver, self._opened.journal
        now = deployed(driver.observe())
        rates = standing_rates(journal.promised(), now)
        goal = goal_for(plan, rates, None, algorithm="shortest", extra_gpus=None)
        record = _Record(driver.clock)
        controller = make_controller(self._opened, "shortest", record, lambda: False)
        asked = request(goal, now, MEASURED)
        found = controller.preview(goal, driver.observe())
        record.see = show(asked, found)
        controller.reach(goal, (asked, found))
        return DemoStep(plan, asked, found, timeline(asked, found, record.bars))


class _Record:
    """Writes down when actions ran (control's `Reporter`)."""

    def __init__(self, clock: Clock) -> None:
        self.bars: dict[str, Bar] = {}
        self.see: Callable[[Observation], None] = lambda _: None
        self._clock = clock
        self._zero = clock.now()
        self._begun: dict[str, float] = {}

    def began(self, action: Action) -> None:
        """Note when."""
        self._begun[action.id] = self._clock.now() - self._zero

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """Note when."""
        del done, total
        name = ended.action.id
        self.bars[name] = Bar(ended.action, self._begun[name], self._clock.now() - self._zero)

    def note(self, text: str) -> None:
        """Tell it."""
        stderr().print(f"note: {text}", markup=False)

    def observed(self, view: ClusterView) -> None:
        """Show it."""
        self.see(view.observation)


class _FastClock(SimulatedClock):
    """A simulated clock that lets one watch."""

    def sleep_until(self, moment: float) -> None:
        """Wait a fraction of the time, and make it `moment`."""
        time.sleep(max(0.0, moment - self.now()) / _TIMES_FASTER)
        super().sleep_until(moment)


@contextmanager
def demo_cluster(gpus: Sequence[tuple[str, str]], seed: int) -> Iterator[DemoCluster]:
    """Make a cluster for the block: on a terminal slow enough to watch, else as fast as it goes.

    Args:
        gpus: pairs of id and model.
        seed: of durations.
    """
    with tempfile.TemporaryDirectory(prefix="partita-demo-") as folder:
        path = Path(folder) / "cluster.sqlite3"
        SimulatedCluster.create(path, gpus, seed=seed).close()
        clock = _FastClock() if stdout().is_terminal else SimulatedClock()
        driver, journal = SimulatedDriver(path, clock), Journal(Path(folder) / FILE)
        try:
            yield DemoCluster(OpenCluster(driver, journal))
        finally:
            journal.close()
            driver.close()
