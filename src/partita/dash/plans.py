"""A plan's summary, the plan that was applied last, from the journal, and what lies between what runs and a plan."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from partita import registry
from partita.control.cluster_view import deployed, snapshot
from partita.control.controller import ordered, request, standing_rates
from partita.control.goal import fingerprint, goal_for, refuse_missing
from partita.dash.model import (
    Difference,
    PlanSummary,
    PoolInput,
    ServiceDifference,
    ServiceInput,
    WhatIfInputs,
)
from partita.perf.operating_point import OperatingPoint
from partita.planning.document import parse_plan, write_plan
from partita.planning.overview import verdict
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver
from partita.transition.deployment import deployment_of
from partita.transition.overview import gpu_changes, service_changes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.control.goal import Goal
    from partita.control.journal import Journal
    from partita.dash.model import WhatIf
    from partita.drive.driver import Observation
    from partita.transition.deployment import Replica
    from partita.transition.transition import Durations
    from partita.workload import Workload

_UNKNOWN = Objective("gpus", 0.0, 0.0)


def prices_of(workload: Workload, asked: WhatIf | None = None) -> dict[str, float]:
    """Return the price of a GPU per hour by its model, where it is known and one."""
    changes = {} if asked is None else asked.pools
    found: dict[str, set[float | None]] = {}
    for pool in workload.gpus:
        change = changes.get(pool.label)
        price = pool.cost_per_hour if change is None or change.price is None else change.price
        found.setdefault(pool.model, set()).add(price)
    return {
        model: price
        for model, (price, *more) in ((model, tuple(each)) for model, each in found.items())
        if price is not None and not more
    }


def inputs(
    workload: Workload,
    counts: Mapping[str, int | None] | None = None,
    *,
    name: str = "",
    of: Sequence[str] = (),
) -> WhatIfInputs:
    """Return what a what-if may change of a workload, as it is.

    Args:
        workload: as it is.
        counts: how many GPUs pools have now, by label; None where that is as the workload says.
        name: of the workload, where there may be several.
        of: the names of all of them.
    """
    there = {each.label: each.count for each in workload.gpus} if counts is None else counts
    return WhatIfInputs(
        workload.objective,
        tuple(
            ServiceInput(each.name, each.rate, each.slo.latency_ms, each.slo.quantile)
            for each in workload.services
        ),
        tuple(
            PoolInput(each.label, each.model, there.get(each.label), each.cost_per_hour)
            for each in workload.gpus
        ),
        name,
        tuple(of),
    )


def cost_of(counts: Mapping[str, int], prices: Mapping[str, float]) -> float | None:
    """Return what GPUs cost per hour; None where the price of one is not known."""
    if any(model not in prices for model in counts) or not prices:
        return None
    return sum(n * prices[model] for model, n in counts.items())


def summary(made: Plan, prices: Mapping[str, float], *, document: bool = False) -> PlanSummary:
    """Return a plan's summary.

    Args:
        made: the plan.
        prices: of a GPU per hour, by model.
        document: whether the plan's document is wanted, too.
    """
    objective = made.objective
    cost = (
        objective.value
        if objective.name == "cost"
        else cost_of(Counter(gpu.model for gpu in made.gpus), prices)
    )
    return PlanSummary(
        version=fingerprint(deployment_of(made)),
        gpus=len(made.gpus),
        bound=objective.lower_bound,
        proven=objective.proven,
        verdict=verdict(made),
        cost=cost,
        instances=sum(len(gpu.instances) for gpu in made.gpus),
        objective=objective.name,
        value=objective.value,
        document=plan_data(made) if document else {},
    )


def plan_data(made: Plan) -> dict[str, object]:
    """Return a plan as plain data, as its file has it."""
    stream = io.StringIO()
    write_plan(made, stream)
    found: dict[str, object] = json.loads(stream.getvalue())
    return found


def plan_of(goal: Goal, slos: Mapping[str, float]) -> Plan:
    """Return the plan that a goal is of, on the physical GPUs that were chosen for it.

    Args:
        goal: of the journal.
        slos: latency SLO in milliseconds by service; 0 stands for one that is not known, as the journal has none.
    """
    capacity = goal.target.capacity()
    gpus = tuple(
        PlannedGpu(
            gpu.id,
            gpu.model,
            tuple(
                Instance(
                    each.placement,
                    each.replica.service,
                    each.replica.model,
                    _point(each.replica, each.placement.profile),
                )
                for each in gpu.instances
                if each.replica is not None
            ),
        )
        for gpu in goal.target.gpus
        if gpu.instances
    )
    services = tuple(
        ServiceCapacity(name, rate, capacity.get(name, 0.0), slos.get(name, 0.0))
        for name, rate in goal.new_rates.items()
    )
    return Plan(
        goal.objective or replace(_UNKNOWN, value=float(len(gpus))), Solver("journal", 0, 0.0), services, gpus
    )


def _point(replica: Replica, profile: str) -> OperatingPoint:
    return OperatingPoint(
        profile, replica.batch, replica.processes, replica.throughput, replica.latency_ms, "mean",
        tenants=replica.tenants,
    )  # fmt: skip


def version_of(plan: Plan) -> str:
    """Return the digits that identify what a plan is to run."""
    return fingerprint(deployment_of(plan))


def applied(goal: Goal, slos: Mapping[str, float], prices: Mapping[str, float]) -> PlanSummary:
    """Return the plan that was applied last, with its document where all SLOs are known.

    Args:
        goal: of the journal.
        slos: as for `plan_of`.
        prices: of a GPU per hour, by model.
    """
    made = plan_of(goal, slos)
    found = summary(made, prices)
    if all(each.latency_slo_ms for each in made.services):
        found = found.replace(document=plan_data(made))
    if goal.objective is not None:
        return found
    return found.replace(bound=None, proven=False, verdict="how good it is was not written down", value=None)


def difference(goal: Goal, seen: Observation, durations: Durations, *, reached: bool) -> Difference:
    """Return what lies between what runs and the goal.

    Args:
        goal: of the journal.
        seen: what runs.
        durations: how long actions are predicted to take.
        reached: whether the goal was reached, so that all of its rates are to be kept.

    Raises:
        InfeasibleError: there are too few GPUs.
    """
    asked = replace(goal, old_rates=goal.new_rates) if reached else goal
    return _difference(asked, seen, durations)


def difference_to(
    document: Mapping[str, object], journal: Journal | None, seen: Observation, durations: Durations
) -> Difference:
    """Return what lies between what runs and a plan, as `partita diff` does.

    Args:
        document: the plan's.
        journal: says which rates are to be kept; None where nothing was ever applied.
        seen: what runs.
        durations: how long actions are predicted to take.

    Raises:
        InputError: it is no plan, or it needs GPUs that are not there.
        InfeasibleError: there are too few GPUs.
    """
    promised, unfinished = (None, None) if journal is None else (journal.promised(), journal.unfinished())
    return difference_of(parse_plan(json.dumps(document), "plan"), promised, unfinished, seen, durations)


def difference_of(
    plan: Plan,
    promised: Mapping[str, float] | None,
    unfinished: Goal | None,
    seen: Observation,
    durations: Durations,
) -> Difference:
    """Return what lies between what runs and a plan.

    Args:
        plan: the plan.
        promised: items/s that are to be kept; None for what runs.
        unfinished: the goal that is in progress.
        seen: what runs.
        durations: how long actions are predicted to take.

    Raises:
        InputError: it needs GPUs that are not there.
        InfeasibleError: there are too few GPUs.
    """
    refuse_missing(plan, seen)
    rates = standing_rates(promised, deployed(seen))
    return _difference(
        goal_for(plan, rates, unfinished, algorithm="shortest", extra_gpus=None), seen, durations
    )


def _difference(goal: Goal, seen: Observation, durations: Durations) -> Difference:
    asked = request(goal, deployed(seen), durations)
    found = ordered(registry.make("transition_algorithms", goal.algorithm), asked)
    changes = service_changes(asked, found)
    return Difference(
        len(found.actions),
        found.makespan,
        sum(each.moves for each in changes),
        tuple(name for group in gpu_changes(asked.current, found.target) for name in group.ids),
        tuple(
            ServiceDifference(
                each.name, each.before, each.after, each.floor, each.least,
                each.stay, each.move, each.new, each.end, each.stand_in,
            )
            for each in changes
            if each.moves or each.stand_in
        ),
        found.peak_gpus,
        snapshot(seen).fingerprint,
    )  # fmt: skip
