"""Connections to workers on other hosts, by their addresses: kept, made again, and let go."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from typing import TYPE_CHECKING, NamedTuple, Protocol

from partita.errors import InputError, PartitaError
from partita.serve.gateway.link import Greeting, Link
from partita.serve.worker.listening import keep_alive

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from partita.serve.gateway.route import ServedService
    from partita.serve.services import WorkerAddress

_LOG = logging.getLogger("partita.serve.workers")
_LOOK_S = 0.5
_CONNECT_S = 2.0
_PAUSE_S = (0.05, 2.0)
"""Seconds before an address is tried again: the first time, and at most. A pod that starts is there soon."""
_REST_S = (1.0, 30.0)
"""The same where something answers that cannot be used."""


class WorkerAccess(NamedTuple):
    """What workers on other hosts are known by, and what they ask for.

    Attributes:
        token: that both know; None where workers ask for none.
        tls: of the gateway's side; None for plain text.
        server_name: that the workers' certificates must have; None for each one's own host.
    """

    token: str | None = None
    tls: ssl.SSLContext | None = None
    server_name: str | None = None


OPEN = WorkerAccess()
"""Of workers that ask for nothing, as on this host's loopback."""


def read_tls_client(ca: Path) -> ssl.SSLContext:
    """Return what trusts the certificates of an authority alone.

    Raises:
        InputError: the file cannot be used.
    """
    import ssl  # noqa: PLC0415 -- only with TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise InputError(f"not a certificate of an authority: {error}", where=str(ca)) from None
    return context


class Served(NamedTuple):
    """What a gateway serves: services, and where their workers are."""

    services: Sequence[ServedService]
    addresses: Sequence[WorkerAddress]


class ServiceSource(Protocol):
    """Knows what to serve."""

    @property
    def found(self) -> Served:
        """What to serve now."""
        ...

    async def follow(self, tell: Callable[[Served], None]) -> None:
        """Tell what to serve now, and again whenever that changes, until cancelled."""
        ...


class WatchedFiles:
    """Reads files again when one of them has changed.

    Args:
        paths: of the files.
        read: reads them all.

    Raises:
        InputError: a file cannot be used now.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], Served]) -> None:
        self._paths, self._read = paths, read
        self._stamps = self._stamped()
        self._found = read()

    @property
    def found(self) -> Served:
        """What was read last."""
        return self._found

    async def follow(self, tell: Callable[[Served], None]) -> None:
        """Tell what to serve now, and again whenever that changes, until cancelled.

        Files that cannot be used change nothing, and are told in the log.
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
                _LOG.warning("%s%s; what was read before is kept", error, hint)
                continue
            services, addresses = self._found
            _LOG.info("read anew: %d services, %d workers at addresses", len(services), len(addresses))
            tell(self._found)

    def _stamped(self) -> list[tuple[int, int, int]]:
        """Return what changes with the files, also where a ConfigMap's link leads to another one."""
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
    """An address that is kept connected.

    Attributes:
        address: of the worker.
        task: keeps it connected.
        link: the connection; None while there is none.
        lost: set when it has ended.
        fault: whether what answered could not be used.
        tried: whether it has said what it is, or could not be reached, at least once.
        told: why it could not be reached, when that was last logged.
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
        make: makes the connection's protocol: of the address as text, and how it is greeted.
        let_go: is told of a connection whose address is no longer among them; it ends it when nothing runs there.
        access: what the workers ask for.
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
        """Return the service that the worker at an address should serve; None if nobody asks for it any more."""
        found = self._dialled.get(name)
        return None if found is None else found.address.service

    def silent(self) -> bool:
        """Return whether some worker has not yet said what it is, nor turned out to be out of reach."""
        return not all(each.tried for each in self._dialled.values())

    def spoke(self, name: str) -> None:
        """Note that a worker has said what it is."""
        if (found := self._dialled.get(name)) is not None:
            found.tried, found.told = True, ""

    def lost(self, link: Link, why: str) -> None:
        """Note that a connection ended, and why, where it was not in order."""
        found = self._dialled.get(link.name)
        if found is not None and found.link is link:
            found.fault, found.tried, found.link = link.worker is None, True, None
            found.lost.set()
            if link.worker is None:
                self._tell(
                    found, why or "it ended the connection before it said what it is, as for a wrong token"
                )
            elif why:
                _LOG.warning("%s: %s", link.worker.name, why)

    async def close(self) -> None:
        """Connect no more."""
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
        """Connect; return whether there is a connection now."""
        token, tls, server_name = self._access
        address = dialled.address
        link = self._make(str(address), Greeting(token))
        dialled.link = link
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: link,
                    sock=await _connected(address),
                    ssl=tls,
                    server_hostname=None if tls is None else server_name or address.host,
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
        """Log why a worker cannot be asked: once, not at every try."""
        if why and why != dialled.told:
            dialled.told = why
            _LOG.warning("%s of %s cannot be asked: %s", dialled.address, dialled.address.service, why)


async def _connected(address: WorkerAddress) -> socket.socket:
    """Return a socket that is connected; raises OSError."""
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
    raise OSError("its name has no address")
