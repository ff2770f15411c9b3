"""Brings a cluster to a goal: observe, make a transition, execute it, and repeat until nothing is left to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.control.cluster_view import deployed, moved, snapshot
from partita.control.journal import JournalError, State
from partita.drive.driver import DriveError
from partita.errors import SHOWN, PartitaError, counted
from partita.registry import maker_of
from partita.transition.check import check_transition
from partita.transition.deployment import restated
from partita.transition.transition import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.control.cluster_view import Snapshot
    from partita.control.executor import Outcome, TransitionExecutor
    from partita.control.goal import Goal
    from partita.drive.driver import Observation
    from partita.transition.deployment import Deployment
    from partita.transition.transition import Durations, Transition, Transitioner


@dataclass(frozen=True, slots=True)
class Reached:
    """What it took to reach a goal: seconds on the cluster's clock, actions, and transitions after the first."""

    seconds: float
    actions: int
    replans: int


@dataclass(frozen=True, slots=True)
class Controller:
    """The loop.

    Attributes:
        durations: how long actions are predicted to take.
        most_replans: how many more transitions are asked for because someone else changed the cluster.
    """

    executor: TransitionExecutor
    transitioner: Transitioner
    durations: Durations
    command: str
    most_replans: int = 10

    def preview(self, goal: Goal, observation: Observation) -> Transition:
        """Return the transition from what is observed to a goal, without executing anything.

        Raises:
            InfeasibleError: there are too few GPUs, or too few extra ones are allowed.
            PartitaError: the checker finds a fault in the algorithm's transition.
        """
        return ordered(self.transitioner, request(goal, deployed(observation), self.durations))

    def wake(self, observation: Observation) -> None:
        """Report and record what has changed since the last controller's last observation."""
        executor = self.executor
        now = executor.driver.clock.now()
        before = executor.journal.seen()
        killed = executor.journal.recover(now)
        if killed:
            executor.reporter.note(
                f"the last controller was killed with {counted(len(killed), 'action')} in progress; going on"
            )
        found = snapshot(observation)
        for text in moved(before, found, killed) if before else []:
            executor.journal.note(f"someone else changed: {text}", now)
            executor.reporter.note(f"since the last observation: {text}")
        executor.journal.record((), found, now)

    def reach(self, goal: Goal, shown: tuple[Request, Transition] | None = None) -> Reached:
        """Bring the cluster to a goal.

        Args:
            goal: what is to run.
            shown: a request and its transition made before; it is executed if the request is still the same.

        Raises:
            InfeasibleError: there are too few GPUs, or too few extra ones are allowed.
            StoppedError: an action failed for good, or the cluster does not stop changing.
            StopRequestedError: asked to stop.
        """
        clock = self.executor.driver.clock
        began, actions, replans = clock.now(), 0, 0
        transition, before = self._look(goal, shown)
        self.executor.journal.begin_goal(goal, self.command, clock.now())
        try:
            while transition.actions:
                goal = goal.onto(transition.target)
                self.executor.journal.begin_round(goal, transition, clock.now())
                self.executor.ahead(transition)
                outcome = self.executor.execute(transition, before)
                actions += outcome.done
                if not outcome.complete:
                    self._require_going_on(outcome, replans)
                    replans += 1
                transition, before = self._look(goal)
        except PartitaError as error:
            self._stopped(goal, error)
            raise
        finally:
            self.executor.ahead(None)
        self.executor.journal.end_goal(State.REACHED, clock.now())
        return Reached(clock.now() - began, actions, replans)

    def _look(
        self, goal: Goal, shown: tuple[Request, Transition] | None = None
    ) -> tuple[Transition, Snapshot]:
        observation = self.executor.driver.observe()
        asked = request(goal, deployed(observation), self.durations)
        transition = shown[1] if shown and shown[0] == asked else ordered(self.transitioner, asked)
        before = snapshot(observation)
        self.executor.journal.record((), before, self.executor.driver.clock.now())
        return transition, before

    def _stopped(self, goal: Goal, error: PartitaError) -> None:
        if isinstance(error, JournalError | DriveError):
            return  # the journal cannot be written, or the cluster cannot be observed
        now = self.executor.driver.clock.now()
        self.executor.journal.note(str(error), now)
        self.executor.journal.end_goal(State.STOPPED, now)
        served = still_served(goal, deployed(self.executor.driver.observe()))
        self.executor.reporter.note(f"no action is in progress; served of required items/s: {served}")

    def _require_going_on(self, outcome: Outcome, replans: int) -> None:
        """Raise unless another transition may help.

        Raises:
            StoppedError: an action failed for good, or the cluster does not stop changing.
            StopRequestedError: asked to stop.
        """
        if outcome.stopped:
            raise StopRequestedError("stopped as asked, in a safe state", hint=f"go on with `{self.command}`")
        if outcome.replan and replans < self.most_replans:
            return
        failure = outcome.failure
        if failure is None:
            raise StoppedError(
                f"stopped: someone else changed the cluster {replans + 1} times meanwhile",
                hint=f"find out who (`partita status` shows what), then go on with `{self.command}`",
            )
        action = failure.action
        tries = f" after {failure.tries} tries" if failure.tries > 1 else ""
        service = f" of {action.replica.service}" if action.replica else ""
        mend = f"{failure.error.hint}; then " if failure.error.hint else "correct it, then "
        raise StoppedError(
            f"stopped: {action.kind.value.replace('_', ' ')}{service} failed{tries}: {failure.error.what}",
            where=f"{action.gpu} {action.placement}",
            hint=f"{mend}go on with `{self.command}`",
        )


def ordered(transitioner: Transitioner, asked: Request) -> Transition:
    """Return the transition that an algorithm makes, if the checker finds nothing wrong in it.

    Raises:
        InfeasibleError: there are too few GPUs, or too few extra ones are allowed.
        PartitaError: the checker finds a fault in the algorithm's transition.
    """
    found = transitioner.transition(asked)
    if faults := check_transition(asked, found):
        raise PartitaError(
            f"a fault in {maker_of(transitioner)}: the transition is wrong: {faults[0].where}: {faults[0].what}",
            hint="nothing was begun; try another --algorithm, and report this",
        )
    return found


def request(goal: Goal, current: Deployment, durations: Durations) -> Request:
    """Return the request for a transition from what runs to a goal."""
    return Request(
        restated(current, goal.target),
        goal.target,
        goal.old_rates,
        goal.new_rates,
        durations,
        extra_gpus=goal.extra_gpus,
        forbid=goal.forbid,
        in_place=goal.in_place,
    )


def standing_rates(promised: Mapping[str, float] | None, current: Deployment) -> Mapping[str, float]:
    """Return the rates to keep: those promised, or the capacity that runs where no journal has promises."""
    return current.capacity() if promised is None else promised


def still_served(goal: Goal, current: Deployment) -> str:
    """Return each service's capacity and promised rate as text."""
    capacity = current.capacity()
    names = sorted(goal.new_rates.keys() | capacity.keys())
    return ", ".join(
        f"{name} {capacity.get(name, 0.0):g}/{goal.new_rates.get(name, 0.0):g}" for name in names
    )


class StoppedError(PartitaError):
    """The goal was not reached; what runs is safe, and no action is in progress."""


class StopRequestedError(PartitaError):
    """Asked to stop before the goal was reached; what runs is safe, and no action is in progress (exit code 130)."""

    exit_code = 130


class MovedError(PartitaError):
    """The cluster is not the one that was shown (exit code 5)."""

    exit_code = 5

    def __init__(self, changes: Sequence[str], *, hint: str | None = None) -> None:
        shown = "\n  ".join(changes[:SHOWN]) or "its earlier state was not recorded"
        more = f"\n  and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        super().__init__(f"the cluster has changed since:\n  {shown}{more}", hint=hint)
