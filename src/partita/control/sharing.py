"""One cluster for services and jobs: jobs use what services leave free, and leave when a transition needs it.

The services' controller and the jobs' queue each drive the cluster as if it were theirs alone, through two views of
one driver in one thread: while the controller waits for its actions, the queue takes its steps.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

from partita.control.cluster_view import changes
from partita.drive.driver import Changes, Identity, Observation, ObservedGpu, ObservedInstance, PassingDriver
from partita.executor import ActionExecutor, Backoff
from partita.jobs.queue.record import AttemptVerdict, JobState
from partita.mig.catalogue import gpu_model
from partita.mig.layout import fault
from partita.transition.transition import MEASURED, Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from partita.drive.driver import ActionResult, Driver, ObservedGpu
    from partita.jobs.queue.service import QueueService
    from partita.mig.layout import Placement
    from partita.sim.clock import Clock
    from partita.transition.transition import Transition


Place = tuple[str, "Placement"]
"""A GPU's id and an instance there."""


class Tenant(Protocol):
    """Uses what services leave free."""

    def holds(self) -> Collection[Place]:
        """Return the instances that are its own: in use, idle, or being made or destroyed."""
        ...

    def reserve(self, wanted: Mapping[str, Collection[Placement]]) -> None:
        """Take note of the placements that services will want, by GPU; nothing may begin that would block them."""
        ...

    def vacate(self, places: Collection[Place]) -> None:
        """Free instances: what runs there checkpoints and is queued again, and they are destroyed.

        They are free when `holds` no longer names them. A repeated call is no error.
        """
        ...

    def step(self, now: float) -> float:
        """Do what is due; return the latest time of the next call."""
        ...


class SharedDriver:
    """The services' view of a cluster that they share with a tenant; it is a `Driver`.

    It hides the tenant's instances. Those that block the creation of an instance must go first: the action begins
    when there is room.

    Args:
        inner: drives the cluster.
    """

    def __init__(self, inner: Driver) -> None:
        self._inner = inner
        self._tenant: Tenant | None = None
        self._waiting: list[Action] = []
        self._under_way: set[str] = set()
        self._ended: list[ActionResult] = []
        self.tenants = TenantDriver(inner, self._poll)

    def share_with(self, tenant: Tenant) -> None:
        """Share the cluster with a tenant, which drives through `tenants`."""
        self._tenant = tenant

    @property
    def clock(self) -> Clock:
        """The clock of this cluster."""
        return self._inner.clock

    def observe(self) -> Observation:
        """Return the cluster as it is now, without the tenant's instances."""
        return without(self._inner.observe(), self._held())

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return what has changed, with the GPUs on which the tenant took or freed an instance."""
        held = frozenset(self._held())
        inner, was = mark if isinstance(mark, tuple) else (None, frozenset())
        seen = changes(self._inner, inner, {*touched, *(gpu for gpu, _ in held ^ was)})
        return Changes((seen.mark, held), without(Observation(seen.gpus), held).gpus, seen.gone)

    def expect(self, transition: Transition | None) -> None:
        """Take note of the next transition and ask what blocks it to leave at once; None for no transition."""
        if self._tenant is None:
            return
        wanted: dict[str, list[Placement]] = defaultdict(list)
        for gpu in transition.target.gpus if transition else ():
            wanted[gpu.id] += [each.placement for each in gpu.instances]
        for action in transition.actions if transition else ():
            if action.kind is ActionKind.CREATE_INSTANCE:
                wanted[action.gpu].append(action.placement)
        self._tenant.reserve(wanted)
        for action in transition.actions if transition else ():
            self._make_room(action)

    def begin(self, action: Action) -> None:
        """Begin an action, or ask for the room it needs and begin it once that is free."""
        self._under_way.add(action.id)
        if self._make_room(action):
            self._inner.begin(action)
        else:
            self._waiting.append(action)

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Return the actions that ended; the tenant takes its steps meanwhile."""
        while True:
            due = self._tenant.step(self.clock.now()) if self._tenant else math.inf
            for action in [each for each in self._waiting if self._make_room(each)]:
                self._waiting.remove(action)
                self._inner.begin(action)
            if self._ended:
                found, self._ended = tuple(self._ended), []
                return found
            last = math.inf if until is None else until
            if not self._under_way if until is None else self.clock.now() >= last:
                return ()
            moment = min(last, due)
            for each in self._inner.wait(moment if math.isfinite(moment) else None):
                self._dispatch(each)

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Make someone else's instance ours."""
        self._inner.adopt(gpu, placement)

    def _make_room(self, action: Action) -> bool:
        """Return whether the tenant leaves room for an action; if not, have it vacate what blocks it."""
        if self._tenant is None or action.kind is not ActionKind.CREATE_INSTANCE:
            return True
        held = [placement for gpu, placement in self._tenant.holds() if gpu == action.gpu]
        gpu = self._inner.observe().gpu(action.gpu) if held else None
        blocking = blocking_instances(gpu, action.placement, held) if gpu else ()
        if blocking:
            self._tenant.vacate([(action.gpu, each) for each in blocking])
        return not blocking

    def _held(self) -> Collection[Place]:
        return self._tenant.holds() if self._tenant else ()

    def _dispatch(self, ended: ActionResult) -> None:
        if ended.action.id in self._under_way:
            self._under_way.remove(ended.action.id)
            self._ended.append(ended)
        else:
            self.tenants.deliver(ended)

    def _poll(self) -> None:
        """Collect, without waiting, the actions that have ended."""
        for each in self._inner.wait(self.clock.now()):
            self._dispatch(each)


class TenantDriver(PassingDriver):
    """The tenant's view of the cluster, a `Driver`: it shows all of it, services included, and never blocks."""

    def __init__(self, inner: Driver, look: Callable[[], None]) -> None:
        super().__init__(inner)
        self._look = look
        self._ended: list[ActionResult] = []

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Return the actions that have ended; time passes only while the services' controller waits."""
        del until
        self._look()
        found, self._ended = tuple(self._ended), []
        return found

    def deliver(self, ended: ActionResult) -> None:
        """Take in an ended action that is not the services'."""
        self._ended.append(ended)


def without(observation: Observation, places: Collection[Place]) -> Observation:
    """Return what was observed without some instances."""
    hidden = set(places)
    return Observation(
        tuple(
            replace(
                gpu, instances=tuple(each for each in gpu.instances if (gpu.id, each.placement) not in hidden)
            )
            for gpu in observation.gpus
        )
    )


def blocking_instances(
    gpu: ObservedGpu, wanted: Placement, held: Collection[Placement]
) -> tuple[Placement, ...]:
    """Return the held instances that must go so that a wanted one fits: the fewest, small ones first.

    Held instances that do not exist yet count as if they did. The result is empty if the wanted one exists already,
    and all of them if it does not fit even without them: then the driver says what is wrong.
    """
    others = [each.placement for each in gpu.instances if each.placement not in held]
    if wanted in others:
        return ()
    model = gpu_model(gpu.model)
    mine = sorted(held, key=lambda each: model.profile(each.profile).memory)
    for size in range(len(mine) + 1):
        for going in combinations(mine, size):
            if fault(model, (*others, *(each for each in mine if each not in going), wanted)) is None:
                return going
    return tuple(mine)


def seen_by_tenant(gpu: ObservedGpu, own: Collection[Place], reserved: Collection[Placement]) -> ObservedGpu:
    """Return a GPU as a tenant may use it: all but its own instances belong to others, and so do reserved placements.

    Where a reserved placement overlaps an instance that has yet to go, the tenant sees an illegal layout and leaves
    the GPU alone: what it created there would soon have to go as well.
    """
    seen = [each if (gpu.id, each.placement) in own else replace(each, ours=False) for each in gpu.instances]
    standing = [each.placement for each in gpu.instances]
    seen += [
        ObservedInstance(wanted, _NOBODY, ours=False, busy=True)
        for wanted in reserved
        if wanted not in standing
    ]
    return replace(gpu, instances=tuple(seen))


_BACKOFF = Backoff(most=8.0)
_ANSWERED_S = 0.05
"""Most seconds for which a client of the queue waits for an answer."""
_NOBODY = Identity("", 0, 0, None)


class QueueTenant:
    """The queue's `Driver` and the services' `Tenant` at once.

    To the queue, all that it did not create itself is in use, and so is what services are about to want. An instance
    that it must leave is in use from then on: its job checkpoints and waits again, and the instance is destroyed.

    Args:
        driver: the tenant's view of the cluster.
    """

    def __init__(self, driver: TenantDriver) -> None:
        self._driver = driver
        self._step: Callable[[float], float] = lambda _: math.inf
        self._answer: Callable[[], None] | None = None
        self._service: QueueService | None = None
        self._own: set[Place] = set()
        self._making: set[Place] = set()
        self._leaving: set[Place] = set()
        self._destroying: ActionExecutor[Place] = ActionExecutor(driver, _BACKOFF, random.Random(0))
        self._reserved: Mapping[str, Collection[Placement]] = {}
        self._ended: list[ActionResult] = []

    def attach(
        self, service: QueueService, step: Callable[[float], float], answer: Callable[[], None] | None = None
    ) -> None:
        """Attach the queue that drives through this; instances that its jobs hold already are its own.

        Args:
            service: the queue.
            step: does what is due for the queue, and returns the latest time of the next call.
            answer: answers the queue's clients, without waiting.
        """
        self._service, self._step, self._answer = service, step, answer
        self._own |= self._used()

    # The queue's driver

    @property
    def clock(self) -> Clock:
        """The clock of this cluster."""
        return self._driver.clock

    def observe(self) -> Observation:
        """Return the cluster as the queue may use it."""
        found = self._driver.observe()
        standing = {(gpu.id, each.placement) for gpu in found.gpus for each in gpu.instances}
        self._own &= standing | self._making
        return Observation(tuple(self._gpu(gpu) for gpu in found.gpus))

    def begin(self, action: Action) -> None:
        """Begin an action of the queue."""
        if action.kind is ActionKind.CREATE_INSTANCE:
            self._own.add((action.gpu, action.placement))
            self._making.add((action.gpu, action.placement))
        self._driver.begin(action)

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Return the queue's actions that have ended; never blocks."""
        del until
        self._collect()
        found, self._ended = tuple(self._ended), []
        return found

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Make someone else's instance ours."""
        self._driver.adopt(gpu, placement)

    # The services' tenant

    def holds(self) -> Collection[Place]:
        """Return the instances that the queue made, or is about to make."""
        return self._own | self._used()

    def reserve(self, wanted: Mapping[str, Collection[Placement]]) -> None:
        """Take note of the placements that services will want."""
        self._reserved = wanted

    def vacate(self, places: Collection[Place]) -> None:
        """Have jobs checkpoint and wait again, and destroy their instances."""
        self._leaving.update(places)
        self._yield_jobs()

    def step(self, now: float) -> float:
        """Let the queue do what is due, and destroy the instances that it must leave."""
        self._collect()
        due = self._step(now)
        self._yield_jobs()
        due = min(due, self._destroy(now))
        if self._answer is None:
            return due
        self._answer()
        return min(due, now + _ANSWERED_S)

    def _yield_jobs(self) -> None:
        """Make the jobs on instances that must be left yield."""
        service = self._service
        jobs = service.table.active.values() if service is not None else ()
        going = [
            job
            for job in jobs
            if job.state is not JobState.WAITING and (job.attempt.gpu, job.attempt.placement) in self._leaving
        ]
        if service is not None and going:
            service.stop(going, AttemptVerdict.YIELDED, "services need its instance")

    def _destroy(self, now: float) -> float:
        """Destroy the instances to be left on which no job runs any more; return when to try again."""
        free = self._leaving - self._used() - self._making
        for place in free:
            if not self._destroying.has(place):
                self._destroying.add(place)
        for place in self._destroying.due(now):
            if place in free & self._own:
                name, seconds = f"leave-{place[0]}-{place[1]}", MEASURED.destroy_instance
                action = Action(name, ActionKind.DESTROY_INSTANCE, *place, None, (), seconds)
                self._destroying.begin(place, action)
                continue
            self._destroying.drop(place)
            if place in free:  # it is gone already
                self._leaving.discard(place)
        due = self._destroying.next_due
        return math.inf if due is None else due

    def _used(self) -> set[Place]:
        """Return the instances that jobs run on, or are about to."""
        jobs = self._service.table.active.values() if self._service is not None else ()
        return {(job.attempt.gpu, job.attempt.placement) for job in jobs if job.state is not JobState.WAITING}

    def _collect(self) -> None:
        ended = self._driver.wait()
        for each in ended:
            place = (each.action.gpu, each.action.placement)
            if each.action.kind is ActionKind.CREATE_INSTANCE:
                self._making.discard(place)
            elif each.error is None:
                self._own.discard(place)
        destroyed = self._destroying.take(ended)
        for result in destroyed:
            if result.action.error is None:
                self._destroying.drop(result.task)
                self._leaving.discard(result.task)
            elif result.failure is not None:
                # Services wait for the room, so destroying is tried until it succeeds.
                self._destroying.add(result.task, self.clock.now() + _BACKOFF.most)
        own = {result.action.action.id for result in destroyed}
        self._ended += [each for each in ended if each.action.id not in own]

    def _gpu(self, gpu: ObservedGpu) -> ObservedGpu:
        """Return a GPU in which all that the queue may not use belongs to others."""
        return seen_by_tenant(gpu, self._own - self._leaving, self._reserved.get(gpu.id, ()))
