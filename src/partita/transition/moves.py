"""Moves: how many replicas a change from one deployment to another starts or stops.

A replica that ends while another of its service starts elsewhere is one move; so is one that starts beyond that, and
one that ends beyond that. A service's moves are thus the larger of its starts and its stops. `partita diff` counts
the same from the actions of a transition: they are its replicas that move, are new or end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.transition.deployment import restated
from partita.transition.nearest import nearest
from partita.transition.transition import MEASURED, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.deadline import Deadline
    from partita.transition.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Moves:
    """What becomes of the replicas of each service, or of all together.

    Attributes:
        stay: replicas that stay where they are.
        stop: replicas that end.
        start: replicas that start.
    """

    stay: int
    stop: int
    start: int

    @property
    def count(self) -> int:
        """Moves: a stop and a start of one service are one."""
        return max(self.stop, self.start)


def moves_between(
    current: Deployment, target: Deployment, deadline: Deadline | None = None
) -> dict[str, Moves]:
    """Return the moves of each service when the target is put onto the GPUs there are so that the most stays.

    Args:
        current: what runs, on all GPUs there are.
        target: what is wanted; its GPUs are mapped onto those of `current` of the same model.
        deadline: how long to look for the best places of thousands of GPUs; where it ends, fewer moves may do.

    Raises:
        InfeasibleError: there are too few GPUs of a model, or fixed instances leave no room.
        InputError: the target has a fixed instance that does not run.
    """
    current = restated(current, target)
    wanted = nearest(Request(current, target, {}, {}, MEASURED), deadline=deadline)
    stay: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    then: Counter[str] = Counter()
    for gpu in current.gpus:
        here = wanted[gpu.id]
        then.update(replica.service for replica in here.values() if replica is not None)
        for each in gpu.instances:
            if each.replica is None or each.fixed:
                continue
            runs[each.replica.service] += 1
            stay[each.replica.service] += here.get(each.placement) == each.replica
    return {
        name: Moves(stay[name], runs[name] - stay[name], then[name] - stay[name])
        for name in sorted(runs.keys() | then.keys())
    }


def total_moves(moves: Mapping[str, Moves]) -> int:
    """Return the moves of all services together."""
    return sum(each.count for each in moves.values())
