"""`partita simulate`: how many queries of one service would be answered in time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from partita.cli.options import Format, Out, Output, WorkloadFile, clean, echo, emit, stdout
from partita.cli.perf import pairs
from partita.errors import InfeasibleError, InputError, nearest
from partita.files import replacing
from partita.perf.operating_point import strictest
from partita.planner import read_prepared
from partita.planning.formulate import allows, quantile_of
from partita.serve.cuts import BestHomogeneous, FluidCut, Paris, RandomCut, Search
from partita.serve.fluid import fluid_gpus
from partita.serve.problem import ServingProblem, latency_table
from partita.serve.reserving.services import QUANTILE, SIGMA, share_of
from partita.serve.routers.elsa import Elsa
from partita.serve.routers.fifs import Fifs
from partita.serve.routers.kairos import Kairos
from partita.serve.routers.late_binding import LateBinding
from partita.serve.routers.price import Price
from partita.serve.simulation import QUANTILES
from partita.serve.simulation import simulate as simulate_queries
from partita.sim.traffic import (
    Traffic,
    day_curve,
    draw,
    empirical_share,
    gamma,
    lognormal_share,
    poisson,
    read_trace,
)
from partita.web.serving_report import serving_report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.perf.table import Measurement
    from partita.planner import PreparedWorkload
    from partita.planning.problem import Pool
    from partita.serve.cuts import Cutter
    from partita.serve.problem import SimulatedRouter
    from partita.serve.simulation import Simulation
    from partita.workload import ServiceSpec


class CutName(StrEnum):
    """The cuts there are."""

    SEARCH = "search"
    FLUID = "fluid"
    PARIS = "paris"
    HOMOGENEOUS = "homogeneous"
    RANDOM = "random"


class ArrivalsName(StrEnum):
    """The arrival processes there are."""

    POISSON = "poisson"
    GAMMA = "gamma"
    DAY = "day"


class RouterName(StrEnum):
    """The routers there are."""

    LATE_BINDING = "late-binding"
    PRICE = "price"
    ELSA = "elsa"
    FIFS = "fifs"
    KAIROS = "kairos"


Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Queries to replay: CSV or JSON lines with seconds,batch, or a trace of Azure, BurstGPT or Mooncake.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=COLUMN,...",
        help="Columns of another trace: seconds and batch or tokens, as in "
        "seconds='ms * 0.001',tokens='Total tokens'.",
    ),
]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with plots.")]


def simulate(
    workload: WorkloadFile,
    *,
    service: Annotated[str | None, typer.Option(help="Service; needed where there are several.")] = None,
    trace: Trace = None,
    columns: Columns = None,
    speed: Annotated[
        float, typer.Option(min=1e-3, max=1e6, help="Replay the trace this many times as fast.")
    ] = 1.0,
    tokens_per_item: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Tokens of an LLM trace that make one item of a query.")
    ] = 256,
    median: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=10_000,
            help="Without a trace: median of log-normal batch sizes.  [default: the service's batches, or else 8, "
            "as far as sizes can be in time]",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(min=0.01, max=10, help="Their sigma.  [default: the service's batches, or else 0.9]"),
    ] = None,
    arrivals: Annotated[
        ArrivalsName,
        typer.Option(help="Without a trace: gamma comes in bursts; day swings from trough to peak and back."),
    ] = ArrivalsName.POISSON,
    variation: Annotated[
        float, typer.Option(min=0.1, max=20, help="For gamma: coefficient of variation of the gaps.")
    ] = 3.0,
    swing: Annotated[
        float, typer.Option(min=0, max=1, help="For day: the trough is this much below the mean rate.")
    ] = 0.6,
    queries: Annotated[
        int, typer.Option(min=100, max=10_000_000, help="Without a trace: queries at the service's rate.")
    ] = 100_000,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=500,
            help="GPUs.  [default: the count of the pool, or else the fewest that may hold the rate]",
        ),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=0.9999,
            help="Share of the queries that should be in time.  [default: that of a service with a cut, or 0.95]",
        ),
    ] = None,
    cut: Annotated[
        CutName, typer.Option(help="How the GPUs are cut; homogeneous takes the best size.")
    ] = CutName.SEARCH,
    router: Annotated[RouterName, typer.Option(help="Who answers which query.")] = RouterName.LATE_BINDING,
    seed: Annotated[int, typer.Option(min=0, help="Seed of arrivals and batch sizes.")] = 0,
    html: Html = None,
    out: Out = None,
    output: Output = Format.TABLE,
) -> None:
    """Simulate one service's queries on unlike slices: attainment, latencies, use.

    Each query has a batch size of its own, up to the largest that the performance
    table has, and the SLO's latency as its deadline; the table's rows with one
    process say how long it takes. Says also the largest rate of Poisson arrivals
    with these batch sizes that the cut holds, and the bound of every router.
    """
    asked = load_asked(
        workload,
        service,
        Ask(
            Arrivals(arrivals.value, variation, swing, queries),
            trace,
            pairs(columns, "--columns"),
            speed,
            tokens_per_item,
            median,
            sigma,
            gpus,
            quantile,
            seed,
        ),
    )
    found = play(asked, cut.value, router.value, seed)
    data = _data(asked, found, cut, router)
    if out is not None:
        with replacing(out) as stream:
            stream.write(json.dumps(clean(data), indent=2) + "\n")
    if html is not None:
        with replacing(html) as stream:
            stream.write(serving_report(data, asked.problem, found))
    if output is Format.TABLE:
        _print(data)
    else:
        emit(data, output)
    for note in asked.notes:
        echo(f"note: {note}", err=True)


def _data(asked: Asked, found: Simulation, cut: CutName, router: RouterName) -> dict[str, Any]:
    """Return what is shown, as plain data; a latency of None is that of a refused query."""
    problem, seen = asked.problem, found.evaluation
    names = zip(problem.profiles, found.cut.counts.tolist(), strict=True)
    return {
        "service": asked.service,
        "model": asked.model,
        "estimated": asked.estimated,
        "gpu": problem.gpu.name,
        "gpus": problem.gpus,
        "cut": {"name": cut.value, "instances": {name: n for name, n in names if n}},
        "router": router.value,
        "deadline_ms": problem.deadline * 1000,
        "queries": seen.queries,
        "seconds": seen.seconds,
        "attainment": seen.attainment,
        "refused": seen.refused,
        "late": seen.queries - seen.in_time - seen.refused,
        "latency_ms": {
            f"p{q * 100:g}": seconds * 1000 if seconds < float("inf") else None
            for q, seconds in zip(QUANTILES, seen.latency, strict=True)
        },
        "holds": {
            "quantile": problem.quantile,
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


def _print(data: dict[str, Any]) -> None:
    console = stdout()
    holds, about = data["holds"], "estimated " if data["estimated"] else ""
    rate = f", {data['queries'] / data['seconds']:,.6g} queries/s" if data["seconds"] else ""
    quantiles = ", ".join(
        f"{name} {'refused' if ms is None else f'{ms:,.1f}'}" for name, ms in data["latency_ms"].items()
    )
    console.print(
        f"{data['attainment']:.3%} of {data['queries']:,} queries in time, {data['late']:,} late, "
        f"{data['refused']:,} refused\n"
        f"{data['service']} ({data['model']}) on {data['gpus']:,} {data['gpu']}, deadline "
        f"{data['deadline_ms']:,.6g} ms, in {data['seconds']:,.6g} s{rate}\n"
        f"{about}latency ms: {quantiles}\n"
        f"holds {_number(holds['queries_per_second'])} +-{_number(holds['half_width'])} Poisson queries/s (95 % "
        f"confidence) with {holds['quantile']:.4g} in time; no router holds more than "
        f"{_number(holds['bound'])} on this cut\n",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("slice")
    for name in ("instances", "queries", "busy", "least", "most"):
        table.add_column(name, justify="right")
    for profile, n in data["cut"]["instances"].items():
        own = [each for each in data["slices"] if each["profile"] == profile]
        busy = [each["busy"] for each in own]
        queries = sum(each["queries"] for each in own)
        table.add_row(
            profile, f"{n:,}", f"{queries:,}", *(f"{x:.0%}" for x in (sum(busy) / n, min(busy), max(busy)))
        )
    console.print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When queries arrive without a trace; see `partita simulate --help`."""

    process: str
    variation: float
    swing: float
    queries: int

    def times(self, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return about as many arrival times as asked, at so many per second on average."""
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
    routers: dict[str, SimulatedRouter] = {
        "late-binding": LateBinding(),
        "price": Price(),
        "elsa": Elsa(),
        "fifs": Fifs(),
        "kairos": Kairos(),
    }
    return simulate_queries(
        asked.problem, _cutter(cut, routers[router], seed), routers[router], asked.traffic
    )


def _cutter(name: str, router: SimulatedRouter, seed: int) -> Cutter:
    cutters: dict[str, Cutter] = {
        "search": Search(router),
        "fluid": FluidCut(),
        "paris": Paris(),
        "homogeneous": BestHomogeneous(router),
        "random": RandomCut(seed),
    }
    return cutters[name]
