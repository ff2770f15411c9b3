"""The schedule: steps from what runs to what is wanted, each legal and safe after those before it.

The steps are simulated: each begins as soon as floors, slices and GPUs allow it. Where no step can begin because
every blocking replica is needed, temporary replicas stand in, or an empty GPU takes all that another was to hold.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

from partita.mig.layout import Placement
from partita.transition.deployment import DeployedInstance, Deployment
from partita.transition.nearest import conflict, legal, rules
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from partita.transition.deployment import Replica
    from partita.transition.nearest import Wanted
    from partita.transition.transition import Request


# --- steps in sequence: what algorithms make, before `relax` turns them into a graph


@dataclass(frozen=True, slots=True)
class Step:
    """An action without its place in a graph."""

    kind: ActionKind
    gpu: str
    placement: Placement
    replica: Replica | None = None


def create(gpu: str, placement: Placement) -> Step:
    """Return the step that makes an instance."""
    return Step(ActionKind.CREATE_INSTANCE, gpu, placement)


def destroy(gpu: str, placement: Placement) -> Step:
    """Return the step that destroys an instance."""
    return Step(ActionKind.DESTROY_INSTANCE, gpu, placement)


def start(gpu: str, placement: Placement, replica: Replica) -> Step:
    """Return the step that starts a replica."""
    return Step(ActionKind.START_REPLICA, gpu, placement, replica)


def stop(gpu: str, placement: Placement, replica: Replica) -> Step:
    """Return the step that drains and stops a replica."""
    return Step(ActionKind.STOP_REPLICA, gpu, placement, replica)


def outcome(current: Deployment, steps: Iterable[Step]) -> Deployment:
    """Return what runs after the steps."""
    there = {(gpu.id, each.placement): each for gpu in current.gpus for each in gpu.instances}
    for step in steps:
        key = (step.gpu, step.placement)
        if step.kind is ActionKind.DESTROY_INSTANCE:
            del there[key]
        else:
            replica = step.replica if step.kind is ActionKind.START_REPLICA else None
            there[key] = DeployedInstance(step.placement, replica)
    on: dict[str, list[DeployedInstance]] = {gpu.id: [] for gpu in current.gpus}
    for (gpu_id, _), each in there.items():
        on[gpu_id].append(each)
    return Deployment(
        tuple(
            replace(gpu, instances=tuple(sorted(on[gpu.id], key=lambda each: each.placement)))
            for gpu in current.gpus
        )
    )


# --- what must go and what must come


@dataclass(slots=True, eq=False)
class OldInstance:
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
class NewInstance:
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
    blockers: list[OldInstance] = field(default_factory=list)
    goes_again: OldInstance | None = None
    begun: bool = False


def differences(
    request: Request, wanted: Mapping[str, Wanted]
) -> tuple[list[OldInstance], list[NewInstance]]:
    """Return what must go and what must come to have what is wanted on every GPU."""
    olds: list[OldInstance] = []
    news: list[NewInstance] = []
    for gpu in request.current.gpus:
        now = {each.placement: each.replica for each in gpu.instances if not each.fixed}
        then = wanted[gpu.id]
        mine_old = [
            OldInstance(gpu.id, place, replica, destroyed=place not in then)
            for place, replica in now.items()
            if place not in then or (replica is not None and replica != then[place])
        ]
        mine_new = [
            NewInstance(gpu.id, place, replica, made=place not in now)
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
    request: Request, model: str, new: NewInstance, olds: list[OldInstance], then: frozenset[Placement]
) -> list[OldInstance]:
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


# --- the schedule

_PATIENCE = 3
"""Most times that a deadlock is resolved, per instance that comes or goes."""


class StuckError(Exception):
    """No step can begin: each one left would break a floor or the budget."""


def order(
    request: Request,
    wanted: Mapping[str, Wanted],
    shake: random.Random | None,
    *,
    extra_first: bool,
    stand_ins_first: bool = False,
) -> list[Step]:
    """Return a legal and safe sequence of steps to what is wanted.

    New replicas come as soon as there is room. Old ones go as soon as their service can spare them: first those that
    block the new replicas of a service short of throughput, last those that block nothing.

    Args:
        request: what was asked.
        wanted: what each physical GPU is to hold.
        shake: random numbers that vary the priorities; None for no variation.
        extra_first: use GPUs left in the budget before waiting for room.
        stand_ins_first: use temporary replicas before waiting for lasting ones.

    Raises:
        StuckError: no step was found that keeps floors and budget.
    """
    cluster = ScheduleSimulation(request, wanted)
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
            raise StuckError
        else:
            patience -= 1


def _come(cluster: ScheduleSimulation) -> None:
    for new in [each for each in cluster.news if not each.begun and not each.blockers]:
        if cluster.can_open(new.gpu):
            cluster.come(new)


def _make_way(cluster: ScheduleSimulation, shake: random.Random | None) -> None:
    """Stop what blocks new replicas, where floors allow all that one of them needs."""
    short = shortage(cluster)
    waiting = [each for each in cluster.news if each.blockers and not each.begun]

    def urgency(new: NewInstance) -> float:
        services = [service for service, _ in new.replica.serves] if new.replica else []
        cost = sum(1.0 for old in new.blockers if not old.begun)
        value = max((short.get(service, 0.0) for service in services), default=0.0) - 0.01 * cost
        return value + (shake.random() if shake else 0.0)

    for new in sorted(waiting, key=urgency, reverse=True):
        blocking = [old for old in new.blockers if not old.begun]
        if cluster.can_go(blocking):
            for old in sorted(blocking, key=lambda old: old.placement):
                cluster.go(old)


def shortage(cluster: ScheduleSimulation) -> dict[str, float]:
    """Return, by service, the share of the throughput to be stopped that it cannot spare yet."""
    must: dict[str, float] = defaultdict(float)
    for old in dict.fromkeys(old for new in cluster.news for old in new.blockers if not old.begun):
        for service, throughput in old.replica.serves if old.replica is not None else ():
            must[service] += throughput
    return {name: max(0.0, 1.0 - cluster.spare(name) / amount) for name, amount in must.items() if amount > 0}


def _close(cluster: ScheduleSimulation) -> None:
    """Empty GPUs that get nothing new, where other GPUs wait for the budget."""
    waiting = {new.gpu for new in cluster.news if not new.begun and not new.blockers}
    missing = len(waiting) - (cluster.budget - len(cluster.in_use))
    if missing <= 0:
        return
    coming = {new.gpu for new in cluster.news}
    per_gpu: dict[str, list[OldInstance]] = defaultdict(list)
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


def _go(cluster: ScheduleSimulation) -> None:
    """Stop what blocks nothing, as far as its service can spare it beyond what blocks others."""
    needed = dict.fromkeys(old for new in cluster.news for old in new.blockers if not old.begun)
    reserve: dict[str, float] = defaultdict(float)
    for old in needed:
        for service, throughput in old.replica.serves if old.replica is not None else ():
            reserve[service] += throughput
    for old in [each for each in cluster.olds if not each.begun and each.there and each not in needed]:
        if old.replica is None or all(
            throughput + reserve[service] <= cluster.spare(service)
            for service, throughput in old.replica.serves
        ):
            cluster.go(old)


# --- the cluster while steps are simulated


class ScheduleSimulation:
    """The instances and replicas now, and those to come and to go, on a simulated clock.

    Attributes:
        wanted: what each GPU is to hold.
        olds: what is to go.
        news: what is to come.
        running: the instances on each GPU, fixed ones included.
        leaving: GPUs that must become empty.
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
        self.leaving = {gpu.id for gpu in request.current.gpus if gpu.leaving}
        self.running: dict[str, Wanted] = {
            gpu.id: {each.placement: each.replica for each in gpu.instances} for gpu in request.current.gpus
        }
        self.in_use = {name for name, there in self.running.items() if there}
        self.budget = request.gpu_budget
        self.ready: dict[str, float] = defaultdict(float, request.current.capacity())
        self.steps: list[Step] = []
        self._coming = Counter(new.gpu for new in news)
        self._behind: dict[OldInstance, list[NewInstance]] = defaultdict(list)
        for new in news:
            for old in new.blockers:
                self._behind[old].append(new)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = count()

    @property
    def idle(self) -> bool:
        """Whether no step is in progress."""
        return not self._events

    def advance(self) -> None:
        """Advance the clock to the next end of a step."""
        self._now = self._events[0][0]
        while self._events and self._events[0][0] <= self._now:
            heapq.heappop(self._events)[2]()

    def spare(self, service: str) -> float:
        """Return what a service has beyond its floor, in items/s."""
        if service not in self.floors:
            return float("inf")
        floor = self.floors[service]
        return self.ready[service] - floor + 1e-9 * max(1.0, floor)

    def can_go(self, olds: Iterable[OldInstance]) -> bool:
        """Say whether all of these may stop now."""
        need: dict[str, float] = defaultdict(float)
        for old in olds:
            if not old.there:
                return False
            for service, throughput in old.replica.serves if old.replica is not None else ():
                need[service] += throughput
        return all(amount <= self.spare(service) for service, amount in need.items())

    def can_open(self, gpu: str) -> bool:
        """Say whether an instance may be made on a GPU without going over the budget."""
        return gpu in self.in_use or len(self.in_use) < self.budget

    def fits(self, gpu: str, placement: Placement) -> bool:
        """Return whether an instance may be made beside those on the GPU."""
        model = rules(self.models[gpu], self.request.forbid)
        there = self.running[gpu]
        return placement not in there and legal(model, frozenset((*there, placement)))

    def go(self, old: OldInstance) -> None:
        """Begin to stop and destroy."""
        old.begun = True
        if old.replica is None:
            self._stopped(old)
            return
        for service, throughput in old.replica.serves:
            self.ready[service] -= throughput
        self._after(stop(old.gpu, old.placement, old.replica), lambda: self._stopped(old))

    def come(self, new: NewInstance) -> None:
        """Begin to create and start."""
        new.begun = True
        self.in_use.add(new.gpu)
        if new.made:
            self.running[new.gpu][new.placement] = None
            self._after(create(new.gpu, new.placement), lambda: self._made(new))
        else:
            self._made(new)

    def expect(self, new: NewInstance) -> None:
        """Add what is to come."""
        self.news[new] = None
        self._coming[new.gpu] += 1

    def wait_for(self, new: NewInstance, old: OldInstance) -> None:
        """Make a new instance wait for an old one to go."""
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

    def _stopped(self, old: OldInstance) -> None:
        self.running[old.gpu][old.placement] = None
        if old.destroyed:
            self._after(destroy(old.gpu, old.placement), lambda: self._gone(old))
        else:
            self._gone(old)

    def _gone(self, old: OldInstance) -> None:
        del self.olds[old]
        for new in self._behind.pop(old, []):
            new.blockers.remove(old)
        if old.destroyed:
            del self.running[old.gpu][old.placement]
            if not self.running[old.gpu] and not self._coming[old.gpu]:
                self.in_use.discard(old.gpu)

    def _made(self, new: NewInstance) -> None:
        if new.replica is None:
            self._arrived(new)
        else:
            self._after(start(new.gpu, new.placement, new.replica), lambda: self._arrived(new))

    def _arrived(self, new: NewInstance) -> None:
        del self.news[new]
        self._coming[new.gpu] -= 1
        self.running[new.gpu][new.placement] = new.replica
        if new.replica is not None:
            for service, throughput in new.replica.serves:
                self.ready[service] += throughput
        if new.goes_again is not None:
            new.goes_again.there = True
            self.olds[new.goes_again] = None


def unstick(cluster: ScheduleSimulation, *, extra_first: bool) -> bool:
    """Change what is to come and to go so that a step can begin; return whether that was possible.

    Either temporary replicas stand in while old ones are replaced, in free slices of GPUs in use or, if the
    budget has one, on another GPU; or all that a GPU is to hold goes to an empty GPU instead, and the GPU is
    given up.

    Args:
        cluster: one in which no step is in progress and none can begin.
        extra_first: use another GPU even if free slices would do.
    """
    steps = [_move_to_empty, stand_in] if extra_first else [stand_in, _move_to_empty]
    return any(step(cluster) for step in steps) or stand_in(cluster, open_gpus=True)


def _move_to_empty(cluster: ScheduleSimulation) -> bool:
    found = min(_movable(cluster), default=None)
    if found is None:
        return False
    _move(cluster, found[2], found[3])
    return True


def spread(cluster: ScheduleSimulation, shake: random.Random | None) -> None:
    """Use empty GPUs in place of those on which nothing stays, as many as the budget allows.

    No replica loses its place by it, and nothing waits for blocking instances to go.
    """
    while found := [each for each in _movable(cluster) if each[0] == 0]:
        _, _, gpu, empty = shake.choice(found) if shake else min(found)
        _move(cluster, gpu, empty)


def _movable(cluster: ScheduleSimulation) -> list[tuple[int, int, str, str]]:
    """Return the GPUs whose wanted content an empty GPU could take, if the budget allows one more.

    Returns:
        Replicas that would lose their place, how many instances wait (negative), the GPU, and the empty one.
    """
    taken = cluster.in_use | {new.gpu for new in cluster.news}
    if len(taken) >= cluster.budget:
        return []
    empty: dict[str, str] = {}
    for name, model in cluster.models.items():
        if name not in taken and name not in cluster.leaving:
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


def _move(cluster: ScheduleSimulation, gpu: str, empty: str) -> None:
    cluster.forget(gpu)
    cluster.wanted[empty], cluster.wanted[gpu] = cluster.wanted[gpu], {}
    for place, replica in cluster.running[gpu].items():
        cluster.olds[OldInstance(gpu, place, replica, destroyed=True)] = None
    for place, replica in cluster.wanted[empty].items():
        cluster.expect(NewInstance(empty, place, replica, made=True))


_LOOKED_AT = 40
"""Waiting instances that are considered at a time."""


@dataclass(frozen=True, slots=True)
class _Spot:
    gpu: str
    placement: Placement
    replica: Replica


def stand_in(cluster: ScheduleSimulation, *, open_gpus: bool = False) -> bool:
    """Add the temporary replicas that free the way for one waiting instance, the one that needs the fewest.

    Args:
        cluster: one in which no step is in progress.
        open_gpus: allow GPUs that are not in use.

    Returns:
        Whether there was room.
    """
    search = _Search(cluster, open_gpus=open_gpus, blocking=True)
    found = [spots for new in _waiting(cluster) if (spots := search.spots_for(new))]
    if not found:
        return False
    search.add(min(found, key=len))
    return True


def stand_in_for_all(cluster: ScheduleSimulation) -> None:
    """Add temporary replicas for all waiting instances for which the new replicas to come are not enough.

    They go only where they block nothing: more actions, in less time.
    """
    search = _Search(cluster, open_gpus=True, blocking=False)
    for new in cluster.news:
        if new.replica is not None and not new.blockers:
            for service, throughput in new.replica.serves:
                search.spare[service] += throughput
    for new in _waiting(cluster):
        if spots := search.spots_for(new):
            search.add(spots)
        if spots is not None:
            search.spend(new)


def _waiting(cluster: ScheduleSimulation) -> list[NewInstance]:
    waiting = [
        new
        for new in cluster.news
        if not new.begun and new.blockers and all(old.there for old in new.blockers)
    ]
    return sorted(waiting, key=lambda new: len(new.blockers))[:_LOOKED_AT]


class _Search:
    """Looks for room for temporary replicas.

    Attributes:
        spare: items/s that each service is assumed to have beyond its floor.
    """

    def __init__(self, cluster: ScheduleSimulation, *, open_gpus: bool, blocking: bool) -> None:
        self._cluster = cluster
        self._blocking = blocking
        self._templates = known_replicas(cluster.request)
        self._taken: dict[str, list[Placement]] = defaultdict(list)
        self._spent: set[OldInstance] = set()
        self._coming: dict[str, list[NewInstance]] = defaultdict(list)  # by GPU
        for new in cluster.news:
            self._coming[new.gpu].append(new)
        self._order = {gpu: index for index, gpu in enumerate(cluster.models)}
        self._touched = [gpu for gpu in cluster.models if gpu in cluster.in_use or gpu in self._coming]
        self._empty: dict[str, list[str]] = defaultdict(list)  # by model
        for gpu, model in cluster.models.items():
            if gpu not in cluster.in_use and gpu not in self._coming and gpu not in cluster.leaving:
                self._empty[model].append(gpu)
        self._openable = cluster.budget - len(cluster.in_use | self._coming.keys()) if open_gpus else 0
        self.spare = {service: cluster.spare(service) for service in {s for _, s in self._templates}}

    def spots_for(self, new: NewInstance) -> list[_Spot] | None:
        """Return temporary replicas that let all that blocks an instance go; None if there is no room."""
        chosen: list[_Spot] = []
        for service, amount in self._needs(new).items():
            still = amount - self.spare[service] - sum(_given(each.replica, service) for each in chosen)
            while still > 0:
                gpus = self._gpus(len(chosen) + 1)
                spots = [spot for spot in self._spots(service, gpus) if self._beside(spot, chosen, new)]
                if not spots:
                    return None
                chosen.append(_best(spots, service, still))
                still -= _given(chosen[-1].replica, service)
        return chosen

    def _needs(self, new: NewInstance) -> dict[str, float]:
        needs: dict[str, float] = defaultdict(float)
        for old in new.blockers:
            if old.replica is not None and not old.begun and old not in self._spent:
                for service, throughput in old.replica.serves:
                    needs[service] += throughput
        return needs

    def spend(self, new: NewInstance) -> None:
        """Count what blocks an instance as gone."""
        for service, amount in self._needs(new).items():
            self.spare[service] -= amount
        self._spent.update(new.blockers)

    def add(self, spots: Sequence[_Spot]) -> None:
        """Add temporary replicas; instances that they block wait for them to go."""
        for spot in spots:
            if self._unused(spot.gpu):
                self._openable -= 1
            empty = self._empty[self._cluster.models[spot.gpu]]
            if spot.gpu in empty:
                empty.remove(spot.gpu)
                self._touched.append(spot.gpu)
            self._taken[spot.gpu].append(spot.placement)
            for service, throughput in spot.replica.serves:
                self.spare[service] += throughput
            leaves = OldInstance(spot.gpu, spot.placement, spot.replica, destroyed=True, there=False)
            for new in self._behind(spot):
                self._cluster.wait_for(new, leaves)
            comes = NewInstance(spot.gpu, spot.placement, spot.replica, made=True, goes_again=leaves)
            self._coming[spot.gpu].append(comes)
            self._cluster.expect(comes)

    def _unused(self, gpu: str) -> bool:
        return gpu not in self._cluster.in_use and not self._taken[gpu]

    def _gpus(self, empty: int) -> list[str]:
        """Return all GPUs with instances now or later, and `empty` others of each model, all interchangeable."""
        found = self._touched.copy()
        if self._openable > 0:
            for gpus in self._empty.values():
                found += gpus[:empty]
        return sorted(found, key=self._order.__getitem__)

    def _spots(self, service: str, gpus: Iterable[str]) -> Iterator[_Spot]:
        """Yield where a replica of a service could stand; where it blocks nothing, if there is such room."""
        waiting = []
        for gpu in gpus:
            model = self._cluster.models[gpu]
            if gpu in self._cluster.leaving or (self._unused(gpu) and self._openable <= 0):
                continue
            for profile, replica in self._templates.get((model, service), []):
                for begin in rules(model, self._cluster.request.forbid).profile(profile).starts:
                    spot = _Spot(gpu, Placement(begin, profile), replica)
                    if self._cluster.fits(gpu, spot.placement):
                        if not self._behind(spot):
                            yield spot
                        elif self._blocking:
                            waiting.append(spot)
        yield from waiting

    def _beside(self, spot: _Spot, chosen: Sequence[_Spot], new: NewInstance) -> bool:
        """Return whether a spot conflicts neither with those chosen nor with the new instance."""
        model = rules(self._cluster.models[spot.gpu], self._cluster.request.forbid)
        taken = [*self._taken[spot.gpu], *(each.placement for each in chosen if each.gpu == spot.gpu)]
        if new.gpu == spot.gpu:
            taken.append(new.placement)
        if self._unused(spot.gpu):
            opened = {each.gpu for each in chosen if self._unused(each.gpu)}
            if spot.gpu not in opened and len(opened) >= self._openable:
                return False
        return not any(conflict(model, spot.placement, placement) for placement in taken)

    def _behind(self, spot: _Spot) -> list[NewInstance]:
        """Return the new instances that would have to wait for a replica there."""
        model = rules(self._cluster.models[spot.gpu], self._cluster.request.forbid)
        return [
            new
            for new in self._coming.get(spot.gpu, ())
            if new.made and not new.begun and conflict(model, new.placement, spot.placement)
        ]


def _best(spots: Sequence[_Spot], service: str, lacking: float) -> _Spot:
    """Return the smallest replica that gives a service enough, or else the largest."""
    enough = [spot for spot in spots if _given(spot.replica, service) >= lacking]
    if enough:
        return min(enough, key=lambda spot: _given(spot.replica, service))
    return max(spots, key=lambda spot: _given(spot.replica, service))


def _given(replica: Replica, service: str) -> float:
    return sum(throughput for name, throughput in replica.serves if name == service)


def known_replicas(request: Request) -> dict[tuple[str, str], list[tuple[str, Replica]]]:
    """Return the profile and replica of each way in which a service runs on a GPU model, the largest first."""
    found: dict[tuple[str, str], dict[tuple[str, Replica], None]] = defaultdict(dict)
    for deployment in (request.current, request.target):
        for gpu in deployment.gpus:
            for each in gpu.instances:
                if each.replica is not None:
                    for service, _ in each.replica.serves:
                        found[gpu.model, service][each.placement.profile, each.replica] = None
    return {
        key: sorted(pairs, key=lambda pair: (-_given(pair[1], key[1]), pair[0], str(pair[1])))
        for key, pairs in found.items()
    }
