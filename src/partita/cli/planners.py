"""Planners by name."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partita.deadline import Deadline
    from partita.planning.plan import Planner


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
    PlannerName.GREEDY: ("partita.planning.mig_serving", "GreedyPlanner"),
    PlannerName.MCTS: ("partita.planning.mig_serving", "MctsPlanner"),
    PlannerName.GENETIC: ("partita.planning.mig_serving", "GeneticPlanner"),
    PlannerName.WHOLE: ("partita.planning.static_cuts", "WholePlanner"),
    PlannerName.ONES: ("partita.planning.static_cuts", "OnesPlanner"),
    PlannerName.MIX: ("partita.planning.static_cuts", "MixPlanner"),
}
"""Where each planner is: imported only when asked for, since each brings its own solvers."""

_SEEDED = (PlannerName.EXACT, PlannerName.MCTS, PlannerName.GENETIC)


def make_planner(name: PlannerName, seed: int, watch: Deadline) -> Planner:
    """Return the planner of that name."""
    module, kind = _CLASSES[name]
    made = getattr(import_module(module), kind)
    planner: Planner = made(seed=seed, watch=watch) if name in _SEEDED else made(watch=watch)
    return planner
