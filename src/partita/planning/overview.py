"""A summary of a plan for reading: its figures in words, what each service got, and the GPUs that are cut alike."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from partita.errors import counted
from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.planning.plan import Instance, Plan, PlanMoves, ServiceCapacity


@dataclass(frozen=True, eq=False)
class PlanOverview:
    """What the terminal and the page show of a plan, computed once, when it is asked for."""

    plan: Plan

    @cached_property
    def groups(self) -> list[GpuGroup]:
        """The GPUs grouped by what they run, the largest groups first."""
        groups: dict[tuple[str, str, tuple[Instance, ...]], GpuGroup] = {}
        # GPUs that share one tuple need not be compared by value.
        known: dict[tuple[str, str, int], GpuGroup] = {}
        for gpu in self.plan.gpus:
            key = (gpu.model, gpu.pool, id(gpu.instances))
            if key not in known:
                group = GpuGroup(gpu.model, gpu.instances, gpu.pool, zone=gpu.zone)
                known[key] = groups.setdefault((gpu.model, gpu.pool, gpu.instances), group)
            known[key].ids.append(gpu.id)
        return sorted(groups.values(), key=lambda group: -len(group.ids))

    @cached_property
    def services(self) -> list[ServiceOverview]:
        """What each service got, in the plan's order."""
        replicas: dict[str, Counter[tuple[str, str]]] = {each.name: Counter() for each in self.plan.services}
        latency: dict[str, float] = {}
        estimated: set[str] = set()
        shared: set[str] = set()
        mixed = len({group.model for group in self.groups}) > 1
        for group in self.groups:
            for instance in group.instances:
                point, size = instance.point, (group.model, instance.placement.profile)
                parts = [(each.service, each.latency_ms, each.estimated) for each in point.tenants]
                for name, latency_ms, guessed in parts or [
                    (instance.service, point.latency_ms, point.estimated)
                ]:
                    replicas.setdefault(name, Counter())[size] += len(group.ids)
                    latency[name] = max(latency.get(name, 0.0), latency_ms)
                    if point.tenants:
                        shared.add(name)
                    if guessed:
                        estimated.add(name)
        return [
            ServiceOverview(
                service,
                service.capacity / service.rate - 1 if service.rate else 0.0,
                latency.get(service.name),
                tuple(replicas[service.name].most_common()),
                mixed,
                service.name in estimated,
                service.name in shared,
            )
            for service in self.plan.services
        ]

    @property
    def instances(self) -> int:
        """How many instances the plan has."""
        return sum(len(group.instances) * len(group.ids) for group in self.groups)

    @property
    def compute_used(self) -> float | None:
        """Share of the compute slices of its GPUs that are in an instance; None where it has no GPUs."""
        used = there = 0
        for group in self.groups:
            gpu = gpu_model(group.model)
            used += len(group.ids) * sum(gpu.profile(i.placement.profile).compute for i in group.instances)
            there += len(group.ids) * gpu.compute_slices
        return used / there if there else None


@dataclass(frozen=True, slots=True)
class GpuGroup:
    """GPUs of one model, and of one pool where the plan says which, that are cut alike and run the same."""

    model: str
    instances: tuple[Instance, ...]
    pool: str = ""
    ids: list[str] = field(default_factory=list)
    zone: str = ""

    @property
    def label(self) -> str:
        """The model, the pool where it is named otherwise, and the zone where it is known."""
        label = self.model if self.pool in ("", self.model) else f"{self.model} of {self.pool}"
        return f"{label} in zone {self.zone}" if self.zone else label


@dataclass(frozen=True, slots=True)
class ServiceOverview:
    """What a service got.

    Attributes:
        spare: capacity above the asked rate, as a fraction of it; 0 where no rate is asked.
        latency_ms: the highest latency among its instances; None if it has none.
        replicas: instances by GPU model and profile, the most frequent first.
        mixed: whether the plan has GPUs of several models.
        estimated: whether one of its operating points is an estimate.
        shared: whether other services run on its instance, so that the latency is that of a batch alone.
    """

    service: ServiceCapacity
    spare: float
    latency_ms: float | None
    replicas: tuple[tuple[tuple[str, str], int], ...]
    mixed: bool
    estimated: bool
    shared: bool = False

    def replicas_text(self, times: str) -> str:
        """Return its instances as text, GPU by GPU where the plan has several models; `times` is the sign between."""
        by_gpu: dict[str, list[str]] = {}
        for (model, profile), n in self.replicas:
            by_gpu.setdefault(model, []).append(f"{n:,}{times}{profile}{' shared' * self.shared}")
        if not self.mixed:
            return ", ".join(text for texts in by_gpu.values() for text in texts) or "none"
        return "; ".join(f"{model}: {', '.join(texts)}" for model, texts in by_gpu.items()) or "none"


def verdict(plan: Plan) -> str:
    """Return in words how good the plan is: `proven optimal (bound 12)` or `gap 0.4 % (bound 1,250)`."""
    bound = f"bound {number(plan.objective.lower_bound)}"
    if plan.objective.proven:
        return f"proven optimal ({bound})"
    return f"gap {percent(plan.objective.gap)} ({bound})"


def plan_line(plan: Plan) -> str:
    """Return a plan in one line: what it takes, how good it is, and its moves."""
    moves = "" if plan.moves is None else f", {moves_verdict(plan.moves)}"
    return f"planned: {amount(plan)}, {verdict(plan)}{moves}"


def moves_verdict(moves: PlanMoves) -> str:
    """Return in words how many moves a plan has: `5 moves from what runs, proven fewest`."""
    count = f"{counted(moves.count, 'move')} from what runs"
    if moves.proven:
        return f"{count}, proven fewest" if moves.count else count
    return f"{count}, at least {moves.least:,} for any plan as good"


def trade_rows(plan: Plan) -> list[tuple[str, str, str]]:
    """Return what is worth saying of plans with more GPUs and fewer moves: value, moves, and the difference.

    The plan itself comes first. Empty where there is no such plan.
    """
    if plan.moves is None or not plan.moves.trade:
        return []
    first = plan.objective.value
    rows = [(number(first), f"{plan.moves.count:,}", "this plan")]
    for each in plan.moves.trade:
        more, fewer = number(each.value - first), plan.moves.count - each.moves
        unit = {"gpus": "GPU" if each.value - first == 1 else "GPUs", "watts": "W"}.get(
            plan.objective.name, "per hour"
        )
        moves = f"{counted(fewer, 'move')} fewer"
        rows.append((number(each.value), f"{each.moves:,}", f"{more} {unit} more, {moves}"))
    return rows


VALUE_NAMES = {"gpus": "GPUs", "cost": "cost per hour", "watts": "watts"}
"""What the value of each objective is called above its figures."""


def amount(plan: Plan) -> str:
    """Return what the plan takes in words: `12 GPUs`, with cost or watts if those were minimised."""
    gpus = counted(len(plan.gpus), "GPU")
    models = Counter(gpu.model for gpu in plan.gpus)
    if len(models) > 1:
        gpus += f" ({', '.join(f'{n:,} {model}' for model, n in models.most_common())})"
    value = number(plan.objective.value)
    return {"cost": f"{gpus} at {value} per hour", "watts": f"{gpus} at {value} W"}.get(
        plan.objective.name, gpus
    )


def survival(plan: Plan) -> str | None:
    """Return in words what surviving losses takes: `surviving any one node takes 3 GPUs more (4 %): 78, without 75`.

    None where no loss must be survived, or the comparison was not made.
    """
    without = plan.without_survival
    if without is None:
        return None
    objective = plan.objective
    levels = {each.loss.level for each in plan.services if each.loss is not None}
    what = f"any one {next(iter(levels)).replace('gpu', 'GPU')}" if len(levels) == 1 else "losses"
    more = objective.value - without.value
    unit = {"cost": " per hour", "watts": " W"}.get(objective.name, " GPU" if more == 1 else " GPUs")
    text = (
        f"surviving {what} takes {number(more)}{unit} more ({percent(more / without.value)}): "
        f"{number(objective.value)}, and {number(without.value)} without"
    )
    if objective.proven and without.proven:
        return f"{text} (both proven optimal)"
    least = max(0.0, objective.lower_bound - without.value)
    most = objective.value - without.lower_bound
    return f"{text} (the least possible is between {number(least)} and {number(most)})"


def number(value: float) -> str:
    """Return a whole number in full, another with the digits that matter."""
    value = round(value, 6)
    return f"{value:z,.0f}" if value == int(value) else f"{value:z,.2f}"


def percent(share: float) -> str:
    """Return a share in percent with the two digits that matter, all of a large one: 0.35 %, 12 %, 208 %."""
    value = share * 100
    return f"{value:,.0f} %" if value >= _IN_FULL else f"{value:.2g} %" if value >= _LEAST_PERCENT else "0 %"


_IN_FULL = 99.5
_LEAST_PERCENT = 1e-4
"""Less is written as 0: two digits of it would need an exponent."""


_INDEXED = re.compile(r"(.*\D)(\d+)")


def id_ranges(ids: Iterable[str]) -> list[str]:
    """Return ids with neighbours joined: `node-0/gpu-0..3` for four of them."""
    ranges: list[tuple[str, int, int] | str] = []
    for gpu_id in ids:
        found = _INDEXED.fullmatch(gpu_id)
        if not found:
            ranges.append(gpu_id)
            continue
        prefix, index = found[1], int(found[2])
        last = ranges[-1] if ranges else ""
        if isinstance(last, tuple) and (last[0], last[2] + 1) == (prefix, index):
            ranges[-1] = (prefix, last[1], index)
        else:
            ranges.append((prefix, index, index))
    return [_range_text(each) for each in ranges]


def _range_text(found: tuple[str, int, int] | str) -> str:
    if isinstance(found, str):
        return found
    prefix, first, last = found
    return f"{prefix}{first}" if first == last else f"{prefix}{first}..{last}"
