"""Jobs that start after others: `--after`, whatever becomes of those, and whoever restarts meanwhile."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from tests.jobs.queue.test_table import job
from tests.jobs.queue.world import queue

from partita.errors import DeniedError, InputError
from partita.jobs.queue.access import Access, Caller
from partita.jobs.queue.record import OVER, DependencyCondition, JobState, judged, parse_after

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.queue.world import World


STATES = (JobState.WAITING, JobState.RUNNING, JobState.DONE, JobState.FAILED, JobState.CANCELLED)


def by_definition(condition: DependencyCondition, states: tuple[JobState, ...]) -> bool | None:
    """True if satisfied, False if no end of what is open could satisfy it, else None."""

    def satisfied(ends: tuple[JobState, ...]) -> bool:
        done = [end is JobState.DONE for end in ends]
        return {
            DependencyCondition.OK: all(done),
            DependencyCondition.FAIL: not all(done),
            DependencyCondition.ANY: True,
        }[condition]

    ends = [
        (state,) if state in OVER else (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
        for state in states
    ]
    found = {satisfied(end) for end in product(*ends)}
    if all(state in OVER for state in states):
        return found.pop()
    return False if found == {False} else None


@pytest.mark.parametrize("condition", list(DependencyCondition))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_dependency_is_judged_as_it_is_defined(condition: DependencyCondition, count: int) -> None:
    for states in product(STATES, repeat=count):
        tasks = [job(number, state=state) for number, state in enumerate(states)]
        assert judged(condition, tasks) is by_definition(condition, states), states


def test_dependencies_are_read_as_they_are_written() -> None:
    found = parse_after(["ok:12:13_2", "any:7,fail:8", "ok:12"])
    assert [str(each) for each in found] == ["ok:12", "ok:13_2", "any:7", "fail:8"]
    for wrong in ("12", "after:12", "ok", "ok:", "ok:x", "OK:12", ""):
        with pytest.raises(InputError):
            parse_after([wrong])
    with pytest.raises(InputError, match="at most 100"):
        parse_after(["ok:" + ":".join(map(str, range(101)))])


def states(world: World, *ids: str) -> list[str]:
    return [world.job(each).state.value for each in ids]


def test_each_condition_starts_or_cancels_what_waits_for_it(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        good, bad = world.submit("true"), world.submit("false")
        waiting = {
            (word, parent): world.submit("true", after=[f"{word}:{parent}"])
            for word in ("ok", "fail", "any")
            for parent in (good, bad)
        }
        rows = {row["id"]: row for row in world.ask("queue")["jobs"]}
        shown = rows[waiting["ok", good]]
        assert shown["reason"] == f"waits for job {good} to be done"
        assert shown["after"] == [f"ok:{good}"]
        assert shown["start"] is None
        both = world.submit("true", after=[f"ok:{good}", f"fail:{bad}"])
        chain = world.submit("true", after=[f"any:{waiting['fail', good]}"])
        world.finish()
        for (word, parent), child in waiting.items():
            starts = word == "any" or (word == "ok") == (parent == good)
            assert world.job(child).state is (JobState.DONE if starts else JobState.CANCELLED), (word, parent)
        never = world.job(waiting["ok", bad])
        assert never.why == f"dependency never satisfied: job {bad} failed"
        assert states(world, both, chain) == ["done", "done"]


def test_what_ended_before_counts_as_if_it_ended_now(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        good, bad = world.submit("true"), world.submit("false")
        world.finish()
        starts = world.submit("true", after=[f"ok:{good}"])
        assert world.job(starts).after == ()
        answer = world.ask(
            "submit", command=["true"], directory="/", environment={}, after=[f"ok:{bad}"], name="never"
        )
        assert answer["notes"] == [f"it never starts: dependency never satisfied: job {bad} failed"]
        assert states(world, answer["id"]) == ["cancelled"]
        with pytest.raises(InputError, match="there is no job 99"):
            world.submit("true", after=["any:99"])


def test_an_array_counts_by_all_of_its_tasks(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        array = world.submit("sh", "-c", "test {index} != 2", array="0-3")
        ok = world.submit("true", after=[f"ok:{array}"])
        one = world.submit("true", after=[f"ok:{array}_1"])
        failed = world.submit("true", after=[f"fail:{array}"], array="0-1")
        end = world.submit("true", after=[f"any:{array}"])
        first = int(array)
        world.until(lambda: all(world.job(str(first + i)).state in OVER for i in range(4)))
        world.finish()
        assert states(world, ok, one, end) == ["cancelled", "done", "done"]
        assert states(world, failed, str(int(failed) + 1)) == ["done", "done"]
        assert world.job(ok).why == f"dependency never satisfied: job {array}_2 failed"


def test_a_cancelled_or_requeued_job_counts_when_it_is_over(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        parent = world.submit("sleep", "600", memory=FAR)
        child = world.submit("true", after=[f"ok:{parent}"])
        grandchild = world.submit("true", after=[f"ok:{child}"])
        world.ask("cancel", ids=[parent])
        assert states(world, parent, child, grandchild) == ["cancelled"] * 3
        assert world.job(grandchild).why == f"dependency never satisfied: job {child} was cancelled"
        # Requeued together they wait for each other again; the child alone is cancelled at once.
        (alone,) = world.ask("requeue", ids=[child])["jobs"]
        assert (alone["state"], alone["over"]) == ("cancelled", True)
        world.ask("requeue", ids=[grandchild, child, parent])
        assert states(world, parent, child, grandchild) == ["waiting"] * 3
        assert set(world.service.table.blocked) == {int(child), int(grandchild)}


FAR: dict[str, Any] = {"source": "declared", "lower": 0, "upper": 2**40}


def test_dependencies_outlive_the_daemon(tmp_path: Path) -> None:
    with queue(tmp_path, keep=True) as world:
        parent = world.submit("true")
        child = world.submit("true", after=[f"ok:{parent}"])
    with queue(tmp_path) as world:
        assert set(world.service.table.blocked) == {int(child)}
        world.finish()
        assert states(world, parent, child) == ["done", "done"]


def test_large_arrays_wait_for_large_arrays(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        parent = world.submit("true", array="0-1999", memory=FAR)
        child = world.submit("true", array="0-1999", memory=FAR, after=[f"ok:{parent}"])
        assert len(world.service.table.blocked) == 2000
        world.ask("cancel", ids=[f"{parent}_7"])
        assert len(world.service.table.waiting) == 1999
        assert not world.service.table.blocked
        assert states(world, child) == ["cancelled"]


def test_nobody_waits_for_a_job_of_which_they_may_know_nothing(tmp_path: Path) -> None:
    with queue(tmp_path, access=Access(0)) as world:
        mine = world.submit("true", caller=Caller(1, 0, 0))
        with pytest.raises(DeniedError, match="wait for it"):
            world.submit("true", caller=Caller(1, 65534, 65534), after=[f"any:{mine}"])
