"""`partita demo`: a day of five services on a simulated cluster, from the first plan to the next morning."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.options import stdout
from partita.cli.plan import planned
from partita.cli.planners import PlannerName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from partita.cli.stage import Act, Stage
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan

Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report of the day, with timelines.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of durations: same seed, same day.")]

_SIMPLER = (
    (PlannerName.WHOLE, "whole GPUs, no MIG"),
    (PlannerName.ONES, "every GPU in sevenths"),
    (PlannerName.GREEDY, "the paper's greedy"),
)


def demo(*, html: Html = None, seed: Seed = 0) -> None:
    """A day of five services on 24 simulated GPUs: plan, apply, and change twice with the services running.

    Takes a few seconds, needs no GPU, and leaves nothing behind but the report, where one is asked for.
    """
    from partita.cli.drivers import named  # noqa: PLC0415 -- slow to import
    from partita.cli.plan_view import plan_table  # noqa: PLC0415
    from partita.cli.stage import stage  # noqa: PLC0415
    from partita.planner import read_prepared  # noqa: PLC0415

    folder = Path(str(resources.files("partita.examples")))
    day, night = (read_prepared(folder / name) for name in ("day.yaml", "night.yaml"))
    names = [service.name for service in day.workload.services]
    console = stdout()
    with stage(named(_models(day)), seed) as scene:
        console.print("By day: the fewest GPUs that meet five services", style="bold")
        by_day = _plan(day, scene)
        console.print(plan_table(by_day, drawn=False))
        console.print()
        counts = _compare(console, day, by_day)
        _head(console, "Applied to 24 simulated A100s in three nodes")
        setup = _act(console, scene, by_day, names)
        _head(console, "In the evening rates fall to a third: planned anew, changed while serving")
        evening = _act(console, scene, _plan(night, scene), names)
        _head(console, "In the morning they rise again")
        morning = _act(console, scene, _plan(day, scene), names)
    acts = {"Setting up": setup, "Evening": evening, "Morning": morning}
    _end(console, acts, counts, folder, html)


def _models(loaded: PreparedWorkload) -> list[str]:
    return [pool.model for pool in loaded.workload.gpus for _ in range(pool.count or 0)]


def _head(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False)


def _plan(loaded: PreparedWorkload, scene: Stage) -> Plan:
    """Return the plan with the fewest GPUs that is nearest to what runs."""
    from partita.control.observed import deployed  # noqa: PLC0415 -- slow to import

    return planned(loaded, PlannerName.EXACT, current=deployed(scene.observe())).plan


def _compare(console: Console, loaded: PreparedWorkload, by_day: Plan) -> dict[str, int]:
    """Print how many GPUs simpler ways take, and return it."""
    counts = {what: len(planned(loaded, name).plan.gpus) for name, what in _SIMPLER}
    counts["this plan"] = len(by_day.gpus)
    for what, n in counts.items():
        console.print(f"{n:5} GPUs  {what}", markup=False)
    return counts


def _act(console: Console, scene: Stage, plan: Plan, names: Sequence[str]) -> Act:
    """Bring the cluster to a plan, and print how that went."""
    from partita.cli.cluster_map import ClusterMap  # noqa: PLC0415 -- rich is slow to import
    from partita.cli.demo_view import watching  # noqa: PLC0415
    from partita.cli.way_view import print_way, way_data  # noqa: PLC0415
    from partita.planning.explain import (  # noqa: PLC0415
        amount,
        verdict,
    )

    with watching(console, names) as show:
        act = scene.play(plan, show)
    if act.request.current.used:
        console.print(f"{amount(plan)}, {verdict(plan)}", markup=False)
        print_way(console, way_data(act.request, act.transition))
        console.print(f"carried out in {act.seconds:.0f} s, {_kept(act)}", markup=False)
    else:
        console.print(
            f"{len(act.transition.actions)} actions, carried out in {act.seconds:.0f} s", markup=False
        )
    console.print()
    console.print(ClusterMap(scene.observe(), names))
    return act


def _kept(act: Act) -> str:
    """Say in words how near any service came to its floor."""
    floors = {name: floor for name, floor in act.transition.floors.items() if floor}
    name, margin = min(
        ((name, act.least(name) / floor - 1) for name, floor in floors.items()), key=lambda each: each[1]
    )
    if margin < 0:
        return f"and {name} fell {-margin * 100:.1f} % under its floor"
    return f"no floor broken; nearest was {name}, {margin * 100:.1f} % above"


def _end(
    console: Console, acts: Mapping[str, Act], counts: Mapping[str, int], folder: Path, html: Path | None
) -> None:
    if html is not None:
        from partita.files import replacing  # noqa: PLC0415 -- only where something is written
        from partita.web.transition_report import day_report  # noqa: PLC0415

        with replacing(html) as stream:
            stream.write(day_report(acts, counts))
    lines = (
        f"The day:    {folder / 'day.yaml'}",
        f"A report:   {html or 'partita demo --html demo.html'}",
        "Your own:   partita plan -f workload.yaml --out plan.json, then partita apply plan.json",
    )
    console.print("\n" + "\n".join(lines), markup=False, soft_wrap=True)
