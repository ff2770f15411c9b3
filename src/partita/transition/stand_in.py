"""Temporary replicas, which stand in while the old ones are replaced."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.mig.layout import Placement
from partita.transition.geometry import conflict, rules
from partita.transition.items import New, Old

if TYPE_CHECKING:
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


def stand_in(cluster: Cluster, *, open_gpus: bool = False) -> bool:
    """Let temporary replicas come that make one waiting instance possible, that which needs the fewest.

    Args:
        cluster: in which nothing is under way.
        open_gpus: also on GPUs that are not in use.

    Returns:
        Whether there was room.
    """
    search = _Search(cluster, open_gpus=open_gpus, in_the_way=True)
    found = [spots for new in _waiting(cluster) if (spots := search.spots_for(new))]
    if not found:
        return False
    search.add(min(found, key=len))
    return True


def stand_in_for_all(cluster: Cluster) -> None:
    """Let temporary replicas come for all that waits and for which what is coming anyway is not enough.

    As many as there is room for where they are in nobody's way: more to do, in less time.
    """
    search = _Search(cluster, open_gpus=True, in_the_way=False)
    for new in cluster.news:
        if new.replica is not None and not new.blockers:
            search.spare[new.replica.service] += new.replica.throughput
    for new in _waiting(cluster):
        if spots := search.spots_for(new):
            search.add(spots)
        if spots is not None:
            search.spend(new)


def _waiting(cluster: Cluster) -> list[New]:
    waiting = [
        new
        for new in cluster.news
        if not new.begun and new.blockers and all(old.there for old in new.blockers)
    ]
    return sorted(waiting, key=lambda new: len(new.blockers))[:_LOOKED_AT]


class _Search:
    """Looks for room for temporary replicas.

    Attributes:
        spare: what each service is taken to have beyond its floor.
    """

    def __init__(self, cluster: Cluster, *, open_gpus: bool, in_the_way: bool) -> None:
        self._cluster = cluster
        self._in_the_way = in_the_way
        self._templates = known_replicas(cluster.request)
        self._taken: dict[str, list[Placement]] = defaultdict(list)
        self._spent: set[Old] = set()
        coming = {new.gpu for new in cluster.news}
        self._openable = cluster.budget - len(cluster.in_use | coming) if open_gpus else 0
        self.spare = {service: cluster.spare(service) for service in {s for _, s in self._templates}}

    def spots_for(self, new: New) -> list[_Spot] | None:
        """Return temporary replicas that let all in the way of an instance go; None if there is no room."""
        chosen: list[_Spot] = []
        for service, amount in self._needs(new).items():
            still = amount - self.spare[service]
            while still > 0:
                spots = [spot for spot in self._spots(service) if self._beside(spot, chosen, new)]
                if not spots:
                    return None
                chosen.append(_best(spots, still))
                still -= chosen[-1].replica.throughput
        return chosen

    def _needs(self, new: New) -> dict[str, float]:
        needs: dict[str, float] = defaultdict(float)
        for old in new.blockers:
            if old.replica is not None and not old.begun and old not in self._spent:
                needs[old.replica.service] += old.replica.throughput
        return needs

    def spend(self, new: New) -> None:
        """Count what is in the way of an instance as gone."""
        for service, amount in self._needs(new).items():
            self.spare[service] -= amount
        self._spent.update(new.blockers)

    def add(self, spots: Sequence[_Spot]) -> None:
        """Let temporary replicas come; what they are in the way of waits for them to go."""
        for spot in spots:
            if self._unused(spot.gpu):
                self._openable -= 1
            self._taken[spot.gpu].append(spot.placement)
            self.spare[spot.replica.service] += spot.replica.throughput
            leaves = Old(spot.gpu, spot.placement, spot.replica, destroyed=True, there=False)
            for new in self._behind(spot):
                self._cluster.wait_for(new, leaves)
            self._cluster.expect(New(spot.gpu, spot.placement, spot.replica, made=True, goes_again=leaves))

    def _unused(self, gpu: str) -> bool:
        return gpu not in self._cluster.in_use and not self._taken[gpu]

    def _spots(self, service: str) -> Iterator[_Spot]:
        """Yield where a replica of a service could stand; in nobody's way, if there is such room."""
        waiting = []
        for gpu, model in self._cluster.models.items():
            if self._unused(gpu) and self._openable <= 0:
                continue
            for profile, replica in self._templates.get((model, service), []):
                for begin in rules(model, self._cluster.request.forbid).profile(profile).starts:
                    spot = _Spot(gpu, Placement(begin, profile), replica)
                    if self._cluster.fits(gpu, spot.placement):
                        if not self._behind(spot):
                            yield spot
                        elif self._in_the_way:
                            waiting.append(spot)
        yield from waiting

    def _beside(self, spot: _Spot, chosen: Sequence[_Spot], new: New) -> bool:
        """Say whether a spot is beside those chosen and not where the new instance is to come."""
        model = rules(self._cluster.models[spot.gpu], self._cluster.request.forbid)
        taken = [*self._taken[spot.gpu], *(each.placement for each in chosen if each.gpu == spot.gpu)]
        if new.gpu == spot.gpu:
            taken.append(new.placement)
        if self._unused(spot.gpu):
            opened = {each.gpu for each in chosen if self._unused(each.gpu)}
            if spot.gpu not in opened and len(opened) >= self._openable:
                return False
        return not any(conflict(model, spot.placement, placement) for placement in taken)

    def _behind(self, spot: _Spot) -> list[New]:
        """Return what is to come and would have to wait for a replica there."""
        model = rules(self._cluster.models[spot.gpu], self._cluster.request.forbid)
        return [
            new
            for new in self._cluster.news
            if new.gpu == spot.gpu
            and new.made
            and not new.begun
            and conflict(model, new.placement, spot.placement)
        ]


def _best(spots: Sequence[_Spot], lacking: float) -> _Spot:
    """Return the smallest replica that is enough, or else the largest."""
    enough = [spot for spot in spots if spot.replica.throughput >= lacking]
    if enough:
        return min(enough, key=lambda spot: spot.replica.throughput)
    return max(spots, key=lambda spot: spot.replica.throughput)


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
