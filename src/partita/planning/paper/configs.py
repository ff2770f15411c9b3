"""GPU configurations: how many there are, and the best ones for what services still lack.

A configuration is a cut with a service on each of its instances; its score is the sum over its instances of
(1 - c) u (MIG-Serving, arXiv 2109.11067, section 5 and appendix A).
"""

from __future__ import annotations

from math import comb, prod
from typing import TYPE_CHECKING

import numpy as np

from partita.planning.paper.splits import LEAST_COST
from partita.planning.plan import GpuConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from partita.planning.paper.demand import Completion, Demand
    from partita.planning.problem import Cut


def count_configs(multisets: Iterable[tuple[int, ...]], services: int) -> int:
    """Return how many ways there are to give every instance of one of the multisets to a service.

    Instances of one size are interchangeable: k of them go to n services in C(n+k-1, k) ways (MIG-Serving,
    section 5.1, counts these).

    Args:
        multisets: instances of each size.
        services: how many services there are.
    """
    return sum(prod(comb(services + k - 1, k) for k in counts) for counts in multisets)


class PairSearch:
    """The best-scoring configuration of at most two services, followed as services complete.

    For a given split the best first and the best second service are independent, so one pass over the
    services per part finds the best of all pairs: O(C S) memory and time to start, then O(C) per GPU, and
    O(S) for each part whose best service changed. C, the distinct parts, is some tens.
    """

    def __init__(self, demand: Demand, done: Completion) -> None:
        self._demand = demand
        self._splits = demand.splits
        self._weight = demand.weight(done)
        self._score = self._splits.parts @ self._weight.T
        self._owner = self._score.argmax(axis=1)
        self._rows = np.arange(len(self._owner))

    def best(self, left: NDArray[np.float64]) -> GpuConfig | None:
        """Return the best configuration of pools that have GPUs left, None where no instance would help."""
        splits = self._splits
        best = self._score[self._rows, self._owner]
        scores = np.where(left[splits.pool] > 0, best[splits.first] + best[splits.second], 0.0)
        split = int(scores.argmax())
        if scores[split] <= 0:
            return None
        owners = self._owner[splits.first[split]], self._owner[splits.second[split]]
        return _pair(self._demand, self._weight, split, owners)

    def update(self, done: Completion, services: Iterable[int]) -> None:
        """Take note that these services are now this far."""
        self._weight = self._demand.weight(done)
        for service in services:
            self._score[:, service] = self._splits.parts @ self._weight[service]
            stale = np.flatnonzero(self._owner == service)
            self._owner[stale] = self._score[stale].argmax(axis=1)
            better = self._score[:, service] > self._score[self._rows, self._owner]
            self._owner[better] = service


def _pair(demand: Demand, weight: NDArray[np.float64], split: int, owners: tuple[int, int]) -> GpuConfig:
    """Return a split with its two services as a configuration; instances that help nobody stay empty."""
    splits = demand.splits
    cut = demand.problem.cuts[splits.cut[split]]
    pairs = [
        (size, int(service))
        for part, service in zip((splits.first[split], splits.second[split]), owners, strict=True)
        for size in np.flatnonzero(splits.parts[part]).tolist()
        if weight[service, size] > 0
        for _ in range(cut.counts[size])
    ]
    return GpuConfig(cut.pool, tuple(sorted(pairs)))


def top_pairs(
    demand: Demand, done: Completion, left: NDArray[np.float64], services: NDArray[np.int64], most: int
) -> list[GpuConfig]:
    """Return the best-scoring distinct configurations of at most two of these services, best first.

    Lists all of them, O(N m^2) for N splits and m services, so it is for a handful of services.
    """
    splits = demand.splits
    weight = demand.weight(done)
    score = splits.parts @ weight[services].T
    both = score[splits.first][:, :, None] + score[splits.second][:, None, :]
    alone = splits.second == 0
    both[alone] = np.where(np.eye(len(services), dtype=bool), both[alone], 0.0)
    both[left[splits.pool] <= 0] = 0.0
    flat = both.ravel()
    best = np.argsort(-flat, kind="stable")[: 2 * most]
    found: dict[GpuConfig, None] = {}
    for split, first, second in zip(*np.unravel_index(best[flat[best] > 0], both.shape), strict=True):
        found[_pair(demand, weight, int(split), (services[first], services[second]))] = None
    return list(found)[:most]


def packed(
    demand: Demand, done: Completion, left: NDArray[np.float64], services: NDArray[np.int64]
) -> list[GpuConfig]:
    """Return for each cut the configuration that mixes as many of these services as help, best score first.

    Instances are given out from large to small, each to the service of largest (1 - c) u, where u counts only
    as far as the service still lacks it and c grows with each instance. O(S) per instance of a cut.
    """
    cuts = [cut for cut in demand.problem.cuts if left[cut.pool] > 0]
    scored = [_pack(demand, cut, demand.gain(done)[services], demand.missing(done)[services]) for cut in cuts]
    order = sorted(range(len(cuts)), key=lambda index: -scored[index][0])
    return [
        GpuConfig(cuts[index].pool, tuple(sorted((size, int(services[s])) for size, s in scored[index][1])))
        for index in order
        if scored[index][1]
    ]


def _pack(
    demand: Demand, cut: Cut, gain: NDArray[np.float64], missing: NDArray[np.float64]
) -> tuple[float, list[tuple[int, int]]]:
    most = demand.problem.max_services_per_gpu or len(missing)
    missing = missing.copy()
    owned = np.zeros(len(missing), dtype=bool)
    pairs: list[tuple[int, int]] = []
    score = 0.0
    for size in reversed(range(len(cut.counts))):
        for _ in range(cut.counts[size]):
            useful = np.minimum(gain[:, size], missing)
            worth = missing * useful
            if np.count_nonzero(owned) >= most:
                worth[~owned] = 0.0
            best = int(worth.argmax())
            if worth[best] <= 0:
                break
            pairs.append((size, best))
            score += float(worth[best])
            missing[best] -= useful[best]
            owned[best] = True
    return score / max(demand.problem.gpu_cost(cut.pool), LEAST_COST), pairs
