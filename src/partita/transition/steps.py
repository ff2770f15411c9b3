"""Steps one after the other: the plain form in which algorithms think, before a graph frees their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment
from partita.transition.transition import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.mig.layout import Placement
    from partita.transition.deployment import Replica


@dataclass(frozen=True, slots=True)
class Step:
    """An action without its place in a graph."""

    kind: Kind
    gpu: str
    placement: Placement
    replica: Replica | None = None


def create(gpu: str, placement: Placement) -> Step:
    """Return the step that makes an instance."""
    return Step(Kind.CREATE_INSTANCE, gpu, placement)


def destroy(gpu: str, placement: Placement) -> Step:
    """Return the step that destroys an instance."""
    return Step(Kind.DESTROY_INSTANCE, gpu, placement)


def start(gpu: str, placement: Placement, replica: Replica) -> Step:
    """Return the step that starts a replica."""
    return Step(Kind.START_REPLICA, gpu, placement, replica)


def stop(gpu: str, placement: Placement, replica: Replica) -> Step:
    """Return the step that drains and stops a replica."""
    return Step(Kind.STOP_REPLICA, gpu, placement, replica)


def outcome(current: Deployment, steps: Iterable[Step]) -> Deployment:
    """Return what runs after the steps."""
    there = {(gpu.id, each.placement): each for gpu in current.gpus for each in gpu.instances}
    for step in steps:
        key = (step.gpu, step.placement)
        if step.kind is Kind.DESTROY_INSTANCE:
            del there[key]
        else:
            replica = step.replica if step.kind is Kind.START_REPLICA else None
            there[key] = DeployedInstance(step.placement, replica)
    on: dict[str, list[DeployedInstance]] = {gpu.id: [] for gpu in current.gpus}
    for (gpu_id, _), each in there.items():
        on[gpu_id].append(each)
    return Deployment(
        tuple(
            DeployedGpu(gpu.id, gpu.model, tuple(sorted(on[gpu.id], key=lambda each: each.placement)))
            for gpu in current.gpus
        )
    )
