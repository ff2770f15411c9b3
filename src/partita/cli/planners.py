"""Planners by name."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partita.planning.plan import Planner
    from partita.planning.watch import Watch


class PlannerName(StrEnum):
    """The planners there are."""

    EXACT = "exact"
    GREEDY = "greedy"
    MCTS = "mcts"
    GENETIC = "genetic"
    WHOLE = "whole"
    ONES = "ones"
    MIX = "mix"


_CLASSES = {
    PlannerName.EXACT: ("partita.planning.exact", "ExactPlanner"),
    PlannerName.GREEDY: ("partita.planning.paper.greedy", "GreedyPlanner"),
    PlannerName.MCTS: ("partita.planning.paper.mcts", "MctsPlanner"),
    PlannerName.GENETIC: ("partita.planning.paper.genetic", "GeneticPlanner"),
    PlannerName.WHOLE: ("partita.planning.paper.static", "WholePlanner"),
    PlannerName.ONES: ("partita.planning.paper.static", "OnesPlanner"),
    PlannerName.MIX: ("partita.planning.paper.static", "MixPlanner"),
}
"""Where each planner is: imported only when asked for, since each brings its own solvers."""

_SEEDED = (PlannerName.EXACT, PlannerName.MCTS, PlannerName.GENETIC)


def make_planner(name: PlannerName, seed: int, watch: Watch) -> Planner:
    """Return the planner of that name."""
    module, kind = _CLASSES[name]
    made = getattr(import_module(module), kind)
    planner: Planner = made(seed=seed, watch=watch) if name in _SEEDED else made(watch=watch)
    return planner
