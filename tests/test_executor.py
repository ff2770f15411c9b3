"""Executing a driver's actions: beginning, ending, trying again."""

import random
from dataclasses import replace

from partita.drive.driver import ActionResult, DriveError, FailedError, NoRoomError, Observation
from partita.executor import ActionExecutor, Backoff
from partita.mig.layout import Placement
from partita.sim.clock import SimulatedClock
from partita.transition.transition import Action, ActionKind

ACTION = Action("make", ActionKind.CREATE_INSTANCE, "gpu-0", Placement(0, "1g.10gb"), None, (), 1.0)


class FakeDriver:
    """Ends each action at once, as told."""

    def __init__(self, *errors: DriveError | None) -> None:
        self.clock = SimulatedClock()
        self.errors = list(errors)
        self.ended: list[ActionResult] = []

    def observe(self) -> Observation:
        raise NotImplementedError

    def adopt(self, gpu: str, placement: Placement) -> None:
        raise NotImplementedError

    def begin(self, action: Action) -> None:
        self.ended.append(ActionResult(action, self.errors.pop(0)))

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        del until
        found, self.ended = tuple(self.ended), []
        return found


def executor(driver: FakeDriver) -> ActionExecutor[str]:
    made: ActionExecutor[str] = ActionExecutor(driver, Backoff(tries=3, jitter=0.0), random.Random(0))
    made.add("task")
    return made


def test_a_task_waits_longer_after_each_failure_until_it_succeeds() -> None:
    tasks = executor(FakeDriver(FailedError("no"), FailedError("no"), None))
    seen = []
    for now in (0.0, 1.0, 2.0):
        assert tasks.due(now) == ["task"]
        tasks.begin("task", ACTION)
        assert tasks.under_way
        assert not tasks.due(now)
        (ended,) = tasks.wait(now)
        seen.append((ended.tries, ended.action.error is None, ended.failure, tasks.next_due))
    assert seen == [(1, False, None, 1.0), (2, False, None, 2.0), (2, True, None, None)]
    assert not tasks.under_way


def test_a_task_fails_for_good_after_the_last_try() -> None:
    tasks = executor(FakeDriver(*[FailedError("no")] * 3))
    for _ in range(3):
        tasks.begin("task", ACTION)
        (ended,) = tasks.wait(None)
    assert ended.tries == 3
    assert ended.failure is ended.action.error
    assert tasks.next_due is None
    assert tasks.failures("task") == 0


def test_what_trying_again_cannot_help_fails_at_once() -> None:
    tasks = executor(FakeDriver(NoRoomError("full")))
    tasks.begin("task", ACTION)
    (ended,) = tasks.wait(None)
    assert ended.tries == 1
    assert isinstance(ended.failure, NoRoomError)


def test_failures_are_kept_when_a_task_is_added_again_and_forgotten_when_it_is_dropped() -> None:
    tasks = executor(FakeDriver(FailedError("no"), None))
    for _ in range(2):
        tasks.begin("task", ACTION)
        tasks.wait(None)
    tasks.add("task")
    assert tasks.failures("task") == 1
    tasks.drop("task")
    assert tasks.failures("task") == 0
    assert not tasks.due(9.0)


def test_results_of_others_actions_are_passed_over() -> None:
    driver = FakeDriver()
    tasks = executor(driver)
    driver.ended.append(ActionResult(replace(ACTION, id="someone else's")))
    assert tasks.wait(None) == []


def test_results_that_somebody_else_waited_for_are_taken() -> None:
    driver = FakeDriver(FailedError("no"))
    tasks = executor(driver)
    tasks.begin("task", ACTION)
    assert tasks.has("task")
    (ended,) = tasks.take(driver.wait())
    assert (ended.task, ended.tries, tasks.has("task"), tasks.next_due) == ("task", 1, True, 1.0)
    tasks.drop("task")
    assert not tasks.has("task")
    tasks.add("task", 5.0)
    assert (tasks.due(4.0), tasks.due(5.0)) == ([], ["task"])
