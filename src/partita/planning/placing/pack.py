"""From counts to GPUs: which services share one, mixing as few as it costs nothing to."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from partita.planning.exact.simplify import simplify_cuts
from partita.planning.placing.polish import polish
from partita.planning.plan import GpuConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from partita.planning.exact.counts import Counts
    from partita.planning.problem import Problem

_Slots = tuple[tuple[int, int], ...]


def pack(problem: Problem, counts: Counts, *, simplify: bool = True) -> Counter[GpuConfig]:
    """Give every instance of the counts a GPU.

    First each service fills whole GPUs by itself. The rest is laid out size by size along the remaining
    GPUs, the services in one order, so that most GPUs hold one service per size of their cut; then exchanges
    between GPUs reduce the mixing further. Where `max_services_per_gpu` or `spread` leave instances without a GPU,
    GPUs are added.

    Args:
        problem: what the counts are for.
        counts: cuts that have room for the instances.
        simplify: whether plainer cuts of as many GPUs are looked for first.

    Returns:
        How many GPUs have each configuration.
    """
    rest = counts.instances.astype(np.int64)
    cuts = (simplify_cuts(problem, counts) if simplify else counts).cuts.copy()
    configs = _fill_alone(problem, rest, cuts)
    for config, n in _lay_out(problem, rest, cuts):
        configs[config] += n
    return polish(problem, configs)


def _fill_alone(problem: Problem, rest: NDArray[np.int64], cuts: NDArray[np.int64]) -> Counter[GpuConfig]:
    """Give each service as many whole GPUs as its instances fill; what is given leaves `rest` and `cuts`."""
    configs: Counter[GpuConfig] = Counter()
    for p in np.argsort(-cuts, kind="stable"):
        supply = problem.supply[p]
        used = np.flatnonzero(supply)
        whole = (rest[:, used] // supply[used]).min(axis=1)
        before = np.cumsum(whole) - whole
        whole = np.clip(cuts[p] - before, 0, whole)
        for s in np.flatnonzero(whole):
            slots = tuple((int(k), int(s)) for k in used for _ in range(supply[k]))
            configs[GpuConfig(problem.cuts[p].pool, slots)] += int(whole[s])
        rest -= whole[:, None] * supply
        cuts[p] -= whole.sum()
    return configs


def _lay_out(
    problem: Problem, rest: NDArray[np.int64], cuts: NDArray[np.int64]
) -> Iterator[tuple[GpuConfig, int]]:
    """Lay what is left along the GPUs that are left: yield configurations and how many GPUs have each."""
    queues = [_Queue(rest[:, k], int(cuts @ problem.supply[:, k])) for k in range(len(problem.sizes))]
    for p in np.argsort(-cuts, kind="stable"):
        gpus = int(cuts[p])
        used = [int(k) for k in np.flatnonzero(problem.supply[p])]
        lanes = [list(queues[k].lane(gpus, int(problem.supply[p, k]), k)) for k in used]
        for slots, n in _merge(lanes):
            if slots:
                yield GpuConfig(problem.cuts[p].pool, slots), n


class _Queue:
    """The instances of one size that wait for a slot, service after service."""

    def __init__(self, counts: NDArray[np.int64], supply: int) -> None:
        self._waiting = [(int(s), int(counts[s])) for s in np.flatnonzero(counts)]
        self._waiting.reverse()
        self._spare = supply - int(counts.sum())

    def lane(self, gpus: int, per_gpu: int, k: int) -> Iterator[tuple[_Slots, int]]:
        """Yield what the next GPUs get in this size, as runs of equal content."""
        while gpus:
            content, n = self._next(gpus, per_gpu)
            yield tuple((k, s) for s in content), n
            gpus -= n

    def _next(self, gpus: int, per_gpu: int) -> tuple[list[int], int]:
        if not self._waiting:
            return [], gpus
        service, count = self._waiting[-1]
        whole = min(gpus, count // per_gpu)
        if whole:
            self._take(whole * per_gpu)
            return [service] * per_gpu, whole
        content: list[int] = []
        while self._waiting and len(content) < per_gpu:
            # A slot that would be spare anyway is better spent on not starting another service here.
            if content and self._spare >= per_gpu - len(content):
                self._spare -= per_gpu - len(content)
                break
            service, count = self._waiting[-1]
            taken = min(count, per_gpu - len(content))
            content += [service] * taken
            self._take(taken)
        return content, 1

    def _take(self, n: int) -> None:
        service, count = self._waiting.pop()
        if count > n:
            self._waiting.append((service, count - n))


def _merge(lanes: list[list[tuple[_Slots, int]]]) -> Iterator[tuple[_Slots, int]]:
    """Join the lanes of the sizes of one cut: GPU i holds what each lane has at i."""
    position = [0] * len(lanes)
    left = [lane[0][1] if lane else 0 for lane in lanes]
    while lanes and all(i < len(lane) for i, lane in zip(position, lanes, strict=True)):
        n = min(left)
        yield tuple(sorted(slot for i, lane in zip(position, lanes, strict=True) for slot in lane[i][0])), n
        for index, lane in enumerate(lanes):
            left[index] -= n
            if not left[index]:
                position[index] += 1
                left[index] = lane[position[index]][1] if position[index] < len(lane) else 0
