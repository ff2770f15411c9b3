from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partita.errors import InfeasibleError, InputError
from partita.jobs.bound import makespan_bound
from partita.jobs.check import check_runs
from partita.jobs.disciplines.discipline import Allocation, Discipline, QueueState
from partita.jobs.disciplines.fair import Fair
from partita.jobs.disciplines.lookahead import Lookahead, Priced
from partita.jobs.disciplines.simple import StaticOnes, TightestBatched, TightestFifo, Whole
from partita.jobs.job import job_on, shares
from partita.jobs.partition import empty
from partita.jobs.simulate import Reconfiguration, simulate
from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from collections.abc import Callable


PLAIN = ["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"]
A100 = gpu_model("a100-40gb").restricted(PLAIN)
ALL: list[Callable[[], Discipline]] = [
    Whole,
    StaticOnes,
    TightestFifo,
    TightestBatched,
    Fair,
    Lookahead,
    *(lambda order=order: Priced(order, patience=50.0) for order in ("shortest", "longest", "critical")),
    lambda: Fair(patience=20.0),
    lambda: TightestBatched(patience=20.0),
]
INSTANT = Reconfiguration(0.0, 0.0)
# Seconds per iteration that MISO measured: splitting this one loses.
DEEPSPEECH2 = {"1g.5gb": 3.4123, "2g.10gb": 1.139, "3g.20gb": 0.7839, "4g.20gb": 0.568, "7g.40gb": 0.3135}
MOBILENET = {"1g.5gb": 0.0232, "2g.10gb": 0.0208, "3g.20gb": 0.0193, "4g.20gb": 0.0191, "7g.40gb": 0.0188}


@st.composite
def some_jobs(draw, most=25):
    jobs = []
    for number in range(draw(st.integers(1, most))):
        whole = draw(st.floats(1.0, 100.0))
        slowdown = draw(st.floats(1.0, 9.0))
        least = draw(st.integers(0, 4))
        seconds = {
            p.name: whole * (1.0 + (slowdown - 1.0) * (7 - p.compute) / 6) for p in A100.profiles[least:]
        }
        jobs.append(
            job_on(
                A100,
                number,
                seconds,
                arrival=draw(st.sampled_from([0.0, 0.0, 10.0, 40.0, 200.0])),
                user=draw(st.sampled_from("ab")),
                priority=draw(st.integers(0, 2)),
            )
        )
    return jobs


@pytest.mark.parametrize("make", ALL)
@settings(max_examples=15)
@given(jobs=some_jobs(), gpus=st.integers(1, 3), data=st.data())
def test_every_job_runs_once_on_slices_of_its_own(make, jobs, gpus, data):
    factors = {job.id: data.draw(st.floats(0.3, 3.0)) for job in jobs[:5]}
    outcome = simulate(jobs, A100, gpus, make(), factors=factors)
    assert check_runs(jobs, outcome.runs, A100, gpus) == []


@pytest.mark.parametrize("make", ALL)
@settings(max_examples=8)
@given(jobs=some_jobs(most=15), gpus=st.integers(1, 2))
def test_no_schedule_beats_the_bound_of_the_makespan(make, jobs, gpus):
    outcome = simulate(jobs, A100, gpus, make(), reconfiguration=INSTANT)
    assert max(run.ended for run in outcome.runs) >= makespan_bound(jobs, A100, gpus) * (1 - 1e-6)


def test_the_bound_is_the_optimum_where_brute_force_finds_one_that_fills_the_gpu():
    jobs = [job_on(A100, n, {"1g.5gb": 70.0, "7g.40gb": 10.0 + 1e-6}) for n in range(7)]
    assert makespan_bound(jobs, A100, 1) == pytest.approx(70.0)
    assert simulate(jobs, A100, 1, Lookahead(), reconfiguration=INSTANT).makespan == pytest.approx(
        70.0, rel=1e-3
    )


@settings(max_examples=25)
@given(jobs=some_jobs(most=3))
def test_on_tiny_batches_the_default_is_not_far_from_brute_force(jobs):
    # All at once; brute force over the profile of each job and over orders, each job as early as it fits.
    jobs = [job_on(A100, job.id, job.seconds) for job in jobs]
    best = min(
        _list_schedule(order, profiles)
        for order in permutations(jobs)
        for profiles in product(*(job.seconds for job in order))
    )
    mine = simulate(jobs, A100, 1, Lookahead(weight=0.0), reconfiguration=INSTANT).makespan
    assert mine >= best * (1 - 1e-9)
    assert mine <= 1.8 * best


def _list_schedule(order, profiles) -> float:
    class Fixed:
        def decide(self, state: QueueState):
            board = Allocation(state)
            wanted = dict(zip(order, profiles, strict=True))
            for job in sorted(state.waiting, key=list(order).index):
                if not board.try_start(job, wanted[job]):
                    break
            return tuple(board.starts)

    return simulate(list(order), A100, 1, Fixed(), reconfiguration=INSTANT).makespan


def test_the_default_does_not_split_where_splitting_loses():
    jobs = [job_on(A100, n, {p: 1000 * t for p, t in DEEPSPEECH2.items()}) for n in range(14)]
    outcome = simulate(jobs, A100, 1, Lookahead())
    assert {run.placement.profile for run in outcome.runs} == {"7g.40gb"}
    assert outcome.makespan < 0.9 * simulate(jobs, A100, 1, TightestFifo()).makespan


def test_the_default_splits_where_splitting_wins():
    jobs = [job_on(A100, n, {p: 1000 * t for p, t in MOBILENET.items()}) for n in range(14)]
    outcome = simulate(jobs, A100, 1, Lookahead())
    assert outcome.makespan < 0.25 * simulate(jobs, A100, 1, Whole()).makespan


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_by_its_own_measure_the_default_is_not_worse_than_one_job_at_a_time(gpus):
    mixed = [
        job_on(A100, n, {p: (500 + 90 * n) * t for p, t in (DEEPSPEECH2 if n % 3 else MOBILENET).items()})
        for n in range(30)
    ]
    mine, whole = (simulate(mixed, A100, gpus, each) for each in (Lookahead(), Whole()))
    assert mine.makespan * mine.completion <= whole.makespan * whole.completion


@pytest.mark.parametrize(
    "make", [lambda: Fair(patience=300.0), lambda: TightestBatched(patience=300.0), TightestFifo]
)
def test_a_large_job_does_not_starve_among_small_ones_that_keep_coming(make):
    stream = [job_on(A100, n, {"1g.5gb": 100.0, "7g.40gb": 90.0}, arrival=10.0 * n) for n in range(400)]
    large = job_on(A100, 1000, {"7g.40gb": 50.0}, arrival=25.0)
    outcome = simulate([*stream, large], A100, 1, make())
    (run,) = (run for run in outcome.runs if run.job is large)
    assert run.began - large.arrival < 300.0 + 200.0


def test_a_priced_job_is_not_overtaken_for_longer_than_its_patience():
    stream = [job_on(A100, n, {"1g.5gb": 100.0}, arrival=10.0 * n) for n in range(400)]
    large = job_on(A100, 1000, {"7g.40gb": 500.0}, arrival=25.0)
    outcome = simulate([*stream, large], A100, 1, Priced("shortest", patience=300.0))
    (run,) = (run for run in outcome.runs if run.job is large)
    assert run.began - large.arrival < 300.0 + 200.0


def test_fair_starts_the_higher_priority_first():
    jobs = [job_on(A100, n, {"7g.40gb": 10.0}, priority=n) for n in range(3)]
    outcome = simulate(jobs, A100, 1, Fair())
    assert [run.job.id for run in outcome.runs] == [2, 1, 0]


def test_fair_shares_between_users_however_many_jobs_one_submits():
    jobs = [job_on(A100, n, {"7g.40gb": 10.0}, user="a" if n < 8 else "b") for n in range(10)]
    outcome = simulate(jobs, A100, 1, Fair())
    assert sorted(run.job.user for run in outcome.runs[:4]) == ["a", "a", "b", "b"]


def test_batched_changes_the_layout_less_often_than_fifo():
    jobs = [job_on(A100, n, {"7g.40gb": 5.0} if n % 4 else {"1g.5gb": 10.0}) for n in range(60)]
    batched, fifo = (simulate(jobs, A100, 1, each) for each in (TightestBatched(), TightestFifo()))
    assert batched.changes < 0.5 * fifo.changes


def test_decisions_do_not_depend_on_anything_but_the_state():
    jobs = [job_on(A100, n, {p: (n + 1) * t for p, t in MOBILENET.items()}) for n in range(12)]
    state = QueueState(0.0, tuple(jobs), (empty(A100), empty(A100)))
    for make in ALL:
        assert make().decide(state) == make().decide(state)


@pytest.mark.parametrize("make", ALL)
def test_nothing_starts_where_nothing_waits(make):
    assert make().decide(QueueState(0.0, (), (empty(A100),))) == ()


def test_once_the_aged_group_is_served_other_groups_take_the_gpus_that_are_left():
    aged = job_on(A100, 0, {"7g.40gb": 5.0})
    young = [job_on(A100, n, {"1g.5gb": 5.0}, arrival=90.0) for n in range(1, 4)]
    starts = TightestBatched(patience=50.0).decide(
        QueueState(100.0, (aged, *young), (empty(A100), empty(A100)))
    )
    assert {start.job for start in starts} == {aged, *young}


def test_a_discipline_that_never_starts_a_job_is_found_out():
    class Never:
        def decide(self, state):  # noqa: ARG002 -- the interface
            return ()

    with pytest.raises(InfeasibleError, match="Never never starts 1 job"):
        simulate([job_on(A100, 0, {"1g.5gb": 1.0})], A100, 1, Never())


@pytest.mark.parametrize("seconds", [{}, {"1g.5gb": 0.0}, {"1g.5gb": float("nan")}, {"9g.90gb": 1.0}])
def test_a_job_that_makes_no_sense_is_refused(seconds):
    with pytest.raises(InputError):
        job_on(A100, 0, seconds)


def test_shares_count_whichever_slices_are_scarcer():
    assert shares(A100)["3g.20gb"] == 0.5
    assert shares(A100)["4g.20gb"] == pytest.approx(4 / 7)
