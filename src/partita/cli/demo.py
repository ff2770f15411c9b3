"""`partita demo`: the main job on the sample that comes with Partita."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from partita.cli.options import Format, stdout
from partita.cli.planners import PlannerName

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("demo")(demo)


def demo() -> None:
    """Plan the sample workload that comes with Partita, and compare with simpler ways to cut its GPUs."""
    from partita.cli.loading import load  # noqa: PLC0415 -- slow to import
    from partita.cli.plan import make_plan, show_plan  # noqa: PLC0415

    path = Path(str(resources.files("partita.examples").joinpath("workload.yaml")))
    loaded = load(path)
    made = make_plan(loaded, PlannerName.EXACT, time_limit=30.0, seed=0)
    show_plan(made, Format.TABLE)
    console = stdout()
    console.print()
    for name, what in (
        (PlannerName.WHOLE, "whole GPUs, no MIG"),
        (PlannerName.ONES, "every GPU in sevenths"),
        (PlannerName.GREEDY, "the paper's greedy"),
    ):
        other = make_plan(loaded, name, time_limit=30.0, seed=0)
        console.print(f"{other.objective.value:5g} GPUs  {what}", markup=False)
    console.print(f"{made.objective.value:5g} GPUs  this plan", markup=False)
    console.print(
        f"\nThe sample: {path}\nYour own:   partita plan -f workload.yaml --out plan.json --html plan.html",
        markup=False,
        soft_wrap=True,
    )
