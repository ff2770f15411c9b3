"""What the workers of a plan are started with."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from partita.errors import InputError
from partita.serve.supervise.filling import filled
from partita.serve.worker.spec import GRACE_S, UNDECLARED, WorkerSpec
from partita.serve.worker.wire import HANG_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from partita.planning.plan import Instance, Plan
    from partita.serve.worker.spec import BackendSpec, DeclaredBatch

Table: TypeAlias = "Mapping[tuple[str, str, int], Mapping[int, float]]"
"""Seconds of a batch, by GPU model, profile and processes, and by batch size."""
UNNAMED = "0"
"""The token of a specification that no worker has been started with yet."""


def worker_specs(
    plan: Plan,
    backends: Mapping[str, BackendSpec],
    folder: Path,
    *,
    tables: Mapping[str, Table] | None = None,
    grace_s: float = GRACE_S,
    graces: Mapping[str, float] | None = None,
    declared: Mapping[str, DeclaredBatch] | None = None,
    hang_timeouts: Mapping[str, float] | None = None,
    once: Collection[str] = (),
) -> tuple[WorkerSpec, ...]:
    """Return a worker for each instance of a plan.

    Args:
        plan: what runs where.
        backends: what runs each service's model, by service; an upstream's URL may name `{gpu}`, `{placement}`,
            `{start}`, `{service}` and `{model}`.
        folder: where their sockets go.
        tables: what is measured of each service; where nothing is, the plan's own operating point is taken.
        grace_s: seconds that each has for finishing what it has when it is told to end.
        graces: the same of single services.
        declared: what is said of the batch of each service's model.
        hang_timeouts: seconds without a sign of life after which workers of single services hang.
        once: services whose queries must not run a second time.

    Raises:
        InputError: a service without a back-end, or a URL that cannot be filled in.
    """
    return tuple(
        WorkerSpec(
            service=each.service,
            model=each.model,
            gpu=gpu.id,
            placement=str(each.placement),
            batch=each.point.batch,
            backend=_backend(backends, gpu.id, each),
            folder=str(folder.resolve()),
            token=UNNAMED,
            processes=each.point.processes,
            seconds=_seconds((tables or {}).get(each.service, {}), gpu.model, each),
            grace_s=(graces or {}).get(each.service, grace_s),
            supervised=True,
            declared=(declared or {}).get(each.service, UNDECLARED),
            hang_timeout_s=(hang_timeouts or {}).get(each.service, HANG_TIMEOUT_S),
            retry=each.service not in once,
        )
        for gpu in plan.gpus
        for each in gpu.instances
    )


def _seconds(table: Table, model: str, instance: Instance) -> dict[int, float]:
    point = instance.point
    measured = table.get((model, instance.placement.profile, point.processes))
    return dict(measured) if measured else {point.batch: point.latency_ms / 1000}


def _backend(backends: Mapping[str, BackendSpec], gpu: str, instance: Instance) -> BackendSpec:
    found = backends.get(instance.service)
    if found is None:
        raise InputError(f"nothing says what runs {instance.service}", hint="give it a worker")
    placement = str(instance.placement)
    return filled(
        found, {"gpu": gpu, "placement": placement, "service": instance.service, "model": instance.model}
    )
