"""Makes the instances of jobs: what is in the way goes, then theirs are created.

Jobs that are decided on together may need what another one's start destroys, so on each GPU nothing is created while
anything is still to be destroyed: what is destroyed was idle before, and is needed by none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.transition.transition import MEASURED, Action, ActionKind

if TYPE_CHECKING:
    from partita.drive.driver import ActionResult, DriveError, Driver
    from partita.jobs.queue.record import JobRecord
    from partita.mig.layout import Placement

MOST_TRIES = 5
"""Times that an action is tried of which the driver says that trying again can help."""


@dataclass(slots=True)
class _Making:
    """An instance under way: the actions to come, the first of which is under way or waits for `not_before`."""

    gpu: str
    actions: list[Action]
    tries: int = 0
    begun: bool = False
    not_before: float = 0.0

    @property
    def destroys(self) -> bool:
        """Whether something is still to be destroyed."""
        return bool(self.actions) and self.actions[0].kind is ActionKind.DESTROY_INSTANCE


class Hands:
    """Carries out what starts need on the cluster, without waiting for it.

    Args:
        driver: the cluster's. Nobody else may wait for its actions.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._making: dict[int, _Making] = {}
        self._made: dict[int, DriveError | None] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._making)

    @property
    def made(self) -> dict[int, DriveError | None]:
        """The jobs whose instances stand, or why they do not; the caller takes out what it has seen to."""
        return self._made

    def has(self, number: int) -> bool:
        """Say whether a job's instance is under way or made."""
        return number in self._making or number in self._made

    def make(self, job: JobRecord) -> None:
        """Have the instance of a job's newest attempt made; what is done already is not done again."""
        attempt = job.attempt
        wanted: list[tuple[ActionKind, Placement]] = [
            (ActionKind.DESTROY_INSTANCE, each) for each in attempt.destroy
        ]
        if attempt.create:
            wanted.append((ActionKind.CREATE_INSTANCE, attempt.placement))
        actions = [
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
        self._making[job.number] = _Making(attempt.gpu, actions)

    def poll(self, now: float) -> None:
        """Take notice of what has ended, and go on.

        Raises:
            DriveError: the cluster cannot be reached.
        """
        if not self._making:
            return
        for ended in self._driver.wait(until=now):
            for number, making in list(self._making.items()):
                if making.begun and making.actions[0].id == ended.action.id:
                    self._ended(number, making, ended, now)
        destroying = {making.gpu for making in self._making.values() if making.destroys}
        for number, making in list(self._making.items()):
            if not making.actions:
                del self._making[number]
                self._made[number] = None
                continue
            first = making.destroys or making.gpu not in destroying
            if first and not making.begun and making.not_before <= now:
                making.begun = True
                self._driver.begin(making.actions[0])

    def _ended(self, number: int, making: _Making, ended: ActionResult, now: float) -> None:
        making.begun = False
        if ended.error is None:
            making.actions.pop(0)
            making.tries = 0
            return
        making.tries += 1
        if ended.error.retry and making.tries < MOST_TRIES:
            making.not_before = now + 2.0 ** (making.tries - 2)
            return
        del self._making[number]
        self._made[number] = ended.error
