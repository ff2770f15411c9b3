"""The checker of transitions; it shares no code with the algorithms that make them.

It checks every order that the graph allows, not only the predicted schedule. A state is a set of ended actions that
holds the predecessors of each, plus actions in progress whose predecessors have all ended. All checks are polynomial
in the number of actions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.mig.catalogue import gpu_model
from partita.planning.check import Violation, layout_violations
from partita.transition.closure import least_sum
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement
    from partita.transition.deployment import Deployment, Replica
    from partita.transition.transition import Action, Request, Transition


__all__ = ["Violation", "check_transition", "least_capacity"]


def check_transition(request: Request, transition: Transition) -> list[Violation]:
    """Return all that is wrong in a transition; an empty list for a right one.

    For the GPUs in use it checks an upper bound over all orders (see `most_in_use`).
    """
    violations = list(graph_violations(transition.actions))
    if violations:
        return violations
    graph = ActionGraph(transition.actions)
    histories = InstanceHistories(request, graph)
    if histories.violations:
        return histories.violations
    return [
        *placement_violations(request, graph, histories.lifetimes),
        *_floor_violations(request, transition, graph),
        *_target_violations(request, transition, histories),
        *_replica_violations(request, transition),
        *budget_violations(request, graph, histories.lifetimes),
        *_prediction_violations(request, transition, graph, histories),
    ]


def least_capacity(request: Request, graph: ActionGraph) -> dict[str, float]:
    """Return the least capacity of each service in items/s, over all states of all orders.

    A replica counts from the end of its start to the beginning of its stop; a stop may begin when all its
    predecessors have ended. So the least capacity is the capacity at first plus the least sum of starts minus stops
    over the closed sets of actions: a minimum closure.
    """
    capacity = request.current.capacity()
    weights: dict[str, dict[int, float]] = defaultdict(dict)
    for i, action in enumerate(graph.actions):
        if action.replica is not None:
            sign = 1.0 if action.kind is ActionKind.START_REPLICA else -1.0
            for service, throughput in action.replica.serves:
                weights[service][i] = sign * throughput
    names = {*capacity, *weights}
    return {name: capacity.get(name, 0.0) + least_sum(weights.get(name, {}), graph.direct) for name in names}


def _floor_violations(request: Request, transition: Transition, graph: ActionGraph) -> Iterator[Violation]:
    if dict(transition.floors) != request.floors:
        yield Violation("floors", "not the floors that were asked for")
    least = least_capacity(request, graph)
    for service, floor in request.floors.items():
        found = least.get(service, 0.0)
        if found < floor - 1e-6 * max(1.0, floor):
            yield Violation(
                service, f"may fall to {found:.6g} items/s in some order, under its floor of {floor:.6g}"
            )


def _target_violations(
    request: Request, transition: Transition, histories: InstanceHistories
) -> Iterator[Violation]:
    reached = {
        (gpu.id, each.placement): each.replica for gpu in transition.target.gpus for each in gpu.instances
    }
    if [(gpu.id, gpu.model) for gpu in transition.target.gpus] != [
        (gpu.id, gpu.model) for gpu in request.current.gpus
    ]:
        yield Violation("target", "its GPUs are not those of the current deployment")
    if reached != histories.final:
        wrong = sorted(
            f"{gpu} {placement}"
            for gpu, placement in reached.keys() | histories.final.keys()
            if (gpu, placement) not in reached
            or (gpu, placement) not in histories.final
            or reached[gpu, placement] != histories.final[gpu, placement]
        )
        yield Violation("target", f"the actions lead to another result on {', '.join(wrong[:5])}")
    if _contents(request.target, _fixed(request.target)) != _contents(
        transition.target, _fixed(request.current)
    ):
        yield Violation("target", "not the wanted deployment, even with its GPUs in another order")


def _fixed(deployment: Deployment) -> set[tuple[str, str]]:
    return {(gpu.id, str(each.placement)) for gpu in deployment.gpus for each in gpu.instances if each.fixed}


def _contents(deployment: Deployment, without: set[tuple[str, str]]) -> Counter[tuple[str, object]]:
    """Return how many GPUs of a model hold the same profiles and replicas, wherever those start."""
    found: Counter[tuple[str, object]] = Counter()
    for gpu in deployment.gpus:
        mine = Counter(
            (each.placement.profile, each.replica)
            for each in gpu.instances
            if (gpu.id, str(each.placement)) not in without
        )
        if mine:
            found[gpu.model, frozenset(mine.items())] += 1
    return found


def _replica_violations(request: Request, transition: Transition) -> Iterator[Violation]:
    """Yield replicas that neither deployment runs on such an instance, as their throughput there is unknown."""
    known = {
        (gpu.model, each.placement.profile, each.replica)
        for deployment in (request.current, request.target)
        for gpu in deployment.gpus
        for each in gpu.instances
    }
    models = {gpu.id: gpu.model for gpu in request.current.gpus}
    for action in transition.actions:
        if action.replica and (models[action.gpu], action.placement.profile, action.replica) not in known:
            yield Violation(
                action.id,
                f"neither deployment runs {action.replica.service} like this on {action.placement.profile}",
            )
        if (
            action.kind in (ActionKind.CREATE_INSTANCE, ActionKind.DESTROY_INSTANCE)
            and action.replica is not None
        ):
            yield Violation(action.id, "an action on an instance names a replica")
        if action.seconds != request.durations.of(action.kind):
            wanted = request.durations.of(action.kind)
            yield Violation(action.id, f"takes {action.seconds:g} s, not the {wanted:g} s of its kind")


def _prediction_violations(
    request: Request, transition: Transition, graph: ActionGraph, histories: InstanceHistories
) -> Iterator[Violation]:
    makespan = max((graph.end(i) for i in range(len(graph.actions))), default=0.0)
    if abs(makespan - transition.makespan) > 1e-6 * max(1.0, makespan):
        yield Violation("makespan", f"stated as {transition.makespan:g} s, but it is {makespan:g} s")
    peak = peak_as_soon_as_possible(graph, histories.lifetimes)
    if peak != transition.peak_gpus:
        yield Violation("peak_gpus", f"stated as {transition.peak_gpus}, but it is {peak}")
    moved = sum(
        1
        for gpu in request.current.gpus
        for each in gpu.instances
        if each.replica and histories.final.get((gpu.id, each.placement)) != each.replica
    )
    if moved != transition.moved:
        yield Violation("moved", f"stated as {transition.moved} replicas, but it is {moved}")


# --- the graph: what comes before what in every order


def graph_violations(actions: Sequence[Action]) -> Iterator[Violation]:
    """Yield why the actions do not form an acyclic graph."""
    for name, n in Counter(action.id for action in actions).items():
        if n > 1:
            yield Violation(name, f"{n} actions have this id")
    known = {action.id for action in actions}
    for action in actions:
        for name in action.after:
            if name not in known:
                yield Violation(action.id, f"comes after {name}, which is not an action")
    left = {action.id: set(action.after) & known for action in actions}
    while free := [name for name, after in left.items() if not after & left.keys()]:
        for name in free:
            del left[name]
    if left:
        yield Violation(min(left), f"this action and {len(left) - 1} more wait for each other forever")


class ActionGraph:
    """The partial order of actions whose graph has no violations. Actions are named by their index."""

    def __init__(self, actions: Sequence[Action]) -> None:
        self.actions = actions
        index = {action.id: i for i, action in enumerate(actions)}
        self.direct = [tuple(index[name] for name in action.after) for action in actions]

    @cached_property
    def sequence(self) -> list[int]:
        """One order that the graph allows."""
        waiting = [len(set(before)) for before in self.direct]
        followers: list[list[int]] = [[] for _ in self.actions]
        for i, before in enumerate(self.direct):
            for earlier in set(before):
                followers[earlier].append(i)
        found = [i for i, n in enumerate(waiting) if n == 0]
        for i in found:
            for later in followers[i]:
                waiting[later] -= 1
                if waiting[later] == 0:
                    found.append(later)
        return found

    @cached_property
    def _ancestors(self) -> list[int]:
        masks = [0] * len(self.actions)
        for i in self.sequence:
            for earlier in self.direct[i]:
                masks[i] |= masks[earlier] | (1 << earlier)
        return masks

    def ordered(self, one: int, other: int) -> bool:
        """Say whether `one` has ended before `other` begins, in every order."""
        return bool(self._ancestors[other] >> one & 1)

    @cached_property
    def begin(self) -> list[float]:
        """When each action begins if all begin as soon as they may."""
        begin = [0.0] * len(self.actions)
        for i in self.sequence:
            begin[i] = max((begin[e] + self.actions[e].seconds for e in self.direct[i]), default=0.0)
        return begin

    def end(self, i: int) -> float:
        """When an action ends if all begin as soon as they may."""
        return self.begin[i] + self.actions[i].seconds


# --- instances: what happens to each, and what stands beside what in some order


@dataclass(frozen=True, slots=True)
class Lifetime:
    """An instance from the action that makes it to the one that destroys it; None where there is no such action."""

    gpu: str
    placement: Placement
    made: int | None
    gone: int | None


class InstanceHistories:
    """What happens on every placement. `violations` says where that is impossible or depends on the order."""

    def __init__(self, request: Request, graph: ActionGraph) -> None:
        self.violations: list[Violation] = []
        self.lifetimes: list[Lifetime] = []
        self.final: dict[tuple[str, Placement], Replica | None] = {}
        self._graph = graph
        self._position = {i: n for n, i in enumerate(graph.sequence)}
        self._there = {
            (gpu.id, each.placement): each for gpu in request.current.gpus for each in gpu.instances
        }
        on: dict[tuple[str, Placement], list[int]] = {key: [] for key in self._there}
        gpus = {gpu.id: gpu.leaving for gpu in request.current.gpus}
        for i, action in enumerate(graph.actions):
            if gpus.get(action.gpu) and action.kind in {ActionKind.CREATE_INSTANCE, ActionKind.START_REPLICA}:
                self.violations.append(Violation(action.id, f"{action.gpu} must become empty"))
            if action.gpu in gpus:
                on.setdefault((action.gpu, action.placement), []).append(i)
            else:
                self.violations.append(Violation(action.id, f"there is no GPU {action.gpu}"))
        for (gpu, placement), found in on.items():
            self._follow(gpu, placement, found)

    def _follow(self, gpu: str, placement: Placement, found: list[int]) -> None:
        first = self._there.get((gpu, placement))
        where = f"{gpu} {placement}"
        if first is not None and first.fixed and found:
            self.violations.append(Violation(where, "this instance is fixed, but an action changes it"))
        line = self._line(where, found)
        present, replica = first is not None, first.replica if first else None
        made: int | None = None
        for i in line:
            present, replica, made = self._step(i, (present, replica, made))
        if present:
            self.lifetimes.append(Lifetime(gpu, placement, made, None))
            self.final[gpu, placement] = replica

    def _line(self, where: str, found: Sequence[int]) -> list[int]:
        graph = self._graph
        line = sorted(found, key=self._position.__getitem__)
        for a, b in pairwise(line):
            if not graph.ordered(a, b):
                one, other = graph.actions[a].id, graph.actions[b].id
                self.violations.append(
                    Violation(where, f"actions {one} and {other} may happen in either order")
                )
        return line

    def _step(
        self, i: int, state: tuple[bool, Replica | None, int | None]
    ) -> tuple[bool, Replica | None, int | None]:
        present, replica, made = state
        action = self._graph.actions[i]
        why = _impossible(action.kind, action.replica, present=present, running=replica)
        if why:
            self.violations.append(Violation(action.id, why))
        if action.kind is ActionKind.CREATE_INSTANCE:
            return True, None, i
        if action.kind is ActionKind.DESTROY_INSTANCE:
            self.lifetimes.append(Lifetime(action.gpu, action.placement, made, i))
            return False, None, None
        return present, action.replica if action.kind is ActionKind.START_REPLICA else None, made


def _impossible(
    kind: ActionKind, replica: Replica | None, *, present: bool, running: Replica | None
) -> str | None:
    if kind is ActionKind.CREATE_INSTANCE:
        return "creates an instance that exists already" if present else None
    if not present:
        return "the instance does not exist at that point"
    if kind is ActionKind.STOP_REPLICA:
        return (
            None if running == replica and replica is not None else "stops a replica that does not run there"
        )
    if running is not None:
        return f"{running.service} still runs there"
    if kind is ActionKind.START_REPLICA and replica is None:
        return "starts no replica"
    return None


def placement_violations(
    request: Request, graph: ActionGraph, lifetimes: Sequence[Lifetime]
) -> Iterator[Violation]:
    """Yield the sets of instances that may stand together in some order and are not legal.

    Two lifetimes on a GPU coexist in some order unless one ends before the other begins in every order. Lifetimes
    that coexist pairwise all coexist in one state: the one in which exactly the predecessors of their creations have
    ended. So the largest possible sets are the maximal cliques of that relation. Where all pairs are disjoint in
    memory, no clique is larger than a GPU's memory slices, which keeps their number polynomial.
    """
    per_gpu: dict[str, list[Lifetime]] = defaultdict(list)
    for each in lifetimes:
        per_gpu[each.gpu].append(each)
    models = {gpu.id: gpu.model for gpu in request.current.gpus}
    for gpu_id, mine in per_gpu.items():
        try:
            gpu = gpu_model(models[gpu_id]).forbidding(request.forbid)
        except InputError as error:
            yield Violation(gpu_id, error.what)
            continue
        yield from _gpu_violations(gpu_id, gpu, graph, mine)


def _gpu_violations(
    where: str, gpu: GpuModel, graph: ActionGraph, mine: list[Lifetime]
) -> Iterator[Violation]:
    beside: dict[int, set[int]] = {i: set() for i in range(len(mine))}
    wrong = False
    for i, one in enumerate(mine):
        for why in layout_violations(gpu, [one.placement]):
            wrong = True
            yield Violation(where, why)
        for j in range(i):
            if apart(graph, one, mine[j]):
                continue
            beside[i].add(j)
            beside[j].add(i)
            for why in layout_violations(gpu, (one.placement, mine[j].placement)):
                wrong = True
                yield Violation(where, f"{one.placement} beside {mine[j].placement} in some order: {why}")
    if wrong:
        return
    for clique in _maximal_cliques(beside):
        placements = sorted(mine[i].placement for i in clique)
        for why in layout_violations(gpu, placements):
            yield Violation(where, f"{' '.join(map(str, placements))} in some order: {why}")


def apart(graph: ActionGraph, one: Lifetime, other: Lifetime) -> bool:
    """Say whether two lifetimes never coexist: one has ended before the other begins, in every order."""
    return _before(graph, one, other) or _before(graph, other, one)


def _before(graph: ActionGraph, one: Lifetime, other: Lifetime) -> bool:
    return one.gone is not None and other.made is not None and graph.ordered(one.gone, other.made)


def _maximal_cliques(beside: dict[int, set[int]]) -> Iterator[set[int]]:
    """Yield the maximal cliques (Bron and Kerbosch 1973, with a pivot)."""
    stack: list[tuple[set[int], set[int], set[int]]] = [(set(), set(beside), set())]
    while stack:
        clique, candidates, excluded = stack.pop()
        if not candidates and not excluded:
            yield clique
            continue
        pivot = max(candidates | excluded, key=lambda i: len(beside[i] & candidates))
        for i in sorted(candidates - beside[pivot]):
            stack.append((clique | {i}, candidates & beside[i], excluded & beside[i]))
            candidates = candidates - {i}
            excluded = excluded | {i}


# --- GPUs in use: a bound that holds in every order


@dataclass(frozen=True, slots=True)
class GpuUse:
    """A GPU from its first instance until, in every order, it has none.

    Attributes:
        opens: the creations of which any may be the first; empty if it is in use from the beginning.
        closes: the destructions of which any may be the last; empty if it stays in use.
    """

    opens: tuple[int, ...]
    closes: tuple[int, ...]


def uses(graph: ActionGraph, lifetimes: Sequence[Lifetime]) -> list[GpuUse]:
    """Return the uses of all GPUs.

    Lifetimes that are linked by others with which they may coexist are one use. Two uses of a GPU are then
    ordered: all of the one has ended before any of the other begins.
    """
    per_gpu: dict[str, list[Lifetime]] = defaultdict(list)
    for each in lifetimes:
        per_gpu[each.gpu].append(each)
    return [_use(linked) for mine in per_gpu.values() for linked in _linked(graph, mine)]


def _linked(graph: ActionGraph, mine: list[Lifetime]) -> Iterator[list[Lifetime]]:
    rest = list(mine)
    while rest:
        group = [rest.pop()]
        for one in group:
            near = [other for other in rest if not apart(graph, one, other)]
            group += near
            rest = [other for other in rest if other not in near]
        yield group


def _use(linked: Sequence[Lifetime]) -> GpuUse:
    made = [each.made for each in linked]
    gone = [each.gone for each in linked]
    return GpuUse(
        () if None in made else tuple(i for i in made if i is not None),
        () if None in gone else tuple(i for i in gone if i is not None),
    )


def most_in_use(graph: ActionGraph, lifetimes: Sequence[Lifetime]) -> int:
    """Return an upper bound of the GPUs in use at once in any order.

    One use comes before another if all that may close the one has ended before anything that opens the other begins.
    GPUs in use at the same moment are not ordered like that, so there are at most as many as in the largest
    antichain. Its size is the least number of chains that cover all uses (Dilworth), which a matching gives. The
    exact maximum would be harder to find.
    """
    found = uses(graph, lifetimes)
    after = [
        [j for j, later in enumerate(found) if later.opens and _ended_before(graph, use, later)]
        if use.closes
        else []
        for use in found
    ]
    return len(found) - _matching(after)


def _ended_before(graph: ActionGraph, one: GpuUse, other: GpuUse) -> bool:
    return one is not other and all(graph.ordered(a, b) for a in one.closes for b in other.opens)


def _matching(after: Sequence[Sequence[int]]) -> int:
    """Return the size of a maximum matching, by augmenting paths found breadth first."""
    owner: dict[int, int] = {}
    owned: dict[int, int] = {}
    for root in range(len(after)):
        end, came = _free_end(after, root, owner)
        while end is not None:
            left = came[end]
            following = owned.get(left)
            owner[end], owned[left] = left, end
            end = None if left == root else following
    return len(owned)


def _free_end(
    after: Sequence[Sequence[int]], root: int, owner: dict[int, int]
) -> tuple[int | None, dict[int, int]]:
    """Return a node without owner that an alternating path from `root` ends at, and how each was reached."""
    came: dict[int, int] = {}
    pending = [root]
    for left in pending:
        for right in after[left]:
            if right not in came:
                came[right] = left
                if right not in owner:
                    return right, came
                pending.append(owner[right])
    return None, came


def budget_violations(
    request: Request, graph: ActionGraph, lifetimes: Sequence[Lifetime]
) -> Iterator[Violation]:
    """Yield a violation if some order may use more GPUs than the budget."""
    most = most_in_use(graph, lifetimes)
    if most > request.gpu_budget:
        yield Violation(
            "extra_gpus", f"{most} GPUs may be in use at once in some order, of {request.gpu_budget}"
        )


def peak_as_soon_as_possible(graph: ActionGraph, lifetimes: Sequence[Lifetime]) -> int:
    """Return the most GPUs in use at once if every action begins as soon as it may."""
    changes: list[tuple[float, int]] = []
    for use in uses(graph, lifetimes):
        begin = min((graph.begin[i] for i in use.opens), default=0.0)
        changes.append((begin, 1))
        if use.closes:
            changes.append((max(graph.end(i) for i in use.closes), -1))
    in_use = most = 0
    for _, change in sorted(changes):
        in_use += change
        most = max(most, in_use)
    return most
