"""From counts to a plan: which services share a GPU, where each GPU stands, and where its instances start.

`pack` assigns the counted instances to GPUs and exchanges them until few services share a GPU. `assemble` makes a
plan of the resulting configurations: starts on each GPU, GPUs on nodes, names, and what each service gets.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.errors import PartitaError
from partita.mig.layout import Placement, layout_of
from partita.planning.compact import simplify_cuts
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver
from partita.planning.problem import WATTS_PER_GPU, GpuConfig, gpus_used, merge_pools

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from partita.mig.gpu import GpuModel
    from partita.planning.compact import Counts
    from partita.planning.problem import Pool, Problem


# --- from counts to GPUs

_Slots = tuple[tuple[int, int], ...]


def pack(problem: Problem, counts: Counts, *, simplify: bool = True) -> Counter[GpuConfig]:
    """Assign every counted instance to a GPU.

    First each service fills whole GPUs by itself. The rest is laid out size by size along the remaining
    GPUs, the services in one order, so that most GPUs hold one service per size of their cut; then exchanges
    between GPUs reduce the mixing further. Where `max_services_per_gpu` or `spread` leave instances without a GPU,
    GPUs are added.

    Args:
        problem: the problem that the counts solve.
        counts: cuts that have room for the instances.
        simplify: look first for simpler cuts of as many GPUs.

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
    """Give each service as many whole GPUs as its instances fill; subtract them from `rest` and `cuts`."""
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
    """Assign the remaining instances to the remaining GPUs; yield configurations and how many GPUs have each."""
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
        """Yield the slots of the next GPUs in this size, and how many GPUs in a row have them."""
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


# --- exchanges between GPUs: fewer services on each, and none on too few

POLISHED_INSTANCES = 5000
"""With more instances than this, none are exchanged: it would take minutes."""


def polish(problem: Problem, configs: Counter[GpuConfig]) -> Counter[GpuConfig]:
    """Exchange instances of equal size between GPUs until no exchange reduces the mixing, then keep the limits.

    Exchanges change neither the number of GPUs nor their cuts. GPUs are added only where no exchange helps and a
    service runs on fewer GPUs than the nodes it must be spread over, or a GPU holds more services than allowed.
    """
    spread = any(service.spread > 1 for service in problem.services)
    instances = sum(len(config.assignment) * n for config, n in configs.items())
    if instances > POLISHED_INSTANCES and not spread and problem.max_services_per_gpu is None:
        return configs
    contents = _GpuContents(problem, configs)
    if instances <= POLISHED_INSTANCES:
        contents.lessen_mixing()
    contents.spread_out()
    contents.keep_limit()
    return contents.configs()


class _GpuContents:
    """GPUs one by one: how many instances of (size, service) each holds."""

    def __init__(self, problem: Problem, configs: Counter[GpuConfig]) -> None:
        self._problem = problem
        self._limit = problem.max_services_per_gpu or len(problem.services)
        self._pools: list[int] = []
        self._slots: list[Counter[tuple[int, int]]] = []
        self._gpus_of: defaultdict[int, set[int]] = defaultdict(set)
        for config, n in configs.items():
            for _ in range(n):
                self._new(config.pool, Counter(config.assignment))

    def _new(self, pool: int, slots: Counter[tuple[int, int]]) -> int:
        self._pools.append(pool)
        self._slots.append(slots)
        for _, s in slots:
            self._gpus_of[s].add(len(self._slots) - 1)
        return len(self._slots) - 1

    def configs(self) -> Counter[GpuConfig]:
        """Return how many GPUs have each configuration."""
        pairs = zip(self._pools, self._slots, strict=True)
        return Counter(GpuConfig(pool, tuple(sorted(slots.elements()))) for pool, slots in pairs if slots)

    def _services(self, gpu: int) -> set[int]:
        return {s for _, s in self._slots[gpu]}

    def _held(self, gpu: int, service: int) -> int:
        return sum(n for (_, s), n in self._slots[gpu].items() if s == service)

    def _move(self, k: int, service: int, source: int, target: int, as_size: int | None = None) -> None:
        self._slots[source][k, service] -= 1
        if not self._slots[source][k, service]:
            del self._slots[source][k, service]
        self._slots[target][k if as_size is None else as_size, service] += 1
        self._gpus_of[service].add(target)
        if service not in self._services(source):
            self._gpus_of[service].discard(source)

    def _exchange(self, k: int, a: int, gpu_a: int, b: int, gpu_b: int) -> None:
        self._move(k, a, gpu_a, gpu_b)
        self._move(k, b, gpu_b, gpu_a)

    def lessen_mixing(self) -> None:
        """Exchange instances while a service can leave a GPU and neither GPU gets a new service."""
        improved = True
        while improved:
            improved = False
            for gpu in range(len(self._slots)):
                while self._improve(gpu):
                    improved = True

    def _improve(self, gpu: int) -> bool:
        """Let one service leave this GPU, by an exchange with a GPU where it runs already."""
        mine = self._services(gpu)
        if len(mine) < 2:
            return False
        for k, s in sorted(self._slots[gpu]):
            if self._held(gpu, s) > 1:
                continue
            for other in sorted(self._gpus_of[s] - {gpu}):
                # The service that comes back must run here already, so that neither GPU gets a new one.
                for j, back in sorted(self._slots[other]):
                    if j == k and back != s and back in mine and self._allows(back, other, gpu, s):
                        self._exchange(k, s, gpu, back, other)
                        return True
        return False

    def _allows(self, back: int, other: int, gpu: int, leaving: int) -> bool:
        """Return whether both services still run on enough GPUs after the exchange."""
        loses = self._held(other, back) == 1
        services = self._problem.services
        enough_back = not loses or len(self._gpus_of[back]) > services[back].spread
        return enough_back and len(self._gpus_of[leaving] - {gpu}) >= services[leaving].spread

    def spread_out(self) -> None:
        """Bring each service onto at least as many GPUs as the nodes it must be spread over."""
        for s, service in enumerate(self._problem.services):
            while 0 < len(self._gpus_of[s]) < service.spread:
                source = max(self._gpus_of[s], key=lambda g: (self._held(g, s), -g))
                sizes = sorted({k for k, held in self._slots[source] if held == s})
                partner = next((found for k in sizes for found in self._partners(source, k, s)), None)
                if partner is None:
                    self._move(sizes[0], s, source, *self._room(source, sizes[0], s))
                else:
                    self._exchange(partner[0], s, source, *partner[1:])

    def _partners(self, source: int, k: int, s: int) -> Iterator[tuple[int, int, int]]:
        """Yield (size, service, GPU) that may change places with the service and still run on enough GPUs."""
        here = self._services(source)
        for other, slots in enumerate(self._slots):
            if other in self._gpus_of[s]:
                continue
            for j, back in sorted(slots):
                stays = back not in here or self._held(other, back) > 1
                if j == k and (stays or len(self._gpus_of[back]) > self._problem.services[back].spread):
                    yield k, back, other

    def keep_limit(self) -> None:
        """Move the services with the fewest instances off GPUs that hold more than `max_services_per_gpu`."""
        limit = self._limit
        for gpu in range(len(self._slots)):
            while len(self._services(gpu)) > limit:
                s = min(self._services(gpu), key=lambda s: (self._held(gpu, s), s))
                for k in sorted(k for k, service in self._slots[gpu].elements() if service == s):
                    self._move(k, s, gpu, *self._room(gpu, k, s))

    def _room(self, gpu: int, k: int, s: int) -> tuple[int, int]:
        """Return another GPU with room for an instance like those of size k, and its size there.

        If no GPU has room it is a new one: of the same pool, or of an equal pool where that is used up.
        """
        at_home = self._gpus_of[s] if len(self._gpus_of[s]) > self._problem.services[s].spread else set()
        others: list[int] = [*sorted(at_home), *range(len(self._slots))]
        for other in others:
            apart = other in at_home or other not in self._gpus_of[s]
            allowed = s in self._services(other) or len(self._services(other)) < self._limit
            size = self._alike(k, s).get(self._pools[other])
            if other != gpu and apart and allowed and size is not None and self._fits(other, size):
                return other, size
        alike = self._alike(k, s)
        pool = next((p for p in (self._pools[gpu], *alike) if self._has_gpus(p)), self._pools[gpu])
        return self._new(pool, Counter()), alike[pool]

    def _alike(self, k: int, s: int) -> dict[int, int]:
        """Return, by pool, the size of the same profile on the same GPU model as size k."""
        sizes, pools = self._problem.sizes, self._problem.pools
        return {
            size.pool: j
            for j, size in enumerate(sizes)
            if size.profile == sizes[k].profile
            and pools[size.pool].gpu == pools[sizes[k].pool].gpu
            and self._problem.throughput[s, j] > 0
        }

    def _has_gpus(self, pool: int) -> bool:
        count = self._problem.pools[pool].count
        return count is None or self._pools.count(pool) < count

    def _fits(self, gpu: int, k: int) -> bool:
        counts = Counter(size for size, _ in self._slots[gpu].elements())
        counts[k] += 1
        return any(
            cut.pool == self._pools[gpu] and all(cut.counts[j] >= n for j, n in counts.items())
            for cut in self._problem.cuts
        )


# --- from configurations to a plan


def assemble(
    problem: Problem,
    configs: Mapping[GpuConfig, int],
    *,
    lower_bound: float,
    solver: Solver,
    placed: Placed | None = None,
) -> Plan:
    """Return the plan made of these configurations.

    GPUs of one configuration share one tuple of instances. Nodes are numbered consecutively over all pools. A pool
    with a count has as many nodes as its GPUs fill.

    Args:
        problem: the problem that the configurations solve.
        configs: how many GPUs have each.
        lower_bound: proven, in units of the objective.
        solver: what made the configurations.
        placed: the place of each GPU, if it is known.

    Raises:
        PartitaError: no way was found to spread the services over as many nodes as they must be.
    """
    maker = _Maker(problem)
    placed = placed or placed_configs(problem, configs)
    if placed is None:
        raise PartitaError(
            "no way was found to spread the services over as many nodes as asked, nor proof that there is none",
            where="services",
            hint="lower `spread`, add nodes, or try --planner exact, which finds a way or proves that there is none",
        )
    named = pool_names(problem)
    gpus = tuple(
        PlannedGpu(
            f"node-{node}/gpu-{position}",
            problem.pools[config.pool].gpu.name,
            maker.instances(config),
            named[config.pool],
        )
        for (node, position), config in placed
    )
    value = _value(problem, configs)
    if problem.objective == "watts":
        # Planners add WATTS_PER_GPU for each GPU, the value does not. A plan has at most one GPU per instance.
        instances = sum(len(config.assignment) * n for config, n in configs.items())
        lower_bound -= WATTS_PER_GPU * instances
    return Plan(
        objective=Objective(problem.objective, value, min(lower_bound, value)),
        solver=solver,
        services=maker.capacities(configs),
        gpus=gpus,
    )


def pool_names(problem: Problem) -> list[str]:
    """Return, by pool, the pool name that the plan writes: empty where the GPU model alone identifies the pool."""
    models = Counter(pool.gpu.name for pool in problem.pools)
    return [
        "" if pool.name == pool.gpu.name and models[pool.gpu.name] == 1 else pool.name
        for pool in problem.pools
    ]


def _line(configs: Mapping[GpuConfig, int], pool: int) -> list[GpuConfig]:
    """Return one entry per GPU of a pool, GPUs of one service beside each other."""
    mine = sorted((c for c in configs if c.pool == pool), key=lambda c: (c.assignment[0][1], c.assignment))
    return [config for config in mine for _ in repeat(None, configs[config])]


def _value(problem: Problem, configs: Mapping[GpuConfig, int]) -> float:
    """Return the objective of the configurations as the user sees it, in whole GPUs, currency or watts."""
    if problem.objective == "watts":
        watts = problem.instance_cost
        return float(sum(n * watts[s, k] for config, n in configs.items() for k, s in config.assignment))
    return float(sum(problem.gpu_cost(pool) * n for pool, n in gpus_used(configs).items()))


class _Maker:
    """Makes instances; equal ones are one object."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._gpus = [_used_profiles(problem, index) for index in range(len(problem.pools))]
        self._made: dict[tuple[int, int, int], Instance] = {}
        self._tuples: dict[GpuConfig, tuple[Instance, ...]] = {}

    def instances(self, config: GpuConfig) -> tuple[Instance, ...]:
        """Return the instances of a configuration with their starts, in the order of starts."""
        if config not in self._tuples:
            self._tuples[config] = self._place(config)
        return self._tuples[config]

    def _place(self, config: GpuConfig) -> tuple[Instance, ...]:
        gpu = self._gpus[config.pool]
        waiting: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for k, s in reversed(config.assignment):
            waiting[self._problem.sizes[k].profile].append((k, s))
        counts = tuple(len(waiting[profile.name]) for profile in gpu.profiles)
        return tuple(self._instance(p, *waiting[p.profile].pop()) for p in layout_of(gpu, counts))

    def _instance(self, placement: Placement, k: int, s: int) -> Instance:
        key = (placement.start, k, s)
        if key not in self._made:
            service = self._problem.services[s]
            point = service.points[k]
            if point is None:
                raise AssertionError(f"{service.name} cannot run on {placement.profile}")
            self._made[key] = Instance(placement, service.name, service.model, point)
        return self._made[key]

    def capacities(self, configs: Mapping[GpuConfig, int]) -> tuple[ServiceCapacity, ...]:
        """Return what each service gets."""
        throughput = self._problem.throughput
        given: dict[int, float] = defaultdict(float)
        for config, n in configs.items():
            for k, s in config.assignment:
                given[s] += n * float(throughput[s, k])
        return tuple(
            ServiceCapacity(service.name, service.asked_rate, given[s], service.latency_slo_ms)
            for s, service in enumerate(self._problem.services)
        )


def _used_profiles(problem: Problem, pool: int) -> GpuModel:
    names = [size.profile for size in problem.sizes if size.pool == pool]
    return problem.pools[pool].gpu.with_plain(names)


# --- which node each GPU stands on

Place = tuple[int, int]
"""A node and a position in it, both counted from 0."""


Placed = list[tuple[Place, "GpuConfig"]]


_ATTEMPTS = 20


def placed_configs(
    problem: Problem, configs: Mapping[GpuConfig, int], deadline: Deadline | None = None
) -> Placed | None:
    """Return where GPUs of these configurations stand; None where no way to spread the services was found.

    Args:
        problem: the problem that the configurations solve.
        configs: how many GPUs have each.
        deadline: when to give up.
    """
    return place_on_nodes(problem, [_line(configs, index) for index in range(len(problem.pools))], deadline)


def place_on_nodes(
    problem: Problem, lines: Sequence[Sequence[GpuConfig]], deadline: Deadline | None = None
) -> Placed | None:
    """Return each GPU with its place, nodes numbered consecutively over all pools; None if none was found.

    GPUs fill node after node unless a service must be spread; then nodes are filled in turn, and GPUs change
    places until every service runs on as many nodes as it must. A GPU may go to a pool that is like its own.
    None does not prove that there is no way; `planning/on_nodes.py` proves that.

    Args:
        problem: its services say how far they must be spread.
        lines: the configuration of each GPU, pool by pool, no more than the pool has.
        deadline: when to give up; one attempt is always made.
    """
    widest = max((service.spread for service in problem.services), default=1)
    if widest > 1:
        return _spread(problem, lines, widest, deadline or Deadline())
    placed: Placed = []
    first = 0
    for pool, line in zip(problem.pools, lines, strict=True):
        for index, config in enumerate(line):
            node, position = divmod(index, pool.per_node)
            placed.append(((first + node, position), config))
        first += nodes_of(pool, len(line), 0)
    return placed


def nodes_of(pool: Pool, gpus: int, at_least: int) -> int:
    """Return how many nodes a pool has: as its count fills, or else as `gpus` fill, at least `at_least`."""
    if pool.count is not None:
        return math.ceil(pool.count / pool.per_node)
    return max(math.ceil(gpus / pool.per_node), at_least if gpus else 0)


def _spread(
    problem: Problem, lines: Sequence[Sequence[GpuConfig]], widest: int, deadline: Deadline
) -> Placed | None:
    """Try more nodes where a pool has no count, and other orders of the GPUs, until services are spread."""
    longest = max(len(line) for line in lines)
    for attempt in range(max(_ATTEMPTS, longest - widest + 1)):
        if attempt and deadline.over:
            return None
        order = random.Random(attempt)
        shuffled = [order.sample(line, len(line)) if attempt else line for line in lines]
        nodes = _Nodes(problem, shuffled, min(widest + attempt, longest))
        if nodes.spread():
            return nodes.placed()
    return None


class _Nodes:
    """All places of all nodes, filled with one GPU per node in turn."""

    def __init__(self, problem: Problem, lines: Sequence[Sequence[GpuConfig]], widest: int) -> None:
        self._merged = merge_pools(problem)
        self._alike = {m: group for group, ms in enumerate(self._merged.members) for m in ms}
        self._wanted = {s: each.spread for s, each in enumerate(problem.services) if each.spread > 1}
        self._places: list[Place] = []
        self._held: list[GpuConfig | None] = []
        self._pool: list[int] = []
        first = 0
        for index, (pool, line) in enumerate(zip(problem.pools, lines, strict=True)):
            nodes = nodes_of(pool, len(line), widest)
            room = nodes * pool.per_node if pool.count is None else pool.count
            places = sorted((divmod(i, pool.per_node) for i in range(room)), key=lambda p: (p[1], p[0]))
            for i, (node, position) in enumerate(places):
                self._places.append((first + node, position))
                self._held.append(line[i] if i < len(line) else None)
                self._pool.append(index)
            first += nodes
        self._spreading = [
            {s for _, s in config.assignment if s in self._wanted} if config else set[int]()
            for config in self._held
        ]
        self._on: dict[int, Counter[int]] = defaultdict(Counter)
        for at, services in enumerate(self._spreading):
            for s in services:
                self._on[s][self._places[at][0]] += 1

    def placed(self) -> Placed:
        """Return each GPU with its place, its configuration written for the pool of that place."""
        order = sorted(range(len(self._places)), key=self._places.__getitem__)
        return [
            (self._places[at], self._merged.beside(config, self._pool[at]))
            for at in order
            if (config := self._held[at]) is not None
        ]

    def spread(self) -> bool:
        """Exchange places while a service gains a node; return whether all are spread."""
        short = self._short()
        while short:
            if not any(self._widen(s) for s in short):
                return False
            short = self._short()
        return True

    def _short(self) -> list[int]:
        return [s for s, spread in self._wanted.items() if self._nodes(s) < spread]

    def _nodes(self, s: int) -> int:
        return sum(1 for n in self._on[s].values() if n)

    def _widen(self, s: int) -> bool:
        on = self._on[s]
        for source in [at for at, services in enumerate(self._spreading) if s in services]:
            for target, (node, _) in enumerate(self._places):
                if on[node] or self._alike[self._pool[target]] != self._alike[self._pool[source]]:
                    continue
                if self._gain(source, target) > 0:
                    self._swap(source, target)
                    return True
        return False

    def _gain(self, a: int, b: int) -> int:
        """Return how many of the nodes that services still lack an exchange would give them."""
        from_a, from_b = self._spreading[a], self._spreading[b]
        node_a, node_b = self._places[a][0], self._places[b][0]
        moves = [(s, node_a, node_b) for s in from_a - from_b] + [
            (s, node_b, node_a) for s in from_b - from_a
        ]
        total = 0
        for s, source, target in moves:
            before = self._nodes(s)
            after = before - (self._on[s][source] == 1) + (self._on[s][target] == 0)
            total += min(after, self._wanted[s]) - min(before, self._wanted[s])
        return total

    def _swap(self, a: int, b: int) -> None:
        for at, to in ((a, b), (b, a)):
            for s in self._spreading[at]:
                self._on[s][self._places[at][0]] -= 1
                self._on[s][self._places[to][0]] += 1
        self._held[a], self._held[b] = self._held[b], self._held[a]
        self._spreading[a], self._spreading[b] = self._spreading[b], self._spreading[a]
