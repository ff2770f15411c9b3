"""Why a plan is as it is: what binds each service, what a change would do, and the next best way to run it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from partita.deadline import Deadline
from partita.errors import PartitaError
from partita.planner import plan, prepare
from partita.planning.explain import bindings, sensitivities
from partita.serve.reserving.services import slices_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.planner import PreparedWorkload
    from partita.planning.explain import Binding, Sensitivity
    from partita.planning.plan import Plan
    from partita.serve.reserving.services import SliceOf
    from partita.workload import ServiceSpec

_SECONDS = 5.0
"""Most seconds of search for the plan that a change would make."""


@dataclass(frozen=True, slots=True)
class ServiceExplanation:
    """What is to be said of one service in a plan.

    Attributes:
        gpus: what binds it on each profile, by the GPU's name.
        slices: of a service with a cut, in the place of `gpus`: what each of its slices answers; else None.
        changes: what a change of this service alone would do to the objective.
    """

    service: ServiceSpec
    changes: Sequence[Sensitivity]
    gpus: Mapping[str, Sequence[Binding]] = field(default_factory=dict)
    slices: Sequence[SliceOf] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        spec = self.service
        found: dict[str, Any] = {"service": spec.name, "pools": spec.pools}
        if self.slices is not None:
            found |= {"cut": spec.cut, "slices": [asdict(each) for each in self.slices]}
        else:
            found["gpus"] = {gpu: [asdict(each) for each in bound] for gpu, bound in self.gpus.items()}
        return {**found, "changes": [asdict(each) for each in self.changes]}


def explain_service(prepared: PreparedWorkload, made: Plan, spec: ServiceSpec) -> ServiceExplanation:
    """Explain one service of a plan. The changes are planned anew, a few seconds each at most."""
    changes = sensitivities(spec.name, _Replan(prepared))
    if spec.cut is not None:
        service = next(each for each in prepared.cuts if each.spec.name == spec.name)
        return ServiceExplanation(spec, changes, slices=slices_of(made, service, prepared.problem.pools))
    measured = prepared.formulation.measured
    open_to = {
        pool.model for pool in prepared.workload.gpus if spec.pools is None or pool.label in spec.pools
    }
    by_gpu = {}
    for gpu in (each for each in measured.gpus if each.name in open_to):
        limits = measured.point_limits(spec, gpu.name)
        if limits is not None:
            rows = [row for row in measured.of(spec.model, gpu.name) if row.quantile == limits.quantile]
            by_gpu[gpu.name] = bindings(made, spec.name, gpu.name, rows, limits)
    return ServiceExplanation(spec, changes, by_gpu)


class _Replan:
    """Plans the workload again with one service changed."""

    def __init__(self, prepared: PreparedWorkload) -> None:
        self._prepared = prepared

    def __call__(self, service: str, *, rate: float, latency: float) -> float | None:
        """Return the objective with the service's rate and SLO multiplied; None if no plan was found."""
        workload = self._prepared.workload
        services = tuple(
            s.replace(rate=s.rate * rate, slo=s.slo.replace(latency_ms=s.slo.latency_ms * latency))
            if s.name == service
            else s
            for s in workload.services
        )
        try:
            asked = prepare(workload.replace(services=services), self._prepared.table, self._prepared.path)
            return plan(asked, deadline=Deadline(_SECONDS)).plan.objective.value
        except PartitaError:
            return None
