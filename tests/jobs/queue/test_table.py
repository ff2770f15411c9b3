"""The store: what it took is there after any end, and what is damaged is told and kept. Users' shares."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.jobs.queue.world import GPU, World, queue

from partita.errors import InputError
from partita.jobs.queue.job_store import JobStore, UserShare
from partita.jobs.queue.record import (
    LEGAL,
    OVER,
    Attempt,
    AttemptVerdict,
    Dependency,
    DependencyCondition,
    IllegalMoveError,
    JobId,
    JobOptions,
    JobRecord,
    JobState,
    StatedMemory,
    Submitter,
    dump_job,
    load_job,
)
from partita.jobs.queue.table import UsageShares
from partita.mig.layout import Placement
from partita.store import DiskFullError, StoreError


def job(number: int, **more: object) -> JobRecord:
    base = JobRecord(number, Submitter(0, 0, "root"), ("true", "{index}"), "/", "key", "family", 1.5)
    return replace(base, **more)  # type: ignore[arg-type]


ATTEMPT = Attempt(
    1, GPU, Placement(4, "1g.5gb"), 5, 2.5, (Placement(0, "4g.20gb"),), wish=AttemptVerdict.CANCELLED
)


def test_a_job_is_read_as_it_was_written() -> None:
    asked = JobOptions(
        StatedMemory("model", 1.0, 2.0), {"1g.5gb": 60.0}, 5.0, checkpoints=True, most_attempts=2
    )
    written = job(
        3, asked=asked, attempts=(ATTEMPT,), array=1, index=2, state=JobState.STOPPING, why="ü\udcff"
    )
    assert load_job(dump_job(written)) == written
    assert load_job(dump_job(job(4))) == job(4)
    assert written.id == "1_2"
    assert written.words == ("true", "2")


OLD = (  # as two earlier versions wrote it
    (
        '{"number":3,"submitter":{"uid":0,"gid":0,"name":"root"},"command":["true","{index}"],"directory":"/",'
        '"environment":"key","family":"family","submitted":1.5,"asked":{"memory":{"source":"model","lower":1.0,'
        '"upper":null},"seconds":{"1g.5gb":60.0},"grace_s":5.0,"checkpoints":true,"most_attempts":2},"name":"",'
        '"priority":0,"array":1,"index":2,"state":"stopping","attempts":[{"number":1,"gpu":"node-0/gpu-0",'
        '"placement":"1g.5gb@4","limit_bytes":5,"decided":2.5,"destroy":["4g.20gb@0"],"create":true,'
        '"wish":"cancelled","unsure":false}],"tries":0,"at_least_bytes":0,"why":"\\u00fc\\udcff"}'
    ),
    (
        '{"number":3,"submitter":{"uid":0,"gid":0,"name":"root"},"command":["true","{index}"],"directory":"/",'
        '"environment":"key","family":"family","submitted":1.5,"asked":{"memory":{"source":"model","lower":1,'
        '"upper":null},"seconds":{"1g.5gb":60},"grace_s":5,"checkpoints":true,"most_attempts":2,"limit_s":null,'
        '"umask":18,"oom_patterns":["no room"]},"name":"","priority":0,"array":1,"index":2,"state":"stopping",'
        '"attempts":[{"number":1,"gpu":"node-0/gpu-0","placement":"1g.5gb@4","limit_bytes":5,"decided":2.5,'
        '"destroy":["4g.20gb@0"],"create":true,"wish":"cancelled","unsure":false}],"tries":0,"at_least_bytes":0,'
        '"after":["ok:1"],"why":null}'
    ),
)


@pytest.mark.parametrize("text", OLD)
def test_a_job_that_an_older_version_wrote_is_read(text: str) -> None:
    found = load_job(text)
    assert (found.id, found.state, found.attempts) == ("1_2", JobState.STOPPING, (ATTEMPT,))
    assert found.asked.memory == StatedMemory("model", 1.0)
    assert (found.asked.seconds, found.asked.most_attempts) == ({"1g.5gb": 60.0}, 2)
    assert load_job(dump_job(found)) == found
    assert [found.why, found.after, found.asked.oom_patterns] in (
        ["ü\udcff", (), ()],
        [None, (Dependency(DependencyCondition.OK, JobId(1)),), ("no room",)],
    )


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('"number":3', '"number":"3"', "number: must be a whole number"),
        ('"1g.5gb@4"', '"1g"', "is not a placement"),
        ('"stopping"', '"asleep"', "state: must be"),
        ('"lower":1.0', '"lower":-1.0', "cannot need between -1"),
        ('"umask"', '"mask"', "mask"),
        ('"why":null}', '"why"', "ends in the middle"),
    ],
)
def test_what_is_no_job_is_told(before: str, after: str, told: str) -> None:
    text = OLD[before in {'"umask"', '"why":null}'}].replace(before, after)
    with pytest.raises(InputError, match=told):
        load_job(text)


@pytest.mark.parametrize("old", list(JobState))
@pytest.mark.parametrize("new", list(JobState))
def test_only_the_transitions_of_the_table_are_made(old: JobState, new: JobState) -> None:
    if new in LEGAL[old]:
        assert job(1, state=old).to(new).state is new
    else:
        with pytest.raises(IllegalMoveError):
            job(1, state=old).to(new)


class StoreMachine(RuleBasedStateMachine):
    """A store beside what it should hold, closed and opened in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "queue.sqlite3"
        self.store = JobStore(self.path)
        self.held: dict[int, JobRecord] = {}
        self.shares: dict[str, UserShare] = {}

    @rule(many=st.integers(1, 3), array=st.booleans())
    def submit(self, many: int, *, array: bool) -> None:
        first = self.store.last_number() + 1
        made = [job(first + i, array=first, index=i) if array else job(first + i) for i in range(many)]
        self.store.put(made)
        self.held |= {each.number: each for each in made}

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        old = self.held[number]
        new = old.to(data.draw(st.sampled_from(sorted(LEGAL[old.state]))))
        before = self.shares.get("alice", UserShare(0.0, 0.0))
        shares = {"alice": UserShare(before.gpu_seconds + 1.5, before.at + 1.0)}
        self.store.put([new], shares)
        self.held[number], self.shares = new, shares

    @rule()
    def fail(self) -> None:
        with pytest.raises(ZeroDivisionError), self.store.transaction():
            raise ZeroDivisionError

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = JobStore(self.path)

    @invariant()
    def holds_what_it_should(self) -> None:
        active = [each for each in self.held.values() if each.state not in OVER]
        over = [each for each in self.held.values() if each.state in OVER]
        assert self.store.active() == sorted(active, key=lambda each: each.number)
        assert self.store.over(1000) == sorted(over, key=lambda each: -each.number)
        assert self.store.shares() == self.shares
        for each in self.held.values():
            found = self.store.tasks(each.array or each.number, each.index)
            assert found == [each]

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestStore = StoreMachine.TestCase


def test_environments_are_kept_once_and_read_by_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    with closing(JobStore(path)) as store:
        key = store.keep_environment({"B": "2", "A": "1"})
        assert store.keep_environment({"A": "1", "B": "2"}) == key
        assert store.environment(key) == {"A": "1", "B": "2"}
        with pytest.raises(StoreError, match="environment is missing"):
            store.environment("other")
        for file in tmp_path.iterdir():
            assert file.stat().st_mode & 0o077 == 0, file


@pytest.mark.parametrize("damage", ["garbage", "body", "middle"])
def test_damage_is_told_and_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "queue.sqlite3"
    with closing(JobStore(path)) as store:
        store.put(job(number, name="x" * 60) for number in range(1, 2000))
    if damage == "garbage":
        path.write_bytes(b"no database at all" * 100)
    elif damage == "body":
        with closing(sqlite3.connect(path)) as db:
            db.execute("DROP INDEX jobs_environment")  # which takes JSON alone
            db.execute("UPDATE jobs SET body = '{' WHERE number = 7")
            db.commit()
    else:
        data = bytearray(path.read_bytes())
        data[8192 : 8192 + 4096] = b"\xa5" * 4096
        path.write_bytes(data)
    before = path.read_bytes()

    def read() -> None:
        with closing(JobStore(path)) as store:
            store.active()

    with pytest.raises(StoreError, match="the queue is damaged") as caught:
        read()
    assert "--recover" in (caught.value.hint or "")
    assert path.read_bytes() == before


def test_a_queue_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    JobStore(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="format 99"):
        JobStore(path)


def flood(world: World) -> None:
    for number in range(200):
        world.submit("true", environment={"N": f"{number} {'x' * 5000}"})


def test_on_a_full_disk_submissions_are_refused_and_jobs_go_on(tmp_path: Path) -> None:
    with queue(tmp_path) as world:
        running = world.submit("sh", "-c", "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo ended")
        world.until_state(running, JobState.RUNNING)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        # A file may not grow beyond this, as on a disk without room.
        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, limits[1]))
        try:
            with pytest.raises(DiskFullError, match="the disk is full"):
                flood(world)
            (tmp_path / "go").touch()
            for _ in range(20):
                world.service.step(world.service.now)
            assert world.job(running).state is JobState.RUNNING  # as far as can be written
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert world.until_state(running, JobState.DONE).attempt.code == 0
        world.finish()
    with closing(JobStore(tmp_path / "jobs" / "queue.sqlite3")) as store:
        assert {each.state for each in store.over(1000)} == {JobState.DONE}


DAY = 86400.0


def test_what_a_user_has_had_counts_half_after_the_half_life() -> None:
    shares = UsageShares({"alice": UserShare(800.0, 0.0)}, half_life_s=7 * DAY)
    assert shares.at(7 * DAY)["alice"] == pytest.approx(400.0)
    assert shares.at(21 * DAY)["alice"] == pytest.approx(100.0)
    more = shares.plus("alice", 50.0, 7 * DAY)
    assert more.gpu_seconds == pytest.approx(450.0)
    assert more.at == 7 * DAY


def test_who_had_much_long_ago_comes_before_who_had_some_just_now() -> None:
    shares = UsageShares(
        {"alice": UserShare(1000.0, 0.0), "bob": UserShare(200.0, 28 * DAY)}, half_life_s=7 * DAY
    )
    now = shares.at(28 * DAY)
    assert now["alice"] < now["bob"]


@given(st.floats(0, 1e9), st.lists(st.floats(-1e9, 1e9), max_size=8))
def test_no_jump_of_the_clock_makes_a_share_grow(had: float, moments: list[float]) -> None:
    shares = UsageShares({"alice": UserShare(had, 0.0)})
    for moment in moments:
        before = shares.at(moment)["alice"]
        assert 0.0 <= before <= had
        shares.put({"alice": shares.plus("alice", 0.0, moment)})
