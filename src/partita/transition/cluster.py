"""The cluster while steps are simulated."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from itertools import count
from typing import TYPE_CHECKING

from partita.transition.geometry import legal, rules
from partita.transition.items import New, Old, differences
from partita.transition.steps import create, destroy, start, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from partita.mig.layout import Placement
    from partita.transition.fit import Wanted
    from partita.transition.steps import Step
    from partita.transition.transition import Request


class Cluster:
    """What stands, what is ready, what is to come and to go, on a simulated clock.

    Attributes:
        wanted: what each GPU is to hold.
        olds: what is to go.
        news: what is to come.
        running: what stands on each GPU, fixed instances included.
        steps: those that have begun, in their order.
    """

    def __init__(self, request: Request, wanted: Mapping[str, Wanted]) -> None:
        self.request = request
        self.wanted = dict(wanted)
        self.floors = request.floors
        olds, news = differences(request, wanted)
        self.olds = dict.fromkeys(olds)
        self.news = dict.fromkeys(news)
        self.models = {gpu.id: gpu.model for gpu in request.current.gpus}
        self.fixed = {gpu.id: {e.placement for e in gpu.instances if e.fixed} for gpu in request.current.gpus}
        self.running: dict[str, Wanted] = {
            gpu.id: {each.placement: each.replica for each in gpu.instances} for gpu in request.current.gpus
        }
        self.in_use = {name for name, there in self.running.items() if there}
        self.budget = request.gpu_budget
        self.ready: dict[str, float] = defaultdict(float, request.current.capacity())
        self.steps: list[Step] = []
        self._coming = Counter(new.gpu for new in news)
        self._behind: dict[Old, list[New]] = defaultdict(list)
        for new in news:
            for old in new.blockers:
                self._behind[old].append(new)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = count()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._events

    def advance(self) -> None:
        """Let time go on to the next moment at which something ends."""
        self._now = self._events[0][0]
        while self._events and self._events[0][0] <= self._now:
            heapq.heappop(self._events)[2]()

    def spare(self, service: str) -> float:
        """Return what a service has beyond its floor, in items/s."""
        if service not in self.floors:
            return float("inf")
        floor = self.floors[service]
        return self.ready[service] - floor + 1e-9 * max(1.0, floor)

    def can_go(self, olds: Iterable[Old]) -> bool:
        """Say whether all of these may stop now."""
        need: dict[str, float] = defaultdict(float)
        for old in olds:
            if not old.there:
                return False
            if old.replica is not None:
                need[old.replica.service] += old.replica.throughput
        return all(amount <= self.spare(service) for service, amount in need.items())

    def can_open(self, gpu: str) -> bool:
        """Say whether an instance may be made on a GPU without going over the budget."""
        return gpu in self.in_use or len(self.in_use) < self.budget

    def fits(self, gpu: str, placement: Placement) -> bool:
        """Say whether an instance may be made beside what stands."""
        model = rules(self.models[gpu], self.request.forbid)
        there = self.running[gpu]
        return placement not in there and legal(model, frozenset((*there, placement)))

    def go(self, old: Old) -> None:
        """Begin to stop and destroy."""
        old.begun = True
        if old.replica is None:
            self._stopped(old)
            return
        self.ready[old.replica.service] -= old.replica.throughput
        self._after(stop(old.gpu, old.placement, old.replica), lambda: self._stopped(old))

    def come(self, new: New) -> None:
        """Begin to create and start."""
        new.begun = True
        self.in_use.add(new.gpu)
        if new.made:
            self.running[new.gpu][new.placement] = None
            self._after(create(new.gpu, new.placement), lambda: self._made(new))
        else:
            self._made(new)

    def expect(self, new: New) -> None:
        """Add what is to come."""
        self.news[new] = None
        self._coming[new.gpu] += 1

    def wait_for(self, new: New, old: Old) -> None:
        """Let what is to come wait for what is to go."""
        new.blockers.append(old)
        self._behind[old].append(new)

    def forget(self, gpu: str) -> None:
        """Forget what is to come to a GPU and to go from it."""
        self.olds = {old: None for old in self.olds if old.gpu != gpu}
        self.news = {new: None for new in self.news if new.gpu != gpu}
        self._coming[gpu] = 0

    def _after(self, step: Step, then: Callable[[], None]) -> None:
        self.steps.append(step)
        end = self._now + self.request.durations.of(step.kind)
        heapq.heappush(self._events, (end, next(self._tie), then))

    def _stopped(self, old: Old) -> None:
        self.running[old.gpu][old.placement] = None
        if old.destroyed:
            self._after(destroy(old.gpu, old.placement), lambda: self._gone(old))
        else:
            self._gone(old)

    def _gone(self, old: Old) -> None:
        del self.olds[old]
        for new in self._behind.pop(old, []):
            new.blockers.remove(old)
        if old.destroyed:
            del self.running[old.gpu][old.placement]
            if not self.running[old.gpu] and not self._coming[old.gpu]:
                self.in_use.discard(old.gpu)

    def _made(self, new: New) -> None:
        if new.replica is None:
            self._arrived(new)
        else:
            self._after(start(new.gpu, new.placement, new.replica), lambda: self._arrived(new))

    def _arrived(self, new: New) -> None:
        del self.news[new]
        self._coming[new.gpu] -= 1
        self.running[new.gpu][new.placement] = new.replica
        if new.replica is not None:
            self.ready[new.replica.service] += new.replica.throughput
        if new.goes_again is not None:
            new.goes_again.there = True
            self.olds[new.goes_again] = None
