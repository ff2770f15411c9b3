"""Runs a driver's actions: begins them, collects their results, and retries failures that may pass.

It has no policy. The caller decides which actions are tasks, their order, and what must precede a retry (a replica
that was not ready in time must stop first). An action whose outcome is unknown is retried, as actions are idempotent.
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
        tries: most tries of an action.
        first: seconds before the second try.
        factor: ratio of each wait to the one before.
        most: longest wait, in seconds.
        jitter: random share of a wait, so that failures with one cause are not retried at the same time.
    """

    tries: int = 5
    first: float = 1.0
    factor: float = 2.0
    most: float = 60.0
    jitter: float = 0.5

    def delay(self, failures: int, rng: random.Random) -> float:
        """Return the seconds to wait after `failures` failures (at least 1)."""
        full = min(self.most, self.first * self.factor ** (failures - 1))
        return full * (1 - self.jitter * rng.random())


@dataclass(frozen=True, slots=True)
class TaskResult(Generic[Task]):
    """The result of a task's action.

    Attributes:
        task: the task.
        action: the result from the driver.
        tries: failures of the task so far.
        failure: the error, if the task has failed for good; None if its action succeeded or is retried.
    """

    task: Task
    action: ActionResult
    tries: int
    failure: DriveError | None


class ActionExecutor(Generic[Task]):
    """Tasks that wait or whose actions are running. Any hashable value can be a task.

    A task waits from `add` to `begin`, then runs until `wait` returns it, and waits again if it is retried. After a
    success the caller either adds it again, with its failures still counted, or drops it.

    Args:
        driver: of the cluster. Results of actions that were not begun here are ignored.
        backoff: of retries.
        rng: for jitter.
    """

    def __init__(self, driver: Driver, backoff: Backoff, rng: random.Random) -> None:
        self._driver = driver
        self._backoff = backoff
        self._rng = rng
        self._waiting: dict[Task, float] = {}  # earliest time to begin
        self._under_way: dict[str, Task] = {}  # by its action's id
        self._failures: dict[Task, int] = {}

    @property
    def under_way(self) -> bool:
        """Whether an action is running."""
        return bool(self._under_way)

    @property
    def next_due(self) -> float | None:
        """When the next waiting task may begin; None if none waits."""
        return min(self._waiting.values(), default=None)

    def add(self, task: Task, not_before: float = 0.0) -> None:
        """Add a waiting task, which may begin at `not_before`."""
        self._waiting[task] = not_before

    def has(self, task: Task) -> bool:
        """Return whether a task waits or its action is running."""
        return task in self._waiting or task in self._under_way.values()

    def due(self, now: float) -> list[Task]:
        """Return the waiting tasks that may begin."""
        return [task for task, at in self._waiting.items() if at <= now]

    def failures(self, task: Task) -> int:
        """Return how often a task has failed."""
        return self._failures.get(task, 0)

    def begin(self, task: Task, action: Action) -> None:
        """Begin an action for a waiting task."""
        del self._waiting[task]
        self._under_way[action.id] = task
        self._driver.begin(action)

    def drop(self, task: Task) -> None:
        """Forget a task; none of its actions may be running."""
        self._waiting.pop(task, None)
        self._failures.pop(task, None)

    def wait(self, until: float | None) -> list[TaskResult[Task]]:
        """Wait as `Driver.wait` does, and return the results.

        Raises:
            DriveError: the cluster cannot be reached.
        """
        return self.take(self._driver.wait(until))

    def take(self, ended: Iterable[ActionResult]) -> list[TaskResult[Task]]:
        """Return the results of the actions that were begun here; for callers of `Driver.wait`."""
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
