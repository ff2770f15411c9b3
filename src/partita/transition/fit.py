"""What one GPU is to hold, and the layout of it that leaves the most where it is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from partita.mig.layout import layouts_of
from partita.transition.geometry import conflict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement
    from partita.transition.deployment import DeployedGpu, Replica

Content = tuple[tuple[str, "Replica | None"], ...]
"""What a GPU is to hold, wherever it starts: profiles and replicas."""

Wanted = dict["Placement", "Replica | None"]
"""What one GPU is to hold, and where; its fixed instances are not in it."""


def content(gpu: DeployedGpu) -> Content:
    """Return what a GPU holds beside its fixed instances, in an order of its own."""
    found = [(each.placement.profile, each.replica) for each in gpu.instances if not each.fixed]
    return tuple(sorted(found, key=lambda pair: (pair[0], str(pair[1]))))


@dataclass(frozen=True, slots=True)
class Fit:
    """A way to put a content onto a GPU: what stays, and where everything goes."""

    kept: int
    reused: int
    wanted: Wanted


def fit(gpu: GpuModel, there: DeployedGpu, wanted: Content, now: Wanted) -> Fit | None:
    """Return the best way to put a content onto a GPU beside its fixed instances, None if there is none.

    The best leaves the most replicas where they are, then uses the most instances again, then has the fewest new
    instances in the way of old ones.

    Args:
        gpu: the rules.
        there: the GPU, for its fixed instances.
        wanted: what it is to hold.
        now: what it holds beside its fixed instances.
    """
    fixed = frozenset(each.placement for each in there.instances if each.fixed)
    best: tuple[tuple[int, int, int], Wanted] | None = None
    for placements in _layouts(gpu, tuple(sorted((*(p for p, _ in wanted), *(p.profile for p in fixed))))):
        if not fixed <= placements:
            continue
        found = _fill(sorted(placements - fixed), wanted, now)
        kept = sum(1 for place, replica in found.items() if replica and now.get(place) == replica)
        reused = len(now.keys() & found.keys())
        in_the_way = sum(
            1
            for new in found.keys() - now.keys()
            for old in now.keys() - found.keys()
            if conflict(gpu, new, old)
        )
        score = (kept, reused, -in_the_way)
        if best is None or score > best[0]:
            best = score, found
    return None if best is None else Fit(best[0][0], best[0][1], best[1])


def _fill(placements: Iterable[Placement], wanted: Content, now: Wanted) -> Wanted:
    """Give each placement a replica of its profile, the one that runs there already if that is wanted."""
    waiting: dict[str, list[Replica | None]] = defaultdict(list)
    for profile, replica in wanted:
        waiting[profile].append(replica)
    found: Wanted = {}
    rest = []
    for place in placements:
        if place in now and now[place] in waiting[place.profile]:
            waiting[place.profile].remove(now[place])
            found[place] = now[place]
        else:
            rest.append(place)
    for place in rest:
        found[place] = waiting[place.profile].pop()
    return found


@lru_cache(maxsize=4096)
def _layouts(gpu: GpuModel, profiles: tuple[str, ...]) -> tuple[frozenset[Placement], ...]:
    """Return the legal layouts with just these profiles, in the order in which plans prefer them."""
    plain = gpu.with_plain(profiles)
    counts = tuple(profiles.count(profile.name) for profile in plain.profiles)
    return tuple(frozenset(layout.placements) for layout in layouts_of(plain, counts))
