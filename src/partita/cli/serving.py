"""From what a user asks of `partita simulate` to a serving problem, its traffic, and its simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from partita.perf.table import Measurement
    from partita.planner import PreparedWorkload
    from partita.planning.problem import Pool
    from partita.serve.cuts import Cutter
    from partita.serve.problem import ServingProblem, SimulatedRouter
    from partita.serve.simulation import Simulation
    from partita.sim.traffic import Traffic
    from partita.workload import ServiceSpec


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When queries arrive without a trace; see `partita simulate --help`."""

    process: str
    variation: float
    swing: float
    queries: int

    def times(self, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return about as many arrival times as asked, at so many per second on average."""
        from partita.sim.traffic import day_curve, gamma, poisson  # noqa: PLC0415 -- numpy is slow to import

        if self.process == "gamma":
            return gamma(rate, self.queries, rng, self.variation)
        if self.process == "day":
            seconds = self.queries / rate
            return day_curve(rate, seconds, rng, swing=self.swing, period=seconds)
        return poisson(rate, self.queries, rng)


@dataclass(frozen=True, slots=True)
class Ask:
    """What the options say; see `partita simulate --help`."""

    arrivals: Arrivals
    trace: Path | None
    columns: dict[str, str]
    speed: float
    tokens_per_item: int
    median: float | None
    sigma: float | None
    gpus: int | None
    quantile: float | None
    seed: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A service's problem and traffic, and the names to show."""

    service: str
    model: str
    estimated: bool
    problem: ServingProblem
    traffic: Traffic
    notes: tuple[str, ...]


def load_asked(path: Path, service: str | None, ask: Ask) -> Asked:
    """Read the workload, its tables and the trace.

    Raises:
        InputError: a file or an option that cannot be used.
        InfeasibleError: the service can run on no profile.
    """
    import numpy as np  # noqa: PLC0415 -- slow to import

    from partita.planner import read_prepared  # noqa: PLC0415
    from partita.serve.fluid import fluid_gpus  # noqa: PLC0415
    from partita.serve.problem import ServingProblem  # noqa: PLC0415
    from partita.serve.reserving.services import QUANTILE  # noqa: PLC0415

    loaded = read_prepared(path)
    spec = _service(loaded, service)
    pool, rows, notes = _pool(loaded, spec)
    names = [p.name for p in pool.gpu.profiles if any(row.profile == p.name for row in rows)]
    latency, share, traffic = _queries(spec, rows, names, ask)
    quantile = ask.quantile or (spec.slo.quantile if spec.cut else None) or QUANTILE
    problem = ServingProblem(
        pool.gpu.restricted(names), 1, latency, share, spec.slo.latency_ms / 1000, quantile
    )
    gpus = ask.gpus or pool.count
    if gpus is None:
        if not np.isfinite(problem.feasible).any():
            raise InfeasibleError(
                f"{spec.name}: no slice answers a single item within {spec.slo.latency_ms:g} ms",
                where=str(path),
                hint="raise slo.latency_ms, or measure larger profiles",
            )
        gpus = fluid_gpus(problem, _rate(spec, share), served=quantile)
        notes.append(
            f"the pool {pool.name} has no count: simulated on the fewest GPUs that may hold the rate, {gpus:,}"
        )
    if gpus > _MOST_GPUS:
        raise InputError(f"{gpus:,} GPUs are too many to simulate", hint=f"--gpus {_MOST_GPUS} at most")
    estimated = any(row.estimated for row in rows)
    return Asked(spec.name, spec.model, estimated, problem.with_gpus(gpus), traffic, tuple(notes))


_MOST_GPUS = 500
_MOST_ITEMS = 1_024
_MEDIAN = 8.0


def _service(loaded: PreparedWorkload, name: str | None) -> ServiceSpec:
    from partita.errors import nearest  # noqa: PLC0415 -- only needed with a name

    services = {each.name: each for each in loaded.workload.services}
    if name is None:
        if len(services) == 1:
            return loaded.workload.services[0]
        raise InputError(
            f"the workload has {len(services):,} services",
            where=str(loaded.path),
            hint=f"choose one: --service {next(iter(services))}",
        )
    if name not in services:
        close = nearest(name, list(services))
        raise InputError(
            f"no service {name!r}",
            where=str(loaded.path),
            hint=f"did you mean {close}?" if close else f"the first is {next(iter(services))}",
        )
    return services[name]


def _pool(loaded: PreparedWorkload, spec: ServiceSpec) -> tuple[Pool, list[Measurement], list[str]]:
    """Return the first pool whose GPU the model was measured on, the rows that the service may use, and notes.

    Where the SLO's quantile was not measured, the strictest that was is taken, as plans with a cut do.
    """
    from partita.perf.operating_point import strictest  # noqa: PLC0415 -- slow to import
    from partita.planning.formulate import (  # noqa: PLC0415
        allows,
        quantile_of,
    )

    for pool in loaded.formulation.problem.pools:
        known = loaded.formulation.measured.of(spec.model, pool.gpu.name)
        asked = quantile_of(known, spec.slo.quantile)
        quantile = asked or strictest({row.quantile for row in known})
        allowed = {profile.name for profile in pool.gpu.profiles if allows(spec, profile)}
        rows = [r for r in known if r.quantile == quantile and r.processes == 1 and r.profile in allowed]
        if rows:
            notes = [] if asked else [f"no latency at quantile {spec.slo.quantile}; taken is {quantile}"]
            return pool, rows, notes
    raise InputError(
        f"no row with one process for {spec.model}",
        where=str(loaded.path),
        hint="measure it with processes 1: queries of unlike sizes run one at a time",
    )


def _rate(spec: ServiceSpec, share: NDArray[np.float64]) -> float:
    """Return queries/s of a service whose queries have these sizes."""
    return spec.rate / sum(size * float(part) for size, part in enumerate(share, 1))


def _queries(
    spec: ServiceSpec, rows: list[Measurement], names: list[str], ask: Ask
) -> tuple[NDArray[np.float64], NDArray[np.float64], Traffic]:
    """Return latencies (K, B), the share of each batch size (B,), and the traffic."""
    import numpy as np  # noqa: PLC0415 -- slow to import

    from partita.serve.problem import latency_table  # noqa: PLC0415
    from partita.sim.traffic import Traffic, draw, empirical_share, read_trace  # noqa: PLC0415 -- numpy is slow to import

    largest = min(_MOST_ITEMS, max(row.batch for row in rows))
    latency = latency_table(rows, names, largest)
    if ask.trace is None:
        rng = np.random.default_rng(ask.seed)
        in_time = np.flatnonzero((latency <= spec.slo.latency_ms / 1000).any(axis=0))
        share = _share(spec, ask, largest, int(in_time.max(initial=-1)) + 1)
        times = ask.arrivals.times(_rate(spec, share), rng)
        return latency, share, Traffic(times, draw(share, len(times), rng))
    traffic = read_trace(ask.trace, tokens_per_item=ask.tokens_per_item, columns=ask.columns).faster(
        ask.speed
    )
    if traffic.batch.max() > largest:
        raise InputError(
            f"a query of {traffic.batch.max():,} items, and {spec.model} was measured up to {largest:,}",
            where=str(ask.trace),
            hint="measure larger batches, or for LLM traces raise --tokens-per-item",
        )
    return latency, empirical_share(traffic.batch, largest), traffic


def _share(spec: ServiceSpec, ask: Ask, largest: int, in_time: int) -> NDArray[np.float64]:
    """Return the share of each batch size up to the largest measured, as the options or else the service say.

    Where neither says any, sizes end with the largest that a slice answers in time, `in_time`.
    """
    import numpy as np  # noqa: PLC0415 -- slow to import

    from partita.serve.reserving.services import SIGMA, share_of  # noqa: PLC0415
    from partita.sim.traffic import lognormal_share  # noqa: PLC0415

    if ask.median is not None:
        return lognormal_share(ask.median, ask.sigma or SIGMA, largest)
    if spec.batches is None or ask.sigma is not None:
        most = in_time or largest
        share = lognormal_share(min(_MEDIAN, max(1.0, most / 2)), ask.sigma or SIGMA, most)
        return np.pad(share, (0, largest - most))
    share = share_of(spec.batches, largest)
    if len(share) > largest:
        raise InputError(
            f"queries of {len(share):,} items, and {spec.model} was measured up to {largest:,}",
            hint="measure larger batches, or give sizes with --median",
        )
    return np.pad(share, (0, largest - len(share)))


def play(asked: Asked, cut: str, router: str, seed: int) -> Simulation:
    """Simulate with the cut and the router of these names."""
    from partita.serve.routers.elsa import Elsa  # noqa: PLC0415 -- numba is slow to import
    from partita.serve.routers.fifs import Fifs  # noqa: PLC0415
    from partita.serve.routers.kairos import Kairos  # noqa: PLC0415
    from partita.serve.routers.late_binding import LateBinding  # noqa: PLC0415
    from partita.serve.routers.price import Price  # noqa: PLC0415
    from partita.serve.simulation import simulate  # noqa: PLC0415

    routers: dict[str, SimulatedRouter] = {
        "late-binding": LateBinding(),
        "price": Price(),
        "elsa": Elsa(),
        "fifs": Fifs(),
        "kairos": Kairos(),
    }
    return simulate(asked.problem, _cutter(cut, routers[router], seed), routers[router], asked.traffic)


def _cutter(name: str, router: SimulatedRouter, seed: int) -> Cutter:
    from partita.serve.cuts import BestHomogeneous, FluidCut, Paris, RandomCut, Search  # noqa: PLC0415

    cutters: dict[str, Cutter] = {
        "search": Search(router),
        "fluid": FluidCut(),
        "paris": Paris(),
        "homogeneous": BestHomogeneous(router),
        "random": RandomCut(seed),
    }
    return cutters[name]
