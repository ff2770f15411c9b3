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
    from collections.abc import Iterator

    from partita.transition.fit import Wanted
    from partita.transition.transition import Request, Transition

_NAME = "shortest"

_ALWAYS = 4
"""Orders that are tried however large the transition is, if none before led to the target."""

_EFFORT = 15_000
"""Instances that all orders together may have: small transitions are tried often, the largest a few times."""


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
        best = self._best(request, wanted)
        if best is None:
            raise self._refusal(request, wanted)
        return best

    def _best(self, request: Request, wanted: dict[str, Wanted]) -> Transition | None:
        size = sum(len(gpu.instances) for gpu in request.current.gpus) + sum(map(len, wanted.values()))
        most = request.gpu_budget - _base(request)
        best: Transition | None = None
        for tried, (extra, number) in enumerate(_attempts(most, self.tries)):
            if tried * size > _EFFORT and (best is not None or tried >= _ALWAYS):
                break
            found = self._try(replace(request, extra_gpus=extra), wanted, number)
            if found is not None and (best is None or _rank(found) < _rank(best)):
                best = found
            if best is not None and best.makespan <= _one_wave(request):
                break
        if best is None and (steps := search(request)) is not None:
            best = relax(request, steps, _NAME)
        return best

    def _try(self, request: Request, wanted: dict[str, Wanted], number: int) -> Transition | None:
        shake = random.Random(self.seed * 1000 + number) if number > 1 else None
        if number % 8 > 3:
            wanted = nearest(request, shake)
        try:
            steps = order(
                request, wanted, shake, extra_first=bool(number % 2), stand_ins_first=number % 4 > 1
            )
        except Stuck:
            return None
        return relax(request, steps, _NAME)

    def _refusal(self, request: Request, wanted: dict[str, Wanted]) -> InfeasibleError:
        """Return the error that says the smallest budget that would do, by bisection."""
        asked = request.gpu_budget - _base(request)
        low, high = asked, len(request.current.gpus) - _base(request)
        if low >= high or self._best(replace(request, extra_gpus=high), wanted) is None:
            return InfeasibleError(
                f"no transition was found that keeps the floors on the {len(request.current.gpus)} GPUs there are",
                where="extra_gpus",
                hint="add a GPU, or lower the rates that must be kept",
            )
        while high - low > 1:
            middle = (low + high) // 2
            if self._best(replace(request, extra_gpus=middle), wanted) is None:
                low = middle
            else:
                high = middle
        return InfeasibleError(
            f"no transition keeps the floors with {asked} extra GPUs; {high} would do",
            where="extra_gpus",
            hint=f"allow {high} extra GPUs",
        )


def _base(request: Request) -> int:
    return max(request.current.used, request.target.used)


def _attempts(most: int, tries: int) -> Iterator[tuple[int, int]]:
    """Yield budgets and numbers of tries: first the plain ones at both ends of the budget, then all between."""
    plain = [(0, 0), (most, 1), (0, 1), (most, 0)]
    steps = dict.fromkeys([0, *(1 << k for k in range(most.bit_length())), most])
    rest = [(extra, number) for number in range(1, tries) for extra in steps]
    yield from dict.fromkeys([*plain, *rest])


def _rank(found: Transition) -> tuple[int, float, int, int]:
    return found.moved, round(found.makespan, 6), found.peak_gpus, len(found.actions)


def _one_wave(request: Request) -> float:
    """Return the seconds of a transition in which no replica waits for another but the one it replaces."""
    each = request.durations
    return each.create_instance + each.start_replica + each.stop_replica + each.destroy_instance
