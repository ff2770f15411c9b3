"""Workers that hang, caused for real, and told from those that are slow."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.serve.dispatching.rehearsal import hello
from tests.serve.gateway import hanging
from tests.serve.gateway.workers import Workers, query, spec, workers
from tests.serve.worker.client import gateway as reading
from tests.serve.worker.oip_server import Server, serving

from partita.process.peer import ThreadTimes
from partita.serve.dispatching.query import QueryRefusedError, RefusalReason
from partita.serve.gateway.gateway import Gateway
from partita.serve.gateway.route import ServedService
from partita.serve.gateway.statistics import WorkerStatus
from partita.serve.gateway.watchdog import Watchdog
from partita.serve.supervisor import Supervisor
from partita.serve.tensors import Query, Tensor, TensorSpec
from partita.serve.worker.spec import EmulatedSpec, UpstreamSpec
from partita.serve.worker.wire import HANG_TIMEOUT_S, connected, run_parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from partita.serve.tensors import Answer

LIMIT_S = 1.0
"""After which the workers of these tests hang."""


class Batch:
    def __init__(self, *, stuck: bool = False) -> None:
        self.stuck = stuck


class Peer:
    """A process whose CPU time, and time in which a thread of it wanted a CPU, a test sets."""

    used = wanted = 0.0

    def work(self) -> ThreadTimes:
        return ThreadTimes(self.used, {1: self.wanted})


class Worker:
    def __init__(self, **more: float) -> None:
        self.hello = hello().replace(**{"beat_s": 0.5, **more})
        self.running: dict[int, Batch] = {}


class Line:
    """A connection as the watchdog sees it."""

    service = "one"

    def __init__(self, worker: Worker | None, peer: Peer | None = None) -> None:
        self.worker, self.peer, self.heard = worker, peer, False


class Looked:
    """Looks ten times a second, and notes what was found when."""

    def __init__(self, line: Line) -> None:
        self.dog, self.line, self.now = Watchdog(), line, 0.0
        self.dog.watch(line)  # type: ignore[arg-type]
        self.dog.look(0.0)
        self.silent: list[float] = []
        self.heard: list[float] = []
        self.hung: list[float] = []

    def go(self, seconds: float, step: float = 0.1, each: Callable[[], None] = lambda: None) -> Looked:
        for _ in range(round(seconds / step)):
            self.now += step
            each()
            found = self.dog.look(self.now)
            self.silent += [self.now] * len(found.silent)
            self.heard += [self.now] * len(found.heard)
            self.hung += [self.now] * len(found.hung)
        return self


def test_silence_is_told_after_some_missed_beats_and_a_hang_after_the_limit() -> None:
    seen = Looked(Line(Worker())).go(HANG_TIMEOUT_S - 0.2)
    assert seen.silent == [pytest.approx(2.1, abs=0.15)]
    assert not seen.hung
    assert seen.dog.left_s("one") == pytest.approx(0.2, abs=0.15)
    assert seen.go(0.4).hung[0] == pytest.approx(HANG_TIMEOUT_S, abs=0.15)


def test_whoever_is_heard_again_is_trusted_and_the_count_begins_anew() -> None:
    seen = Looked(Line(Worker())).go(5.0)
    seen.line.heard = True
    assert seen.go(0.1).heard
    assert not seen.go(HANG_TIMEOUT_S - 1.0).hung


def test_a_gateway_that_was_itself_stopped_blames_nobody() -> None:
    seen = Looked(Line(Worker())).go(1.0)
    seen.go(600.0, step=60.0)
    assert not seen.hung
    assert not seen.silent[1:]


@pytest.mark.parametrize("host", ["idle", "busy"])
def test_whoever_computes_without_a_sign_of_life_is_slow_until_the_deadlines_are_past(host: str) -> None:
    peer = Peer()
    worker = Worker()
    batch = worker.running[1] = Batch()
    seen = Looked(Line(worker, peer))

    def compute() -> None:
        peer.used += 0.09 if host == "idle" else 0.01
        peer.wanted += 0.1

    assert not seen.go(60.0, each=compute).silent
    assert not seen.hung
    batch.stuck = True
    assert seen.go(HANG_TIMEOUT_S + 0.3, each=compute).hung


@pytest.mark.parametrize("runs", [False, True])
def test_a_little_cpu_or_none_to_do_it_for_is_no_computing(*, runs: bool) -> None:
    peer, worker = Peer(), Worker()
    if runs:
        worker.running[1] = Batch()
    seen = Looked(Line(worker, peer))

    def wait() -> None:
        peer.used += 0.001 if runs else 0.1  # threads that wait for the interpreter use a hundredth of a core
        peer.wanted += 0.03 if runs else 0.1  # and on a busy host wait for a CPU each time they look

    assert seen.go(HANG_TIMEOUT_S + 0.3, each=wait).hung


def test_a_batch_that_nobody_waits_for_hangs_a_worker_that_gives_signs_of_life() -> None:
    worker = Worker()
    worker.running[1] = Batch(stuck=True)
    line = Line(worker)
    seen = Looked(line)

    def beat() -> None:
        line.heard = True

    assert not seen.go(HANG_TIMEOUT_S - 0.2, each=beat).hung
    worker.running[1].stuck = False
    seen.go(0.1, each=beat)
    worker.running[1].stuck = True
    assert not seen.go(HANG_TIMEOUT_S - 0.2, each=beat).hung
    assert seen.go(0.4, each=beat).hung
    assert not seen.silent


def test_a_worker_of_an_earlier_version_gives_no_signs_of_life_and_is_not_blamed() -> None:
    assert not Looked(Line(Worker(beat_s=0.0))).go(60.0).hung


def test_one_that_does_not_even_say_what_it_is_hangs_too() -> None:
    seen = Looked(Line(None)).go(HANG_TIMEOUT_S + 0.3)
    assert seen.hung
    assert not seen.silent, "nobody counts on it yet"


class HangingWorkers(Workers):
    def start_hanging(self, number: int, **more: object) -> subprocess.Popen[bytes]:
        path = self.folder / f"{number}.json"
        path.write_text(spec(self.folder, number, {1: 0.01}, **more).text())
        made = subprocess.Popen([sys.executable, hanging.__file__, str(path)])
        self.running[number] = made
        return made


@asynccontextmanager
async def gateway(folder: Path, **more: object) -> AsyncIterator[Gateway]:
    made = Gateway([ServedService("one", "m", 20.0)], folder, **more)  # type: ignore[arg-type]
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def until(true: Callable[[], bool], patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def at_once(answer: Coroutine[object, object, Answer]) -> None:
    """Run it up to where it would wait for something, which it must not come to."""
    try:
        answer.send(None)
    finally:
        answer.close()


def state(made: Gateway) -> WorkerStatus:
    (worker,) = made.snapshot().workers
    return worker.state


@pytest.mark.parametrize(
    ("how", "deadline_s"),
    [
        (hanging.HOLDS_INTERPRETER, 20.0),  # no sign of life, no CPU
        (hanging.DEADLOCKS, 0.3),  # signs of life, no CPU
        (hanging.LOOPS, 0.3),  # signs of life, and CPU
    ],
)
def test_a_worker_that_hangs_is_killed_and_what_it_had_is_told(
    tmp_path: Path, how: int, deadline_s: float
) -> None:
    async def body(process: subprocess.Popen[bytes]) -> None:
        async with gateway(tmp_path) as made:
            assert made.ready("one")
            with pytest.raises(QueryRefusedError) as told:
                await made.infer("one", query(1, how), deadline_s)
            assert told.value.reason is RefusalReason.WORKER_LOST
            await until(lambda: not made.ready("one"))
            with pytest.raises(QueryRefusedError) as told:
                at_once(made.infer("one", query(), 20.0))
            assert told.value.reason is RefusalReason.NO_WORKER
            await until(lambda: process.poll() is not None)
            assert process.returncode == -signal.SIGKILL
            assert [each.hung for each in made.snapshot().services] == [1]

    with workers(tmp_path) as plain:
        running = HangingWorkers(tmp_path)
        running.running = plain.running
        process = running.start_hanging(0, hang_timeout_s=LIMIT_S)
        running.wait_ready(1)
        asyncio.run(body(process))


def test_what_a_stopped_worker_has_no_room_for_any_more_is_told_too(tmp_path: Path) -> None:
    """A query larger than its socket's buffer waits in the gateway, and ends with its worker."""

    async def body(process: subprocess.Popen[bytes]) -> None:
        async with gateway(tmp_path) as made:
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(QueryRefusedError) as told:
                await made.infer("one", query(50_000), 20.0)
            assert told.value.reason is RefusalReason.WORKER_LOST
            assert await asyncio.to_thread(process.wait, 20.0) == -signal.SIGKILL

    with workers(tmp_path) as running:
        process = running.start(0, {50_000: 0.01}, batch=50_000, hang_timeout_s=LIMIT_S)
        running.wait_ready(1)
        asyncio.run(body(process))


def test_a_worker_that_computes_for_longer_than_the_limit_is_waited_for(tmp_path: Path) -> None:
    assert hanging.COMPUTED_S > 1.5 * LIMIT_S

    async def body(process: subprocess.Popen[bytes]) -> None:
        async with gateway(tmp_path) as made:
            answer = asyncio.create_task(made.infer("one", query(1, hanging.COMPUTES_HOLDING_IT), 60.0))
            await until(lambda: state(made) is WorkerStatus.SLOW)
            assert made.ready("one")
            assert (await answer).error is None
            assert process.poll() is None
            assert (await made.infer("one", query())).error is None

    with workers(tmp_path) as plain:
        running = HangingWorkers(tmp_path)
        running.running = plain.running
        process = running.start_hanging(0, hang_timeout_s=LIMIT_S)
        running.wait_ready(1)
        asyncio.run(body(process))


def test_estimates_know_the_size_of_inputs(tmp_path: Path) -> None:
    any_size = EmulatedSpec((TensorSpec("X", "UINT8", (-1, -1)),), (TensorSpec("Y", "UINT8", (-1, -1)),))

    def of(size: int) -> Query:
        return Query((Tensor("X", "UINT8", (1, size), bytes(size)),))

    async def body() -> None:
        async with gateway(tmp_path) as made:
            for _ in range(4):  # a fifth of a second each; the table says a hundredth
                await made.infer("one", of(200_000), 20.0)
            for _ in range(4):
                await made.infer("one", of(100), 20.0)
            with pytest.raises(QueryRefusedError) as told:
                at_once(made.infer("one", of(200_000), 0.15))  # it is known to take longer
            assert told.value.reason is RefusalReason.LATE
            small = asyncio.create_task(made.infer("one", of(100), 0.15))
            await asyncio.sleep(0)
            assert not small.done(), "it is known to take less, and is begun"
            await asyncio.gather(small, return_exceptions=True)

    with workers(tmp_path) as plain:
        running = HangingWorkers(tmp_path)
        running.running = plain.running
        running.start_hanging(0, backend=any_size)
        running.wait_ready(1)
        asyncio.run(body())


def test_one_stopped_under_load_is_killed_and_replaced_and_health_is_honest_meanwhile(tmp_path: Path) -> None:
    made = spec(tmp_path, 0, {1: 0.01}).replace(supervised=True, hang_timeout_s=LIMIT_S)
    keeper = Supervisor([made])
    ends: dict[str, int] = {}

    async def client(front: Gateway, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await front.infer("one", query(), 0.5)
                end = "answered"
            except QueryRefusedError as error:
                end = str(error.reason)
                await asyncio.sleep(0.01)
            ends[end] = ends.get(end, 0) + 1

    async def body() -> None:
        async with gateway(tmp_path, starts=keeper.starts) as front:
            await until(lambda: front.ready("one"))
            stop = asyncio.Event()
            clients = [asyncio.create_task(client(front, stop)) for _ in range(3)]
            await until(lambda: ends.get("answered", 0) > 20)
            (victim,) = keeper.workers()
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGSTOP)
            await until(lambda: not front.ready("one"))
            await until(lambda: ends.get("no_worker", 0) > 0)
            patient = asyncio.create_task(front.infer("one", query(), 60.0))
            await until(lambda: front.ready("one"))
            assert keeper.workers()[0].pid not in (victim.pid, None)
            assert (await patient).error is None, "it waited for the next worker, which was known to come"
            before = ends["answered"]
            await until(lambda: ends["answered"] > before + 20)
            stop.set()
            await asyncio.gather(*clients)

    keeper.start()
    try:
        asyncio.run(body())
    finally:
        keeper.stop(0.0)
    assert set(ends) <= {"answered", "no_worker", "worker_lost", "late"}, ends


def test_a_process_that_is_no_worker_is_never_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It listens where workers do, and says nothing: it is let go, and lives."""
    code = (
        "import sys, socket, time\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(flush=True); time.sleep(600)"
    )
    path = tmp_path / "strange@0-x.sock"
    assert len(str(path)) < 107

    async def body(process: subprocess.Popen[bytes]) -> None:
        async with gateway(tmp_path) as made:
            await until(lambda: any("it is not our process" in each for each in caplog.messages))
            assert process.poll() is None
            assert made.snapshot().workers == ()

    monkeypatch.setattr("partita.serve.gateway.watchdog.HANG_TIMEOUT_S", 0.3)
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            asyncio.run(body(process))
        finally:
            process.kill()


def test_a_worker_that_hung_before_the_gateway_came_is_killed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(process: subprocess.Popen[bytes]) -> None:
        async with gateway(tmp_path) as made:
            assert not made.ready("one")
            assert await asyncio.to_thread(process.wait, 20.0) == -signal.SIGKILL

    monkeypatch.setattr("partita.serve.gateway.watchdog.HANG_TIMEOUT_S", 0.3)
    with workers(tmp_path) as running:
        process = running.start(0, {1: 0.01})
        running.wait_ready(1)
        process.send_signal(signal.SIGSTOP)
        asyncio.run(body(process))


def test_readiness_follows_an_upstream_server_that_nobody_asks_anything(tmp_path: Path) -> None:
    async def body(server: Server) -> None:
        async with gateway(tmp_path) as made:
            await until(lambda: made.ready("one"))
            server.mute = True
            await until(lambda: not made.ready("one"))
            with pytest.raises(QueryRefusedError) as told:
                await made.infer("one", query(), 20.0)
            assert told.value.reason is RefusalReason.NO_WORKER
            server.mute = False
            await until(lambda: made.ready("one"))

    with serving() as server, workers(tmp_path) as running:
        backend = UpstreamSpec(server.url, "plus")
        running.start(0, {1: 0.01}, backend=backend, hang_timeout_s=LIMIT_S)
        running.wait_ready(1)
        asyncio.run(body(server))


def test_signs_of_life_never_wait_for_a_gateway_that_reads_nothing(tmp_path: Path) -> None:
    """Of two gateways one reads nothing: its socket fills up, and the other hears signs of life all the same."""
    with workers(tmp_path) as running:
        running.start(0, {1: 0.001}, batch=20_000, hang_timeout_s=LIMIT_S)
        running.wait_ready(1)
        made = spec(tmp_path, 0, {})
        with connected(tmp_path, made.socket_name, 20.0) as deaf, reading(made) as other:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(b"".join(run_parts(1, [query(20_000)])))
            for _ in range(3):
                other.beat()
