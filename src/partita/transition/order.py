"""The order of steps: everything happens as soon as floors, slices and GPUs allow it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from partita.transition.cluster import Cluster
from partita.transition.stand_in import stand_in_for_all
from partita.transition.unstick import spread, unstick

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from partita.transition.fit import Wanted
    from partita.transition.items import New, Old
    from partita.transition.steps import Step
    from partita.transition.transition import Request


_PATIENCE = 3
"""Times that a way on may be sought, for each instance that comes or goes."""


class Stuck(Exception):  # noqa: N818 -- a state of the search, not an error of the user
    """Nothing can go on: what is left would break a floor or the budget."""


def order(
    request: Request,
    wanted: Mapping[str, Wanted],
    shake: random.Random | None,
    *,
    extra_first: bool,
    stand_ins_first: bool = False,
) -> list[Step]:
    """Return steps that lead to what is wanted, one after the other legal and safe.

    New replicas come as soon as there is room; old ones go as soon as their service can spare them, first those
    that stand in the way of what a short service waits for, last those in nobody's way.

    Args:
        request: what was asked.
        wanted: what each physical GPU is to hold.
        shake: random numbers that vary the priorities; None for the plain ones.
        extra_first: use what GPUs the budget has before waiting for room.
        stand_ins_first: use temporary replicas before waiting for lasting ones.

    Raises:
        Stuck: floors and budget leave no way on that is known.
    """
    cluster = Cluster(request, wanted)
    patience = _PATIENCE * (len(cluster.olds) + len(cluster.news) + 1)
    while True:
        if extra_first:
            spread(cluster, shake)
        _come(cluster)
        _make_way(cluster, shake)
        _close(cluster)
        if stand_ins_first:
            stand_in_for_all(cluster)
            _come(cluster)
            stand_ins_first = False
        _go(cluster)
        if not cluster.idle:
            cluster.advance()
        elif not cluster.olds and not cluster.news:
            return cluster.steps
        elif patience <= 0 or not unstick(cluster, extra_first=extra_first):
            raise Stuck
        else:
            patience -= 1


def _come(cluster: Cluster) -> None:
    for new in [each for each in cluster.news if not each.begun and not each.blockers]:
        if cluster.can_open(new.gpu):
            cluster.come(new)


def _make_way(cluster: Cluster, shake: random.Random | None) -> None:
    """Stop what is in the way of new replicas, where floors allow all that one of them needs."""
    short = shortage(cluster)
    waiting = [each for each in cluster.news if each.blockers and not each.begun]

    def urgency(new: New) -> float:
        service = new.replica.service if new.replica else ""
        cost = sum(1.0 for old in new.blockers if not old.begun)
        value = short.get(service, 0.0) - 0.01 * cost
        return value + (shake.random() if shake else 0.0)

    for new in sorted(waiting, key=urgency, reverse=True):
        in_the_way = [old for old in new.blockers if not old.begun]
        if cluster.can_go(in_the_way):
            for old in sorted(in_the_way, key=lambda old: old.placement):
                cluster.go(old)


def shortage(cluster: Cluster) -> dict[str, float]:
    """Return how much of what must go cannot yet be spared, as a share, of each service."""
    must: dict[str, float] = defaultdict(float)
    for old in dict.fromkeys(old for new in cluster.news for old in new.blockers if not old.begun):
        if old.replica is not None:
            must[old.replica.service] += old.replica.throughput
    return {name: max(0.0, 1.0 - cluster.spare(name) / amount) for name, amount in must.items() if amount > 0}


def _close(cluster: Cluster) -> None:
    """Empty GPUs that nothing comes to, where new ones wait for the budget."""
    waiting = {new.gpu for new in cluster.news if not new.begun and not new.blockers}
    missing = len(waiting) - (cluster.budget - len(cluster.in_use))
    if missing <= 0:
        return
    coming = {new.gpu for new in cluster.news}
    per_gpu: dict[str, list[Old]] = defaultdict(list)
    for old in cluster.olds:
        if old.gpu not in coming:
            per_gpu[old.gpu].append(old)
    closing = sum(1 for olds in per_gpu.values() if all(old.begun for old in olds))
    for olds in sorted(per_gpu.values(), key=len):
        rest = [old for old in olds if not old.begun]
        if closing < missing and rest and cluster.can_go(rest):
            closing += 1
            for old in rest:
                cluster.go(old)


def _go(cluster: Cluster) -> None:
    """Stop what is in nobody's way, as far as nobody else needs what its service can spare."""
    needed = dict.fromkeys(old for new in cluster.news for old in new.blockers if not old.begun)
    reserve: dict[str, float] = defaultdict(float)
    for old in needed:
        if old.replica is not None:
            reserve[old.replica.service] += old.replica.throughput
    for old in [each for each in cluster.olds if not each.begun and each.there and each not in needed]:
        if old.replica is None or (
            old.replica.throughput + reserve[old.replica.service] <= cluster.spare(old.replica.service)
        ):
            cluster.go(old)
