"""Carries out one transition: begins what may begin, side by side, and stops where someone else interferes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from partita.control.cluster_view import ClusterView
from partita.control.course import Course
from partita.control.snapshot import moved
from partita.drive.driver import GpuLostError
from partita.errors import PartitaError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from partita.control.journal import Journal
    from partita.control.retry import Backoff
    from partita.control.snapshot import Snapshot
    from partita.drive.driver import ActionResult, DriveError, Driver
    from partita.transition.transition import Action, Transition

_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that is not tried again, how often it was tried, and why it failed the last time."""

    action: Action
    tries: int
    error: DriveError


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transition ended. Nothing of it is under way any more.

    Attributes:
        complete: all of it was done.
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
        """Whether the cluster is another than the one that the transition was made for."""
        return bool(self.moved) or (self.failure is not None and isinstance(self.failure.error, GpuLostError))


class Reporter(Protocol):
    """Is told what happens; must be cheap and not raise."""

    def began(self, action: Action) -> None:
        """An action has begun."""
        ...

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """An action has ended; so many of all have ended well."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should know."""
        ...

    def observed(self, view: ClusterView) -> None:
        """The cluster has been looked at; the view goes on changing."""
        ...


@dataclass(frozen=True, slots=True)
class Hands:
    """What is needed to act.

    Attributes:
        stop: true once no further action is to begin.
        rng: for the jitter of waits.
        ahead: is told each transition before it begins, and None when a goal is reached or given up.
    """

    driver: Driver
    journal: Journal
    reporter: Reporter
    backoff: Backoff
    rng: random.Random
    stop: Callable[[], bool] = lambda: False
    ahead: Callable[[Transition | None], None] = lambda _: None


def carry_out(hands: Hands, transition: Transition, before: Snapshot) -> Outcome:
    """Carry out a transition that was made for the cluster as it was seen `before`.

    Each time anything has ended, what has changed on the cluster is observed, and compared with what was there, less
    our own doing: an action begins only on a cluster that nobody else has changed. Whatever happens, what is
    under way is waited for.

    Raises:
        JournalError: the journal cannot be written any more.
        DriveError: the cluster cannot be observed any more.
    """
    course = Course(transition, hands.backoff, hands.rng)
    try:
        return _Carrier(hands, course, before).run()
    except PartitaError:
        while hands.driver.wait():
            pass
        raise


class _Carrier:
    def __init__(self, hands: Hands, course: Course, before: Snapshot) -> None:
        self._hands = hands
        self._course = course
        self._view = ClusterView(hands.driver)
        self._shown: Snapshot | None = before
        self._moved: list[str] = []
        self._failure: Failure | None = None

    def run(self) -> Outcome:
        hands, course = self._hands, self._course
        ended: tuple[ActionResult, ...] = ()
        while True:
            self._observe(ended)
            if not self._halting:
                self._begin()
            elif not course.under_way:
                break
            if course.over:
                break
            ended = hands.driver.wait(self._until())
            for each in ended:
                self._end(each)
        return Outcome(
            course.over,
            course.done,
            tuple(self._moved),
            self._failure,
            stopped=not course.over and hands.stop(),
        )

    @property
    def _halting(self) -> bool:
        return bool(self._moved or self._failure or self._hands.stop())

    def _until(self) -> float | None:
        """Return until when to wait: for an action's end, or else not so long that a wish to stop is missed."""
        at = self._course.next_try
        return None if at is None or self._halting else min(at, self._hands.driver.clock.now() + _LOOK_S)

    def _observe(self, ended: tuple[ActionResult, ...]) -> None:
        hands = self._hands
        seen = self._view.look({each.action.gpu for each in ended})
        # The first look sees all GPUs, and is held against what the transition was made for.
        before, self._shown = self._shown or seen.before, None
        for text in moved(before, seen.now, self._course.worked_on(ended, seen.gpus)):
            self._moved.append(text)
            hands.journal.note(f"someone else's doing: {text}", hands.driver.clock.now())
            hands.reporter.note(f"someone else changed the cluster: {text}")
        hands.journal.record(ended, seen.now, hands.driver.clock.now(), seen.gpus)
        hands.reporter.observed(self._view)

    def _begin(self) -> None:
        hands = self._hands
        now = hands.driver.clock.now()
        steps = self._course.begin(self._view, now)
        if steps:
            hands.journal.intend(steps, now)
        for step in steps:
            hands.driver.begin(step)
            hands.reporter.began(step)

    def _end(self, ended: ActionResult) -> None:
        error = self._course.end(ended, self._hands.driver.clock.now())
        if error is not None and self._failure is None:
            self._failure = Failure(ended.action, self._course.failures(ended.action), error)
        self._hands.reporter.ended(ended, self._course.done, self._course.total)
