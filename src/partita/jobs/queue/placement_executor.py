"""Makes the instances of jobs: what is in the way goes, then theirs are created.

Jobs that are decided on together may need what another one's start destroys, so on each GPU nothing is created while
anything is still to be destroyed: what is destroyed was idle before, and is needed by none of them.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from partita.executor import ActionExecutor, Backoff
from partita.transition.transition import MEASURED, Action, ActionKind

if TYPE_CHECKING:
    from partita.drive.driver import DriveError, Driver
    from partita.jobs.queue.record import JobRecord
    from partita.mig.layout import Placement

_BACKOFF = Backoff(tries=5, first=0.5, jitter=0.0)


class PlacementExecutor:
    """Carries out what starts need on the cluster, without waiting for it.

    Args:
        driver: the cluster's. Nobody else may wait for its actions.
    """

    def __init__(self, driver: Driver) -> None:
        # A task is a job's number and one of its actions' ids: each action has tries of its own.
        self._executor: ActionExecutor[tuple[int, str]] = ActionExecutor(driver, _BACKOFF, random.Random(0))
        self._left: dict[int, list[Action]] = {}  # the first is under way, or waits
        self._made: dict[int, DriveError | None] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._left)

    @property
    def made(self) -> dict[int, DriveError | None]:
        """The jobs whose instances stand, or why they do not; the caller takes out what it has seen to."""
        return self._made

    def has(self, number: int) -> bool:
        """Say whether a job's instance is under way or made."""
        return number in self._left or number in self._made

    def make(self, job: JobRecord) -> None:
        """Have the instance of a job's newest attempt made; what is done already is not done again."""
        attempt = job.attempt
        wanted: list[tuple[ActionKind, Placement]] = [
            (ActionKind.DESTROY_INSTANCE, each) for each in attempt.destroy
        ]
        if attempt.create:
            wanted.append((ActionKind.CREATE_INSTANCE, attempt.placement))
        self._left[job.number] = [
            Action(
                f"job-{job.id}-{attempt.number}-{i}",
                kind,
                attempt.gpu,
                placement,
                None,
                (),
                MEASURED.of(kind),
            )
            for i, (kind, placement) in enumerate(wanted)
        ]
        self._go_on(job.number)

    def poll(self, now: float) -> None:
        """Take notice of what has ended, and begin what may begin.

        Raises:
            DriveError: the cluster cannot be reached.
        """
        if not self._left:
            return
        for ended in self._executor.wait(now):
            number, _ = ended.task
            if ended.failure is not None:
                del self._left[number]
                self._made[number] = ended.failure
            elif ended.action.error is None:
                self._executor.drop(ended.task)
                self._left[number].pop(0)
                self._go_on(number)
        firsts = [actions[0] for actions in self._left.values()]
        destroying = {action.gpu for action in firsts if action.kind is ActionKind.DESTROY_INSTANCE}
        for task in self._executor.due(now):
            action = self._left[task[0]][0]
            if action.kind is ActionKind.DESTROY_INSTANCE or action.gpu not in destroying:
                self._executor.begin(task, action)

    def _go_on(self, number: int) -> None:
        """Have a job's next action wait; if none is left, its instance stands."""
        if actions := self._left[number]:
            self._executor.add((number, actions[0].id))
        else:
            del self._left[number]
            self._made[number] = None
