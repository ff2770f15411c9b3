"""MIG-Serving's transition: exchange and compact (arXiv 2109.11067, section 6)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError, InputError, counted
from partita.mig.layout import Placement
from partita.transition.nearest import conflict, content, fit, legal, nearest, rules
from partita.transition.relax import relax
from partita.transition.schedule import create, destroy, start, stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from partita.transition.deployment import DeployedGpu, Deployment, Replica
    from partita.transition.nearest import Content, Fit, Wanted
    from partita.transition.schedule import Step
    from partita.transition.transition import Request, Transition


_Kind = tuple[str, str, "Replica"]  # model of GPU, profile, replica


@dataclass(frozen=True, slots=True)
class ExchangeCompact:
    """First exchange instances service by service, then compact them into the wanted GPUs.

    Exchange creates each service's new instances, wherever there is room, and removes its old ones. Compact moves
    together what belongs on one GPU. Where the paper leaves a choice, the first option found is taken, within the
    node if possible. It keeps the floors: a new instance is paired with old ones of at most its own throughput and is
    ready before they stop; surplus instances stop last.

    Attributes:
        one_per_gpu: run actions side by side only on separate GPUs, as in the paper; else whenever neither waits for
            the other.
    """

    one_per_gpu: bool = True

    def transition(self, request: Request) -> Transition:
        """Return the transition.

        Raises:
            InfeasibleError: the budget is too small; the error says the smallest that is enough.
            InputError: the target has a fixed instance that does not run, or services share an instance.
        """
        _refuse_sharing(request)
        nearest(request)  # raises where no transition can reach the target
        found = self._within(request)
        if found is None:
            raise self._refusal(request)
        return found

    def _within(self, request: Request) -> Transition | None:
        working = WorkingDeployment(request)
        try:
            _exchange(working, request)
            _compact(working, request)
        except NoSpotError:
            return None
        return relax(
            request, working.steps, "exchange-compact", after=working.after, one_per_gpu=self.one_per_gpu
        )

    def _refusal(self, request: Request) -> InfeasibleError:
        least = max(request.current.used, request.target.used)
        for extra in range(request.gpu_budget - least + 1, len(request.current.gpus) - least + 1):
            if self._within(replace(request, extra_gpus=extra)) is not None:
                return InfeasibleError(
                    f"exchange and compact needs {extra} extra GPUs, and may use {request.gpu_budget - least}",
                    where="extra_gpus",
                    hint=f"allow {extra} extra GPUs, or use the algorithm `shortest`",
                )
        return InfeasibleError(
            f"exchange and compact finds no transition on the {counted(len(request.current.gpus), 'GPU')} there are",
            where="extra_gpus",
            hint="use the algorithm `shortest`, or add GPUs",
        )


def _refuse_sharing(request: Request) -> None:
    """Refuse deployments in which services share instances: services are exchanged one after the other."""
    for deployment in (request.current, request.target):
        for gpu in deployment.gpus:
            for each in gpu.instances:
                if each.replica is not None and each.replica.tenants:
                    raise InputError(
                        f"exchange and compact moves one service at a time, and {each.replica.service} share one",
                        where=f"{gpu.id} {each.placement}",
                        hint="use the algorithm `shortest`",
                    )


def _kinds(deployment: Deployment) -> Iterator[_Kind]:
    for gpu in deployment.gpus:
        for each in gpu.instances:
            if each.replica is not None and not each.fixed:
                yield gpu.model, each.placement.profile, each.replica


def _exchange(working: WorkingDeployment, request: Request) -> None:
    """Give each service the instances it is to have, one service after the other."""
    now, then = Counter(_kinds(request.current)), Counter(_kinds(request.target))
    adds: dict[str, list[_Kind]] = defaultdict(list)
    for kind in (then - now).elements():
        adds[kind[2].service].append(kind)
    drops: dict[str, list[tuple[Spot, Replica]]] = defaultdict(list)
    surplus = now - then
    for (gpu, place), replica in list(working.replicas()):
        kind = (working.model(gpu), place.profile, replica)
        if surplus[kind] > 0:
            surplus[kind] -= 1
            drops[replica.service].append(((gpu, place), replica))
    for service in dict.fromkeys([*adds, *drops]):
        _exchange_one(working, adds[service], drops[service])


def _exchange_one(working: WorkingDeployment, adds: list[_Kind], drops: list[tuple[Spot, Replica]]) -> None:
    adds.sort(key=lambda kind: -kind[2].throughput)
    drops.sort(key=lambda drop: -drop[1].throughput)
    started: list[int | None] = []
    unpaired: list[_Kind] = []
    for model, profile, replica in adds:
        room, paired = replica.throughput, []
        for drop in list(drops):
            if drop[1].throughput <= room:
                room -= drop[1].throughput
                paired.append(drop)
                drops.remove(drop)
        if not paired:
            unpaired.append((model, profile, replica))
            continue
        started.append(working.put(working.spot(model, profile, paired[0][0][0]), replica))
        for spot, _ in paired:
            working.take(spot, started[-1:])
    started += [
        working.put(working.spot(model, profile, ""), replica) for model, profile, replica in unpaired
    ]
    for spot, _ in drops:
        working.take(spot, started)


def _compact(working: WorkingDeployment, request: Request) -> None:
    """Make the wanted GPUs one by one, the one that is nearest to done first."""
    gpus = {gpu.id: gpu for gpu in request.current.gpus}
    goals = [(gpu.model, content(gpu)) for gpu in request.target.gpus]
    goals = [goal for goal in goals if goal[1]]
    while goals:
        for goal, gpu, found in _candidates(working, request, gpus, goals):
            saved = len(working.steps), {name: dict(there) for name, there in working.there.items()}
            try:
                _make(working, gpu, found)
            except NoSpotError:
                del working.steps[saved[0] :]
                working.there = saved[1]
                working.after = defaultdict(set, {i: a for i, a in working.after.items() if i < saved[0]})
                continue
            goals.remove(goal)
            working.closed.add(gpu)
            break
        else:
            raise NoSpotError
    for gpu, there in working.there.items():
        if gpu not in working.closed:
            for place in list(there):
                working.destroy((gpu, place))


def _candidates(
    working: WorkingDeployment,
    request: Request,
    gpus: dict[str, DeployedGpu],
    goals: list[tuple[str, Content]],
) -> Iterator[tuple[tuple[str, Content], str, Fit]]:
    """Yield goals with GPUs that could become them, those with most in place first."""
    open_gpus = [gpu for gpu in working.there if gpu not in working.closed | working.leaving]
    held = {gpu: _held(working, gpu) for gpu in open_gpus}
    can_open = working.can_open
    opens = {gpu: not working.in_use(gpu) for gpu in open_gpus}
    ranked: list[tuple[int, int, bool, int, tuple[str, Content], str]] = []
    for goal in dict.fromkeys(goals):
        wanted = Counter(goal[1])
        for gpu in open_gpus:
            if working.model(gpu) != goal[0] or (opens[gpu] and not can_open):
                continue
            total = held[gpu].total()
            kept = sum(min(n, held[gpu][pair]) for pair, n in wanted.items()) if total else 0
            ranked.append((-kept, total - kept, opens[gpu], len(ranked), goal, gpu))
    empties = 0
    for *_, opened, _, goal, gpu in sorted(ranked, key=lambda each: each[:4]):
        empties += opened
        if opened and empties > len(goals):
            continue
        found = fit(rules(goal[0], request.forbid), gpus[gpu], goal[1], working.there[gpu])
        if found is not None:
            yield goal, gpu, found


def _held(working: WorkingDeployment, gpu: str) -> Counter[tuple[str, Replica | None]]:
    return Counter((place.profile, replica) for place, replica in working.there[gpu].items() if replica)


def _make(working: WorkingDeployment, gpu: str, found: Fit) -> None:
    """Give a GPU its wanted content: move away what does not belong there, then bring what does."""
    wanted = found.wanted
    for place, replica in list(working.there[gpu].items()):
        if replica is not None and wanted.get(place) != replica:
            spot = working.spot(working.model(gpu), place.profile, gpu, without=[gpu])
            working.take((gpu, place), [working.put(spot, replica)])
    for place in [place for place in working.there[gpu] if place not in wanted]:
        working.destroy((gpu, place))
    for place, replica in wanted.items():
        if place in working.there[gpu] and working.there[gpu][place] == replica:
            continue
        started = working.put((gpu, place), replica)
        if replica is not None:
            working.take(_source(working, gpu, place.profile, replica), [started])


def _source(working: WorkingDeployment, gpu: str, profile: str, replica: Replica) -> Spot:
    """Return where an equal replica runs on a GPU that is not done, on the same node if possible."""
    node = gpu.rpartition("/")[0]
    found = [
        spot
        for spot, each in working.replicas()
        if each == replica
        and spot[0] != gpu
        and spot[1].profile == profile
        and working.model(spot[0]) == working.model(gpu)
    ]
    return min(found, key=lambda spot: spot[0].rpartition("/")[0] != node)


Spot = tuple[str, Placement]


class NoSpotError(Exception):
    """There is no room for an instance within the budget."""


class WorkingDeployment:
    """The deployment after the steps so far. A stopped replica leaves an idle instance until its slices are needed.

    Attributes:
        there: replicas by GPU and placement, fixed instances left out; None on idle instances.
        steps: the steps so far.
        after: further steps that a step waits for, by index.
        closed: GPUs that have their final content.
        leaving: GPUs that must become empty.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._models = {gpu.id: gpu.model for gpu in request.current.gpus}
        self.leaving = {gpu.id for gpu in request.current.gpus if gpu.leaving}
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
        """Return where an instance of a profile can be created, on the same node if possible.

        First an idle instance of the profile, then free slices, then slices of idle instances, last an empty GPU.

        Raises:
            NoSpotError: there is none within the budget.
        """
        avoid = {*without, *self.closed, *self.leaving}
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
        """Start a replica, on a new instance if there is none; return the index of its start."""
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
