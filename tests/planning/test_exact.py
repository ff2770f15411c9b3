"""The exact planner against brute force, against its own bound, and on public scenarios."""

from __future__ import annotations

import csv
import math
import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.problems import A30, A100, problem, problems, service, small_problems
from tests.planning.rightness import assert_right

from partita.deadline import Deadline
from partita.errors import InfeasibleError
from partita.mig.catalogue import gpu_model
from partita.perf.operating_point import Limits, operating_points
from partita.perf.reading import read_table
from partita.planning.column_generation import ColumnGeneration, round_covers
from partita.planning.compact import round_up, solve_by_targets, solve_compact
from partita.planning.exact import ExactPlanner, TooFewGpusError, met_shares, plan_best_effort
from partita.planning.mig_serving import greedy_configs
from partita.planning.problem import ObjectiveName, Pool, Problem, Service, Size
from partita.planning.shared_gpus import solve_shared

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
    found = solve_shared(asked, greedy_configs(asked), 0.0, Deadline(20.0))
    assert found.configs is not None
    assert found.bound <= fewest_by_trying(asked) <= found.configs.total()


def test_two_services_a_gpu_leave_no_gap_where_one_was() -> None:
    runs = {
        f"s{i}": (37.0 + 11.0 * (i * 7 % 13), {p.name: p.compute * (1.0 + i % 3) for p in A100.profiles})
        for i in range(24)
    }
    asked = problem([Pool("a100", A100)], runs, max_services_per_gpu=2)
    plan = ExactPlanner(deadline=Deadline(60.0)).plan(asked)
    assert_right(plan, asked)
    assert plan.objective.value - plan.objective.lower_bound <= 1.0


@given(small_problems(services=6))
@settings(max_examples=40)
def test_column_generation_and_the_compact_program_agree(asked: Problem) -> None:
    compact = solve_compact(asked, Deadline())
    relaxation = ColumnGeneration(asked).run(Deadline())
    rounded = round_covers(asked, relaxation, 0, Deadline())
    assert compact.counts is not None
    assert rounded is not None
    optimum = compact.counts.value(asked)
    assert round_up(relaxation.bound, asked) <= optimum <= rounded.value(asked) + 1e-9
    assert relaxation.overflow == 0.0


@st.composite
def of_two_pools(draw: st.DrawFn) -> Problem:
    """Problems on two pools, both with a count or one of them."""
    pools = [
        Pool("a100", A100, draw(st.integers(0, 4))),
        Pool("a30", A30, draw(st.integers(0, 6) | st.none())),
    ]
    runs = {}
    for index in range(draw(st.integers(1, 4))):
        whole = draw(st.integers(2, 30))
        share = {p.name: p.compute * draw(st.floats(0.6, 1.6)) for pool in pools for p in pool.gpu.profiles}
        runs[f"s{index}"] = (float(draw(st.integers(1, 60))), {name: whole * n for name, n in share.items()})
    return problem(pools, runs)


@given(asked=of_two_pools(), compiled=st.booleans())
@settings(max_examples=60)
def test_numbers_of_gpus_tried_one_by_one_end_at_the_fewest(asked: Problem, *, compiled: bool) -> None:
    program = solve_compact(asked, Deadline())
    bound = round_up(ColumnGeneration(asked).run(Deadline()).bound, asked) if compiled else -math.inf
    if program.infeasible:
        assert solve_by_targets(asked, Deadline(), bound).counts is None
        with pytest.raises(TooFewGpusError):
            ExactPlanner(explain=False).plan(asked)
        return
    assert program.counts is not None
    fewest = program.counts.value(asked)
    found = solve_by_targets(asked, Deadline(), bound)
    assert not found.infeasible
    assert found.bound <= fewest
    if found.counts is not None:
        assert found.counts.value(asked) == found.bound == fewest
    plan = ExactPlanner().plan(asked)
    assert_right(plan, asked)
    assert plan.objective.value == plan.objective.lower_bound == fewest


@given(problems())
@settings(max_examples=60)
def test_every_plan_is_right(asked: Problem) -> None:
    assert_right(ExactPlanner(deadline=Deadline(0.2)).plan(asked), asked)


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


@pytest.mark.parametrize("deadline", [Deadline(stop=lambda: True), Deadline(0.0)])
def test_a_stop_returns_a_plan_with_its_gap(deadline: Deadline) -> None:
    runs = {
        f"s{i}": (97.0 + i, {p.name: p.compute * (1.0 + i % 3) for p in A100.profiles}) for i in range(40)
    }
    asked = problem([Pool("a100", A100)], runs)
    plan = ExactPlanner(deadline=deadline).plan(asked)
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


AT_ONCE = [Deadline(0.0), Deadline(1e-3), Deadline(stop=lambda: True)]
IDS = ["no time", "a millisecond", "Ctrl-C at once"]


def asked(services: int, seed: int, **more: object) -> Problem:
    """Random services on three pools, one of them without a count so that there is a plan."""
    rng = random.Random(seed)
    pools = (
        Pool("a", A100, 10, 4, 3.0),
        Pool("b", A100, None, 8, 3.5),
        Pool("c", A30, 30, 2, 1.0),
    )
    sizes = tuple(Size(i, p.name) for i, pool in enumerate(pools) for p in pool.gpu.profiles)
    made = []
    for index in range(services):
        whole = rng.uniform(10, 1000)
        runs = {
            p.name: whole * p.compute / 7 * rng.uniform(0.7, 1.4) for p in (*A100.profiles, *A30.profiles)
        }
        nodes, replicas = rng.choice([1, 1, 1, 2, 3]), rng.choice([1, 1, 2])
        one = service(
            f"s{index}", whole * rng.uniform(0.05, 3), sizes, runs, spread=nodes, min_replicas=replicas
        )
        limited = rng.random() < 0.2
        made.append(
            replace(
                one,
                points=tuple(
                    p if not limited or size.pool != 2 else None
                    for p, size in zip(one.points, sizes, strict=True)
                ),
            )
        )
    return Problem(pools, tuple(made), sizes, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("deadline", AT_ONCE, ids=IDS)
@pytest.mark.parametrize("objective", ["gpus", "cost"])
@pytest.mark.parametrize("most", [None, 1, 2, 3, 5])
def test_there_is_a_plan_at_once(deadline: Deadline, objective: ObjectiveName, most: int | None) -> None:
    problem = asked(30, 1, objective=objective, max_services_per_gpu=most)
    plan = ExactPlanner(deadline=deadline).plan(problem)
    assert_right(plan, problem)
    assert 0 < plan.objective.lower_bound <= plan.objective.value


@pytest.mark.parametrize("most", [None, 2])
def test_there_is_a_plan_at_once_for_many_services(most: int | None) -> None:
    problem = asked(400, 2, max_services_per_gpu=most)
    plan = ExactPlanner(deadline=Deadline(0.0)).plan(problem)
    assert_right(plan, problem)


@pytest.mark.parametrize("most", [None, 1, 2])
def test_services_of_a_scarce_pool_alone_find_room_in_it_at_once(most: int | None) -> None:
    problem = asked(20, 4, max_services_per_gpu=most)
    captive = [
        replace(
            each,
            rate=each.rate / 4,
            asked_rate=each.rate / 4,
            spread=min(each.spread, 2),
            points=tuple(
                p if size.pool == 0 else None for p, size in zip(each.points, problem.sizes, strict=True)
            ),
        )
        for each in problem.services[:5]
    ]
    problem = problem.with_services((*captive, *problem.services[5:]))
    assert_right(ExactPlanner(deadline=Deadline(0.0)).plan(problem), problem)


def test_few_services_need_no_time_either() -> None:
    for seed in range(5):
        problem = asked(6, seed, max_services_per_gpu=2)
        assert_right(ExactPlanner(deadline=Deadline(0.0)).plan(problem), problem)


def test_a_pool_that_just_suffices_is_enough_at_once() -> None:
    """Covers that are cheapest one by one do not fit the counts: then a greedy pass is what there is."""
    problem = asked(20, 3)
    needed = len(ExactPlanner(deadline=Deadline(2.0)).plan(problem.with_counts({"a": 1, "c": 1})).gpus)
    tight = problem.with_counts({"a": 10, "b": needed, "c": 30})
    assert_right(ExactPlanner(deadline=Deadline(0.0)).plan(tight), tight)


def test_best_effort_keeps_what_it_can_where_services_cannot_be_spread() -> None:
    problem = asked(4, 5).with_counts({"a": 1, "b": 1, "c": 1})
    plan = plan_best_effort(problem, Deadline(5.0))
    assert plan.gpus


def with_priorities(asked: Problem, *priorities: int) -> Problem:
    pairs = zip(asked.services, priorities, strict=False)
    return asked.with_services(tuple(replace(service, priority=p) for service, p in pairs))


def test_the_service_of_highest_priority_is_met_and_the_rest_shares_what_is_left() -> None:
    runs = {"low": (8.0, {"1g.6gb": 2.0}), "high": (4.0, {"1g.6gb": 2.0}), "tiny": (2.0, {"1g.6gb": 2.0})}
    asked = with_priorities(problem([Pool("a30", A30, count=1)], runs), 0, 5, 0)
    plan = plan_best_effort(asked, Deadline(10.0))
    assert {service.name: service.capacity for service in plan.services} == {
        "low": 2.0,
        "high": 4.0,
        "tiny": 2.0,
    }


def test_with_enough_gpus_best_effort_is_the_plan_itself() -> None:
    asked = problem([Pool("a30", A30, count=2)], {"a": (8.0, {"1g.6gb": 2.0})})
    plan = plan_best_effort(asked, Deadline(10.0))
    assert len(plan.gpus) == 1
    assert plan.services[0].capacity >= 8.0


@given(small_problems(services=4, count=1), st.permutations([0, 1, 2, 3]))
@settings(max_examples=30)
def test_no_service_is_met_at_the_cost_of_one_of_higher_priority(
    asked: Problem, priorities: list[int]
) -> None:
    asked = with_priorities(asked, *priorities)
    shares = met_shares(asked, Deadline(10.0))
    order = sorted(range(len(asked.services)), key=lambda s: -asked.services[s].priority)
    whole = [s for s in order if shares.met[s] >= 1.0]
    for position, s in enumerate(order):
        if s in whole:
            continue
        alone = [t for t in order[:position] if t in whole] + [s]
        subset = asked.with_services(tuple(asked.services[t] for t in sorted(alone)))
        assert met_shares(subset, Deadline(10.0)).met.min() < 1.0


@given(small_problems(services=4, count=1))
@settings(max_examples=20)
def test_quick_shares_meet_as_many_services_and_no_more_of_the_others(asked: Problem) -> None:
    exact, quick = met_shares(asked, Deadline(10.0)).met, met_shares(asked, Deadline(10.0), quick=True).met
    assert (quick >= 1.0).sum() == (exact >= 1.0).sum()
    assert quick.sum() <= exact.sum() + 1e-5


def test_an_error_that_need_not_explain_says_what_is_there_alone() -> None:
    asked = problem([Pool("few", A30, count=1)], {f"s{i}": (9.0, {"1g.6gb": 5.0}) for i in range(6)})
    with pytest.raises(TooFewGpusError) as told:
        ExactPlanner(explain=False).plan(asked)
    assert told.value.what == "too few GPUs: 1 few cannot meet all services"
    with pytest.raises(TooFewGpusError, match="cannot meet all services; 3 few would"):
        ExactPlanner().plan(asked)
