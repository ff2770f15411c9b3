"""Workers that are reached by their addresses: found, proved, let go, cut off, and shared by several gateways."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.process.ports import free_ports
from tests.serve.gateway.certificates import make_certificates
from tests.serve.gateway.remote import PATIENCE_S, TOKEN, RemoteWorker, remote_workers
from tests.serve.gateway.workers import query, spec

from partita.serve.dispatching.query import QueryRefusedError, RefusalReason
from partita.serve.gateway.addresses import Served, WorkerAccess
from partita.serve.gateway.gateway import Gateway
from partita.serve.gateway.route import ServedService
from partita.serve.services import WorkerAddress
from partita.serve.tls import ClientTrust
from partita.serve.worker.spec import ListenSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from partita.serve.tensors import Answer


SERVICES = [ServedService("one", "m", 120.0)]
"""In time, however slow the machine is: what these tests ask is answered."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def gateway(folder: Path, *addresses: WorkerAddress, **more: object) -> AsyncIterator[Gateway]:
    made = Gateway(SERVICES, folder / "none", **more)  # type: ignore[arg-type]
    await made.start()
    made.follow(Served(SERVICES, addresses))
    try:
        yield made
    finally:
        await made.close()


async def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.005)


def able(made: Gateway) -> int:
    return made._routes["one"].dispatcher.fleet.able


def ask(made: Gateway, count: int, batch: int = 1) -> list[asyncio.Task[Answer]]:
    return [asyncio.create_task(made.infer("one", query(batch, fill % 256))) for fill in range(count)]


def right(answers: list[Answer]) -> bool:
    given = [bytes(each.outputs[0].data) for each in answers]
    return all(data and data == bytes([at % 256]) * len(data) for at, data in enumerate(given))


def test_a_worker_that_comes_later_is_found_and_answers(tmp_path: Path) -> None:
    (port,) = free_ports(1)

    async def body() -> None:
        async with gateway(tmp_path, WorkerAddress("one", "127.0.0.1", port)) as made:
            with pytest.raises(QueryRefusedError) as refused:
                await made.infer("one", query())
            assert refused.value.reason is RefusalReason.NO_WORKER
            found.start({1: 0.001}, {"port": port})
            await until(lambda: able(made) == 1)
            assert right(await asyncio.gather(*ask(made, 100)))

    with remote_workers(tmp_path) as found:
        asyncio.run(body())


def test_large_queries_pass_over_tcp_and_tls(tmp_path: Path, certificates: Path) -> None:
    async def body(*workers: RemoteWorker) -> None:
        plain, sealed = workers
        tls = WorkerAccess(TOKEN, ClientTrust(certificates / "ca.pem"), "localhost")
        async with (
            gateway(tmp_path, plain.address) as one,
            gateway(tmp_path, sealed.address, access=tls) as other,
        ):
            for made in (one, other):
                await until(lambda made=made: able(made) == 1)  # type: ignore[misc]
                for batch in (1, 8, 20_000):
                    answers = await asyncio.gather(*ask(made, 8, batch))
                    assert right(answers)
                    assert all(each.outputs[0].shape == (batch, 16) for each in answers)

    files = {"cert": str(certificates / "server.pem"), "key": str(certificates / "server.key")}
    with remote_workers(tmp_path) as found:
        plain = found.start({1: 0.001, 20_000: 0.01}, batch=20_000, processes=2)
        asyncio.run(
            body(
                plain,
                found.start({1: 0.001, 20_000: 0.01}, dict(files), token=True, batch=20_000, processes=2),
            )
        )


@pytest.mark.parametrize(
    ("access", "told"),
    [
        (WorkerAccess(), "it requires a token"),
        (WorkerAccess("another-token-of-some-length"), "it does not know the token"),
        (WorkerAccess(TOKEN), None),
    ],
)
def test_who_does_not_know_the_token_is_turned_away(
    tmp_path: Path, access: WorkerAccess, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(worker: RemoteWorker) -> None:
        async with gateway(tmp_path, worker.address, access=access) as made:
            await until(lambda: able(made) or caplog.text)
            assert able(made) == (told is None)
            assert (told or "") in caplog.text

    with remote_workers(tmp_path) as found, caplog.at_level(logging.WARNING):
        worker = found.start({1: 0.001}, token=True)
        worker.wait_listening()
        caplog.clear()
        asyncio.run(body(worker))


def test_a_gateway_with_a_token_trusts_no_worker_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(worker: RemoteWorker) -> None:
        async with gateway(tmp_path, worker.address, access=WorkerAccess(TOKEN)) as made:
            await until(lambda: "no proof that it knows the token" in caplog.text)
            assert not able(made)

    with remote_workers(tmp_path) as found, caplog.at_level(logging.WARNING):
        asyncio.run(body(found.start({1: 0.001})))


def test_a_worker_at_the_address_of_another_service_is_not_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(worker: RemoteWorker) -> None:
        wrong = WorkerAddress("two", "127.0.0.1", worker.listen.port)
        made = Gateway([], tmp_path / "none")
        await made.start()
        made.follow(Served([*SERVICES, ServedService("two", "m", 20.0)], [wrong]))
        await until(lambda: "the worker serves one, not two" in caplog.text)
        assert not made.ready("two")
        await made.close()

    with remote_workers(tmp_path) as found, caplog.at_level(logging.WARNING):
        asyncio.run(body(found.start({1: 0.001})))


def test_beyond_loopback_a_worker_needs_a_token(tmp_path: Path) -> None:
    made = spec(None, 0, {1: 0.001}, listen=ListenSpec("127.0.0.1", 0))
    path = tmp_path / "spec.json"
    path.write_text(made.text().replace('"host": "127.0.0.1"', '"host": "0.0.0.0"'))
    ended = subprocess.run(
        [sys.executable, "-m", "partita.serve.worker", str(path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "listen.host: 0.0.0.0 can be reached by others" in ended.stderr
    assert "hint: name the file of a token" in ended.stderr


def test_addresses_are_followed_and_what_runs_is_finished(tmp_path: Path) -> None:
    async def body(first: RemoteWorker, second: RemoteWorker) -> None:
        async with gateway(tmp_path, first.address) as made:
            await until(lambda: able(made) == 1)
            asked = ask(made, 6)
            await until(lambda: made.snapshot().services[0].in_flight)
            made.follow(Served(SERVICES, [second.address]))
            assert right(await asyncio.gather(*asked))
            await until(lambda: [each.name for each in made.snapshot().workers] == ["node-0/gpu-1/1g.10gb@0"])
            assert right(await asyncio.gather(*ask(made, 6)))
            seen = made.statistics("one")
            assert (seen.success.count, seen.fail.count) == (12, 0)

    with remote_workers(tmp_path) as found:
        workers = found.start({1: 0.05}), found.start({1: 0.05})
        for each in workers:
            each.wait_listening()
        asyncio.run(body(*workers))


def test_a_worker_told_to_end_finishes_and_is_found_again(tmp_path: Path) -> None:
    async def body(worker: RemoteWorker) -> None:
        async with gateway(tmp_path, worker.address) as made:
            await until(lambda: able(made) == 1)
            asked = ask(made, 1)
            await until(lambda: made.snapshot().services[0].in_flight)
            worker.process.terminate()
            assert right(await asyncio.gather(*asked))
            assert await asyncio.to_thread(worker.process.wait, PATIENCE_S) == 0
            await until(lambda: not made.snapshot().workers)
            found.start({1: 0.001}, {"port": worker.listen.port})
            await until(lambda: able(made) == 1)
            assert right(await asyncio.gather(*ask(made, 10)))

    with remote_workers(tmp_path) as found:
        asyncio.run(body(found.start({1: 0.3})))


def test_services_are_followed_too(tmp_path: Path) -> None:
    async def body(worker: RemoteWorker) -> None:
        async with gateway(tmp_path, worker.address) as made:
            await until(lambda: able(made) == 1)
            asked = ask(made, 3)
            await until(lambda: made.snapshot().services[0].in_flight)
            made.follow(Served([ServedService("two", "m", 20.0)], []))
            with pytest.raises(QueryRefusedError) as refused:
                await made.infer("one", query())
            assert refused.value.reason is RefusalReason.DRAINING
            assert right(await asyncio.gather(*asked))
            await until(lambda: made.model("one") is None)
            made.follow(Served([ServedService("one", "m", 7.0)], [worker.address]))
            await until(lambda: able(made) == 1)
            assert right(await asyncio.gather(*ask(made, 3)))
            model = made.model("one")
            assert model is not None
            assert model.deadline_s == 7.0

    with remote_workers(tmp_path) as found:
        asyncio.run(body(found.start({1: 0.05})))


def test_two_gateways_do_not_both_take_a_busy_worker_for_idle(tmp_path: Path) -> None:
    async def body(*workers: RemoteWorker) -> None:
        addresses = [each.address for each in workers]
        async with gateway(tmp_path, *addresses) as one, gateway(tmp_path, *addresses) as other:
            await until(lambda: able(one) == able(other) == 2)
            (first,) = ask(one, 1)
            await until(lambda: sum(each.elsewhere for each in other.workers("one")) == 1)
            busy = next(each for each in other.workers("one") if each.elsewhere)
            assert not busy.takes_work
            (second,) = ask(other, 1)
            await until(lambda: any(each.running for each in other.workers("one")))
            assert not busy.running
            waiting = ask(other, 1)  # nobody is idle now: it waits here, where it could be joined or refused
            await asyncio.sleep(0)
            assert other.snapshot().services[0].waiting == 1
            assert right([await first, await second, *await asyncio.gather(*waiting)][:1])
            await until(
                lambda: not any(each.elsewhere for each in (*one.workers("one"), *other.workers("one")))
            )
            assert sum(each.answered for each in other.snapshot().workers) == 2
            # What another gateway's batch made it wait is not taken for slowness.
            assert all(each.slowdown < 1.5 for each in (*one.snapshot().workers, *other.snapshot().workers))

    with remote_workers(tmp_path) as found:
        asyncio.run(body(found.start({1: 1.0}), found.start({1: 1.0})))


def test_what_a_batch_waited_for_others_is_told(tmp_path: Path) -> None:
    async def body(worker: RemoteWorker) -> None:
        async with gateway(tmp_path, worker.address) as one, gateway(tmp_path, worker.address) as other:
            await until(lambda: able(one) == able(other) == 1)
            # Both at once, before either has heard of the other's.
            await asyncio.gather(*[task for _ in range(5) for made in (one, other) for task in ask(made, 1)])
            for made in (one, other):
                assert [each.slowdown < 1.5 for each in made.snapshot().workers] == [True]

    with remote_workers(tmp_path) as found:
        asyncio.run(body(found.start({1: 0.1})))
