"""The checker's part for GPUs in use: a bound that holds in every order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.planning.checking.check_gpu import Fault
from partita.transition.check_instances import apart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.transition.check_graph import Graph
    from partita.transition.check_instances import Lifetime
    from partita.transition.transition import Request


@dataclass(frozen=True, slots=True)
class Use:
    """A GPU from its first instance until, in every order, it has none.

    Attributes:
        opens: the creations of which any may be the first; empty if it is in use from the beginning.
        closes: the destructions of which any may be the last; empty if it stays in use.
    """

    opens: tuple[int, ...]
    closes: tuple[int, ...]


def uses(graph: Graph, lifetimes: Sequence[Lifetime]) -> list[Use]:
    """Return the uses of all GPUs.

    Lifetimes that are linked by others with which they may coexist are one use. Two uses of a GPU are then
    ordered: all of the one has ended before any of the other begins.
    """
    per_gpu: dict[str, list[Lifetime]] = defaultdict(list)
    for each in lifetimes:
        per_gpu[each.gpu].append(each)
    return [_use(linked) for mine in per_gpu.values() for linked in _linked(graph, mine)]


def _linked(graph: Graph, mine: list[Lifetime]) -> Iterator[list[Lifetime]]:
    rest = list(mine)
    while rest:
        group = [rest.pop()]
        for one in group:
            near = [other for other in rest if not apart(graph, one, other)]
            group += near
            rest = [other for other in rest if other not in near]
        yield group


def _use(linked: Sequence[Lifetime]) -> Use:
    made = [each.made for each in linked]
    gone = [each.gone for each in linked]
    return Use(
        () if None in made else tuple(i for i in made if i is not None),
        () if None in gone else tuple(i for i in gone if i is not None),
    )


def most_in_use(graph: Graph, lifetimes: Sequence[Lifetime]) -> int:
    """Return how many GPUs can be in use at once, at most, in any order.

    One use comes before another if all that may close the one has ended before anything that opens the other
    begins. GPUs in use at one moment are never so ordered, so there are no more of them than the largest
    antichain, which is the least number of chains that cover all uses (Dilworth) and a matching tells. To
    find the exact maximum would be harder, and a graph should show that its budget is kept.
    """
    found = uses(graph, lifetimes)
    after = [
        [j for j, later in enumerate(found) if later.opens and _before(graph, use, later)]
        if use.closes
        else []
        for use in found
    ]
    return len(found) - _matching(after)


def _before(graph: Graph, one: Use, other: Use) -> bool:
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


def budget_faults(request: Request, graph: Graph, lifetimes: Sequence[Lifetime]) -> Iterator[Fault]:
    """Yield a budget of extra GPUs that some order may overdraw."""
    most = most_in_use(graph, lifetimes)
    if most > request.gpu_budget:
        yield Fault("extra_gpus", f"{most} GPUs may be in use at once in some order, of {request.gpu_budget}")


def peak_as_soon_as_possible(graph: Graph, lifetimes: Sequence[Lifetime]) -> int:
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
