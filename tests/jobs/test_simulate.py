from __future__ import annotations

from dataclasses import replace

import pytest

from partita.jobs.check import check_runs
from partita.jobs.disciplines.simple import TightestFifo, Whole
from partita.jobs.job import Job, job_on
from partita.jobs.simulate import PowerModel, Reconfiguration, Run, SimulatedSchedule, simulate
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement

A100 = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])


def job(number: int = 0, arrival: float = 0.0, **seconds: float) -> Job:
    names = {"g1": "1g.5gb", "g3": "3g.20gb", "g7": "7g.40gb"}
    return job_on(A100, number, {names[key]: t for key, t in seconds.items()}, arrival=arrival)


def test_making_and_destroying_instances_takes_its_time_and_keeping_them_none():
    jobs = [job(0, g7=10.0), job(1, g7=10.0), job(2, g1=10.0)]
    outcome = simulate(jobs, A100, 1, TightestFifo(), reconfiguration=Reconfiguration(1.0, 2.0))
    assert [(run.began, run.ended) for run in outcome.runs] == [(1.0, 11.0), (11.0, 21.0), (24.0, 34.0)]
    assert outcome.changes == 3
    assert outcome.makespan == 34.0
    assert outcome.completion == pytest.approx((11.0 + 21.0 + 34.0) / 3)


def test_instances_of_one_gpu_are_made_one_after_the_other():
    jobs = [job(n, g1=10.0) for n in range(3)]
    outcome = simulate(jobs, A100, 1, TightestFifo(), reconfiguration=Reconfiguration(1.0, 0.0))
    assert [run.began for run in outcome.runs] == [1.0, 2.0, 3.0]


def test_jobs_wait_for_their_arrival_and_take_what_they_really_take():
    outcome = simulate(
        [job(0, arrival=5.0, g7=10.0)],
        A100,
        1,
        Whole(),
        reconfiguration=Reconfiguration(0, 0),
        factors={0: 2.0},
    )
    assert [(run.began, run.ended) for run in outcome.runs] == [(5.0, 25.0)]
    assert outcome.makespan == 20.0


def test_energy_is_idle_power_contexts_and_that_of_the_work():
    model = PowerModel({0: 500.0}, idle_w=40.0, context_w=30.0)
    outcome = simulate([job(0, g7=10.0)], A100, 2, Whole(), reconfiguration=Reconfiguration(0, 0))
    assert model.energy(outcome, 2) == pytest.approx(2 * 40 * 10 + 30 * 10 + 500)
    # A context costs once for a GPU, however many there are on it, and nothing while there is none.
    jobs = [job(0, g1=10.0), job(1, g1=10.0), job(2, arrival=90.0, g1=10.0)]
    outcome = simulate(jobs, A100, 1, TightestFifo(), reconfiguration=Reconfiguration(0, 0))
    model = PowerModel(dict.fromkeys(range(3), 0.0), idle_w=40.0, context_w=30.0)
    assert model.energy(outcome, 1) == pytest.approx(40 * 100 + 30 * 20)


def test_jobs_that_would_draw_more_than_the_limit_slow_down_and_take_the_same_energy():
    jobs = [job(0, g1=20.0), job(1, g1=10.0)]
    model = PowerModel({0: 4000.0, 1: 2500.0}, idle_w=50.0, context_w=26.0, limit_w=400.0)
    outcome = simulate(jobs, A100, 1, TightestFifo(), reconfiguration=Reconfiguration(0, 0), power=model)
    first = 10.0 * 450.0 / 324.0  # 200 and 250 W, where 324 W are left
    assert sorted(run.ended for run in outcome.runs) == pytest.approx([first, first + 10.0])
    assert model.energy(outcome, 1) == pytest.approx(76.0 * (first + 10.0) + 6500.0)
    assert check_runs(jobs, outcome.runs, A100, 1) == []


def test_a_limit_that_is_never_reached_changes_nothing():
    jobs = [job(n, arrival=float(n % 3), g1=10.0 + n, g3=6.0, g7=4.0) for n in range(12)]
    model = PowerModel({each.id: 1.0 for each in jobs})
    plain, capped = (simulate(jobs, A100, 2, TightestFifo(), power=each).runs for each in (None, model))
    assert [(run.job.id, run.gpu, run.placement, run.began) for run in capped] == [
        (run.job.id, run.gpu, run.placement, run.began) for run in plain
    ]
    assert [run.ended for run in capped] == pytest.approx([run.ended for run in plain])


def test_the_checker_finds_what_is_wrong():
    jobs = [job(0, g3=10.0, g7=5.0), job(1, g3=10.0, g7=5.0)]
    outcome = simulate(jobs, A100, 1, TightestFifo())
    first, second = outcome.runs
    assert check_runs(jobs, outcome.runs, A100, 1) == []

    def faults(*runs: Run) -> str:
        return " ".join(check_runs(jobs, SimulatedSchedule(runs).runs, A100, 1))

    assert "job 1 runs 0 times" in faults(first)
    assert "shares memory slices" in faults(first, replace(second, placement=first.placement))
    assert "there is no GPU 3" in faults(first, replace(second, gpu=3))
    assert "does not hold it" in faults(first, replace(second, placement=Placement(0, "2g.10gb")))
    assert "is not a placement" in faults(first, replace(second, placement=Placement(3, "3g.20gb")))
    assert "before it arrives" in faults(first, replace(second, decided=-1.0))
    seven = [job(n, g1=10.0) for n in range(2)]
    one, two = simulate(seven, A100, 1, TightestFifo()).runs
    wrong = [one, replace(two, placement=Placement(0, "7g.40gb"))]
    assert "8 compute slices in use of 7" in " ".join(check_runs(seven, wrong, A100, 1))
