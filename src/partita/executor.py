"""Carries out a driver's actions: begins them, learns how they ended, and tries again what may succeed later.

It knows no policy. Which actions are tasks, in what order they come, and what must precede another try (a replica
that was not ready in time must stop first) is the caller's to decide. An action whose outcome is unknown is simply
tried again: actions are idempotent by their effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from partita.drive.driver import ActionResult, DriveError, Driver
    from partita.transition.transition import Action

Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Bounded retries with exponential back-off and jitter.

    Attributes:
        tries: how often an action is tried at most.
        first: seconds before the second try.
        factor: by how much each wait is longer than the one before.
        most: longest wait in seconds.
        jitter: share of a wait that is left to chance, so that failures of one cause do not come back as one.
    """

    tries: int = 5
    first: float = 1.0
    factor: float = 2.0
    most: float = 60.0
    jitter: float = 0.5

    def delay(self, failures: int, rng: random.Random) -> float:
        """Return the seconds to wait after so many failures (1 or more)."""
        full = min(self.most, self.first * self.factor ** (failures - 1))
        return full * (1 - self.jitter * rng.random())


@dataclass(frozen=True, slots=True)
class TaskResult(Generic[Task]):
    """How the action of a task ended.

    Attributes:
        tries: how often the task has failed.
        failure: why it failed for good; None if the action succeeded, or is tried again.
    """

    task: Task
    action: ActionResult
    tries: int
    failure: DriveError | None


class ActionExecutor(Generic[Task]):
    """Tasks that wait or whose actions are under way. A task is whatever the caller knows it by.

    A task waits from `add` until `begin`, is under way until `wait` returns it, and waits again if it is to be tried
    again. After a success the caller adds it once more, with its failures still counted, or drops it.

    Args:
        driver: the cluster's. Results of actions that were not begun here are passed over.
        rng: for the jitter of waits.
    """

    def __init__(self, driver: Driver, backoff: Backoff, rng: random.Random) -> None:
        self._driver = driver
        self._backoff = backoff
        self._rng = rng
        self._waiting: dict[Task, float] = {}  # -> when it may begin
        self._under_way: dict[str, Task] = {}  # by its action's id
        self._failures: dict[Task, int] = {}

    @property
    def under_way(self) -> bool:
        """Whether an action is under way."""
        return bool(self._under_way)

    @property
    def next_due(self) -> float | None:
        """When the next of the waiting tasks may begin, None if none waits."""
        return min(self._waiting.values(), default=None)

    def add(self, task: Task, not_before: float = 0.0) -> None:
        """Have a task wait that may begin at that time, or else at once."""
        self._waiting[task] = not_before

    def has(self, task: Task) -> bool:
        """Say whether a task waits or its action is under way."""
        return task in self._waiting or task in self._under_way.values()

    def due(self, now: float) -> list[Task]:
        """Return the waiting tasks that may begin."""
        return [task for task, at in self._waiting.items() if at <= now]

    def failures(self, task: Task) -> int:
        """Return how often a task has failed so far."""
        return self._failures.get(task, 0)

    def begin(self, task: Task, action: Action) -> None:
        """Begin an action for a waiting task."""
        del self._waiting[task]
        self._under_way[action.id] = task
        self._driver.begin(action)

    def drop(self, task: Task) -> None:
        """Forget a task that is done; none of its actions may be under way."""
        self._waiting.pop(task, None)
        self._failures.pop(task, None)

    def wait(self, until: float | None) -> list[TaskResult[Task]]:
        """Return how actions ended, as `Driver.wait` does.

        Raises:
            DriveError: the cluster cannot be reached.
        """
        return self.take(self._driver.wait(until))

    def take(self, ended: Iterable[ActionResult]) -> list[TaskResult[Task]]:
        """Return how the actions that were begun here ended, for those who wait for the driver themselves."""
        return [self._end(each) for each in ended if each.action.id in self._under_way]

    def _end(self, ended: ActionResult) -> TaskResult[Task]:
        task = self._under_way.pop(ended.action.id)
        if ended.error is None:
            return TaskResult(task, ended, self.failures(task), None)
        tries = self._failures[task] = self.failures(task) + 1
        if not ended.error.retry or tries >= self._backoff.tries:
            self.drop(task)
            return TaskResult(task, ended, tries, ended.error)
        self._waiting[task] = self._driver.clock.now() + self._backoff.delay(tries, self._rng)
        return TaskResult(task, ended, tries, None)
