"""Exchanges between GPUs: fewer services on each, and none on too few."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from partita.planning.plan import GpuConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.planning.problem import Problem

POLISHED_INSTANCES = 5000
"""Beyond so many instances the layout along GPUs is left as it is: exchanges would take minutes."""


def polish(problem: Problem, configs: Counter[GpuConfig]) -> Counter[GpuConfig]:
    """Exchange instances of equal size between GPUs until no exchange lessens the mixing, then mend the rest.

    Exchanges change neither the number of GPUs nor their cuts. Only where a service stands on fewer GPUs than
    the nodes it must be spread over, or a GPU holds more services than allowed, and no exchange helps, are
    instances moved to GPUs that are added.
    """
    spread = any(service.spread > 1 for service in problem.services)
    instances = sum(len(config.assignment) * n for config, n in configs.items())
    if instances > POLISHED_INSTANCES and not spread and problem.max_services_per_gpu is None:
        return configs
    board = _Board(problem, configs)
    if instances <= POLISHED_INSTANCES:
        board.lessen_mixing()
    board.spread_out()
    board.keep_limit()
    return board.configs()


class _Board:
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
        """Exchange while it lets a service leave a GPU without a new one coming to either."""
        improved = True
        while improved:
            improved = False
            for gpu in range(len(self._slots)):
                while self._improve(gpu):
                    improved = True

    def _improve(self, gpu: int) -> bool:
        """Let one service leave this GPU, by an exchange with a GPU where it stands already."""
        mine = self._services(gpu)
        if len(mine) < 2:
            return False
        for k, s in sorted(self._slots[gpu]):
            if self._held(gpu, s) > 1:
                continue
            for other in sorted(self._gpus_of[s] - {gpu}):
                # Whoever comes back must be here already; then nobody is new on either GPU.
                for j, back in sorted(self._slots[other]):
                    if j == k and back != s and back in mine and self._allows(back, other, gpu, s):
                        self._exchange(k, s, gpu, back, other)
                        return True
        return False

    def _allows(self, back: int, other: int, gpu: int, leaving: int) -> bool:
        """Say whether both services still stand on enough GPUs after the exchange."""
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
        """Yield (size, service, GPU) that may change places with the service, without standing on too few."""
        here = self._services(source)
        for other, slots in enumerate(self._slots):
            if other in self._gpus_of[s]:
                continue
            for j, back in sorted(slots):
                stays = back not in here or self._held(other, back) > 1
                if j == k and (stays or len(self._gpus_of[back]) > self._problem.services[back].spread):
                    yield k, back, other

    def keep_limit(self) -> None:
        """Move the least present services off GPUs that hold more than `max_services_per_gpu`."""
        limit = self._limit
        for gpu in range(len(self._slots)):
            while len(self._services(gpu)) > limit:
                s = min(self._services(gpu), key=lambda s: (self._held(gpu, s), s))
                for k in sorted(k for k, service in self._slots[gpu].elements() if service == s):
                    self._move(k, s, gpu, *self._room(gpu, k, s))

    def _room(self, gpu: int, k: int, s: int) -> tuple[int, int]:
        """Return another GPU with room for an instance like those of size k, and its size there.

        At worst it is a new GPU, of this pool unless it is used up and another has such GPUs.
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
        """Return by pool the size that does the same for the service as size k."""
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
