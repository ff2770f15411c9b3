"""The GPUs as the queue may use them, from an observation and the instances that its own jobs hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from partita.drive.driver import Observation
from partita.errors import InputError
from partita.jobs.partition import known
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.drive.driver import Driver, ObservedGpu, ObservedInstance
    from partita.jobs.partition import Partition
    from partita.jobs.queue.record import Attempt, JobRecord
    from partita.jobs.queue.table import JobTable
    from partita.mig.gpu import GpuModel


@dataclass(frozen=True, slots=True)
class Host:
    """A GPU that can be cut.

    Attributes:
        partition: its instances, and which are in use.
        taken: instances that others than the queue's jobs use, for an unknown time.
    """

    id: str
    partition: Partition
    taken: frozenset[Placement] = frozenset()

    @property
    def model(self) -> GpuModel:
        """The model of the GPU."""
        return self.partition.gpu


def models_of(hosts: Iterable[Host]) -> tuple[GpuModel, ...]:
    """Return the models of GPUs, each once."""
    return tuple({host.model.name: host.model for host in hosts}.values())


def hosts(observation: Observation, jobs: Iterable[JobRecord]) -> tuple[Host, ...]:
    """Return the GPUs that jobs may use.

    Instances in use are those that are not ours, that serve, on which someone else's process runs, and that the
    queue's own jobs hold or are about to. A GPU that is lost, not in MIG mode or not in the catalogue is left out,
    and so is one on which someone has created an instance that conflicts with those of our jobs.
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
    """Return a GPU model; None if the catalogue does not have it."""
    try:
        return gpu_model(model)
    except InputError:
        return None


def in_use(instance: ObservedInstance) -> bool:
    """Return whether others than the queue's jobs use an instance, so that it may not use or destroy it."""
    return not instance.ours or instance.busy or instance.replica is not None


def can_come_free(found: Iterable[Host]) -> frozenset[str]:
    """Return the profiles that fit on at least one of these GPUs once the queue's own jobs have ended."""
    return frozenset().union(*(_fitting_beside(host.model, host.taken) for host in found))


@lru_cache(maxsize=1024)
def _fitting_beside(model: GpuModel, taken: frozenset[Placement]) -> frozenset[str]:
    return frozenset(
        profile.name
        for profile in model.profiles
        if any(fault(model, (*taken, Placement(start, profile.name))) is None for start in profile.starts)
    )


def device_of(seen: Observation, attempt: Attempt) -> str | None:
    """Return the MIG UUID of an attempt's instance; None if it does not exist or is not ours."""
    gpu = seen.gpu(attempt.gpu)
    for each in gpu.instances if gpu is not None and not gpu.lost else ():
        if each.placement == attempt.placement and each.ours and each.complete:
            return each.identity.mig_uuid
    return None


def gone(seen: Observation, attempt: Attempt) -> str | None:
    """Return why an attempt's instance is gone; None if it exists."""
    gpu = seen.gpu(attempt.gpu)
    if gpu is None or gpu.lost:
        return f"{attempt.gpu} fell off the bus"
    if all(each.identity.mig_uuid != attempt.device for each in gpu.instances):
        return f"its instance {attempt.placement} on {attempt.gpu} was destroyed"
    return None


def models(seen: Observation) -> list[GpuModel]:
    """Return the models of all GPUs, with those of lost ones, which may come back."""
    names = sorted({gpu.model for gpu in seen.gpus})
    return [model for name in names if (model := catalogued(name)) is not None]


def model_of(seen: Observation, gpu_id: str) -> GpuModel | None:
    """Return the model of a GPU; None if the GPU is gone or not in the catalogue."""
    gpu = seen.gpu(gpu_id)
    return catalogued(gpu.model) if gpu is not None else None


FIRST_S, LONGEST_S = 30.0, 600.0


@dataclass(frozen=True, slots=True)
class _Rest:
    until: float
    seconds: float
    why: str


class RestingGpus:
    """GPUs on which an instance could not be created, and which are not used for a while.

    Each further rest is twice as long as the one before.
    """

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}

    def rest(self, gpu: str, why: str, now: float) -> None:
        """Let a GPU rest from now on."""
        before = self._rests.get(gpu)
        seconds = min(2.0 * before.seconds, LONGEST_S) if before else FIRST_S
        self._rests[gpu] = _Rest(now + seconds, seconds, why)

    def wake(self, gpu: str) -> None:
        """End a GPU's rests, as an instance was created on it."""
        self._rests.pop(gpu, None)

    def gpus(self, now: float) -> frozenset[str]:
        """Return the GPUs that rest now."""
        return frozenset(gpu for gpu, rest in self._rests.items() if rest.until > now)

    def why(self, now: float) -> str | None:
        """Return why a GPU rests now; None if none does."""
        return next((rest.why for rest in self._rests.values() if rest.until > now), None)


class GpuView:
    """The GPUs as the queue last saw them, and those that it does not use for a while.

    Args:
        driver: the cluster's driver.
        table: gives the instances that the queue's own jobs hold.

    Attributes:
        seen: the cluster as it was last seen.
        resting: GPUs on which an instance could not be created.
        due: when to observe again.
    """

    def __init__(self, driver: Driver, table: JobTable) -> None:
        self._driver, self._table = driver, table
        self.seen = Observation(())
        self._hosts: tuple[Host, ...] = ()
        self._of: tuple[Observation, int] | None = None
        self.resting = RestingGpus()
        self.due = float("-inf")

    @property
    def now(self) -> float:
        """The time on the cluster's clock."""
        return self._driver.clock.now()

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The GPUs that jobs may use, as last seen, with the instances that the queue's own jobs hold now."""
        # Jobs start and end between observations, so instances in use are computed again when the table changes.
        now = (self.seen, self._table.version)
        if self._of is None or self._of[0] is not now[0] or self._of[1] != now[1]:
            self._hosts, self._of = hosts(self.seen, self._table.holding), now
        return self._hosts

    @property
    def models(self) -> tuple[GpuModel, ...]:
        """The models of these GPUs."""
        return models_of(self.hosts)

    def look(self, due: float) -> Observation:
        """Observe the cluster, and note when the next observation is `due`.

        Raises:
            DriveError: it cannot be reached.
        """
        self.seen = self._driver.observe()
        self.due = due
        return self.seen

    def usable(self, now: float) -> list[Host]:
        """Return the GPUs that jobs may use, without those that rest."""
        resting = self.resting.gpus(now)
        return [host for host in self.hosts if host.id not in resting]
