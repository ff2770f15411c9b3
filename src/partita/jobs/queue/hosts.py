"""The GPUs as the queue may use them, from what is observed and what its own jobs hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.jobs.partition import known
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.drive.driver import Observation, ObservedGpu, ObservedInstance
    from partita.jobs.partition import Partition
    from partita.jobs.queue.record import Attempt, JobRecord
    from partita.mig.gpu import GpuModel


@dataclass(frozen=True, slots=True)
class Host:
    """A GPU that can be cut.

    Attributes:
        partition: what stands on it, and what of that is in use.
        taken: what is in use by others than the queue's jobs: for how long nobody knows.
    """

    id: str
    partition: Partition
    taken: frozenset[Placement] = frozenset()

    @property
    def model(self) -> GpuModel:
        """The model of the GPU."""
        return self.partition.gpu


def hosts(observation: Observation, jobs: Iterable[JobRecord]) -> tuple[Host, ...]:
    """Return the GPUs that jobs may use.

    In use is what is not ours, what serves, what someone else's process runs on, and what the queue's own jobs hold
    or are about to. A GPU that is lost, not in MIG mode or not in the catalogue is left out, and so is one on which
    someone has made what our jobs' instances do not go together with.
    """
    held: dict[str, list[Attempt]] = {}
    for job in jobs:
        held.setdefault(job.attempt.gpu, []).append(job.attempt)
    found = (_host(gpu, held.get(gpu.id, ())) for gpu in observation.gpus if gpu.mig and not gpu.lost)
    return tuple(host for host in found if host is not None)


def _host(gpu: ObservedGpu, attempts: Sequence[Attempt]) -> Host | None:
    standing = {each.placement for each in gpu.instances}
    ours = {attempt.placement for attempt in attempts}
    taken = frozenset({each.placement for each in gpu.instances if in_use(each)} - ours)
    busy = taken | ours
    for attempt in attempts:
        if attempt.device is None:
            standing -= set(attempt.destroy)
        standing.add(attempt.placement)
    model = catalogued(gpu.model)
    if model is None:
        return None
    try:
        return Host(gpu.id, known(model, standing, busy), taken)
    except InputError:
        return None


def catalogued(model: str) -> GpuModel | None:
    """Return a model of GPU; None if the catalogue does not have it."""
    try:
        return gpu_model(model)
    except InputError:
        return None


def in_use(instance: ObservedInstance) -> bool:
    """Say whether an instance is not the queue's to use or destroy, whatever its own jobs do."""
    return not instance.ours or instance.busy or instance.replica is not None


def can_come_free(found: Iterable[Host]) -> frozenset[str]:
    """Return the profiles of which an instance fits on some of these GPUs once the queue's own jobs have ended."""
    return frozenset().union(*(_fitting_beside(host.model, host.taken) for host in found))


@lru_cache(maxsize=1024)
def _fitting_beside(model: GpuModel, taken: frozenset[Placement]) -> frozenset[str]:
    return frozenset(
        profile.name
        for profile in model.profiles
        if any(fault(model, (*taken, Placement(start, profile.name))) is None for start in profile.starts)
    )
