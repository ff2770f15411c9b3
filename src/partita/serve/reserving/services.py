"""Services with a cut: their batch sizes and deadlines, and the pools that can meet them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError, InputError
from partita.perf.operating_point import strictest
from partita.planning.formulate import allows, plain, quantile_of
from partita.serve.problem import ServingProblem, in_words, latency_table, size_classes
from partita.sim.traffic import lognormal_share
from partita.workload import LARGEST_BATCH, QUANTILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from partita.perf.table import Measurement
    from partita.planning.formulate import Measured
    from partita.planning.plan import Plan
    from partita.planning.problem import Pool
    from partita.workload import Batches, ServiceSpec, Workload


SIGMA = 0.9
"""Default sigma of log-normal batch sizes (as in PARIS and ELSA)."""


@dataclass(frozen=True, eq=False)
class PoolProblem:
    """The problem of serving a service's queries on one GPU of a pool.

    Attributes:
        pool: index of the pool.
        problem: the serving problem on one GPU.
        takes: for each size, the largest query that it answers in time, and its seconds; 0 items if there is none.
        quantile: of the latencies, as written in the table.
        estimated: profiles with latencies that are estimates.
    """

    pool: int
    problem: ServingProblem
    takes: tuple[tuple[int, float], ...]
    quantile: str
    estimated: frozenset[str]


@dataclass(frozen=True, eq=False)
class CutService:
    """A service with GPUs of its own.

    Attributes:
        index: its place among the workload's services.
        spec: as the user wrote it.
        cut: name of the cut.
        items: mean items of a query.
        offers: pools that can answer enough of the queries in time.
        notes: assumptions, as sentences for the user.
    """

    index: int
    spec: ServiceSpec
    cut: str
    items: float
    offers: tuple[PoolProblem, ...]
    notes: tuple[str, ...]

    @property
    def shares(self) -> dict[int, float]:
        """Share of the queries by batch size."""
        share = self.offers[0].problem.share.tolist()
        return {size: part for size, part in enumerate(share, 1) if part > 0}

    @property
    def rate(self) -> float:
        """Required queries/s, including the headroom."""
        return self.spec.rate * (1 + self.spec.headroom) / self.items


def cut_services(workload: Workload, pools: Sequence[Pool], measured: Measured) -> tuple[CutService, ...]:
    """Return the services of a workload that have a cut, in its order.

    Raises:
        InputError: a model without measurements with one process. `where` is the path of the field.
        InfeasibleError: too few queries of a service can be answered in time on any pool; `where` as above.
    """
    return tuple(
        _cut_service(index, spec, pools, measured)
        for index, spec in enumerate(workload.services)
        if spec.cut is not None
    )


def _cut_service(index: int, spec: ServiceSpec, pools: Sequence[Pool], measured: Measured) -> CutService:
    mine = [
        (at, pool)
        for at, pool in enumerate(pools)
        if (spec.pools is None or pool.name in spec.pools) and not pool.spot
    ]
    if not mine:
        raise InfeasibleError(
            f"{spec.name} has a cut, and the GPUs that it may use are all spot",
            where=f"services[{index}]",
            hint="add a pool without `spot`: a service with a cut uses no spot GPUs",
        )
    rows = {pool.gpu.name: serving_rows(spec, pool, measured) for _, pool in mine}
    largest = max((row.batch for found in rows.values() for row in found), default=0)
    if not largest:
        raise InputError(
            f"no row with one process for {spec.model}",
            where=f"services[{index}].model",
            hint="measure it with processes 1: queries of unlike sizes run one at a time",
        )
    most = min(largest, LARGEST_BATCH, measured.limits.max_batch or largest)
    if spec.batches is None:
        raise AssertionError("the workload's reader refuses a cut without batches")
    try:
        share = share_of(spec.batches, most)
    except InputError as error:
        raise InputError(error.what, where=f"services[{index}].batches", hint=error.hint) from None
    offers = [_offer(each, rows[each[1].gpu.name], share, spec, most) for each in mine]
    found = [each for each in offers if each is not None]
    able = tuple(each for each in found if each.problem.answerable >= each.problem.quantile)
    if not able:
        raise _too_slow(index, spec, max(found, key=lambda each: each.problem.answerable).problem)
    return CutService(
        index,
        spec,
        spec.cut or "",
        float(share @ np.arange(1, len(share) + 1)),
        able,
        tuple(_notes(spec, pools, able)),
    )


def serving_rows(spec: ServiceSpec, pool: Pool, measured: Measured) -> list[Measurement]:
    """Return the rows with one process that a service may use, of each allowed profile or else of its plain one.

    Where the SLO's quantile was not measured, they are those of the strictest that was.
    """
    known = measured.of(spec.model, pool.gpu.name)
    quantile = quantile_of(known, spec.slo.quantile) or strictest({row.quantile for row in known})
    single = [row for row in known if row.quantile == quantile and row.processes == 1]
    there = {row.profile for row in single}
    return [
        replace(row, profile=profile.name)
        for profile in pool.gpu.profiles
        if allows(spec, profile) and (profile.name in there or profile.name in (spec.profiles or ()))
        for row in single
        if row.profile == (profile.name if profile.name in there else plain(profile.name))
    ]


def share_of(batches: Batches, largest: int) -> NDArray[np.float64]:
    """Return the share of each batch size from 1 to the largest, shape (B,).

    Args:
        batches: of a service.
        largest: where a log-normal without `max` ends.

    Raises:
        InputError: almost none of the log-normal's mass is within it.
    """
    if batches.histogram is not None:
        share = np.zeros(max(batches.histogram))
        share[np.array(list(batches.histogram)) - 1] = list(batches.histogram.values())
        return np.asarray(np.trim_zeros(share / share.sum(), "b"))
    return lognormal_share(batches.median or 1.0, batches.sigma or SIGMA, batches.max or largest)


def _offer(
    pool: tuple[int, Pool], rows: list[Measurement], share: NDArray[np.float64], spec: ServiceSpec, most: int
) -> PoolProblem | None:
    index, gpu = pool[0], pool[1].gpu
    names = [profile.name for profile in gpu.profiles if any(r.profile == profile.name for r in rows)]
    if not names:
        return None
    latency = latency_table(rows, names, max(len(share), most))
    latency[:, most:] = np.inf
    deadline = spec.slo.latency_ms / 1000
    largest = [int(np.flatnonzero(own <= deadline).max(initial=-1)) for own in latency]
    takes = tuple((b + 1, float(own[b])) for b, own in zip(largest, latency, strict=True))
    quantile = QUANTILE if spec.slo.quantile is None else spec.slo.quantile
    problem = ServingProblem(
        gpu.restricted(names),
        1,
        latency[:, : len(share)],
        share,
        deadline,
        quantile,
        size_classes(share) if spec.promise == "each_size" else (),
        spec.process,
    )
    return PoolProblem(
        index, problem, takes, rows[0].quantile, frozenset(row.profile for row in rows if row.estimated)
    )


def _too_slow(index: int, spec: ServiceSpec, problem: ServingProblem) -> InfeasibleError:
    enough = _enough(problem)
    needed = float(problem.latency[:, :enough].min(axis=0).max()) * 1000
    hint = "send smaller batches, or measure larger ones"
    if np.isfinite(needed):
        hint = f"queries of {enough} items take {needed:.4g} ms: raise slo.latency_ms, or send smaller ones"
        if problem.classes:
            hint += "; promise: mix counts all sizes together"
    which = f"the queries of {_largest_class(problem)} items" if problem.classes else "the queries"
    return InfeasibleError(
        f"{spec.name}: no slice answers more than {problem.answerable:.4g} of {which} within "
        f"{spec.slo.latency_ms:g} ms, and {problem.quantile:.4g} must be",
        where=f"services[{index}].slo.latency_ms",
        hint=hint,
    )


def _enough(problem: ServingProblem) -> int:
    """Return the batch size up to which queries must be answered in time."""
    share = problem.share
    if problem.classes:
        share = share * (problem.class_of == len(problem.classes) - 1)
    return int(np.searchsorted(np.cumsum(share), problem.quantile * share.sum())) + 1


def _largest_class(problem: ServingProblem) -> str:
    """Return the batch sizes of the last class, in words."""
    return in_words(problem.classes)[-1]


def promised_classes(spec: ServiceSpec) -> tuple[int, ...]:
    """Return the classes of batch sizes that must each keep a service's quantile, as its gateway counts them.

    A log-normal that the workload does not cut off ends at the largest batch size that there is.
    """
    if spec.cut is None or spec.batches is None or spec.promise == "mix":
        return ()
    return size_classes(share_of(spec.batches, LARGEST_BATCH))


def _notes(spec: ServiceSpec, pools: Sequence[Pool], offers: Sequence[PoolProblem]) -> list[str]:
    said = []
    for offer in offers:
        gpu = pools[offer.pool].gpu.name
        if offer.estimated:
            said.append(f"no measurement on {gpu}, planned with an estimate")
        if offer.quantile == "mean":
            said.append(f"latencies on {gpu} are means, no quantile; slower queries will exceed the SLO")
        never = np.flatnonzero(~np.isfinite(offer.problem.feasible).any(axis=0) & (offer.problem.share > 0))
        if len(never):
            part = float(offer.problem.share[never].sum())
            said.append(f"queries of {never[0] + 1} items and more ({part:.2%}) are never in time on {gpu}")
    return [f"{spec.name}: {note}" for note in said]


@dataclass(frozen=True, slots=True)
class SliceOf:
    """One profile.

    Attributes:
        instances: how many the plan has.
        largest: items of the largest query that it answers in time, 0 if none.
        latency_ms: of that query.
        part: share of the queries that it could answer in time, 0 to 1.
        throughput: items/s of one instance when the cut serves all that it holds; None where the plan has none.
        estimated: whether a latency is an estimate.
    """

    gpu: str
    profile: str
    instances: int
    largest: int
    latency_ms: float
    part: float
    throughput: float | None
    estimated: bool


def slices_of(plan: Plan, service: CutService, pools: Sequence[Pool]) -> list[SliceOf]:
    """Return the profiles that a service could run on, of each GPU from small to large."""
    name, found = service.spec.name, []
    for offer in service.offers:
        gpu, problem = pools[offer.pool].gpu.name, offer.problem
        for k, profile in enumerate(problem.profiles):
            there = [
                each
                for planned in plan.gpus
                if planned.model == gpu
                for each in planned.instances
                if each.service == name and each.placement.profile == profile
            ]
            batch, seconds = offer.takes[k]
            in_time = problem.latency[k] <= problem.deadline
            found.append(
                SliceOf(
                    gpu=gpu,
                    profile=profile,
                    instances=len(there),
                    largest=batch,
                    latency_ms=seconds * 1000 if batch else 0.0,
                    part=float(problem.share[in_time].sum()),
                    throughput=there[0].point.throughput if there else None,
                    estimated=profile in offer.estimated,
                )
            )
    return found
