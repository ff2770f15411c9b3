"""The controller reaches its goal through failures, interference and kills, or stops in a safe state."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.control.world import Watching, World, contents, deployment, goal, gpu

from partita.control.controller import StoppedError, StopRequestedError, standing_rates
from partita.control.goal import Goal, fingerprint
from partita.control.journal import JournalError, State
from partita.drive.driver import DriveError
from partita.drive.simulated import FaultKind, InjectedFault
from partita.errors import InfeasibleError, InputError
from partita.mig.layout import Placement
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet")
NIGHT = deployment("4g.20gb@0=bert 2g.10gb@4=resnet 1g.5gb@6=resnet")
RATES = {"bert": 400.0, "resnet": 300.0}


def at_day(world: World) -> None:
    world.reach(goal(DAY))


def to_night(world: World) -> None:
    world.reach(goal(NIGHT, RATES, DAY.capacity()))


def back_and_forth(world: World) -> None:
    for _ in range(100):
        to_night(world)
        world.reach(goal(DAY, old=RATES))


def test_an_empty_cluster_is_brought_to_a_plan(world: World) -> None:
    at_day(world)
    progress = world.journal.progress()
    assert progress is not None
    assert (progress.state, progress.done) == (State.REACHED, progress.actions)


def test_a_change_keeps_every_floor(world: World) -> None:
    at_day(world)
    to_night(world)
    assert world.driver.floors == {"bert": 400.0, "resnet": 300.0}


def test_what_is_reached_already_needs_no_action(world: World) -> None:
    at_day(world)
    world.driver.began.clear()
    at_day(world)
    assert world.driver.began == []


def test_independent_actions_run_side_by_side(world: World) -> None:
    world.reach(goal(deployment("7g.40gb@0=a", "7g.40gb@0=b", "7g.40gb@0=c")))
    assert world.driver.clock.now() < 2 * 47.4 * 1.5


def test_the_same_seed_gives_the_same_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    runs = []
    for _ in range(2):
        world = World(tmp_path_factory.mktemp("w"))
        at_day(world)
        to_night(world)
        runs.append(([a.id for a in world.driver.began], world.driver.clock.now()))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("mishap", [FaultKind.FAILS, FaultKind.IN_USE, FaultKind.TIMES_OUT])
@pytest.mark.parametrize("kind", list(ActionKind))
def test_an_action_that_fails_for_a_while_is_tried_again(
    world: World, kind: ActionKind, mishap: FaultKind
) -> None:
    at_day(world)
    world.cluster.inject(InjectedFault(mishap, kind, times=3))
    to_night(world)
    assert len([each for each in world.told.ends if each.error]) == 3


def test_a_replica_that_never_becomes_ready_is_stopped_before_it_is_started_again(world: World) -> None:
    world.cluster.inject(InjectedFault(FaultKind.NEVER_READY, ActionKind.START_REPLICA, times=2))
    at_day(world)
    stops = [a for a in world.driver.began if a.kind is ActionKind.STOP_REPLICA]
    assert len(stops) == 2


def test_an_action_that_fails_for_ever_stops_everything_in_a_safe_state(world: World) -> None:
    at_day(world)
    world.driver.floors = RATES
    world.cluster.inject(InjectedFault(FaultKind.FAILS, ActionKind.START_REPLICA, times=1000))
    with pytest.raises(StoppedError, match=r"start replica of (bert|resnet) failed after 5 tries") as caught:
        world.controller.reach(goal(NIGHT, RATES, DAY.capacity()))
    assert "partita apply plan.json" in str(caught.value.hint)
    assert world.driver.wait() == (), "something is still under way"
    assert any("bert 700/400" in note for note in world.told.notes)
    progress = world.journal.progress()
    assert progress is not None
    assert progress.state is State.STOPPED


def test_what_was_stopped_is_reached_once_the_cause_is_mended(world: World) -> None:
    at_day(world)
    world.cluster.inject(InjectedFault(FaultKind.FAILS, ActionKind.STOP_REPLICA, gpu=gpu(0), times=5))
    with pytest.raises(StoppedError):
        world.controller.reach(goal(NIGHT, RATES, DAY.capacity()))
    world.wake()
    to_night(world)


def test_retries_wait_longer_each_time(world: World) -> None:
    world.cluster.inject(InjectedFault(FaultKind.IN_USE, ActionKind.CREATE_INSTANCE, gpu=gpu(0), times=4))
    world.jitter = 0.0
    world.reach(goal(deployment("7g.40gb@0=bert")))
    begun = [entry.at for entry in world.journal.tail(50) if entry.text.startswith("create")]
    waits = [b - a for a, b in pairwise(begun)]
    assert len(waits) == 4
    assert all(2 ** (i - 1) <= wait <= 2**i for i, wait in enumerate(waits)), waits


def test_a_lost_gpu_is_replanned_around(world: World) -> None:
    at_day(world)
    world.cluster.inject(InjectedFault(FaultKind.GPU_LOST, ActionKind.CREATE_INSTANCE))
    world.controller.reach(goal(NIGHT, RATES, DAY.capacity()))
    assert world.running() == contents(NIGHT)
    assert any("is lost" in note for note in world.told.notes)


def test_without_enough_gpus_left_it_says_so_and_stops(world: World) -> None:
    at_day(world)
    world.cluster.lose(gpu(1))
    world.cluster.lose(gpu(2))
    with pytest.raises(InfeasibleError, match="there are 1"):
        world.controller.reach(goal(DAY, old=DAY.capacity()))


def test_a_gpu_lost_half_way_with_no_other_leaves_the_journal_at_stopped(world: World) -> None:
    world.cluster.lose(gpu(2))
    world.cluster.inject(InjectedFault(FaultKind.GPU_LOST, ActionKind.START_REPLICA))
    with pytest.raises(InfeasibleError):
        world.controller.reach(goal(DAY))
    progress = world.journal.progress()
    assert progress is not None
    assert progress.state is State.STOPPED


def test_someone_elses_change_half_way_is_noticed_and_replanned(world: World) -> None:
    at_day(world)
    times = iter(range(100))

    def interfere() -> None:
        if next(times) == 3:
            world.cluster.create_foreign(gpu(2), Placement(6, "1g.5gb"))

    world.driver.before_observing = interfere
    world.cluster.inject(InjectedFault(FaultKind.IN_USE, gpu=gpu(2), times=1))
    world.controller.reach(
        goal(deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=bert"), RATES, DAY.capacity())
    )
    assert any(
        "someone else changed the cluster: node-0/gpu-2: 1g.5gb@6 is new" in n for n in world.told.notes
    )
    assert any(each.fixed for each in world.now().gpus[2].instances), "the foreign instance was touched"


def test_a_replica_that_dies_meanwhile_is_replaced(world: World) -> None:
    at_day(world)
    times = iter(range(100))

    def kill() -> None:
        if next(times) == 2:
            world.cluster.kill_replica(gpu(0), Placement(0, "7g.40gb"))

    world.driver.before_observing = kill
    wanted = deployment("7g.40gb@0=bert", "4g.20gb@0=resnet 3g.20gb@4=resnet", "7g.40gb@0=new")
    world.controller.reach(goal(wanted, old=DAY.capacity()))
    assert world.running() == contents(wanted)
    assert any("does not run bert" in note for note in world.told.notes)


def test_a_cluster_that_never_stops_changing_is_given_up(world: World) -> None:
    at_day(world)
    world.controller = type(world.controller)(
        world.controller.executor, world.controller.transitioner, world.controller.durations, "partita", 2
    )
    free = iter([Placement(start, "1g.5gb") for start in range(7)])
    looks = iter(range(1000))

    def interfere() -> None:
        if next(looks) % 2:
            world.cluster.create_foreign(gpu(2), next(free))

    world.driver.before_observing = interfere
    with pytest.raises(StoppedError, match="3 times"):
        world.controller.reach(goal(NIGHT, RATES, DAY.capacity()))


def test_asked_to_stop_it_finishes_what_is_under_way_and_goes_on_later(world: World) -> None:
    at_day(world)
    world.stop = lambda: len(world.driver.began) > 2
    world.driver.began.clear()
    world.driver.floors = RATES
    with pytest.raises(StopRequestedError) as caught:
        world.controller.reach(goal(NIGHT, RATES, DAY.capacity()))
    assert caught.value.exit_code == 130
    assert world.driver.wait() == ()
    world.stop = lambda: False
    world.wake()
    to_night(world)


def test_a_foreign_instance_is_planned_around_and_never_touched(world: World) -> None:
    world.cluster.create_foreign(gpu(0), Placement(0, "4g.20gb"), busy=True)
    at_day(world)
    assert Placement(0, "4g.20gb") in [each.placement for each in world.now().gpus[0].instances if each.fixed]


def test_an_instance_half_made_by_a_killed_controller_is_completed_or_cleared(world: World) -> None:
    half = Action("a0", ActionKind.CREATE_INSTANCE, gpu(0), Placement(0, "3g.20gb"), None, (), 1.0)
    world.driver.begin(half)
    world.wake()
    assert [str(each.placement) for each in world.now().gpus[0].instances] == ["3g.20gb@0"]
    at_day(world)


@pytest.mark.parametrize("pages", range(5))
def test_a_full_disk_stops_before_anything_begins_that_is_not_written_down(world: World, pages: int) -> None:
    at_day(world)
    journal = world.journal._file._db
    (there,) = journal.execute("PRAGMA page_count").fetchone()
    journal.execute(f"PRAGMA max_page_count = {there + pages}")
    with pytest.raises(JournalError, match="disk is full"):
        back_and_forth(world)
    assert world.driver.wait() == (), "something is still under way"
    (written,) = journal.execute("SELECT count(*) FROM actions").fetchone()
    assert len(world.driver.began) <= written
    world.wake()
    to_night(world)


def test_a_budget_that_cannot_be_met_is_refused_with_the_one_that_would_do(world: World) -> None:
    full = deployment("7g.40gb@0=a", "7g.40gb@0=b")
    world.reach(goal(full))
    swapped = deployment("4g.20gb@0=a 3g.20gb@4=b", "4g.20gb@0=b 3g.20gb@4=a")
    with pytest.raises(InfeasibleError, match="1 would do"):
        world.controller.reach(goal(swapped, old=full.capacity(), extra_gpus=0))
    assert world.running() == contents(full)


GPUS = 4
LAYOUTS = (
    "",
    "7g.40gb@0={}",
    "4g.20gb@0={} 3g.20gb@4={}",
    "3g.20gb@0={} 3g.20gb@4={}",
    "2g.10gb@0={} 2g.10gb@2={} 3g.20gb@4={}",
    "1g.5gb@0={} 1g.5gb@1={} 2g.10gb@2={} 1g.5gb@6={}",
)
SERVICES = st.sampled_from(["bert", "resnet", "vgg"])


class Killed(BaseException):
    """The process is no more."""


class Mortal(Watching):
    """A driver at which the controller dies after so many calls."""

    left: int | None = None

    def _tick(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed

    def observe(self):
        self._tick()
        return super().observe()

    def begin(self, action) -> None:
        super().begin(action)
        self._tick()

    def wait(self, until=None):
        self._tick()
        return super().wait(until)


@st.composite
def targets(draw: st.DrawFn):
    texts = [draw(st.sampled_from(LAYOUTS)) for _ in range(GPUS - 1)]
    return deployment(*(text.format(*[draw(SERVICES) for _ in range(4)]) for text in texts))


class Machine(RuleBasedStateMachine):
    """The controller of one cluster."""

    @initialize()
    def make(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder, gpus=GPUS, driver_type=Mortal)
        self.faults = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.world.journal.close()
            shutil.rmtree(self.folder)

    def aim(self, target, share: float = 1.0) -> Goal:
        world = self.world
        old = dict(standing_rates(world.journal.promised(), world.now()))
        rates = {name: share * rate for name, rate in target.capacity().items()}
        source = fingerprint(target)
        unfinished = world.journal.unfinished()
        if unfinished is not None and unfinished.source == source:
            target = unfinished.target
        return Goal(target, old, rates, source=source)

    def attempt(self, goal: Goal) -> bool:
        world = self.world
        world.driver.floors = world.floors(goal)
        try:
            world.controller.wake(world.driver.observe())
            world.controller.reach(goal)
        except (StoppedError, InfeasibleError):
            return False
        finally:
            world.driver.floors = {}
        assert world.running() == contents(goal.target)
        assert not any(
            r for g in world.driver.observe().gpus for i in g.instances if (r := i.replica) and r.draining
        )
        return True

    @rule(wanted=targets(), share=st.sampled_from([0.5, 1.0]))
    def reach(self, wanted, share: float) -> None:
        self.attempt(self.aim(wanted, share))

    @rule(wanted=targets(), calls=st.integers(1, 60))
    def be_killed(self, wanted, calls: int) -> None:
        goal = self.aim(wanted)
        assert isinstance(self.world.driver, Mortal)
        self.world.driver.left = calls
        with suppress(Killed):
            self.attempt(goal)
        self.world.journal.close()
        self.world.wake()

    @precondition(lambda self: self.faults < 4)
    @rule(
        mishap=st.sampled_from(
            [FaultKind.FAILS, FaultKind.IN_USE, FaultKind.NEVER_READY, FaultKind.TIMES_OUT]
        ),
        kind=st.sampled_from(list(ActionKind)),
        skip=st.integers(0, 3),
        times=st.integers(1, 6),
    )
    def have_fail(self, mishap: FaultKind, kind: ActionKind, skip: int, times: int) -> None:
        self.faults += 1
        self.world.cluster.inject(InjectedFault(mishap, kind, times=times, skip=skip))

    @rule(index=st.integers(0, GPUS - 1), start=st.integers(0, 6))
    def someone_creates(self, index: int, start: int) -> None:
        with suppress(DriveError):
            self.world.cluster.create_foreign(gpu(index), Placement(start, "1g.5gb"))

    @rule(
        index=st.integers(0, GPUS - 1),
        start=st.integers(0, 6),
        profile=st.sampled_from(["1g.5gb", "3g.20gb"]),
    )
    def someone_destroys(self, index: int, start: int, profile: str) -> None:
        with suppress(DriveError):
            self.world.cluster.destroy_behind_our_back(gpu(index), Placement(start, profile))

    @rule(index=st.integers(0, GPUS - 1))
    def lose_and_restore(self, index: int) -> None:
        self.world.cluster.lose(gpu(index))
        self.world.cluster.restore(gpu(index))

    @rule(wanted=targets())
    def in_the_end_all_is_well(self, wanted) -> None:
        """Once nothing fails and nobody else is there, every goal that there is a way to is reached."""
        for each in self.world.driver.observe().gpus:
            for instance in each.instances:
                if not instance.ours:
                    self.world.cluster.destroy_behind_our_back(each.id, instance.placement)
        for _ in range(40):
            if self.attempt(self.aim(wanted)):
                return
        raise AssertionError("never reached")

    @invariant()
    def the_journal_can_be_read(self) -> None:
        if hasattr(self, "world"):
            self.world.journal.progress()
            self.world.journal.tail(5)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


def test_a_pause_holds_until_it_is_ended_and_keeps_every_floor(world: World) -> None:
    at_day(world)
    rests = iter(range(5))

    def rest() -> None:
        """Nothing is in progress and nothing begins while it is paused; then someone ends the pause."""
        assert world.driver.wait(world.driver.clock.now()) == ()
        began.append(len(world.driver.began))
        if next(rests, None) is None:
            world.journal.resume("ada", world.driver.clock.now())

    def begin_twice(action: Action) -> None:
        begin(action)
        if len(world.driver.began) == 2:
            world.journal.pause("ada", world.driver.clock.now())

    began: list[int] = []
    begin = world.driver.begin
    world.driver.began.clear()
    world.driver.begin = begin_twice  # type: ignore[method-assign]
    world.controller = replace(world.controller, executor=replace(world.controller.executor, rest=rest))
    to_night(world)
    assert len(began) == 6
    assert set(began) == {began[0]}
    assert began[0] < len(world.driver.began)
    assert world.told.notes == ["paused by ada: `partita resume` goes on", "going on"]
    texts = [each.text for each in world.journal.tail(1000)]
    assert texts.index("paused by ada") < texts.index("resumed by ada")
    assert world.journal.paused() is None


def test_a_pause_outlives_the_controller_and_holds_for_another_goal(world: World) -> None:
    at_day(world)
    world.stop = lambda: len(world.driver.began) > 2
    world.driver.began.clear()
    with pytest.raises(StopRequestedError):
        world.controller.reach(goal(NIGHT, RATES, DAY.capacity()))
    world.journal.pause("ada", world.driver.clock.now())
    for wanted in (goal(NIGHT, RATES, DAY.capacity()), goal(DAY, old=RATES)):
        world.wake()
        rests = iter(range(3))

        def rest(rests: Iterator[int] = rests) -> None:
            world.stop = lambda: next(rests, None) is None

        world.stop = lambda: False
        world.controller = replace(world.controller, executor=replace(world.controller.executor, rest=rest))
        with pytest.raises(StopRequestedError):
            world.controller.reach(wanted)
        assert world.driver.began == []
        progress = world.journal.progress()
        assert progress is not None
        assert progress.paused == "ada"
    world.journal.resume("ada", world.driver.clock.now())
    world.stop = lambda: False
    world.wake()
    to_night(world)


def test_only_what_is_in_progress_can_be_paused(world: World) -> None:
    for tell in (world.journal.pause, world.journal.resume):
        with pytest.raises(InputError, match="no transition is in progress"):
            tell("ada", 0.0)
    at_day(world)
    with pytest.raises(InputError, match="no transition is in progress"):
        world.journal.pause("ada", 0.0)
