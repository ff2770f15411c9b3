"""The memory part of the benchmark of jobs: growing LLM jobs, early restart, and the errors of forecasts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import median

from benchmarks.job_cases import A100, rows
from benchmarks.report import table
from partita.jobs.job import shares
from partita.jobs.memory.bounds import CONTEXT, MIB, Bounds, holds, slices, smallest
from partita.jobs.memory.growth import Growth
from partita.jobs.memory.history import Ended, History
from partita.jobs.restarts import AttemptEnd, SliceAttempt, early_restart, next_attempt

MODELS = {
    # Name: (bytes of weights, KV bytes per token by the formula from the model's config.json, 2-byte values).
    "Llama-3.2-1B": (2.47e9, 2 * 16 * 8 * 64 * 2),
    "Qwen2.5-1.5B": (3.09e9, 2 * 28 * 2 * 128 * 2),
    "Llama-3.2-3B": (6.43e9, 2 * 28 * 8 * 128 * 2),
    "Llama-2-7B": (13.5e9, 2 * 32 * 32 * 128 * 2),
}
MEMORY = {p.name: (p.memory_mib or 0) * MIB for p in A100.profiles}
SHARE = shares(A100)
LOOK_EVERY = 5


@dataclass(frozen=True)
class Session:
    """A job that answers LLM requests and keeps their tokens in its cache.

    Attributes:
        allocated: bytes by step.
        first: the profile it begins on.
    """

    allocated: list[float]
    first: str

    @property
    def peak(self) -> float:
        """Bytes at the most, context included."""
        return max(self.allocated) + CONTEXT

    @property
    def horizon(self) -> int:
        """Steps in all."""
        return len(self.allocated) - 1

    def fails_at(self, profile: str) -> int | None:
        """The step at which a slice is too small; None if it never is."""
        limit = MEMORY[profile] - CONTEXT
        return next((step for step, value in enumerate(self.allocated) if value > limit), None)

    def growth(self, step: int) -> Growth:
        """Return what is known after a step."""
        return Growth(self.allocated[: step + 1], self.horizon, CONTEXT)


def sessions(seed: int, count: int, trace: str, *, slackens: bool) -> list[Session]:
    """Return jobs whose requests follow Azure's token counts.

    Peaks are spread evenly from the weights to a whole GPU, and first slices over those that hold the weights, as if
    users guessed.
    """
    rng = random.Random(seed)
    tokens = [
        int(r["ContextTokens"]) + int(r["GeneratedTokens"])
        for r in rows(f"traces/azure_llm_2023_{trace}.csv")
    ]
    mean = sum(tokens) / len(tokens)
    found: list[Session] = []
    while len(found) < count:
        weights, each = rng.choice(list(MODELS.values()))
        steps = int((rng.uniform(1.1 * weights, MEMORY["7g.40gb"]) - weights) / (mean * each))
        if steps < 30:
            continue
        at = rng.randrange(len(tokens) - steps)
        stop = int(steps * rng.uniform(0.3, 0.9)) if slackens else steps
        values = [weights]
        for step in range(steps):
            values.append(values[-1] + (tokens[at + step] * each if step < stop else 0.0))
        first = rng.choice([p.name for p in slices(A100) if holds(p, weights + CONTEXT)])
        session = Session(values, first)
        if session.peak <= MEMORY["7g.40gb"]:
            found.append(session)
    return found


def loss(session: Session, *, early: bool, checkpoints: bool) -> tuple[float, int, int]:
    """Return the wasted GPU seconds (a step is a second), and the numbers of early restarts and of false ones."""
    profile, lost, early_ones, false = session.first, 0.0, 0, 0
    attempts: tuple[SliceAttempt, ...] = ()
    begin = 0
    while True:
        fails = session.fails_at(profile)
        moved, step = None, 0
        for step in range(max(begin, LOOK_EVERY), fails or session.horizon, LOOK_EVERY):
            growth, within = session.growth(step), LOOK_EVERY if checkpoints else None
            moved = early_restart(A100, profile, growth, within=within) if early else None
            if moved:
                break
        if moved:
            early_ones += 1
            false += fails is None
            lost += 0.0 if checkpoints else (step - begin) * SHARE[profile]
            begin = step if checkpoints else 0
            attempts = (*attempts, SliceAttempt(profile, AttemptEnd.EARLY_RESTART))
            profile = moved
        elif fails is not None:
            lost += (fails - begin) * SHARE[profile]
            attempts = (*attempts, SliceAttempt(profile, AttemptEnd.OUT_OF_MEMORY))
            after = next_attempt(A100, attempts, Bounds(lower=MEMORY[profile]), most=len(MEMORY)).profile
            assert after is not None
            profile = after
        else:
            return lost, early_ones, false


def early_restarts(count: int) -> str:
    body: list[list[object]] = []
    for trace, slackens in (("conv", False), ("code", False), ("conv", True)):
        jobs = sessions(1, count, trace, slackens=slackens)
        ladder = sum(loss(job, early=False, checkpoints=False)[0] for job in jobs)
        fits = sum(job.fails_at(job.first) is None for job in jobs)
        for checkpoints in (False, True):
            found = [loss(job, early=True, checkpoints=checkpoints) for job in jobs]
            lost, early, false = (sum(column) for column in zip(*found, strict=True))
            body.append(
                [
                    f"{trace}{', slackening' if slackens else ''}",
                    len(jobs),
                    len(jobs) - fits,
                    checkpoints,
                    ladder / 3600,
                    lost / 3600,
                    0,
                    f"{1 - lost / ladder:.1%}",
                    early,
                    f"{false / max(early, 1):.1%}",
                ]
            )
    head = [
        "tokens",
        "jobs",
        "outgrow their first slice",
        "checkpoints",
        "lost, ladder (GPU h)",
        "early restart",
    ]
    return table([*head, "perfect", "of the loss removed", "early restarts", "false ones"], body)


def growth_errors(count: int) -> str:
    body: list[list[object]] = []
    for trace, slackens in (("conv", False), ("code", False), ("conv", True)):
        jobs = sessions(2, count, trace, slackens=slackens)
        for part in (0.25, 0.5, 0.75):
            grown = [(job.growth(int(job.horizon * part)), job.peak) for job in jobs]
            # Before the first dozen steps nothing is forecast.
            said = [(growth, peak) for growth, peak in grown if len(growth.allocated) > growth.fewest]
            errors = sorted(abs(growth.expected() - peak) / peak for growth, peak in said)
            body.append(
                [
                    f"{trace}{', slackening' if slackens else ''}",
                    f"{part:.0%}",
                    len(said),
                    f"{median(errors):.1%}",
                    f"{errors[int(0.95 * len(errors))]:.1%}",
                    f"{sum(g.expected() < p for g, p in said) / len(said):.0%}",
                    f"{sum(g.bounds().upper < p for g, p in said) / len(said):.1%}",
                    f"{sum(g.bounds().lower > p for g, p in said) / len(said):.1%}",
                ]
            )
    head = ["tokens", "of the steps seen", "jobs", "error, median", "95 %", "expected too low"]
    return table([*head, "peak over the upper bound", "under the lower"], body)


def outcomes_errors() -> str:
    """Compare what is declared or learnt for MISO's trace with the smallest slice that really ran."""
    measured = {(r["model"], r["batch"]): r for r in rows("jobs/miso_memory_power.csv")}
    names = [p.name for p in A100.profiles if p.name != "4g.20gb"]
    family: dict[tuple[str, str], History] = {}
    failures = {"ladder alone": 0, "`declared`": 0, "`history`": 0}
    larger = dict.fromkeys(failures, 0)
    trace = rows("jobs/miso_trace_100.csv")
    for job in trace:
        key = job["model"], job["batch"]
        row = measured[key]
        right = names.index(row["smallest_profile_that_ran"])
        declared = smallest(A100, float(row["reported_mib_on_full_gpu"]) * MIB)
        assert declared is not None
        first = names.index(declared.name)
        failures["`declared`"] += max(right - first, 0)
        larger["`declared`"] += first > right
        failures["ladder alone"] += right
        known = family.get(key, History())
        start = next(i for i, name in enumerate(names) if MEMORY[name] > known.bounds().lower)
        tried = [Ended(MEMORY[names[i]], i < right) for i in range(start, max(start, right) + 1)]
        failures["`history`"] += sum(each.out_of_memory for each in tried)
        larger["`history`"] += start > right
        family[key] = known.and_then(tried)
    body: list[list[object]] = [[name, len(trace), failures[name], larger[name]] for name in failures]
    return table(
        ["first slice from", "jobs", "out-of-memory failures", "jobs on a larger slice than they need"], body
    )
