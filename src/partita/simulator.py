"""Simulating the queries of one service of a workload: its problem, its traffic, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from partita.errors import InfeasibleError, InputError, nearest
from partita.registry import load, make
from partita.serve.fluid import fluid_gpus
from partita.serve.problem import ServingProblem, latency_table, size_classes
from partita.serve.reserving.services import SIGMA, serving_rows, share_of
from partita.serve.simulation import QUANTILES, simulate
from partita.sim.traffic import Traffic, draw, empirical_share, lognormal_share, read_trace
from partita.workload import QUANTILE, ArrivalsSpec, GammaArrivals

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from partita.perf.table import Measurement
    from partita.planner import PreparedWorkload
    from partita.planning.problem import Pool
    from partita.serve.problem import SimulatedRouter
    from partita.serve.simulation import Simulation
    from partita.workload import Process, ServiceSpec


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When queries arrive without a trace; see `partita simulate --help`."""

    process: str = "poisson"
    variation: float = 3.0
    swing: float = 0.6
    queries: int = 100_000

    def times(self, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return about `queries` arrival times in seconds, at `rate` per second on average."""
        from partita.sim.traffic import day_curve, gamma, poisson  # noqa: PLC0415 -- numpy is slow to import

        if self.process == "gamma":
            return gamma(rate, self.queries, rng, self.variation)
        if self.process == "day":
            seconds = self.queries / rate
            return day_curve(rate, seconds, rng, swing=self.swing, period=seconds)
        return poisson(rate, self.queries, rng)


@dataclass(frozen=True, slots=True)
class SimulationRequest:
    """The options; see `partita simulate --help`."""

    arrivals: Arrivals = Arrivals()
    trace: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    speed: float = 1.0
    tokens_per_item: int = 256
    median: float | None = None
    sigma: float | None = None
    gpus: int | None = None
    quantile: float | None = None
    promise: Literal["each_size", "mix"] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class AskedSimulation:
    """A service's problem and traffic, and names for the output."""

    service: str
    model: str
    estimated: bool
    problem: ServingProblem
    traffic: Traffic
    notes: tuple[str, ...]


def ask(prepared: PreparedWorkload, service: str | None, wanted: SimulationRequest) -> AskedSimulation:
    """Return the problem and the traffic of a service of a workload.

    Args:
        prepared: the workload.
        service: its name; None for the only one.
        wanted: the options.

    Raises:
        InputError: a file or an option cannot be used.
        InfeasibleError: the service cannot run on any profile.
    """
    loaded, path = prepared, prepared.path
    spec = _service(loaded, service)
    pool, rows, notes = _pool(loaded, spec)
    names = [p.name for p in pool.gpu.profiles if any(row.profile == p.name for row in rows)]
    latency, share, traffic = _queries(spec, rows, names, wanted)
    quantile = wanted.quantile or (spec.slo.quantile if spec.cut else None) or QUANTILE
    each_size = (wanted.promise or spec.promise) == "each_size"
    problem = ServingProblem(
        pool.gpu.restricted(names),
        1,
        latency,
        share,
        spec.slo.latency_ms / 1000,
        quantile,
        size_classes(share) if each_size else (),
        _process(wanted, traffic, notes),
    )
    gpus = wanted.gpus or pool.count
    if gpus is None:
        if not np.isfinite(problem.feasible).any():
            raise InfeasibleError(
                f"{spec.name}: no slice answers a single item within {spec.slo.latency_ms:g} ms",
                where=str(path or "the workload"),
                hint="raise slo.latency_ms, or measure larger profiles",
            )
        gpus = fluid_gpus(problem, _rate(spec, share), served=quantile)
        notes.append(
            f"the pool {pool.name} has no count: simulated on the fewest GPUs that may hold the rate, {gpus:,}"
        )
    if gpus > _MOST_GPUS:
        raise InputError(f"{gpus:,} GPUs are too many to simulate", hint=f"--gpus {_MOST_GPUS} at most")
    estimated = any(row.estimated for row in rows)
    return AskedSimulation(spec.name, spec.model, estimated, problem.with_gpus(gpus), traffic, tuple(notes))


_MOST_GPUS = 500
_MOST_ITEMS = 1_024
_MEDIAN = 8.0


def _service(loaded: PreparedWorkload, name: str | None) -> ServiceSpec:
    services = {each.name: each for each in loaded.workload.services}
    if name is None:
        if len(services) == 1:
            return loaded.workload.services[0]
        raise InputError(
            f"the workload has {len(services):,} services",
            where=str(loaded.path or "the workload"),
            hint=f"choose one: --service {next(iter(services))}",
        )
    if name not in services:
        close = nearest(name, list(services))
        raise InputError(
            f"no service {name!r}",
            where=str(loaded.path or "the workload"),
            hint=f"did you mean {close}?" if close else f"the first is {next(iter(services))}",
        )
    return services[name]


def _pool(loaded: PreparedWorkload, spec: ServiceSpec) -> tuple[Pool, list[Measurement], list[str]]:
    """Return the first pool on whose GPU the model was measured, the rows that the service may use, and notes."""
    for pool in loaded.formulation.problem.pools:
        rows = serving_rows(spec, pool, loaded.formulation.measured)
        if rows:
            taken, asked = rows[0].quantile, spec.slo.quantile
            there = asked is None or (taken != "mean" and float(taken) == asked)
            return pool, rows, [] if there else [f"no latency at quantile {asked}: {taken} is used instead"]
    raise InputError(
        f"no row with one process for {spec.model}",
        where=str(loaded.path or "the workload"),
        hint="measure it with processes 1: queries of unlike sizes run one at a time",
    )


def _rate(spec: ServiceSpec, share: NDArray[np.float64]) -> float:
    """Return queries/s of a service whose queries have these sizes."""
    return spec.rate / sum(size * float(part) for size, part in enumerate(share, 1))


def _queries(
    spec: ServiceSpec, rows: list[Measurement], names: list[str], wanted: SimulationRequest
) -> tuple[NDArray[np.float64], NDArray[np.float64], Traffic]:
    """Return latencies (K, B), the share of each batch size (B,), and the traffic."""
    largest = min(_MOST_ITEMS, max(row.batch for row in rows))
    latency = latency_table(rows, names, largest)
    if wanted.trace is None:
        rng = np.random.default_rng(wanted.seed)
        in_time = np.flatnonzero((latency <= spec.slo.latency_ms / 1000).any(axis=0))
        share = _share(spec, wanted, largest, int(in_time.max(initial=-1)) + 1)
        times = wanted.arrivals.times(_rate(spec, share), rng)
        return latency, share, Traffic(times, draw(share, len(times), rng))
    traffic = read_trace(wanted.trace, tokens_per_item=wanted.tokens_per_item, columns=wanted.columns).faster(
        wanted.speed
    )
    if traffic.batch.max() > largest:
        raise InputError(
            f"a query of {traffic.batch.max():,} items, and {spec.model} was measured up to {largest:,}",
            where=str(wanted.trace),
            hint="measure larger batches, or for LLM traces raise --tokens-per-item",
        )
    return latency, empirical_share(traffic.batch, largest), traffic


def _process(wanted: SimulationRequest, traffic: Traffic, notes: list[str]) -> Process:
    """Return the arrivals that a cut is searched for, and its largest rate measured with: those simulated."""
    trace = wanted.trace
    if trace is None:
        if wanted.arrivals.process == "gamma":
            return ArrivalsSpec(gamma=GammaArrivals(cv=wanted.arrivals.variation))
        return "poisson"
    if wanted.columns or str(trace) == "-" or traffic.arrival[-1] <= 0.0:
        notes.append("the cut and the largest rate are for Poisson arrivals, not for the trace's")
        return "poisson"
    notes.append(
        "the cut and the largest rate are for the trace's own queries, repeated from random places on"
    )
    return ArrivalsSpec(trace=str(trace))


def _share(spec: ServiceSpec, wanted: SimulationRequest, largest: int, in_time: int) -> NDArray[np.float64]:
    """Return the share of each batch size up to the largest measured, by the options or by the service.

    Without either, sizes go up to `in_time`, the largest that some slice answers in time.
    """
    if wanted.median is not None:
        return lognormal_share(wanted.median, wanted.sigma or SIGMA, largest)
    if spec.batches is None or wanted.sigma is not None:
        most = in_time or largest
        share = lognormal_share(min(_MEDIAN, max(1.0, most / 2)), wanted.sigma or SIGMA, most)
        return np.pad(share, (0, largest - most))
    share = share_of(spec.batches, largest)
    if len(share) > largest:
        raise InputError(
            f"queries of {len(share):,} items, and {spec.model} was measured up to {largest:,}",
            hint="measure larger batches, or give sizes with --median",
        )
    return np.pad(share, (0, largest - len(share)))


def play(asked: AskedSimulation, cut: str, router: str, seed: int) -> Simulation:
    """Simulate with a cut and a router, given by name.

    Raises:
        InputError: there is no cut or router of that name.
        InfeasibleError: the cut can answer too few of the queries in time.
    """
    found = load("routers", router)
    # The gateway constructs live routers, with its workers; others are constructed here.
    chosen: SimulatedRouter = found if hasattr(found, "put") else found()
    return simulate(asked.problem, make("cuts", cut, router=chosen, seed=seed), chosen, asked.traffic)


def simulation_data(asked: AskedSimulation, found: Simulation, cut: str, router: str) -> dict[str, Any]:
    """Return the result as plain data; a latency of None is that of a refused query."""
    problem, seen = asked.problem, found.evaluation
    names = zip(problem.profiles, found.cut.counts.tolist(), strict=True)
    return {
        "service": asked.service,
        "model": asked.model,
        "estimated": asked.estimated,
        "gpu": problem.gpu.name,
        "gpus": problem.gpus,
        "cut": {"name": cut, "instances": {name: n for name, n in names if n}},
        "router": router,
        "deadline_ms": problem.deadline * 1000,
        "queries": seen.queries,
        "seconds": seen.seconds,
        "attainment": seen.attainment,
        "classes": [
            {
                "least": each.least,
                "most": each.most,
                "queries": each.queries,
                "attainment": each.in_time / each.queries if each.queries else None,
            }
            for each in seen.classes
        ],
        "refused": seen.refused,
        "late": seen.queries - seen.in_time - seen.refused,
        "latency_ms": {
            f"p{q * 100:g}": seconds * 1000 if seconds < float("inf") else None
            for q, seconds in zip(QUANTILES, seen.latency, strict=True)
        },
        "holds": {
            "quantile": problem.quantile,
            "promise": "each_size" if problem.classes else "mix",
            "queries_per_second": found.holds.rate,
            "half_width": found.holds.half_width,
            "bound": found.bound,
        },
        "slices": [
            {
                "gpu": each.gpu,
                "profile": each.placement.profile,
                "start": each.placement.start,
                "queries": each.queries,
                "busy": each.busy,
            }
            for each in seen.slices
        ],
    }
