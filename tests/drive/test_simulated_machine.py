"""The simulated cluster against a model of it: any actions in any order, with kills in between."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.drive.world import GPU, OTHER, World

from partita.drive.simulated import FaultKind, InjectedFault, SimulatedCluster, SimulatedDriver
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.sim.clock import SimulatedClock
from partita.transition.transition import Action, Kind

if TYPE_CHECKING:
    from partita.drive.driver import ObservedGpu, ObservedInstance

MODEL = gpu_model("a100-40gb")
GPUS = st.sampled_from([GPU, OTHER])
# Few places, so that actions meet on them.
PLACES = st.sampled_from(["3g.20gb@4", "1g.5gb@4", "2g.10gb@0", "7g.40gb@0"])


KINDS_IN_ORDER = (Kind.CREATE_INSTANCE, Kind.START_REPLICA, Kind.STOP_REPLICA, Kind.DESTROY_INSTANCE)
KINDS = st.sampled_from(KINDS_IN_ORDER)


class ClusterMachine(RuleBasedStateMachine):
    """Begins, waits, kills and meddles; holds what it sees to the rules of MIG and to what it did."""

    @initialize(seed=st.integers(0, 9))
    def make(self, seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "cluster.sqlite3"
        self.cluster = SimulatedCluster.create(self.path, [(GPU, MODEL.name), (OTHER, MODEL.name)], seed=seed)
        self.world = World(SimulatedDriver(self.path, SimulatedClock()))
        self.mark: object | None = None
        self.known: dict[str, ObservedGpu] = {}
        self.begun: list[Action] = []
        self.places: dict[str, tuple[str, Placement]] = {}
        self.now = 0.0

    @rule(kinds=st.lists(KINDS, min_size=1, max_size=3), at=PLACES, gpu=GPUS)
    def begin(self, kinds: list[Kind], at: str, gpu: str) -> None:
        for kind in kinds:
            action = self.world.action(kind, at, gpu)
            self.world.driver.begin(action)
            self.begun.append(action)

    @rule(upto=st.integers(1, 4), at=PLACES, gpu=GPUS)
    def live(self, upto: int, at: str, gpu: str) -> None:
        for kind in KINDS_IN_ORDER[:upto]:
            self.begin([kind], at, gpu)
            while self.begun:
                self.wait()

    @rule(mishap=st.sampled_from([*[None] * 5, *FaultKind]), kind=KINDS)
    def trouble(self, mishap: FaultKind | None, kind: Kind) -> None:
        if mishap is not None:
            self.cluster.inject(InjectedFault(mishap, kind))

    @rule(gpu=GPUS)
    def restore(self, gpu: str) -> None:
        self.cluster.restore(gpu)

    @rule()
    def wait(self) -> None:
        for ended in self.world.driver.wait():
            self.begun.remove(ended.action)
            if ended.error is None:
                self.holds(ended.action)

    @rule(seconds=st.floats(0, 100))
    def let_time_pass(self, seconds: float) -> None:
        for ended in self.world.driver.wait(until=self.world.driver.clock.now() + seconds):
            self.begun.remove(ended.action)

    @rule()
    def kill(self) -> None:
        self.world.driver.close()  # type: ignore[attr-defined]
        self.world = World(SimulatedDriver(self.path, SimulatedClock()), ids=self.world.ids)
        self.begun = []

    def holds(self, action: Action) -> None:
        """Whoever saw an action end finds its effect, unless another that ended since undid it."""
        at = [each for each in self.world.instances(action.gpu) if each.placement == action.placement]
        meddled = [a for a in self.begun if (a.gpu, a.placement) == (action.gpu, action.placement)]
        if not meddled and not self.world.seen(action.gpu).lost:
            assert effect(action, at[0] if at else None)

    @invariant()
    def layouts_are_legal(self) -> None:
        for gpu in self.world.driver.observe().gpus:
            assert fault(MODEL, [each.placement for each in gpu.instances]) is None
            assert len({each.identity.gi_id for each in gpu.instances}) == len(gpu.instances)
            assert all(each.complete for each in gpu.instances if each.replica)
            assert not (gpu.lost and gpu.instances)

    @invariant()
    def what_changed_put_onto_what_was_is_what_there_is(self) -> None:
        changes = self.world.driver.observe_changes(self.mark, ())  # type: ignore[attr-defined]
        self.mark = changes.mark
        self.known.update((gpu.id, gpu) for gpu in changes.gpus)
        assert tuple(self.known.values()) == self.world.driver.observe().gpus

    @invariant()
    def a_mig_uuid_never_comes_back(self) -> None:
        for gpu in self.world.driver.observe().gpus:
            for each in gpu.instances:
                if each.identity.mig_uuid is not None:
                    place = (gpu.id, each.placement)
                    assert self.places.setdefault(each.identity.mig_uuid, place) == place

    @invariant()
    def time_never_goes_back(self) -> None:
        assert self.world.driver.clock.now() >= self.now
        self.now = self.world.driver.clock.now()

    def teardown(self) -> None:
        self.world.driver.close()  # type: ignore[attr-defined]
        self.cluster.close()
        self.folder.cleanup()


def effect(action: Action, found: ObservedInstance | None) -> bool:
    match action.kind:
        case Kind.CREATE_INSTANCE:
            return found is not None and found.complete
        case Kind.DESTROY_INSTANCE:
            return found is None
        case Kind.START_REPLICA:
            return found is not None and found.replica is not None and found.replica.ready
        case Kind.STOP_REPLICA:
            return found is None or found.replica is None


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
