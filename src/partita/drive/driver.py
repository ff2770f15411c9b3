"""The interface of drivers: observe a cluster, perform actions on it, raise errors that a controller can handle.

A driver performs actions side by side: `begin` starts one and returns at once, `wait` returns those that
have ended. So a controller is one loop in one thread whatever it drives, and on a simulated clock it is
deterministic. Threads, watches and polling are internal to each driver.

A slow, eventually consistent driver (Kubernetes) must do the following:

- `begin` writes the desired state (a claim, a pod, a node's label) and returns. The action has *ended* when its
    effect
  is observed, not when the server accepted the write; only then does `wait` return it.
- `observe` may be old, but never older than an action that `wait` has returned: after an action has ended, its effect
  must be visible. Where watches lag, wait for the resource version of the last write.
- Actions are idempotent by their effect: what is done already ends at once, what is half done is completed.
- Other actors are normal. An instance or a pod without our label is observed with `ours=False` and never
  touched; a conflicting write is a `RefusedError`, and the controller observes and plans again.
- `observe_changes` is optional (`ObservesChanges`). Without it everything is observed after each action that
  ends, which is quadratic in the size of a transition. With a watch, the resource version is the mark.
- An action that takes too long ends with `TimedOutError`. It may still happen, so it is withdrawn if possible, and
    the
  controller observes before it tries again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from partita.errors import PartitaError
from partita.registry import culprit

if TYPE_CHECKING:
    from collections.abc import Collection

    from partita.mig.layout import Placement
    from partita.sim.clock import Clock
    from partita.transition.deployment import Replica
    from partita.transition.transition import Action


@dataclass(frozen=True, slots=True)
class Identity:
    """What distinguishes instances of equal placement, as far as the hardware shows it.

    A simulated GPU gives a new UUID at every creation. NVIDIA's are computed from the ids (UUIDs of version 5), so an
    instance that is created again with the same ids has the same UUID.

    Attributes:
        gi_id: the GPU instance's id; None where the driver does not know it, as on Kubernetes.
        ci_id: the compute instance's id; None while there is none, as after a creation that was killed half-way.
        mig_uuid: None then, too. Where there is no `gi_id`, it identifies the instance: on Kubernetes it is the uid
            of the claim, once the claim holds its device.
    """

    gpu_uuid: str
    gi_id: int | None
    ci_id: int | None
    mig_uuid: str | None

    @property
    def instance_id(self) -> int:
        """`gi_id`, for drivers that always know it.

        Raises:
            ValueError: this one does not.
        """
        if self.gi_id is None:
            raise ValueError("this driver does not know the GPU instance's id")
        return self.gi_id


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """A replica as it was observed: `ready` answers queries, `draining` takes no new ones."""

    replica: Replica
    ready: bool
    draining: bool = False
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class ObservedInstance:
    """An instance as it was observed.

    Attributes:
        ours: made or adopted by Partita; others are never touched.
        busy: a process that is not a replica of ours runs on it.
    """

    placement: Placement
    identity: Identity
    ours: bool
    replica: ObservedReplica | None = None
    busy: bool = False

    @property
    def complete(self) -> bool:
        """Whether a replica can start on it. An incomplete instance is completed by creating it again."""
        known = self.identity.mig_uuid if self.identity.gi_id is None else self.identity.ci_id
        return known is not None


@dataclass(frozen=True, slots=True)
class ObservedGpu:
    """A GPU as it was observed.

    Attributes:
        id: `node-0/gpu-3`, stable as long as the hardware is unchanged.
        model: the catalogue's name.
        lost: fell off the bus, or does not answer.
        mig: whether it can be cut: MIG mode is on, or the driver may turn it on.
        leaving: whether it must become empty, though what runs there still answers: its node is cordoned, or it is
            not healthy.
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
        mark: argument of the next look; only the driver interprets it.
        gpus: GPUs that may have changed, as they are now.
        gone: ids of GPUs that are gone.
    """

    mark: object
    gpus: tuple[ObservedGpu, ...]
    gone: tuple[str, ...] = ()


class DriveError(PartitaError):
    """An action did not happen as far as is known; `retry` says whether trying again can help."""

    retry = False


class InUseError(DriveError):
    """The instance is still in use, as it is for a moment after its process has exited."""

    retry = True


class NoRoomError(DriveError):
    """The placement is not free, or the GPU does not have it, or there is no instance for a replica."""


class GpuLostError(DriveError):
    """The GPU is gone: it fell off the bus, does not answer, or never existed."""


class RefusedError(DriveError):
    """The driver, the cluster or a rule of Partita's forbids it (rights, MIG off, a foreign instance)."""


class FailedError(DriveError):
    """The driver failed and did not say why, or the process of a replica ended before it was ready."""

    retry = True


class TimedOutError(DriveError):
    """The action did not end in time, but may have happened: observe before trying again.

    A replica that is not ready in time is left as it is: stop it before starting it again.
    """

    retry = True


def as_drive_error(error: Exception, where: str) -> DriveError:
    """Return any exception of an action as a `DriveError`, so that the controller always gets a result."""
    if isinstance(error, DriveError):
        return error
    if isinstance(error, PartitaError):
        return FailedError(error.what, where=error.where, hint=error.hint)
    return FailedError(f"a fault in {culprit(error)}: {type(error).__name__}: {error}", where=where)


def foreign_error(where: str) -> RefusedError:
    """Return the error of an action on an instance that is not ours."""
    return RefusedError("the instance is someone else's", where=where, hint="adopt it, or leave this GPU out")


def place(action: Action) -> str:
    """Return where an action happens, as text."""
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
    if (running.service, running.model, running.batch, running.processes, running.tenants) != (
        asked.service,
        asked.model,
        asked.batch,
        asked.processes,
        asked.tenants,
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
        """The clock of this cluster."""
        ...

    def observe(self) -> Observation:
        """Return the cluster as it is now, with actions in progress half done.

        Raises:
            DriveError: nothing can be observed at all.
        """
        ...

    def begin(self, action: Action) -> None:
        """Begin an action and return at once. It raises nothing: `wait` returns whatever goes wrong."""
        ...

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Return the actions that ended since the last call, in that order; block until there are any.

        Args:
            until: time on `clock` at which to return without any. By default it returns without any only when none is
                in progress.

        Raises:
            DriveError: the cluster cannot be reached at all; a later call returns what has ended.
        """
        ...

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Make an instance that someone else created ours, so that it may be used and destroyed.

        Raises:
            DriveError: there is no such instance.
        """
        ...


class PassingDriver:
    """A `Driver` that passes all on to another one; a subclass does something of its own besides.

    Args:
        inner: drives the cluster.
    """

    def __init__(self, inner: Driver) -> None:
        self._inner = inner

    @property
    def clock(self) -> Clock:
        """The clock of this cluster."""
        return self._inner.clock

    def observe(self) -> Observation:
        """Return the cluster as it is now."""
        return self._inner.observe()

    def begin(self, action: Action) -> None:
        """Begin an action."""
        self._inner.begin(action)

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Return the actions that ended."""
        return self._inner.wait(until)

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Make someone else's instance ours."""
        self._inner.adopt(gpu, placement)


class ClosableDriver(Driver, Protocol):
    """A driver as a package registers it in the group `partita.drivers`, for the command line's clusters."""

    def close(self) -> None:
        """Release the cluster, which goes on as it is."""
        ...


@runtime_checkable
class ObservesChanges(Protocol):
    """A driver that can say what changed at a cost that does not grow with the cluster."""

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return the GPUs that may have changed since the look that gave the mark.

        Applied to what was seen then, they give what `observe` would return now, with one exception: where a driver
        can only poll, changes by others on a GPU that is not in `touched` may be returned up to a second late, by a
        later look.

        Args:
            mark: of the last look; None for all GPUs.
            touched: GPUs that must be observed again, since actions on them have ended.

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
        joules: since a moment that only a restart of the driver changes; None if it cannot be read.
        why: why it cannot be read.
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
        """Return the counters as they are now; one that cannot be read says why.

        Args:
            busy: instances (GPU's id and start) on which a job runs, which a simulated counter cannot see itself.

        Raises:
            DriveError: no GPU answers at all.
        """
        ...
