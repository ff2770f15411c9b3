"""What each kind of slice is to a service with a cut, and what a plan gives it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.planning.plan import Plan
    from partita.planning.problem import Pool
    from partita.serve.reserving.asked import CutService


@dataclass(frozen=True, slots=True)
class SliceOf:
    """One profile.

    Attributes:
        instances: how many the plan has.
        largest: items of the largest query that it answers in time, 0 if none.
        latency_ms: of that query.
        part: share of the queries that it could answer in time, 0 to 1.
        throughput: items/s of one instance when the cut serves all that it holds; None where the plan has none.
        estimated: whether a latency is an estimate.
    """

    gpu: str
    profile: str
    instances: int
    largest: int
    latency_ms: float
    part: float
    throughput: float | None
    estimated: bool


def slices_of(plan: Plan, service: CutService, pools: Sequence[Pool]) -> list[SliceOf]:
    """Return the profiles that a service could run on, of each GPU from small to large."""
    name, found = service.spec.name, []
    for offer in service.offers:
        gpu, problem = pools[offer.pool].gpu.name, offer.problem
        for k, profile in enumerate(problem.profiles):
            there = [
                each
                for planned in plan.gpus
                if planned.model == gpu
                for each in planned.instances
                if each.service == name and each.placement.profile == profile
            ]
            batch, seconds = offer.takes[k]
            in_time = problem.latency[k] <= problem.deadline
            found.append(
                SliceOf(
                    gpu=gpu,
                    profile=profile,
                    instances=len(there),
                    largest=batch,
                    latency_ms=seconds * 1000 if batch else 0.0,
                    part=float(problem.share[in_time].sum()),
                    throughput=there[0].point.throughput if there else None,
                    estimated=profile in offer.estimated,
                )
            )
    return found
