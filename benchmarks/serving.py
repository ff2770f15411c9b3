"""Serving in simulation: throughput within a deadline, two models, a trace, and the simulator's speed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import geometric_mean
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import table
from benchmarks.serving_cases import DATA, GPUS, LARGEST, MEDIANS, Case, cases, models, problem
from benchmarks.serving_cases import table as perf_table
from partita.serve.cuts import Homogeneous, Paris, Search
from partita.serve.fluid import fluid_cut, fluid_rate
from partita.serve.problem import TICK, SimulatedRouter
from partita.serve.routers.bound import Elsa, Price, RefusingElsa
from partita.serve.routers.fifs import Fifs, RefusingFifs
from partita.serve.routers.kairos import Kairos
from partita.serve.routers.late_binding import LateBinding
from partita.serve.simulation import Throughput, throughput, unit_traffic
from partita.sim.traffic import Traffic, empirical_share, read_trace

if TYPE_CHECKING:
    from partita.perf.table import PerfTable
    from partita.serve.problem import ServingProblem

_SEEDS = (1, 2, 3, 4, 5)
_PAIRS = (
    ("bert", "resnet50"),
    ("densenet121", "vgg16"),
    ("inceptionv3", "mobilenetv2"),
    ("resnet101", "vgg19"),
)


def run(*, quick: bool) -> str:
    if not DATA.exists():
        return "Skipped: the folder `shared/data` with the public measurements is not there.\n"
    measured = perf_table()
    names = models(measured)
    chosen = ["bert", "resnet50"] if quick else names
    queries, seeds = (10_000, _SEEDS[:2]) if quick else (30_000, _SEEDS)
    bench = _Bench(queries, seeds)
    parts = [
        "## Serving one model's queries on slices of different sizes\n",
        bench.one_model(list(cases(measured, chosen, (8,) if quick else MEDIANS))),
        bench.stricter(list(cases(measured, chosen, (8,)))),
        bench.routers(list(cases(measured, chosen, (8,)))[::3]),
        bench.two_models(measured, _PAIRS[:1] if quick else _PAIRS),
        azure(measured),
        speed(measured, 200_000 if quick else 2_000_000),
    ]
    return "\n".join(parts)


@dataclass(frozen=True)
class _Measured:
    case: Case
    cut: str
    ours: Throughput
    paris: float
    paris_refusing: float
    alike: float
    alike_refusing: float
    alike_size: int
    bound_all: float
    bound: float
    large: float
    large_paris: float
    seconds: float


@dataclass(frozen=True)
class _Bench:
    queries: int
    seeds: tuple[int, ...]

    def traffic(self, given: ServingProblem) -> list[Traffic]:
        return [unit_traffic(given, self.queries, seed) for seed in self.seeds]

    def best_alike(
        self, given: ServingProblem, guess: float, router: SimulatedRouter = RefusingFifs
    ) -> tuple[float, int]:
        traffic = self.traffic(given)
        rates = [
            (throughput(given, Homogeneous(k).cut(given).counts, router, traffic, guess).rate, k)
            for k in range(len(given.profiles))
        ]
        return max(rates)

    def measure(self, case: Case) -> _Measured:
        given = case.problem
        traffic = self.traffic(given)
        bound_all, bound = (fluid_cut(given, served=part)[1] for part in (1.0, given.quantile))
        started = time.perf_counter()
        cut = Search().cut(given)
        seconds = time.perf_counter() - started
        paris_cut = Paris().cut(given)
        ours = throughput(given, cut.counts, LateBinding, traffic, bound_all)
        paris = throughput(given, paris_cut.counts, Elsa, traffic, bound_all).rate
        refusing = throughput(given, paris_cut.counts, RefusingElsa, traffic, bound_all).rate
        alike, _ = self.best_alike(given, bound_all, Fifs)
        alike_refusing, size = self.best_alike(given, bound_all)
        return _Measured(
            case,
            " ".join(f"{n}x{p[0]}" for n, p in zip(cut.counts, given.profiles, strict=True) if n),
            ours,
            paris,
            refusing,
            alike,
            alike_refusing,
            size,
            bound_all,
            bound,
            _largest_in_time(given, cut.counts, LateBinding, traffic[0].faster(ours.rate)),
            _largest_in_time(given, paris_cut.counts, Elsa, traffic[0].faster(paris)),
            seconds,
        )

    def one_model(self, chosen: list[Case]) -> str:
        found = [self.measure(case) for case in chosen]
        rows: list[list[object]] = [
            [
                f"{m.case.model}, {m.case.median}, {m.case.factor:g}x",
                m.cut,
                f"{m.ours.rate:,.0f} ±{m.ours.half_width / m.ours.rate:.1%}",
                m.ours.rate / m.paris,
                m.ours.rate / m.paris_refusing,
                m.ours.rate / m.alike,
                f"{m.ours.rate / m.alike_refusing:.3g} ({m.case.problem.profiles[m.alike_size][:2]})",
                m.ours.rate / m.bound_all,
                m.ours.rate / m.bound,
            ]
            for m in found
        ]
        header = [
            "model, median batch, SLA",
            "cut found (instances by compute slices)",
            "queries/s",
            "of PARIS+ELSA",
            "of PARIS+ELSA, refusing",
            "of best homogeneous, first idle",
            "of best homogeneous, first idle, refusing",
            "of fluid bound, all in time",
            "of fluid bound, 95 % in time",
        ]
        return _ONE_MODEL.format(gpus=GPUS, queries=self.queries, seeds=len(self.seeds)) + "\n".join(
            ["", table(header, rows), _summary(found)]
        )

    def stricter(self, chosen: list[Case]) -> str:
        strict = [replace(c, problem=replace(c.problem, quantile=0.99)) for c in chosen]
        found = [self.measure(case) for case in strict]
        return (
            "### The same at p99 (median 8)\n\nOne query in a hundred may be late or refused.\n\n"
            + _summary(found)
        )

    def routers(self, chosen: list[Case]) -> str:
        """Compare the routers on one cut, the search's for the default router, at p95 and p99."""
        found: dict[str, list[tuple[float, float, float, int]]] = {}
        for case in chosen:
            cut = Search().cut(case.problem)
            for name, value in self._routed(case.problem, cut.counts).items():
                found.setdefault(name, []).append(value)
        rows: list[list[object]] = [
            [
                name,
                np.mean([at for at, _, _, _ in values]),
                np.mean([at for _, at, _, _ in values]),
                f"{np.mean([large for _, _, large, _ in values]):.0%}",
                sum(best for _, _, _, best in values),
            ]
            for name, values in found.items()
        ]
        header = ["router", "95 % in time", "99 % in time", "largest twentieth in time", "best at 95 % in"]
        return _ROUTERS.format(cases=len(chosen)) + table(header, rows)

    def _routed(
        self, given: ServingProblem, counts: np.ndarray
    ) -> dict[str, tuple[float, float, float, int]]:
        """Return each router's throughput over the bound at p95 and p99, large queries in time, and if it is best."""
        traffic, rates = self.traffic(given)[:2], {}
        for name, router in _ROUTED.items():
            rates[name] = [
                self._of_bound(replace(given, quantile=q), counts, router, traffic) for q in (0.95, 0.99)
            ]
        most = max(rate for rate, _ in rates.values())
        bound = fluid_rate(given, counts, served=given.quantile).rate
        return {
            name: (
                rate,
                strict,
                _largest_in_time(given, counts, _ROUTED[name], traffic[0].faster(rate * bound))
                if rate > 0
                else 0.0,
                int(rate == most),
            )
            for name, (rate, strict) in rates.items()
        }

    @staticmethod
    def _of_bound(
        given: ServingProblem, counts: np.ndarray, router: SimulatedRouter, traffic: list[Traffic]
    ) -> float:
        """Return throughput over the cut's fluid bound; 0 where the cut cannot answer enough at any rate."""
        bound = fluid_rate(given, counts, served=given.quantile).rate
        return throughput(given, counts, router, traffic, bound).rate / bound if bound > 0 else 0.0

    def two_models(self, measured: PerfTable, pairs: tuple[tuple[str, str], ...]) -> str:
        rows: list[list[object]] = []
        for pair in pairs:
            both = [case for case in cases(measured, list(pair), (8,)) if case.factor == 1.5]
            asked = [fluid_cut(case.problem, served=1.0)[1] for case in both]
            ours = self._split(both, asked, alike=False)
            alike = self._split(both, asked, alike=True)
            rows.append(
                [
                    " + ".join(pair),
                    f"{ours[1]} + {GPUS - ours[1]}",
                    f"{alike[1]} + {GPUS - alike[1]}",
                    ours[0],
                    alike[0],
                    ours[0] / alike[0],
                ]
            )
        header = [
            "models",
            "GPUs, search",
            "GPUs, homogeneous refusing",
            "share, search",
            "share, homogeneous refusing",
            "ratio",
        ]
        mean = geometric_mean([float(str(row[-1])) for row in rows])
        return f"{_TWO_MODELS}\n{table(header, rows)}\nRatio, geometric mean: {mean:.3g}.\n"

    def _split(self, both: list[Case], asked: list[float], *, alike: bool) -> tuple[float, int]:
        """Return the largest common share of the asked rates, and the first model's GPUs there."""
        best = (0.0, 0)
        for first in range(2, GPUS - 1) if alike else (3, 4, 5):
            share = np.inf
            for case, rate, gpus in zip(both, asked, (first, GPUS - first), strict=True):
                given = case.problem.with_gpus(gpus)
                if alike:
                    got = self.best_alike(given, rate * gpus / GPUS)[0]
                else:
                    cut = Search().cut(given)
                    got = throughput(given, cut.counts, LateBinding, self.traffic(given), rate / 2).rate
                share = min(share, got / rate)
            best = max(best, (float(share), first))
        return best


def _summary(found: list[_Measured]) -> str:
    rows: list[list[object]] = []
    compared = {
        "PARIS+ELSA": ([m.ours.rate / m.paris for m in found], "1.4, never under 1"),
        "PARIS+ELSA with refusal": ([m.ours.rate / m.paris_refusing for m in found], "never under 1"),
        "the best homogeneous cut, first idle with refusal": (
            [m.ours.rate / m.alike_refusing for m in found],
            "never under 1",
        ),
        "the best homogeneous cut, first idle": (
            [m.ours.rate / m.alike for m in found],
            "1.3, never under 1",
        ),
        "the fluid bound, all queries in time": ([m.ours.rate / m.bound_all for m in found], "0.90"),
        "the fluid bound that may drop what the quantile lets be late": (
            [m.ours.rate / m.bound for m in found],
            "-",
        ),
    }
    for what, (ratios, target) in compared.items():
        below = sum(ratio < 1 for ratio in ratios)
        rows.append([what, geometric_mean(ratios), min(ratios), max(ratios), below, target])
    text = table(["throughput over", "geometric mean", "least", "most", "cases under 1", "target"], rows)
    large, theirs = np.mean([m.large for m in found]), np.mean([m.large_paris for m in found])
    seconds = [m.seconds for m in found]
    return (
        f"{text}\n{len(found)} cases. The search took {np.mean(seconds):.1f} s on average, {max(seconds):.1f} s "
        f"at most. Of the largest twentieth of the queries, {large:.0%} are in time at that rate; with "
        f"PARIS+ELSA, {theirs:.0%} at its own rate.\n"
    )


def _largest_in_time(
    given: ServingProblem, counts: np.ndarray, router: SimulatedRouter, traffic: Traffic
) -> float:
    took = router.on(given, counts)(traffic).latency
    largest = traffic.batch >= np.quantile(traffic.batch, 0.95)
    return float(np.mean(took[largest] <= given.deadline + TICK))


def azure(measured: PerfTable) -> str:
    rows: list[list[object]] = []
    for name in ("conv", "code"):
        seen = read_trace(DATA / "traces" / f"azure_llm_2023_{name}.csv")
        trace = Traffic(seen.arrival, np.minimum(seen.batch, LARGEST))
        for copies, gpus in ((1, 1), (10, 1), (100, 8)):
            given = problem(measured, "bert", empirical_share(trace.batch, LARGEST), 1.5, gpus)
            cut = Search().cut(given)
            dense = trace if copies == 1 else trace.denser(copies, 30.0, np.random.default_rng(7))
            serve = LateBinding.on(given, cut.counts)
            started = time.perf_counter()
            result = serve(dense)
            seconds = time.perf_counter() - started
            took = result.latency
            rows.append(
                [
                    f"{name}, {copies}x",
                    len(dense),
                    gpus,
                    f"{np.mean(took <= given.deadline + TICK):.3%}",
                    f"{np.quantile(took, 0.5) * 1000:.0f} / {np.quantile(took, 0.9) * 1000:.0f}",
                    f"{seconds:.3f}",
                ]
            )
    header = ["trace", "queries", "A100s", "SLO attainment", "p50 / p90 ms", "seconds to simulate"]
    return f"{_AZURE}\n{table(header, rows)}"


def speed(measured: PerfTable, queries: int) -> str:
    case = next(c for c in cases(measured, ["bert"], (4,)))
    given, counts = case.problem, np.array([56, 0, 0, 0, 0])
    unit = unit_traffic(given, queries, 1)
    bound = fluid_rate(given, counts, served=given.quantile).rate
    rows: list[list[object]] = []
    for name, target in _TARGETS.items():
        router = _ROUTED[name]
        serve = router.on(given, counts)
        rate = throughput(given, counts, router, [Traffic(unit.arrival[:40_000], unit.batch[:40_000])], bound)
        traffic = unit.faster(rate.rate)
        seconds = []
        for _ in range(3):
            started = time.process_time()
            serve(traffic)
            seconds.append(time.process_time() - started)
        rows.append([name, queries / min(seconds) / 1e6, target])
    header = ["router", "million queries per second", "target"]
    return f"{_SPEED}\n{table(header, rows)}"


_ONE_MODEL = """\
Latencies are ParvaGPU's public measurements of the models that run batch 1 to 32 on all five sizes with one process;
between the measured batches 1, 2, 4, 8, 16 and 32 they are interpolated linearly. There are {gpus} A100-80GB, Poisson
arrivals, log-normal batch sizes (sigma 0.9, cut off at 32), and SLAs of 1.5 and 2 times the whole GPU's latency at
batch 32. Throughput is the largest rate at which 95 % of the queries are answered within the SLA; refused queries
count as missed. It is the mean over {seeds} seeds of {queries:,} queries each, with half the width of its 95 %
confidence interval. The promise is for all queries together (`promise: mix`); the next section has it for each size.
Refusing means that queries are refused which no slice can answer in time. The search does not use these seeds. In the
long run no router can exceed the second fluid bound. The first bound requires every query to be in time; the quantile
does not, so throughput can exceed it.
"""
_ROUTED: dict[str, SimulatedRouter] = {
    "late-binding": LateBinding,
    "kairos": Kairos(),
    "price": Price,
    "elsa": Elsa,
    "elsa-refusing": RefusingElsa,
    "fifs": Fifs,
    "fifs-refusing": RefusingFifs,
}
_TARGETS = {"elsa": "10", "late-binding": "2", "price": "-", "kairos": "-", "fifs": "-"}
"""Routers whose speed is measured, and the million queries per second that are asked of them."""
_ROUTERS = """\
### Routers on the same cuts (median 8)

All routers run on the cut that the search finds for late binding at p95, in {cases} cases. The table has the mean
throughput over the fluid bound of that cut, and the share of the largest twentieth of the queries that is in time at
the router's own p95 rate.

"""
_TWO_MODELS = f"""\
### Two models on {GPUS} GPUs

Median 8, SLA 1.5x. Each model has GPUs of its own; the split is the best of those tried (3 to 5 GPUs for the first
model with our cuts, 2 to 6 with homogeneous cuts). The table compares the largest common share: each model reaches
this share of its fluid bound on all {GPUS} GPUs.
"""
_AZURE = """\
### Azure's hour of LLM requests

A request is a query of one item for each 256 tokens, read and written together, with at most 32 items. An item takes
as long as one of ParvaGPU's bert, since there are no public measurements of an LLM on these slices. The SLA is 1.5
times the latency of the whole GPU at 32 items. At 10x and 100x each request is repeated so many times, shifted by up
to 30 s to either side. The cut is found by search for Poisson arrivals with the trace's batch sizes. Refused requests
count as infinitely late.
"""
_SPEED = """\
### Speed of the simulation

56 instances, at the router's own largest rate, one core (CPU time, the best of three).
"""
