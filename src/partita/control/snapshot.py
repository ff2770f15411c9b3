"""What a controller remembers of a cluster: enough to notice that someone else has changed it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from partita.control.observed import serving
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from partita.drive.driver import Observation, ObservedGpu, ObservedInstance
    from partita.transition.deployment import Replica
    from partita.transition.transition import Action

Key = tuple[str, str]
"""A GPU's id and a placement as text."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What was seen of one instance.

    Attributes:
        mig_uuid: changes at a re-creation with other ids; None while there is no compute instance.
        serves: the replica that answers queries, in words.
        settling: a replica that is not ready yet or drains, and so will change by itself.
    """

    ours: bool
    busy: bool
    mig_uuid: str | None
    serves: str | None
    settling: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen of a cluster: each GPU's condition and each instance."""

    gpus: Mapping[str, str]
    instances: Mapping[Key, Fact]

    @property
    def fingerprint(self) -> str:
        """Twelve digits that change when anything does that a transition depends on."""
        rows = sorted([key, astuple(fact)] for key, fact in self.instances.items())
        text = json.dumps([sorted(self.gpus.items()), rows])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def snapshot(observation: Observation) -> Snapshot:
    """Return what there is to remember of an observation."""
    return Snapshot(
        {gpu.id: _condition(gpu) for gpu in observation.gpus},
        {(gpu.id, str(each.placement)): _fact(each) for gpu in observation.gpus for each in gpu.instances},
    )


def key_of(action: Action) -> Key:
    """Return the instance that an action is about."""
    return action.gpu, str(action.placement)


def words(replica: Replica) -> str:
    """Return a replica in words that tell it from any other: `resnet50 batch 8`, `bert batch 4 x2`."""
    processes = f" x{replica.processes}" if replica.processes > 1 else ""
    return f"{replica.service} batch {replica.batch}{processes}"


def _condition(gpu: ObservedGpu) -> str:
    return "lost" if gpu.lost else "ready" if gpu.mig else "MIG mode off"


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
        ours: instances that this controller worked on meanwhile: the action that ended well, or None where it
            is under way or failed, so that anything but another's hand may be found.
    """
    mine = ours or {}
    return [*_gpus_moved(before, now), *_instances_moved(before, now, mine)]


def _gpus_moved(before: Snapshot, now: Snapshot) -> Iterator[str]:
    for gpu in sorted(before.gpus.keys() | now.gpus.keys()):
        was, found = before.gpus.get(gpu), now.gpus.get(gpu)
        if was != found:
            yield f"{gpu}: " + ("is new" if was is None else f"is {found or 'not there any more'}")


def _instances_moved(before: Snapshot, now: Snapshot, mine: Mapping[Key, Action | None]) -> Iterator[str]:
    for key in sorted(before.instances.keys() | now.instances.keys() | mine.keys()):
        if now.gpus.get(key[0]) != "ready":
            continue  # the GPU itself was told
        was, found = before.instances.get(key), now.instances.get(key)
        why = _own_undone(mine[key], found) if key in mine else _changed(was, found)
        if why:
            yield f"{key[0]}: {key[1]} {why}"


def _own_undone(action: Action | None, found: Fact | None) -> str | None:
    """Say what has become of an instance that we worked on, None for what we meant or may have left."""
    if found is not None and (not found.ours or found.busy):
        return "was taken by someone else"
    if action is None:
        return None
    wanted = None if action.replica is None else words(action.replica)
    match action.kind:
        case ActionKind.DESTROY_INSTANCE:
            return None if found is None else "is there again"
        case ActionKind.START_REPLICA:
            return None if found and found.serves == wanted else f"does not run {wanted} any more"
        case ActionKind.CREATE_INSTANCE | ActionKind.STOP_REPLICA:
            return "is gone" if found is None or found.mig_uuid is None else None


def _changed(was: Fact | None, found: Fact | None) -> str | None:
    if was is None or found is None:
        return None if was == found else "is new" if was is None else "is gone"
    if (was.ours, was.busy) != (found.ours, found.busy):
        return _whose(found)
    if was.mig_uuid != found.mig_uuid:
        return "was made anew"
    if was.settling or (was.serves == found.serves and not found.settling):
        return None
    return f"does not run {was.serves} any more" if was.serves else "runs something new"


def _whose(found: Fact) -> str:
    if found.busy:
        return "is in use by someone else's process"
    return "is ours now" if found.ours else "is someone else's"
