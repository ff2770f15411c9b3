"""What is seen of a cluster: what is deployed, what is remembered of it, and what somebody else has changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from partita.documents.text import line
from partita.drive.driver import Changes, Observation, ObservesChanges
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from partita.drive.driver import Driver, ObservedGpu, ObservedInstance
    from partita.transition.deployment import Replica
    from partita.transition.transition import Action


@dataclass(frozen=True, slots=True)
class Difference:
    """What two looks at the cluster saw of the GPUs that may have changed between them.

    Attributes:
        gpus: ids of those GPUs; the snapshots are of them alone.
    """

    gpus: frozenset[str]
    before: Snapshot
    now: Snapshot


class ClusterView:
    """The cluster as it was at the last look.

    The cost of a look grows with the changes, where the driver can name them, else with the cluster.

    Args:
        driver: observes the cluster.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._gpus: dict[str, ObservedGpu] = {}
        self._mark: object | None = None

    def look(self, touched: Collection[str] = ()) -> Difference:
        """See what has changed since the last look; at the first one, everything has.

        Args:
            touched: ids of GPUs on which actions have ended since then.

        Raises:
            DriveError: the cluster cannot be observed.
        """
        seen = changes(self._driver, self._mark, touched)
        self._mark = seen.mark
        ids = frozenset([*(gpu.id for gpu in seen.gpus), *seen.gone])
        was = tuple(self._gpus[name] for name in ids if name in self._gpus)
        for name in seen.gone:
            self._gpus.pop(name, None)
        self._gpus.update((gpu.id, gpu) for gpu in seen.gpus)
        return Difference(ids, snapshot(Observation(was)), snapshot(Observation(seen.gpus)))

    def gpu(self, gpu_id: str) -> ObservedGpu | None:
        """Return the GPU of that id, None if there is none."""
        return self._gpus.get(gpu_id)

    @property
    def observation(self) -> Observation:
        """The whole cluster."""
        return Observation(tuple(self._gpus.values()))


def changes(driver: Driver, mark: object | None, touched: Collection[str]) -> Changes:
    """Return what has changed; if the driver cannot say, all GPUs count as changed.

    Args:
        driver: observes the cluster.
        mark: of the last look, None for the first.
        touched: ids of GPUs on which actions have ended since then.

    Raises:
        DriveError: the cluster cannot be observed.
    """
    if isinstance(driver, ObservesChanges):
        return driver.observe_changes(mark, touched)
    gpus = driver.observe().gpus
    there = frozenset(gpu.id for gpu in gpus)
    return Changes(there, gpus, tuple(mark - there) if isinstance(mark, frozenset) else ())


Key = tuple[str, str]
"""A GPU's id and a placement as text."""


class Fact(NamedTuple):
    """The state of one instance as it was observed; the journal has it as a list.

    Attributes:
        mig_uuid: changes at a re-creation with other ids; None while there is no compute instance.
        serves: the replica that answers queries, in words.
        settling: whether its replica is not ready yet or drains, and so will change by itself.
    """

    ours: bool
    busy: bool
    mig_uuid: str | None
    serves: str | None
    settling: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a cluster as it was observed: each GPU's condition and each instance."""

    gpus: Mapping[str, str]
    instances: Mapping[Key, Fact]

    @property
    def fingerprint(self) -> str:
        """Twelve digits that change when anything does that a transition depends on."""
        rows = sorted([key, fact] for key, fact in self.instances.items())
        text = line([sorted(self.gpus.items()), rows])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def snapshot(observation: Observation) -> Snapshot:
    """Return the part of an observation that later ones are compared with."""
    return Snapshot(
        {gpu.id: _condition(gpu) for gpu in observation.gpus},
        {(gpu.id, str(each.placement)): _fact(each) for gpu in observation.gpus for each in gpu.instances},
    )


_READY, _LEAVING = "ready", "to be emptied"


def _condition(gpu: ObservedGpu) -> str:
    if gpu.lost:
        return "lost"
    if not gpu.mig:
        return "MIG mode off"
    return _LEAVING if gpu.leaving else _READY


def key_of(action: Action) -> Key:
    """Return the instance that an action is about."""
    return action.gpu, str(action.placement)


def words(replica: Replica) -> str:
    """Return a replica as text that identifies it: `resnet50 batch 8`, `bert batch 4 x2`.

    Where services share the instance, a digest stands for them: `search +3 (9a0364b9)`.
    """
    if replica.tenants:
        runs = "\n".join(f"{each.service}\0{each.model}\0{each.batch}" for each in replica.tenants)
        return f"{replica.service} ({hashlib.sha256(runs.encode()).hexdigest()[:8]})"
    processes = f" x{replica.processes}" if replica.processes > 1 else ""
    return f"{replica.service} batch {replica.batch}{processes}"


def _fact(instance: ObservedInstance) -> Fact:
    runs = serving(instance)
    return Fact(
        instance.ours,
        instance.busy,
        instance.identity.mig_uuid,
        None if runs is None else words(runs),
        settling=instance.replica is not None and runs is None,
    )


def moved(before: Snapshot, now: Snapshot, ours: Mapping[Key, Action | None] | None = None) -> list[str]:
    """Return, in words, what someone else has changed.

    Args:
        before: the cluster as it was.
        now: the cluster as it is.
        ours: instances that this controller worked on meanwhile, so that only others' changes are returned: the
            action that ended well, or None where it is in progress or failed.
    """
    return [*_gpus_moved(before, now), *_instances_moved(before, now, ours or {})]


def _gpus_moved(before: Snapshot, now: Snapshot) -> Iterator[str]:
    for gpu in sorted(before.gpus.keys() | now.gpus.keys()):
        was, found = before.gpus.get(gpu), now.gpus.get(gpu)
        if was != found:
            yield f"{gpu}: " + ("is new" if was is None else f"is {found or 'gone'}")


def _instances_moved(before: Snapshot, now: Snapshot, mine: Mapping[Key, Action | None]) -> Iterator[str]:
    for key in sorted(before.instances.keys() | now.instances.keys() | mine.keys()):
        if now.gpus.get(key[0]) not in {_READY, _LEAVING}:
            continue  # _gpus_moved names the GPU itself
        was, found = before.instances.get(key), now.instances.get(key)
        why = _own_undone(mine[key], found) if key in mine else _changed(was, found)
        if why:
            yield f"{key[0]}: {key[1]} {why}"


def _own_undone(action: Action | None, found: Fact | None) -> str | None:
    """Return what someone else did to an instance that we worked on, None if nothing is certain."""
    if found is not None and (not found.ours or found.busy):
        return "was taken by someone else"
    if action is None:
        return None
    wanted = None if action.replica is None else words(action.replica)
    match action.kind:
        case ActionKind.DESTROY_INSTANCE:
            return None if found is None else "exists again"
        case ActionKind.START_REPLICA:
            return None if found and found.serves == wanted else f"does not run {wanted} any more"
        case ActionKind.CREATE_INSTANCE | ActionKind.STOP_REPLICA:
            return "is gone" if found is None or found.mig_uuid is None else None


def _changed(was: Fact | None, found: Fact | None) -> str | None:
    if was is None or found is None:
        return None if was == found else "is new" if was is None else "is gone"
    if (was.ours, was.busy) != (found.ours, found.busy):
        if found.busy:
            return "is in use by someone else's process"
        return "is ours now" if found.ours else "is someone else's"
    if was.mig_uuid != found.mig_uuid:
        return "was created again"
    if was.settling or (was.serves == found.serves and not found.settling):
        return None
    return f"does not run {was.serves} any more" if was.serves else "runs something new"


def deployed(observation: Observation) -> Deployment:
    """Return what runs, on the GPUs that can be used.

    A replica counts if it is ready and does not drain. An instance that is someone else's, or that someone
    else's process runs on, is fixed. GPUs that are lost or not in MIG mode are left out.
    """
    gpus = (
        DeployedGpu(
            gpu.id,
            gpu.model,
            tuple(map(_deployed, sorted(gpu.instances, key=lambda each: each.placement))),
            leaving=gpu.leaving,
        )
        for gpu in observation.gpus
        if usable(gpu)
    )
    return Deployment(tuple(gpus))


def _deployed(instance: ObservedInstance) -> DeployedInstance:
    if not instance.ours or instance.busy:
        return DeployedInstance(instance.placement, None, fixed=True)
    return DeployedInstance(instance.placement, serving(instance))


def usable(gpu: ObservedGpu) -> bool:
    """Say whether a GPU answers and can be cut."""
    return gpu.mig and not gpu.lost


def serving(instance: ObservedInstance) -> Replica | None:
    """Return the replica that answers queries on an instance, None if none does."""
    found = instance.replica
    return found.replica if found is not None and found.ready and not found.draining else None
