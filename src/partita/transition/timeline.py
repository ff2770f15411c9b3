"""What a transition looks like over time: as predicted, every action beginning as soon as it may, or as it went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.transition.check_gpus import uses
from partita.transition.check_graph import Graph
from partita.transition.check_instances import Stories
from partita.transition.transition import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.transition.transition import Action, Request, Transition


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
    """Course of a transition.

    Attributes:
        bars: the actions by their beginning.
        capacity: items/s of each service that are ready and not draining, as steps from second 0.
        gpus: GPUs in use, as steps from second 0.
    """

    bars: tuple[Bar, ...]
    capacity: dict[str, tuple[Point, ...]]
    gpus: tuple[Point, ...]


def timeline(request: Request, transition: Transition, ran: Mapping[str, Bar] | None = None) -> Timeline:
    """Return the course of a transition that the checker found right.

    Args:
        request: what was asked.
        transition: the actions.
        ran: by id, when each action really ran; left out, what is predicted.
    """
    graph = Graph(transition.actions)
    bars = [
        ran[action.id] if ran else Bar(action, graph.begin[i], graph.end(i))
        for i, action in enumerate(transition.actions)
    ]
    changes: dict[str, list[tuple[float, float]]] = {name: [] for name in sorted(request.current.capacity())}
    for bar in bars:
        replica = bar.action.replica
        if replica is not None:
            started = bar.action.kind is Kind.START_REPLICA
            change = (bar.end, replica.throughput) if started else (bar.begin, -replica.throughput)
            changes.setdefault(replica.service, []).append(change)
    first = request.current.capacity()
    return Timeline(
        bars=tuple(sorted(bars, key=lambda bar: (bar.begin, bar.end))),
        capacity={name: _points(first.get(name, 0.0), found) for name, found in changes.items()},
        gpus=_in_use(request, graph, bars),
    )


def _in_use(request: Request, graph: Graph, bars: Sequence[Bar]) -> tuple[Point, ...]:
    found = []
    for use in uses(graph, Stories(request, graph).lifetimes):
        if use.opens:
            found.append((min(bars[i].begin for i in use.opens), 1.0))
        if use.closes:
            found.append((max(bars[i].end for i in use.closes), -1.0))
    return _points(float(request.current.used), found)


def _points(first: float, changes: list[tuple[float, float]]) -> tuple[Point, ...]:
    """Return the steps of a value, changes of one moment taken together."""
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
