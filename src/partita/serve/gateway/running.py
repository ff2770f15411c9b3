"""A gateway from its start to its end: workers, both transports, signals, and an orderly stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.serve.gateway.access import Authenticator, host_and_port
from partita.serve.gateway.grpc_server import GrpcServer, InferenceService
from partita.serve.gateway.http_api import HttpApi
from partita.serve.gateway.http_server import HttpServer
from partita.serve.gateway.oip import ModelRepository
from partita.serve.gateway.statistics import WorkerStatus

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence

    from partita.serve.gateway.access import Tls
    from partita.serve.gateway.gateway import Gateway
    from partita.serve.gateway.metrics import Metrics
    from partita.serve.gateway.oip import RequestLimits
    from partita.serve.supervisor import Supervisor

_LOG = logging.getLogger("partita.serve")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK_S = 0.25
_MOST_NAMES = 5
_REFUSING_S = 1.0
"""Seconds in which requests are still refused when all that was under way has ended: clients that keep connections
hear that these are closed, and load balancers look elsewhere, where a closed port would be an error to them."""
_YOUNG = 20_000
"""Objects more than there were before the collector looks: requests under way make and leave some thousands, and none
of those needs it."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the gateway listens, and who may ask.

    Attributes:
        listener: of HTTP.
        host: of gRPC.
        grpc_port: 0 takes a free one.
        token: that requests must carry, None for none.
        tls: None for plain text.
        limits: of requests.
    """

    listener: socket.socket
    host: str
    grpc_port: int
    token: str | None
    tls: Tls | None
    limits: RequestLimits


async def run(
    gateway: Gateway,
    services: Sequence[str],
    metrics: Metrics,
    access: Access,
    *,
    supervisor: Supervisor | None,
    grace_s: float,
) -> bool:
    """Serve until told to end by SIGTERM or SIGINT, finish what is under way, and return.

    Args:
        gateway: not yet started.
        services: names of all services.
        metrics: told of every query's end by the gateway.
        access: where to listen.
        supervisor: of the workers, not yet started; None where others start them.
        grace_s: seconds for finishing.

    Returns:
        Whether it ended in order; False if a second signal cut it short.

    Raises:
        InputError: the port for gRPC cannot be had.
    """
    ask, hurry = asyncio.Event(), asyncio.Event()
    with _signals_to(ask, hurry):
        async with AsyncExitStack() as stack:
            if supervisor is not None:
                supervisor.start()
                stack.push_async_callback(_stop_workers, supervisor, hurry, grace_s)
            await gateway.start()
            stack.push_async_callback(gateway.close)
            metrics.watch(gateway.snapshot)
            http, grpc = await _listen(
                ModelRepository(gateway, services, access.limits), metrics, access, stack
            )
            _announce(access, grpc, services)
            gc.collect()
            gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
            gc.freeze()  # what planning and imports left lives as long as we do: no collection need look at it
            async with _readiness_told(gateway, services):
                await ask.wait()
            _LOG.info("draining: finishing what is under way within %g seconds", grace_s)
            await _unless(hurry, _end(gateway, http, grpc, grace_s))
    _LOG.info("ended")
    return not hurry.is_set()


async def _end(gateway: Gateway, http: HttpServer, grpc: GrpcServer, grace_s: float) -> None:
    """Refuse what comes, over new connections too, until all that was under way has ended or the grace is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + grace_s

    def left() -> float:
        return max(0.0, end - loop.time())

    http.drain()
    await gateway.drain(left())
    await http.answered(left())
    await asyncio.sleep(min(_REFUSING_S, left()))
    await asyncio.gather(http.stop(left()), grpc.stop(left()))


async def _listen(
    models: ModelRepository, metrics: Metrics, access: Access, stack: AsyncExitStack
) -> tuple[HttpServer, GrpcServer]:
    authenticator = Authenticator(access.token)
    service = InferenceService(models, authenticator, metrics.refusals)
    grpc = GrpcServer(service, access.host, access.grpc_port, most=access.limits.body, tls=access.tls)
    await grpc.start()
    stack.push_async_callback(grpc.stop, 0.0)
    http = HttpServer(
        HttpApi(models, metrics.page, authenticator),
        access.listener,
        tls=access.tls,
        refusals=metrics.refusals,
    )
    await http.start()
    stack.push_async_callback(http.stop, 0.0)
    return http, grpc


def _announce(access: Access, grpc: GrpcServer, services: Sequence[str]) -> None:
    host, port = access.listener.getsockname()[:2]
    http = f"{'https' if access.tls else 'http'}://{host_and_port(host, port)}"
    _LOG.info(
        "serving %d service%s: HTTP at %s, gRPC at %s",
        len(services),
        "" if len(services) == 1 else "s",
        http,
        host_and_port(host, grpc.port),
        extra={
            "event": "listening",
            "http": http,
            "grpc": host_and_port(host, grpc.port),
            "services": list(services),
        },
    )


@asynccontextmanager
async def _readiness_told(gateway: Gateway, services: Sequence[str]) -> AsyncIterator[None]:
    """Log, while the block runs, when a service gets its first worker or has lost its last, and who falls silent."""
    tasks = [
        asyncio.create_task(_tell_readiness(gateway, services)),
        asyncio.create_task(_tell_silence(gateway)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _tell_readiness(gateway: Gateway, services: Sequence[str]) -> None:
    known: set[str] = set()
    waited = [service for service in services if not gateway.ready(service)]
    if waited:
        more = f" and {len(waited) - _MOST_NAMES} more" if len(waited) > _MOST_NAMES else ""
        _LOG.info("waiting for workers of %s%s", ", ".join(waited[:_MOST_NAMES]), more)
    while True:
        ready = {service for service in services if gateway.ready(service)}
        for service in sorted(ready - known):
            _LOG.info("%s is ready", service, extra={"event": "ready", "service": service})
        for service in sorted(known - ready):
            _LOG.warning(
                "%s has no worker that can answer", service, extra={"event": "not ready", "service": service}
            )
        known = ready
        await asyncio.sleep(_LOOK_S)


async def _tell_silence(gateway: Gateway) -> None:
    known: set[str] = set()
    while True:
        workers = gateway.snapshot().workers
        silent = {each.name for each in workers if each.state is WorkerStatus.SUSPECTED}
        for name in sorted(silent - known):
            more = {"event": "suspected", "instance": name}
            _LOG.warning("%s fails or does not answer: it gets nothing new until it does", name, extra=more)
        for name in sorted((known - silent) & {each.name for each in workers}):
            _LOG.info("%s answers again", name, extra={"event": "answers again", "instance": name})
        known = silent
        await asyncio.sleep(_LOOK_S)


async def _unless(hurry: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do the work, or leave it when told to hurry."""
    doing = asyncio.create_task(work)
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait((doing, hurrying), return_when=asyncio.FIRST_COMPLETED)
    for each in (doing, hurrying):
        each.cancel()
        with suppress(asyncio.CancelledError):
            await each


async def _stop_workers(supervisor: Supervisor, hurry: asyncio.Event, grace_s: float) -> None:
    await asyncio.to_thread(supervisor.stop, 0.0 if hurry.is_set() else grace_s)


@contextmanager
def _signals_to(ask: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    """Have the first signal ask for an end, and the next one for haste."""

    def take() -> None:
        (hurry if ask.is_set() else ask).set()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, take)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
