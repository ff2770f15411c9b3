"""From what a driver observes to what the planning rooms understand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment

if TYPE_CHECKING:
    from partita.drive.driver import Observation, ObservedGpu, ObservedInstance
    from partita.transition.deployment import Replica


def deployed(observation: Observation) -> Deployment:
    """Return what runs, on the GPUs that can be used.

    A replica counts if it is ready and does not drain. An instance that is someone else's, or that someone
    else's process runs on, is fixed. GPUs that are lost or not in MIG mode are left out.
    """
    return Deployment(tuple(_gpu(gpu) for gpu in observation.gpus if usable(gpu)))


def usable(gpu: ObservedGpu) -> bool:
    """Say whether a GPU answers and can be cut."""
    return gpu.mig and not gpu.lost


def serving(instance: ObservedInstance) -> Replica | None:
    """Return the replica that answers queries on an instance, None if none does."""
    found = instance.replica
    return found.replica if found is not None and found.ready and not found.draining else None


def _gpu(gpu: ObservedGpu) -> DeployedGpu:
    return DeployedGpu(
        gpu.id, gpu.model, tuple(map(_instance, sorted(gpu.instances, key=lambda i: i.placement)))
    )


def _instance(instance: ObservedInstance) -> DeployedInstance:
    if not instance.ours or instance.busy:
        return DeployedInstance(instance.placement, None, fixed=True)
    return DeployedInstance(instance.placement, serving(instance))
