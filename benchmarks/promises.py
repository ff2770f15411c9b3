"""Promises that plans keep: random workloads of public tables, planned with waiting and simulated at their rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.report import table
from benchmarks.scenarios import DATA
from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.mig.catalogue import gpu_model
from partita.perf.reading import read_table
from partita.planner import check, plan, prepare
from partita.verification.outcome import Trial, Verdict
from partita.verification.plan_simulation import simulate_plan
from partita.workload import LimitsSpec, PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from partita.perf.table import PerfTable
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.verification.outcome import PlanOutcome

TABLES = {"parvagpu_a100_80gb": "a100-80gb", "mig_serving_a100": "a100-40gb"}
CASES = 200
PLANNING_S = 10.0
QUERIES = 1000
_SIMULATED = 20
"""Workloads of which the plans by arithmetic are simulated, too."""
Kind = Literal["poisson", "half", "arithmetic"]
"""How a workload is planned: with waiting, with `latency_factor: 0.5`, by arithmetic alone."""
KINDS: tuple[Kind, ...] = ("poisson", "half", "arithmetic")
_NAMES = {
    "poisson": "with waiting",
    "half": "arithmetic, `latency_factor: 0.5`",
    "arithmetic": "arithmetic",
}
_VERDICTS = (Verdict.KEPT, Verdict.UNDECIDED, Verdict.BROKEN)


@dataclass(frozen=True, slots=True)
class Case:
    """What came out of one random workload.

    Attributes:
        seed: of the workload.
        services: how many it has.
        gpus: by how it was planned; None where that cannot be planned.
        verdicts: number of services by verdict, planned with waiting.
        broken: number of services that miss their share, by how it was planned.
        broken_services: those planned with waiting, with their shares.
        seconds: of planning with waiting.
    """

    seed: int
    services: int
    gpus: dict[str, int | None]
    verdicts: dict[str, int]
    broken: dict[str, int]
    broken_services: tuple[str, ...]
    seconds: float


def random_workload(seed: int, performance: dict[str, PerfTable]) -> tuple[Workload, PerfTable]:
    """Return a workload of 3 to 12 services, and its table.

    Rates are from a tenth of an instance to twenty, SLOs from 2.2 to 30 times the model's quickest batch, and 0.9,
    0.95 or 0.99 of the queries are to be in time. Nothing of the SLO is kept for the network: the simulated queries
    have none.
    """
    rng = np.random.default_rng(seed)
    name = list(TABLES)[seed % len(TABLES)]
    gpu, rows = gpu_model(TABLES[name]), performance[name]
    services = []
    for index in range(int(rng.integers(3, 13))):
        model = str(rng.choice(rows.models))
        mine = [row for row in rows.of(model, gpu.name) if row.processes == 1]
        quickest = min(row.latency_ms for row in mine)
        latency_ms = float(f"{quickest * math.exp(rng.uniform(math.log(2.2), math.log(30.0))):.3g}")
        fitting = [row for row in mine if row.latency_ms <= latency_ms / 2]
        profile = str(rng.choice(sorted({row.profile for row in fitting})))
        holds = max(row.throughput for row in fitting if row.profile == profile)
        rate = float(f"{holds * 10 ** rng.uniform(-1.0, 1.3):.4g}")
        quantile = float(rng.choice([0.9, 0.95, 0.99]))
        slo = Slo(latency_ms, quantile)
        services.append(ServiceSpec(f"{index}-{model}", model=model, rate=rate, slo=slo))
    pool = PoolSpec(gpu.name)
    return Workload(
        gpus=(pool,), services=tuple(services), limits=LimitsSpec(max_batch=128, overhead_ms=0.0)
    ), rows


def as_planned(workload: Workload, kind: Kind) -> Workload:
    """Return a workload to be planned in one of the ways."""
    if kind == "poisson":
        return workload
    # Arithmetic needs latencies at the quantile asked for, which the tables lack: it takes those that they have.
    services = tuple(
        each.replace(arrivals="constant", slo=Slo(each.slo.latency_ms)) for each in workload.services
    )
    factor = 0.5 if kind == "half" else 1.0
    return workload.replace(services=services, limits=workload.limits.replace(latency_factor=factor))


def case(seed: int, performance: dict[str, PerfTable], trial: Trial | None = None) -> Case:
    """Plan a workload in each way, and simulate each plan with the queries of the first."""
    workload, rows = random_workload(seed, performance)
    asked = prepare(workload, rows)
    outcomes: dict[str, PlanOutcome] = {}
    gpus: dict[str, int | None] = {}
    seconds = 0.0
    for kind in KINDS:
        found = _planned(asked if kind == "poisson" else prepare(as_planned(workload, kind), rows))
        gpus[kind] = None if found is None else len(found.gpus)
        if found is not None and (kind == "poisson" or seed < _SIMULATED):
            outcomes[kind] = simulate_plan(found, asked, trial or Trial(queries=QUERIES, seed=seed))
            seconds = found.solver.seconds if kind == "poisson" else seconds
    ours = outcomes["poisson"]
    return Case(
        seed,
        len(workload.services),
        gpus,
        {str(verdict): sum(each.verdict is verdict for each in ours.services) for verdict in _VERDICTS},
        {kind: len(outcome.broken) for kind, outcome in outcomes.items()},
        tuple(f"{each.service} {each.in_time.value:.4f} of {each.promised}" for each in ours.broken),
        seconds,
    )


def _planned(asked: PreparedWorkload) -> Plan | None:
    try:
        found = plan(asked, deadline=Deadline(PLANNING_S)).plan
    except InfeasibleError:
        return None
    faults = check(found, asked)
    assert not faults, faults[0]
    return found


def run(*, quick: bool) -> str:
    """Return the tables."""
    performance = {name: read_table(DATA / "perf" / f"{name}.csv") for name in TABLES}
    return text([case(seed, performance) for seed in range(6 if quick else CASES)])


def text(cases: list[Case]) -> str:
    """Return what the page says of these cases."""
    rows: list[list[object]] = []
    for at, name in enumerate(TABLES):
        mine = [each for each in cases if each.seed % len(TABLES) == at]
        services = sum(each.services for each in mine)
        rows.append(
            [
                name.replace("_a100", ", A100").replace("_80gb", "-80GB"),
                len(mine),
                services,
                *(sum(each.verdicts[str(verdict)] for each in mine) for verdict in _VERDICTS),
                max(each.seconds for each in mine),
            ]
        )
    header = ["table", "workloads", "services", "kept", "undecided", "not kept", "longest planning s"]
    broken = [
        f"workload {each.seed}: {', '.join(each.broken_services)}" for each in cases if each.broken_services
    ]
    return (
        f"## Promises\n\n{_number(cases)} of 3 to 12 services of the public tables, with Poisson arrivals, SLOs from "
        "2.2 to 30 times the\nquickest batch, 0.9, 0.95 or 0.99 promised, and rates from a tenth of an instance to "
        "twenty. Each is planned with\nwaiting, and simulated at its planned rates through the gateway's own code: "
        f"{QUERIES:,} queries of each service or more, and up to\n16 times as many while its promise is undecided. "
        "*Kept*, *not kept*: at 95 % confidence. Batches of ParvaGPU's table, which\nhas means, vary by 5 %; "
        "nothing of the SLO is kept for a network.\n\n"
        f"{table(header, rows)}\n"
        + (f"Not kept: {'; '.join(broken)}.\n\n" if broken else "")
        + f"GPUs beside plans of the same workloads by arithmetic, which count no waiting. Those of "
        f"{sum('half' in each.broken for each in cases)} workloads are simulated\nwith the same Poisson queries:\n\n"
        f"{_gpus(cases)}"
    )


def _number(cases: list[Case]) -> str:
    if len(cases) == CASES:
        return f"{CASES} random workloads"
    return f"The first {len(cases)} of {CASES} random workloads"


def _gpus(cases: list[Case]) -> str:
    rows: list[list[object]] = []
    for kind in KINDS:
        mine = [each for each in cases if each.gpus[kind] is not None]
        both = [(each.gpus["poisson"] or 0, each.gpus[kind] or 0) for each in mine]
        simulated = [each for each in mine if kind in each.broken]
        services = sum(each.services for each in simulated)
        ratios = [math.log(other / ours) for ours, other in both]
        rows.append(
            [
                _NAMES[kind],
                len(mine),
                sum(other for _, other in both),
                sum(ours for ours, _ in both),
                f"{math.exp(sum(ratios) / len(ratios)):.3f}",
                f"{math.exp(min(ratios)):.2f} to {math.exp(max(ratios)):.2f}",
                f"{sum(each.broken[kind] for each in simulated):,} of {services:,}",
            ]
        )
    header = [
        "planned", "workloads", "GPUs", "GPUs with waiting, same workloads", "ratio, geometric mean", "from, to",
        "services that miss their share",
    ]  # fmt: skip
    return table(header, rows)
