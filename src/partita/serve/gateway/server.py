"""Runs a gateway: starts workers and both transports, handles signals, writes the log, and stops in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import uvloop

from partita.log_lines import JsonFormatter
from partita.process.keeper import ending_signals
from partita.serve.gateway.access import Authenticator, host_and_port, listening
from partita.serve.gateway.addresses import OPEN
from partita.serve.gateway.gateway import Gateway, ModelRepository
from partita.serve.gateway.grpc_server import GrpcServer, InferenceService
from partita.serve.gateway.http_api import HttpApi
from partita.serve.gateway.http_server import HttpServer
from partita.serve.gateway.metrics import Metrics
from partita.serve.gateway.oip import RequestLimits
from partita.serve.gateway.route import no_starts
from partita.serve.gateway.statistics import WorkerStatus

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
    from pathlib import Path

    from partita.serve.gateway.access import Endpoint
    from partita.serve.gateway.addresses import Served, ServiceSource, WorkerAccess
    from partita.serve.gateway.route import ServedService
    from partita.serve.gateway.tracing import RequestTracer
    from partita.serve.supervisor import Supervisor

_LOG = logging.getLogger("partita.serve")
_LOOK_S = 0.25
_MOST_NAMES = 5
_REFUSING_S = 1.0
"""Seconds for which requests are still refused after all others have ended: clients with open connections learn that
these are closed, and load balancers go elsewhere, where a closed port would be an error for them."""
_TURN_S = 0.001
"""Seconds for which another thread, as one that writes a page, may hold up queries; by default it is 0.005."""
_YOUNG = 20_000
"""Threshold of the garbage collector's youngest generation: running requests create some thousand objects, which need
no collection."""


class Remotes(NamedTuple):
    """Workers on other hosts: the source of their addresses, and the credentials for them."""

    source: ServiceSource
    access: WorkerAccess


def serve(
    services: Sequence[ServedService],
    workers: Path | None,
    endpoint: Endpoint,
    *,
    router: str,
    max_body: int,
    grace_s: float,
    json_log: bool,
    supervisor: Supervisor | None = None,
    rates: Path | None = None,
    remotes: Remotes | None = None,
    tracer: RequestTracer | None = None,
) -> bool:
    """Serve until SIGTERM, SIGINT or SIGHUP, then finish running requests and return.

    Args:
        services: to be served.
        workers: folder of the sockets of this host's workers; None if there are none.
        endpoint: where to listen, and the credentials of clients.
        router: name of the policy.
        max_body: bytes of the largest request.
        grace_s: seconds for finishing running requests.
        json_log: whether to write the log as JSON.
        supervisor: of the workers, not yet started; None if others start them.
        rates: file to which observed rates are written.
        remotes: workers on other hosts.
        tracer: makes spans of requests, and is closed at the end; None for none.

    Returns:
        Whether it ended in order; False if a second signal cut it short.

    Raises:
        InputError: a port cannot be used, or there is no such router.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:  # each client and each worker needs a file descriptor
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def serving(listener: socket.socket) -> bool:
        gateway = Gateway(
            services,
            workers,
            router=router,
            rates=rates,
            starts=no_starts if supervisor is None else supervisor.starts,
            access=OPEN if remotes is None else remotes.access,
        )
        models = ModelRepository(gateway, [each.name for each in services], RequestLimits(body=max_body))
        return await _run(
            models,
            Metrics(gateway.snapshot),
            endpoint,
            listener,
            supervisor=supervisor,
            source=None if remotes is None else remotes.source,
            grace_s=grace_s,
            tracer=tracer,
        )

    with logged(as_json=json_log), listening(endpoint.host, endpoint.port, "--port") as listener:
        return uvloop.run(serving(listener))


async def _run(
    models: ModelRepository,
    metrics: Metrics,
    endpoint: Endpoint,
    listener: socket.socket,
    *,
    supervisor: Supervisor | None,
    source: ServiceSource | None,
    grace_s: float,
    tracer: RequestTracer | None,
) -> bool:
    gateway = models.gateway
    ask, hurry = asyncio.Event(), asyncio.Event()
    with signals_to(ask, hurry):
        async with AsyncExitStack() as stack:
            if tracer is not None:
                stack.push_async_callback(asyncio.to_thread, tracer.close)
            if supervisor is not None:
                supervisor.start()
                stack.push_async_callback(_stop_workers, supervisor, hurry, grace_s)
            await gateway.start()
            stack.push_async_callback(gateway.close)
            authenticator = Authenticator(endpoint.token)
            grpc = GrpcServer(
                InferenceService(models, authenticator, metrics.errors, tracer),
                endpoint.host,
                endpoint.grpc_port,
                most=models.limits.body,
                tls=endpoint.tls,
            )
            await grpc.start()
            stack.push_async_callback(grpc.stop, 0.0)
            api = HttpApi(models, metrics.prepared, authenticator)
            if source is not None:
                _follow(models, api, source.found)
                await stack.enter_async_context(background(source.follow(partial(_follow, models, api))))
                await gateway.know_all()
            http = HttpServer(api, listener, tls=endpoint.tls, errors=metrics.errors, tracer=tracer)
            await http.start()
            stack.push_async_callback(http.stop, 0.0)
            _announce(endpoint, listener, grpc, models.services)
            gc.collect()
            gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
            sys.setswitchinterval(_TURN_S)
            gc.freeze()  # objects of planning and imports live as long as the process, so collections skip them
            async with _readiness_logged(models):
                await ask.wait()
            _LOG.info("draining: finishing running requests within %g seconds", grace_s)
            await unless(hurry, _end(gateway, http, grpc, grace_s))
    _LOG.info("ended")
    return not hurry.is_set()


def _follow(models: ModelRepository, api: HttpApi, served: Served) -> None:
    """Serve from now on what a source lists."""
    models.gateway.follow(served)
    names = tuple(each.name for each in served.services)
    if names != models.services:
        models.services = names
        api.list_paths()


@contextmanager
def signals_to(ask: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    """While the block runs, set `ask` at the first signal to end, and `hurry` at the next one."""

    def take() -> None:
        (hurry if ask.is_set() else ask).set()

    loop = asyncio.get_running_loop()
    heeded = ending_signals()
    for number in heeded:
        loop.add_signal_handler(number, take)
    try:
        yield
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)


async def _stop_workers(supervisor: Supervisor, hurry: asyncio.Event, grace_s: float) -> None:
    await asyncio.to_thread(supervisor.stop, 0.0 if hurry.is_set() else grace_s)


def _announce(endpoint: Endpoint, listener: socket.socket, grpc: GrpcServer, services: Sequence[str]) -> None:
    host, port = listener.getsockname()[:2]
    at_http = f"{'https' if endpoint.tls else 'http'}://{host_and_port(host, port)}"
    at_grpc = host_and_port(host, grpc.port)
    _LOG.info(
        "serving %d service%s: HTTP at %s, gRPC at %s",
        len(services),
        "" if len(services) == 1 else "s",
        at_http,
        at_grpc,
        extra={"event": "listening", "http": at_http, "grpc": at_grpc, "services": list(services)},
    )


async def _end(gateway: Gateway, http: HttpServer, grpc: GrpcServer, grace_s: float) -> None:
    """Refuse new requests, also on new connections, until running ones have ended or the grace period is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + grace_s

    def left() -> float:
        return max(0.0, end - loop.time())

    http.drain()
    await gateway.drain(left())
    await http.answered(left())
    await asyncio.sleep(min(_REFUSING_S, left()))
    await asyncio.gather(http.stop(left()), grpc.stop(left()))


async def unless(hurry: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do the work, but cancel it when `hurry` is set."""
    doing = asyncio.create_task(work)
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait((doing, hurrying), return_when=asyncio.FIRST_COMPLETED)
    for each in (doing, hurrying):
        each.cancel()
        with suppress(asyncio.CancelledError):
            await each


@asynccontextmanager
async def _readiness_logged(models: ModelRepository) -> AsyncIterator[None]:
    """While the block runs, log when services become ready or lose their last worker, and suspected workers."""
    async with background(_tell_readiness(models)), background(_tell_silence(models.gateway)):
        yield


@asynccontextmanager
async def background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run a task while the block runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tell_readiness(models: ModelRepository) -> None:
    gateway, known = models.gateway, set[str]()
    waited = [service for service in models.services if not gateway.ready(service)]
    if waited:
        more = f" and {len(waited) - _MOST_NAMES} more" if len(waited) > _MOST_NAMES else ""
        _LOG.info("waiting for workers of %s%s", ", ".join(waited[:_MOST_NAMES]), more)
    while True:
        ready = {service for service in models.services if gateway.ready(service)}
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
            _LOG.warning("%s fails or does not answer: it gets no queries until it does", name, extra=more)
        for name in sorted((known - silent) & {each.name for each in workers}):
            _LOG.info("%s answers again", name, extra={"event": "answers again", "instance": name})
        known = silent
        await asyncio.sleep(_LOOK_S)


# The log on stderr

_LEVELS = {"": logging.WARNING, "partita": logging.INFO, "asyncio": logging.ERROR, "grpc": logging.ERROR}


@contextmanager
def logged(*, as_json: bool) -> Iterator[None]:
    """While the block runs, write Partita's log and the warnings and errors of all libraries to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    loggers = [(logging.getLogger(name), level) for name, level in _LEVELS.items()]
    before = [logger.level for logger, _ in loggers]
    logging.getLogger().addHandler(handler)
    for logger, level in loggers:
        logger.setLevel(level)
    logging.captureWarnings(as_json)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)
        for (logger, _), level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class TextFormatter(logging.Formatter):
    """Formats each record as time, level unless it is INFO, and text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the traceback if there is one."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        message = record.getMessage()
        if not message.isprintable():  # a worker's last output may contain anything
            message = message.encode("unicode_escape").decode()
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{message}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text
