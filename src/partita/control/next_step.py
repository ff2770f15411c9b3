"""What to do next for an action of a transition, judged by what is observed and not by what is remembered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from partita.control.observed import serving
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from partita.drive.driver import ObservedGpu, ObservedInstance
    from partita.transition.transition import Action


class Gpus(Protocol):
    """A cluster as it was observed."""

    def gpu(self, gpu_id: str) -> ObservedGpu | None:
        """Return the GPU of that id, None if there is none."""
        ...


def next_step(action: Action, cluster: Gpus) -> Action | None:
    """Return the action itself, another one that must come before it, or None if its effect is there already.

    What a killed controller or a failed try left behind is cleared away first: a replica that is not ready or
    drains is stopped, an instance without its compute instance is completed. Neither counts towards a
    service's capacity, so no floor depends on it.
    """
    found = _found(action, cluster)
    match action.kind:
        case ActionKind.CREATE_INSTANCE:
            return None if found is not None and found.ours and found.complete else action
        case ActionKind.DESTROY_INSTANCE:
            return None if found is None else _clear(action, found) or action
        case ActionKind.STOP_REPLICA:
            return None if found is None or found.replica is None else action
        case ActionKind.START_REPLICA:
            return _start(action, found)


def _start(action: Action, found: ObservedInstance | None) -> Action | None:
    if found is None:
        return action  # the driver says what is wrong
    if not found.complete:
        return _before(action, ActionKind.CREATE_INSTANCE)
    if found.replica is None:
        return action
    if serving(found) == action.replica:
        return None
    if found.replica.replica == action.replica and not found.replica.draining:
        return action  # it goes on becoming ready
    return _clear(action, found)


def restart(action: Action, cluster: Gpus) -> Action | None:
    """Return what must come before an action that has failed is tried again, None if nothing.

    A replica that was not ready in time is stopped: to wait for it once more would be no new try.
    """
    found = _found(action, cluster)
    if action.kind is ActionKind.START_REPLICA and found is not None and serving(found) != action.replica:
        return _clear(action, found)
    return None


def _clear(action: Action, found: ObservedInstance) -> Action | None:
    """Return the stop of a replica that is in the way."""
    if found.replica is None or not found.ours:
        return None
    return replace(_before(action, ActionKind.STOP_REPLICA), replica=found.replica.replica)


def _before(action: Action, kind: ActionKind) -> Action:
    return replace(action, id=f"{action.id}/{kind.value}", kind=kind, replica=None, after=())


def _found(action: Action, cluster: Gpus) -> ObservedInstance | None:
    gpu = cluster.gpu(action.gpu)
    return next((each for each in gpu.instances if each.placement == action.placement), None) if gpu else None
