"""The gateway's runtime: connects to workers, routes queries to them, and returns their answers.

Workers on this host are found by their sockets in a folder, others by their addresses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.serve.dispatching.fleet import fluid_prices
from partita.serve.dispatching.query import (
    AnswerReceiver,
    PendingQuery,
    QueryFailedError,
    QueryRefusedError,
    RefusalReason,
    UnreadyReason,
)
from partita.serve.dispatching.turns import InstanceTurns
from partita.serve.gateway.addresses import OPEN, WorkerAccess, WorkerAddresses
from partita.serve.gateway.link import Link, WorkersFolder
from partita.serve.gateway.oip import VERSION, Model, RequestError, RequestLimits, Signature, quoted
from partita.serve.gateway.rates_history import FORGET_S, HISTORY_S, RATES_HISTORY, RatesHistory
from partita.serve.gateway.route import Route, ServedService, WorkerStarts, no_starts
from partita.serve.gateway.statistics import (
    ATTAINMENT_STEP_S,
    GatewaySnapshot,
    ServiceStatistics,
    rates,
    write_rates,
)
from partita.serve.gateway.watchdog import LOOK_S, Watchdog
from partita.serve.routers import live_router

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from pathlib import Path

    from partita.serve.dispatching.query import Worker
    from partita.serve.gateway.addresses import Served
    from partita.serve.tensors import Answer, Query
    from partita.serve.worker.wire import Hello

_LOG = logging.getLogger(__name__)
_TICK_S = 0.005
_IDLE_TICKS = 4
"""An idle service is ticked only every so many ticks: its corrections can wait, and there may be hundreds of them."""
_HELD_UP_S = 0.025
_POLL_S = 0.001
_PRICES_S = 2.0
_RATES_S = 5.0
_HELLO_S = 1.0
_REACHED_S = 3.0
"""Seconds to wait until new workers are connected and have sent HELLO."""
_LEAVING_S = 3600.0
"""Seconds that a removed worker has for its running batches; the watchdog finds one that hangs before."""
_MOST_BATCH, _MOST_PROCESSES = 1 << 16, 1 << 10
_WORKER = "partita.serve.worker"


class Gateway:
    """Routes queries to workers. All its methods must be called in one event loop.

    Args:
        services: to be served.
        folder: in which the sockets of this host's workers appear; None if there are none.
        router: name of the policy: `late-binding`, `price`, `elsa` or `fifs`.
        batching: whether waiting queries are joined into batches.
        dividing: whether queries with more rows than a worker takes are split.
        rates: file to which observed rates are written, with their history beside it; None for no file.
        starts: says when workers will be started again, so that queries can wait for them.
        access: credentials for workers on other hosts.

    Raises:
        InputError: there is no such router.
    """

    def __init__(
        self,
        services: Sequence[ServedService],
        folder: Path | None,
        *,
        router: str = "late-binding",
        batching: bool = True,
        dividing: bool = True,
        rates: Path | None = None,
        starts: WorkerStarts = no_starts,
        access: WorkerAccess = OPEN,
    ) -> None:
        self._watchdog = Watchdog()
        self._route = partial(
            Route,
            router=live_router(router),
            batching=batching,
            dividing=dividing,
            starts=starts,
            hung_s=self._watchdog.left_s,
        )
        self._routes = {each.name: self._route(each) for each in services}
        self._folder = WorkersFolder(folder, lambda name: Link(name, self))
        self._addresses = WorkerAddresses(
            lambda name, greeting: Link(name, self, greeting), self.let_go, access
        )
        self._rates = rates
        self._wrote_rates = False
        self._links: set[Link] = set()
        self._turns: dict[tuple[str, str, int], InstanceTurns] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ticked, self._ticks = 0.0, 0
        self._draining = False

    async def start(self) -> None:
        """Watch the folder; return when the workers that exist already are connected."""
        await self._folder.start()
        await self.know_all()
        self._spawn(self._keep_prices())
        self._spawn(self._keep_attainment())
        if self._rates is not None:
            self._spawn(self._keep_rates(self._rates))
            self._spawn(self._keep_history(RatesHistory(self._rates.with_name(RATES_HISTORY))))
        self._spawn(self._watch())
        self._tick()

    def follow(self, served: Served) -> None:
        """Serve these services from now on, with the workers at these addresses and those of the folder.

        A worker at another address gets nothing new as soon as its replacements are connected, and finishes its
        batches. A service that is not listed refuses new queries, and finishes those that it has.
        """
        if self._draining:
            return
        services = {each.name: each for each in served.services}
        for name in self._routes.keys() - services.keys():
            if not self._routes[name].dispatcher.closing:
                self._routes[name].dispatcher.close()
                self._spawn(self._end_service(name))
        for name, service in services.items():
            if name in self._routes:
                self._routes[name].change(service)
            else:
                self._routes[name] = self._route(service)
        self._addresses.follow(served.addresses)

    async def _end_service(self, name: str) -> None:
        route = self._routes[name]
        dispatcher = route.dispatcher
        await until(
            lambda: not dispatcher.closing or (dispatcher.idle and not dispatcher.fleet.workers), _LEAVING_S
        )
        if dispatcher.closing:
            del self._routes[name]

    async def drain(self, grace_s: float) -> None:
        """Refuse new queries, and return when all others have ended or the grace period is over."""
        self._draining = True
        for route in self._routes.values():
            route.dispatcher.close()
        await until(lambda: all(each.dispatcher.idle for each in self._routes.values()), grace_s)

    async def close(self) -> None:
        """Disconnect from the workers; queries that are left are refused."""
        self._draining = True
        now = time.monotonic()
        for route in self._routes.values():
            route.execute(route.dispatcher.abort(), now)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        await self._folder.close()
        await self._addresses.close()
        for link in set(self._links):
            link.drained()
            link.close()
        await until(lambda: not self._links, _HELLO_S)
        if self._rates is not None and self._wrote_rates:
            with suppress(PartitaError):
                await asyncio.to_thread(write_rates, self._rates, {})

    # Queries, and the state of services

    def model(self, service: str) -> Model | None:
        """Return the model of a service, None if there is no such service."""
        route = self._routes.get(service)
        return route.model if route else None

    def ready(self, service: str) -> bool:
        """Return whether some worker can answer this service's queries."""
        route = self._routes.get(service)
        return route is not None and not self._draining and bool(route.dispatcher.fleet.groups)

    async def infer(self, service: str, query: Query, deadline_s: float | None = None) -> Answer:
        """Return the answer to a query; its `invalid` is set if the query itself is at fault.

        Cancelling the awaiting task cancels the query.

        Args:
            service: name of an existing service.
            query: from the client.
            deadline_s: seconds from now to the latest answer; None for the service's own deadline.

        Raises:
            QueryRefusedError: the query cannot be answered in time, or not now.
            QueryFailedError: workers failed it.
        """
        return await self._routes[service].infer(query, deadline_s)

    def ask(
        self, service: str, query: Query, deadline_s: float | None, receiver: AnswerReceiver
    ) -> PendingQuery:
        """Submit a query without awaiting; `receiver` gets the answer or error, possibly before this returns."""
        return self._routes[service].ask(query, deadline_s, receiver)

    def forget(self, service: str, waiting: PendingQuery) -> None:
        """Cancel a query that `ask` has submitted."""
        self._routes[service].forget(waiting)

    def workers(self, service: str) -> Iterable[Worker]:
        """Return the workers of an existing service."""
        return self._routes[service].dispatcher.fleet.workers

    def statistics(self, service: str) -> ServiceStatistics:
        """Return the statistics of an existing service."""
        return self._routes[service].view().statistics

    def snapshot(self) -> GatewaySnapshot:
        """Return the current state of all services and workers."""
        routes = self._routes.values()
        return GatewaySnapshot(
            tuple(route.view() for route in routes),
            tuple(view for route in routes for view in route.workers()),
            self._draining,
        )

    # Messages of workers (`LinkHandler`)

    def connected(self, link: Link) -> None:
        """Watch a new connection."""
        self._watchdog.watch(link)

    def said_hello(self, link: Link, hello: Hello) -> bool:
        """Add a worker if it serves one of the services with the same tensors as its other workers."""
        if link.remote is None:
            self._folder.spoke(link.name)
        else:
            self._addresses.spoke(link.name)
        route = self._routes.get(hello.service)
        if route is None:
            return False
        if link.remote is not None and (wanted := self._addresses.service(link.name)) != hello.service:
            _LOG.warning("%s: the worker serves %s, not %s", link.name, hello.service, wanted)
            return False
        if not (1 <= hello.batch <= _MOST_BATCH and 1 <= hello.processes <= _MOST_PROCESSES):
            _LOG.warning(
                "%s: the worker claims batches of %d, %d at once", link.name, hello.batch, hello.processes
            )
            return False
        model = route.model
        alike = (model.inputs, model.outputs) == (hello.inputs, hello.outputs)
        if model.known and not alike and route.dispatcher.fleet.groups:
            _LOG.warning(
                "%s: its tensors differ from those of the other workers of %s", link.name, hello.service
            )
            return False
        link.service = hello.service
        if hello.in_turn:
            link.turns = self._turns.setdefault((hello.gpu, hello.placement, hello.pid), InstanceTurns())
        link.worker = route.join(link, hello)
        self._links.add(link)
        return True

    def said_done(
        self, link: Link, number: int, answers: Sequence[Answer], seconds: float, waited: float
    ) -> bool:
        """Take the answers to a batch."""
        if link.worker is None:
            return False
        return self._routes[link.service].done(link.worker, number, answers, seconds, waited)

    def said_load(self, link: Link, batches: int) -> None:
        """Take note of the number of batches that a worker has from other gateways."""
        if link.worker is not None:
            self._routes[link.service].said_load(link.worker, batches)

    def said_beat(self, link: Link, fault: str | None) -> None:
        """Take note of whether a worker can answer."""
        worker = link.worker
        if worker is None or (fault is not None) == (UnreadyReason.FAULT in worker.unready):
            return
        if fault is not None:
            _LOG.warning("%s cannot answer: %s", worker.name, fault)
        self._routes[link.service].said_fault(worker, fault=fault is not None)

    def said_draining(self, link: Link) -> None:
        """Drain a worker that is about to end, as soon as its possible replacement is connected."""
        self._spawn(self._drain_worker(link))

    async def _drain_worker(self, link: Link) -> None:
        await self.know_all()
        if link.worker is not None and link in self._links:
            self._routes[link.service].drain(link.worker)
            link.drained()

    def let_go(self, link: Link) -> None:
        """Drain a worker that is no longer wanted, and disconnect when it has answered."""
        self._spawn(self._finish_with(link))

    async def _finish_with(self, link: Link) -> None:
        await until(lambda: not self._addresses.silent(), _REACHED_S)  # its replacements
        worker = link.worker
        if worker is not None and link.open:
            route = self._routes[link.service]
            dispatcher = route.dispatcher
            await until(lambda: not dispatcher.closing or dispatcher.idle, _LEAVING_S)  # its service may end
            route.drain(worker)
            link.drained()
            await until(lambda: not worker.running or not link.open, _LEAVING_S)
        link.close()

    def lost(self, link: Link, why: str) -> None:
        """Remove a worker that is gone, and retry its queries elsewhere."""
        self._links.discard(link)
        self._watchdog.forget(link)
        if link.turns is not None:
            link.turns.left(link, time.monotonic())
            if all(each.turns is not link.turns for each in self._links):
                self._turns = {key: each for key, each in self._turns.items() if each is not link.turns}
        if link.worker is not None:
            self._routes[link.service].leave(link.worker)
        if link.remote is not None:
            self._addresses.lost(link, why)
            return
        self._folder.lost(link.name, again=link.worker is not None, fault=bool(why))
        if why:
            _LOG.warning("%s: %s", link.worker.name if link.worker else link.name, why)

    # Periodic work

    def _tick(self) -> None:
        now = time.monotonic()
        held_up, self._ticked = self._ticked and now - self._ticked > _HELD_UP_S, now
        if held_up:
            # This process itself was stalled. Messages of workers from that time are read first, before a worker can
            # be called silent; the next tick works again, however late it is.
            self._ticked = 0.0
        else:
            self._ticks += 1
            every = self._ticks % _IDLE_TICKS == 0
            for route in self._routes.values():
                if every or not route.dispatcher.idle:
                    route.tick(now)
        self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    async def _watch(self) -> None:
        while True:
            found = self._watchdog.look(time.monotonic())
            for link in found.heard:
                if link.worker is not None:
                    self._routes[link.service].heard(link.worker)
            for link in found.silent:
                if link.worker is not None:
                    self._routes[link.service].silent(link.worker)
            for link, why in found.hung:
                self._end_hung(link, why)
            await asyncio.sleep(LOOK_S)

    def _end_hung(self, link: Link, why: str) -> None:
        """Kill a worker that hangs if it is a process of ours, and disconnect from it in any case."""
        if link.worker is not None:
            self._routes[link.service].hung += 1
        peer, ended = link.peer, False
        # Whoever has sent HELLO is a worker.
        if peer is not None and (link.worker is not None or peer.runs(_WORKER)):
            ended = peer.kill()
        left = (
            "not killed, as it is not our process"
            if link.remote is None
            else "its host may be cut off; connecting again"
        )
        link.close(f"{why}: {'killed' if ended else left}")

    async def _keep_prices(self) -> None:
        while True:
            for route in self._routes.values():
                question = route.new_question(time.monotonic())
                if question is not None:
                    route.dispatcher.fleet.set_prices(await asyncio.to_thread(fluid_prices, question))
            await asyncio.sleep(_PRICES_S)

    async def _keep_attainment(self) -> None:
        while True:
            now = time.monotonic()
            for route in self._routes.values():
                route.recent.look(now, route.counters.judged)
            await asyncio.sleep(ATTAINMENT_STEP_S)

    async def _keep_rates(self, path: Path) -> None:
        while True:
            await asyncio.sleep(_RATES_S)
            found = rates(((name, route.observed) for name, route in self._routes.items()), time.monotonic())
            if found or self._wrote_rates:
                self._wrote_rates = bool(found)
                try:
                    await asyncio.to_thread(write_rates, path, found)
                except PartitaError as error:
                    _LOG.warning("%s", error)

    async def _keep_history(self, history: RatesHistory) -> None:
        before, forgot = time.monotonic(), -FORGET_S
        while True:
            now, at = time.monotonic(), datetime.now(tz=UTC)
            rows = history.rows(
                {name: route.observed.items for name, route in self._routes.items()},
                max(now - before, 1e-9),
                at,
            )
            before = now
            try:
                if now - forgot >= FORGET_S:
                    forgot = now
                    await asyncio.to_thread(history.forget, at)
                if rows:
                    await asyncio.to_thread(history.append, rows)
            except PartitaError as error:
                _LOG.warning("%s", error)
            await asyncio.sleep(HISTORY_S)

    async def know_all(self) -> None:
        """Return when all workers that can be found have sent HELLO, or that took too long."""
        connecting = self._folder.scan()
        if connecting:
            await asyncio.wait(connecting, timeout=_HELLO_S)
        await until(lambda: not (self._folder.silent() or self._addresses.silent()), _HELLO_S)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a part of the gateway ended: %s", error, exc_info=error)


async def until(true: Callable[[], bool], seconds: float) -> None:
    """Return when a condition is true, or after so many seconds."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:  # noqa: ASYNC110 -- an event would slow down every query
        await asyncio.sleep(_POLL_S)


# Models, for both transports


class ModelRepository:
    """The models by name, for both transports.

    Args:
        gateway: answers.
        services: names of all services.
        limits: of requests.
    """

    def __init__(
        self, gateway: Gateway, services: Sequence[str], limits: RequestLimits | None = None
    ) -> None:
        self.gateway = gateway
        self.services = tuple(services)
        self.limits = limits or RequestLimits()
        self._signatures: dict[str, Signature] = {}

    @property
    def ready(self) -> bool:
        """Whether every service has a worker."""
        return all(map(self.gateway.ready, self.services))

    def model(self, service: str, version: str = "") -> Model:
        """Return a service's model.

        Raises:
            RequestError: there is no such service or version.
        """
        model = self.gateway.model(service)
        if model is None:
            raise RequestError(f"no model {quoted(service)}; POST /v2/repository/index lists them", 404)
        if version not in ("", VERSION):
            raise RequestError(f"no version {quoted(version)} of {service}; there is {VERSION}", 404)
        return model

    def described(self, service: str, version: str = "") -> Model:
        """Return a service's model once its inputs and outputs are known.

        Raises:
            RequestError: there is no such service or version.
            QueryRefusedError: no worker has been there yet to tell.
        """
        model = self.model(service, version)
        if not model.known:
            raise QueryRefusedError(RefusalReason.NO_WORKER, 1.0)
        return model

    def signature(self, service: str, version: str = "") -> Signature:
        """Return what requests to a service are checked against; raises as `described` does."""
        known = self._signatures.get(service)
        if known is None or known.model is not self.gateway.model(service) or version not in ("", VERSION):
            known = self._signatures[service] = Signature(self.described(service, version))
        return known


def checked(answer: Answer) -> Answer:
    """Return a worker's answer, which has outputs.

    Raises:
        RequestError: the worker says that the query itself is wrong.
        QueryFailedError: the worker failed it.
    """
    if answer.error is None:
        return answer
    if answer.invalid:
        raise RequestError(answer.error, reason="model")
    raise QueryFailedError(answer.error)
