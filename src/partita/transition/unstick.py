"""Ways on when every replica in the way is needed: swap-like situations on full GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.transition.items import New, Old
from partita.transition.stand_in import stand_in

if TYPE_CHECKING:
    import random

    from partita.transition.cluster import Cluster


def unstick(cluster: Cluster, *, extra_first: bool) -> bool:
    """Change what is to come and to go so that something can; say whether that was possible.

    Either temporary replicas stand in while old ones are replaced, in free slices of GPUs in use or, if the
    budget has one, on another GPU; or all that a GPU is to hold goes to an empty GPU instead, and the GPU is
    given up.

    Args:
        cluster: in which nothing is under way and nothing can begin.
        extra_first: use another GPU even if free slices would do.
    """
    ways = [_move_to_empty, stand_in] if extra_first else [stand_in, _move_to_empty]
    return any(way(cluster) for way in ways) or stand_in(cluster, open_gpus=True)


def _move_to_empty(cluster: Cluster) -> bool:
    found = min(_movable(cluster), default=None)
    if found is None:
        return False
    _move(cluster, found[2], found[3])
    return True


def spread(cluster: Cluster, shake: random.Random | None) -> None:
    """Let what GPUs are to hold come on empty ones instead, where nothing stays on them anyway.

    As many as the budget allows: it costs no replica its place, and saves the wait for what is in the way.
    """
    while found := [each for each in _movable(cluster) if each[0] == 0]:
        _, _, gpu, empty = shake.choice(found) if shake else min(found)
        _move(cluster, gpu, empty)


def _movable(cluster: Cluster) -> list[tuple[int, int, str, str]]:
    """Return the GPUs whose future could be another's, if the budget has one more.

    Returns:
        Replicas that would lose their place, how many instances wait (negative), the GPU, and the empty one.
    """
    taken = cluster.in_use | {new.gpu for new in cluster.news}
    if len(taken) >= cluster.budget:
        return []
    empty: dict[str, str] = {}
    for name, model in cluster.models.items():
        if name not in taken:
            empty.setdefault(model, name)
    busy = {old.gpu for old in cluster.olds if old.begun} | {new.gpu for new in cluster.news if new.begun}
    found = []
    for gpu in dict.fromkeys(new.gpu for new in cluster.news if new.blockers):
        if gpu in busy or cluster.fixed[gpu] or cluster.models[gpu] not in empty:
            continue
        wanted, there = cluster.wanted[gpu], cluster.running[gpu]
        kept = sum(1 for place, replica in wanted.items() if replica and there.get(place) == replica)
        found.append((kept, -len(wanted), gpu, empty[cluster.models[gpu]]))
    return found


def _move(cluster: Cluster, gpu: str, empty: str) -> None:
    cluster.forget(gpu)
    cluster.wanted[empty], cluster.wanted[gpu] = cluster.wanted[gpu], {}
    for place, replica in cluster.running[gpu].items():
        cluster.olds[Old(gpu, place, replica, destroyed=True)] = None
    for place, replica in cluster.wanted[empty].items():
        cluster.expect(New(empty, place, replica, made=True))
