"""What jobs hold of a cluster: nothing that changes services destroys it, and no difference counts it."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.control.test_sharing import HOURS, Day
from tests.control.world import CLUSTER, World, deployment, goal, gpu
from tests.jobs.queue.world import ME, queue, served

from partita.control.held import (
    NOTHING_HELD,
    HeldByJobs,
    held_as_stored,
    held_as_told,
    held_by_jobs,
)
from partita.dash.plans import difference
from partita.documents.text import compact
from partita.drive.simulated import SimulatedCluster
from partita.jobs.queue.access import Access
from partita.jobs.queue.answers import Answers
from partita.jobs.queue.record import JobState
from partita.jobs.run.folder import EXIT
from partita.mig.layout import Placement
from partita.transition.transition import MEASURED, Action, ActionKind

if TYPE_CHECKING:
    from pathlib import Path

DAY = deployment("4g.20gb@0=bert")
JOBS = ((gpu(1), Placement(0, "1g.5gb")), (gpu(0), Placement(4, "3g.20gb")))
IDLE = (gpu(1), Placement(4, "2g.10gb"))


def told(day: Day) -> HeldByJobs:
    """What the queue's process says over its socket."""
    answers = Answers(day.queue, Access(ME.uid), kept=day.tenant.holds, yields=True)
    return held_as_told(json.loads(compact(answers(ME, {"ask": "instances"}))))


def test_beside_run_with_jobs_the_difference_is_what_its_controller_would_do(tmp_path: Path) -> None:
    with closing(Day(tmp_path)) as day:
        now = goal(HOURS[0])
        day.controller.reach(now)
        day.submit(10 * 3600.0, 4.0)
        day.submit(60.0, 15.0)
        day.shared.wait(day.inner.clock.now() + 600.0)
        held = told(day)
        assert (len(held.jobs), len(held.idle), held.yields) == (1, 1, True)  # the shorter job has ended
        assert {*held.jobs, *held.idle} == day.tenant.holds()
        whole = day.inner.observe()
        seen = held.seen_by_services(whole)
        assert seen == day.shared.observe()
        counted = difference(now, whole, MEASURED, reached=True)
        assert counted.actions == 2
        nothing = difference(now, seen, MEASURED, reached=True)
        assert (nothing.actions, nothing.gpus) == (0, ())
        wanted = goal(HOURS[18], {"bert": 400.0, "resnet": 300.0}, HOURS[0].capacity())
        asked = difference(wanted, seen, MEASURED, reached=False)
        assert asked.actions == len(day.controller.preview(wanted, day.shared.observe()).actions)
        began = len(day.watching.began)
        day.controller.reach(wanted)
        assert asked.actions == len(day.watching.began) - began


def test_without_a_queue_nothing_moves_jobs_or_what_others_have_and_no_difference_counts_it(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, gpus=4)
    world.reach(goal(DAY))
    for index, place in enumerate((*JOBS, IDLE)):
        world.driver.begin(Action(str(index), ActionKind.CREATE_INSTANCE, *place, None, (), 1.0))
    world.driver.wait()
    with closing(SimulatedCluster(tmp_path / CLUSTER)) as cluster:
        cluster.create_foreign(gpu(2), Placement(4, "3g.20gb"))
        cluster.set_mig(gpu(3), on=False)
    held = HeldByJobs(dict(zip(JOBS, ("7", "12_3"), strict=True)), frozenset({IDLE}))
    assert held.told() == "2 jobs (7, 12_3) on 2 GPUs: their slices stay as they are"
    seen = held.seen_by_services(world.driver.observe())
    nothing = difference(goal(DAY), seen, MEASURED, reached=True)
    assert (nothing.actions, nothing.gpus, nothing.seconds) == (0, (), 0.0)
    more = goal(deployment("4g.20gb@0=bert", "2g.10gb@2=bert"), old=DAY.capacity())
    way = world.controller.preview(more, seen)
    assert difference(more, seen, MEASURED, reached=False).actions == len(way.actions) > 0
    assert not {(each.gpu, each.placement) for each in way.actions} & {*JOBS, IDLE}
    # What the queue no longer keeps is in nobody's use, and goes as ever.
    left = replace(held, idle=frozenset()).seen_by_services(world.driver.observe())
    assert difference(goal(DAY), left, MEASURED, reached=True).actions == 1


def test_a_host_says_what_its_jobs_hold_while_the_queue_runs_and_afterwards(tmp_path: Path) -> None:
    assert held_by_jobs(tmp_path) == NOTHING_HELD
    with queue(tmp_path) as made:
        job = made.submit("sleep", "600")
        attempt = made.until_state(job, JobState.RUNNING).attempt
        holding = {(attempt.gpu, attempt.placement): job}
        waiting = made.submit("sleep", "600", after=[f"ok:{job}"])
        made.until(lambda: made.job(waiting).state is JobState.WAITING)
        with served(made):
            assert held_by_jobs(tmp_path) == HeldByJobs(holding)
        assert held_by_jobs(tmp_path) == held_as_stored(tmp_path) == HeldByJobs(holding)
        ended = tmp_path / "jobs" / "attempts" / job / str(attempt.number) / EXIT
        ended.write_text("{}")  # it ended while no queue ran
        assert held_as_stored(tmp_path) == NOTHING_HELD
        ended.unlink()
