"""Watches the folder in which the sockets of ready workers appear, and connects to each."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from partita.serve.worker.wire import short_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SUFFIX = ".sock"
_EVERY_S = 0.05
_REST_S = (1.0, 30.0)  # before one that talked nonsense is tried again: the first time, and at most
_REFUSALS = 2  # in a row: then nobody listens there any more


class WorkersFolder:
    """Connects once to every socket in a folder, for as long as it is there.

    Args:
        folder: where sockets appear; need not be there yet.
        protocol: makes the protocol of a connection to the socket of a name.
    """

    def __init__(self, folder: Path, protocol: Callable[[str], asyncio.Protocol]) -> None:
        self._folder, self._protocol = folder, protocol
        self._known: set[str] = set()
        self._silent: set[str] = set()
        self._refused: dict[str, int] = {}
        self._resting: dict[str, tuple[float, float]] = {}  # until when, and for how long
        self._connecting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Watch; return when what is there is connected."""
        self._look_again()
        if self._connecting:
            await asyncio.wait(set(self._connecting))

    def scan(self) -> set[asyncio.Task[None]]:
        """Look at once; return the connections on their way."""
        there = self._names()
        self._known &= there
        self._refused = {name: times for name, times in self._refused.items() if name in there}
        self._resting = {name: rest for name, rest in self._resting.items() if name in there}
        now = asyncio.get_running_loop().time()
        for name in there - self._known:
            if name in self._resting and now < self._resting[name][0]:
                continue
            self._known.add(name)
            task = asyncio.get_running_loop().create_task(self._connect(name))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        return set(self._connecting)

    def silent(self) -> bool:
        """Return whether some worker has not yet said what it is."""
        return bool(self._silent)

    def spoke(self, name: str) -> None:
        """Hear that a worker has said what it is."""
        self._silent.discard(name)

    def lost(self, name: str, *, again: bool, fault: bool = False) -> None:
        """Hear that a connection ended.

        Args:
            name: of the socket.
            again: whether it may be tried again, if it is still there.
            fault: whether that can wait: each time twice as long.
        """
        self._silent.discard(name)
        if fault:
            first, most = _REST_S
            pause = min(most, 2.0 * self._resting[name][1]) if name in self._resting else first
            self._resting[name] = asyncio.get_running_loop().time() + pause, pause
        if again:
            self._known.discard(name)

    async def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in set(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    def _look_again(self) -> None:
        self.scan()
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._look_again)

    def _names(self) -> set[str]:
        try:
            with os.scandir(self._folder) as entries:
                return {each.name for each in entries if each.name.endswith(_SUFFIX) and each.name[0] != "."}
        except OSError:
            return set()

    async def _connect(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._silent.add(name)
            with short_path(self._folder) as base:
                await loop.create_unix_connection(lambda: self._protocol(name), f"{base}/{name}")
        except ConnectionRefusedError:
            self._silent.discard(name)
            self._stale(name)
        except OSError:
            self._silent.discard(name)
            self._known.discard(name)  # it is tried again if it is still there
        else:
            self._refused.pop(name, None)

    def _stale(self, name: str) -> None:
        """Remove the socket of a worker that is dead; workers listen before their socket has its name."""
        times = self._refused[name] = self._refused.get(name, 0) + 1
        if times >= _REFUSALS:
            with suppress(OSError):
                (self._folder / name).unlink()
        self._known.discard(name)
