"""Planners by name."""

from __future__ import annotations

from enum import StrEnum
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


def make_planner(name: PlannerName, seed: int, watch: Watch) -> Planner:
    """Return the planner of that name. Only its own modules are imported."""
    if name is PlannerName.EXACT:
        from partita.plan.exact import ExactPlanner  # noqa: PLC0415 -- each planner imports its own solvers

        return ExactPlanner(seed, watch)
    raise NotImplementedError
