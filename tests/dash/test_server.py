"""The server over real sockets: streams that are cut and resumed, readers that take nothing, TLS, and its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.control.world import World, deployment, goal
from tests.dash.client import local
from tests.dash.test_access import Empty
from tests.unprivileged import locked, unprivileged

from partita.dash import server
from partita.dash.access import Access
from partita.dash.history import History
from partita.dash.server import BackgroundServer
from partita.dash.source import Look, SeenGpu
from partita.drive.simulated import SimulatedCluster
from partita.drive.state import CLUSTER
from partita.errors import InputError, PartitaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 30.0


class Told(Empty):
    """A source that sees what it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Look | Exception] = []
        self.gpus: list[SeenGpu] = [
            SeenGpu(f"n/gpu-{i}", f"GPU-{i}", "a30-24gb", "n", 0, ()) for i in range(50)
        ]

    def look(self) -> Look:
        found = self.waiting.pop(0) if self.waiting else Look(1.0, self.gpus)
        if isinstance(found, Exception):
            raise found
        return found

    def change(self) -> None:
        self.gpus = [each.replace(state=1 - each.state) for each in self.gpus]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks every few milliseconds."""
    monkeypatch.setattr(server.look_on, "__defaults__", (0.005,))


@contextmanager
def serving(source: Any, access: Access | None = None) -> Iterator[BackgroundServer]:
    made = BackgroundServer(source, access or Access(), History(None))
    try:
        yield made
    finally:
        made.close()


def connect(url: str, timeout: float = PATIENCE_S) -> socket.socket:
    return socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0), timeout)


class Stream:
    """An open stream of events."""

    def __init__(self, url: str, last: int | None = None) -> None:
        where = urlsplit(url)
        self.connection = http.client.HTTPConnection(where.netloc, timeout=PATIENCE_S)
        self.connection.request(
            "GET", "/api/v1/stream", headers={} if last is None else {"Last-Event-ID": str(last)}
        )
        self.answer = self.connection.getresponse()
        self.last = 0

    def event(self) -> tuple[str, Any]:
        """Return the next event's name and document."""
        name, data = "", ""
        for line in iter(self.answer.readline, b"\n"):
            if not line:
                raise EOFError
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data = value
            elif field == "id":
                self.last = int(value)
        return (name, json.loads(data)) if name else self.event()

    def until(self, name: str) -> Any:
        while True:
            found, document = self.event()
            if found == name:
                return document

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.mark.usefixtures("quick")
def test_a_stream_that_was_cut_goes_on_where_it_ended() -> None:
    source = Told()
    with serving(source) as made:
        first = Stream(made.url)
        name, hello = first.event()
        assert (name, first.answer.getheader("content-type")) == ("hello", "text/event-stream; charset=utf-8")
        source.change()
        changes = [first.until("gpu") for _ in range(20)]
        assert changes[0]["before"] == hello["fleet"]
        first.close()
        again = Stream(made.url, last=first.last)
        changes += [again.until("gpu") for _ in range(30)]
        again.close()
    assert [each["before"] for each in changes[1:]] == [each["fleet"] for each in changes[:-1]]
    assert sorted(each["gpu"] for each in changes) == list(range(50))


@pytest.mark.usefixtures("quick")
def test_a_number_of_another_process_means_loading_everything_anew() -> None:
    with serving(Told()) as made:
        for last in (1, 2**53):
            stream = Stream(made.url, last=last)
            assert stream.event()[0] == "hello"
            name, document = stream.event()
            assert (name, document["why"]) == ("reset", "events are missing")
            assert stream.last > 10**15
            stream.close()


def reader_of_nothing(made: BackgroundServer) -> socket.socket:
    """Open a stream through the smallest buffers that the kernel has."""
    made._bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    slow = connect(made.url)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return slow


@pytest.mark.usefixtures("quick")
def test_a_reader_that_takes_nothing_costs_no_memory_and_is_told_to_load_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("partita.dash.stream.EventStream.__init__.__defaults__", (100_000,))
    source = Told()
    with serving(source) as made:
        slow = reader_of_nothing(made)
        fast = Stream(made.url)
        fast.event()
        for _ in range(400):  # eight hundred kilobytes, of which the stream keeps one hundred
            source.change()
            for _ in range(50):
                fast.until("gpu")
        fast.close()
        heard = b""
        while b"event: reset" not in heard:
            got = slow.recv(1 << 20)
            assert got
            heard = heard[-100:] + got
        slow.close()


@pytest.mark.usefixtures("quick")
def test_a_reader_that_never_takes_anything_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_S", 0.1)
    monkeypatch.setattr(server, "MOST_STREAMS", 1)
    source = Told()
    with serving(source) as made:
        slow = reader_of_nothing(made)
        assert slow.recv(12) == b"HTTP/1.1 200"
        assert _status(made.url) == 503
        end = time.monotonic() + PATIENCE_S
        while _status(made.url) == 503:
            assert time.monotonic() < end, "it still holds the only stream"
            source.change()
            time.sleep(0.02)
        slow.close()


def _status(url: str) -> int:
    """Return the status of a stream that is opened and closed."""
    stream = Stream(url)
    stream.close()
    return stream.answer.status


@pytest.mark.usefixtures("quick")
def test_a_cluster_that_cannot_be_seen_is_told_and_so_is_its_return() -> None:
    source = Told()
    with serving(source) as made:
        stream = Stream(made.url)
        source.waiting = [PartitaError("the cluster is gone", where="/state", hint="wait")] * 3
        fault = stream.until("fault")["fault"]
        assert fault == {"error": "the cluster is gone", "where": "/state", "hint": "wait"}
        assert stream.until("fault") == {"fault": None}
        source.waiting = [ZeroDivisionError("of ours")]
        assert "a fault in partita itself" in stream.until("fault")["fault"]["error"]
        assert stream.until("fault") == {"fault": None}
        stream.close()


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_told_is_a_fault_and_not_the_last_look(caplog: pytest.LogCaptureFixture) -> None:
    source = Told()
    strange: Any = object()
    with serving(source) as made:
        stream = Stream(made.url)
        source.waiting = [Look(1.0, jobs=[strange])] * 3
        assert "a fault in partita itself" in stream.until("fault")["fault"]["error"]
        assert stream.until("fault") == {"fault": None}
        stream.close()
    assert [each.message for each in caplog.records].count("a look at the cluster failed") == 1


def test_a_body_that_does_not_come_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_S", 0.05)
    head = b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(Told()) as made, closing(connect(made.url)) as slow:
        slow.sendall(head + b"Content-Length: 1000\r\n\r\n{")
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_at_the_start_a_cluster_must_be_there() -> None:
    source = Told()
    source.waiting = [PartitaError("there is none")]
    with pytest.raises(PartitaError, match="there is none"):
        BackgroundServer(source, Access(), History(None))


def test_a_port_that_is_taken_is_told() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen at 127.0.0.1:{port}"):
            BackgroundServer(Told(), Access(port=port), History(None))


@pytest.mark.usefixtures("quick")
def test_streams_and_idle_connections_end_with_the_server() -> None:
    with serving(Told()) as made:
        idle = connect(made.url)
        streams = [Stream(made.url) for _ in range(5)]
        for each in streams:
            each.event()
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE_S
    for each in streams:
        with pytest.raises(EOFError):
            each.until("never")
        each.close()
    assert idle.recv(100) == b""
    idle.close()


def test_a_head_without_an_end_is_refused() -> None:
    with serving(Told()) as made:
        asked = connect(made.url)
        asked.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        sent = 0
        try:
            while sent < 64 << 20:
                asked.sendall(b"x" * 65536)
                sent += 65536
        except OSError:
            pass  # it was closed
        assert sent < 8 << 20
        asked.close()


def test_tls_and_a_token_beyond_this_host(certificate: tuple[Path, Path]) -> None:
    from partita.serve.tls import Tls  # noqa: PLC0415 -- for this test alone

    access = Access("127.0.0.1", read="r" * 32, tls=Tls(*certificate))
    with serving(Told(), access) as made:
        assert made.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        where = urlsplit(made.url)
        asked = http.client.HTTPSConnection(where.netloc, timeout=PATIENCE_S, context=trust)
        asked.request("GET", "/api/v1", headers={"Authorization": f"Bearer {'r' * 32}"})
        assert json.loads(asked.getresponse().read())["role"] == "read"
        asked.close()
        plain = connect(made.url)
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/1.1 200")
        plain.close()


# The command


@contextmanager
def command(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    words = unprivileged(sys.executable, "-m", "partita", "dash", "--port", "0", *more)
    environment = {**os.environ, "PARTITA_STATE": str(folder)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, line.split()[-1] if line else ""
        finally:
            process.kill()


def test_the_command_serves_until_sigterm_though_streams_are_open(tmp_path: Path) -> None:
    World(tmp_path).reach(goal(deployment("7g.40gb@0=search")))
    with command(tmp_path) as (process, url):
        stream = Stream(url)
        assert stream.event()[0] == "hello"
        cluster = SimulatedCluster(tmp_path / CLUSTER)
        cluster.lose("node-0/gpu-2")
        cluster.close()
        assert stream.until("gpu")["state"] == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        stream.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert (tmp_path / "history.sqlite3").stat().st_mode & 0o077 == 0


def test_who_may_not_write_sees_all_and_is_told_that_no_history_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    World(folder).reach(goal(deployment("7g.40gb@0=search")))
    with locked(folder), command(folder) as (process, url):
        asked = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
        known = []
        for path in ("", "/services", "/transitions"):
            asked.request("GET", f"/api/v1{path}")
            known.append(json.loads(asked.getresponse().read()))
        asked.close()
        assert [each["name"] for each in known[1]["services"]] == ["search"]
        assert known[2]["transitions"][0]["state"] == "reached"
        (said,) = [each for each in known[0]["notes"] if "no history is kept beyond this process" in each]
        assert str(folder / "history.sqlite3") in said
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read().count("no history is kept beyond this process") == 1


def test_without_a_cluster_the_command_says_how_to_make_one(tmp_path: Path) -> None:
    with command(tmp_path / "none") as (process, _):
        assert process.wait(PATIENCE_S) == 2
        assert process.stderr is not None
        assert re.match(
            r"error: .*: there is no simulated cluster yet\nhint: make one: ", process.stderr.read()
        )
    assert not (tmp_path / "none").exists(), "looking makes nothing"


def test_a_controller_acts_while_it_is_looked_at(tmp_path: Path) -> None:
    """A hundred looks during a transition, none of which fails or holds the controller up."""
    world = World(tmp_path, gpus=4)
    world.reach(goal(deployment("7g.40gb@0=search", "4g.20gb@0=chat 3g.20gb@4=chat")))
    source, ended = local(tmp_path), threading.Event()
    states: set[str] = set()
    faults: list[Exception] = []

    def watch() -> None:
        try:
            while not ended.is_set():
                states.update(each.state.value for gpu in source.look().gpus for each in gpu.instances)
        except PartitaError as error:
            faults.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for turn in range(4):
            half = "3g.20gb@0=search 3g.20gb@4=search"
            world.reach(
                goal(deployment(*(["7g.40gb@0=search"] if turn % 2 else [half]), "", "7g.40gb@0=chat"))
            )
    finally:
        ended.set()
        thread.join()
        source.close()
    assert not faults
    assert "serving" in states
