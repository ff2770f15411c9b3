"""Executes one transition: begins actions side by side as their predecessors end, and stops if someone interferes."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from partita.control.cluster_view import (
    ClusterView,
    Snapshot,
    key_of,
    moved,
    serving,
)
from partita.drive.driver import GpuLostError
from partita.errors import PartitaError
from partita.executor import ActionExecutor
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from partita.control.cluster_view import Key
    from partita.control.journal import TransitionJournal
    from partita.drive.driver import ActionResult, DriveError, Driver, ObservedInstance
    from partita.executor import Backoff, TaskResult
    from partita.transition.transition import Action, Transition

_REST_S = 0.1
_LOOK_S = 1.0
"""Most seconds until a request to stop is noticed while only a failed action's next try is awaited."""


@dataclass(frozen=True, slots=True)
class TransitionExecutor:
    """Executes transitions.

    Attributes:
        stop: returns true once no further action is to begin.
        rng: for the jitter of waits.
        ahead: called with each transition before it begins, and with None when a goal is reached or given up.
        rest: called once a second of a pause, of real time: on a simulated clock waiting takes none.
    """

    driver: Driver
    journal: TransitionJournal
    reporter: Reporter
    backoff: Backoff
    rng: random.Random
    stop: Callable[[], bool] = lambda: False
    ahead: Callable[[Transition | None], None] = lambda _: None
    rest: Callable[[], None] = lambda: time.sleep(_REST_S)

    def execute(self, transition: Transition, before: Snapshot) -> Outcome:
        """Execute a transition that was made for the cluster as it was in `before`.

        Each time an action has ended, the cluster's changes are observed and compared with our own: an action begins
        only while nobody else has changed the cluster. Whatever happens, it waits for the actions in progress.

        Raises:
            JournalError: the journal cannot be written any more.
            DriveError: the cluster cannot be observed any more.
        """
        try:
            return _Execution(self, transition, before).run()
        except PartitaError:
            while self.driver.wait():
                pass
            raise


class Reporter(Protocol):
    """Receives what happens; its methods must be cheap and not raise."""

    def began(self, action: Action) -> None:
        """An action has begun."""
        ...

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """An action has ended; `done` of `total` have ended well."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should know."""
        ...

    def observed(self, view: ClusterView) -> None:
        """The cluster has been observed; the view goes on changing."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that is not tried again, how often it was tried, and why it failed the last time."""

    action: Action
    tries: int
    error: DriveError


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transition ended. None of its actions is in progress.

    Attributes:
        complete: all actions ended well.
        done: actions that ended well.
        moved: what someone else changed meanwhile, in words.
        failure: the action that failed for good, if one did.
        stopped: it was asked to stop.
    """

    complete: bool
    done: int
    moved: tuple[str, ...] = ()
    failure: Failure | None = None
    stopped: bool = False

    @property
    def replan(self) -> bool:
        """Whether the cluster is no longer the one that the transition was made for."""
        return bool(self.moved) or (self.failure is not None and isinstance(self.failure.error, GpuLostError))


class _Execution:
    """A transition in progress. A task of its executor is the id of one of the transition's actions."""

    def __init__(self, setup: TransitionExecutor, transition: Transition, before: Snapshot) -> None:
        self._setup = setup
        self._executor: ActionExecutor[str] = ActionExecutor(setup.driver, setup.backoff, setup.rng)
        self._actions = {action.id: action for action in transition.actions}
        self._earlier = {action.id: len(set(action.after)) for action in transition.actions}  # not done yet
        self._followers: dict[str, list[str]] = defaultdict(list)
        for action in transition.actions:
            for earlier in set(action.after):
                self._followers[earlier].append(action.id)
            if not action.after:
                self._executor.add(action.id)
        self._worked_on: dict[str, dict[str, Key]] = defaultdict(dict)  # GPU -> task -> instance
        self._done = 0
        self._view = ClusterView(setup.driver)
        self._shown: Snapshot | None = before
        self._moved: list[str] = []
        self._failure: Failure | None = None
        self._paused = False

    def run(self) -> Outcome:
        ended: list[TaskResult[str]] = []
        while True:
            self._observe(tuple(each.action for each in ended))
            if not self._halting:
                if not self._on_hold():
                    self._begin()
            elif not self._executor.under_way:
                break
            if self._complete:
                break
            if self._paused and not self._executor.under_way:
                self._setup.rest()
            ended = self._executor.wait(self._until())
            for each in ended:
                self._end(each)
        return Outcome(
            self._complete,
            self._done,
            tuple(self._moved),
            self._failure,
            stopped=not self._complete and self._setup.stop(),
        )

    @property
    def _complete(self) -> bool:
        return self._done == len(self._actions)

    @property
    def _halting(self) -> bool:
        return bool(self._moved or self._failure or self._setup.stop())

    def _on_hold(self) -> bool:
        """Return whether a person has paused the transition: what is in progress ends, and nothing begins."""
        by, reporter = self._setup.journal.paused(), self._setup.reporter
        if (by is not None) is not self._paused:
            reporter.note("going on" if by is None else f"paused by {by}: `partita resume` goes on")
        self._paused = by is not None
        return self._paused

    def _until(self) -> float | None:
        """Return until when to wait: None for an action's end, else soon enough to notice what people ask for."""
        at = self._executor.next_due
        if self._paused and not self._halting:
            return self._setup.driver.clock.now() + _LOOK_S
        return None if at is None or self._halting else min(at, self._setup.driver.clock.now() + _LOOK_S)

    def _observe(self, ended: tuple[ActionResult, ...]) -> None:
        setup = self._setup
        seen = self._view.look({each.action.gpu for each in ended})
        # The first look sees all GPUs; it is compared with what the transition was made for.
        before, self._shown = self._shown or seen.before, None
        ours: dict[Key, Action | None] = {
            key_of(each.action): None if each.error else each.action for each in ended
        }
        for gpu in seen.gpus:
            ours.update(dict.fromkeys(self._worked_on.get(gpu, {}).values()))
        for text in moved(before, seen.now, ours):
            self._moved.append(text)
            setup.journal.note(f"someone else changed: {text}", setup.driver.clock.now())
            setup.reporter.note(f"someone else changed the cluster: {text}")
        setup.journal.record(ended, seen.now, setup.driver.clock.now(), seen.gpus)
        setup.reporter.observed(self._view)

    def _begin(self) -> None:
        """Begin what may begin. What is found done already counts as done; its followers are considered at once."""
        setup = self._setup
        now = setup.driver.clock.now()
        steps: list[tuple[str, Action]] = []
        pending = deque(self._executor.due(now))
        while pending:
            name = pending.popleft()
            action = self._actions[name]
            before = restart(action, self._view) if self._executor.failures(name) else None
            step = before or next_step(action, self._view)
            if step is None:
                pending += self._succeed(name)
            else:
                steps.append((name, step))
        if steps:
            setup.journal.intend([step for _, step in steps], now)
        for name, step in steps:
            self._worked_on[step.gpu][name] = key_of(step)
            self._executor.begin(name, step)
            setup.reporter.began(step)

    def _end(self, ended: TaskResult[str]) -> None:
        name, action = ended.task, ended.action.action
        del self._worked_on[action.gpu][name]
        if ended.failure is not None:
            self._failure = self._failure or Failure(action, ended.tries, ended.failure)
        elif ended.action.error is None and action.id == name:
            self._succeed(name)
        elif ended.action.error is None:
            self._executor.add(name)  # what had to come before it is done
        self._setup.reporter.ended(ended.action, self._done, len(self._actions))

    def _succeed(self, name: str) -> list[str]:
        """Count an action as done; return those that may begin now, which wait from here on."""
        self._executor.drop(name)
        self._done += 1
        freed = []
        for later in self._followers[name]:
            self._earlier[later] -= 1
            if self._earlier[later] == 0:
                self._executor.add(later)
                freed.append(later)
        return freed


def next_step(action: Action, cluster: ClusterView) -> Action | None:
    """Return the action itself, another one that must come before it, or None if its effect is there already.

    What a killed controller or a failed try left is removed first: a replica that is not ready or drains is stopped,
    an instance without its compute instance is completed. Neither counts towards a service's capacity, so no floor
    depends on it.
    """
    found = _found(action, cluster)
    match action.kind:
        case ActionKind.CREATE_INSTANCE:
            return None if found is not None and found.ours and found.complete else action
        case ActionKind.DESTROY_INSTANCE:
            return None if found is None else _clear(action, found) or action
        case ActionKind.STOP_REPLICA:
            return None if found is None or found.replica is None else action
        case ActionKind.START_REPLICA:
            return _start(action, found)


def _start(action: Action, found: ObservedInstance | None) -> Action | None:
    if found is None:
        return action  # the driver says what is wrong
    if not found.complete:
        return _before(action, ActionKind.CREATE_INSTANCE)
    if found.replica is None:
        return action
    if serving(found) == action.replica:
        return None
    if found.replica.replica == action.replica and not found.replica.draining:
        return action  # it goes on becoming ready
    return _clear(action, found)


def restart(action: Action, cluster: ClusterView) -> Action | None:
    """Return what must come before a failed action is tried again, None if nothing.

    A replica that was not ready in time is stopped: waiting for it again would not be a new try.
    """
    found = _found(action, cluster)
    if action.kind is ActionKind.START_REPLICA and found is not None and serving(found) != action.replica:
        return _clear(action, found)
    return None


def _clear(action: Action, found: ObservedInstance) -> Action | None:
    """Return the stop of the replica that has to go first."""
    if found.replica is None or not found.ours:
        return None
    return replace(_before(action, ActionKind.STOP_REPLICA), replica=found.replica.replica)


def _before(action: Action, kind: ActionKind) -> Action:
    return replace(action, id=f"{action.id}/{kind.value}", kind=kind, replica=None, after=())


def _found(action: Action, cluster: ClusterView) -> ObservedInstance | None:
    gpu = cluster.gpu(action.gpu)
    return next((each for each in gpu.instances if each.placement == action.placement), None) if gpu else None
