"""Ways on when every replica in the way is needed: swap-like situations on full GPUs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.mig.layout import Placement
from partita.transition.geometry import conflict, rules
from partita.transition.items import New, Old

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from partita.transition.cluster import Cluster
    from partita.transition.deployment import Replica
    from partita.transition.transition import Request

_LOOKED_AT = 40
"""Waiting instances for which a way on is sought at a time."""


@dataclass(frozen=True, slots=True)
class _Spot:
    gpu: str
    placement: Placement
    replica: Replica


def unstick(cluster: Cluster, *, extra_first: bool) -> bool:
    """Change what is to come and to go so that something can; say whether that was possible.

    Either temporary replicas stand in while old ones are replaced, in free slices of GPUs in use or, if the
    budget has one, on another GPU; or all that a GPU is to hold goes to an empty GPU instead, and the GPU is
    given up.

    Args:
        cluster: in which nothing is under way and nothing can begin.
        extra_first: use another GPU even if free slices would do.
    """
    ways = [_move_to_empty, _stand_in] if extra_first else [_stand_in, _move_to_empty]
    return any(way(cluster) for way in ways) or _stand_in(cluster, open_gpus=True)


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


def _stand_in(cluster: Cluster, *, open_gpus: bool = False) -> bool:
    """Let temporary replicas come that make the cheapest waiting instance possible."""
    if open_gpus and len(cluster.in_use) >= cluster.budget:
        return False
    templates = known_replicas(cluster.request)
    best: list[_Spot] | None = None
    waiting = [new for new in cluster.news if new.blockers and not new.begun]
    for new in sorted(waiting, key=lambda new: len(new.blockers))[:_LOOKED_AT]:
        found = _stand_ins(cluster, new, templates, open_gpus=open_gpus)
        if found and (best is None or len(found) < len(best)):
            best = found
    for spot in best or []:
        _add_temporary(cluster, spot)
    return best is not None


def known_replicas(request: Request) -> dict[tuple[str, str], list[tuple[str, Replica]]]:
    """Return the profile and replica of each way in which a service runs on a GPU model, the largest first."""
    found: dict[tuple[str, str], dict[tuple[str, Replica], None]] = defaultdict(dict)
    for deployment in (request.current, request.target):
        for gpu in deployment.gpus:
            for each in gpu.instances:
                if each.replica is not None:
                    found[gpu.model, each.replica.service][each.placement.profile, each.replica] = None
    return {
        key: sorted(pairs, key=lambda pair: (-pair[1].throughput, pair[0], str(pair[1])))
        for key, pairs in found.items()
    }


def _stand_ins(
    cluster: Cluster,
    new: New,
    templates: dict[tuple[str, str], list[tuple[str, Replica]]],
    *,
    open_gpus: bool,
) -> list[_Spot] | None:
    """Return temporary replicas that let all in the way of an instance go; None if there is no room."""
    if not all(old.there for old in new.blockers):
        return None
    lacking: dict[str, float] = defaultdict(float)
    for old in new.blockers:
        if old.replica is not None:
            lacking[old.replica.service] += old.replica.throughput
    chosen: list[_Spot] = []
    for service, amount in lacking.items():
        still = amount - cluster.spare(service)
        while still > 0:
            spots = [
                spot
                for spot in _spots(cluster, service, templates, open_gpus=open_gpus)
                if _free_of(cluster, spot, chosen, new)
            ]
            if not spots:
                return None
            chosen.append(_best(spots, still))
            still -= chosen[-1].replica.throughput
    return chosen


def _best(spots: Sequence[_Spot], lacking: float) -> _Spot:
    """Return the smallest replica that is enough, or else the largest."""
    enough = [spot for spot in spots if spot.replica.throughput >= lacking]
    if enough:
        return min(enough, key=lambda spot: spot.replica.throughput)
    return max(spots, key=lambda spot: spot.replica.throughput)


def _spots(
    cluster: Cluster,
    service: str,
    templates: dict[tuple[str, str], list[tuple[str, Replica]]],
    *,
    open_gpus: bool,
) -> Iterator[_Spot]:
    """Yield where a replica of a service could stand, those in nobody's way first."""
    in_the_way = []
    for gpu, model in cluster.models.items():
        if gpu in cluster.in_use or open_gpus:
            for profile, replica in templates.get((model, service), []):
                for begin in rules(model, cluster.request.forbid).profile(profile).starts:
                    spot = _Spot(gpu, Placement(begin, profile), replica)
                    if cluster.fits(gpu, spot.placement):
                        if _behind(cluster, spot):
                            in_the_way.append(spot)
                        else:
                            yield spot
    yield from in_the_way


def _free_of(cluster: Cluster, spot: _Spot, chosen: Sequence[_Spot], new: New) -> bool:
    """Say whether a spot is beside those chosen and not where the new instance is to come."""
    model = rules(cluster.models[spot.gpu], cluster.request.forbid)
    taken = [each.placement for each in chosen if each.gpu == spot.gpu]
    if new.gpu == spot.gpu:
        taken.append(new.placement)
    return not any(conflict(model, spot.placement, placement) for placement in taken)


def _behind(cluster: Cluster, spot: _Spot) -> list[New]:
    """Return what is to come and would have to wait for a replica there."""
    model = rules(cluster.models[spot.gpu], cluster.request.forbid)
    return [
        new
        for new in cluster.news
        if new.gpu == spot.gpu
        and new.made
        and not new.begun
        and conflict(model, new.placement, spot.placement)
    ]


def _add_temporary(cluster: Cluster, spot: _Spot) -> None:
    leaves = Old(spot.gpu, spot.placement, spot.replica, destroyed=True, there=False)
    for new in _behind(cluster, spot):
        cluster.wait_for(new, leaves)
    cluster.expect(New(spot.gpu, spot.placement, spot.replica, made=True, goes_again=leaves))
