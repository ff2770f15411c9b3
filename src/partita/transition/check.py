"""The checker: says what is wrong in a transition.

Written from the definition of a transition and from nothing that makes one. It speaks of every order that the
graph allows, not of the predicted schedule alone: a state is a set of actions that have ended, closed under
what comes before them, and actions that have begun because all before them have ended. All of it is
polynomial in the number of actions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from partita.planning.checking.check_gpu import Fault
from partita.transition.check_gpus import budget_faults, peak_as_soon_as_possible
from partita.transition.check_graph import Graph, graph_faults
from partita.transition.check_instances import Stories, placement_faults
from partita.transition.closure import least_sum
from partita.transition.transition import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.transition.deployment import Deployment
    from partita.transition.transition import Request, Transition

__all__ = ["Fault", "check_transition", "least_capacity"]


def check_transition(request: Request, transition: Transition) -> list[Fault]:
    """Return all that is wrong in a transition; an empty list for a right one.

    What is guaranteed of the GPUs in use is an upper bound on every order (see `check_gpus.py`).
    """
    faults = list(graph_faults(transition.actions))
    if faults:
        return faults
    graph = Graph(transition.actions)
    stories = Stories(request, graph)
    if stories.faults:
        return stories.faults
    return [
        *placement_faults(request, graph, stories.lifetimes),
        *_floor_faults(request, transition, graph),
        *_target_faults(request, transition, stories),
        *_replica_faults(request, transition),
        *budget_faults(request, graph, stories.lifetimes),
        *_prediction_faults(request, transition, graph, stories),
    ]


def least_capacity(request: Request, graph: Graph) -> dict[str, float]:
    """Return the least capacity of each service in items/s, over all states of all orders.

    A start counts once it has ended, a stop no longer once it has begun, which it may when all before it has
    ended. So the least capacity is what there is at first, less the most that stops outweigh starts in a
    closed set of actions: a minimum closure.
    """
    capacity = request.current.capacity()
    weights: dict[str, dict[int, float]] = defaultdict(dict)
    for i, action in enumerate(graph.actions):
        if action.replica is not None:
            sign = 1.0 if action.kind is Kind.START_REPLICA else -1.0
            weights[action.replica.service][i] = sign * action.replica.throughput
    names = {*capacity, *weights}
    return {name: capacity.get(name, 0.0) + least_sum(weights.get(name, {}), graph.direct) for name in names}


def _floor_faults(request: Request, transition: Transition, graph: Graph) -> Iterator[Fault]:
    if dict(transition.floors) != request.floors:
        yield Fault("floors", "they are not those that were asked for")
    least = least_capacity(request, graph)
    for service, floor in request.floors.items():
        found = least.get(service, 0.0)
        if found < floor - 1e-6 * max(1.0, floor):
            yield Fault(
                service, f"may fall to {found:.6g} items/s in some order, under its floor of {floor:.6g}"
            )


def _target_faults(request: Request, transition: Transition, stories: Stories) -> Iterator[Fault]:
    reached = {
        (gpu.id, each.placement): each.replica for gpu in transition.target.gpus for each in gpu.instances
    }
    if [(gpu.id, gpu.model) for gpu in transition.target.gpus] != [
        (gpu.id, gpu.model) for gpu in request.current.gpus
    ]:
        yield Fault("target", "its GPUs are not those that there are")
    if reached != stories.final:
        wrong = sorted(
            f"{gpu} {placement}"
            for gpu, placement in reached.keys() | stories.final.keys()
            if (gpu, placement) not in reached
            or (gpu, placement) not in stories.final
            or reached[gpu, placement] != stories.final[gpu, placement]
        )
        yield Fault("target", f"the actions lead elsewhere on {', '.join(wrong[:5])}")
    if _contents(request.target, _fixed(request.target)) != _contents(
        transition.target, _fixed(request.current)
    ):
        yield Fault("target", "it is not the wanted deployment with its GPUs in another order")


def _fixed(deployment: Deployment) -> set[tuple[str, str]]:
    return {(gpu.id, str(each.placement)) for gpu in deployment.gpus for each in gpu.instances if each.fixed}


def _contents(deployment: Deployment, without: set[tuple[str, str]]) -> Counter[tuple[str, object]]:
    """Return how many GPUs of a model have what on them: profiles and replicas, wherever they start."""
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


def _replica_faults(request: Request, transition: Transition) -> Iterator[Fault]:
    """Yield replicas that neither deployment runs on such an instance: nobody says what they can do there."""
    known = {
        (gpu.model, each.placement.profile, each.replica)
        for deployment in (request.current, request.target)
        for gpu in deployment.gpus
        for each in gpu.instances
    }
    models = {gpu.id: gpu.model for gpu in request.current.gpus}
    for action in transition.actions:
        if action.replica and (models[action.gpu], action.placement.profile, action.replica) not in known:
            yield Fault(
                action.id, f"{action.replica.service} is not known to run so on {action.placement.profile}"
            )
        if action.kind in (Kind.CREATE_INSTANCE, Kind.DESTROY_INSTANCE) and action.replica is not None:
            yield Fault(action.id, "an action on an instance names a replica")
        if action.seconds != request.durations.of(action.kind):
            yield Fault(action.id, f"takes {action.seconds:g} s, not what such actions are said to take")


def _prediction_faults(
    request: Request, transition: Transition, graph: Graph, stories: Stories
) -> Iterator[Fault]:
    makespan = max((graph.end(i) for i in range(len(graph.actions))), default=0.0)
    if abs(makespan - transition.makespan) > 1e-6 * max(1.0, makespan):
        yield Fault("makespan", f"{transition.makespan:g} s are promised, it is {makespan:g} s")
    peak = peak_as_soon_as_possible(graph, stories.lifetimes)
    if peak != transition.peak_gpus:
        yield Fault("peak_gpus", f"{transition.peak_gpus} are promised, it is {peak}")
    moved = sum(
        1
        for gpu in request.current.gpus
        for each in gpu.instances
        if each.replica and stories.final.get((gpu.id, each.placement)) != each.replica
    )
    if moved != transition.moved:
        yield Fault("moved", f"{transition.moved} replicas are promised, it is {moved}")
