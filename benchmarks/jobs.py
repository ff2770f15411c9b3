"""Jobs on simulated A100s: disciplines, makespan against its bound, growing jobs, forecasts of memory."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.job_cases import A100, Case, batch, miso, rodinia, rows
from benchmarks.job_far import far_batch, far_makespan
from benchmarks.job_memory import early_restarts, growth_errors, outcomes_errors
from benchmarks.report import table
from partita.jobs.bound import makespan_bound
from partita.jobs.check import check_runs
from partita.jobs.disciplines.fair import Fair
from partita.jobs.disciplines.lookahead import Lookahead
from partita.jobs.disciplines.simple import StaticOnes, TightestBatched, TightestFifo, Whole
from partita.jobs.simulate import Reconfiguration, simulate

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import Discipline

DISCIPLINES: dict[str, type[Discipline]] = {
    "lookahead (default)": Lookahead,
    "tightest-batched": TightestBatched,
    "tightest-fifo": TightestFifo,
    "fair": Fair,
    "static-ones": StaticOnes,
    "whole": Whole,
}
DEFAULT = "lookahead (default)"
INTRODUCTION = (
    "`make bench` reproduces these tables. GPUs are simulated A100-40GB, seeds are 0, 1, 2, ...; creating and "
    "destroying an instance takes the largest measured mean. Energy is idle power (36 W, MISO's idle process) "
    "from the first arrival to the last end on all GPUs, plus 26 W while any process has a context on a GPU "
    "(arXiv 2605.23918), plus the measured power of each job beyond both. The energy of a job's work is assumed "
    "to be the same on every slice. The card that MISO measured draws 250 W at most: jobs that would draw more "
    "together slow down, which no discipline foresees.\n"
)
Figures = dict[str, tuple[float, float, float]]


def run(*, quick: bool) -> str:
    """Return the section for docs/benchmarks.md."""
    return "\n".join(
        [
            "## Jobs\n",
            INTRODUCTION,
            _miso(2 if quick else 5),
            _rodinia(2 if quick else 5),
            _batches(6 if quick else 200),
            _far(10 if quick else 60),
            _memory(60 if quick else 500),
        ]
    )


def _reconfiguration() -> Reconfiguration:
    measured = rows("mig/reconfigure_seconds_a100.csv")
    create = max(float(row["create_mean_s"]) for row in measured)
    return Reconfiguration(create, max(float(row["destroy_mean_s"]) for row in measured))


def _play(case: Case, gpus: int, factors: dict[int, float] | None = None) -> Figures:
    found = {}
    for name, make in DISCIPLINES.items():
        outcome = simulate(
            case.jobs,
            A100,
            gpus,
            make(),
            reconfiguration=_reconfiguration(),
            factors=factors,
            power=case.power,
        )
        assert not check_runs(case.jobs, outcome.runs, A100, gpus)
        found[name] = case.figures(outcome, gpus)
    return found


def _mean(plays: list[Figures], name: str) -> list[float]:
    return [fmean(play[name][metric] for play in plays) for metric in range(3)]


def _against(plays: list[Figures]) -> tuple[list[float], float]:
    """Return the default's mean figures over the best other's mean, and its worst single figure over `whole`'s."""
    means = {name: _mean(plays, name) for name in DISCIPLINES}
    best = [min(mean[metric] for name, mean in means.items() if name != DEFAULT) for metric in range(3)]
    worst = max(play[DEFAULT][metric] / play["whole"][metric] for play in plays for metric in range(3))
    return [mine / other for mine, other in zip(means[DEFAULT], best, strict=True)], worst


def _miso(seeds: int) -> str:
    body: list[list[object]] = []
    ratios: list[list[object]] = []
    for gap, arrivals in ((0.0, "at once"), (60.0, "every 60 s on average")):
        for gpus in (1, 4, 8):
            cases = [miso(seed, gap) for seed in range(seeds)]
            plays = [_play(case, gpus) for case in cases]
            body += [[arrivals, gpus, name, *_mean(plays, name)] for name in DISCIPLINES]
            wrong = [
                {job.id: random.Random(1000 * seed + job.id).lognormvariate(0.0, 0.5) for job in case.jobs}
                for seed, case in enumerate(cases)
            ]
            missed = [_play(case, gpus, factors) for case, factors in zip(cases, wrong, strict=True)]
            for label, found in (("as told", plays), ("wrong", missed)):
                over, worst = _against(found)
                ratios.append([arrivals, gpus, label, *over, worst])
    head = ["arrivals", "GPUs"]
    return (
        "### MISO's trace of 100 jobs\n\nThe trace has run times on a whole GPU but no arrivals. Its order is "
        f"shuffled ({seeds} seeds, means), and jobs arrive at once or by a Poisson process. Speeds per slice "
        "are MISO's; disciplines know them, and the run times.\n\n"
        + table([*head, "discipline", "mean completion (s)", "makespan (s)", "energy (kWh)"], body)
        + "\nThe first three ratios compare the default's means with those of the best other discipline for "
        "each figure (aim: 1.02 or less). The last column is the largest ratio of any of its figures to that of "
        "`whole` in a single run (aim: 1 or less). *Wrong*: the given run time of a job is off by a log-normal "
        "factor (sigma 0.5) that no discipline knows.\n\n"
        + table([*head, "run times", "completion", "makespan", "energy", "worst over `whole`"], ratios)
    )


def _rodinia(seeds: int) -> str:
    body: list[list[object]] = []
    singles: list[tuple[float, float]] = []
    for label, large, small in (
        ("one small run, copied", 0, 1),
        ("small only", 0, 1),
        ("1:1", 1, 1),
        ("2:1", 2, 1),
        ("3:1", 3, 1),
        ("5:1", 5, 1),
        ("large only", 1, 0),
    ):
        alike = "copied" in label
        plays = [_play(rodinia(seed, large, small, alike=alike), 1) for seed in range(seeds)]
        base = _mean(plays, "whole")
        for name in DISCIPLINES:
            mine = _mean(plays, name)
            body.append([label, name, base[1] / mine[1], base[2] / mine[2], base[0] / mine[0]])
        singles += [
            (play["whole"][1] / play[DEFAULT][1], play["whole"][2] / play[DEFAULT][2]) for play in plays
        ]
    best = [max(column) for column in zip(*singles, strict=True)]
    return (
        "### Mixes of Rodinia runs, one GPU, against one job at a time\n\n32 runs arrive at once, with ratios "
        f"of large to small runs as in CASE ({seeds} seeds); a run is large if 1g.5gb does not hold it. Memory "
        "is measured. Run times are *not known* and modelled: log-normal on a whole GPU (median 20 s, sigma "
        "0.5). 30 % of the run time is the same on every slice; the rest scales with compute slices up to those "
        "that the run fills: 7 from 8 GiB on, fewer with the square root of its memory. A run draws 20 W plus "
        "25 W per filled slice beyond idle and context. The paper reports up to 6.20x throughput and 5.93x "
        "energy; with another model of run times, the figures here would differ.\n\n"
        f"Here the default reaches at most {best[0]:.2f}x throughput and {best[1]:.2f}x energy for a single "
        "mix. Throughput of different runs is limited by the last run to end, and by the power limit of the "
        "card. Energy is limited by the assumption that work takes the same energy on every slice, so that "
        "only idle power and contexts are saved: even with 50 W for a context, the published maximum, it is "
        f"{_most_saved(50.0):.2f}x. Together, the paper's two figures imply that the GPU drew 1.05 times as "
        "much with six runs side by side as with one. That is possible only if a run draws next to nothing "
        "beyond idle and context.\n\n"
        + table(["large : small", "discipline", "throughput, x", "energy, x", "mean completion, x"], body)
    )


def _batches(count: int) -> str:
    rules: dict[str, list[float]] = {
        name: [] for name in ("lookahead", "for makespan", "tightest-fifo", "whole")
    }
    for seed in range(count):
        jobs, gpus = batch(seed)
        bound = makespan_bound(jobs, A100, gpus)
        played: dict[str, Discipline] = {
            "lookahead": Lookahead(),
            "for makespan": _for_makespan(),
            "tightest-fifo": TightestFifo(),
            "whole": Whole(),
        }
        for name, discipline in played.items():
            outcome = simulate(jobs, A100, gpus, discipline, reconfiguration=_reconfiguration())
            assert not check_runs(jobs, outcome.runs, A100, gpus)
            rules[name].append(outcome.makespan / bound)
    names = {
        "lookahead": DEFAULT,
        "for makespan": "makespan",
        "tightest-fifo": "tightest-fifo",
        "whole": "whole",
    }
    body: list[list[object]] = [
        [names[name], fmean(found), sorted(found)[int(0.95 * len(found))], max(found)]
        for name, found in rules.items()
    ]
    return (
        f"### Makespan of random batches against a lower bound\n\n{count} batches of 50 to 500 jobs on 1, 2, 4 "
        "or 8 GPUs, with MISO's models and batches and Philly's run times between a minute and two hours. The "
        "bound is the larger of the work area (a linear program over maximal layouts) and the longest job on "
        "its fastest slice. The aim is a ratio of 1.15 on average.\n\n"
        + table(["discipline", "mean makespan / bound", "95 %", "worst"], body)
    )


def _most_saved(context_w: float) -> float:
    """Return the most energy that the default saves in a mix, where a context draws so much."""
    found = []
    for seed in range(5):
        case = rodinia(seed, 0, 1, alike=True)
        power = replace(case.power, context_w=context_w)
        took = [
            power.energy(
                simulate(case.jobs, A100, 1, each, reconfiguration=_reconfiguration(), power=power), 1
            )
            for each in (Whole(), Lookahead())
        ]
        found.append(took[0] / took[1])
    return max(found)


def _for_makespan() -> Lookahead:
    """Return `--discipline makespan`."""
    return Lookahead(weight=0.0, longer=float("inf"))


def _far(count: int) -> str:
    rules: dict[str, list[tuple[float, float]]] = {}
    theirs = []
    for seed in range(count):
        jobs = far_batch(seed)
        bound = makespan_bound(jobs, A100, 1)
        theirs.append(far_makespan(jobs, _reconfiguration()) / bound)
        played: dict[str, Discipline] = {
            DEFAULT: Lookahead(),
            "makespan": _for_makespan(),
            "fair": Fair(),
            "tightest-fifo": TightestFifo(),
            "whole": Whole(),
        }
        for name, discipline in played.items():
            outcome = simulate(jobs, A100, 1, discipline, reconfiguration=_reconfiguration())
            assert not check_runs(jobs, outcome.runs, A100, 1)
            rules.setdefault(name, []).append((outcome.makespan / bound, outcome.completion))
    body: list[list[object]] = [
        ["FAR, as we built it", fmean(theirs), sorted(theirs)[int(0.95 * count)], "-"]
    ]
    for name, found in rules.items():
        over = sorted(each for each, _ in found)
        body.append([name, fmean(over), over[int(0.95 * count)], fmean(each for _, each in found)])
    return (
        f"### Makespan of FAR's kind of batches against the same bound\n\n{count} batches of 10 to 40 tasks on one "
        "GPU, made as the synthetic ones of [FAR](https://arxiv.org/abs/2507.13601) are: a task scales well up to 1, "
        "2, 3, 4 or 7 slices. FAR plans offline and knows all run times, as the disciplines do here; ours is built "
        "from the paper, with moves to instances of any size.\n\n"
        + table(["schedule", "mean makespan / bound", "95 %", "mean completion (s)"], body)
    )


def _memory(count: int) -> str:
    return (
        "### Growing LLM jobs: work lost to out-of-memory\n\nJobs answer requests and keep all tokens in the "
        "cache. Tokens come from Azure's traces, KV bytes per token from the configs of four models. Peaks are "
        "spread evenly over the memory of a GPU, and first slices over those that hold the weights. A request "
        "takes one second; a forecast is made every 5 s. After an early restart a job begins with the first "
        "request, or continues if it writes checkpoints. *Slackening* jobs stop growing between 30 and 90 % of "
        "their steps, without notice. The aims are to remove 80 % of the loss, with false early restarts (the "
        "job would have fitted) under 5 % of all jobs. For slackening jobs the second aim is missed: whether a "
        "job will stop growing cannot be known while a restart still saves something. A job that writes "
        "checkpoints loses nothing by waiting, and is moved just before it would fail. The two parameters of "
        "the forecast were chosen with seed 3; the table is for seed 1.\n\n"
        + early_restarts(count)
        + "\n### Errors of memory forecasts\n\nForecasts of `growth`, for the same kinds of jobs (other seeds):\n\n"
        + growth_errors(count)
        + "\nThe first slice of MISO's jobs, with the memory that a whole GPU reported as `declared`, and with "
        "`history` per model and batch, against the smallest slice on which the job ran:\n\n"
        + outcomes_errors()
        + "\n`model` has a section of its own, since these data have neither graphs nor configs of the jobs.\n"
    )
