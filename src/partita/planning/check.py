"""The independent checker of plans."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

from partita.mig.catalogue import gpu_model
from partita.planning.check_tenants import SharedRules, bundle_violations, shared_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.mig.gpu import GpuModel, Profile
    from partita.mig.layout import Placement
    from partita.perf.operating_point import Tenant
    from partita.perf.table import Measurement
    from partita.planning.plan import Instance, Plan
    from partita.workload import LimitsSpec, PoolSpec, ServiceSpec, Workload


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong: where in the plan, and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Rows(Protocol):
    """A performance table."""

    def of(self, model: str, gpu: str) -> Sequence[Measurement]:
        """Return the rows of a model on a GPU."""
        ...


# --- what a plan must meet, stated straight from the user's document


@dataclass(frozen=True, slots=True)
class RequiredService:
    """What one service is promised.

    Attributes:
        asked_rate: items/s, as the user wrote them.
        rate: items/s, headroom included.
        latency_slo_ms: the SLO itself.
        latency_ms: the longest that one batch may take: the SLO times the workload's latency factor.
        quantile: which latency counts; None for the strictest that the table has.
        profiles: names or sizes of the profiles it may run on; None for any.
        pools: names of the pools whose GPUs it may use; None for any.
        alone: has whole GPUs of its own, cut for queries of unlike sizes that run one at a time. `latency_ms` is then
            the SLO itself, and the quantile says how many queries keep it, not which latencies count.
        waits: its capacity counts queries that wait, so an instance has at most the throughput of the table. Whether
            enough of the queries are in time is what a simulation of the plan shows.
        survive: `gpu`, `node`, `rack` or `zone`: any one may be lost; `none` for nothing.
        survive_share: share of the rate, headroom included, that is left then.
        spot: most of the rate that may depend on spot GPUs, as a fraction; with 0 it uses none.
    """

    name: str
    model: str
    asked_rate: float
    rate: float
    latency_slo_ms: float
    latency_ms: float
    quantile: float | None = None
    profiles: tuple[str, ...] | None = None
    min_replicas: int = 1
    spread: int = 1
    alone: bool = False
    waits: bool = False
    pools: tuple[str, ...] | None = None
    survive: str = "none"
    survive_share: float = 1.0
    spot: float = 0.0


@dataclass(frozen=True, slots=True)
class RequiredPool:
    """A pool of GPUs: `gpu` with its forbidden combinations, `count` None for any number, `cost` per hour.

    `nodes_per_rack` is None and `zone` empty where they are not known; `spot` GPUs may be taken away together.
    """

    gpu: GpuModel
    count: int | None = None
    per_node: int = 8
    cost: float | None = None
    name: str = ""
    nodes_per_rack: int | None = None
    zone: str = ""
    spot: bool = False


NOTHING_SHARED = SharedRules()


@dataclass(frozen=True, slots=True)
class Requirements:
    """Services, pools, and the limits that hold for all; `shared` says who may share an instance."""

    services: tuple[RequiredService, ...]
    pools: tuple[RequiredPool, ...]
    max_batch: int | None = None
    max_processes: int = 1
    max_services_per_gpu: int | None = None
    shared: SharedRules = NOTHING_SHARED


def requirements(workload: Workload) -> Requirements:
    """Return what a workload asks of a plan."""
    limits = workload.limits
    return Requirements(
        services=tuple(_service(each, limits) for each in workload.services),
        pools=tuple(_pool(each, limits.forbid) for each in workload.gpus),
        max_batch=limits.max_batch,
        max_processes=limits.max_processes,
        max_services_per_gpu=limits.max_services_per_gpu,
        shared=shared_rules(workload),
    )


def _service(spec: ServiceSpec, limits: LimitsSpec) -> RequiredService:
    asked = limits.survive if spec.survive is None else spec.survive
    return RequiredService(
        name=spec.name,
        model=spec.model,
        asked_rate=spec.rate,
        rate=spec.rate * (1 + spec.headroom),
        latency_slo_ms=spec.slo.latency_ms,
        latency_ms=spec.slo.latency_ms * (1.0 if spec.cut else limits.latency_factor),
        quantile=spec.slo.quantile,
        profiles=spec.profiles,
        min_replicas=spec.min_replicas,
        spread=spec.spread,
        alone=spec.cut is not None,
        waits=spec.waits,
        pools=spec.pools,
        survive=asked if isinstance(asked, str) else asked.loss,
        survive_share=1.0 if isinstance(asked, str) else asked.share,
        spot=spec.spot,
    )


def _pool(spec: PoolSpec, forbid: tuple[str, ...]) -> RequiredPool:
    gpu = gpu_model(spec.model).forbidding(forbid)
    return RequiredPool(
        gpu,
        spec.count,
        spec.per_node,
        spec.cost_per_hour,
        spec.name or spec.model,
        spec.nodes_per_rack,
        spec.zone or "",
        spec.spot,
    )


# --- the whole plan


def check_plan(plan: Plan, wanted: Requirements, rows: Rows) -> list[Violation]:
    """Return all that is wrong in a plan; an empty list for a right one.

    Args:
        plan: the plan.
        wanted: what it must meet.
        rows: the performance table that its operating points must be found in, estimates included.
    """
    groups = _groups(plan)
    checker = GpuChecker(wanted, rows)
    return [
        *_id_violations(plan),
        *(
            violation
            for group in groups
            for violation in checker.check(group.label, group.model, group.instances)
        ),
        *_pool_violations(wanted, groups),
        *_listed_violations(plan, wanted.services),
        *_service_violations(plan, wanted.services, groups),
        *_loss_violations(wanted, groups),
        *_objective_violations(plan, wanted, groups, checker),
    ]


@dataclass(frozen=True, slots=True)
class _Group:
    """GPUs that share one tuple of instances: checked once."""

    model: str
    pool: str
    instances: tuple[Instance, ...]
    ids: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        others = len(self.ids) - 1
        return f"{self.ids[0]} and {others} more cut like it" if others else self.ids[0]


def _groups(plan: Plan) -> list[_Group]:
    groups: dict[tuple[str, str, int], _Group] = {}
    for gpu in plan.gpus:
        key = (gpu.model, gpu.pool, id(gpu.instances))
        if key not in groups:
            groups[key] = _Group(gpu.model, gpu.pool, gpu.instances)
        groups[key].ids.append(gpu.id)
    return list(groups.values())


def _node(gpu_id: str) -> str:
    return gpu_id.rpartition("/")[0]


def _id_violations(plan: Plan) -> Iterator[Violation]:
    for gpu_id, n in Counter(gpu.id for gpu in plan.gpus).items():
        if n > 1:
            yield Violation(gpu_id, f"{n} GPUs have this id")
        if not _node(gpu_id):
            yield Violation(gpu_id, "the id does not say the node, as in node-0/gpu-3")


def _pool_violations(wanted: Requirements, groups: list[_Group]) -> Iterator[Violation]:
    """Yield a violation for GPUs of no pool, and for pools with too many GPUs, in all or in a node.

    A GPU that does not name its pool may be of any pool of its model that all its services may use. By Hall's
    theorem all GPUs find a pool if no set of pools is asked for more GPUs than it has.
    """
    asked: Counter[frozenset[int]] = Counter()
    known = {service.name: service for service in wanted.services}
    for group in groups:
        mine = [
            index
            for index, pool in enumerate(wanted.pools)
            if pool.gpu.name == group.model and group.pool in ("", pool.name)
        ]
        named = dict.fromkeys(name for each in group.instances for name, _ in each.serves)
        services = [known[name] for name in named if name in known]
        fitting = [
            index
            for index in mine
            if all(s.pools is None or wanted.pools[index].name in s.pools for s in services)
        ]
        if group.pool and not mine:
            yield Violation(group.label, f"the workload has no pool {group.pool} of {group.model}")
        elif mine and not fitting:
            limited = ", ".join(s.name for s in services if s.pools is not None)
            yield Violation(group.label, f"no pool of {group.model} is open to all its services ({limited})")
        elif mine:
            asked[frozenset(fitting)] += len(group.ids)
    yield from _crowded(wanted.pools, asked)
    yield from _node_violations(wanted.pools, groups)


def _crowded(pools: Sequence[RequiredPool], asked: Counter[frozenset[int]]) -> Iterator[Violation]:
    unions = {frozenset[int]()}
    for each in asked:
        unions |= {each | other for other in unions}
    for union in sorted(unions, key=sorted):
        counts = [pools[index].count for index in union]
        there = sum(count for count in counts if count is not None)
        used = sum(n for each, n in asked.items() if each <= union)
        if None not in counts and used > there:
            names = ", ".join(dict.fromkeys(pools[i].name or pools[i].gpu.name for i in sorted(union)))
            yield Violation(names, f"{used} GPUs used of {there}")


def _node_violations(pools: Sequence[RequiredPool], groups: list[_Group]) -> Iterator[Violation]:
    on: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for group in groups:
        on[group.model, group.pool].update(map(_node, group.ids))
        size = max((pool.per_node for pool in _mine(pools, group.model, group.pool)), default=None)
        for gpu_id in group.ids:
            position = _POSITION.search(gpu_id)
            if position and size is not None and int(position[1]) >= size:
                yield Violation(gpu_id, f"no such position in a node of {size}, whose last is gpu-{size - 1}")
    for (model, name), uses in on.items():
        mine = _mine(pools, model, name)
        if mine:
            yield from _too_many_on(model, uses, max(pool.per_node for pool in mine))
            yield from _too_many_nodes(name or model, sorted(uses.values(), reverse=True), mine)


_POSITION = re.compile(r"/gpu-(\d{1,9})$")


def _mine(pools: Sequence[RequiredPool], model: str, name: str) -> list[RequiredPool]:
    """Return the pools that a GPU may be of: all of its model where it names none."""
    return [pool for pool in pools if pool.gpu.name == model and name in ("", pool.name)]


def _too_many_on(model: str, uses: Counter[str], size: int) -> Iterator[Violation]:
    for node, used in uses.items():
        if used > size:
            yield Violation(node, f"{used} GPUs of {model} in a node of {size}")


def _too_many_nodes(where: str, uses: Sequence[int], mine: Sequence[RequiredPool]) -> Iterator[Violation]:
    """Yield a violation where GPUs are on more nodes than there are, or fill larger nodes than there are.

    Args:
        where: the pool or GPU model.
        uses: GPUs on each node, the most first.
        mine: the pools that they may be of.
    """
    counts = [pool.count for pool in mine]
    if None not in counts and sum(uses) > sum(count or 0 for count in counts):
        return  # more GPUs than there are: _crowded says so
    if uses[0] > max(pool.per_node for pool in mine):
        return  # more on a node than any holds: _too_many_on says so
    sizes = sorted((size for pool in mine for size in _nodes_of(pool, len(uses))), reverse=True)
    if len(uses) > len(sizes):
        yield Violation(where, f"{len(uses)} nodes used of {len(sizes)}")
    elif any(used > size for used, size in zip(uses, sizes, strict=False)):
        yield Violation(
            where, f"{len(uses)} nodes used, not all of them have as many GPUs as the plan puts there"
        )


def _nodes_of(pool: RequiredPool, most: int) -> list[int]:
    """Return the GPUs of each node of a pool, at most `most` full nodes; only the last node may be partly filled."""
    if pool.count is None:
        return [pool.per_node] * most
    full, rest = divmod(pool.count, pool.per_node)
    return [pool.per_node] * min(full, most) + [rest] * (rest > 0)


def _listed_violations(plan: Plan, services: Sequence[RequiredService]) -> Iterator[Violation]:
    wanted = {service.name: service for service in services}
    listed = Counter(service.name for service in plan.services)
    for name, n in listed.items():
        if n > 1:
            yield Violation(f"service {name}", f"listed {n} times")
        if name not in wanted:
            yield Violation(f"service {name}", "not in the workload")
    for name in wanted:
        if name not in listed:
            yield Violation(f"service {name}", "missing in the plan")
    for service in plan.services:
        asked = wanted.get(service.name)
        if asked and not close(service.rate, asked.asked_rate):
            what = f"rate {service.rate:g}, the workload asks {asked.asked_rate:g}"
            yield Violation(f"service {service.name}", what)
        if asked and not close(service.latency_slo_ms, asked.latency_slo_ms):
            yield Violation(
                f"service {service.name}",
                f"SLO {service.latency_slo_ms:g} ms, the workload asks {asked.latency_slo_ms:g} ms",
            )


def _service_violations(
    plan: Plan, services: Sequence[RequiredService], groups: list[_Group]
) -> Iterator[Violation]:
    capacity: defaultdict[str, float] = defaultdict(float)
    replicas: Counter[str] = Counter()
    for group in groups:
        for instance in group.instances:
            for name, throughput in instance.serves:
                capacity[name] += throughput * len(group.ids)
                replicas[name] += len(group.ids)
    for listed in plan.services:
        held = capacity[listed.name]
        if not close(listed.capacity, held):
            yield Violation(
                f"service {listed.name}", f"capacity {listed.capacity:g}, its instances give {held:g}"
            )
    nodes = _nodes({s.name for s in services if s.spread > 1}, groups)
    for service in services:
        where = f"service {service.name}"
        if not capacity[service.name] >= service.rate * (1 - 1e-9):
            yield Violation(where, f"capacity {capacity[service.name]:g} is below the rate {service.rate:g}")
        if replicas[service.name] < service.min_replicas:
            yield Violation(where, f"{replicas[service.name]} replicas of at least {service.min_replicas}")
        if service.spread > 1 and len(nodes[service.name]) < service.spread:
            yield Violation(where, f"on {len(nodes[service.name])} nodes of at least {service.spread}")


def _nodes(names: set[str], groups: list[_Group]) -> dict[str, set[str]]:
    nodes: dict[str, set[str]] = {name: set() for name in names}
    for group in groups if names else ():
        on = {_node(gpu_id) for gpu_id in group.ids}
        for name in names & {name for instance in group.instances for name, _ in instance.serves}:
            nodes[name] |= on
    return nodes


# --- losses: each GPU, node, rack and zone is taken away, one at a time


def _loss_violations(wanted: Requirements, groups: list[_Group]) -> Iterator[Violation]:
    """Yield a violation for each service that some loss leaves with too little, and for what it has of spot GPUs."""
    if all(each.survive == "none" and not any(p.spot for p in wanted.pools) for each in wanted.services):
        return
    domains = _Domains(wanted.pools, groups)
    levels = {each.name: each.survive for each in wanted.services}
    total: defaultdict[str, float] = defaultdict(float)
    spot: defaultdict[str, float] = defaultdict(float)
    lost: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for group in groups:
        for name, each in (served for instance in group.instances for served in instance.serves):
            total[name] += each * len(group.ids)
            spot[name] += each * len(group.ids) if domains.spot(group) else 0.0
            for gpu_id in group.ids if levels.get(name, "none") != "none" else ():
                lost[name][domains.of(levels[name], group, gpu_id)] += each
    for service in wanted.services:
        where, held = f"service {service.name}", total[service.name]
        for domain, less in sorted(lost[service.name].items(), key=lambda item: -item[1])[:1]:
            least = service.rate * service.survive_share
            if not held - less >= least * (1 - 2e-9):
                yield Violation(where, f"without {domain}, {held - less:g} items/s are left, below {least:g}")
        least, reserved = service.rate * (1 - service.spot), held - spot[service.name]
        if spot[service.name] and service.spot == 0:
            yield Violation(where, "runs on spot GPUs, and has no `spot`")
        elif not reserved >= least * (1 - 2e-9) and spot[service.name]:
            yield Violation(where, f"{reserved:g} items/s are not on spot GPUs, below {least:g}")


class _Domains:
    """The rack and zone of each GPU: from its pool, and from its node's number, which counts through all pools."""

    def __init__(self, pools: Sequence[RequiredPool], groups: list[_Group]) -> None:
        self._pools = pools
        self._first: dict[str, int] = {}
        last: defaultdict[str, int] = defaultdict(lambda: -1)
        for group in groups:
            for pool in _mine(pools, group.model, group.pool):
                last[pool.name] = max(last[pool.name], *(_number(gpu_id) for gpu_id in group.ids))
        first = 0
        for pool in pools:
            self._first[pool.name] = first
            # A pool without a count has the nodes that the plan uses.
            nodes = math.ceil(pool.count / pool.per_node) if pool.count is not None else None
            first = max(first, last[pool.name] + 1) if nodes is None else first + nodes

    def spot(self, group: _Group) -> bool:
        """Return whether GPUs are, or may be, spot ones."""
        return any(pool.spot for pool in _mine(self._pools, group.model, group.pool))

    def of(self, level: str, group: _Group, gpu_id: str) -> str:
        """Return the name of the domain of a GPU; what does not say its zone or rack is in one with all like it."""
        mine = _mine(self._pools, group.model, group.pool)
        if level == "gpu":
            return gpu_id
        if level == "node":
            return _node(gpu_id)
        if level == "zone":
            return f"zone {' or '.join(sorted({pool.zone for pool in mine}))}"
        if len(mine) != 1 or mine[0].nodes_per_rack is None or _number(gpu_id) < 0:
            return "a rack that is not known"
        rack = (_number(gpu_id) - self._first[mine[0].name]) // mine[0].nodes_per_rack
        return f"rack {rack} of {mine[0].name}"


def _number(gpu_id: str) -> int:
    """Return the number of a GPU's node; -1 where its name has none."""
    found = re.fullmatch(r"node-(\d{1,9})", _node(gpu_id))
    return int(found[1]) if found else -1


def _objective_violations(
    plan: Plan, wanted: Requirements, groups: list[_Group], checker: GpuChecker
) -> Iterator[Violation]:
    objective = plan.objective
    if not objective.lower_bound <= objective.value + 1e-6 * max(1.0, abs(objective.value)):
        yield Violation(
            "objective", f"lower bound {objective.lower_bound:g} above the value {objective.value:g}"
        )
    if objective.name == "gpus":
        least = most = float(len(plan.gpus))
    elif objective.name == "cost":
        least, most = _cost(plan, wanted.pools)
    elif objective.name == "watts":
        least = most = sum(checker.watts(each.model, each.instances) * len(each.ids) for each in groups)
    else:
        yield Violation("objective", f"{objective.name!r} is none of gpus, cost, watts")
        return
    slack = 1e-6 * max(1.0, abs(most))
    if not least - slack <= objective.value <= most + slack:
        held = f"{least:g}" if close(least, most) else f"{least:g} to {most:g}"
        yield Violation("objective", f"value {objective.value:g}, the plan holds {held}")


def _cost(plan: Plan, pools: Sequence[RequiredPool]) -> tuple[float, float]:
    """Return the least and the most that the GPUs can cost; they differ where GPUs do not name their pool."""
    least = most = 0.0
    for (model, name), used in Counter((gpu.model, gpu.pool) for gpu in plan.gpus).items():
        mine = sorted(
            ((p.cost or 0.0, p.count) for p in pools if p.gpu.name == model and name in ("", p.name)),
            key=itemgetter(0),
        )
        least += _fill(mine, used)
        most += _fill(mine[::-1], used)
    return least, most


def _fill(pools: list[tuple[float, int | None]], used: int) -> float:
    total = 0.0
    for cost, count in pools:
        here = used if count is None else min(count, used)
        total += here * cost
        used -= here
    return total


# --- one GPU: its layout must be legal, its instances must run as the table says


def close(a: float, b: float) -> bool:
    """Return whether two figures are equal up to the rounding of sums in another order."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)


_Key = tuple[str, int, int]  # profile, batch, processes


class GpuChecker:
    """Checks GPUs one by one against the same requirements and table."""

    def __init__(self, wanted: Requirements, rows: Rows) -> None:
        self._wanted = wanted
        self._rows = rows
        self._gpus = {pool.gpu.name: pool.gpu for pool in wanted.pools}
        self._services = {service.name: service for service in wanted.services}
        self._index: dict[tuple[str, str, float | None, bool], dict[_Key, Measurement]] = {}

    def check(self, where: str, model: str, instances: Sequence[Instance]) -> Iterator[Violation]:
        """Yield what is wrong on one GPU, or on several that are cut alike."""
        gpu = self._gpus.get(model)
        if gpu is None:
            yield Violation(where, f"the workload has no GPUs {model}")
            return
        for why in layout_violations(gpu, [instance.placement for instance in instances]):
            yield Violation(where, why)
        services = {name for instance in instances for name, _ in instance.serves}
        limit = self._wanted.max_services_per_gpu
        if limit is not None and len(services) > limit:
            yield Violation(where, f"{len(services)} services share it, at most {limit} may")
        if len(services) > 1:
            for name in sorted(services & {each.name for each in self._wanted.services if each.alone}):
                yield Violation(where, f"service {name} must have its GPUs for itself")
        for instance in instances:
            for why in self._instance_violations(gpu, instance):
                yield Violation(f"{where}, {instance.placement}", why)

    def watts(self, model: str, instances: Sequence[Instance]) -> float:
        """Return the power of a GPU's instances by the table; NaN where it has none."""
        return math.fsum(self._power(model, instance) for instance in instances)

    def _power(self, model: str, instance: Instance) -> float:
        service = self._services.get(instance.service)
        row = self._row(service, model, instance) if service else None
        return math.nan if row is None or row.power_w is None else row.power_w

    def _shared_violations(self, gpu: GpuModel, instance: Instance) -> Iterator[str]:
        """Yield what is wrong with an instance that services share: with each of them, and with all together."""
        point, profile = instance.point, instance.placement.profile
        if point.profile != profile:
            yield f"its operating point is for {point.profile}"
        if point.processes != 1:
            yield f"{point.processes} processes; services that share an instance are run by one"
        for tenant in point.tenants:
            yield from self._tenant_violations(gpu, profile, tenant)
        slos = {each.name: (each.latency_slo_ms, each.quantile) for each in self._wanted.services}
        memory = next((each.memory_mib for each in gpu.profiles if each.name == profile), None)
        yield from bundle_violations(point.tenants, slos, memory)

    def _tenant_violations(self, gpu: GpuModel, profile: str, tenant: Tenant) -> Iterator[str]:
        service = self._services.get(tenant.service)
        if service is None:
            yield f"service {tenant.service} is not in the workload"
            return
        if service.name not in self._wanted.shared.may:
            yield f"service {service.name} may not share an instance"
        if tenant.model != service.model:
            yield f"runs model {tenant.model}, service {service.name} is {service.model}"
        if not _allowed(service, profile):
            yield f"service {service.name} may not run on {profile}"
        if self._wanted.max_batch is not None and tenant.batch > self._wanted.max_batch:
            yield f"batch {tenant.batch} is above {self._wanted.max_batch}"
        rows = _single(self._rows.of(service.model, gpu.name), service.quantile, profile)
        row = next((row for row in rows if row.batch == tenant.batch), None)
        if row is None:
            yield f"the table has no row for {service.model} on {gpu.name} {profile}, batch {tenant.batch}"
            return
        if not close(tenant.latency_ms, row.latency_ms):
            yield f"latency {tenant.latency_ms:g} ms of {service.name}, the table says {row.latency_ms:g} ms"
        if tenant.estimated != row.estimated:
            yield f"service {service.name} is wrongly marked as measured or as an estimate"
        memory = self._wanted.shared.memory(
            service.model, tenant.batch, row.memory_mb, estimated=row.estimated
        )
        if memory is None:
            yield f"nothing says how much memory {service.model} takes"
        elif tenant.memory_mb < memory - 1.0:
            yield f"memory {tenant.memory_mb:g} MB of {service.name}, it takes {memory:g}"

    def _instance_violations(self, gpu: GpuModel, instance: Instance) -> Iterator[str]:
        if instance.point.tenants:
            yield from self._shared_violations(gpu, instance)
            return
        service = self._services.get(instance.service)
        if service is None:
            yield f"service {instance.service} is not in the workload"
            return
        if instance.model != service.model:
            yield f"runs model {instance.model}, service {service.name} is {service.model}"
        if not _allowed(service, instance.placement.profile):
            yield f"service {service.name} may not run on {instance.placement.profile}"
        yield from self._limit_violations(service, instance)
        if service.alone:
            yield from self._alone_violations(service, gpu, instance)
        else:
            yield from self._row_violations(service, gpu, instance)

    def _limit_violations(self, service: RequiredService, instance: Instance) -> Iterator[str]:
        point, wanted = instance.point, self._wanted
        if service.alone and point.processes != 1:
            yield f"{point.processes} processes; a service with `cut` runs one, a query at a time"
        if not point.latency_ms <= service.latency_ms * (1 + 1e-9):
            yield f"latency {point.latency_ms:g} ms is above the {service.latency_ms:g} ms it may take"
        if wanted.max_batch is not None and point.batch > wanted.max_batch:
            yield f"batch {point.batch} is above {wanted.max_batch}"
        if point.processes > wanted.max_processes:
            yield f"{point.processes} processes, at most {wanted.max_processes} may share an instance"

    def _alone_violations(self, service: RequiredService, gpu: GpuModel, instance: Instance) -> Iterator[str]:
        """Yield what is wrong with the largest query an instance takes; its throughput depends on the traffic."""
        point, profile = instance.point, instance.placement.profile
        if point.profile != profile:
            yield f"its operating point is for {point.profile}"
        rows = _single(self._rows.of(service.model, gpu.name), service.quantile, profile)
        latency = _between(rows, point.batch)
        if latency is None:
            yield f"the table has no row for {service.model} on {gpu.name} {profile} that runs {point.batch} items"
        elif not close(point.latency_ms, latency):
            yield f"latency {point.latency_ms:g} ms, by the table {latency:g} ms"
        if rows and point.estimated != any(row.estimated for row in rows):
            yield "wrongly marked as measured or as an estimate"

    def _row_violations(self, service: RequiredService, gpu: GpuModel, instance: Instance) -> Iterator[str]:
        point = instance.point
        if point.profile != instance.placement.profile:
            yield f"its operating point is for {point.profile}"
        row = self._row(service, gpu.name, instance)
        if row is None:
            at = "" if service.quantile is None else f" at quantile {service.quantile:g}"
            yield (
                f"the table has no row for {service.model} on {gpu.name} {instance.placement.profile}, "
                f"batch {point.batch}, processes {point.processes}{at}"
            )
            return
        if service.waits and not 0 < point.throughput <= row.throughput * (1 + 1e-6):
            yield f"throughput {point.throughput:g}, with waiting at most {row.throughput:g} by the table"
        if not service.waits and not close(point.throughput, row.throughput):
            yield f"throughput {point.throughput:g}, the table says {row.throughput:g}"
        if not close(point.latency_ms, row.latency_ms):
            yield f"latency {point.latency_ms:g} ms, the table says {row.latency_ms:g} ms"
        if point.estimated != row.estimated:
            yield (
                "marked as an estimate, but measured" if point.estimated else "an estimate, not marked as one"
            )

    def _row(self, service: RequiredService, gpu: str, instance: Instance) -> Measurement | None:
        key = (service.model, gpu, service.quantile, service.waits)
        if key not in self._index:
            known = self._rows.of(service.model, gpu)
            rows = (
                _batch_times(known, service.quantile)
                if service.waits
                else _at_quantile(known, service.quantile)
            )
            self._index[key] = {(row.profile, row.batch, row.processes): row for row in rows}
        rows_at, point = self._index[key], instance.point
        profile = instance.placement.profile
        # A variant such as 1g.10gb+me has the compute and memory of 1g.10gb, whose rows stand for it.
        names = (profile, _plain(profile))
        found = (rows_at.get((name, point.batch, point.processes)) for name in names)
        return next((row for row in found if row is not None), None)


def _single(rows: Sequence[Measurement], asked: float | None, profile: str) -> list[Measurement]:
    """Return the rows of one process on a profile by batch, at the quantile asked for if it is there."""
    found = (asked is not None and _at_quantile(rows, asked)) or _at_quantile(rows, None)
    mine = [row for row in found if row.processes == 1]
    own = [row for row in mine if row.profile == profile] or [r for r in mine if r.profile == _plain(profile)]
    return sorted(own, key=lambda row: row.batch)


def _between(rows: Sequence[Measurement], batch: int) -> float | None:
    """Return the milliseconds of a query, on the line between the batches measured beside it; None above all."""
    above = next((row for row in rows if row.batch >= batch), None)
    if above is None or above is rows[0]:
        return None if above is None else above.latency_ms
    below = [row for row in rows if row.batch < batch][-1]
    part = (batch - below.batch) / (above.batch - below.batch)
    return below.latency_ms + part * (above.latency_ms - below.latency_ms)


def _at_quantile(rows: Sequence[Measurement], asked: float | None) -> list[Measurement]:
    """Return the rows at the quantile asked for; with none asked, at the strictest (a mean is weakest)."""
    rank = {row.quantile: -1.0 if row.quantile == "mean" else float(row.quantile) for row in rows}
    wanted = max(rank.values(), default=None) if asked is None else asked
    return [row for row in rows if rank[row.quantile] == wanted]


def _batch_times(rows: Sequence[Measurement], asked: float | None) -> list[Measurement]:
    """Return the rows that say how long batches last where queries wait: means, or else a quantile."""
    means = [row for row in rows if row.quantile == "mean"]
    return means or _at_quantile(rows, asked) or _at_quantile(rows, None)


def _plain(profile: str) -> str:
    return re.split(r"[+-]", profile)[0]


def _size(profile: str) -> str:
    return profile.partition(".")[0]


def _allowed(service: RequiredService, profile: str) -> bool:
    names = service.profiles
    return names is None or profile in names or (_plain(profile) == profile and _size(profile) in names)


def layout_violations(gpu: GpuModel, placements: Sequence[Placement]) -> Iterator[str]:
    """Yield why instances cannot stand together on a GPU (NVIDIA MIG User Guide, "Supported MIG Profiles")."""
    known = {profile.name: profile for profile in gpu.profiles}
    taken = [0] * gpu.memory_slices
    placed: list[Profile] = []
    for placement in placements:
        profile = known.get(placement.profile)
        if profile is None:
            yield f"{gpu.name} has no profile {placement.profile}"
        elif placement.start not in profile.starts:
            yield f"{profile.name} cannot start at {placement.start}"
        else:
            placed.append(profile)
            for memory_slice in range(placement.start, placement.start + profile.memory):
                taken[memory_slice] += 1
    for memory_slice, n in enumerate(taken):
        if n > 1:
            yield f"{n} instances overlap in memory slice {memory_slice}"
    yield from _count_violations(gpu, placed)


def _count_violations(gpu: GpuModel, placed: list[Profile]) -> Iterator[str]:
    compute = sum(profile.compute for profile in placed)
    if compute > gpu.compute_slices:
        yield f"{compute} compute slices used of {gpu.compute_slices}"
    for profile, n in Counter(placed).items():
        if n > profile.max_instances:
            yield f"{n} instances of {profile.name}, a GPU holds at most {profile.max_instances}"
    if sum(profile.media for profile in placed) > 1:
        yield "several instances own the media engines, only one can"
    by_name = Counter(profile.name for profile in placed)
    by_size = Counter(_size(profile.name) for profile in placed)
    for combination in gpu.forbidden:
        parts = Counter(combination.parts)
        if all((by_name if "." in part else by_size)[part] >= n for part, n in parts.items()):
            yield f"{'+'.join(combination.parts)} is forbidden"
