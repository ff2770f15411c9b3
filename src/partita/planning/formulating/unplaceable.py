"""Why a service can run nowhere, and what would let it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from partita.errors import InfeasibleError, InputError, nearest
from partita.planning.formulating.assumed import names
from partita.planning.formulating.measured import allows, quantile_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.perf.table import Measurement
    from partita.planning.formulating.measured import Measured, Points
    from partita.workload import ServiceSpec, Workload

MOST = 10
"""Kinds of service that one error names."""


class _Why(NamedTuple):
    reason: str
    hint: str


def refuse_unmeasured(workload: Workload, measured: Measured) -> None:
    """Refuse models without rows on any GPU, and quantiles that no row has.

    Raises:
        InputError: `where` is the first such service's field.
    """
    asked: dict[tuple[str, float | None], int] = {}
    for index, service in enumerate(workload.services):
        # With a cut the quantile is a share of the queries, whichever latencies there are.
        asked.setdefault((service.model, None if service.cut else service.slo.quantile), index)
    for (model, quantile), index in asked.items():
        by_gpu = measured.rows(model)
        if not by_gpu and not measured.can_estimate(model):
            raise _unmeasured(model, f"services[{index}].model", measured)
        if by_gpu and all(quantile_of(rows, quantile) is None for rows in by_gpu.values()):
            there = sorted({row.quantile for rows in by_gpu.values() for row in rows})
            raise InputError(
                f"{model} has no latencies at quantile {quantile}, only {', '.join(there)}",
                where=f"services[{index}].slo.quantile",
                hint="ask a quantile that the performance table has, leave it out to use the strictest, "
                "or measure the model again",
            )


def _unmeasured(model: str, where: str, measured: Measured) -> InputError:
    gpus = names(gpu.name for gpu in measured.gpus)
    elsewhere = measured.table.gpus(model)
    close = nearest(model, [m for m in measured.table.models if m != model])
    if elsewhere:
        hint = f"it was measured on {names(elsewhere)}: measure it on {gpus}, or give its work under `models`"
    elif close:
        hint = f"did you mean {close}?"
    else:
        known = names(measured.table.models)
        hint = f"the tables have {known}" if known else "name a table under `performance`"
        hint += "; or give its work under `models` for an estimate"
    return InputError(f"no measurements of {model!r} on {gpus}", where=where, hint=hint)


def refuse_unplaceable(workload: Workload, measured: Measured, points: Mapping[int, Points]) -> None:
    """Refuse services that have no operating point on any profile.

    Args:
        workload: what to place.
        measured: what is known of its models.
        points: operating points by the service's index in the workload.

    Raises:
        InfeasibleError: says for each kind of service what binds; `where` is the first one.
    """
    kinds: dict[int, list[int]] = {}
    for index, each in points.items():
        if not each:
            kinds.setdefault(id(each), []).append(index)
    if not kinds:
        return
    lines = []
    for alike in list(kinds.values())[:MOST]:
        service = workload.services[alike[0]]
        like = f" and {len(alike) - 1} like it" if len(alike) > 1 else ""
        why = _why_pools(service, workload, measured) or _why(service, measured)
        lines.append((f"{service.name}{like}: {why.reason}", why.hint))
    if len(kinds) == 1:
        what, hint = lines[0]
    else:
        what = "\n  ".join(f"{reason}; {hint}" for reason, hint in lines)
        hint = (
            "mend each as it says" if len(kinds) <= MOST else f"and {len(kinds) - MOST} more kinds of service"
        )
    raise InfeasibleError(what, where=f"services[{next(iter(kinds.values()))[0]}]", hint=hint)


def _why(service: ServiceSpec, measured: Measured) -> _Why:
    rows = [row for gpu in measured.gpus for row in _rows(service, measured, gpu.name)]
    if not rows:
        return _Why("it fits in the memory of no profile", "use a GPU with more memory, or lower weights_mb")
    profiles = {(gpu.name, p.name) for gpu in measured.gpus for p in gpu.profiles if allows(service, p)}
    allowed = [row for row in rows if (row.gpu, row.profile) in profiles]
    if not allowed:
        there = names(row.profile for row in rows)
        return _Why(
            f"no measurement on {names(service.profiles or ())}; no row means that it did not fit in memory",
            f"it was measured on {there}: allow one of these in `profiles`",
        )
    return _why_limits(service, measured, allowed)


def _why_pools(service: ServiceSpec, workload: Workload, measured: Measured) -> _Why | None:
    """Return the reason where the service could run on a pool that it may not use."""
    if service.pools is None or not (points := measured.points(service)):
        return None
    able = {gpu for gpu, _ in points}
    others = [pool.label for pool in workload.gpus if pool.model in able]
    return _Why(
        f"it can run on none of its pools, {names(service.pools)}", f"allow {names(others)} in `pools`"
    )


def _rows(service: ServiceSpec, measured: Measured, gpu: str) -> list[Measurement]:
    rows = measured.rows(service.model).get(gpu, ())
    quantile = quantile_of(rows, service.slo.quantile)
    return [row for row in rows if row.quantile == quantile]


def _why_limits(service: ServiceSpec, measured: Measured, allowed: list[Measurement]) -> _Why:
    limits = measured.limits
    batch = limits.max_batch or max(row.batch for row in allowed)
    within = [row for row in allowed if row.batch <= batch and row.processes <= limits.max_processes]
    if not within:
        least = min(allowed, key=lambda row: (row.batch, row.processes))
        return _Why(
            f"no measurement within limits.max_batch {batch} and limits.max_processes {limits.max_processes}",
            f"the smallest has batch {least.batch} and {least.processes} processes: raise the limits",
        )
    fastest = min(within, key=lambda row: row.latency_ms)
    factor, slo = limits.latency_factor, service.slo.latency_ms
    scaled = f" ({factor:g} x {slo:g})" if factor < 1 else ""
    enough = math.ceil(fastest.latency_ms / factor * 10) / 10
    return _Why(
        f"too slow: one batch may take {measured.limit(service):.4g} ms{scaled}; the fastest takes "
        f"{fastest.latency_ms:.4g} ms, on {fastest.gpu} {fastest.profile} at batch {fastest.batch}",
        f"raise slo.latency_ms to at least {enough:g}{f' (latency_factor {factor:g})' if factor < 1 else ''}",
    )
