"""The exact planner against brute force, against its own bound, and on public scenarios."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.problems import A30, A100, problem, problems, small_problems
from tests.planning.rightness import assert_right

from partita.errors import InfeasibleError
from partita.mig.catalogue import gpu_model
from partita.perf.operating_point import Limits, operating_points
from partita.perf.reading import read_table
from partita.planning.exact import ExactPlanner, TooFewGpusError
from partita.planning.exact.columns import ColumnGeneration
from partita.planning.exact.compact import solve_compact
from partita.planning.exact.counts import round_up
from partita.planning.exact.rounding import round_covers
from partita.planning.exact.shared import solve_shared
from partita.planning.paper.greedy import greedy_configs
from partita.planning.problem import Pool, Problem, Service, Size
from partita.planning.watch import Watch

A100_80 = gpu_model("a100-80gb")


def fewest_by_trying(asked: Problem) -> int:
    """Return the fewest GPUs by building up every set of configurations, level by level."""
    moves = set()
    for cut in asked.cuts:
        slots = [k for k, n in enumerate(cut.counts) for _ in range(n)]
        for services in product(range(len(asked.services)), repeat=len(slots)):
            if len(set(services)) > (asked.max_services_per_gpu or len(slots)):
                continue
            gain = [0.0] * len(asked.services)
            for k, s in zip(slots, services, strict=True):
                gain[s] += float(asked.throughput[s, k])
            moves.add(tuple(gain))
    states = {tuple(float(r) for r in asked.rate)}
    for gpus in range(1, 100):
        states = {
            tuple(max(0.0, a - b) for a, b in zip(state, move, strict=True))
            for state in states
            for move in moves
        }
        if any(not any(state) for state in states):
            return gpus
    raise AssertionError("no plan after 100 GPUs")


@given(small_problems())
@settings(max_examples=40)
def test_no_way_to_fill_gpus_needs_fewer(asked: Problem) -> None:
    plan = ExactPlanner().plan(asked)
    assert plan.objective.proven
    assert plan.objective.value == len(plan.gpus) == fewest_by_trying(asked)


@given(small_problems(), st.sampled_from([1, 2]))
@settings(max_examples=40)
def test_no_way_to_fill_gpus_with_few_services_each_beats_the_bound(asked: Problem, most: int) -> None:
    asked = replace(asked, max_services_per_gpu=most)
    plan = ExactPlanner().plan(asked)
    assert_right(plan, asked)
    fewest = fewest_by_trying(asked)
    assert plan.objective.proven
    assert plan.objective.value == fewest


@given(small_problems(), st.sampled_from([2, 3]))
@settings(max_examples=40)
def test_whole_configurations_alone_keep_to_the_truth(asked: Problem, most: int) -> None:
    """The column generation over GPUs, without the bound and the list that help it."""
    asked = replace(asked, max_services_per_gpu=most)
    found = solve_shared(asked, greedy_configs(asked), 0.0, Watch(20.0))
    assert found.configs is not None
    assert found.bound <= fewest_by_trying(asked) <= found.configs.total()


def test_two_services_a_gpu_leave_no_gap_where_one_was() -> None:
    runs = {
        f"s{i}": (37.0 + 11.0 * (i * 7 % 13), {p.name: p.compute * (1.0 + i % 3) for p in A100.profiles})
        for i in range(24)
    }
    asked = problem([Pool("a100", A100)], runs, max_services_per_gpu=2)
    plan = ExactPlanner(watch=Watch(60.0)).plan(asked)
    assert_right(plan, asked)
    assert plan.objective.value - plan.objective.lower_bound <= 1.0


@given(small_problems(services=6))
@settings(max_examples=40)
def test_column_generation_and_the_compact_program_agree(asked: Problem) -> None:
    compact = solve_compact(asked, Watch())
    relaxation = ColumnGeneration(asked).run(Watch())
    rounded = round_covers(asked, relaxation, 0, Watch())
    assert compact.counts is not None
    assert rounded is not None
    optimum = compact.counts.value(asked)
    assert round_up(relaxation.bound, asked) <= optimum <= rounded.value(asked) + 1e-9
    assert relaxation.overflow == 0.0


@given(problems())
@settings(max_examples=60)
def test_every_plan_is_right(asked: Problem) -> None:
    assert_right(ExactPlanner(watch=Watch(1.0)).plan(asked), asked)


@given(small_problems(services=4))
@settings(max_examples=20)
def test_one_gpu_fewer_than_the_optimum_is_proven_too_few(asked: Problem) -> None:
    needed = len(ExactPlanner().plan(asked).gpus)
    enough = asked.with_counts({"a30": needed})
    assert len(ExactPlanner().plan(enough).gpus) == needed
    if needed > 1:
        with pytest.raises(TooFewGpusError, match=f"{needed} a30"):
            ExactPlanner().plan(asked.with_counts({"a30": needed - 1}))


def test_a_pool_that_is_used_up_is_helped_by_another_of_the_same_gpus() -> None:
    runs = {f"s{i}": (1.0, {"1g.6gb": 5.0}) for i in range(6)}
    pools = [Pool("first", A30, count=1, cost=1.0), Pool("second", A30, count=4, cost=1.0)]
    plan = ExactPlanner().plan(problem(pools, runs, objective="cost", max_services_per_gpu=2))
    assert plan.objective.value == 3


def test_services_of_their_own_gpus_share_none() -> None:
    runs = {"a": (1.0, {"1g.6gb": 5.0}), "b": (1.0, {"1g.6gb": 5.0}), "c": (9.0, {"1g.6gb": 5.0})}
    plan = ExactPlanner().plan(problem([Pool("a30", A30)], runs, max_services_per_gpu=1))
    assert plan.objective.value == 3
    assert plan.objective.proven
    assert all(len({each.service for each in gpu.instances}) == 1 for gpu in plan.gpus)


def test_dearer_gpus_are_used_only_where_they_pay() -> None:
    pools = [Pool("a100", A100, cost=3.0), Pool("a30", A30, cost=1.0)]
    runs = {"a": (10.0, {"7g.40gb": 10.0, "4g.24gb": 5.0}), "b": (10.0, {"7g.40gb": 10.0, "4g.24gb": 2.0})}
    plan = ExactPlanner().plan(problem(pools, runs, objective="cost"))
    assert plan.objective.value == pytest.approx(5.0)
    assert sorted(gpu.model for gpu in plan.gpus) == ["a100-40gb", "a30-24gb", "a30-24gb"]


def test_watts_are_those_of_the_instances_in_use() -> None:
    asked = problem([Pool("a30", A30)], {"a": (10.0, {"1g.6gb": 5.0, "4g.24gb": 10.0})}, objective="watts")
    watts = {"1g.6gb": 30.0, "4g.24gb": 90.0}
    points = tuple(replace(p, power_w=watts[p.profile]) if p else None for p in asked.services[0].points)
    plan = ExactPlanner().plan(asked.with_services((replace(asked.services[0], points=points),)))
    assert plan.objective.value == pytest.approx(60.0)
    assert len(plan.gpus) == 1


@pytest.mark.parametrize("watch", [Watch(stop=lambda: True), Watch(0.0)])
def test_a_stop_returns_a_plan_with_its_gap(watch: Watch) -> None:
    runs = {
        f"s{i}": (97.0 + i, {p.name: p.compute * (1.0 + i % 3) for p in A100.profiles}) for i in range(40)
    }
    asked = problem([Pool("a100", A100)], runs)
    plan = ExactPlanner(watch=watch).plan(asked)
    assert_right(plan, asked)


def test_the_same_seed_gives_the_same_plan() -> None:
    runs = {
        f"s{i}": (97.0 + i, {p.name: p.compute * (1.0 + i % 3) for p in A100.profiles}) for i in range(40)
    }
    asked = problem([Pool("a100", A100)], runs)
    first, second = (ExactPlanner(seed=3).plan(asked) for _ in range(2))
    assert first.gpus == second.gpus


def test_a_service_cannot_be_spread_over_more_nodes_than_there_are() -> None:
    asked = problem([Pool("a30", A30, count=2, per_node=2)], {"a": (1.0, {"1g.6gb": 5.0})})
    asked = asked.with_services((replace(asked.services[0], spread=2),))
    with pytest.raises(InfeasibleError, match="spread"):
        ExactPlanner().plan(asked)


@pytest.mark.parametrize(
    ("scenario", "gpus"), [("S1", 2), ("S2", 3), ("S3", 5), ("S4", 7), ("S5", 12), ("S6", 15)]
)
def test_parvagpu_scenarios_are_solved_to_proven_optimality(shared_data, scenario: str, gpus: int) -> None:
    table = read_table(shared_data / "perf" / "parvagpu_a100_80gb.csv")
    names = dict.fromkeys(row.profile for row in table)
    pool = Pool("a100", A100_80.restricted(names))
    sizes = tuple(Size(0, p.name) for p in pool.gpu.profiles)
    services = []
    with (shared_data / "scenarios" / "parvagpu.csv").open() as file:
        for row in csv.DictReader(file):
            if row["scenario"] == scenario:
                slo = float(row["latency_ms"])
                limits = Limits(0.45 * slo, max_batch=128, max_processes=5)
                found = operating_points(table.of(row["model"], pool.gpu.name), limits)
                points = tuple(found.get(size.profile) for size in sizes)
                rate = float(row["rate"])
                services.append(Service(row["model"], row["model"], rate, rate, slo, points))
    plan = ExactPlanner().plan(Problem((pool,), tuple(services), sizes))
    assert plan.objective.proven
    assert len(plan.gpus) == gpus
