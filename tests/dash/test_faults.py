"""Faults of the host under a dashboard: damaged and removed files, a full disk, clocks that jump, no GPUs at all."""

from __future__ import annotations

import errno
import shutil
import signal
import socket
import sqlite3
import subprocess
from contextlib import closing, suppress
from threading import Lock
from typing import TYPE_CHECKING

import pytest
from tests.control.world import World, deployment, goal
from tests.dash.client import Client, client, local
from tests.dash.test_access import Empty
from tests.dash.test_server import PATIENCE_S, Stream, Told, command, serving

from partita.control.journal import FILE as JOURNAL
from partita.control.journal import Journal, controlling
from partita.dash.access import Access
from partita.dash.history import FILE, History
from partita.dash.local_on_demand import LocalOnDemand
from partita.dash.state import ApiState
from partita.drive.simulated import SimulatedCluster
from partita.drive.state import CLUSTER
from partita.errors import InputError
from partita.serve.gateway.access import bare_address, listening

if TYPE_CHECKING:
    from pathlib import Path

MONDAY = 1_790_000_000.0


def of(folder: Path) -> Client:
    """The whole API of the cluster in a folder, looked at once."""
    source = local(folder)
    found = Client(ApiState.of(source, History(None), LocalOnDemand(source, "simulated", Lock())))
    found.look()
    return found


def test_a_damaged_journal_is_told_by_index_and_stream_and_the_fleet_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.reach(goal(deployment("7g.40gb@0=search")))
    world.journal.close()
    api = of(tmp_path)
    seen = api.get("/api/v1")
    assert seen.data["fault"] is None
    api.api.source.close()  # so that no write-ahead log hides the damage
    whole = (tmp_path / JOURNAL).read_bytes()
    api.look()
    (tmp_path / JOURNAL).write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    before = api.api.stream.last
    cluster = SimulatedCluster(tmp_path / CLUSTER)
    cluster.lose("node-0/gpu-0")
    cluster.close()
    api.look()
    again = api.get("/api/v1", if_none_match=seen.headers["etag"])
    assert again.status == 200
    assert "the journal is damaged" in again.data["fault"]["error"]
    assert "mv " in again.data["fault"]["hint"]
    assert api.get("/api/v1/plan").status == 503
    told = (api.api.stream.after(before) or b"").decode()
    assert told.count("event: fault") == 1
    assert "the journal is damaged" in told
    assert api.get("/api/v1/gpus/node-0/gpu-0").data["state"] == "lost"
    # Mended, all is seen again.
    (tmp_path / JOURNAL).write_bytes(whole)
    before = api.api.stream.last
    api.look()
    assert api.get("/api/v1").data["fault"] is None
    assert api.get("/api/v1/plan").status == 200
    assert b'data: {"fault":null}' in (api.api.stream.after(before) or b"")


def test_with_a_damaged_journal_the_command_starts_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.reach(goal(deployment("7g.40gb@0=search")))
    world.journal.close()
    (tmp_path / JOURNAL).write_bytes(b"this was a journal " * 1000)
    with closing(local(tmp_path)) as source:
        api = client(source)
        assert "the journal is damaged" in api.get("/api/v1").data["fault"]["error"]
        assert api.get("/api/v1/fleet").status == 200


def test_what_the_command_notes_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[2Jb"
    folder.mkdir()
    world = World(folder)
    world.journal.close()
    (folder / JOURNAL).write_bytes(b"this was a journal " * 1000)
    with command(folder) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    assert "the journal is damaged" in said
    assert r"a\x1b[2Jb" in said
    assert "\x1b" not in said


def test_news_of_the_journal_are_told_across_its_checkpoints(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.reach(goal(deployment("7g.40gb@0=search")))
    world.journal.close()
    with closing(local(tmp_path)) as source:
        source.look()
        for text in ("first", "second"):
            journal = Journal(tmp_path / JOURNAL)
            journal.note(text, 1.0)
            journal.close()
            with closing(sqlite3.connect(tmp_path / JOURNAL)) as db:
                assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            assert [each.text for each in source.look().events] == [text]
        assert not source.look().events


def test_a_folder_that_is_removed_is_told_and_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    world = World(folder)
    world.reach(goal(deployment("7g.40gb@0=search")))
    api = of(folder)
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    shutil.rmtree(folder)
    for _ in range(2):
        api.look()
        assert api.get("/api/v1").data["fault"]["error"]
        assert len(api.get("/api/v1/gpus").data["gpus"]) == 3, "what was seen is shown, as older"
    assert not folder.exists()
    kept.rename(folder)
    api.look()
    assert api.get("/api/v1").data["fault"] is None
    assert api.get("/api/v1/plan").status == 200


def test_a_full_disk_is_told_and_what_was_not_written_is_written_once_there_is_room(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no tmpfs may be mounted here")
    try:
        history = History(tmp_path / FILE)
        api = Client(ApiState(Empty(), history=history))
        api.look()
        record(history, 0, 60)
        assert api.get("/api/v1").data["notes"] == []
        etag = api.get("/api/v1").headers["etag"]
        filler = tmp_path / "filler"
        with suppress(OSError), filler.open("wb") as stream:  # until nothing more fits
            while stream.write(bytes(4096)):
                stream.flush()
        record(history, 60, 110)
        told = api.get("/api/v1", if_none_match=etag)
        assert next(each.partition(": ")[2] for each in told.data["notes"]).startswith(str(tmp_path))
        assert "the disk is full" in told.data["notes"][0]
        assert known(history, 60) == list(range(60))[-60:], "what is in memory is shown"
        filler.unlink()
        record(history, 110, 170)
        assert api.get("/api/v1").data["notes"] == []
        history.close()
        with closing(History(tmp_path / FILE)) as again:
            assert known(again, 170) == list(range(170))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def record(history: History, first: int, last: int) -> None:
    """Record minutes of Monday, each with its number."""
    for minute in range(first, last):
        history.record(MONDAY + 60 * minute, {"fleet": {"used": float(minute)}})


def known(history: History, minutes: int) -> list[float]:
    """Return what is known of Monday's first minutes."""
    found = history.series("fleet", MONDAY, MONDAY + 60 * minutes - 1, 2000)
    return [v for v in found.values.get("used", ()) if v is not None]


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize(
    "wrong",
    [0.0, MONDAY - 400 * 86_400, MONDAY + 30 * 60 + 7, MONDAY + 59 * 60 - 7, MONDAY + 7200, 2_900_000_000.0],
    ids=["1970", "a year back", "half an hour back", "a step back", "an hour ahead", "2061"],
)
def test_a_clock_that_is_wrong_for_a_while_costs_no_history(
    tmp_path: Path, wrong: float, *, file: bool
) -> None:
    history = History(tmp_path / FILE if file else None)
    record(history, 0, 60)
    for second in range(0, 120, 10):
        history.record(wrong + second, {"fleet": {"used": -1.0}})
    record(history, 60, 61)
    before = history.series("fleet", MONDAY + 120, MONDAY + 59 * 60, 2000).values["used"]
    right = [v for v in before if v is not None and v >= 0]
    assert len(right) >= 27, "at most the oldest half an hour is lost"
    record(history, 61, 110)
    found = history.series("fleet", MONDAY + 60 * 60, MONDAY + 110 * 60 - 1, 2000).values["used"]
    assert [v for v in found if v is not None and v >= 0] == list(range(60, 110))
    history.close()


def test_a_step_of_the_clock_loses_nothing(tmp_path: Path) -> None:
    history = History(tmp_path / FILE)
    for second in (0, 10, 20, 30, 40, 20, 30, 40, 50):
        history.record(MONDAY + second, {"fleet": {"used": float(second)}})
    found = history.series("fleet", MONDAY, MONDAY + 50, 100).values["used"]
    assert found == (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
    history.close()


def test_a_history_whose_folder_was_away_goes_on_in_a_new_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    history = History(folder / FILE)
    record(history, 0, 10)
    shutil.rmtree(folder)
    record(history, 10, 20)
    faults = [history.fault]
    folder.mkdir()
    record(history, 20, 30)
    assert [each is None for each in (*faults, history.fault)] == [False, True]
    history.close()
    assert caplog.text.count("the history cannot be written") == 1
    with closing(History(folder / FILE)) as again:
        assert set(known(again, 30)) >= set(range(10, 30))


def test_a_cluster_of_no_gpus_and_one_of_a_gpu_without_mig_are_shown(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    SimulatedCluster.create(tmp_path / "none" / CLUSTER, []).close()
    nothing = of(tmp_path / "none")
    assert nothing.get("/api/v1").data["fault"] is None
    for path in ("gpus", "fleet", "fleet/load", "fleet/series", "services", "events", "transitions"):
        assert nothing.get(f"/api/v1/{path}").status == 200, path
    assert nothing.get("/api/v1/gpus").data["gpus"] == []
    (tmp_path / "one").mkdir()
    made = SimulatedCluster.create(tmp_path / "one" / CLUSTER, [("n/gpu-0", "a100-40gb")])
    made.set_mig("n/gpu-0", on=False)
    made.close()
    one = of(tmp_path / "one")
    found = one.get("/api/v1/gpus").data["gpus"]
    assert [(each["state"], each["instances"]) for each in found] == [("MIG off", [])]


def test_whoever_is_killed_during_a_pause_leaves_it_shown(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.reach(goal(deployment("7g.40gb@0=search")))
    world.journal.begin_goal(goal(deployment("7g.40gb@0=chat")), "partita apply plan.json", 10.0)
    world.journal.pause("ana", 11.0)
    world.journal.close()  # nobody holds the lock: the process was killed
    api = of(tmp_path)
    newest = api.get("/api/v1/transitions").data["transitions"][0]
    assert newest["state"] == "paused"
    (note,) = api.get("/api/v1").data["notes"]
    assert note == (
        "no process carries out transition 2, which ana paused: go on with `partita resume`, and "
        "`partita apply plan.json`"
    )
    with controlling(tmp_path):
        assert api.get("/api/v1").data["notes"] == []


def test_fifty_streams_end_with_the_command(tmp_path: Path) -> None:
    World(tmp_path).reach(goal(deployment("7g.40gb@0=search")))
    with command(tmp_path) as (process, url):
        streams = [Stream(url) for _ in range(50)]
        for each in streams:
            assert each.event()[0] == "hello"
        process.send_signal(signal.SIGTERM)
        for each in streams:
            with pytest.raises(EOFError):
                each.until("never")
            each.close()
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("host", "reached"),
    [("::1", ["::1"]), ("[::1]", ["::1"]), ("::", ["::1", "127.0.0.1"]), ("127.0.0.1", ["127.0.0.1"])],
)
def test_every_kind_of_address_can_be_listened_at(host: str, reached: list[str]) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with closing(listening(bare_address(host), 0, "--port")) as bound:
        port = bound.getsockname()[1]
        for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")):
            with socket.socket(family) as asked:
                assert (asked.connect_ex((address, port)) == 0) is (address in reached), address


def test_a_port_that_may_not_be_used_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(InputError, match=r"cannot listen at 127.0.0.1:80: Permission denied") as told:
        listening("127.0.0.1", 80, "--port")
    assert told.value.hint == "ports below 1024 are for root; --port 0 takes a free port"


def test_ipv6_serves_pages() -> None:
    with (
        serving(Told(), Access("::1")) as made,
        closing(Stream(made.url.replace("localhost", "[::1]"))) as one,
    ):
        assert one.event()[0] == "hello"
