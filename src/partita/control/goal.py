"""What a controller is to reach, and its JSON for the journal."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.control.cluster_view import usable
from partita.documents.codec import Value
from partita.documents.text import decode, line
from partita.errors import InputError, counted
from partita.mig.layout import Placement
from partita.planning.plan import Objective, Plan
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica, deployment_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.drive.driver import Observation
    from partita.transition.deployment import Layouts


@dataclass(frozen=True, slots=True)
class Goal:
    """A wanted deployment and the limits of the transition to it.

    Attributes:
        target: what is to run; a transition may map its GPUs onto others of the same model.
        old_rates: required items/s of each service until now.
        new_rates: required items/s of each service from now on.
        algorithm: name of the transition's algorithm.
        extra_gpus: as in `Request`; None for any number.
        forbid: as in `Request`.
        source: fingerprint of the deployment as it was asked for, before it was put onto physical GPUs.
        in_place: as in `Request`.
        objective: how good the plan is that it is of; None for layouts, and where it is not known.
    """

    target: Deployment
    old_rates: Mapping[str, float]
    new_rates: Mapping[str, float]
    algorithm: str = "shortest"
    extra_gpus: int | None = None
    forbid: tuple[str, ...] = ()
    source: str = ""
    in_place: bool = False
    objective: Objective | None = None

    @property
    def guaranteed(self) -> dict[str, float]:
        """Items/s that each service is promised throughout the transition."""
        both = self.old_rates.keys() & self.new_rates.keys()
        return {name: min(self.old_rates[name], self.new_rates[name]) for name in sorted(both)}

    def onto(self, target: Deployment) -> Goal:
        """Return this goal with its target on these physical GPUs, without fixed instances."""
        gpus = tuple(
            DeployedGpu(gpu.id, gpu.model, tuple(each for each in gpu.instances if not each.fixed))
            for gpu in target.gpus
        )
        return replace(self, target=Deployment(gpus))


def goal_for(
    plan: Plan | Layouts,
    old_rates: Mapping[str, float],
    unfinished: Goal | None,
    *,
    algorithm: str,
    extra_gpus: int | None,
    forbid: tuple[str, ...] = (),
) -> Goal:
    """Return the goal of bringing a cluster to a plan, or to layouts.

    An unfinished goal of the same plan keeps the physical GPUs that were chosen for it.
    """
    target = deployment_of(plan)
    source = fingerprint(target)
    if unfinished is not None and unfinished.source == source:
        target = unfinished.target
    new_rates = {service.name: service.rate for service in plan.services}
    in_place = any(service.loss is not None for service in plan.services)
    objective = None
    if isinstance(plan, Plan):
        good = plan.objective
        objective = Objective(good.name, float(good.value), float(good.lower_bound))
    return Goal(
        target, dict(old_rates), new_rates, algorithm, extra_gpus, forbid, source, in_place, objective
    )


def refuse_missing(plan: Plan | Layouts, observation: Observation) -> None:
    """Refuse a plan for more GPUs than there are.

    Raises:
        InputError: it needs more GPUs of a model than can be used.
    """
    needed = Counter(gpu.model for gpu in plan.gpus)
    there = Counter(gpu.model for gpu in observation.gpus if usable(gpu))
    out = Counter(gpu.model for gpu in observation.gpus if not usable(gpu))
    for model, n in sorted(needed.items()):
        if n > there[model]:
            more = f" ({out[model]} more are lost or not in MIG mode)" if out[model] else ""
            raise InputError(
                f"the plan needs {counted(n, 'GPU')} of {model}, and the cluster has {there[model]}{more}",
                where="gpus",
                hint=f"plan for the GPUs there are: `gpus: [{{model: {model}, count: {there[model]}}}]`"
                if there[model]
                else f"it has {', '.join(f'{k} {name}' for name, k in sorted(there.items())) or 'none'}",
            )


class GoalInstance(Value):
    """An instance of a goal, as `3g.40gb@4`, and what is to run on it."""

    at: str
    replica: Replica | None


class GoalGpu(Value):
    """A GPU of a goal."""

    id: str
    model: str
    instances: tuple[GoalInstance, ...]


class GoalDocument(Value):
    """A goal in the journal; its fields are those of `Goal`."""

    target: tuple[GoalGpu, ...]
    old_rates: dict[str, float]
    new_rates: dict[str, float]
    algorithm: str = "shortest"
    extra_gpus: int | None = None
    forbid: tuple[str, ...] = ()
    source: str = ""
    in_place: bool = False
    objective: Objective | None = None


def fingerprint(deployment: Deployment) -> str:
    """Return twelve hexadecimal digits that identify a wanted deployment."""
    return hashlib.sha256(line(_goal_gpus(deployment)).encode()).hexdigest()[:12]


def goal_text(goal: Goal) -> str:
    """Return a goal as JSON."""
    rates = dict(goal.old_rates), dict(goal.new_rates)
    target = _goal_gpus(goal.target)
    limits = goal.extra_gpus, goal.forbid
    document = GoalDocument(
        target, *rates, goal.algorithm, *limits, goal.source, goal.in_place, goal.objective
    )
    return line(document)


def goal_of(text: str) -> Goal:
    """Return the goal that `goal_text` wrote.

    Raises:
        InputError: the text is not of that form.
    """
    document = decode(text, GoalDocument, "the journal's goal")
    gpus = (
        DeployedGpu(
            gpu.id,
            gpu.model,
            tuple(DeployedInstance(Placement.parse(each.at), each.replica) for each in gpu.instances),
        )
        for gpu in document.target
    )
    return Goal(
        Deployment(tuple(gpus)),
        document.old_rates,
        document.new_rates,
        document.algorithm,
        document.extra_gpus,
        document.forbid,
        document.source,
        document.in_place,
        document.objective,
    )


def _goal_gpus(deployment: Deployment) -> tuple[GoalGpu, ...]:
    return tuple(
        GoalGpu(
            gpu.id,
            gpu.model,
            tuple(GoalInstance(str(each.placement), each.replica) for each in gpu.instances),
        )
        for gpu in deployment.gpus
    )
