"""Where the carrying out of a transition is: what has ended, what is under way, what may begin."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

from partita.control.next_step import next_step, restart
from partita.control.snapshot import key_of

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping

    from partita.control.next_step import Gpus
    from partita.control.retry import Backoff
    from partita.control.snapshot import Key
    from partita.drive.driver import ActionResult, DriveError
    from partita.transition.transition import Action, Transition


class Course:
    """The course of one transition. It decides and acts on nothing itself.

    Args:
        transition: what is carried out.
        backoff: how often a failed action is tried again.
        rng: for the jitter of waits.
    """

    def __init__(self, transition: Transition, backoff: Backoff, rng: random.Random) -> None:
        self._backoff = backoff
        self._rng = rng
        self._actions = {action.id: action for action in transition.actions}
        self._waits = {action.id: len(set(action.after)) for action in transition.actions}
        self._followers: dict[str, list[str]] = defaultdict(list)
        for action in transition.actions:
            for earlier in set(action.after):
                self._followers[earlier].append(action.id)
        self._free = {name: 0.0 for name, n in self._waits.items() if n == 0}  # -> when it may begin
        self._failures: dict[str, int] = defaultdict(int)
        self.under_way: dict[str, Action] = {}
        self._worked_on: dict[str, dict[str, Key]] = defaultdict(dict)  # GPU -> action's id -> instance
        self.done = 0

    @property
    def total(self) -> int:
        """Actions of the transition."""
        return len(self._actions)

    @property
    def over(self) -> bool:
        """Whether all has ended well."""
        return self.done == self.total

    def begin(self, cluster: Gpus, now: float) -> list[Action]:
        """Return what is to begin now, and count it as under way.

        What is found done already is counted as done, and what comes after it considered at once.
        """
        found = []
        pending = deque(name for name, at in self._free.items() if at <= now)
        while pending:
            name = pending.popleft()
            action = self._actions[name]
            before = restart(action, cluster) if self._failures[name] else None
            step = before or next_step(action, cluster)
            del self._free[name]
            if step is None:
                pending += self._end(name)
            else:
                self.under_way[name] = step
                self._worked_on[step.gpu][name] = key_of(step)
                found.append(step)
        return found

    def end(self, ended: ActionResult, now: float) -> DriveError | None:
        """Take note of how an action ended; return its error if it is not to be tried again."""
        name = ended.action.id.partition("/")[0]
        del self._worked_on[self.under_way.pop(name).gpu][name]
        if ended.error is None:
            if ended.action.id == name:
                self._end(name)
            else:
                self._free[name] = now  # what was in the way is gone
            return None
        self._failures[name] += 1
        if not ended.error.retry or self._failures[name] >= self._backoff.tries:
            return ended.error
        self._free[name] = now + self._backoff.delay(self._failures[name], self._rng)
        return None

    def failures(self, action: Action) -> int:
        """Return how often an action has failed."""
        return self._failures[action.id.partition("/")[0]]

    @property
    def next_try(self) -> float | None:
        """When the next of the actions that failed may begin again, None if none waits."""
        return min(self._free.values(), default=None)

    def worked_on(
        self, ended: tuple[ActionResult, ...], gpus: Collection[str]
    ) -> Mapping[Key, Action | None]:
        """Return the instances that are being worked on or just were: the action if it ended well, else None.

        Args:
            ended: actions that just have.
            gpus: whose instances are asked for.
        """
        done = {key_of(each.action): None if each.error else each.action for each in ended}
        under_way = (key for gpu in gpus if gpu in self._worked_on for key in self._worked_on[gpu].values())
        return {**done, **dict.fromkeys(under_way)}

    def _end(self, name: str) -> list[str]:
        self.done += 1
        freed = []
        for later in self._followers[name]:
            self._waits[later] -= 1
            if self._waits[later] == 0:
                self._free[later] = 0.0
                freed.append(later)
        return freed
