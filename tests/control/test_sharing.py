"""A tenant, or a queue of jobs, beside services: who uses what is free goes, and no floor is broken."""

from __future__ import annotations

import math
import random
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control.world import CLUSTER, MODEL, Told, Watching, deployment, goal, gpu

from partita.control.controller import Controller
from partita.control.executor import TransitionExecutor
from partita.control.journal import FILE, Journal
from partita.control.sharing import Place, QueueTenant, SharedDriver, TenantDriver, blocking_instances
from partita.drive.driver import Identity, ObservedGpu, ObservedInstance
from partita.drive.simulated import FaultKind, InjectedFault, SimulatedCluster, SimulatedDriver
from partita.executor import Backoff
from partita.jobs.queue.job_store import JobStore
from partita.jobs.queue.record import AttemptVerdict, JobOptions, JobRecord, JobState, StatedMemory, Submitter
from partita.jobs.queue.service import QueueService
from partita.jobs.queue.settings import PollIntervals, QueueSettings
from partita.jobs.run.runner import AttemptPhase, AttemptStatus, Launch
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault, maximal_layouts
from partita.sim.clock import SimulatedClock
from partita.transition.shortest import Shortest
from partita.transition.transition import MEASURED, Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from partita.sim.clock import Clock


GRACE = 30.0
DAY = deployment("4g.20gb@0=bert", "4g.20gb@0=resnet")
NIGHT = deployment("4g.20gb@0=bert 3g.20gb@4=resnet")


class OccupyingTenant:
    """A tenant that puts an instance on each place it is given, and needs its grace to leave one."""

    def __init__(self, driver: TenantDriver, places: Collection[Place]) -> None:
        self.driver = driver
        self.held: dict[Place, float] = dict.fromkeys(places, math.inf)  # until when it still works there
        self.reserved: list[Mapping[str, Collection[Placement]]] = []
        self.asked: list[float] = []
        for place in places:
            driver.begin(self._action(ActionKind.CREATE_INSTANCE, place))

    def holds(self) -> Collection[Place]:
        return tuple(self.held)

    def reserve(self, wanted: Mapping[str, Collection[Placement]]) -> None:
        self.reserved.append(wanted)

    def vacate(self, places: Collection[Place]) -> None:
        now = self.driver.clock.now()
        for place in places:
            if self.held[place] == math.inf:
                self.asked.append(now)
                self.held[place] = now + GRACE

    def step(self, now: float) -> float:
        for each in self.driver.wait(now):
            assert each.error is None
            if each.action.kind is ActionKind.DESTROY_INSTANCE:
                del self.held[each.action.gpu, each.action.placement]
        for place in [place for place, until in self.held.items() if until <= now]:
            self.held[place] = math.nan  # it goes
            self.driver.begin(self._action(ActionKind.DESTROY_INSTANCE, place))
        return min((until for until in self.held.values() if until > now), default=math.inf)

    @staticmethod
    def _action(kind: ActionKind, place: Place) -> Action:
        return Action(f"job/{kind.value}/{place[0]}/{place[1]}", kind, *place, None, (), 0.0)


class Shared:
    """Two GPUs shared by a controller of services and a tenant."""

    def __init__(self, folder: Path, places: Collection[Place]) -> None:
        SimulatedCluster.create(folder / CLUSTER, [(gpu(i), MODEL) for i in range(2)], seed=7).close()
        self.inner = SimulatedDriver(folder / CLUSTER, SimulatedClock(), jitter=0.0)
        self.shared = SharedDriver(self.inner)
        self.tenant = OccupyingTenant(self.shared.tenants, places)
        self.shared.share_with(self.tenant)
        self.shared.wait(5.0)
        self.watching = Watching(self.shared, {})
        self.journal = Journal(folder / FILE)
        executor = TransitionExecutor(
            self.watching, self.journal, Told(), Backoff(), random.Random(0), ahead=self.shared.expect
        )
        self.controller = Controller(executor, Shortest(), MEASURED, "test")

    def close(self) -> None:
        self.journal.close()
        self.inner.close()


def placements(driver: SimulatedDriver) -> dict[str, set[str]]:
    return {each.id: {str(i.placement) for i in each.instances} for each in driver.observe().gpus}


def test_a_tenant_keeps_what_services_do_not_want_and_leaves_the_rest_before_it_is_cut(
    tmp_path: Path,
) -> None:
    stays, goes = (gpu(1), Placement(4, "3g.20gb")), (gpu(0), Placement(4, "1g.5gb"))
    world = Shared(tmp_path, [stays, goes])
    try:
        world.controller.reach(goal(DAY))
        assert world.tenant.asked == []
        assert all(each.id != goes[0] or len(each.instances) == 1 for each in world.shared.observe().gpus)
        world.watching.floors = {"bert": 400.0, "resnet": 300.0}
        before = world.shared.clock.now()
        world.controller.reach(goal(NIGHT, {"bert": 400.0, "resnet": 300.0}, DAY.capacity()))
        assert world.tenant.holds() == (stays,)
        assert world.tenant.asked == [before]  # as soon as the transition was known
        assert world.shared.clock.now() >= before + GRACE
        assert placements(world.inner) == {gpu(0): {"4g.20gb@0", "3g.20gb@4"}, gpu(1): {"3g.20gb@4"}}
        assert world.tenant.reserved[-1] == {}
    finally:
        world.close()


def test_without_a_tenant_the_shared_driver_is_the_driver_itself(tmp_path: Path) -> None:
    world = Shared(tmp_path, [])
    try:
        world.controller.reach(goal(DAY))
        assert world.inner.observe() == world.shared.observe()
    finally:
        world.close()


MODEL_GPU = gpu_model(MODEL)
LAYOUTS = maximal_layouts(MODEL_GPU)


@given(st.data())
def test_the_fewest_instances_go_and_only_the_tenants(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    standing = [each for each in layout if data.draw(st.booleans())]
    held = [each for each in standing if data.draw(st.booleans())]
    wanted = data.draw(st.sampled_from([each for layout in LAYOUTS for each in layout]))
    nobody = Identity("GPU-0", 0, 0, None)
    found = ObservedGpu(
        gpu(0),
        "GPU-0",
        MODEL,
        mig=True,
        lost=False,
        instances=tuple(ObservedInstance(p, nobody, ours=True) for p in standing),
    )
    going = blocking_instances(found, wanted, held)
    others = [each for each in standing if each not in held]
    assert set(going) <= set(held)
    if wanted in others:
        assert going == ()
    elif fault(MODEL_GPU, (*others, wanted)) is None:
        left = [each for each in standing if each not in going]
        assert fault(MODEL_GPU, (*left, wanted)) is None
        for each in going:
            assert fault(MODEL_GPU, (*left, each, wanted)) is not None
    else:
        assert set(going) == set(held)


GIB = 1 << 30
HOUR = 3600.0
CHECKPOINT_S = 20.0
# What services need by the hour, on four GPUs.
HOURS = {
    0: deployment("4g.20gb@0=bert 3g.20gb@4=resnet"),
    7: deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet"),
    9: deployment(
        "7g.40gb@0=bert", "7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet", "4g.20gb@0=resnet"
    ),
    13: deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet", "2g.10gb@0=bert 1g.5gb@6=bert"),
    18: deployment("7g.40gb@0=resnet", "7g.40gb@0=resnet", "7g.40gb@0=bert", "4g.20gb@0=bert 3g.20gb@4=bert"),
    22: deployment("3g.20gb@4=resnet 4g.20gb@0=bert"),
}


@dataclass
class Working:
    """A runner whose jobs take the seconds that their command says, go on where they were, and checkpoint."""

    clock: Clock
    done: dict[str, float] = field(default_factory=dict)
    began: dict[Path, tuple[Launch, float]] = field(default_factory=dict)
    ends: dict[Path, tuple[float, int]] = field(default_factory=dict)

    def start(self, launch: Launch) -> None:
        if launch.folder not in self.began:
            now = self.clock.now()
            self.began[launch.folder] = (launch, now)
            left = float(launch.command[-1]) - self.done.get(launch.job, 0.0)
            self.ends[launch.folder] = (now + left, 0)

    def look(self, folder: Path) -> AttemptStatus:
        if folder not in self.began:
            return AttemptStatus(AttemptPhase.LOST)
        (launch, began), (end, code) = self.began[folder], self.ends[folder]
        if end > self.clock.now():
            return AttemptStatus(AttemptPhase.RUNNING, began=began)
        self.done[launch.job] = max(self.done.get(launch.job, 0.0), self._worked(folder))
        return AttemptStatus(AttemptPhase.ENDED, code, began=began, ended=end)

    def stop(self, folder: Path, *, grace_s: float) -> None:
        end = self.clock.now() + min(CHECKPOINT_S, grace_s)
        if folder in self.ends and end < self.ends[folder][0]:
            self.ends[folder] = (end, 143)

    def _worked(self, folder: Path) -> float:
        launch, began = self.began[folder]
        before = sum(
            min(self.ends[each][0], self.clock.now()) - start
            for each, (other, start) in self.began.items()
            if other.job == launch.job and start < began
        )
        return before + self.ends[folder][0] - began


class Day:
    """Four GPUs, a controller of services, and a queue of jobs."""

    def __init__(self, folder: Path) -> None:
        SimulatedCluster.create(folder / CLUSTER, [(gpu(i), MODEL) for i in range(4)], seed=7).close()
        self.inner = SimulatedDriver(folder / CLUSTER, SimulatedClock(), jitter=0.2)
        self.shared = SharedDriver(self.inner)
        self.tenant = QueueTenant(self.shared.tenants)
        self.store = JobStore(folder / "queue.sqlite3")
        (folder / "attempts").mkdir()
        self.runner = Working(self.inner.clock)
        self.told: list[str] = []
        self.queue = QueueService(
            self.tenant,
            self.runner,
            self.store,
            folder / "attempts",
            settings=QueueSettings(pace=PollIntervals(making=1.0, running=10.0, cluster=60.0, afresh=600.0)),
            tell=self.told.append,
        )
        self.tenant.attach(self.queue, self.queue.step)
        self.shared.share_with(self.tenant)
        self.journal = Journal(folder / FILE)
        self.watching = Watching(self.shared, {})
        executor = TransitionExecutor(
            self.watching, self.journal, Told(), Backoff(), random.Random(0), ahead=self.shared.expect
        )
        self.controller = Controller(executor, Shortest(), MEASURED, "test")

    def submit(self, seconds: float, gib: float) -> None:
        def made(number: int, now: float) -> list[JobRecord]:
            asked = JobOptions(
                StatedMemory("declared", gib * GIB, gib * GIB), {"": seconds}, checkpoints=True
            )
            command, ada = ("work", str(seconds)), Submitter(0, 0, "ada")
            return [JobRecord(number, ada, command, "/", environment, f"family-{gib}", now, asked)]

        environment = self.store.keep_environment({})
        self.queue.submit(made)

    def close(self) -> None:
        self.journal.close()
        self.store.close()
        self.inner.close()


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Day]:
    made = Day(tmp_path)
    yield made
    made.close()


def through_the_day(day: Day, each_hour: Callable[[int], None]) -> None:
    """Bring the services to what each hour needs; between changes jobs go on."""
    last = None
    for hour in range(24):
        day.shared.wait(max(hour * HOUR, day.inner.clock.now()))
        each_hour(hour)
        if hour in HOURS:
            wanted = HOURS[hour]
            if last is not None:
                both = last.capacity().keys() & wanted.capacity().keys()
                floors = {name: min(last.capacity()[name], wanted.capacity()[name]) for name in both}
                day.watching.floors = floors
            day.controller.reach(goal(wanted, old=last.capacity() if last else None))
            day.watching.floors = wanted.capacity()
            last = wanted


def test_a_day_of_services_and_jobs_keeps_every_floor_and_loses_no_job(day: Day) -> None:
    rng = random.Random(3)
    work: list[float] = []

    def submit(hour: int) -> None:
        for _ in range(3 if hour < 20 else 0):
            seconds = rng.uniform(300.0, 2.0 * HOUR)
            work.append(seconds)
            day.submit(seconds, rng.choice([2.0, 4.0, 8.0, 15.0]))

    through_the_day(day, submit)
    day.shared.wait(40 * HOUR)
    jobs = day.store.over(1000)
    assert [job.state for job in jobs] == [JobState.DONE] * len(work)
    attempts = [attempt for job in jobs for attempt in job.attempts]
    yielded = [attempt for attempt in attempts if attempt.verdict is AttemptVerdict.YIELDED]
    assert len(yielded) > 3  # the services took room back, and the jobs came again
    assert len(attempts) == len(jobs) + len(yielded)
    for job in jobs:
        ran = sum((attempt.ended or 0) - (attempt.began or 0) for attempt in job.attempts)
        assert ran == pytest.approx(float(job.command[-1]), abs=0.1)  # each second of work done once
    assert not [text for text in day.told if "fault" in text]
    serving = {(each.id, str(i.placement)) for each in day.shared.observe().gpus for i in each.instances}
    assert len(serving) == 2  # nothing but the night's services is left beside the jobs' own idle instances


def test_what_a_transition_wants_is_not_given_to_a_job_meanwhile(day: Day) -> None:
    day.controller.reach(goal(HOURS[0]))
    for _ in range(40):
        day.submit(10 * HOUR, 4.0)
    day.shared.wait(day.inner.clock.now() + 600.0)
    running = len([job for job in day.queue.table.active.values() if job.state is JobState.RUNNING])
    assert running == 21  # three GPUs of seven
    day.controller.reach(goal(HOURS[18], {"bert": 400.0, "resnet": 300.0}, HOURS[0].capacity()))
    assert not [job for job in day.queue.table.active.values() if job.state is not JobState.WAITING]
    assert {each.attempts[-1].verdict for each in day.queue.table.active.values() if each.attempts} == {
        AttemptVerdict.YIELDED
    }
    assert day.tenant.holds() == set()


def test_beside_a_job_that_has_to_go_no_other_begins_blocking_instances(day: Day) -> None:
    day.controller.reach(goal(HOURS[0]))
    day.submit(10 * HOUR, 4.0)
    day.shared.wait(day.inner.clock.now() + 600.0)
    assert [job.state for job in day.queue.table.active.values()] == [JobState.RUNNING]
    day.controller.reach(goal(HOURS[18], {"bert": 400.0, "resnet": 300.0}, HOURS[0].capacity()))
    assert [[each.verdict for each in job.attempts] for job in day.queue.table.active.values()] == [
        [AttemptVerdict.YIELDED]
    ]


def test_an_instance_that_is_to_be_left_is_destroyed_though_the_driver_fails_at_it(
    day: Day, tmp_path: Path
) -> None:
    day.controller.reach(goal(HOURS[0]))
    day.submit(10 * HOUR, 4.0)
    day.shared.wait(day.inner.clock.now() + 600.0)
    with closing(SimulatedCluster(tmp_path / CLUSTER)) as cluster:
        cluster.inject(InjectedFault(FaultKind.FAILS, ActionKind.DESTROY_INSTANCE, times=7))
    day.controller.reach(goal(HOURS[18], {"bert": 400.0, "resnet": 300.0}, HOURS[0].capacity()))
    assert day.tenant.holds() == set()
