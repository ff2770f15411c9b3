from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.serve.dispatching.rehearsal import hello
from tests.serve.gateway.workers import Workers, document, query, workers

from partita.errors import InputError
from partita.series.rates import read_rates
from partita.serve.dispatching.query import QueryRefusedError, RefusalReason
from partita.serve.gateway.gateway import Gateway
from partita.serve.gateway.route import ServedService
from partita.serve.gateway.statistics import WorkerStatus
from partita.serve.worker.spec import DEFAULT_INPUTS, DEFAULT_OUTPUTS, EmulatedSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from partita.serve.tensors import Answer

SLOW = 1.0
"""Seconds of a batch that a test wants to catch under way."""


@asynccontextmanager
async def gateway(folder: Path, deadline_s: float = 20.0, **more: object) -> AsyncIterator[Gateway]:
    made = Gateway([ServedService("one", "m", deadline_s)], folder, **more)  # type: ignore[arg-type]
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def with_workers(
    folder: Path,
    body: Callable[[Workers], Coroutine[object, object, None]],
    *tables: dict[int, float],
    **more: object,
) -> None:
    with workers(folder) as running:
        for number, seconds in enumerate(tables):
            running.start(number, seconds, **more)
        running.wait_ready(len(tables))
        asyncio.run(body(running))


async def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def ask(made: Gateway, count: int, batch: int = 1) -> list[asyncio.Task[Answer]]:
    return [asyncio.create_task(made.infer("one", query(batch, fill))) for fill in range(count)]


def same(answer: Answer, fill: int) -> bool:
    return set(bytes(answer.outputs[0].data)) == {fill}


def test_every_query_gets_its_own_answer(tmp_path: Path) -> None:
    async def body(_: Workers) -> None:
        async with gateway(tmp_path) as made:
            answers = await asyncio.gather(*ask(made, 200))
            assert all(same(answer, fill) for fill, answer in enumerate(answers))
            seen = made.statistics("one")
            assert (seen.success.count, seen.items, seen.in_time) == (200, 200, 200)
            assert (seen.fail.count, seen.cancelled, sum(seen.latency)) == (0, 0, 200)
            assert sum(each.answered for each in made.snapshot().workers) == 200
            ran = sum(size * each.count for size, each in seen.batches.items())
            assert 200 <= ran <= 200 + seen.retried  # on a busy host some are tried elsewhere, too
            assert seen.executions < 200  # some were joined
            model = made.model("one")
            assert model is not None
            assert (model.max_batch, model.inputs[0].name) == (65_536, "INPUT0")

    with_workers(tmp_path, body, {1: 0.002, 8: 0.004}, {1: 0.002, 8: 0.004})


def test_large_tensors_come_through_whole(tmp_path: Path) -> None:
    async def body(_: Workers) -> None:
        async with gateway(tmp_path) as made:
            batch = 20_000
            answers = await asyncio.gather(*ask(made, 4, batch))
            for fill, answer in enumerate(answers):
                assert len(answer.outputs[0].data) == batch * 64
                assert same(answer, fill)

    with_workers(tmp_path, body, {1: 0.001, 20_000: 0.01}, batch=20_000)


def test_queries_of_a_killed_worker_are_answered_by_another(tmp_path: Path) -> None:
    async def body(running: Workers) -> None:
        async with gateway(tmp_path) as made:
            tasks = ask(made, 2)
            await until(lambda: all(each.running for each in made.snapshot().workers))
            running.running[0].kill()
            answers = await asyncio.gather(*tasks)
            assert all(same(answer, fill) for fill, answer in enumerate(answers))
            assert made.statistics("one").retried >= 1
            assert len(made.snapshot().workers) == 1
            # The socket of the dead is removed.
            await until(lambda: len(list(tmp_path.glob("*.sock"))) == 1)

    with_workers(tmp_path, body, {1: SLOW}, {1: SLOW}, batch=1)


def test_without_another_worker_a_killed_ones_queries_fail(tmp_path: Path) -> None:
    async def body(running: Workers) -> None:
        async with gateway(tmp_path, 2 * SLOW) as made:
            (task,) = ask(made, 1)
            await until(lambda: made.snapshot().workers[0].running == 1)
            running.running[0].kill()
            with pytest.raises(QueryRefusedError, match="worker is gone or does not answer"):
                await task
            assert not made.ready("one")
            with pytest.raises(QueryRefusedError) as refused:
                await made.infer("one", query())
            assert refused.value.reason is RefusalReason.NO_WORKER

    with_workers(tmp_path, body, {1: SLOW})


def test_a_stopped_worker_gets_nothing_new_and_is_answered_for_by_another(tmp_path: Path) -> None:
    async def body(running: Workers) -> None:
        async with gateway(tmp_path) as made:
            os.kill(running.running[0].pid, signal.SIGSTOP)
            answers = await asyncio.gather(*ask(made, 6))
            assert all(same(answer, fill) for fill, answer in enumerate(answers))
            states = {each.state for each in made.snapshot().workers}
            assert states & {WorkerStatus.SLOW, WorkerStatus.SUSPECTED}
            os.kill(running.running[0].pid, signal.SIGCONT)
            await until(lambda: {each.state for each in made.snapshot().workers} == {WorkerStatus.IDLE})
            assert made.statistics("one").success.count == 6

    with_workers(tmp_path, body, {1: 0.02}, {1: 0.02}, batch=1)


def test_cancelled_queries_leave_the_queue(tmp_path: Path) -> None:
    async def body(_: Workers) -> None:
        async with gateway(tmp_path) as made:
            tasks = ask(made, 5)
            await until(lambda: made.snapshot().services[0].waiting == 4)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks[1:], return_exceptions=True)
            assert made.snapshot().services[0].waiting == 0
            assert same(await tasks[0], 0)
            assert made.statistics("one").cancelled == 4

    with_workers(tmp_path, body, {1: SLOW}, batch=1)


def test_a_repartition_under_load_fails_nothing(tmp_path: Path) -> None:
    async def body(running: Workers) -> None:
        async with gateway(tmp_path) as made:
            stop = asyncio.Event()

            async def client() -> int:
                count = 0
                while not stop.is_set():
                    await made.infer("one", query())
                    count += 1
                return count

            clients = [asyncio.create_task(client()) for _ in range(4)]
            await until(lambda: made.statistics("one").success.count > 20)
            for number in (0, 1):
                running.start(number + 2, {1: 0.005})
                await until(lambda: len(made.snapshot().workers) == 3)
                running.running[number].terminate()
                await until(lambda: len(made.snapshot().workers) == 2)
                assert running.running[number].wait(60) == 0
            before = made.statistics("one").success.count
            await until(lambda: made.statistics("one").success.count > before + 20)
            stop.set()
            assert sum(await asyncio.gather(*clients)) == made.statistics("one").success.count
            assert made.statistics("one").fail.count == 0

    with_workers(tmp_path, body, {1: 0.005}, {1: 0.005})


def test_draining_refuses_what_comes_and_finishes_what_is_there(tmp_path: Path) -> None:
    async def body(_: Workers) -> None:
        async with gateway(tmp_path) as made:
            tasks = ask(made, 2)
            await asyncio.sleep(0)
            drained = asyncio.create_task(made.drain(20.0))
            await asyncio.sleep(0)
            with pytest.raises(QueryRefusedError) as refused:
                await made.infer("one", query())
            assert refused.value.reason is RefusalReason.DRAINING
            await drained
            assert all(task.done() and task.exception() is None for task in tasks)

    with_workers(tmp_path, body, {1: 0.05}, batch=1)


def test_overload_is_refused_while_the_rest_is_in_time(tmp_path: Path) -> None:
    async def body(_: Workers) -> None:
        async with gateway(tmp_path, 2.0) as made:
            results = await asyncio.gather(*ask(made, 100), return_exceptions=True)
            refused = [each for each in results if isinstance(each, QueryRefusedError)]
            assert 50 <= len(refused) <= 95
            assert all(each.reason is RefusalReason.LATE and each.retry_after_s > 0 for each in refused)
            told = made.statistics("one").refused
            assert {reason for reason, count in told.items() if count} == {RefusalReason.LATE}

    with_workers(tmp_path, body, {1: 0.2}, batch=1)


def test_folders_of_any_length_and_workers_that_come_later(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / "workers"

    async def body() -> None:
        async with gateway(folder) as made:
            assert not made.ready("one")
            folder.mkdir(parents=True)
            with workers(folder) as running:
                running.start(0, {1: 0.001})
                await until(lambda: made.ready("one"))
                assert same(await made.infer("one", query(1, 7)), 7)

    asyncio.run(body())


def test_rates_are_written_while_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partita.serve.gateway.gateway._RATES_S", 0.05)
    rates = tmp_path / "rates.json"

    async def body(_: Workers) -> None:
        async with gateway(tmp_path, rates=rates) as made:
            await asyncio.sleep(0.2)
            assert not rates.exists()
            await asyncio.gather(*ask(made, 90), *ask(made, 30, 4))
            # It is written time and again, also while some of them were still on their way.
            await until(
                lambda: rates.exists() and document(rates)["one"]["batches"] == {"1": 0.75, "4": 0.25}
            )
            assert 0.0 < document(rates)["one"]["rate"] <= 210.0

    with_workers(tmp_path, body, {1: 0.001})
    assert document(rates) == {}


def test_rates_have_a_history_from_which_a_day_can_be_forecast(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("partita.serve.gateway.gateway.HISTORY_S", 0.05)
    history = tmp_path / "rates-history.csv"

    def measured() -> list[float]:
        times = read_rates(history, ["one"], others=True).times if history.exists() else ()
        return [each.rates["one"] for each in times]

    async def body(_: Workers) -> None:
        async with gateway(tmp_path, rates=tmp_path / "rates.json") as made:
            await until(lambda: measured()[-1:] == [0.0])
            await asyncio.gather(*ask(made, 30, 4))
            await until(lambda: max(measured()) > 0)

    with_workers(tmp_path, body, {1: 0.001})


def test_what_speaks_no_protocol_of_ours_is_left_alone(tmp_path: Path) -> None:
    async def body(_: Workers) -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            del reader
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello, this is no worker of yours")
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(babble, tmp_path / "strange@0-x.sock")
        async with server, gateway(tmp_path) as made:
            assert same(await made.infer("one", query(1, 3)), 3)
            assert len(made.snapshot().workers) == 1

    with_workers(tmp_path, body, {1: 0.001})


def test_a_worker_that_is_slower_than_its_table_is_believed(tmp_path: Path) -> None:
    async def body(_: Workers) -> None:
        async with gateway(tmp_path) as made:
            for _number in range(8):
                await made.infer("one", query())
            (worker,) = made.snapshot().workers
            assert worker.slowdown > 3.0

    with_workers(tmp_path, body, {1: 0.01}, backend=EmulatedSpec(slow_down=5.0))


@pytest.mark.parametrize("deadline_s", [float("inf"), float("nan"), 1e300])
def test_deadlines_of_any_length_are_taken(tmp_path: Path, deadline_s: float) -> None:
    async def body(_: Workers) -> None:
        async with gateway(tmp_path) as made:
            assert same(await made.infer("one", query(1, 5), deadline_s), 5)
            empty = await made.infer("one", query(0), deadline_s)
            assert empty.error is None or empty.invalid

    with_workers(tmp_path, body, {1: 0.001})


@pytest.mark.parametrize("numbers", [{"batch": 0}, {"processes": 0}, {"batch": 1 << 30}])
def test_a_worker_whose_numbers_make_no_sense_is_left_alone(tmp_path: Path, numbers: dict[str, int]) -> None:
    async def body(_: Workers) -> None:
        async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(hello(**numbers).packed())  # type: ignore[arg-type]
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(pretend, tmp_path / "strange@0-x.sock")
        async with server, gateway(tmp_path) as made:
            assert same(await made.infer("one", query(1, 3)), 3)
            assert len(made.snapshot().workers) == 1

    with_workers(tmp_path, body, {1: 0.001})


def test_unknown_routers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        Gateway([], tmp_path, router="late-bindin")
    assert error.value.hint == "did you mean late-binding?"


def test_a_worker_that_talks_nonsense_is_tried_again_ever_more_rarely(tmp_path: Path) -> None:
    # Its tensors are those of the others: else it would be of no use, and left alone.
    made, came = hello().replace(inputs=DEFAULT_INPUTS, outputs=DEFAULT_OUTPUTS), 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        writer.write(made.packed() + bytes(range(256)))
        await reader.read()
        writer.close()

    async def body(_: Workers) -> None:
        server = await asyncio.start_unix_server(talk, tmp_path / "node-0_gpu-9@0-t9.sock")
        async with server, gateway(tmp_path) as front:
            await until(lambda: came >= 1)
            began = time.monotonic()
            await until(lambda: came >= 2)
            assert time.monotonic() - began > 0.5
            answers = await asyncio.gather(*ask(front, 20))
            assert all(same(answer, fill) for fill, answer in enumerate(answers))

    with_workers(tmp_path, body, {1: 0.001})


def test_a_gateway_that_was_held_up_blames_no_worker(tmp_path: Path) -> None:
    async def body(_: Workers) -> None:
        async with gateway(tmp_path) as made:
            for _turn in range(3):
                answers = ask(made, 2)
                await asyncio.sleep(0.01)
                time.sleep(1.2)  # noqa: ASYNC251 -- the event loop itself is held up
                assert all(same(each, fill) for fill, each in enumerate(await asyncio.gather(*answers)))
            seen = made.statistics("one")
            assert (seen.retried, seen.fail.count) == (0, 0)

    with_workers(tmp_path, body, {1: 0.02}, {1: 0.02})
