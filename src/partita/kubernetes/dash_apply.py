"""A change of a Workload that somebody applies in the dashboard: of its spec, which the controller plans as ever.

The whole object is replaced, which needs the verb `update`: the controller never has it by itself, only where an
account was bound the role `changes`. What the changed spec says is checked before anything is written.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from partita.dash.model import Accepted
from partita.dash.refusal import RequestFault
from partita.errors import nearest
from partita.kubernetes.objects import ConflictError, ForbiddenError, InvalidError, NotFoundError
from partita.kubernetes.resources import WORKLOADS, read_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from partita.dash.model import WorkloadChange
    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.controller import ClusterController
    from partita.kubernetes.resources import WorkloadObject

_TRIES = 5
"""Writes that are tried while only the status changes meanwhile."""


def apply_change(
    controller: ClusterController, change: WorkloadChange, current: Callable[[], bool]
) -> Accepted:
    """Change a Workload's spec.

    Args:
        controller: whose Workloads may be changed.
        change: what is to be different.
        current: says whether the cluster is still in the state that the change was made for.

    Raises:
        RequestFault: it is not, or the change cannot be made, or the account may not make it.
        InputError: the changed spec has faults.
        KubernetesError: the cluster does not answer.
    """
    found = _chosen(controller, change.workload)
    meta, api = found.metadata, controller.api
    for _ in range(_TRIES):
        if not current():
            raise _changed_since()
        try:
            written = _read(api, found)
            _require_same(written, found)
            spec = changed_spec(written["spec"], change)
            read_spec(spec, f"Workload {meta.namespace}/{meta.name}")
            made = api.replace(WORKLOADS, {"metadata": written["metadata"], "spec": spec})
        except ForbiddenError as error:
            raise RequestFault(
                403,
                f"the controller's account may not: {error.what}",
                hint="bind the role for changes to it, or change the Workload yourself: `kubectl edit workload "
                f"{meta.name} --namespace {meta.namespace}`",
            ) from None
        except NotFoundError:
            raise _changed_since() from None
        except InvalidError as error:
            raise RequestFault(422, error.what, where=error.where, hint=error.hint) from None
        except ConflictError:
            continue
        name = f"{meta.namespace}/{meta.name}"
        if made.metadata.generation == meta.generation:
            return Accepted(name, f"Workload {name} is so already")
        waits = ", and its plan waits for approval" if spec.get("approve") == "Manual" else ""
        return Accepted(name, f"Workload {name} is changed; its controller plans it{waits}")
    raise RequestFault(503, "others write the Workload all the time", hint="try again")


def changed_spec(spec: dict[str, Any], change: WorkloadChange) -> dict[str, Any]:
    """Return a Workload's spec with a change.

    Args:
        spec: as it is written; it is left as it is.
        change: what is to be different.

    Raises:
        RequestFault: there is no such service or pool, or the change would not be what is planned.
    """
    made: dict[str, Any] = json.loads(json.dumps(spec))
    services = {str(each.get("name")): each for each in made.get("services", ())}
    pools = {str(each.get("name") or each.get("model")): each for each in made.get("gpus", ())}
    if not change.services and not change.pools:
        raise RequestFault(422, "nothing is to be changed", where="change", hint="name services or pools")
    for name, service in change.services.items():
        of = _known(services, name, "change.services")
        where = f"change.services.{name}"
        if service.rate == 0:
            raise RequestFault(
                422, "a service without a rate is to be taken out of the Workload", where=f"{where}.rate",
                hint="`kubectl edit workload`",
            )  # fmt: skip
        if service.rate is not None and made.get("rates"):
            raise RequestFault(
                409, "the Workload's rates are measured, so this one would not be planned for",
                where=f"{where}.rate", hint="take `rates` out of the Workload first",
            )  # fmt: skip
        if service.rate is not None:
            of["rate"] = service.rate
        slo = of.setdefault("slo", {})
        if service.latency_ms is not None:
            slo["latency_ms"] = service.latency_ms
        if service.quantile is not None:
            slo["quantile"] = service.quantile
    for name, pool in change.pools.items():
        of = _known(pools, name, "change.pools")
        if pool.count is not None:
            raise RequestFault(
                409, "the nodes of a cluster say how many GPUs there are", where=f"change.pools.{name}.count",
                hint="choose nodes by the Workload's `nodes`, or add and cordon nodes",
            )  # fmt: skip
        if pool.price is not None:
            of["cost_per_hour"] = pool.price
    return made


def _known(all_: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    found = all_.get(name)
    if not isinstance(found, dict):
        close = nearest(name, list(all_))
        hint = f"did you mean {close}?" if close else f"there are {', '.join([*all_][:5])}"
        raise RequestFault(422, f"the Workload has no {name!r}", where=where, hint=hint)
    return found


def _chosen(controller: ClusterController, name: str) -> WorkloadObject:
    found: Sequence[WorkloadObject] = controller.caches[0].values() if controller.caches else ()
    names = {f"{each.metadata.namespace}/{each.metadata.name}": each for each in found}
    if not name and len(names) > 1:
        raise RequestFault(
            422, "there are several Workloads", where="change.workload", hint=f"name one: {_some(names)}"
        )
    chosen = names.get(name) if name else next(iter(names.values()), None)
    if chosen is None:
        raise RequestFault(
            404, f"there is no Workload {name!r}", where="change.workload", hint=f"there are {_some(names)}"
        )
    return chosen


def _some(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:5]) or "none"


def _read(api: KubernetesApi, found: WorkloadObject) -> dict[str, Any]:
    """Return a Workload with all of its fields, also those that are not ours."""
    meta = found.metadata
    text = api.read_bytes(WORKLOADS, meta.name, meta.namespace, subresource="", query={})
    written: dict[str, Any] = json.loads(text)
    return written


def _require_same(written: dict[str, Any], found: WorkloadObject) -> None:
    """Refuse a Workload that is another one than was seen, or has another spec."""
    meta = written["metadata"]
    if (meta["uid"], meta["generation"]) != (found.metadata.uid, found.metadata.generation):
        raise _changed_since()


def _changed_since() -> RequestFault:
    return RequestFault(412, "the cluster has changed since", where="If-Match", hint="look again")
