"""Connections to workers on other hosts: made by address, repeated when they end, dropped when no longer wanted."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from typing import TYPE_CHECKING, NamedTuple, Protocol

from partita.errors import PartitaError
from partita.serve.gateway.link import Greeting, Link
from partita.serve.worker.listening import keep_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from partita.serve.gateway.route import ServedService
    from partita.serve.services import WorkerAddress
    from partita.serve.tls import ClientTrust

_LOG = logging.getLogger("partita.serve.workers")
_LOOK_S = 0.5
_CONNECT_S = 2.0
_PAUSE_S = (0.05, 2.0)
"""Pause before an address is tried again: the first, short for starting pods, and the longest."""
_REST_S = (1.0, 30.0)
"""The same pauses, if the worker at the address cannot be used."""


class WorkerAccess(NamedTuple):
    """The credentials for workers on other hosts.

    Attributes:
        token: shared with the workers; None if they require none.
        trust: in the workers' certificates; None for plain text.
        server_name: name in the workers' certificates; None for each worker's host.
    """

    token: str | None = None
    trust: ClientTrust | None = None
    server_name: str | None = None


OPEN = WorkerAccess()
"""For workers that require neither token nor TLS, as on loopback."""


class Served(NamedTuple):
    """The services of a gateway, and the addresses of their workers."""

    services: Sequence[ServedService]
    addresses: Sequence[WorkerAddress]


class ServiceSource(Protocol):
    """Knows the services and the addresses of workers, which may change."""

    @property
    def found(self) -> Served:
        """The current services and addresses."""
        ...

    async def follow(self, tell: Callable[[Served], None]) -> None:
        """Call `tell` with the services and addresses, now and after each change, until cancelled."""
        ...


class WatchedFiles:
    """Reads files again when one of them has changed (a `ServiceSource`).

    Args:
        paths: of the files.
        read: reads all files.

    Raises:
        InputError: a file cannot be used.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], Served]) -> None:
        self._paths, self._read = paths, read
        self._stamps = self._stamped()
        self._found = read()

    @property
    def found(self) -> Served:
        """The services and addresses of the last successful reading."""
        return self._found

    async def follow(self, tell: Callable[[Served], None]) -> None:
        """Call `tell` with the services and addresses, now and after each change, until cancelled.

        If a file cannot be used, a warning is logged and the last successful reading holds.
        """
        tell(self._found)
        while True:
            await asyncio.sleep(_LOOK_S)
            stamps = self._stamped()
            if stamps == self._stamps:
                continue
            self._stamps = stamps
            try:
                self._found = await asyncio.to_thread(self._read)
            except PartitaError as error:
                hint = f" ({error.hint})" if error.hint else ""
                _LOG.warning("%s%s; the last valid files are kept", error, hint)
                continue
            services, addresses = self._found
            _LOG.info("files read again: %d services, %d addresses of workers", len(services), len(addresses))
            tell(self._found)

    def _stamped(self) -> list[tuple[int, int, int]]:
        """Return a stamp of each file, which also changes when a ConfigMap's symbolic link is switched."""
        found = []
        for path in self._paths:
            try:
                stat = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return found


class _Dialled:
    """An address to which a connection is kept.

    Attributes:
        address: of the worker.
        task: keeps the connection.
        link: the connection; None if there is none.
        lost: set when the connection has ended.
        fault: whether the worker could not be used.
        tried: whether it has sent HELLO or failed at least once.
        told: the last logged reason why the worker cannot be used.
    """

    def __init__(self, address: WorkerAddress) -> None:
        self.address = address
        self.task: asyncio.Task[None] | None = None
        self.link: Link | None = None
        self.lost = asyncio.Event()
        self.fault = self.tried = False
        self.told = ""


class WorkerAddresses:
    """Keeps one connection to each of some addresses.

    Args:
        make: makes the connection's protocol from the address as text and the handshake.
        let_go: called with a connection whose address is no longer wanted; it must drain and close it.
        access: credentials for the workers.
    """

    def __init__(
        self, make: Callable[[str, Greeting], Link], let_go: Callable[[Link], None], access: WorkerAccess
    ) -> None:
        self._make, self._let_go, self._access = make, let_go, access
        self._dialled: dict[str, _Dialled] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def follow(self, addresses: Iterable[WorkerAddress]) -> None:
        """Connect to these addresses from now on, and to no others."""
        wanted = {str(each): each for each in addresses}
        for name, dialled in list(self._dialled.items()):
            if wanted.get(name) != dialled.address:
                del self._dialled[name]
                self._leave(dialled)
        for name, address in wanted.items():
            if name not in self._dialled:
                dialled = self._dialled[name] = _Dialled(address)
                dialled.task = asyncio.get_running_loop().create_task(self._keep(dialled))

    def service(self, name: str) -> str | None:
        """Return the service that the worker at an address should serve; None if the address is not wanted."""
        found = self._dialled.get(name)
        return None if found is None else found.address.service

    def silent(self) -> bool:
        """Return whether some worker has neither sent HELLO nor failed yet."""
        return not all(each.tried for each in self._dialled.values())

    def spoke(self, name: str) -> None:
        """Take note that a worker has sent HELLO."""
        if (found := self._dialled.get(name)) is not None:
            found.tried, found.told = True, ""

    def lost(self, link: Link, why: str) -> None:
        """Take note that a connection has ended; `why` is empty if it ended in order."""
        found = self._dialled.get(link.name)
        if found is not None and found.link is link:
            found.fault, found.tried, found.link = link.worker is None, True, None
            found.lost.set()
            if link.worker is None:
                self._tell(
                    found, why or "it closed the connection before HELLO, possibly because of a wrong token"
                )
            elif why:
                _LOG.warning("%s: %s", link.worker.name, why)

    async def close(self) -> None:
        """Stop connecting."""
        tasks = [each.task for each in self._dialled.values() if each.task is not None]
        self._dialled.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leave(self, dialled: _Dialled) -> None:
        if dialled.task is not None:
            dialled.task.cancel()
        if dialled.link is not None:
            self._let_go(dialled.link)

    async def _keep(self, dialled: _Dialled) -> None:
        loop, tries = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            dialled.lost.clear()
            dialled.fault = False
            if await self._connect(dialled):
                await dialled.lost.wait()
            least, most = _REST_S if dialled.fault else _PAUSE_S
            tries = 0 if loop.time() - began > most else tries + 1
            await asyncio.sleep(min(most, least * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.0))

    async def _connect(self, dialled: _Dialled) -> bool:
        """Connect; return whether that succeeded."""
        token, trust, server_name = self._access
        address = dialled.address
        link = self._make(str(address), Greeting(token))
        dialled.link = link
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: link,
                    sock=await _connected(address),
                    ssl=None if trust is None else trust.current(),
                    server_hostname=None if trust is None else server_name or address.host,
                )
        except (OSError, TimeoutError) as error:
            dialled.link, dialled.tried = None, True
            self._tell(dialled, "it does not answer" if isinstance(error, TimeoutError) else str(error))
            return False
        except asyncio.CancelledError:
            link.close()
            raise
        return True

    @staticmethod
    def _tell(dialled: _Dialled, why: str) -> None:
        """Log why a worker cannot be used, once for each reason."""
        if why and why != dialled.told:
            dialled.told = why
            _LOG.warning("%s of %s cannot be used: %s", dialled.address, dialled.address.service, why)


async def _connected(address: WorkerAddress) -> socket.socket:
    """Return a connected socket.

    Raises:
        OSError: no connection could be made.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    for last, (family, kind, protocol, _, at) in enumerate(found, 1 - len(found)):
        made = socket.socket(family, kind, protocol)
        try:
            made.setblocking(False)
            keep_alive(made)
            await loop.sock_connect(made, at)
        except BaseException as error:
            made.close()
            if not last or not isinstance(error, OSError):
                raise
        else:
            return made
    raise OSError("the host name has no address")
