"""Counts of instances on physical GPUs that keep what runs there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from partita.transition.assignment import Assignment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from partita.planning.exact.counts import Counts
    from partita.planning.problem import Problem
    from partita.transition.deployment import DeployedGpu, Deployment


@dataclass(frozen=True, slots=True)
class Filled:
    """A GPU, the cut it gets, and its content as pairs of service and size."""

    gpu: DeployedGpu
    cut: int
    content: list[tuple[int, int]]


def held(problem: Problem, gpu: DeployedGpu) -> Iterator[tuple[int, int]]:
    """Yield service and size of the replicas on a GPU that run as the problem would have them."""
    services = {service.name: s for s, service in enumerate(problem.services)}
    sizes = {(problem.pools[size.pool].gpu.name, size.profile): k for k, size in enumerate(problem.sizes)}
    for each in gpu.instances:
        if each.replica is None or each.fixed:
            continue
        s, k = services.get(each.replica.service), sizes.get((gpu.model, each.placement.profile))
        if s is None or k is None:
            continue
        point = problem.services[s].points[k]
        if point and (point.batch, point.processes) == (each.replica.batch, each.replica.processes):
            yield s, k


def refill(problem: Problem, counts: Counts, current: Deployment) -> list[Filled] | None:
    """Return what each GPU is to hold; None if there are too few or a limit of the problem would be broken.

    Cuts go onto GPUs by assignment, worth what they let stay. Each GPU keeps what the counts still ask for; what is
    left goes where its service is already, or else together.
    """
    rest = counts.instances.copy()
    running = np.zeros_like(rest)
    for gpu in current.gpus:
        for pair in held(problem, gpu):
            running[pair] += 1
    share = np.minimum(1.0, rest / np.maximum(1, running))
    filled: list[Filled] = []
    for index, pool in enumerate(problem.pools):
        there = [gpu for gpu in current.gpus if gpu.model == pool.gpu.name]
        cuts = [p for p, cut in enumerate(problem.cuts) if cut.pool == index for _ in range(counts.cuts[p])]
        if len(cuts) > len(there):
            return None
        filled += _match(problem, there, cuts, share, rest)
    for each in filled:
        _complete(problem, each, rest)
    return None if rest.any() or not _within_limits(problem, filled) else filled


def _complete(problem: Problem, filled: Filled, rest: NDArray[np.int64]) -> None:
    """Give the free instances of a GPU what is left to place."""
    room = problem.supply[filled.cut].copy()
    for _, k in filled.content:
        room[k] -= 1
    for k in range(len(room)):
        for _ in range(int(room[k])):
            service = _next(rest[:, k], {s for s, _ in filled.content})
            if service is not None:
                rest[service, k] -= 1
                filled.content.append((service, k))


def _match(
    problem: Problem,
    there: list[DeployedGpu],
    cuts: list[int],
    share: NDArray[np.float64],
    rest: NDArray[np.int64],
) -> list[Filled]:
    """Give each cut a GPU, and let it keep what runs there as far as `rest`, which shrinks, asks for it."""
    mine = [list(held(problem, gpu)) for gpu in there]
    worth = np.array([[_worth(problem.supply[p], each, share) for each in mine] for p in sorted(set(cuts))])
    rows = {p: worth[row] for row, p in enumerate(sorted(set(cuts)))}
    if not cuts:
        return []
    value = np.array([rows[p] for p in cuts])
    found = []
    for row, i in enumerate(Assignment(value).columns()):
        content: list[tuple[int, int]] = []
        room = problem.supply[cuts[row]].copy()
        for s, k in sorted(mine[i], key=lambda pair: -share[pair]):
            if room[k] > 0 and rest[s, k] > 0:
                room[k] -= 1
                rest[s, k] -= 1
                content.append((s, k))
        found.append(Filled(there[i], cuts[row], content))
    return found


def _worth(supply: NDArray[np.int64], mine: list[tuple[int, int]], share: NDArray[np.float64]) -> float:
    room, total = supply.copy(), 0.0
    for s, k in sorted(mine, key=lambda pair: -share[pair]):
        if room[k] > 0:
            room[k] -= 1
            total += share[s, k]
    return total


def _next(rest: NDArray[np.int64], here: set[int]) -> int | None:
    """Return the service that an instance is best given to: one that is here already, or has the most to place."""
    mine = [s for s in here if rest[s] > 0]
    if mine:
        return max(mine, key=lambda s: (rest[s], -s))
    best = int(np.argmax(rest))
    return best if rest[best] > 0 else None


def _within_limits(problem: Problem, filled: list[Filled]) -> bool:
    most = problem.max_services_per_gpu
    nodes: dict[int, set[str]] = {s: set() for s in range(len(problem.services))}
    for each in filled:
        services = {s for s, _ in each.content}
        if most is not None and len(services) > most:
            return False
        for s in services:
            nodes[s].add(each.gpu.id.rpartition("/")[0])
    return all(len(nodes[s]) >= service.spread for s, service in enumerate(problem.services))
