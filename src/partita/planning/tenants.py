"""Services that share an instance: who may, what each needs of it, and when several fit on one.

An instance that services share has one process with all their models. It runs one batch at a time, in the order in
which queries arrive. So memory adds up, busy time adds up, and a query waits for the batches of other services, too.
For Poisson arrivals this is the queue M/G/1: at most the share $1 - q$ of a service's queries may wait longer than
its SLO minus its own batch. The distribution of the wait is that of Pollaczek and Khinchine, a geometric number of
residual batches, computed on a grid and rounded up (Panjer's recursion).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InputError
from partita.perf.estimate import CONTEXT_MB as ESTIMATED_CONTEXT_MB
from partita.perf.estimate import LIVE_SHARE
from partita.perf.operating_point import OperatingPoint, Tenant
from partita.planning.formulate import allows, names, plain, quantile_of
from partita.workload import QUANTILE, may_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from partita.perf.table import Measurement
    from partita.planning.formulate import Measured
    from partita.planning.problem import Pool, Problem
    from partita.workload import ModelSpec, ServiceSpec, Workload

CONTEXT_MB = 322.0
"""The least that a CUDA context takes, 0.3 GiB. Each measured row has one in it; a shared instance has it once."""


_LATE = 0.9
"""Share of the late queries that the promise allows which a plan uses, as for other services whose queries wait."""

MIB = 1.048576
"""MB of a MiB."""

_SIMULATED = 60_000
"""Queries of a simulation of one shared instance."""

_CELLS = 256
"""Cells of the grid on which waiting times are computed."""


@dataclass(frozen=True)
class Needs:
    """What S services need of an instance of each of K sizes if they share it.

    Attributes:
        at: index of each service in the problem, ascending.
        specs: the services as the user wrote them.
        rate: items/s with headroom, which are queries/s here, shape (S,).
        quantile: share of its queries that must be in time: of the late ones that the promise allows a tenth is kept
            in reserve, shape (S,).
        seconds: of a batch of the smallest size measured; infinite where it cannot run, shape (S, K).
        slack: seconds that a query may wait: the SLO minus `limits.overhead_ms` and its own batch; negative where it
            cannot run, shape (S, K).
        memory: MB of weights and workspace; infinite where it cannot run, shape (S, K).
        room: MB of each size beside the CUDA context, shape (K,).
        rows: the measurement that each service runs at, by service and size; None where it cannot run.
        notes: for the user, a sentence each.
    """

    at: NDArray[np.int64]
    specs: tuple[ServiceSpec, ...]
    rate: NDArray[np.float64]
    quantile: NDArray[np.float64]
    seconds: NDArray[np.float64]
    slack: NDArray[np.float64]
    memory: NDArray[np.float64]
    room: NDArray[np.float64]
    rows: tuple[tuple[Measurement | None, ...], ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.at)

    @property
    def busy(self) -> NDArray[np.float64]:
        """Share of the time that an instance is busy with each service, shape (S, K)."""
        return self.rate[:, None] * self.seconds

    @property
    def urgency(self) -> NDArray[np.float64]:
        """The decay of the wait's tail that each service asks for, per second: ln(1 / (1 - q)) / slack; shape (S, K).

        By Lundberg's inequality an instance keeps the promise to all its services if, at the largest urgency among
        them, their `shares` add up to 1 at most.
        """
        with np.errstate(divide="ignore"):
            return np.where(
                self.slack > 0, -np.log1p(-self.quantile)[:, None] / np.maximum(self.slack, 1e-12), math.inf
            )

    @property
    def able(self) -> NDArray[np.bool_]:
        """Whether an instance of each size holds each service alone, shape (S, K)."""
        urgency = np.where(self.slack > 0, self.urgency, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            share = self.rate[:, None] * np.expm1(urgency * self.seconds) / urgency
        found: NDArray[np.bool_] = (self.memory <= self.room) & (self.slack > 0) & (self.busy < 1.0)
        for s, k in np.argwhere(found & ~(share <= 1.0)):
            found[s, k] = self.fits([int(s)], int(k))
        return found

    def shares(self, urgency: float, services: NDArray[np.int64], k: int) -> NDArray[np.float64]:
        """Return the effective bandwidth of services on size k: rate (exp(u s) - 1) / u, of 1 that there is."""
        with np.errstate(over="ignore"):
            found: NDArray[np.float64] = (
                self.rate[services] * np.expm1(urgency * self.seconds[services, k]) / urgency
            )
        return found

    def fits(self, services: Sequence[int], k: int) -> bool:
        """Return whether an instance of size k can hold these services and keep the promise to each."""
        of = np.asarray(services, dtype=np.int64)
        if self.memory[of, k].sum() > self.room[k] or not (self.slack[of, k] > 0).all():
            return False
        if self.busy[of, k].sum() >= 1.0:
            return False
        urgency = float(self.urgency[of, k].max())
        if self.shares(urgency, of, k).sum() <= 1.0:
            return True
        late = tails(self.rate[of], self.seconds[of, k], self.slack[of, k])
        return bool((late <= 1.0 - self.quantile[of]).all())

    def keeps(self, services: Sequence[int], k: int, seed: int = 0) -> bool:
        """Return whether a simulation of these services on size k does not refute their promises.

        It does where the late share of a service is above what is allowed by more than three standard errors, which
        are estimated from 20 parts of the simulation, as neighbouring queries wait alike.
        """
        of = np.asarray(services, dtype=np.int64)
        waits = simulated_waits(self.rate[of], self.seconds[of, k], _SIMULATED, seed)
        late = (waits.reshape(20, -1, 1) > self.slack[of, k]).mean(axis=1)
        least = late.mean(axis=0) - 3.0 * late.std(axis=0, ddof=1) / math.sqrt(20)
        return bool((least <= (1.0 - self.quantile[of]) / _LATE).all())

    def point(self, services: Sequence[int], k: int, profile: str) -> OperatingPoint:
        """Return how these services run on an instance of size k together."""
        tenants = tuple(self._tenant(s, k) for s in services)
        return OperatingPoint(
            profile=profile,
            batch=max(each.batch for each in tenants),
            processes=1,
            throughput=min(1000.0 * each.batch / each.latency_ms for each in tenants),
            latency_ms=max(each.latency_ms for each in tenants),
            quantile="",
            memory_mb=float(self.memory[list(services), k].sum()),
            estimated=any(each.estimated for each in tenants),
            tenants=tenants,
        )

    def _tenant(self, s: int, k: int) -> Tenant:
        row, spec = self.rows[s][k], self.specs[s]
        if row is None:
            raise AssertionError(f"{spec.name} cannot run there")
        return Tenant(
            spec.name,
            spec.model,
            row.batch,
            float(self.rate[s]),
            row.latency_ms,
            round(float(self.memory[s, k]), 3),
            row.estimated,
        )


def tails(
    rate: NDArray[np.float64], seconds: NDArray[np.float64], slack: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return an upper bound of the share of queries that wait longer than each slack, first come first served.

    Args:
        rate: Poisson arrivals of each service, queries/s.
        seconds: its batches.
        slack: waiting times, positive.
    """
    load = float((rate * seconds).sum())
    if load >= 1.0:
        return np.ones(len(slack))
    cell = float(slack.max()) / _CELLS
    # The residual batch has density sum of rate over seconds longer than x, over the load; each cell goes to its end.
    edges = np.arange(_CELLS + 1) * cell
    below = (rate[:, None] * np.minimum(seconds[:, None], edges)).sum(axis=0)
    residual = np.diff(below)
    wait = np.zeros(_CELLS + 1)
    wait[0] = 1.0 - load
    for i in range(1, _CELLS + 1):
        wait[i] = residual[:i] @ wait[i - 1 :: -1]
    within = np.cumsum(wait)
    found: NDArray[np.float64] = 1.0 - within[np.floor(slack / cell + 1e-9).astype(np.int64)]
    return np.maximum(found, 0.0)


def simulated_waits(
    rate: NDArray[np.float64], seconds: NDArray[np.float64], queries: int, seed: int
) -> NDArray[np.float64]:
    """Return how long each of so many queries waits on a shared instance, in a simulation of its queue.

    Arrivals are Poisson, so every service's queries see the same distribution.

    Args:
        rate: queries/s of each service.
        seconds: of its batches.
        queries: of all services together.
        seed: of arrivals.
    """
    random = np.random.default_rng(seed)
    total = float(rate.sum())
    gaps = random.exponential(1.0 / total, queries)
    runs = seconds[random.choice(len(rate), queries, p=rate / total)]
    walk = np.concatenate([[0.0], np.cumsum(runs[:-1] - gaps[1:])])
    waits: NDArray[np.float64] = walk - np.minimum.accumulate(walk)
    return waits


def promised(spec: ServiceSpec) -> float:
    """Return the share of a service's queries that must be in time where it shares an instance."""
    return spec.slo.quantile or QUANTILE


# --- who shares, and what the tables say of it


def needs_of(problem: Problem, workload: Workload, measured: Measured) -> Needs | None:
    """Return what the services that share need; None if none does.

    Args:
        problem: the services that may, at their present rates, and the sizes.
        workload: who says that it shares.
        measured: the rows of the models.

    Raises:
        InputError: a service says that it shares, and nothing says how much memory it takes; `where` is its field.
    """
    policy = workload.limits.share_below
    specs = {spec.name: (index, spec) for index, spec in enumerate(workload.services)}
    rows = _Rows(problem, workload, measured)
    kept: list[tuple[int, ServiceSpec, float, _Found]] = []
    lacking: list[str] = []
    for at, service in enumerate(problem.services):
        index, spec = specs[service.name]
        if not may_share(spec, workload.limits):
            continue
        found = rows.of(spec)
        if all(row is None for row in found.rows) and found.unknown:
            if spec.share:
                raise InputError(
                    f"{spec.name} cannot share an instance: nothing says how much memory {spec.model} takes",
                    where=f"services[{index}].share",
                    hint="fill in memory_mb of the performance table, or give weights_mb under `models`",
                )
            lacking.append(spec.name)
            continue
        busy = [service.rate * row.latency_ms / 1000 for row in found.rows if row is not None]
        if spec.share is None and policy is not None and not (busy and busy[0] < policy):
            continue
        kept.append((at, spec, service.rate, found))
    if not kept:
        return None
    overhead = workload.limits.overhead_ms
    needs = _joined(problem, kept, overhead)
    alone: list[bool] = [bool(row.any()) for row in needs.able]
    large = [needs.specs[s].name for s, fits in enumerate(alone) if not fits]
    notes = []
    if lacking:
        notes.append(f"{names(lacking)}: no memory_mb in the tables, so they share no instance")
    if large:
        notes.append(f"{names(large)}: they need more than one instance, so they share none")
    if not all(alone):
        kept = [each for each, fits in zip(kept, alone, strict=True) if fits]
        if not kept:
            return None
        needs = _joined(problem, kept, overhead)
    return replace(needs, notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class _Found:
    """The row of a service on each size, its memory in MB there, and whether rows without memory were left out."""

    rows: tuple[Measurement | None, ...]
    memory: tuple[float, ...]
    unknown: bool


class _Rows:
    """Looks up how services run when they share; services that run alike share one object."""

    def __init__(self, problem: Problem, workload: Workload, measured: Measured) -> None:
        self._problem, self._measured = problem, measured
        self._limits = workload.limits
        self._models = {model.name: model for model in workload.models}
        self._made: dict[tuple[object, ...], _Found] = {}

    def of(self, spec: ServiceSpec) -> _Found:
        """Return the smallest batch of one process on each size, at the service's quantile or the strictest."""
        key = (spec.model, spec.slo.quantile, spec.slo.latency_ms, spec.profiles, spec.pools, spec.spot)
        if key not in self._made:
            pairs = [self._on(spec, k) for k in range(len(self._problem.sizes))]
            self._made[key] = _Found(
                tuple(None if memory is None else row for row, memory in pairs),
                tuple(math.inf if memory is None else memory for _, memory in pairs),
                any(row is not None and memory is None for row, memory in pairs),
            )
        return self._made[key]

    @staticmethod
    def _open_to(spec: ServiceSpec, pool: Pool) -> bool:
        return (spec.pools is None or pool.name in spec.pools) and (spec.spot > 0 or not pool.spot)

    def _on(self, spec: ServiceSpec, k: int) -> tuple[Measurement | None, float | None]:
        size = self._problem.sizes[k]
        pool = self._problem.pools[size.pool]
        profile = pool.gpu.profile(size.profile)
        if not allows(spec, profile) or not self._open_to(spec, pool):
            return None, None
        rows = self._measured.of(spec.model, pool.gpu.name)
        quantile = quantile_of(rows, spec.slo.quantile) or quantile_of(rows, None)
        for name in (profile.name, plain(profile.name)):
            mine = [
                row
                for row in rows
                if row.profile == name
                and row.quantile == quantile
                and row.processes == 1
                and (self._limits.max_batch is None or row.batch <= self._limits.max_batch)
            ]
            if mine:
                row = min(mine, key=lambda row: row.batch)
                if row.latency_ms >= spec.slo.latency_ms - self._limits.overhead_ms:
                    return None, None
                return row, _memory(row, self._models.get(spec.model))
        return None, None


def _memory(row: Measurement, model: ModelSpec | None) -> float | None:
    """Return the MB of weights and workspace, None where nothing says."""
    if row.memory_mb is not None:
        context = ESTIMATED_CONTEXT_MB if row.estimated else CONTEXT_MB
        return max(0.0, row.memory_mb - context)
    if model is None:
        return None
    live = model.mbytes * LIVE_SHARE if model.live_mb is None else model.live_mb
    return model.weights_mb + row.batch * live


def _joined(
    problem: Problem, kept: Sequence[tuple[int, ServiceSpec, float, _Found]], overhead_ms: float
) -> Needs:
    estimated = any(row.estimated for *_, found in kept for row in found.rows if row is not None)
    context = ESTIMATED_CONTEXT_MB if estimated else CONTEXT_MB
    seconds = np.array(
        [[math.inf if row is None else row.latency_ms / 1000 for row in found.rows] for *_, found in kept]
    )
    slo = np.array([(spec.slo.latency_ms - overhead_ms) / 1000 for _, spec, _, _ in kept])
    memory = [problem.pools[size.pool].gpu.profile(size.profile).memory_mib for size in problem.sizes]
    return Needs(
        at=np.array([at for at, *_ in kept], dtype=np.int64),
        specs=tuple(spec for _, spec, _, _ in kept),
        rate=np.array([rate for _, _, rate, _ in kept]),
        quantile=np.array([1.0 - _LATE * (1.0 - promised(spec)) for _, spec, _, _ in kept]),
        seconds=seconds,
        slack=slo[:, None] - seconds,
        memory=np.array([found.memory for *_, found in kept]),
        room=np.array([0.0 if mib is None else mib * MIB - context for mib in memory]),
        rows=tuple(found.rows for *_, found in kept),
    )
