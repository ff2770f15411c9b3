"""Services and a tenant on one cluster: the tenant goes where a transition wants room, and no floor is broken."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from tests.control.world import CLUSTER, MODEL, Told, Watching, deployment, goal, gpu

from partita.control.controller import Controller
from partita.control.executor import TransitionExecutor
from partita.control.journal import FILE, Journal
from partita.control.sharing import Place, SharedDriver, TenantDriver, blocking_instances
from partita.drive.driver import Identity, ObservedGpu, ObservedInstance
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.executor import Backoff
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault, maximal_layouts
from partita.sim.clock import SimulatedClock
from partita.transition.shortest import Shortest
from partita.transition.transition import MEASURED, Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

GRACE = 30.0
DAY = deployment("4g.20gb@0=bert", "4g.20gb@0=resnet")
NIGHT = deployment("4g.20gb@0=bert 3g.20gb@4=resnet")


class Squatter:
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
    """Two GPUs shared by a controller of services and a squatter."""

    def __init__(self, folder: Path, places: Collection[Place]) -> None:
        SimulatedCluster.create(folder / CLUSTER, [(gpu(i), MODEL) for i in range(2)], seed=7).close()
        self.inner = SimulatedDriver(folder / CLUSTER, SimulatedClock(), jitter=0.0)
        self.shared = SharedDriver(self.inner)
        self.tenant = Squatter(self.shared.tenants, places)
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
