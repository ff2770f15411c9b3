"""What must go and what must come, GPU by GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.transition.geometry import conflict, legal, rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.mig.layout import Placement
    from partita.transition.deployment import Replica
    from partita.transition.fit import Wanted
    from partita.transition.transition import Request


@dataclass(slots=True, eq=False)
class Old:
    """An instance that loses its replica, or is destroyed, or both.

    Attributes:
        destroyed: whether the instance goes too.
        there: False for a temporary one that is still to come.
        begun: whether it has begun to go.
    """

    gpu: str
    placement: Placement
    replica: Replica | None
    destroyed: bool
    there: bool = True
    begun: bool = False


@dataclass(slots=True, eq=False)
class New:
    """An instance that is made, or gets another replica, or both.

    Attributes:
        made: whether the instance is made, or is there already.
        blockers: what must be gone before it can come.
        goes_again: what it becomes when it has come, if it is temporary.
        begun: whether it has begun to come.
    """

    gpu: str
    placement: Placement
    replica: Replica | None
    made: bool
    blockers: list[Old] = field(default_factory=list)
    goes_again: Old | None = None
    begun: bool = False


def differences(request: Request, wanted: Mapping[str, Wanted]) -> tuple[list[Old], list[New]]:
    """Return what must go and what must come to have what is wanted on every GPU."""
    olds: list[Old] = []
    news: list[New] = []
    for gpu in request.current.gpus:
        now = {each.placement: each.replica for each in gpu.instances if not each.fixed}
        then = wanted[gpu.id]
        mine_old = [
            Old(gpu.id, place, replica, destroyed=place not in then)
            for place, replica in now.items()
            if place not in then or (replica is not None and replica != then[place])
        ]
        mine_new = [
            New(gpu.id, place, replica, made=place not in now)
            for place, replica in then.items()
            if place not in now or (replica is not None and replica != now[place])
        ]
        fixed = frozenset(each.placement for each in gpu.instances if each.fixed)
        stay = fixed | frozenset(now.keys() & then.keys())
        for new in mine_new:
            new.blockers = _blockers(request, gpu.model, new, mine_old, stay | frozenset(then))
        olds += mine_old
        news += mine_new
    return olds, news


def _blockers(
    request: Request, model: str, new: New, olds: list[Old], then: frozenset[Placement]
) -> list[Old]:
    if not new.made:
        return [old for old in olds if old.placement == new.placement]
    gpu = rules(model, request.forbid)
    going = [old for old in olds if old.destroyed]
    blockers = [old for old in going if conflict(gpu, old.placement, new.placement)]
    beside = then | {
        old.placement
        for old in going
        if old not in blockers and not any(conflict(gpu, old.placement, place) for place in then)
    }
    # A rule on three instances or more, where no two conflict: wait for all that goes.
    return blockers if legal(gpu, frozenset(beside)) else going
