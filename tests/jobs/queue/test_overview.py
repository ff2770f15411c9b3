"""`partita queue`: one view of one moment, whatever starts and ends meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.jobs.queue.world import ME, PACE, queue

from partita.errors import InputError
from partita.jobs.queue.record import JobState
from partita.jobs.queue.settings import QueueSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.queue.world import World

FAR = {"source": "declared", "lower": 0, "upper": 2**40}
LARGE = {"source": "declared", "lower": 0, "upper": 30 * 2**30}


def check(view: dict[str, Any]) -> None:
    """Hold a view to what is true of every moment."""
    rows = view["jobs"]
    assert len(rows) == view["total"] == sum(view["counts"].values())
    assert len({row["id"] for row in rows}) == len(rows)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    assert counts == view["counts"]
    held = [(row["gpu"], row["instance"]) for row in rows if row["state"] != "waiting"]
    assert len(set(held)) == len(held)
    states = [row["state"] == "waiting" for row in rows]
    assert states == sorted(states)
    for row in rows:
        assert ("start" in row) == (row["state"] == "waiting")
        assert row["reason"] or row["state"] != "waiting"


def test_no_view_fails_while_jobs_start_and_end(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        for number in range(40):
            world.submit(
                "true", memory={"source": "declared", "lower": 0, "upper": (1 + number % 4 * 4) * 2**30}
            )
        views = 0

        def looked() -> bool:
            nonlocal views
            # The newest of what is known, so that nothing is taken from an outlook of before.
            world.service.table.changed()
            check(world.ask("queue"))
            world.service.predictions()  # of which a view would only leave out the starts
            views += 1
            return not world.service.table.active

        world.until(looked)
        assert views > 5  # how many there are in the meantime is the machine's matter


def test_what_was_submitted_is_seen_at_once_and_what_is_over_is_not(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        ids = [world.submit("true", memory=FAR) for _ in range(5)]
        for job in ids:
            check(view := world.ask("queue"))
            assert {row["id"] for row in view["jobs"]} == set(ids[ids.index(job) :])
            world.ask("cancel", ids=[job])
        assert world.ask("queue")["jobs"] == []


def page(world: World, offset: int, revision: str | None = None) -> dict[str, Any]:
    more: dict[str, Any] = {} if revision is None else {"revision": revision}
    return world.ask("queue", offset=offset, limit=4, **more)


def test_pages_are_of_one_moment(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        world.submit("true", array="0-9", memory=FAR)
        first = page(world, 0)
        world.ask("cancel", ids=["1_0", "1_5", "1_9"])
        world.submit("true", memory=FAR)
        pages = [first, *(page(world, offset, first["revision"]) for offset in (4, 8))]
        ids = [row["id"] for each in pages for row in each["jobs"]]
        assert ids == [f"1_{index}" for index in range(10)]
        assert {each["total"] for each in pages} == {10}
        assert {row["state"] for each in pages for row in each["jobs"]} == {"waiting"}
        now = page(world, 0)
        assert now["total"] == 8
        assert now["revision"] != first["revision"]
        assert page(world, 4, "never.1") == {"expired": True}


def test_ones_own_jobs_alone_are_listed(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        world.submit("true", memory=FAR)
        assert world.ask("queue", mine=True)["total"] == 1
        other = type(ME)(1, ME.uid + 1, ME.gid)
        if ME.uid == 0:
            assert world.ask("queue", caller=type(ME)(1, 0, 0), mine=True)["total"] == 1
        else:
            with pytest.raises(Exception, match="serves no other users"):
                world.ask("queue", caller=other, mine=True)


def rows(world: World) -> dict[str, dict[str, Any]]:
    world.service.table.changed()
    world.ask("queue")
    return {row["id"]: row for row in world.ask("queue")["jobs"]}


@pytest.mark.parametrize(
    ("runs", "waits", "guessed"),
    [
        ({"seconds": {"": 600}}, {"seconds": {"": 600}}, [False, False]),
        ({"limit_s": 600}, {"limit_s": 600}, [False, False]),
        ({"seconds": {"": 600}}, {}, [False, True]),
        ({}, {"seconds": {"": 600}}, [True, True]),
    ],
)
def test_a_start_that_rests_on_a_guess_is_marked(
    tmp_path: Path, runs: dict[str, Any], waits: dict[str, Any], guessed: list[bool]
) -> None:
    settings = QueueSettings(pace=PACE)
    with queue(tmp_path, settings=settings) as world:
        first = world.submit("sleep", "600", memory=LARGE, **runs)
        world.until_state(first, JobState.RUNNING)
        second = world.submit("sleep", "600", memory=LARGE, **waits)
        third = world.submit("sleep", "600", memory=LARGE, name="other")
        found = rows(world)
        assert [found[each]["start_estimated"] for each in (second, third)] == guessed
        assert found[second]["start"] < found[third]["start"]


def test_a_start_of_one_that_has_run_for_longer_than_was_expected_is_a_guess(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        first = world.submit("sleep", "600", memory=LARGE, seconds={"": 0.01})
        world.until_state(first, JobState.RUNNING)
        second = world.submit("sleep", "600", memory=LARGE, seconds={"": 600})
        assert rows(world)[second]["start_estimated"] is True


def test_of_many_the_first_are_played_and_the_others_guessed(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        first = world.submit("sleep", "600", memory=LARGE, seconds={"": 60})
        world.until_state(first, JobState.RUNNING)
        world.submit("true", array="0-99", memory=LARGE, seconds={"": 60})
        marks = [row["start_estimated"] for row in world.ask("queue")["jobs"][1:]]
        assert marks == [False] * 60 + [True] * 40


def test_the_queue_is_shown_even_where_its_future_cannot_be_foretold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise InputError("nobody knows")

    with queue(tmp_path) as world:
        job = world.submit("true", memory=FAR)
        monkeypatch.setattr(world.service, "predictions", fail)
        check(view := world.ask("queue"))
        assert [(row["id"], row["start"]) for row in view["jobs"]] == [(job, None)]
