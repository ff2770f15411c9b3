"""The checker's part for the graph: what comes before what in every order."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

from partita.planning.checking.check_gpu import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.transition.transition import Action


def graph_faults(actions: Sequence[Action]) -> Iterator[Fault]:
    """Yield why the actions are no acyclic graph."""
    for name, n in Counter(action.id for action in actions).items():
        if n > 1:
            yield Fault(name, f"{n} actions have this id")
    known = {action.id for action in actions}
    for action in actions:
        for name in action.after:
            if name not in known:
                yield Fault(action.id, f"comes after {name}, which is no action")
    left = {action.id: set(action.after) & known for action in actions}
    while free := [name for name, after in left.items() if not after & left.keys()]:
        for name in free:
            del left[name]
    if left:
        yield Fault(min(left), f"this action and {len(left) - 1} more wait for each other for ever")


class Graph:
    """The partial order of actions whose graph has no faults. Actions are named by their index."""

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
