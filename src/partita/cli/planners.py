"""Planners by name."""

from __future__ import annotations

from enum import StrEnum


class PlannerName(StrEnum):
    """The planners there are."""

    EXACT = "exact"
    GREEDY = "greedy"
    MCTS = "mcts"
    GENETIC = "genetic"
    WHOLE = "whole"
    ONES = "ones"
    MIX = "mix"
