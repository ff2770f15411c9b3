"""The gateway's runtime: connects to workers, routes queries to them and hands back their answers.

Workers are found in a folder, where they are on this host, and by their addresses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
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
from partita.serve.gateway.addresses import OPEN, WorkerAccess, WorkerAddresses
from partita.serve.gateway.link import Link, WorkersFolder
from partita.serve.gateway.oip import VERSION, Model, RequestError, RequestLimits, Signature, quoted
from partita.serve.gateway.route import Route, ServedService, WorkerStarts, no_starts
from partita.serve.gateway.statistics import GatewaySnapshot, ServiceStatistics, rates, write_rates
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
"""Ticks between those of a service that nobody asks: what it has to correct can wait, and there may be hundreds."""
_HELD_UP_S = 0.025
_POLL_S = 0.001
_PRICES_S = 2.0
_RATES_S = 5.0
_HELLO_S = 1.0
_REACHED_S = 3.0
"""Seconds in which a worker that is there can be reached, and has said what it is."""
_LEAVING_S = 3600.0
"""Seconds that a worker which is not to be asked any more has for what it runs; one that hangs is found before."""
_MOST_BATCH, _MOST_PROCESSES = 1 << 16, 1 << 10
_WORKER = "partita.serve.worker"


class Gateway:
    """Routes queries to workers. All its methods belong to one event loop.

    Args:
        services: that it serves.
        folder: in which the sockets of this host's workers appear; None where it has none.
        router: name of the policy: `late-binding`, `price`, `elsa` or `fifs`.
        batching: whether waiting queries are joined into batches.
        dividing: whether queries of more rows than a worker takes are asked in parts.
        rates: file to which observed rates are written; none if None.
        starts: tells when workers are started anew, so that queries may wait for them.
        access: what workers on other hosts ask for.

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
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ticked, self._ticks = 0.0, 0
        self._draining = False

    async def start(self) -> None:
        """Watch the folder; return when the workers that are already there are known."""
        await self._folder.start()
        await self.know_all()
        self._spawn(self._keep_prices())
        if self._rates is not None:
            self._spawn(self._keep_rates(self._rates))
        self._spawn(self._watch())
        self._tick()

    def follow(self, served: Served) -> None:
        """Serve these services from now on, by the workers at these addresses and those of the folder.

        A worker that is left out gets nothing new once those in its place were reached, and finishes what it has. A
        service that is left out takes no new queries, and finishes those that it has.
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
        """Refuse what comes, and return when what is there has ended or the grace is over."""
        self._draining = True
        for route in self._routes.values():
            route.dispatcher.close()
        await until(lambda: all(each.dispatcher.idle for each in self._routes.values()), grace_s)

    async def close(self) -> None:
        """Leave the workers; what is still there is refused."""
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

    # Queries, and what is seen of services.

    def model(self, service: str) -> Model | None:
        """Return what a service takes and gives, None if there is no such service."""
        route = self._routes.get(service)
        return route.model if route else None

    def ready(self, service: str) -> bool:
        """Return whether some worker can answer this service's queries."""
        route = self._routes.get(service)
        return route is not None and not self._draining and bool(route.dispatcher.fleet.groups)

    async def infer(self, service: str, query: Query, deadline_s: float | None = None) -> Answer:
        """Return the answer; its `invalid` is set where the query itself is at fault.

        Cancelling the task that awaits it takes the query out of the queue.

        Args:
            service: that is asked; it must be known.
            query: as the client sent it.
            deadline_s: seconds from now to the latest answer; the service's own if None.

        Raises:
            QueryRefusedError: it cannot be answered in time, or not now.
            QueryFailedError: workers failed it.
        """
        return await self._routes[service].infer(query, deadline_s)

    def ask(
        self, service: str, query: Query, deadline_s: float | None, receiver: AnswerReceiver
    ) -> PendingQuery:
        """Ask without awaiting: `receiver` gets the answer or the error, maybe before this returns."""
        return self._routes[service].ask(query, deadline_s, receiver)

    def forget(self, service: str, waiting: PendingQuery) -> None:
        """Take a query out of the queue that `ask` put there."""
        self._routes[service].forget(waiting)

    def workers(self, service: str) -> Iterable[Worker]:
        """Return a service's workers; it must be known."""
        return self._routes[service].dispatcher.fleet.workers

    def statistics(self, service: str) -> ServiceStatistics:
        """Return what a service has done so far; it must be known."""
        return self._routes[service].view().statistics

    def snapshot(self) -> GatewaySnapshot:
        """Return the state of everything now."""
        routes = self._routes.values()
        return GatewaySnapshot(
            tuple(route.view() for route in routes),
            tuple(view for route in routes for view in route.workers()),
            self._draining,
        )

    # What workers say.

    def connected(self, link: Link) -> None:
        """Look after a connection's life."""
        self._watchdog.watch(link)

    def said_hello(self, link: Link, hello: Hello) -> bool:
        """Take a worker in, if it serves one of the services with the tensors of the others."""
        if link.remote is None:
            self._folder.spoke(link.name)
        else:
            self._addresses.spoke(link.name)
        route = self._routes.get(hello.service)
        if route is None:
            return False
        if link.remote is not None and (wanted := self._addresses.service(link.name)) != hello.service:
            _LOG.warning("%s: a worker of %s, not of %s", link.name, hello.service, wanted)
            return False
        if not (1 <= hello.batch <= _MOST_BATCH and 1 <= hello.processes <= _MOST_PROCESSES):
            _LOG.warning(
                "%s: a worker for batches of %d, %d at once", link.name, hello.batch, hello.processes
            )
            return False
        model = route.model
        alike = (model.inputs, model.outputs) == (hello.inputs, hello.outputs)
        if model.known and not alike and route.dispatcher.fleet.groups:
            _LOG.warning("%s: its tensors are not those of the other workers of %s", link.name, hello.service)
            return False
        link.service = hello.service
        link.worker = route.join(link, hello)
        self._links.add(link)
        return True

    def said_done(
        self, link: Link, number: int, answers: Sequence[Answer], seconds: float, waited: float
    ) -> bool:
        """Hand the answers to a batch back."""
        if link.worker is None:
            return False
        return self._routes[link.service].done(link.worker, number, answers, seconds, waited)

    def said_load(self, link: Link, batches: int) -> None:
        """Take note of how many batches a worker has of other gateways."""
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
        """Let the worker go, once its replacement, if it is there, is known."""
        self._spawn(self._let_go(link))

    async def _let_go(self, link: Link) -> None:
        await self.know_all()
        if link.worker is not None and link in self._links:
            self._routes[link.service].drain(link.worker)
            link.drained()

    def let_go(self, link: Link) -> None:
        """Give a worker nothing new that is not to be asked any more, and leave it when it has answered."""
        self._spawn(self._finish_with(link))

    async def _finish_with(self, link: Link) -> None:
        await until(lambda: not self._addresses.silent(), _REACHED_S)  # those in its place
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
        """Try elsewhere what a worker that is gone was running."""
        self._links.discard(link)
        self._watchdog.forget(link)
        if link.worker is not None:
            self._routes[link.service].leave(link.worker)
        if link.remote is not None:
            self._addresses.lost(link, why)
            return
        self._folder.lost(link.name, again=link.worker is not None, fault=bool(why))
        if why:
            _LOG.warning("%s: %s", link.worker.name if link.worker else link.name, why)

    # What goes on by itself.

    def _tick(self) -> None:
        now = time.monotonic()
        held_up, self._ticked = self._ticked and now - self._ticked > _HELD_UP_S, now
        if held_up:
            # Who was held up was this process: what its workers have said meanwhile is read before one is called
            # silent. The next time it looks, however late that is.
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
        """End a worker that hangs, and let its queries go on without it, whether or not its process ends."""
        if link.worker is not None:
            self._routes[link.service].hung += 1
        peer, ended = link.peer, False
        # One that has said what it is has shown that it is a worker.
        if peer is not None and (link.worker is not None or peer.runs(_WORKER)):
            ended = peer.kill()
        left = (
            "left alone, as it is not our process"
            if link.remote is None
            else "its host may be cut off; it is tried again"
        )
        link.close(f"{why}: {'killed' if ended else left}")

    async def _keep_prices(self) -> None:
        while True:
            for route in self._routes.values():
                question = route.new_question(time.monotonic())
                if question is not None:
                    route.dispatcher.fleet.set_prices(await asyncio.to_thread(fluid_prices, question))
            await asyncio.sleep(_PRICES_S)

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

    async def know_all(self) -> None:
        """Return when the workers whose sockets are there have said what they are, or took too long to."""
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
    """Return when something is true, or after so many seconds."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:  # noqa: ASYNC110 -- an event would cost every query something
        await asyncio.sleep(_POLL_S)


# The gateway as the protocol's two transports see it.


class ModelRepository:
    """The models by name, as both transports see them.

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
