"""What a plan keeps of its promises when GPUs, nodes, racks or zones are gone.

A service that says `survive` promises its share of the queries at a share of its rate after any one loss of its
level. Where some service says that, others promise nothing for a loss; where none does, all are held to what they
promise.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from partita.errors import InputError, nearest
from partita.verification.outcome import ServiceOutcome, Trial, Verdict
from partita.verification.plan_simulation import outcomes_of
from partita.verification.tasks import Judged, promised_share, tasks_of
from partita.workload import survived

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan, PlannedGpu
    from partita.verification.tasks import Task
    from partita.workload import Loss, PoolSpec, Workload


@dataclass(frozen=True, slots=True)
class LossOutcome:
    """What becomes of the queries where something is lost.

    Attributes:
        lost: names of GPUs, nodes, racks or zones; the loss of each of them comes to the same.
        services: those that lose instances.
    """

    lost: tuple[str, ...]
    services: tuple[ServiceOutcome, ...]

    @property
    def broken(self) -> tuple[ServiceOutcome, ...]:
        """The services that do not keep their promise then."""
        return tuple(each for each in self.services if each.verdict is Verdict.BROKEN)


@dataclass(frozen=True, slots=True)
class LossesOutcome:
    """What becomes of the queries of a plan for each loss.

    Attributes:
        level: what is lost.
        losses: those that are unlike each other.
        stopped: whether some are missing.
    """

    level: Loss
    losses: tuple[LossOutcome, ...]
    stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "level": self.level,
            "keeps": not any(each.broken for each in self.losses),
            "losses": [
                {
                    "lost": list(each.lost),
                    "keeps": not each.broken,
                    "services": [service.to_dict() for service in each.services],
                }
                for each in self.losses
            ],
        }


def simulate_losses(
    plan: Plan,
    prepared: PreparedWorkload,
    level: Loss,
    trial: Trial | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] | None = None,
) -> LossesOutcome:
    """Simulate a plan without each of its GPUs, nodes, racks or zones in turn.

    Only services that lose instances are simulated, and losses that leave a service alike instances once.

    Args:
        plan: for the workload.
        prepared: the workload.
        level: what is lost.
        trial: how to simulate.
        stop: returns True once the result so far is wanted.
        report: called with the number of services that are simulated, and of all, over all losses.

    Raises:
        InputError: the plan is not for this workload, its racks or zones are not known, or there is no such router.
    """
    trial = trial or Trial()
    domains = Domains(plan, prepared.workload)
    groups: list[tuple[Task, ...]] = []
    known: dict[tuple[object, ...], int] = {}
    losses: list[tuple[tuple[str, ...], set[str], list[int]]] = []
    for names, gone in _alike_losses(plan, level, domains):
        hit = {name for gpu in gone for each in gpu.instances for name, _ in each.serves}
        lost = {gpu.id for gpu in gone}
        rest = replace(plan, gpus=tuple(gpu for gpu in plan.gpus if gpu.id not in lost))
        numbers = []
        for group in tasks_of(rest, prepared, trial, domains.judged(gone)):
            if hit & {task.served.name for task in group}:
                number = known.setdefault(tuple(task.signature for task in group), len(groups))
                if number == len(groups):
                    groups.append(group)
                numbers.append(number)
        losses.append((names, hit, numbers))
    found = outcomes_of(groups, trial, stop, report)
    return LossesOutcome(
        level,
        tuple(
            LossOutcome(
                names,
                tuple(each for number in numbers for each in found[number] if each.service in hit),
            )
            for names, hit, numbers in losses
            if all(number in found for number in numbers)
        ),
        stopped=len(found) < len(groups),
    )


def without(plan: Plan, names: Sequence[str], domains: Domains) -> Plan:
    """Return a plan without some GPUs, nodes, racks or zones; services keep what they promise.

    Raises:
        InputError: the plan has none of that name.
    """
    gone = {gpu.id for gpu in domains.named(names)}
    return replace(plan, gpus=tuple(gpu for gpu in plan.gpus if gpu.id not in gone))


class Domains:
    """What the GPUs of a plan stand in, and what services promise when some are lost.

    Args:
        plan: whose GPUs they are.
        workload: that it is for; its pools say which racks and zones there are.
    """

    def __init__(self, plan: Plan, workload: Workload) -> None:
        self._plan, self._workload = plan, workload
        self._pools = {pool.label: pool for pool in reversed(workload.gpus)}
        self._by_model = {pool.model: pool for pool in reversed(workload.gpus)}
        self._first = self._first_nodes()

    def of(self, gpu: PlannedGpu, level: Loss) -> str:
        """Return the name of what a GPU stands in: `node-0/gpu-3`, `node-0`, `POOL/rack-0`, or its zone.

        Raises:
            InputError: the workload does not say it.
        """
        if level == "gpu":
            return gpu.id
        if level == "node":
            return _node_of(gpu)
        pool, number = self._pool(gpu), _number(gpu)
        if level == "zone" and pool is not None and pool.zone is not None:
            return pool.zone
        if level == "rack" and pool is not None and pool.nodes_per_rack is not None and number is not None:
            return f"{pool.label}/rack-{(number - self._first[pool.label]) // pool.nodes_per_rack}"
        field = {"rack": "nodes_per_rack", "zone": "zone"}[level]
        raise InputError(
            f"the workload does not say the {level} of {gpu.id}", hint=f"give its pool in `gpus` a `{field}`"
        )

    def named(self, names: Sequence[str]) -> tuple[PlannedGpu, ...]:
        """Return the GPUs that are in what is named.

        Raises:
            InputError: the plan has no such GPU, node, rack or zone.
        """
        there: defaultdict[str, list[PlannedGpu]] = defaultdict(list)
        for gpu in self._plan.gpus:
            for name in dict.fromkeys(self._all(gpu)):
                there[name].append(gpu)
        for name in names:
            if name not in there:
                close = nearest(name, sorted(there))
                raise InputError(
                    f"the plan has no GPU, node, rack or zone {name!r}",
                    where="--without",
                    hint=f"did you mean {close}?" if close else f"the first is {next(iter(there), 'none')}",
                )
        return tuple({gpu.id: gpu for name in names for gpu in there[name]}.values())

    def judged(self, gone: Sequence[PlannedGpu]) -> dict[str, Judged]:
        """Return what each service promises when these GPUs are lost; when none is, all that it promises."""
        workload = self._workload
        surviving = any(survived(spec, workload.limits)[0] for spec in workload.services)
        found = {}
        for spec in workload.services:
            level, rate = survived(spec, workload.limits)
            if level is not None and len({self.of(gpu, level) for gpu in gone}) == 1:
                found[spec.name] = Judged(promised_share(spec), rate)
            else:
                found[spec.name] = Judged(None if surviving and gone else promised_share(spec))
        return found

    def _all(self, gpu: PlannedGpu) -> Iterator[str]:
        levels: tuple[Loss, ...] = ("gpu", "node", "rack", "zone")
        pool = self._pool(gpu)
        for level in levels:
            if level == "zone" and (pool is None or pool.zone is None):
                continue
            if level == "rack" and (pool is None or pool.nodes_per_rack is None or _number(gpu) is None):
                continue
            yield self.of(gpu, level)

    def _pool(self, gpu: PlannedGpu) -> PoolSpec | None:
        return self._pools.get(gpu.pool) if gpu.pool else self._by_model.get(gpu.model)

    def _first_nodes(self) -> dict[str, int]:
        """Return the number of each pool's first node; they count through all pools, in the order of the workload."""
        last: dict[str, int] = {}
        for gpu in self._plan.gpus:
            pool, number = self._pool(gpu), _number(gpu)
            if pool is not None and number is not None:
                last[pool.label] = max(last.get(pool.label, 0), number)
        first, found = 0, {}
        for pool in self._workload.gpus:
            found[pool.label] = first
            if pool.count is not None:
                first += math.ceil(pool.count / pool.per_node)
            else:
                first = max(first, last.get(pool.label, -1) + 1)
        return found


def _node_of(gpu: PlannedGpu) -> str:
    return gpu.id.rpartition("/")[0]


def _number(gpu: PlannedGpu) -> int | None:
    found = re.fullmatch(r"node-(\d{1,9})", _node_of(gpu))
    return int(found[1]) if found else None


def _alike_losses(
    plan: Plan, level: Loss, domains: Domains
) -> Iterator[tuple[tuple[str, ...], tuple[PlannedGpu, ...]]]:
    """Yield losses that come to the same: the names of all, and the GPUs of the first."""
    units: dict[str, list[PlannedGpu]] = {}
    for gpu in plan.gpus:
        units.setdefault(domains.of(gpu, level), []).append(gpu)
    alike: dict[tuple[int, ...], list[str]] = {}
    numbers: dict[object, int] = {}
    for name, gpus in units.items():
        kinds = [numbers.setdefault((gpu.model, gpu.instances), len(numbers)) for gpu in gpus]
        alike.setdefault(tuple(sorted(kinds)), []).append(name)
    for names in alike.values():
        yield tuple(names), tuple(units[names[0]])
