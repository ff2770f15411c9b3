"""The checker's part for instances: each one's story, and what stands beside what in some order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.mig.catalogue import gpu_model
from partita.planning.checking.check_gpu import Fault, layout_faults
from partita.transition.transition import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement
    from partita.transition.check_graph import Graph
    from partita.transition.deployment import Replica
    from partita.transition.transition import Request


@dataclass(frozen=True, slots=True)
class Lifetime:
    """An instance from the action that makes it to the one that destroys it; None for ever."""

    gpu: str
    placement: Placement
    made: int | None
    gone: int | None


class Stories:
    """What happens on every placement. `faults` says where that is impossible or left to chance."""

    def __init__(self, request: Request, graph: Graph) -> None:
        self.faults: list[Fault] = []
        self.lifetimes: list[Lifetime] = []
        self.final: dict[tuple[str, Placement], Replica | None] = {}
        self._graph = graph
        self._position = {i: n for n, i in enumerate(graph.sequence)}
        self._there = {
            (gpu.id, each.placement): each for gpu in request.current.gpus for each in gpu.instances
        }
        on: dict[tuple[str, Placement], list[int]] = {key: [] for key in self._there}
        gpus = {gpu.id for gpu in request.current.gpus}
        for i, action in enumerate(graph.actions):
            if action.gpu in gpus:
                on.setdefault((action.gpu, action.placement), []).append(i)
            else:
                self.faults.append(Fault(action.id, f"there is no GPU {action.gpu}"))
        for (gpu, placement), found in on.items():
            self._tell(gpu, placement, found)

    def _tell(self, gpu: str, placement: Placement, found: list[int]) -> None:
        first = self._there.get((gpu, placement))
        where = f"{gpu} {placement}"
        if first is not None and first.fixed and found:
            self.faults.append(Fault(where, "this instance is fixed, and an action is on it"))
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
                self.faults.append(Fault(where, f"actions {one} and {other} may happen in either order"))
        return line

    def _step(
        self, i: int, state: tuple[bool, Replica | None, int | None]
    ) -> tuple[bool, Replica | None, int | None]:
        present, replica, made = state
        action = self._graph.actions[i]
        why = _impossible(action.kind, action.replica, present=present, running=replica)
        if why:
            self.faults.append(Fault(action.id, why))
        if action.kind is Kind.CREATE_INSTANCE:
            return True, None, i
        if action.kind is Kind.DESTROY_INSTANCE:
            self.lifetimes.append(Lifetime(action.gpu, action.placement, made, i))
            return False, None, None
        return present, action.replica if action.kind is Kind.START_REPLICA else None, made


def _impossible(kind: Kind, replica: Replica | None, *, present: bool, running: Replica | None) -> str | None:
    if kind is Kind.CREATE_INSTANCE:
        return "creates an instance that is there already" if present else None
    if not present:
        return "there is no such instance then"
    if kind is Kind.STOP_REPLICA:
        return (
            None if running == replica and replica is not None else "stops a replica that does not run there"
        )
    if running is not None:
        return f"{running.service} still runs there"
    if kind is Kind.START_REPLICA and replica is None:
        return "starts no replica"
    return None


def placement_faults(request: Request, graph: Graph, lifetimes: Sequence[Lifetime]) -> Iterator[Fault]:
    """Yield the sets of instances that may stand together in some order and are not legal.

    Two lifetimes of a GPU coexist in some order unless one's end comes before the other's beginning in every
    order. Lifetimes of which each two coexist, all coexist in one state: the one where just what comes before
    the creation of each has ended. So the largest sets that can come about are the maximal cliques of that
    relation; once each two are disjoint in memory, no clique is larger than a GPU's memory slices, which keeps
    their number polynomial.
    """
    per_gpu: dict[str, list[Lifetime]] = defaultdict(list)
    for each in lifetimes:
        per_gpu[each.gpu].append(each)
    models = {gpu.id: gpu.model for gpu in request.current.gpus}
    for gpu_id, mine in per_gpu.items():
        try:
            gpu = gpu_model(models[gpu_id]).forbidding(request.forbid)
        except InputError as error:
            yield Fault(gpu_id, error.what)
            continue
        yield from _gpu_faults(gpu_id, gpu, graph, mine)


def _gpu_faults(where: str, gpu: GpuModel, graph: Graph, mine: list[Lifetime]) -> Iterator[Fault]:
    beside: dict[int, set[int]] = {i: set() for i in range(len(mine))}
    wrong = False
    for i, one in enumerate(mine):
        for why in layout_faults(gpu, [one.placement]):
            wrong = True
            yield Fault(where, why)
        for j in range(i):
            if apart(graph, one, mine[j]):
                continue
            beside[i].add(j)
            beside[j].add(i)
            for why in layout_faults(gpu, (one.placement, mine[j].placement)):
                wrong = True
                yield Fault(where, f"{one.placement} beside {mine[j].placement} in some order: {why}")
    if wrong:
        return
    for clique in _maximal_cliques(beside):
        placements = sorted(mine[i].placement for i in clique)
        for why in layout_faults(gpu, placements):
            yield Fault(where, f"{' '.join(map(str, placements))} in some order: {why}")


def apart(graph: Graph, one: Lifetime, other: Lifetime) -> bool:
    """Say whether two lifetimes never coexist: one has ended before the other begins, in every order."""
    return _before(graph, one, other) or _before(graph, other, one)


def _before(graph: Graph, one: Lifetime, other: Lifetime) -> bool:
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
