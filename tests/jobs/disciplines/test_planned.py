"""Batches planned to their end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.jobs.bound import makespan_bound
from partita.jobs.check import check_runs
from partita.jobs.disciplines.classes import discipline, to_play
from partita.jobs.disciplines.discipline import QueueState, RunningJob
from partita.jobs.disciplines.lookahead import RULES, Lookahead
from partita.jobs.disciplines.planned import PlannedBatch, planned, tree
from partita.jobs.disciplines.simple import Whole
from partita.jobs.job import Job, job_on
from partita.jobs.partition import empty, known
from partita.jobs.simulate import Reconfiguration, proceed, simulate
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault

PLAIN = ["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"]
A100 = gpu_model("a100-40gb").restricted(PLAIN)
INSTANT = Reconfiguration(0.0, 0.0)


def scaling(number: int, one: float, upto: int, arrival: float = 0.0) -> Job:
    """Return a job that takes `one` seconds on a slice, and is faster up to that many."""
    seconds = {p.name: one / min(p.compute, upto) for p in A100.profiles}
    return job_on(A100, number, seconds, arrival=arrival)


def mixed(count: int, gap: float = 0.0) -> list[Job]:
    """Return jobs like those of FAR's batches: some scale, some do not."""
    return [scaling(n, 10.0 + 37.0 * n % 90.0, (1, 2, 3, 4, 7)[n % 5], arrival=gap * n) for n in range(count)]


@pytest.mark.parametrize("model", ["a100-40gb", "h100-80gb", "a30-24gb", "b200-180gb"])
def test_the_instances_are_a_tree_of_which_all_that_are_apart_go_together(model: str):
    gpu = gpu_model(model)
    nodes = tree(gpu)
    assert {node.placement.profile for node in nodes} == {p.name for p in gpu.profiles if not p.media}
    for at, node in enumerate(nodes):
        for above in nodes[:at]:
            assert node.mask & above.mask in (0, node.mask)
        assert node.parent is None or nodes[node.parent].mask | node.mask == nodes[node.parent].mask
    leaves = [n.placement for at, n in enumerate(nodes) if all(at != each.parent for each in nodes)]
    assert fault(gpu, leaves) is None


@settings(max_examples=15)
@given(count=st.integers(1, 16), gpus=st.integers(1, 2), seed=st.integers(0, 4))
def test_a_plan_is_carried_out_as_it_was_made(count: int, gpus: int, seed: int):
    jobs = tuple(mixed(count + seed)[seed:])
    state = QueueState(0.0, jobs, tuple(empty(A100) for _ in range(gpus)))
    for plan in planned(state):
        outcome = proceed(state, (), plan, INSTANT)
        assert check_runs(jobs, outcome.runs, A100, gpus) == []
        assert {(r.job, r.gpu, r.placement) for r in outcome.runs} == set(plan.order)


def test_jobs_that_run_are_planned_around():
    held = Placement(4, "3g.20gb")
    gpu = empty(A100).at([held], [held])
    other = scaling(99, 1.0, 1)
    jobs = tuple(mixed(6))
    state = QueueState(5.0, jobs, (gpu,), (RunningJob(other, 0, held, 1000.0),))
    for plan in planned(state):
        runs = proceed(state, (), plan, INSTANT).runs
        assert {run.job for run in runs} == set(jobs)
        assert max(run.ended for run in runs) < 1000.0  # nothing waits for it
    # Nobody knows how long what is not ours stays: where nothing else is free, there is no plan.
    whole = Placement(0, "7g.40gb")
    assert planned(QueueState(5.0, jobs, (empty(A100).at([whole], [whole]),))) == ()


def test_there_is_no_plan_of_too_many_jobs():
    assert planned(QueueState(0.0, tuple(mixed(60)), (empty(A100),))) == ()


def test_a_plan_stands_until_somebody_else_takes_what_it_waits_for_or_a_gpu_goes():
    gpus = (empty(A100), empty(A100))
    state = QueueState(0.0, tuple(mixed(8)), gpus)
    plan = planned(state)[0]
    assert plan.stands(state)
    assert not plan.stands(replace(state, gpus=gpus[:1]))
    whole = Placement(0, "7g.40gb")
    theirs = empty(A100).at([whole], [whole])
    assert not plan.stands(replace(state, gpus=(theirs, theirs)))
    assert plan.stands(QueueState(0.0, (), (theirs,)))
    # The default then chooses anew, and goes on where it can.
    lookahead = Lookahead(longer=float("inf"), rules=(Whole(),))
    lookahead.decide(state)
    assert isinstance(lookahead._rule, PlannedBatch)
    starts = lookahead.decide(replace(state, gpus=(theirs, gpus[1])))
    assert starts
    assert all(start.gpu == 1 for start in starts)


def test_a_batch_ends_sooner_by_default_than_by_any_rule_alone_and_nearly_as_soon_as_can_be():
    over = []
    for count in (12, 17, 23):
        jobs = mixed(count)
        bound = makespan_bound(jobs, A100, 1)
        mine = simulate(jobs, A100, 1, Lookahead(), reconfiguration=INSTANT)
        rules = [simulate(jobs, A100, 1, rule, reconfiguration=INSTANT).makespan for rule in RULES]
        assert mine.makespan <= 1.001 * min(rules)
        over.append(mine.makespan / bound)
    assert sum(over) / len(over) <= 1.05


def test_the_makespan_alone_can_be_asked_for():
    jobs = mixed(20, gap=5.0)
    alone = simulate(jobs, A100, 1, discipline("makespan"), reconfiguration=INSTANT)
    assert alone.makespan <= simulate(jobs, A100, 1, Lookahead(), reconfiguration=INSTANT).makespan * 1.1


def test_foretelling_starts_changes_nothing_and_plans_nothing():
    state = QueueState(0.0, tuple(mixed(10)), (empty(A100),))
    which = discipline("lookahead")
    before = which.decide(state)
    assert to_play(which).decide(state) == before
    assert which.decide(state) == before


@pytest.mark.parametrize("profile", ["1g.20gb", "2g.20gb", "3g.40gb"])
@pytest.mark.parametrize("taken", [6, 3, 0])
def test_idle_instances_do_not_decide_where_a_job_starts(profile: str, taken: int):
    gpu = gpu_model("h100-80gb")
    wanted = gpu.profile(profile)
    seconds = {p.name: 3600.0 for p in gpu.profiles if p.memory >= wanted.memory and not p.media}
    busy = Placement(taken, "1g.10gb")
    first, second = job_on(gpu, 1, {"1g.10gb": 3600.0}), job_on(gpu, 2, seconds, arrival=6.0)
    running = (RunningJob(first, 0, busy, 3600.0),)
    kept = set()
    for gone in range(7):
        idle = [Placement(start, "1g.10gb") for start in range(7) if start != taken][gone:]
        partition = known(gpu, (*idle, busy), (busy,))
        (start,) = Lookahead().decide(QueueState(6.0, (second,), (partition,), running))
        kept.add(partition.keeps(start.change))
        best = max(partition.keeps(each) for each in partition.changes(start.change.placement.profile))
        assert partition.keeps(start.change) == best
    assert len(kept) == 1
