"""The port: observe a cluster, perform one action on it, and fail in words that a controller can act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from partita.errors import PartitaError

if TYPE_CHECKING:
    from partita.mig.layout import Placement
    from partita.transition.deployment import Replica
    from partita.transition.transition import Action


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one instance from another of equal placement: a MIG UUID changes at every re-creation."""

    gpu_uuid: str
    gi_id: int
    ci_id: int | None
    mig_uuid: str | None


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """A replica as it was found: `ready` answers queries, `draining` takes no new ones."""

    replica: Replica
    ready: bool
    draining: bool = False
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class ObservedInstance:
    """An instance as it was found.

    Attributes:
        ours: made or adopted by Partita; others are never touched.
        busy: a process that is no replica of ours runs on it.
    """

    placement: Placement
    identity: Identity
    ours: bool
    replica: ObservedReplica | None = None
    busy: bool = False


@dataclass(frozen=True, slots=True)
class ObservedGpu:
    """A GPU as it was found.

    Attributes:
        id: `node-0/gpu-3`, stable while the hardware is.
        model: the catalogue's name.
        lost: fell off the bus, or does not answer.
        mig: whether MIG mode is on.
    """

    id: str
    uuid: str
    model: str
    mig: bool
    lost: bool
    instances: tuple[ObservedInstance, ...]


@dataclass(frozen=True, slots=True)
class Observation:
    """The cluster at one moment."""

    gpus: tuple[ObservedGpu, ...]

    def gpu(self, gpu_id: str) -> ObservedGpu | None:
        """Return the GPU of that id, None if there is none."""
        return next((gpu for gpu in self.gpus if gpu.id == gpu_id), None)


class DriveError(PartitaError):
    """An action that did not happen; `retry` says whether trying again can help."""

    retry = False


class InUseError(DriveError):
    """The instance is still in use; a moment after its process exits it is not."""

    retry = True


class NoRoomError(DriveError):
    """The placement is not free, or the GPU has no such placement."""


class GpuLostError(DriveError):
    """The GPU fell off the bus or does not answer."""


class RefusedError(DriveError):
    """The driver, the cluster or a rule of Partita's forbids it (rights, MIG mode off, a foreign instance)."""


class TimedOutError(DriveError):
    """It did not end in time; it may have happened all the same: observe before trying again."""

    retry = True


class Driver(Protocol):
    """Drives one cluster. Calls block until done; a controller runs independent actions in threads."""

    def observe(self) -> Observation:
        """Return the cluster as it is now.

        Raises:
            DriveError: nothing can be observed at all.
        """
        ...

    def perform(self, action: Action) -> None:
        """Carry out one action; return when it has ended (a started replica is ready, a stopped one gone).

        Performing what is done already is no error: a controller that was killed asks again.

        Raises:
            DriveError: it did not happen, or it is not known whether.
        """
        ...
