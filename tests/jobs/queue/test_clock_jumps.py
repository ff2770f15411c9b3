"""The system's clock is set while jobs wait, run, stop and wait again."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.jobs.queue.world import PATIENCE_S, World, python, queue

from partita.jobs.queue.record import AttemptVerdict, JobRecord, JobState, Submitter
from partita.jobs.queue.table import JobStore, JobTable
from partita.sim import clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = 3600.0
JUMPS = (2 * HOUR, -3 * HOUR, 30 * 24 * HOUR, 0.0)

STUBBORN = python(
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.7), print('saved'), sys.exit(0)))\n"
    "print('begun')\n"
    "while True: time.sleep(0.02)\n"
)


class _Time:
    """The `time` of the clocks' module, whose wall clock can be set."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.monotonic, self.sleep = time.monotonic, time.sleep

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> _Time:
    found = _Time()
    monkeypatch.setattr(clock, "time", found)
    return found


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def starts(world: World) -> dict[str, float]:
    return {job["id"]: job.get("start") or 0.0 for job in world.ask("queue")["jobs"]}


def test_a_clock_that_is_set_while_the_daemon_works_changes_nothing(tmp_path: Path, wall: _Time) -> None:
    with queue(tmp_path) as world:
        running = world.submit(*STUBBORN, grace_s=PATIENCE_S)
        world.until_state(running, JobState.RUNNING)
        for wall.ahead in JUMPS:
            with within(PATIENCE_S):
                world.until_state(world.submit("true"), JobState.DONE)
        assert len(world.job(running).attempts) == 1
        world.until(lambda: b"begun" in (world.service.folder_of(world.job(running), 1) / "log").read_bytes())
        world.ask("cancel", ids=[running])
        wall.ahead = 5 * HOUR
        job = world.until_state(running, JobState.CANCELLED)
        assert (job.attempt.verdict, job.attempt.code) == (AttemptVerdict.CANCELLED, 0), (
            "it had its whole grace"
        )


@pytest.mark.parametrize("jump", JUMPS)
def test_a_daemon_that_starts_under_another_time_starves_and_kills_nothing(
    tmp_path: Path, wall: _Time, jump: float
) -> None:
    whole = {"source": "declared", "lower": 0, "upper": 39 * 2**30}
    wait = "while [ ! -e go ]; do sleep 0.05; done"
    wall.ahead = HOUR
    with queue(tmp_path, discipline="fair", keep=True) as world:
        running = world.submit("sh", "-c", wait, memory=whole)
        world.until_state(running, JobState.RUNNING)
        waiting = world.submit("true", memory=whole)
    wall.ahead += jump
    with queue(tmp_path, discipline="fair") as world:
        later = world.submit("true", memory=whole)
        world.until(lambda: all(starts(world).get(job) for job in (waiting, later)))
        assert world.job(running).state is JobState.RUNNING
        assert world.service.now - 1.0 <= starts(world)[waiting] <= starts(world)[later], (
            "who came first goes first"
        )
        (tmp_path / "go").touch()
        world.finish()
        for job in (running, waiting, later):
            assert world.job(job).state is JobState.DONE
            assert len(world.job(job).attempts) == 1


def test_who_came_under_a_clock_that_was_ahead_has_come_by_now(tmp_path: Path) -> None:
    far = Submitter(0, 0, "root")
    with closing(JobStore(tmp_path / "queue.sqlite3")) as store:
        store.put([JobRecord(1, far, ("true",), "/", "key", "family", submitted=9e9)])
        assert JobTable(store, lambda _: None, now=5e9).waiting[1].submitted == 5e9


def test_an_attempt_is_tried_again_under_another_time(tmp_path: Path, wall: _Time) -> None:
    code = "x = []\nwhile True: x.append(bytearray(1 << 20))\n"
    with queue(tmp_path, keep=True) as world:
        job = world.submit(*python(code), most_attempts=3)
        world.until(lambda: world.job(job).tries == 2)
    wall.ahead = -24 * HOUR
    with queue(tmp_path) as world:
        found = world.until_state(job, JobState.FAILED)
        assert [each.verdict for each in found.attempts] == [AttemptVerdict.OUT_OF_MEMORY] * 3
