"""Planners by name."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partita.plan.plan import Planner
    from partita.plan.watch import Watch


class PlannerName(StrEnum):
    """The planners there are."""

    EXACT = "exact"
    GREEDY = "greedy"
    MCTS = "mcts"
    GENETIC = "genetic"
    WHOLE = "whole"
    ONES = "ones"
    MIX = "mix"


_STATIC = (PlannerName.WHOLE, PlannerName.ONES, PlannerName.MIX)
_SEEDED = (PlannerName.EXACT, PlannerName.MCTS, PlannerName.GENETIC)


def make_planner(name: PlannerName, seed: int, watch: Watch) -> Planner:
    """Return the planner of that name. Each is imported only here, for each brings its own solvers."""
    module = import_module("partita.plan.paper.static" if name in _STATIC else f"partita.plan.paper.{name}")
    made = getattr(module, f"{name.capitalize()}Planner")
    planner: Planner = made(seed=seed, watch=watch) if name in _SEEDED else made(watch=watch)
    return planner
