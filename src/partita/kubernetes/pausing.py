"""The pause of a Workload: an annotation, by which no action of its transitions begins, whichever controller leads.

`kubectl partita pause`, `partita pause --workload` and the dashboard all write it, and so may `kubectl annotate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.kubernetes.objects import ConflictError, NotFoundError
from partita.kubernetes.resources import PAUSED, WORKLOADS

if TYPE_CHECKING:
    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.resources import WorkloadObject


def paused_by(workload: WorkloadObject) -> str | None:
    """Return who paused a Workload; None if nobody did."""
    by = workload.metadata.annotations.get(PAUSED)
    return by if by is None else by.strip() or "somebody"


def resuming(name: str) -> str:
    """Return the command that ends the pause of a Workload."""
    return f"kubectl partita resume {name}"


def pause(api: KubernetesApi, found: WorkloadObject, by: str) -> str:
    """Pause a Workload; return what is to be said. One that is paused already stays as it is.

    Args:
        api: with the right to patch Workloads.
        found: the Workload.
        by: who pauses it, for people.

    Raises:
        InputError: the Workload is gone, or another one has its name.
        KubernetesError: the cluster does not answer, or refuses.
    """
    name, before = found.metadata.name, paused_by(found)
    if before is not None:
        return f"{name} is paused already, by {before}; go on with `{resuming(name)}`"
    _annotate(api, found, by)
    return f"{name} is paused: what is in progress ends, and nothing begins; go on with `{resuming(name)}`"


def resume(api: KubernetesApi, found: WorkloadObject) -> str:
    """End the pause of a Workload; return what is to be said. Arguments and errors as for `pause`."""
    if paused_by(found) is None:
        return f"{found.metadata.name} is not paused"
    _annotate(api, found, None)
    return f"{found.metadata.name} goes on"


def _annotate(api: KubernetesApi, found: WorkloadObject, by: str | None) -> None:
    meta = found.metadata
    body = {"metadata": {"uid": meta.uid, "annotations": {PAUSED: by}}}
    try:
        api.patch(WORKLOADS, meta.name, body, meta.namespace)
    except (ConflictError, NotFoundError):
        raise InputError(
            "it is gone, or another Workload has its name by now",
            where=f"Workload {meta.namespace}/{meta.name}",
            hint="`kubectl partita status` shows what there is now",
        ) from None
