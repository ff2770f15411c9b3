"""Transitions: `shortest` beside MIG-Serving's exchange and compact, on the same pairs of deployments."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import geometric_mean, mean
from typing import TYPE_CHECKING

from benchmarks.report import table
from benchmarks.scenarios import DATA
from benchmarks.transition_cases import (
    MODELS,
    change,
    on_cluster,
    plan_for,
    problem_of,
    random_change,
    rates_for,
    scaled,
    tight_pair,
    walk,
)
from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.transition.check import check_transition
from partita.transition.exchange_compact import ExchangeCompact
from partita.transition.fewest_moves import near_plan
from partita.transition.shortest import Shortest, search
from partita.transition.transition import MEASURED, PAPER, ActionKind, Request

if TYPE_CHECKING:
    from benchmarks.transition_cases import Change
    from partita.transition.transition import Transition, Transitioner

NEAREST_S = 10.0
"""Seconds of search for the plan with the fewest moves."""


def run(*, quick: bool) -> str:
    """Return the tables."""
    parts = [_pairs(40 if quick else 1000), _day_and_night(), _figure_7(quick=quick), _thousand(quick=quick)]
    return "## Transitions\n\n" + "\n".join([*parts, _zero_extra(40 if quick else 300)])


@dataclass(frozen=True, slots=True)
class _Way:
    """The figures of one transition."""

    faults: bool
    moved: int
    actions: int
    makespan: float
    extra: int

    @classmethod
    def of(cls, request: Request, found: Transition) -> _Way:
        faults = bool(check_transition(request, found))
        extra = found.peak_gpus - _base(request)
        return cls(faults, found.moved, len(found.actions), found.makespan, extra)


def _base(request: Request) -> int:
    return max(request.current.used, request.target.used)


def _pair(seed: int) -> tuple[list[_Way], float]:
    """Return the ways of `shortest`, of it to the nearest plan, and of both rivals; and its seconds of planning."""
    pair = random_change(seed)
    request = pair.request
    rivals = [each.transition(request) for each in (ExchangeCompact(), ExchangeCompact(one_per_gpu=False))]
    extra = min(rival.peak_gpus for rival in rivals) - _base(request)
    asked = replace(request, extra_gpus=extra)
    begin = time.perf_counter()
    found = Shortest().transition(asked)
    spent = time.perf_counter() - begin
    near = replace(_nearest(pair), extra_gpus=extra)
    ways = [_Way.of(asked, found), _Way.of(near, Shortest().transition(near))]
    return [*ways, *(_Way.of(request, rival) for rival in rivals)], spent


def _row(name: str, ways: list[_Way], own: list[_Way] | None = None) -> list[object]:
    row: list[object] = [name, sum(way.faults for way in ways), mean(way.moved for way in ways)]
    row += [
        mean(way.actions for way in ways),
        mean(way.makespan for way in ways),
        mean(way.extra for way in ways),
    ]
    if own is None:
        return [*row, *([""] * 5)]
    both = list(zip(own, ways, strict=True))
    ratios = [theirs.makespan / ours.makespan for ours, theirs in both if ours.makespan > 0]
    row += [mean(ratios), geometric_mean(ratios), sum(ours.moved > theirs.moved for ours, theirs in both)]
    row.append(sum(ours.makespan > theirs.makespan + 1e-6 for ours, theirs in both))
    return [*row, sum(ours.extra > theirs.extra for ours, theirs in both)]


def _pairs(n: int) -> str:
    """Compare on random pairs; `shortest` may use as many extra GPUs as exchange and compact did."""
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(_pair, range(n), chunksize=4))
    own, near, serial, parallel = ([ways[i] for ways, _ in found] for i in range(4))
    spent = sum(seconds for _, seconds in found)
    header = ["algorithm", "checker's faults", "moved", "actions", "makespan (s)", "extra GPUs"]
    header += [
        "makespan over `shortest`'s",
        "geometric",
        "`shortest` moved more",
        "took longer",
        "used more GPUs",
    ]
    rows = [
        _row("`shortest`", own),
        _row("`shortest` to the nearest of the equally good plans", near),
        _row("exchange and compact, one action per GPU at a time", serial, own),
        _row("exchange and compact, all that is independent at once", parallel, own),
    ]
    return (
        f"{n} pairs of exact plans of 4 to 64 A100-80GB (seeds 0 to {n - 1}, ParvaGPU's tables, 3 to 12 "
        "services whose rates change), with seconds per action as in the paper. `shortest` may use as many "
        "extra GPUs as the better of the two variants of exchange and compact. Figures are averages per pair; "
        "the last three columns count pairs.\n"
        f"Planning by `shortest` took {spent / n:.2g} s per pair.\n\n{table(header, rows)}"
    )


def _paper_actions(found: Transition) -> dict[str, int]:
    """Count as the paper does: starts, stops, and GPUs that are cut anew; no migration is counted as one."""
    kinds = Counter(action.kind for action in found.actions)
    cut = {
        a.gpu for a in found.actions if a.kind in (ActionKind.CREATE_INSTANCE, ActionKind.DESTROY_INSTANCE)
    }
    return {
        "starts": kinds[ActionKind.START_REPLICA],
        "stops": kinds[ActionKind.STOP_REPLICA],
        "cut": len(cut),
    }


DAY_SEED, DAY_SEEDS = 9, 12


def _day_night_rates(seed: int) -> tuple[dict[str, float], dict[str, float]]:
    draw = random.Random(seed)
    names = [
        f"{model}-{i}" for i, model in enumerate(("bert", "resnet101", "resnet50", "densenet121", "vgg16"))
    ]
    shares = {name: draw.uniform(0.5, 1.5) for name in names}
    day = rates_for(shares, 16)
    return day, rates_for({name: share * draw.uniform(0.5, 1.5) for name, share in shares.items()}, 5)


def _nearest(pair: Change) -> Request:
    """Return the request to the nearest of the equally good plans."""
    plan = near_plan(
        problem_of(pair.request.new_rates), pair.after, pair.request.current, Deadline(NEAREST_S)
    ).plan
    return replace(pair.request, target=on_cluster(plan, len(pair.request.current.gpus)))


def _day_and_night() -> str:
    day, night = _day_night_rates(DAY_SEED)
    rows: list[list[object]] = []
    changes = (("day to night", day, night, (107, 1021)), ("night to day", night, day, (81, 1595)))
    for name, old, new, paper in changes:
        pair = change(old, new)
        near = _nearest(pair)
        rows.append(_day_row(name, "`shortest`, nearest plan", near, Shortest().transition(near)))
        request = pair.request
        rows.append(_day_row(name, "`shortest`", request, Shortest().transition(request)))
        rows.append(_day_row(name, "exchange and compact", request, ExchangeCompact().transition(request)))
        rows.append([name, "the paper's measurement", *([""] * 5), paper[0], float(paper[1]), "", ""])
    header = ["change", "algorithm", "GPUs", "starts", "stops", "GPUs cut", "actions, ours"]
    header += ["as the paper counts", "makespan (s)", "extra GPUs", "checker's faults"]
    return (
        "Five services by day and by night, with rates for which 16 and 5 GPUs are optimal, and the paper's "
        "seconds. The paper counts a start, a stop, a migration and the cutting of a GPU as one action each; "
        "here a migration counts as a start and a stop, to our disadvantage. Rates are those of seed "
        f"{DAY_SEED}. {_day_seeds()}\n\n" + table(header, rows)
    )


def _day_seeds() -> str:
    """Say how `shortest` with the nearest plan fares on all seeds."""
    found: dict[str, list[tuple[int, float]]] = {"day to night": [], "night to day": []}
    for seed in range(DAY_SEEDS):
        day, night = _day_night_rates(seed)
        for name, old, new in (("day to night", day, night), ("night to day", night, day)):
            way = Shortest().transition(_nearest(change(old, new)))
            found[name].append((sum(_paper_actions(way).values()), way.makespan))
    words = [
        f"{name} takes {min(n for n, _ in each)} to {max(n for n, _ in each)} actions as the paper counts and "
        f"{min(s for _, s in each):.0f} to {max(s for _, s in each):.0f} s"
        for name, each in found.items()
    ]
    return f"Over seeds 0 to {DAY_SEEDS - 1}, `shortest` with the nearest plan: {'; '.join(words)}."


def _day_row(name: str, label: str, request: Request, found: Transition) -> list[object]:
    count = _paper_actions(found)
    gpus = f"{request.current.used} to {request.target.used}"
    extra = found.peak_gpus - _base(request)
    ours, theirs = len(found.actions), sum(count.values())
    faults = len(check_transition(request, found))
    return [name, label, gpus, *count.values(), ours, theirs, found.makespan, extra, faults]


def _figure_7(*, quick: bool) -> str:
    """Replan hour after hour; each algorithm goes its own way through the day."""
    figures = json.loads((DATA / "paper_figures.json").read_text(encoding="utf-8"))
    counts = figures["jormungandr_fig7_gpus_hr1..23"]["Jormungandr"][: 6 if quick else None]
    hours = walk(counts, seed=7)
    rows: list[list[object]] = []
    for label, algorithm, near in (
        ("`shortest`, nearest plan", Shortest(), True),
        ("`shortest`", Shortest(), False),
        ("exchange and compact", ExchangeCompact(), False),
    ):
        now = on_cluster(plan_for(hours[0]), 16)
        moved = faults = actions = extra = 0
        seconds = 0.0
        for old, new in pairwise(hours):
            plan = plan_for(new)
            if near:
                plan = near_plan(problem_of(new), plan, now, Deadline(NEAREST_S)).plan
            request = Request(now, on_cluster(plan, 16), old, new, PAPER)
            found = algorithm.transition(request)
            faults += len(check_transition(request, found))
            moved += found.moved
            actions += len(found.actions)
            seconds += found.makespan
            extra = max(extra, found.peak_gpus - _base(request))
            now = found.target
        rows.append([label, len(hours) - 1, moved, actions, seconds, extra, faults])
    header = [
        "algorithm",
        "replans",
        "replicas moved",
        "actions",
        "makespans (s)",
        "most extra GPUs",
        "checker's faults",
    ]
    return (
        f"The hours of Jormungandr's figure 7 ({', '.join(map(str, counts))} GPUs), with four services whose "
        f"shares drift (seed 7) and whose rates make those counts optimal.\n\n{table(header, rows)}"
    )


def _thousand(*, quick: bool) -> str:
    size = 200 if quick else 1000
    draw = random.Random(1000)
    names = [f"{MODELS[i % len(MODELS)]}-{i}" for i in range(100)]
    shares = {name: draw.expovariate(1.0) + 0.05 for name in names}
    later = {name: share * draw.lognormvariate(0, 0.5) for name, share in shares.items()}
    rows: list[list[object]] = []
    old, new = _rates_near(shares, size), _rates_near(later, size)
    before, after = plan_for(old), plan_for(new)
    gpus = max(len(before.gpus), len(after.gpus)) + 16
    current = on_cluster(before, gpus)
    begin = time.perf_counter()
    plan = near_plan(problem_of(new), after, current, Deadline(NEAREST_S)).plan
    choosing = time.perf_counter() - begin
    for label, chosen, first in (("as planned", after, 0.0), ("nearest plan", plan, choosing)):
        request = Request(current, on_cluster(chosen, gpus), old, new, MEASURED)
        begin = time.perf_counter()
        found = Shortest().transition(request)
        seconds = time.perf_counter() - begin
        faults = len(check_transition(request, found))
        extra = found.peak_gpus - _base(request)
        used = f"{request.current.used} to {request.target.used}"
        rows.append(
            [label, used, len(found.actions), found.moved, found.makespan, extra, faults, first + seconds]
        )
    header = [
        "target",
        "GPUs",
        "actions",
        "moved",
        "makespan (s)",
        "extra GPUs",
        "checker's faults",
        "planning (s)",
    ]
    title = f"A transition of 100 services on about {size:,} GPUs, with measured seconds per action."
    return f"{title}\n\n{table(header, rows)}"


def _rates_near(shares: dict[str, float], gpus: int) -> dict[str, float]:
    """Return rates in these shares that need about so many GPUs."""
    rates = scaled(shares, gpus)
    needed = len(plan_for(rates).gpus)
    return {name: rate * gpus / needed for name, rate in rates.items()}


def _zero_extra(n: int) -> str:
    """Count the cases without a spare GPU that exhaustive search can solve, and that the algorithms do."""
    solved: Counter[str] = Counter()
    faults = 0
    for seed in range(n):
        request = tight_pair(seed)
        solved["exhaustive search"] += search(request, expanded=10**9) is not None
        algorithms: dict[str, Transitioner] = {
            "`shortest`": Shortest(),
            "exchange and compact": ExchangeCompact(),
        }
        for label, algorithm in algorithms.items():
            try:
                found = algorithm.transition(request)
            except InfeasibleError:
                continue
            solved[label] += 1
            faults += bool(check_transition(request, found))
    rows: list[list[object]] = [[label, count, n] for label, count in solved.most_common()]
    return (
        f"Cases without a spare GPU (seeds 0 to {n - 1}): one or two full A30s and two services that need 95 to "
        f"100 % of the capacity. The checker finds faults in {faults}.\n\n{table(['', 'solved', 'of'], rows)}"
    )
