"""Planning on public measurements: ParvaGPU's scenarios, and MIG-Serving's 24 services beside its figure 9."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from typing import TYPE_CHECKING

from benchmarks.report import table
from benchmarks.scenarios import DATA, mig_serving_24
from partita.deadline import Deadline
from partita.mig.catalogue import gpu_model
from partita.perf.operating_point import Limits, operating_points
from partita.perf.reading import read_table
from partita.planning.bound import rule_free_bound
from partita.planning.exact import ExactPlanner
from partita.planning.mig_serving import GeneticPlanner, GreedyPlanner, MctsPlanner
from partita.planning.problem import Pool, Problem, Service, Size
from partita.planning.static_cuts import MixPlanner, OnesPlanner, WholePlanner

if TYPE_CHECKING:
    from partita.planning.plan import Planner

PARVAGPU = {"S1": 2, "S2": 3, "S3": 5, "S4": 7, "S5": 13, "S6": 16}
"""GPUs that ParvaGPU's own planner needs."""

GENETIC_SECONDS = 60.0


def run(*, quick: bool) -> str:
    """Return the tables."""
    return f"## Planning on public measurements\n\n{_parvagpu()}\n{_figure_9(quick=quick)}"


def parvagpu_problems() -> dict[str, Problem]:
    """Return ParvaGPU's six scenarios: latency within 0.45 of the SLO, batch at most 128, at most 5 processes."""
    rows = read_table(DATA / "perf" / "parvagpu_a100_80gb.csv")
    profiles = dict.fromkeys(row.profile for row in rows)
    pool = Pool("a100", gpu_model("a100-80gb").restricted(profiles))
    sizes = tuple(Size(0, profile.name) for profile in pool.gpu.profiles)
    services: dict[str, list[Service]] = defaultdict(list)
    with (DATA / "scenarios" / "parvagpu.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            slo, rate = float(row["latency_ms"]), float(row["rate"])
            limits = Limits(0.45 * slo, max_batch=128, max_processes=5)
            found = operating_points(rows.of(row["model"], pool.gpu.name), limits)
            points = tuple(found.get(size.profile) for size in sizes)
            services[row["scenario"]].append(Service(row["model"], row["model"], rate, rate, slo, points))
    return {name: Problem((pool,), tuple(mine), sizes) for name, mine in services.items()}


def _parvagpu() -> str:
    rows: list[list[object]] = []
    for name, problem in parvagpu_problems().items():
        plan = ExactPlanner().plan(problem)
        greedy = GreedyPlanner().plan(problem)
        rows.append(
            [
                name,
                len(problem.services),
                len(plan.gpus),
                int(plan.objective.lower_bound),
                plan.objective.proven,
                plan.solver.seconds,
                len(greedy.gpus),
                PARVAGPU[name],
            ]
        )
    header = ["scenario", "services", "exact", "bound", "proven", "seconds", "greedy", "ParvaGPU's own"]
    return (
        "ParvaGPU's six scenarios on A100-80GB (latency within 0.45 of the SLO, batch at most 128, at most 5\n"
        f"processes), in GPUs:\n\n{table(header, rows)}"
    )


def _planners(*, quick: bool) -> dict[str, Planner]:
    seconds = 5.0 if quick else GENETIC_SECONDS
    return {
        "exact": ExactPlanner(deadline=Deadline(30.0)),
        "greedy": GreedyPlanner(),
        "mcts": MctsPlanner(deadline=Deadline(seconds)),
        "genetic": GeneticPlanner(deadline=Deadline(seconds)),
        "whole": WholePlanner(),
        "ones": OnesPlanner(),
        "mix": MixPlanner(),
    }


def _figure_9(*, quick: bool) -> str:
    rows: list[list[object]] = []
    over: dict[str, list[float]] = defaultdict(list)
    cases = [(kind, seed) for kind in ("normal", "lognormal") for seed in ((1,) if quick else (1, 2))]
    for kind, seed in cases:
        problem = mig_serving_24(kind, seed)  # type: ignore[arg-type]  # a literal, spelled out two lines up
        paper = rule_free_bound(problem)
        bound = ExactPlanner().plan(problem).objective.lower_bound
        for name in _planners(quick=quick):
            plan = _planners(quick=quick)[name].plan(problem)
            value = plan.objective.value
            over[name].append(value / paper - 1)
            rows.append(
                [f"{kind} {seed}", name, value, bound, f"{value / bound - 1:.1%}", plan.solver.seconds]
            )
    header = ["rates, seed", "planner", "GPUs", "proven bound", "above it", "seconds"]
    return (
        "24 services drawn from MIG-Serving's tables, SLO 100 ms at p90; `4g+3g` is forbidden, as with the "
        f"paper's driver. The genetic algorithm and tree search had at most {GENETIC_SECONDS:g} s each (the "
        f"paper gave them hours on 104 cores):\n\n{table(header, rows)}\n{_against_paper(over)}"
    )


def _against_paper(over: dict[str, list[float]]) -> str:
    figures = json.loads((DATA / "paper_figures.json").read_text())["mig_serving_fig9_gpus"]
    names = {
        "whole": "A100-7/7",
        "ones": "A100-7x1/7",
        "mix": "A100-MIX",
        "greedy": "greedy",
        "genetic": "MIG-serving",
    }
    rows: list[list[object]] = []
    for name, found in over.items():
        theirs = "-"
        if name in names:
            ratios = [a / b - 1 for a, b in zip(figures[names[name]], figures["lower-bound"], strict=True)]
            theirs = f"{min(ratios):.1%} to {max(ratios):.1%}"
        rows.append([name, f"{min(found):.1%} to {max(found):.1%}", theirs])
    return (
        "GPUs above the paper's rule-free bound, here and in its figure 9 (whose rates are not published, so "
        f"the numbers of GPUs cannot be compared):\n\n{table(['planner', 'here', 'figure 9'], rows)}\n"
        "The rule-free bound ignores placement, which explains most of the difference here: the proven optimum "
        "itself is 4 to 5 % above that bound. So the paper's search can gain little over its greedy. Whole GPUs "
        "and sevenths do better here than in the paper. The share of sub-linear models (4 of 16 series at batch "
        "32 here, 15 of 49 there) does not explain this, and the paper's 24 models and their rates are not "
        "public.\n"
    )
