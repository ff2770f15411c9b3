"""From what a user asks of `partita simulate` to a serving problem, its traffic, and its simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from partita.cli.loading import Loaded
    from partita.perf.table import Measurement
    from partita.plan.problem import Pool
    from partita.serve.cut import Cutter
    from partita.serve.outcome import Router
    from partita.serve.problem import ServingProblem
    from partita.serve.simulation import Simulation
    from partita.sim.arrivals import Traffic
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
        from partita.sim.arrivals import day_curve, gamma, poisson  # noqa: PLC0415 -- slow to import

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
    quantile: float
    seed: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A service's problem and traffic, and the names to show."""

    service: str
    model: str
    estimated: bool
    problem: ServingProblem
    traffic: Traffic


def load_asked(path: Path, service: str | None, ask: Ask) -> Asked:
    """Read the workload, its tables and the trace.

    Raises:
        InputError: a file or an option that cannot be used.
        InfeasibleError: the service can run on no profile.
    """
    from partita.cli.loading import load  # noqa: PLC0415 -- slow to import
    from partita.serve.problem import ServingProblem  # noqa: PLC0415

    loaded = load(path)
    spec = _service(loaded, service)
    pool, rows = _pool(loaded, spec)
    names = [p.name for p in pool.gpu.profiles if any(row.profile == p.name for row in rows)]
    gpu = pool.gpu.restricted(names)
    gpus = ask.gpus or pool.count
    if gpus is None:
        raise InputError(
            f"the pool {pool.name} has no count", where=str(path), hint="say how many GPUs: --gpus 8"
        )
    if gpus > _MOST_GPUS:
        raise InputError(f"{gpus:,} GPUs are too many to simulate", hint=f"--gpus {_MOST_GPUS} at most")
    latency, share, traffic = _queries(spec, rows, names, ask)
    problem = ServingProblem(gpu, gpus, latency, share, spec.slo.latency_ms / 1000, ask.quantile)
    return Asked(spec.name, spec.model, any(row.estimated for row in rows), problem, traffic)


_MOST_GPUS = 500
_MOST_ITEMS = 1_024


def _service(loaded: Loaded, name: str | None) -> ServiceSpec:
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


def _pool(loaded: Loaded, spec: ServiceSpec) -> tuple[Pool, list[Measurement]]:
    """Return the first pool whose GPU the model was measured on, and the rows that the service may use."""
    from partita.plan.formulating.measured import allows, quantile_of  # noqa: PLC0415 -- slow to import

    for pool in loaded.formulation.problem.pools:
        known = loaded.formulation.measured.of(spec.model, pool.gpu.name)
        quantile = quantile_of(known, spec.slo.quantile)
        allowed = {profile.name for profile in pool.gpu.profiles if allows(spec, profile)}
        rows = [r for r in known if r.quantile == quantile and r.processes == 1 and r.profile in allowed]
        if rows:
            return pool, rows
    raise InputError(
        f"no row with one process for {spec.model}",
        where=str(loaded.path),
        hint="measure it with processes 1: queries of unlike sizes run one at a time",
    )


def _queries(
    spec: ServiceSpec, rows: list[Measurement], names: list[str], ask: Ask
) -> tuple[NDArray[np.float64], NDArray[np.float64], Traffic]:
    """Return latencies (K, B), the share of each batch size (B,), and the traffic."""
    import numpy as np  # noqa: PLC0415 -- slow to import

    from partita.serve.latency import latency_table  # noqa: PLC0415
    from partita.sim.arrivals import Traffic  # noqa: PLC0415
    from partita.sim.batches import draw, empirical_share  # noqa: PLC0415
    from partita.sim.trace import read_trace  # noqa: PLC0415

    largest = min(_MOST_ITEMS, max(row.batch for row in rows))
    latency = latency_table(rows, names, largest)
    if ask.trace is None:
        rng = np.random.default_rng(ask.seed)
        share = _share(spec, ask, largest)
        rate = spec.rate / float(share @ np.arange(1, largest + 1))
        times = ask.arrivals.times(rate, rng)
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


def _share(spec: ServiceSpec, ask: Ask, largest: int) -> NDArray[np.float64]:
    """Return the share of each batch size up to the largest measured, as the options or else the service say."""
    import numpy as np  # noqa: PLC0415 -- slow to import

    from partita.serve.reserving.asked import SIGMA, share_of  # noqa: PLC0415
    from partita.sim.batches import lognormal_share  # noqa: PLC0415

    if spec.batches is None or ask.median is not None or ask.sigma is not None:
        return lognormal_share(ask.median or 8.0, ask.sigma or SIGMA, largest)
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

    routers: dict[str, Router] = {
        "late-binding": LateBinding(),
        "price": Price(),
        "elsa": Elsa(),
        "fifs": Fifs(),
        "kairos": Kairos(),
    }
    return simulate(asked.problem, _cutter(cut, routers[router], seed), routers[router], asked.traffic)


def _cutter(name: str, router: Router, seed: int) -> Cutter:
    from partita.serve.cuts.fluid import FluidCut  # noqa: PLC0415 -- numba is slow to import
    from partita.serve.cuts.homogeneous import BestHomogeneous  # noqa: PLC0415
    from partita.serve.cuts.paris import Paris  # noqa: PLC0415
    from partita.serve.cuts.random_cut import RandomCut  # noqa: PLC0415
    from partita.serve.cuts.search import Search  # noqa: PLC0415

    cutters: dict[str, Cutter] = {
        "search": Search(router),
        "fluid": FluidCut(),
        "paris": Paris(),
        "homogeneous": BestHomogeneous(router),
        "random": RandomCut(seed),
    }
    return cutters[name]
