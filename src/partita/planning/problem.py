"""The planning problem as arrays and values: what every planner is given, and nothing else."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from partita.mig.layout import maximal_multisets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from partita.mig.gpu import GpuModel
    from partita.perf.operating_point import OperatingPoint


WATTS_PER_GPU = 1e-6


RATE_SLACK = 1e-9
"""Share of a rate that may be missing because of rounding in sums of throughputs, as in `milp.FEASIBILITY`."""


_ROUNDING = 1e-12
"""Share of a rate that the rounding of one product may add.

It is far from `RATE_SLACK`: to HiGHS 1.16, coefficients that are as far from whole numbers as its tolerance are
whole, and it then calls programs infeasible that are not.
"""


ObjectiveName = Literal["gpus", "cost", "watts"]


Level = Literal["gpu", "node", "rack", "zone"]
"""What can be lost at once, from small to large: one contains whole ones of those before it."""


@dataclass(frozen=True, slots=True)
class GpuConfig:
    """One GPU's cut with a service on each instance, before starts and names are chosen.

    Attributes:
        pool: index of its pool.
        assignment: what runs on it: pairs of (index of size, index of service), sorted.
    """

    pool: int
    assignment: tuple[tuple[int, int], ...]


def gpus_used(configs: Mapping[GpuConfig, int]) -> Counter[int]:
    """Return how many GPUs of each pool have a configuration."""
    used: Counter[int] = Counter()
    for config, n in configs.items():
        used[config.pool] += n
    return used


@dataclass(frozen=True, slots=True)
class Pool:
    """GPUs of one model.

    Attributes:
        gpu: the model, its forbidden combinations included.
        count: how many there are; None for any number.
        per_node: GPUs in one node.
        cost: cost of one GPU per hour, in the user's currency.
        nodes_per_rack: nodes in one rack; None where that is not known.
        zone: zone of its nodes; empty where that is not known.
        spot: its GPUs may be taken away, together with those of all other such pools.
    """

    name: str
    gpu: GpuModel
    count: int | None = None
    per_node: int = 8
    cost: float = 1.0
    nodes_per_rack: int | None = None
    zone: str = ""
    spot: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A model with a required rate and a latency SLO.

    Attributes:
        rate: required items/s, headroom included.
        asked_rate: items/s as the user wrote them.
        latency_slo_ms: the SLO itself, without any safety factor.
        points: operating point per size, in the order of `Problem.sizes`; None where it cannot run.
        min_replicas: fewest instances.
        spread: fewest nodes that its instances run on.
        priority: higher is met first when not all can be.
        survive: what may be lost; None for nothing.
        survive_share: share of the rate that the rest still has then.
        spot: most of the rate that may depend on spot GPUs, as a fraction; 1 for all, also without such pools.
    """

    name: str
    model: str
    rate: float
    asked_rate: float
    latency_slo_ms: float
    points: tuple[OperatingPoint | None, ...]
    min_replicas: int = 1
    spread: int = 1
    priority: int = 0
    survive: Level | None = None
    survive_share: float = 1.0
    spot: float = 1.0

    @property
    def survivor_rate(self) -> float:
        """Items/s that any one loss must leave; 0 where none must be survived."""
        return 0.0 if self.survive is None else self.rate * self.survive_share


@dataclass(frozen=True, slots=True)
class Size:
    """A profile of a pool: instances of one size are interchangeable."""

    pool: int
    profile: str


@dataclass(frozen=True)
class Problem:
    """Services to place on pools of GPUs (the reconfigurable machine scheduling problem of MIG-Serving).

    Attributes:
        sizes: the K kinds of instance, pool after pool, from small to large.
        objective: what is minimised: GPUs, cost per hour, or watts of the instances.
        max_services_per_gpu: most services that may share a GPU; None for any number.
    """

    pools: tuple[Pool, ...]
    services: tuple[Service, ...]
    sizes: tuple[Size, ...]
    objective: ObjectiveName = "gpus"
    max_services_per_gpu: int | None = None

    @cached_property
    def rate(self) -> NDArray[np.float64]:
        """Required items/s, shape (S,); what survives a loss may need more than the rate itself.

        On n domains one of them holds at least an n-th, so n / (n - 1) of what must be left is needed.
        """
        if not any(service.survive for service in self.services):
            return np.array([service.rate for service in self.services])
        return np.array([self._with_loss(s) for s in range(len(self.services))])

    def _with_loss(self, s: int) -> float:
        service = self.services[s]
        if service.survive is None:
            return service.rate
        n = domains_there(self, s)
        more = service.survivor_rate * (n / (n - 1) if 1 < n < np.inf else 1.0)
        return max(service.rate, more * (1 - _ROUNDING))

    @cached_property
    def throughput(self) -> NDArray[np.float64]:
        """Items/s of service s on one instance of size k, 0 where it cannot run; shape (S, K)."""
        return self._per_point("throughput")

    @cached_property
    def instance_cost(self) -> NDArray[np.float64]:
        """What one instance of size k adds to the objective when service s runs on it; shape (S, K)."""
        if self.objective == "watts":
            return self._per_point("power_w")
        return np.zeros((len(self.services), len(self.sizes)))

    def _per_point(self, attribute: str) -> NDArray[np.float64]:
        # Services of one model and SLO share their points, so each distinct tuple is read once.
        rows: dict[int, list[float]] = {}
        for service in self.services:
            if id(service.points) not in rows:
                rows[id(service.points)] = [getattr(p, attribute) if p else 0.0 for p in service.points]
        table = [rows[id(service.points)] for service in self.services]
        return np.array(table).reshape(len(self.services), len(self.sizes))

    @cached_property
    def replicas(self) -> NDArray[np.int64]:
        """Fewest instances per service, those that `spread` and `survive` imply included; shape (S,)."""
        return np.array(
            [max(s.min_replicas, s.spread, 2 if s.survive else 1) for s in self.services], dtype=np.int64
        )

    def without_losses(self) -> Problem:
        """Return the problem of the same services that need not survive any loss."""
        return self.with_services(tuple(replace(each, survive=None) for each in self.services))

    @cached_property
    def survives(self) -> bool:
        """Whether any service must survive the loss of a GPU, node or rack: where instances stand then matters."""
        return any(service.survive not in {None, "zone"} for service in self.services)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The rates that services need on some of their sizes alone: outside each zone, and on no spot GPU."""
        found = []
        zone = np.array([self.pools[size.pool].zone for size in self.sizes])
        spot = np.array([self.pools[size.pool].spot for size in self.sizes])
        for s, service in enumerate(self.services):
            if service.survive != "zone" and service.spot >= 1:
                continue
            runs = self.throughput[s] > 0
            if service.survive == "zone":
                zones = np.unique(zone[runs]).tolist()
                found += [Part(s, runs & (zone != each), service.survivor_rate) for each in zones]
            if service.spot < 1 and (runs & spot).any():
                found.append(Part(s, runs & ~spot, service.rate * (1 - service.spot)))
        return tuple(found)

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The maximal multisets of each pool, those contained in another left out."""
        return tuple(cut for index in range(len(self.pools)) for cut in self._cuts_of(index))

    def _cuts_of(self, index: int) -> list[Cut]:
        pool = self.pools[index]
        names = [size.profile for size in self.sizes if size.pool == index]
        gpu = pool.gpu.restricted(names)
        first = next((k for k, size in enumerate(self.sizes) if size.pool == index), 0)
        order = [[p.name for p in gpu.profiles].index(name) for name in names]
        found = [tuple(counts[i] for i in order) for counts in maximal_multisets(gpu)]
        return [
            Cut(index, (*(0,) * first, *counts, *(0,) * (len(self.sizes) - first - len(counts))))
            for counts in found
            if any(counts) and not any(_contained(counts, other) for other in found)
        ]

    @cached_property
    def supply(self) -> NDArray[np.int64]:
        """Instances of size k that cut p gives; shape (P, K)."""
        return np.array([cut.counts for cut in self.cuts], dtype=np.int64).reshape(
            len(self.cuts), len(self.sizes)
        )

    @cached_property
    def cut_cost(self) -> NDArray[np.float64]:
        """What one GPU cut by p adds to the objective; shape (P,)."""
        return np.array([self.gpu_cost(cut.pool) for cut in self.cuts])

    def gpu_cost(self, pool: int) -> float:
        """Return what one GPU of a pool adds to the objective.

        Watts are those of the instances; a GPU costs next to nothing, only so that prices stay above zero.
        """
        return {"gpus": 1.0, "cost": self.pools[pool].cost, "watts": WATTS_PER_GPU}[self.objective]

    def config_cost(self, config: GpuConfig) -> float:
        """Return what one GPU of a configuration adds to the objective."""
        return self.gpu_cost(config.pool) + float(sum(self.instance_cost[s, k] for k, s in config.assignment))

    def with_services(self, services: tuple[Service, ...]) -> Problem:
        """Return the same problem for other services."""
        return replace(self, services=services)

    def with_counts(self, counts: Mapping[str, int | None]) -> Problem:
        """Return the same problem with other numbers of GPUs in the named pools."""
        pools = tuple(replace(p, count=counts.get(p.name, p.count)) for p in self.pools)
        return replace(self, pools=pools)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A rate in items/s that a service needs on some sizes: `sizes` is a mask, shape (K,)."""

    service: int
    sizes: NDArray[np.bool_]
    rate: float


def pools_there(problem: Problem, s: int) -> set[int]:
    """Return the indices of the pools that can run a service."""
    points = problem.services[s].points
    return {size.pool for size, point in zip(problem.sizes, points, strict=True) if point}


def domains_there(problem: Problem, s: int) -> float:
    """Return the most domains, at the level that a service survives, that it can run on; infinity for any number."""
    service, pools = problem.services[s], pools_there(problem, s)
    if service.survive == "zone":
        return len({problem.pools[index].zone for index in pools})
    return sum(_domains(problem.pools[index], service.survive) for index in pools)


def _domains(pool: Pool, level: Level | None) -> float:
    if pool.count is None:
        return math.inf
    nodes = math.ceil(pool.count / pool.per_node)
    return {"gpu": pool.count, "rack": math.ceil(nodes / (pool.nodes_per_rack or 1))}.get(level or "", nodes)


@dataclass(frozen=True, slots=True)
class Cut:
    """A way to cut a GPU of a pool: how many instances of each size, in the order of `Problem.sizes`."""

    pool: int
    counts: tuple[int, ...]


def _contained(counts: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return counts != other and all(a <= b for a, b in zip(counts, other, strict=True))


# --- pools that no service can tell apart are searched as one


@dataclass(frozen=True)
class MergedPools:
    """A problem in which equal pools of another problem are joined.

    Attributes:
        problem: the one to search.
        whole: the original.
        members: for each pool of `problem` the pools of `whole` that are joined in it.
    """

    problem: Problem
    whole: Problem
    members: tuple[tuple[int, ...], ...]

    def moved(self, config: GpuConfig, member: int) -> GpuConfig:
        """Return a configuration of `problem` as one of a pool of `whole`."""
        return self._to(member, config, self.problem)

    def beside(self, config: GpuConfig, member: int) -> GpuConfig:
        """Return a configuration of a pool of `whole` as one of an equal pool."""
        return config if config.pool == member else self._to(member, config, self.whole)

    def _to(self, member: int, config: GpuConfig, source: Problem) -> GpuConfig:
        slots = ((self._sizes[member][source.sizes[k].profile], s) for k, s in config.assignment)
        return GpuConfig(member, tuple(sorted(slots)))

    @cached_property
    def _sizes(self) -> dict[int, dict[str, int]]:
        found: dict[int, dict[str, int]] = defaultdict(dict)
        for k, size in enumerate(self.whole.sizes):
            found[size.pool][size.profile] = k
        return found

    def split(self, configs: Mapping[GpuConfig, int]) -> Counter[GpuConfig]:
        """Return configurations of `problem` as ones of `whole`, within each pool's count.

        Pools with a count are filled before one without, in the order of the workload. GPUs beyond all counts go to
        the last pool.
        """
        if self.problem is self.whole:
            return Counter(configs)
        found: Counter[GpuConfig] = Counter()
        left = {index: pool.count for index, pool in enumerate(self.whole.pools)}
        for config, n in sorted(configs.items(), key=lambda item: (item[0].pool, item[0].assignment)):
            rest = n
            mine = sorted(self.members[config.pool], key=lambda index: left[index] is None)
            for member in mine:
                free = left[member]
                taken = rest if free is None or member == mine[-1] else min(rest, free)
                if taken:
                    found[self.moved(config, member)] += taken
                    rest -= taken
                    left[member] = None if free is None else free - taken
        return found


def merge_pools(problem: Problem) -> MergedPools:
    """Return the problem with pools joined that have the same GPU, cost the same and run every service alike."""
    groups: dict[object, list[int]] = defaultdict(list)
    zones = any(service.survive == "zone" for service in problem.services)
    spot = any(service.spot < 1 for service in problem.services)
    nodes = any(service.survive in {"node", "rack"} for service in problem.services)
    for index, pool in enumerate(problem.pools):
        mine = [k for k, size in enumerate(problem.sizes) if size.pool == index]
        columns = tuple(
            (
                problem.sizes[k].profile,
                problem.throughput[:, k].tobytes(),
                problem.instance_cost[:, k].tobytes(),
            )
            for k in mine
        )
        apart = (zones and pool.zone, spot and pool.spot, nodes and _whole_domains(pool, index))
        groups[pool.gpu, problem.gpu_cost(index), columns, apart].append(index)
    members = tuple(tuple(each) for each in groups.values())
    if len(members) == len(problem.pools):
        return MergedPools(problem, problem, members)
    kept = [k for index, *_ in members for k, size in enumerate(problem.sizes) if size.pool == index]
    number = {group[0]: at for at, group in enumerate(members)}
    points: dict[int, tuple[OperatingPoint | None, ...]] = {}
    for service in problem.services:
        if id(service.points) not in points:
            points[id(service.points)] = tuple(service.points[k] for k in kept)
    merged = replace(
        problem,
        pools=tuple(_joined(problem, group) for group in members),
        services=tuple(replace(each, points=points[id(each.points)]) for each in problem.services),
        sizes=tuple(Size(number[problem.sizes[k].pool], problem.sizes[k].profile) for k in kept),
    )
    return MergedPools(merged, problem, members)


def _whole_domains(pool: Pool, index: int) -> tuple[int, int | None, int]:
    """Return what pools must have in common so that together they have as many nodes and racks as each by itself."""
    whole = pool.count is None or pool.count % (pool.per_node * (pool.nodes_per_rack or 1)) == 0
    return pool.per_node, pool.nodes_per_rack, -1 if whole else index


def _joined(problem: Problem, group: tuple[int, ...]) -> Pool:
    first = problem.pools[group[0]]
    counts = [problem.pools[index].count for index in group]
    finite = [count for count in counts if count is not None]
    together = sum(finite) if len(finite) == len(counts) else None
    name = "+".join(problem.pools[index].name for index in group)
    return replace(first, name=name, count=together)
