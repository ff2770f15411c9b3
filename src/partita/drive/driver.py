"""The port: observe a cluster, perform actions on it, and fail in words that a controller can act on.

A driver performs actions side by side: `begin` starts one and returns at once, `wait` returns those that
have ended. So a controller is one loop in one thread whatever it drives, and on a simulated clock it is
deterministic; threads, watches and polling are each driver's own affair.

What a slow, eventually consistent driver (Kubernetes) must do to fit:

- `begin` writes the wish (a claim, a pod, a node's label) and returns. The action has *ended* when what is
  observed says so, not when the server took the wish; only then does `wait` return it.
- `observe` may be old, but never older than an action that `wait` has returned: whoever saw an action end
  must find its effect. Where watches lag, wait for the resource version of the last write.
- Actions are idempotent by their effect: what is done already ends at once, what is half done is completed.
- Other actors are normal. An instance or a pod without our label is observed with `ours=False` and never
  touched; a conflicting write is a `RefusedError`, and the controller observes and plans again.
- `observe_changes` is optional (`ObservesChanges`). Without it everything is observed after each action that
  ends, which is quadratic in the size of a transition. A watch is such an offer: its resource version is the mark.
- An action that outlives its time ends with `TimedOutError`. Its wish may still come true, so it is withdrawn
  if it can be, and the controller observes before it tries again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from partita.errors import PartitaError

if TYPE_CHECKING:
    from collections.abc import Collection

    from partita.mig.layout import Placement
    from partita.sim.clock import Clock
    from partita.transition.deployment import Replica
    from partita.transition.transition import Action


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one instance from another of equal placement, as far as the hardware tells.

    A simulated GPU gives another UUID at every creation. NVIDIA's are made of the ids (they are UUIDs of version 5),
    so an instance that is made again with the ids of one before has its UUID, too.

    Attributes:
        gi_id: None where the driver does not tell it, as on Kubernetes.
        ci_id: None while the GPU instance has no compute instance, as when its maker was killed half-way.
        mig_uuid: None then, too. Where there is no `gi_id`, what names the instance: on Kubernetes its claim's uid,
            once the claim holds its device.
    """

    gpu_uuid: str
    gi_id: int | None
    ci_id: int | None
    mig_uuid: str | None

    @property
    def instance_id(self) -> int:
        """`gi_id`, for drivers that tell it always.

        Raises:
            ValueError: this one does not.
        """
        if self.gi_id is None:
            raise ValueError("this driver does not tell the GPU instance's id")
        return self.gi_id


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

    @property
    def complete(self) -> bool:
        """Whether a replica can start on it; one that is not is completed by creating it again."""
        known = self.identity.mig_uuid if self.identity.gi_id is None else self.identity.ci_id
        return known is not None


@dataclass(frozen=True, slots=True)
class ObservedGpu:
    """A GPU as it was found.

    Attributes:
        id: `node-0/gpu-3`, stable while the hardware is.
        model: the catalogue's name.
        lost: fell off the bus, or does not answer.
        mig: whether it can be cut: MIG mode is on, or the driver may turn it on.
        leaving: what runs there answers still, and is to go elsewhere: its node is cordoned, or it is not healthy.
    """

    id: str
    uuid: str
    model: str
    mig: bool
    lost: bool
    instances: tuple[ObservedInstance, ...]
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """The cluster at one moment."""

    gpus: tuple[ObservedGpu, ...]

    def gpu(self, gpu_id: str) -> ObservedGpu | None:
        """Return the GPU of that id, None if there is none."""
        return next((gpu for gpu in self.gpus if gpu.id == gpu_id), None)


@dataclass(frozen=True, slots=True)
class Changes:
    """What may have changed since an earlier look.

    Attributes:
        mark: what the next look is given; its content is the driver's own affair.
        gpus: GPUs that may have changed, as they are now.
        gone: ids of GPUs that are not there any more.
    """

    mark: object
    gpus: tuple[ObservedGpu, ...]
    gone: tuple[str, ...] = ()


class DriveError(PartitaError):
    """An action that did not happen as far as is known; `retry` says whether trying again can help."""

    retry = False


class InUseError(DriveError):
    """The instance is still in use; a moment after its process exits it is not."""

    retry = True


class NoRoomError(DriveError):
    """The placement is not free, or the GPU has none like it, or a replica finds no instance there."""


class GpuLostError(DriveError):
    """The GPU is not there: it fell off the bus, does not answer, or never was."""


class RefusedError(DriveError):
    """The driver, the cluster or a rule of Partita's forbids it (rights, MIG off, a foreign instance)."""


class FailedError(DriveError):
    """The driver failed and did not say why, or the process of a replica ended before it was ready."""

    retry = True


class TimedOutError(DriveError):
    """It did not end in time; it may have happened all the same: observe before trying again.

    A replica that is not ready in time is left as it is: stop it before starting it again.
    """

    retry = True


def as_drive_error(error: Exception, where: str) -> DriveError:
    """Return any exception of an action as one of the port's errors, so that the controller always gets a result."""
    if isinstance(error, DriveError):
        return error
    if isinstance(error, PartitaError):
        return FailedError(error.what, where=error.where, hint=error.hint)
    return FailedError(f"a fault in partita itself: {type(error).__name__}: {error}", where=where)


def foreign_error(where: str) -> RefusedError:
    """Return the error of touching what is not ours."""
    return RefusedError("the instance is someone else's", where=where, hint="adopt it, or leave this GPU out")


def place(action: Action) -> str:
    """Return where an action happens, in words."""
    return f"{action.gpu} {action.placement}"


def replica_of(action: Action) -> Replica:
    """Return the replica that an action is about.

    Raises:
        RefusedError: it names none.
    """
    if action.replica is None:
        raise RefusedError("the action names no replica", where=place(action))
    return action.replica


def require_same(running: Replica, asked: Replica, where: str) -> None:
    """Refuse a replica that is not the one asked for.

    Raises:
        RefusedError: it is another.
    """
    if (running.service, running.model, running.batch, running.processes) != (
        asked.service,
        asked.model,
        asked.batch,
        asked.processes,
    ):
        raise RefusedError(f"a replica of {running.service} runs there already", where=where)


@dataclass(frozen=True, slots=True)
class ActionResult:
    """An action that has ended; `error` is None if it happened."""

    action: Action
    error: DriveError | None = None


class Driver(Protocol):
    """Drives one cluster.

    An action has ended when its effect can be observed: a created instance is complete, a destroyed one gone,
    a started replica ready, a stopped one gone. Performing what is done already is no error, and what is half
    done is completed: a controller that was killed asks again. Replicas outlive the controller, and so does
    the draining of those that it stopped.
    """

    @property
    def clock(self) -> Clock:
        """The clock that this cluster lives by."""
        ...

    def observe(self) -> Observation:
        """Return the cluster as it is now, actions under way half done.

        Raises:
            DriveError: nothing can be observed at all.
        """
        ...

    def begin(self, action: Action) -> None:
        """Start an action and return at once. It raises nothing: whatever goes wrong is told by `wait`."""
        ...

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Return the actions that ended since the last call, in that order; block until there are any.

        Args:
            until: time on `clock` at which to return none. Without it, none are returned when none are under
                way.

        Raises:
            DriveError: the cluster cannot be reached at all; what has ended is told by a later call.
        """
        ...

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Make an instance that someone else created ours, so that it may be used and destroyed.

        Raises:
            DriveError: there is no such instance.
        """
        ...


class ClosableDriver(Driver, Protocol):
    """What a package registers in the group `partita.drivers` makes: a driver of the command line's clusters."""

    def close(self) -> None:
        """Let go of the cluster, which goes on as it is."""
        ...


@runtime_checkable
class ObservesChanges(Protocol):
    """A driver that can say what changed at a cost that does not grow with the cluster."""

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return the GPUs that may have changed since the look that gave the mark.

        Put onto what was seen then, they give what `observe` would return now, with this exception: where a driver
        can only poll, what others did to a GPU that is not in `touched` may be told up to a second late. It is
        told by a later look all the same, never lost.

        Args:
            mark: of the last look; None to be told of every GPU.
            touched: GPUs that must be looked at anew, since actions on them have ended.

        Raises:
            DriveError: nothing can be observed at all.
        """
        ...


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """A GPU's energy counter at one moment.

    Attributes:
        gpu: the GPU's id.
        uuid: of the GPU.
        model: the catalogue's name.
        joules: since some moment that only a new start of the driver changes; None if it cannot be read.
        why: why it cannot.
        idle_w: watts it draws without work, where that is known.
    """

    gpu: str
    uuid: str
    model: str
    joules: float | None
    why: str | None = None
    idle_w: float | None = None


@runtime_checkable
class EnergyMeter(Protocol):
    """Reads the energy counters of a cluster's GPUs."""

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:
        """Return the counters as they are now; a counter that cannot be read is told as such.

        Args:
            busy: instances (GPU's id and start) on which a job runs, which a simulated counter cannot see itself.

        Raises:
            DriveError: no GPU answers at all.
        """
        ...
