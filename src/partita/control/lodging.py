"""The queue of jobs as a tenant of a cluster whose services come first."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.drive.driver import Identity, Observation, ObservedGpu, ObservedInstance
from partita.jobs.queue.record import AttemptVerdict, JobState
from partita.transition.transition import MEASURED, Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from partita.control.sharing import Place, TenantDriver
    from partita.drive.driver import ActionResult
    from partita.jobs.queue.service import QueueService
    from partita.mig.layout import Placement
    from partita.sim.clock import Clock

_AGAIN_S = 1.0
_ANSWERED_S = 0.05
"""Most seconds for which somebody who speaks to the queue is kept waiting."""
_LEAVE = "leave-"
_NOBODY = Identity("", 0, 0, None)


class Lodging:
    """Stands between a queue and the cluster: the queue's driver (the port's `Driver`), and the services' tenant.

    To the queue, all that it did not create itself is in use, and so is what services are about to want. What it has
    to leave is in use from then on; its jobs checkpoint and wait again, and the instance is destroyed.

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
        self._leaving: dict[Place, float] = {}  # not to be destroyed before; inf while that is under way
        self._reserved: Mapping[str, Collection[Placement]] = {}
        self._ended: list[ActionResult] = []

    def take_in(
        self, service: QueueService, step: Callable[[float], float], answer: Callable[[], None] | None = None
    ) -> None:
        """Take in the queue that drives through this; what its jobs hold already is its own.

        Args:
            service: the queue.
            step: does what is due for it, and returns when it wants to be called next.
            answer: answers whoever speaks to it, without waiting.
        """
        self._service, self._step, self._answer = service, step, answer
        self._own |= self._used()

    # The queue's driver

    @property
    def clock(self) -> Clock:
        """The clock that this cluster lives by."""
        return self._driver.clock

    def observe(self) -> Observation:
        """Return the cluster as the queue may use it."""
        found = self._driver.observe()
        standing = {(gpu.id, each.placement) for gpu in found.gpus for each in gpu.instances}
        self._own &= standing | self._making
        return Observation(tuple(self._gpu(gpu) for gpu in found.gpus))

    def begin(self, action: Action) -> None:
        """Start an action of the queue's."""
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
        """Learn which placements services will want."""
        self._reserved = wanted

    def vacate(self, places: Collection[Place]) -> None:
        """Have jobs checkpoint and wait again, and their instances destroyed."""
        for place in places:
            self._leaving.setdefault(place, -math.inf)
        self._ask()

    def step(self, now: float) -> float:
        """Let the queue do what is due, and destroy what is to be left."""
        self._collect()
        due = self._step(now)
        self._ask()
        due = min(due, self._leave(now))
        if self._answer is None:
            return due
        self._answer()
        return min(due, now + _ANSWERED_S)

    def _ask(self) -> None:
        service = self._service
        jobs = service.table.active.values() if service is not None else ()
        going = [
            job
            for job in jobs
            if job.state is not JobState.WAITING and (job.attempt.gpu, job.attempt.placement) in self._leaving
        ]
        if service is not None and going:
            service.stop(going, AttemptVerdict.YIELDED, "services need its instance")

    def _leave(self, now: float) -> float:
        """Destroy the instances to be left in which nothing runs any more; return when to try again."""
        used = self._used()
        for place, not_before in list(self._leaving.items()):
            if place in used or place in self._making or not_before > now:
                continue
            if place in self._own:
                self._leaving[place] = math.inf
                name = f"{_LEAVE}{place[0]}-{place[1]}"
                seconds = MEASURED.destroy_instance
                self._driver.begin(Action(name, ActionKind.DESTROY_INSTANCE, *place, None, (), seconds))
            else:
                del self._leaving[place]
        return min((moment for moment in self._leaving.values() if moment > now), default=math.inf)

    def _used(self) -> set[Place]:
        """Return the instances that jobs are in, or are about to be."""
        jobs = self._service.table.active.values() if self._service is not None else ()
        return {(job.attempt.gpu, job.attempt.placement) for job in jobs if job.state is not JobState.WAITING}

    def _collect(self) -> None:
        for ended in self._driver.wait():
            place = (ended.action.gpu, ended.action.placement)
            if ended.action.kind is ActionKind.CREATE_INSTANCE:
                self._making.discard(place)
            elif ended.error is None:
                self._own.discard(place)
            if ended.action.id.startswith(_LEAVE):
                self._left(place, ended)
            else:
                self._ended.append(ended)

    def _left(self, place: Place, ended: ActionResult) -> None:
        if ended.error is None:
            del self._leaving[place]
        else:
            self._leaving[place] = self.clock.now() + _AGAIN_S

    def _gpu(self, gpu: ObservedGpu) -> ObservedGpu:
        """Return a GPU with what the queue may not use marked as another's."""
        mine = self._own - self._leaving.keys()
        seen = [
            each if (gpu.id, each.placement) in mine else replace(each, ours=False) for each in gpu.instances
        ]
        standing = [each.placement for each in gpu.instances]
        # Where one does not fit beside what has yet to go, the queue finds a GPU that cannot be, and leaves it alone:
        # what else it made there would have to go as well, and so for ever.
        seen += [
            ObservedInstance(wanted, _NOBODY, ours=False, busy=True)
            for wanted in self._reserved.get(gpu.id, ())
            if wanted not in standing
        ]
        return replace(gpu, instances=tuple(seen))
