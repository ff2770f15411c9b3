"""What an observation says of jobs' instances and of the models of GPU: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.jobs.queue.hosts import catalogued

if TYPE_CHECKING:
    from partita.drive.driver import Observation
    from partita.jobs.queue.record import Attempt
    from partita.mig.gpu import GpuModel


def device_of(seen: Observation, attempt: Attempt) -> str | None:
    """Return the MIG UUID of an attempt's instance; None if it does not stand, or is not ours."""
    gpu = seen.gpu(attempt.gpu)
    for each in gpu.instances if gpu is not None and not gpu.lost else ():
        if each.placement == attempt.placement and each.ours and each.complete:
            return each.identity.mig_uuid
    return None


def gone(seen: Observation, attempt: Attempt) -> str | None:
    """Return why an attempt's instance is not there any more; None if it is."""
    gpu = seen.gpu(attempt.gpu)
    if gpu is None or gpu.lost:
        return f"{attempt.gpu} fell off the bus"
    if all(each.identity.mig_uuid != attempt.device for each in gpu.instances):
        return f"its instance {attempt.placement} on {attempt.gpu} was destroyed"
    return None


def models(seen: Observation) -> list[GpuModel]:
    """Return the models of GPU there are, those of lost ones included: they may come back."""
    names = sorted({gpu.model for gpu in seen.gpus})
    return [model for name in names if (model := catalogued(name)) is not None]


def model_of(seen: Observation, gpu_id: str) -> GpuModel | None:
    """Return the model of a GPU; None if it is not there or not in the catalogue."""
    gpu = seen.gpu(gpu_id)
    return catalogued(gpu.model) if gpu is not None else None
