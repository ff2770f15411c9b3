"""A summary of a transition for reading: how each service and each GPU changes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.transition.check import ActionGraph, InstanceHistories, least_capacity, uses
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.mig.layout import Placement
    from partita.transition.deployment import DeployedInstance, Deployment
    from partita.transition.transition import Action, Request, Transition


@dataclass(frozen=True, slots=True)
class ServiceChange:
    """How a service changes.

    Attributes:
        before: items/s at first.
        after: items/s at the end.
        floor: items/s that it keeps at least.
        least: the fewest items/s of all moments of all orders that the graph allows.
        stay: replicas that stay where they are.
        move: replicas that end while another of their service comes elsewhere.
        new: replicas that come beyond that.
        end: replicas that end beyond that.
        stand_in: replicas that start and stop again during the transition, to keep the floor.
    """

    name: str
    before: float
    after: float
    floor: float
    least: float
    stay: int
    move: int
    new: int
    end: int
    stand_in: int

    @property
    def moves(self) -> int:
        """Replicas that move, are new or end: the larger of the starts and the stops, stand-ins left out."""
        return self.move + self.new + self.end

    @property
    def replicas(self) -> dict[str, int]:
        """The number of replicas by what happens to them."""
        return {
            "stay": self.stay,
            "move": self.move,
            "new": self.new,
            "end": self.end,
            "stand in": self.stand_in,
        }


@dataclass(frozen=True, slots=True)
class GpuGroupChange:
    """GPUs of one model that change alike: their instances before and after."""

    model: str
    before: tuple[DeployedInstance, ...]
    after: tuple[DeployedInstance, ...]
    ids: list[str] = field(default_factory=list)


def service_changes(request: Request, transition: Transition) -> tuple[ServiceChange, ...]:
    """Return how each service changes, by name."""
    before, after = request.current.capacity(), transition.target.capacity()
    least = least_capacity(request, ActionGraph(transition.actions))
    spots, target = _spots(request.current), _spots(transition.target)
    started = [a for a in transition.actions if a.kind is ActionKind.START_REPLICA]
    again = {(a.gpu, a.placement) for a in started}
    starts = Counter(name for a in started if a.replica for name, _ in a.replica.serves)
    changes = []
    for name in sorted(before.keys() | after.keys()):
        mine, theirs = spots[name], target[name]
        stay = len((mine & theirs) - again)
        go, come = len(mine) - stay, len(theirs) - stay
        move = min(go, come)
        changes.append(
            ServiceChange(
                name,
                before.get(name, 0.0),
                after.get(name, 0.0),
                transition.floors.get(name, 0.0),
                round(least.get(name, 0.0), 9) + 0.0,  # rounding errors around 0, and -0, become 0
                stay,
                move,
                new=come - move,
                end=go - move,
                stand_in=starts[name] - come,
            )
        )
    return tuple(changes)


def gpu_changes(current: Deployment, target: Deployment) -> list[GpuGroupChange]:
    """Return the GPUs whose instances or replicas change, grouped by what they hold before and after.

    Args:
        current: what runs.
        target: what runs at the end, on the same GPUs.
    """
    then = {gpu.id: gpu.instances for gpu in target.gpus}
    groups: dict[object, GpuGroupChange] = {}
    for gpu in current.gpus:
        before, after = gpu.instances, then[gpu.id]
        if before != after:
            group = GpuGroupChange(gpu.model, before, after)
            groups.setdefault((gpu.model, before, after), group).ids.append(gpu.id)
    return list(groups.values())


def _spots(deployment: Deployment) -> dict[str, set[tuple[str, Placement]]]:
    """Return where each service has a replica."""
    found: dict[str, set[tuple[str, Placement]]] = defaultdict(set)
    for gpu in deployment.gpus:
        for each in gpu.instances:
            for name, _ in each.replica.serves if each.replica else ():
                found[name].add((gpu.id, each.placement))
    return found


@dataclass(frozen=True, slots=True)
class Bar:
    """An action and when it runs, in seconds from the beginning."""

    action: Action
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Point:
    """A value that holds from this second until the next point."""

    second: float
    value: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """A transition over time.

    Attributes:
        bars: the actions by their beginning.
        capacity: items/s of each service that are ready and not draining, as steps from second 0.
        gpus: GPUs in use, as steps from second 0.
    """

    bars: tuple[Bar, ...]
    capacity: dict[str, tuple[Point, ...]]
    gpus: tuple[Point, ...]


def timeline(request: Request, transition: Transition, ran: Mapping[str, Bar] | None = None) -> Timeline:
    """Return the timeline of a transition in which the checker found nothing wrong.

    Args:
        request: what was asked.
        transition: the actions.
        ran: when each action really ran, by id; by default the predicted times.
    """
    graph = ActionGraph(transition.actions)
    bars = [
        ran[action.id] if ran else Bar(action, graph.begin[i], graph.end(i))
        for i, action in enumerate(transition.actions)
    ]
    changes: dict[str, list[tuple[float, float]]] = {name: [] for name in sorted(request.current.capacity())}
    for bar in bars:
        replica = bar.action.replica
        if replica is not None:
            started = bar.action.kind is ActionKind.START_REPLICA
            for name, throughput in replica.serves:
                change = (bar.end, throughput) if started else (bar.begin, -throughput)
                changes.setdefault(name, []).append(change)
    first = request.current.capacity()
    return Timeline(
        bars=tuple(sorted(bars, key=lambda bar: (bar.begin, bar.end))),
        capacity={name: _points(first.get(name, 0.0), found) for name, found in changes.items()},
        gpus=_in_use(request, graph, bars),
    )


def _in_use(request: Request, graph: ActionGraph, bars: Sequence[Bar]) -> tuple[Point, ...]:
    found = []
    for use in uses(graph, InstanceHistories(request, graph).lifetimes):
        if use.opens:
            found.append((min(bars[i].begin for i in use.opens), 1.0))
        if use.closes:
            found.append((max(bars[i].end for i in use.closes), -1.0))
    return _points(float(request.current.used), found)


def _points(first: float, changes: list[tuple[float, float]]) -> tuple[Point, ...]:
    """Return the steps of a value; changes at one moment are one step."""
    at: dict[float, float] = {0.0: first}
    for second, change in sorted(changes):
        at[second] = at.get(second, 0.0) + change
    points: list[Point] = []
    value = 0.0
    for second, change in at.items():
        value += change
        if not points or change:
            points.append(Point(second, value))
    return tuple(points)
