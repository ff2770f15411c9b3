"""The independent checker of one shared instance: memory, busy time, and the wait of every service's queries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from partita.perf.operating_point import Tenant
    from partita.workload import ModelSpec, Workload

_CONTEXT_MB = 0.3 * 1024**3 / 1e6
"""The least that a CUDA context takes: what each measured row has of it, and a process needs once."""

_ESTIMATED_CONTEXT_MB = 900.0
"""What an estimated row has for the context."""

_LIVE_SHARE = 0.05
"""Activations alive at once, as a share of those read and written, where `live_mb` is not given."""

_QUANTILE = 0.95
_CELLS = 2048


@dataclass(frozen=True, slots=True)
class SharedRules:
    """What a workload says of sharing.

    Attributes:
        may: services that may share an instance.
        models: MB of weights, and of activations of one item, of models for which the workload gives them.
    """

    may: frozenset[str] = frozenset()
    models: tuple[tuple[str, float, float], ...] = ()

    def memory(self, model: str, batch: int, measured: float | None, *, estimated: bool) -> float | None:
        """Return the MB of a model's weights and workspace; None where nothing says."""
        if measured is not None:
            return max(0.0, measured - (_ESTIMATED_CONTEXT_MB if estimated else _CONTEXT_MB))
        return next((weights + batch * live for name, weights, live in self.models if name == model), None)


def shared_rules(workload: Workload) -> SharedRules:
    """Return what a workload says of sharing."""
    limits = workload.limits
    return SharedRules(
        frozenset(
            spec.name
            for spec in workload.services
            if (limits.share_below is not None if spec.share is None else spec.share)
            and spec.cut is None
            and max(spec.min_replicas, spec.spread) == 1
            and (limits.survive if spec.survive is None else spec.survive) == "none"
            and spec.spot in (0, 1)
            and spec.arrivals in (None, "poisson", "constant")
        ),
        tuple((model.name, model.weights_mb, _live(model)) for model in workload.models),
    )


def _live(model: ModelSpec) -> float:
    return _LIVE_SHARE * model.mbytes if model.live_mb is None else model.live_mb


def bundle_violations(
    tenants: Sequence[Tenant],
    slos: Mapping[str, tuple[float, float | None]],
    memory_mib: int | None,
) -> Iterator[str]:
    """Yield why these services cannot share one instance.

    Args:
        tenants: the services, as the plan runs them.
        slos: milliseconds and quantile of each service's promise.
        memory_mib: of the instance.
    """
    names = [each.service for each in tenants]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"service {name} shares it with itself"
    context = _ESTIMATED_CONTEXT_MB if any(each.estimated for each in tenants) else _CONTEXT_MB
    need = context + math.fsum(each.memory_mb for each in tenants)
    have = (memory_mib or 0) * 1024**2 / 1e6
    if need > have * (1 + 1e-6) + 0.01 * len(tenants):
        yield f"its services need {need:,.0f} MB of memory, it has {have:,.0f}"
    busy = math.fsum(each.throughput * each.latency_ms / 1000 for each in tenants)
    if busy >= 1:
        yield f"its services would keep it busy for {busy:.3g} of the time"
        return
    known = [each for each in tenants if each.service in slos]
    waits = _waits(
        tenants, max((slos[each.service][0] - each.latency_ms for each in known), default=0.0) / 1000
    )
    for each in known:
        slo, quantile = slos[each.service]
        slack = (slo - each.latency_ms) / 1000
        late = waits.beyond(slack) if slack > 0 else 1.0
        if late > 1 - (quantile or _QUANTILE) + 1e-6:
            yield (
                f"at least {late:.2%} of the queries of {each.service} would wait too long for its SLO of {slo:g} ms"
            )


@dataclass(frozen=True)
class _Waits:
    """The distribution of the wait on a grid.

    Attributes:
        cell: seconds between its points.
        chance: of each wait, from 0 on.
    """

    cell: float
    chance: np.ndarray[tuple[int], np.dtype[np.float64]]

    def beyond(self, seconds: float) -> float:
        """Return the share of the queries that wait longer."""
        last = math.floor(seconds / self.cell + 1e-9)
        return max(0.0, 1.0 - float(self.chance[: last + 1].sum()))


def _waits(tenants: Sequence[Tenant], slack: float) -> _Waits:
    """Return a lower bound of the wait up to `slack` seconds, first come first served and with Poisson arrivals.

    The transform of Pollaczek and Khinchine, (1 - load) / (1 - load R), is inverted by a discrete Fourier transform.
    The residual batch R is rounded down to the grid, which is twice as long as the longest slack, and damped so that
    what lies beyond its end does not come back at its beginning.
    """
    import numpy as np  # noqa: PLC0415 -- 0.2 s, and every command that looks at a cluster imports the checkers

    rate = np.array([each.throughput for each in tenants])
    seconds = np.array([each.latency_ms / 1000 for each in tenants])
    cell = max(slack, float(seconds.max())) / (_CELLS // 2)
    edges = np.arange(_CELLS + 1) * cell
    load = float((rate * seconds).sum())
    residual = np.diff((rate[:, None] * np.minimum(seconds[:, None], edges)).sum(axis=0))
    damped = np.exp(-_DAMPING * np.arange(_CELLS) / _CELLS)
    transform = (1 - load) / (1 - np.fft.rfft(residual * damped))
    chance = np.fft.irfft(transform, _CELLS) / damped
    return _Waits(cell, np.maximum(chance, 0.0))


_DAMPING = 14.0
"""What comes back at the grid's beginning is smaller by exp(-14), a millionth."""
