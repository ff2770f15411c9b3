"""`plan --from`: one service's rate changes by a fifth; moves of a fresh plan, and of the plan with the fewest."""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.checked import faults
from benchmarks.report import table
from benchmarks.scale import random_problem
from benchmarks.transition_cases import MODELS, on_cluster, plan_for, problem_of, scaled
from partita.deadline import Deadline
from partita.planning.exact import ExactPlanner
from partita.transition.deployment import deployment_of
from partita.transition.fewest_moves import near_plan
from partita.transition.moves import moves_between, total_moves
from partita.transition.overview import service_changes
from partita.transition.shortest import Shortest
from partita.transition.transition import MEASURED, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIZES = ((6, 8), (12, 16), (30, 40), (60, 80))
"""Services and about how many GPUs they take."""

CHANGES = 25
"""Changes of each size, of seeds 0 to this."""

SECONDS = 10.0
"""Most seconds of planning, and as many again for the moves."""

LARGE_SECONDS = 30.0
"""Most seconds for the moves of a thousand services."""

SEEDS = (1, 2, 3, 4, 5)
"""Seeds of a thousand services."""

KEPT = Path("build/plan_from.jsonl")
"""Changes that are measured, a line each: a run that was stopped goes on. Removed at the end of a whole run."""


def run(*, quick: bool) -> str:
    """Return the tables."""
    changes = 5 if quick else CHANGES
    found = {
        services: [kept_change(seed, services, gpus) for seed in range(changes)]
        for services, gpus in SIZES[: 2 if quick else None]
    }
    text = f"{report(found)}\n{large(SEEDS[:1] if quick else SEEDS)}"
    if not quick:
        KEPT.unlink()
    return text


def large(seeds: Sequence[int]) -> str:
    """Return the table of changes of one service of a thousand."""
    rows: list[list[object]] = []
    for seed in seeds:
        old = random_problem(1000, seed)
        draw = random.Random(seed)
        one, factor = draw.choice(old.services).name, draw.choice((0.8, 1.2))
        new = old.with_services(
            tuple(
                replace(each, rate=factor * each.rate, asked_rate=factor * each.asked_rate)
                if each.name == one
                else each
                for each in old.services
            )
        )
        before, fresh = (ExactPlanner(deadline=Deadline(LARGE_SECONDS)).plan(each) for each in (old, new))
        current = on_cluster(before, len(before.gpus) + len(fresh.gpus))
        begin = time.perf_counter()
        near = near_plan(new, fresh, current, Deadline(LARGE_SECONDS))
        more = time.perf_counter() - begin
        assert not faults(near.plan, new)
        moves = total_moves(moves_between(current, deployment_of(fresh)))
        rows.append(
            [
                seed,
                len(before.gpus),
                len(fresh.gpus),
                len(near.plan.gpus),
                moves,
                near.moves,
                near.least,
                more,
            ]
        )
    header = ["seed", "GPUs before", "GPUs, fresh", "GPUs, --from"]
    header += ["moves, fresh", "moves, --from", "at least", "--from more, s"]
    return (
        "1,000 services of the benchmark of scale, of which one changes by a fifth. First few kinds of GPUs may "
        f"change, then more, for at most {LARGE_SECONDS:g} s. Where that finds nothing, the fresh plan is taken, "
        f"with its moves:\n\n{table(header, rows)}"
    )


def kept_change(seed: int, services: int, gpus: float) -> Change:
    """Return a change as an earlier run measured it, or measure it and keep it."""
    key = [seed, services, gpus]
    for line in KEPT.read_text().splitlines() if KEPT.exists() else ():
        kept = json.loads(line)
        if kept["case"] == key:
            return Change(**{name: kept[name] for name in Change.__dataclass_fields__})
    found = change(seed, services, gpus)
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.open("a") as stream:
        print(json.dumps({"case": key, **asdict(found)}), file=stream)
    return found


def report(found: Mapping[int, Sequence[Change]]) -> str:
    """Return the table of changes by number of services."""
    rows = [_row(f"{services}", each) for services, each in found.items()]
    rows.append(_row("all", [one for each in found.values() for one in each]))
    header = [
        "services",
        "changes",
        "replicas",
        "GPUs, fresh",
        "GPUs, --from",
        "moves, fresh",
        "moves, --from",
    ]
    header += ["share", "proven fewest", "at least", "moves, transitions", "planning, s", "--from more, s"]
    return (
        "## Planning from what runs\n\n"
        "Services of ParvaGPU's tables with random rates; then one service's rate rises or falls by a fifth. A fresh "
        "plan is put onto the GPUs so that the most replicas stay, as `diff` and `apply` do; `--from` takes the plan "
        "with the fewest moves among those with as many GPUs. The transitions are those to these plans; some must "
        "move more to keep the floors. Figures are sums over all changes; seconds are medians, of at most "
        f"{SECONDS:g} s for either part.\n\n{table(header, rows)}"
    )


@dataclass(frozen=True, slots=True)
class Change:
    """One change: replicas before, GPUs and moves of both plans, moves proven and done, and seconds."""

    replicas: int
    gpus: tuple[int, int]
    moves: tuple[int, int]
    least: int
    done: int
    seconds: tuple[float, float]


def rates_of(seed: int, services: int, gpus: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return random rates that take about so many GPUs, and the same with one of them a fifth larger or smaller."""
    draw = random.Random(seed)
    names = [f"{draw.choice(MODELS)}-{i}" for i in range(services)]
    old = scaled({name: draw.expovariate(1.0) + 0.05 for name in names}, gpus)
    one = draw.choice(names)
    return old, {**old, one: old[one] * draw.choice((0.8, 1.2))}


def change(seed: int, services: int, gpus: float) -> Change:
    old, new = rates_of(seed, services, gpus)
    before = plan_for(old, SECONDS)
    begin = time.perf_counter()
    fresh = plan_for(new, SECONDS)
    planning = time.perf_counter() - begin
    current = on_cluster(before, len(before.gpus) + len(fresh.gpus))
    begin = time.perf_counter()
    near = near_plan(problem_of(new), fresh, current, Deadline(SECONDS))
    more = time.perf_counter() - begin
    assert not faults(near.plan, problem_of(new))
    request = Request(current, deployment_of(near.plan), old, new, MEASURED)
    done = sum(each.moves for each in service_changes(request, Shortest(tries=1).transition(request)))
    assert done >= near.moves
    return Change(
        sum(len(gpu.instances) for gpu in before.gpus),
        (len(fresh.gpus), len(near.plan.gpus)),
        (total_moves(moves_between(current, deployment_of(fresh))), near.moves),
        near.least,
        done,
        (planning, more),
    )


def _row(name: str, found: Sequence[Change]) -> list[object]:
    fresh, near = (sum(each.moves[i] for each in found) for i in range(2))
    return [
        name,
        len(found),
        sum(each.replicas for each in found),
        sum(each.gpus[0] for each in found),
        sum(each.gpus[1] for each in found),
        fresh,
        near,
        f"{near / fresh:.0%}",
        f"{sum(each.moves[1] == each.least for each in found)} of {len(found)}",
        sum(each.least for each in found),
        sum(each.done for each in found),
        median(each.seconds[0] for each in found),
        median(each.seconds[1] for each in found),
    ]
