"""The default algorithm: most replicas stay, the rest move in the shortest time, with the fewest extra GPUs."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError, counted
from partita.mig.layout import Placement
from partita.transition.nearest import legal, nearest, rules
from partita.transition.relax import relax
from partita.transition.schedule import StuckError, create, destroy, order, start, stop
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.transition.deployment import DeployedGpu, Replica
    from partita.transition.nearest import Wanted
    from partita.transition.schedule import Step
    from partita.transition.transition import Request, Transition


_NAME = "shortest"

_ALWAYS = 4
"""Orders that are tried however large the transition is, if none before led to the target."""

_EFFORT = 15_000
"""Instances that all orders together may have: small transitions are tried often, the largest a few times."""


@dataclass(frozen=True, slots=True)
class Shortest:
    """Keeps the most replicas in place, then orders the rest for the shortest makespan.

    The target's layouts go onto the physical GPUs by assignment (`nearest.py`). A simulation (`schedule.py`) gives an
    order in which new replicas come as soon as there is room and old ones go as soon as they can be spared. It runs
    with varied priorities; where it finds no order, small cases are searched exhaustively (`search`). Last, the graph
    keeps only the edges that safety needs (`relax.py`). Extra GPUs are used where they shorten the transition, as few
    as possible.

    Attributes:
        seed: of the random numbers that vary the priorities.
        tries: most orders that are tried.
    """

    seed: int = 0
    tries: int = 24

    def transition(self, request: Request) -> Transition:
        """Return the transition that moves the fewest replicas, then is the shortest, of those found.

        Raises:
            InfeasibleError: the budget is too small; the error says the smallest that is enough.
            InputError: the target has a fixed instance that does not run.
        """
        wanted = nearest(request)
        best = self._best(request, wanted)
        if best is None:
            raise self._refusal(request, wanted)
        return best

    def _best(self, request: Request, wanted: dict[str, Wanted]) -> Transition | None:
        size = sum(len(gpu.instances) for gpu in request.current.gpus) + sum(map(len, wanted.values()))
        most = request.gpu_budget - _base(request)
        best: Transition | None = None
        for tried, (extra, number) in enumerate(_attempts(most, self.tries)):
            if tried * size > _EFFORT and (best is not None or tried >= _ALWAYS):
                break
            found = self._try(replace(request, extra_gpus=extra), wanted, number)
            if found is not None and (best is None or _rank(found) < _rank(best)):
                best = found
            if best is not None and best.makespan <= _one_wave(request):
                break
        if best is None and (steps := search(request)) is not None:
            best = relax(request, steps, _NAME)
        return best

    def _try(self, request: Request, wanted: dict[str, Wanted], number: int) -> Transition | None:
        shake = random.Random(self.seed * 1000 + number) if number > 1 else None
        if number % 8 > 3:
            wanted = nearest(request, shake)
        try:
            steps = order(
                request, wanted, shake, extra_first=bool(number % 2), stand_ins_first=number % 4 > 1
            )
        except StuckError:
            return None
        return relax(request, steps, _NAME)

    def _refusal(self, request: Request, wanted: dict[str, Wanted]) -> InfeasibleError:
        """Return the error that says the smallest budget that is enough, by bisection."""
        asked = request.gpu_budget - _base(request)
        low, high = asked, len(request.current.gpus) - _base(request)
        if low >= high or self._best(replace(request, extra_gpus=high), wanted) is None:
            return InfeasibleError(
                "no transition was found that keeps the floors on the "
                f"{counted(len(request.current.gpus), 'GPU')} there are",
                where="extra_gpus",
                hint="add a GPU, or lower the rates that must be kept",
            )
        while high - low > 1:
            middle = (low + high) // 2
            if self._best(replace(request, extra_gpus=middle), wanted) is None:
                low = middle
            else:
                high = middle
        return InfeasibleError(
            f"no transition keeps the floors with {asked} extra GPUs; {high} would do",
            where="extra_gpus",
            hint=f"allow {high} extra GPUs",
        )


def _base(request: Request) -> int:
    return max(request.current.used, request.target.used)


def _attempts(most: int, tries: int) -> Iterator[tuple[int, int]]:
    """Yield (extra GPUs, number of the try): first the ends of the budget without variation, then all between."""
    plain = [(0, 0), (most, 1), (0, 1), (most, 0)]
    steps = dict.fromkeys([0, *(1 << k for k in range(most.bit_length())), most])
    rest = [(extra, number) for number in range(1, tries) for extra in steps]
    yield from dict.fromkeys([*plain, *rest])


def _rank(found: Transition) -> tuple[int, float, int, int]:
    return found.moved, round(found.makespan, 6), found.peak_gpus, len(found.actions)


def _one_wave(request: Request) -> float:
    """Return the seconds of a transition in which a replica waits only for the one it replaces."""
    each = request.durations
    return each.create_instance + each.start_replica + each.stop_replica + each.destroy_instance


_EXPANDED = 24_000
"""States expanded, divided by the square of the GPUs in use: enough for all states of two A30s with two services."""

_Held = frozenset[int]
_State = tuple[_Held, ...]
"""The instances on each GPU beside its fixed ones, as indices of options."""

_Move = tuple[int, int, bool]
"""Index of a GPU, an option, and whether it is added."""


def search(request: Request, expanded: int | None = None) -> list[Step] | None:
    """Return a legal and safe sequence of steps to the target, or None if none was found.

    It is a best-first search through the states of the cluster. A move adds an instance with a replica that either
    deployment has, or removes one. States that differ only by the order of equal GPUs are one. If fewer than
    `expanded` states can be reached, None proves that there is no transition.

    Args:
        request: what is asked.
        expanded: most states to expand; None for a few seconds' worth, which is 0 for many GPUs.
    """
    if expanded is None:
        expanded = _EXPANDED // max(2, request.current.used, request.target.used) ** 2
    space = _Space(request)
    origin: dict[_State, tuple[_State, _Move] | None] = {space.key(space.first): None}
    tie = count()
    queue = [(space.distance(space.first), next(tie), space.first)]
    while queue and expanded:
        expanded -= 1
        _, _, state = heapq.heappop(queue)
        if space.arrived(state):
            return _reusing(request, space.steps(_moves(space, origin, state)))
        for move, following in space.moves(state):
            key = space.key(following)
            if key not in origin:
                origin[key] = state, move
                heapq.heappush(queue, (space.distance(following), next(tie), following))
    return None


def _moves(space: _Space, origin: dict[_State, tuple[_State, _Move] | None], state: _State) -> list[_Move]:
    moves: list[_Move] = []
    while (came := origin[space.key(state)]) is not None:
        state = came[0]
        moves.append(came[1])
    return moves[::-1]


class _Space:
    """The states of a cluster and the moves between them."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._floors = request.floors
        self._gpus = request.current.gpus
        self._rules = [rules(gpu.model, request.forbid) for gpu in self._gpus]
        self._fixed = [frozenset(e.placement for e in gpu.instances if e.fixed) for gpu in self._gpus]
        self._options: list[tuple[Placement, Replica | None]] = []
        self._of_model = {model: self._known(model) for model in sorted({gpu.model for gpu in self._gpus})}
        self._kind = self._kinds()
        self.first: _State = tuple(self._held(gpu) for gpu in self._gpus)
        self._capacity_fixed: dict[str, float] = defaultdict(float)
        for gpu in self._gpus:
            for each in gpu.instances:
                for service, throughput in each.replica.serves if each.fixed and each.replica else ():
                    self._capacity_fixed[service] += throughput
        target = [(gpu.model, self._held(gpu)) for gpu in request.target.gpus]
        self._goal = Counter((model, self._content(held)) for model, held in target if held)
        self._wanted = Counter(self._kind[option] for _, held in target for option in held)

    def _known(self, model: str) -> list[int]:
        """Add the options of a GPU model: every start of each profile with each replica known on it."""
        pairs = dict.fromkeys(
            (each.placement.profile, each.replica)
            for deployment in (self._request.current, self._request.target)
            for gpu in deployment.gpus
            if gpu.model == model
            for each in gpu.instances
        )
        first = len(self._options)
        rule = rules(model, self._request.forbid)
        self._options += [
            (Placement(s, name), each) for name, each in pairs for s in rule.profile(name).starts
        ]
        return list(range(first, len(self._options)))

    def _kinds(self) -> list[int]:
        """Return for each option the first one that differs from it only by its start."""
        first: dict[tuple[str, str, Replica | None], int] = {}
        found = {}
        for model, options in self._of_model.items():
            for option in options:
                place, replica = self._options[option]
                found[option] = first.setdefault((model, place.profile, replica), option)
        return [found[option] for option in range(len(self._options))]

    def _held(self, gpu: DeployedGpu) -> _Held:
        pairs = [(each.placement, each.replica) for each in gpu.instances if not each.fixed]
        return frozenset(
            option for option in self._of_model.get(gpu.model, ()) if self._options[option] in pairs
        )

    def _content(self, held: _Held) -> tuple[int, ...]:
        return tuple(sorted(self._kind[option] for option in held))

    def key(self, state: _State) -> _State:
        """Return the state with equal GPUs sorted by their content."""
        alike = [not self._fixed[i] and not self._gpus[i].leaving for i in range(len(state))]
        free = [i for i in range(len(state)) if alike[i]]
        free.sort(key=lambda i: (self._gpus[i].model, sorted(state[i])))
        return (*(state[i] for i in free), *(state[i] for i in range(len(state)) if not alike[i]))

    def arrived(self, state: _State) -> bool:
        """Return whether this is the target with its GPUs in some order, and the leaving GPUs are empty."""
        left = any(gpu.leaving and held for gpu, held in zip(self._gpus, state, strict=True))
        return not left and self._there(state) == self._goal

    def _there(self, state: _State) -> Counter[tuple[str, tuple[int, ...]]]:
        return Counter(
            (gpu.model, self._content(held)) for gpu, held in zip(self._gpus, state, strict=True) if held
        )

    def distance(self, state: _State) -> float:
        """Estimate the moves left: missing and surplus instances, and GPUs without their wanted content."""
        there = Counter(self._kind[option] for held in state for option in held)
        astray = (there - self._wanted).total() + (self._wanted - there).total()
        return astray + 2.0 * (self._goal - self._there(state)).total()

    def moves(self, state: _State) -> Iterator[tuple[_Move, _State]]:
        """Yield the safe moves of a state and where they lead."""
        spare = self._spare(state)
        used = sum(1 for held, fixed in zip(state, self._fixed, strict=True) if held or fixed)
        opened: set[str] = set()
        for i, held in enumerate(state):
            for option in sorted(held):
                replica = self._options[option][1]
                if replica is None or all(given <= spare[name] for name, given in replica.serves):
                    yield (i, option, False), (*state[:i], held - {option}, *state[i + 1 :])
            model = self._gpus[i].model
            if self._gpus[i].leaving:
                continue
            if not held and not self._fixed[i]:
                if model in opened or used >= self._request.gpu_budget:
                    continue
                opened.add(model)
            standing = frozenset(self._options[option][0] for option in held) | self._fixed[i]
            for option in self._of_model[model]:
                place = self._options[option][0]
                if place not in standing and legal(self._rules[i], standing | {place}):
                    yield (i, option, True), (*state[:i], held | {option}, *state[i + 1 :])

    def _spare(self, state: _State) -> dict[str, float]:
        """Return what each service has beyond its floor."""
        spare = defaultdict(float, self._capacity_fixed)
        for held in state:
            for option in held:
                replica = self._options[option][1]
                for service, throughput in replica.serves if replica is not None else ():
                    spare[service] += throughput
        for service in spare:
            floor = self._floors.get(service, 0.0)
            spare[service] += 1e-9 * max(1.0, floor) - floor
        return spare

    def steps(self, moves: Sequence[_Move]) -> list[Step]:
        """Return the steps of the moves."""
        steps: list[Step] = []
        for i, option, added in moves:
            gpu = self._gpus[i].id
            place, replica = self._options[option]
            if added:
                steps.append(create(gpu, place))
                steps += [start(gpu, place, replica)] if replica else []
            else:
                steps += [stop(gpu, place, replica)] if replica else []
                steps.append(destroy(gpu, place))
        return steps


def _reusing(request: Request, steps: list[Step]) -> list[Step]:
    """Leave out destroying an instance that is the next one created on its GPU, where the budget allows it."""
    i = 0
    while i < len(steps):
        step = steps[i]
        makes = [
            j
            for j in range(i + 1, len(steps))
            if steps[j].gpu == step.gpu and steps[j].kind is ActionKind.CREATE_INSTANCE
        ]
        if step.kind is ActionKind.DESTROY_INSTANCE and makes and steps[makes[0]].placement == step.placement:
            fewer = [each for j, each in enumerate(steps) if j not in (i, makes[0])]
            if _most_in_use(request, fewer) <= request.gpu_budget:
                steps = fewer
                continue
        i += 1
    return steps


def _most_in_use(request: Request, steps: Sequence[Step]) -> int:
    standing = Counter({gpu.id: len(gpu.instances) for gpu in request.current.gpus})
    most = request.current.used
    for step in steps:
        standing[step.gpu] += (step.kind is ActionKind.CREATE_INSTANCE) - (
            step.kind is ActionKind.DESTROY_INSTANCE
        )
        most = max(most, sum(1 for n in standing.values() if n))
    return most
