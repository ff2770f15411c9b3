"""Any sequence of goals, failures, kills and other people's doing: floors kept, and the goal reached in the end."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.control.world import Watching, World, contents, deployment, gpu

from partita.control.controller import StoppedError, standing_rates
from partita.control.goal import Goal, fingerprint
from partita.drive.driver import DriveError
from partita.drive.simulated import FaultKind, InjectedFault
from partita.errors import InfeasibleError
from partita.mig.layout import Placement
from partita.transition.transition import ActionKind

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
