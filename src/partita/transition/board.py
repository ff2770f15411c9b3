"""A deployment that steps are played on one by one, each at once."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from partita.mig.layout import Placement
from partita.transition.geometry import conflict, legal, rules
from partita.transition.steps import create, destroy, start, stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from partita.transition.deployment import Replica
    from partita.transition.fit import Wanted
    from partita.transition.steps import Step
    from partita.transition.transition import Request

Spot = tuple[str, Placement]


class NoSpotError(Exception):
    """There is no room for an instance within the budget."""


class Board:
    """What stands after the steps so far. A stopped replica leaves an idle instance until its slices are wanted.

    Attributes:
        there: replicas by GPU and placement, fixed instances left out; None on idle instances.
        steps: the steps so far.
        after: further steps that a step waits for, by index.
        closed: GPUs on which nothing is put any more.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._models = {gpu.id: gpu.model for gpu in request.current.gpus}
        self._fixed = {
            gpu.id: frozenset(each.placement for each in gpu.instances if each.fixed)
            for gpu in request.current.gpus
        }
        self.there: dict[str, Wanted] = {
            gpu.id: {each.placement: each.replica for each in gpu.instances if not each.fixed}
            for gpu in request.current.gpus
        }
        self.steps: list[Step] = []
        self.after: dict[int, set[int]] = defaultdict(set)
        self.closed: set[str] = set()

    def model(self, gpu: str) -> str:
        """Return the model of a GPU."""
        return self._models[gpu]

    def in_use(self, gpu: str) -> bool:
        """Say whether a GPU has any instance."""
        return bool(self.there[gpu] or self._fixed[gpu])

    @property
    def can_open(self) -> bool:
        """Whether one more GPU may come into use."""
        return sum(map(self.in_use, self.there)) < self._request.gpu_budget

    def replicas(self) -> Iterator[tuple[Spot, Replica]]:
        """Yield the replicas on GPUs that are not closed."""
        for gpu, there in self.there.items():
            if gpu not in self.closed:
                for placement, replica in there.items():
                    if replica is not None:
                        yield (gpu, placement), replica

    def spot(self, model: str, profile: str, near: str, without: Iterable[str] = ()) -> Spot:
        """Return where an instance of a profile can come, on the same node if possible.

        First an idle instance of the profile, then free slices, then slices of idle instances, last an empty GPU.

        Raises:
            NoSpotError: there is none within the budget.
        """
        avoid = {*without, *self.closed}
        node = near.rpartition("/")[0]
        gpus = [gpu for gpu, its in self._models.items() if its == model and gpu not in avoid]
        gpus.sort(key=lambda gpu: gpu.rpartition("/")[0] != node)
        used = [gpu for gpu in gpus if self.in_use(gpu)]
        starts = rules(model, self._request.forbid).profile(profile).starts
        places = [Placement(begin, profile) for begin in starts]
        for free in (self._idle, self._free, self._idle_room):
            for gpu in used:
                for place in places:
                    if free(gpu, place):
                        return gpu, place
        empty = [gpu for gpu in gpus if not self.in_use(gpu)]
        if empty and self.can_open:
            return empty[0], places[0]
        raise NoSpotError

    def _idle(self, gpu: str, place: Placement) -> bool:
        return place in self.there[gpu] and self.there[gpu][place] is None

    def _free(self, gpu: str, place: Placement) -> bool:
        standing = frozenset(self.there[gpu]) | self._fixed[gpu]
        return place not in standing and legal(
            rules(self._models[gpu], self._request.forbid), standing | {place}
        )

    def _idle_room(self, gpu: str, place: Placement) -> bool:
        busy = (
            frozenset(p for p, replica in self.there[gpu].items() if replica is not None) | self._fixed[gpu]
        )
        return place not in busy and legal(rules(self._models[gpu], self._request.forbid), busy | {place})

    def put(self, spot: Spot, replica: Replica | None) -> int | None:
        """Bring a replica up, on a new instance if there is none; return the index of its start."""
        gpu, place = spot
        if place not in self.there[gpu]:
            self._clear(gpu, place)
            self.steps.append(create(gpu, place))
        self.there[gpu][place] = replica
        if replica is None:
            return None
        self.steps.append(start(gpu, place, replica))
        return len(self.steps) - 1

    def _clear(self, gpu: str, place: Placement) -> None:
        """Destroy the idle instances that a new one cannot stand beside."""
        rule = rules(self._models[gpu], self._request.forbid)
        idle = [p for p, replica in self.there[gpu].items() if replica is None]
        for each in idle:
            if conflict(rule, each, place):
                self.destroy((gpu, each))
        if not legal(rule, frozenset(self.there[gpu]) | self._fixed[gpu] | {place}):
            for each in [p for p, replica in self.there[gpu].items() if replica is None]:
                self.destroy((gpu, each))

    def take(self, spot: Spot, after: Iterable[int | None] = ()) -> None:
        """Stop a replica once these steps have ended."""
        gpu, place = spot
        replica = self.there[gpu][place]
        if replica is not None:
            self.after[len(self.steps)] |= {i for i in after if i is not None}
            self.steps.append(stop(gpu, place, replica))
            self.there[gpu][place] = None

    def destroy(self, spot: Spot) -> None:
        """Destroy an idle instance."""
        gpu, place = spot
        self.steps.append(destroy(gpu, place))
        del self.there[gpu][place]
