"""The default algorithm: as much as possible stays, the rest in the shortest time, with the least extra."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError
from partita.transition.nearest import nearest
from partita.transition.order import Stuck, order
from partita.transition.relax import relax
from partita.transition.search import search

if TYPE_CHECKING:
    from partita.transition.nearest import Wanted
    from partita.transition.transition import Request, Transition

_EFFORT = 20_000
"""Instances that all tries together may order: small transitions are tried often, the largest once or twice."""


@dataclass(frozen=True, slots=True)
class Shortest:
    """Keeps the most replicas in place, then orders the rest for the shortest makespan.

    The target's layouts go onto the physical GPUs by assignment (`nearest.py`). A simulation gives an order in
    which new replicas come as soon as there is room and old ones go as soon as they can be spared (`order.py`,
    `unstick.py`), tried with varied priorities; where it finds none, small cases are searched exhaustively
    (`search.py`). Last, the graph keeps only the edges that safety needs (`relax.py`). Extra GPUs are used where
    they make it shorter, the fewest that do.

    Attributes:
        seed: of the random numbers that vary the priorities.
        tries: most orders that are tried.
    """

    seed: int = 0
    tries: int = 24

    def transition(self, request: Request) -> Transition:
        """Return the transition that moves the fewest replicas, then is the shortest, of those found.

        Raises:
            InfeasibleError: the budget is too small; says the smallest that would do.
            InputError: the target has a fixed instance that does not run.
        """
        wanted = nearest(request)
        most = request.gpu_budget - max(request.current.used, request.target.used)
        best: Transition | None = None
        for extra in _budgets(most):
            found = self._within(replace(request, extra_gpus=extra), wanted)
            if found is not None and (best is None or _rank(found) < _rank(best)):
                best = found
            if best is not None and best.makespan <= _one_wave(request):
                break
        if best is None:
            raise self._refusal(request, wanted, most)
        return best

    def _within(self, request: Request, wanted: dict[str, Wanted]) -> Transition | None:
        size = sum(len(gpu.instances) for gpu in request.current.gpus) + sum(map(len, wanted.values()))
        tries = max(2, min(self.tries, _EFFORT // max(1, size)))
        best: Transition | None = None
        for number in range(tries):
            shake = random.Random(self.seed * 1000 + number) if number > 1 else None
            try:
                steps = order(request, wanted, shake, extra_first=bool(number % 2))
            except Stuck:
                continue
            found = relax(request, steps, "shortest")
            if best is None or _rank(found) < _rank(best):
                best = found
        if best is None and (steps_found := search(request)) is not None:
            best = relax(request, steps_found, "shortest")
        return best

    def _refusal(self, request: Request, wanted: dict[str, Wanted], most: int) -> InfeasibleError:
        there = len(request.current.gpus) - max(request.current.used, request.target.used)
        for extra in range(most + 1, there + 1):  # what is told must be the smallest
            if self._within(replace(request, extra_gpus=extra), wanted) is not None:
                return InfeasibleError(
                    f"no transition keeps the floors with {most} extra GPUs; {extra} would do",
                    where="extra_gpus",
                    hint=f"allow {extra} extra GPUs",
                )
        return InfeasibleError(
            f"no transition was found that keeps the floors on the {len(request.current.gpus)} GPUs there are",
            where="extra_gpus",
            hint="add a GPU, or lower the rates that must be kept",
        )


def _rank(found: Transition) -> tuple[int, float, int, int]:
    return found.moved, round(found.makespan, 6), found.peak_gpus, len(found.actions)


def _one_wave(request: Request) -> float:
    """Return the seconds of a transition in which no replica waits for another but the one it replaces."""
    each = request.durations
    return each.create_instance + each.start_replica + each.stop_replica + each.destroy_instance


def _budgets(most: int) -> list[int]:
    """Return the budgets to try: 0, 1, 2, 4 and so on up to what is allowed."""
    return sorted({0, most, *(1 << k for k in range(most.bit_length()) if 1 << k <= most)})
