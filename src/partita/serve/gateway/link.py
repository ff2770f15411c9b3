"""Connections to workers: their frames in both directions, and the folder in which their sockets appear."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, cast

import orjson

from partita.process.peer import peer_of
from partita.serve.worker.listening import nonce, proof, proves
from partita.serve.worker.wire import (
    HEAD,
    MOST_DATA,
    MOST_HEADER,
    FrameKind,
    Hello,
    frame,
    run_parts,
    short_path,
    unpack_done,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from partita.process.peer import PeerProcess
    from partita.serve.dispatching.query import Worker
    from partita.serve.dispatching.turns import InstanceTurns
    from partita.serve.tensors import Answer, Query

_LARGE_BATCH = 1 << 16
"""Bytes from which a batch is sent in several pieces instead of being copied into one."""
_DONE = int(FrameKind.DONE)  # looked up once, since access to members of enumerations is slow


class LinkHandler(Protocol):
    """Handles the messages of workers."""

    def connected(self, link: Link) -> None:
        """Take note of a new connection, whose other end is not known yet."""
        ...

    def said_hello(self, link: Link, hello: Hello) -> bool:
        """Take a worker's description of itself; return False if the worker cannot be used."""
        ...

    def said_done(
        self, link: Link, number: int, answers: Sequence[Answer], seconds: float, waited: float
    ) -> bool:
        """Take the answers to a batch, and the seconds that it ran and waited; return False if they do not fit."""
        ...

    def said_load(self, link: Link, batches: int) -> None:
        """Take the number of batches that a worker has from other gateways."""
        ...

    def said_beat(self, link: Link, fault: str | None) -> None:
        """Take a worker's sign of life, with the reason if it cannot answer now."""
        ...

    def said_draining(self, link: Link) -> None:
        """Take note that a worker is about to end."""
        ...

    def lost(self, link: Link, why: str) -> None:
        """Take note that a connection has ended; `why` is empty if it ended in order."""
        ...


class Link(asyncio.Protocol):
    """The gateway's connection to one worker.

    Frames are parsed without copying if they arrive as a whole; otherwise they are assembled once.

    Attributes:
        name: of the socket, or the address.
        worker: None until it has sent HELLO.
        service: of the worker; empty until it has sent HELLO.
        heard: whether data has arrived since this was last cleared.
        peer: the worker's process; None if the kernel does not know it, as over TCP.
        remote: the handshake over TCP; None for a socket in a folder.
        turns: of the services that share the worker's instance; None where it serves one.

    Args:
        name: of the socket, or the address.
        handler: of the worker's messages.
        remote: the handshake over TCP.
    """

    def __init__(self, name: str, handler: LinkHandler, remote: Greeting | None = None) -> None:
        self.name, self.remote = name, remote
        self.worker: Worker | None = None
        self.service = ""
        self.heard = True
        self.peer: PeerProcess | None = None
        self.turns: InstanceTurns | None = None
        self._handler = handler
        self._transport: asyncio.Transport | None = None
        self._part: memoryview | None = None  # an incomplete frame
        self._filled = 0
        self._start = b""  # an incomplete frame head
        self._fault = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # It is a stream's transport, although uvloop's class is not registered as one.
        self._transport = cast("asyncio.Transport", transport)
        if self.remote is None:
            self.peer = peer_of(transport.get_extra_info("socket"))
        else:
            self._write(self.remote.greet())
        self._handler.connected(self)

    @property
    def open(self) -> bool:
        """Whether it is connected."""
        return self._transport is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the connection to the handler."""
        self._transport = None
        if self.peer is not None:
            self.peer.close()
        self._handler.lost(self, self._fault or (str(exc) if exc else ""))

    def data_received(self, data: bytes) -> None:
        """Handle the frames in the data."""
        self.heard = True
        try:
            if self._part is not None:
                data = self._continue(self._part, data)
            elif self._start:
                data, self._start = self._start + data, b""
            if data:
                self._read(data)
        except _NoFrameError as error:
            self.close(f"the worker sent an invalid frame: {error}")

    def run(self, number: int, queries: Sequence[Query]) -> None:
        """Send a batch to the worker, at once or when its turn comes."""
        if self.turns is None:
            self.send(number, queries)
        else:
            self.turns.start(self, number, queries, time.monotonic())

    def send(self, number: int, queries: Sequence[Query]) -> None:
        """Send a batch to the worker."""
        if self._transport is not None:
            parts = run_parts(number, queries, orjson.dumps)
            if sum(map(len, parts)) < _LARGE_BATCH:
                self._transport.write(b"".join(parts))
            else:
                self._transport.writelines(parts)  # does not copy them

    def drained(self) -> None:
        """Promise to send nothing more."""
        self._write(frame(FrameKind.DRAINED, 0))

    def _write(self, message: bytes) -> None:
        if self._transport is not None:
            self._transport.write(message)

    def close(self, fault: str = "") -> None:
        """End the connection."""
        self._fault = self._fault or fault
        if self._transport is not None:
            self._transport.abort()

    def _continue(self, part: memoryview, data: bytes) -> bytes:
        """Add data to the incomplete frame; return the rest of the data."""
        taken = min(len(part) - self._filled, len(data))
        part[self._filled : self._filled + taken] = data[:taken]
        self._filled += taken
        if self._filled == len(part):
            self._part = None
            header, _, kind, number = HEAD.unpack_from(part)
            middle = HEAD.size + header
            self._whole(kind, number, part[HEAD.size : middle], part[middle:])
        return data[taken:]

    def _read(self, data: bytes) -> None:
        view, at, size = memoryview(data), 0, len(data)
        while size - at >= HEAD.size:
            header, body, kind, number = HEAD.unpack_from(data, at)
            if header > MOST_HEADER or body > MOST_DATA:
                raise _NoFrameError(f"{header} and {body} bytes")
            middle = at + HEAD.size + header
            end = middle + body
            if end > size:
                self._part = memoryview(bytearray(end - at))
                self._filled = size - at
                self._part[: self._filled] = view[at:]
                return
            self._whole(kind, number, view[at + HEAD.size : middle], view[middle:end])
            at = end
        self._start = data[at:]

    def _whole(self, kind: int, number: int, header: memoryview, data: memoryview) -> None:
        said = _parsed(kind, header, data)
        if kind == _DONE:
            answers, seconds, waited = said
            if not self._handler.said_done(self, number, answers, seconds, waited):
                self.close(f"the worker sent {len(answers)} answers to a batch of another size")
            if self.turns is not None:
                self.turns.ended(self, number, time.monotonic())
        elif kind == FrameKind.HELLO and self.worker is None:
            if self.remote is not None and not self.remote.trusted:
                raise _NoFrameError("no proof that it knows the token")
            if not self._handler.said_hello(self, said):
                self.close()
            elif said.shares:
                self._write(frame(FrameKind.SHARE, 0))
        elif kind == FrameKind.LOAD:
            self._handler.said_load(self, said)
        elif kind == FrameKind.CHALLENGE and self.remote is not None:
            self._write(self.remote.answer(said))
        elif kind == FrameKind.BEAT:
            self._handler.said_beat(self, said)
        elif kind == FrameKind.DRAINING:
            self._handler.said_draining(self)
        else:
            raise _NoFrameError(f"kind {kind}")


class Greeting:
    """The handshake over TCP before HELLO, in which both ends prove that they know the token.

    Attributes:
        trusted: whether the worker has proved it, or need not.

    Args:
        token: None if none is required.
    """

    def __init__(self, token: str | None) -> None:
        self.trusted = token is None
        self._token, self._nonce = token, nonce()

    def greet(self) -> bytes:
        """Return the gateway's first frame."""
        return frame(FrameKind.GREET, 0, {"nonce": self._nonce})

    def answer(self, said: Any) -> bytes:  # noqa: ANN401 -- whatever came
        """Return the answer to a challenge.

        Raises:
            _NoFrameError: the worker does not know the token, or requires one and this gateway has none.
        """
        theirs = said.get("nonce") if isinstance(said, dict) else None
        if self._token is None or not isinstance(theirs, str):
            raise _NoFrameError("it requires a token")
        nonces = self._nonce, theirs
        if not proves(said.get("proof"), self._token, "worker", nonces):
            raise _NoFrameError("it does not know the token")
        self.trusted = True
        return frame(FrameKind.PROOF, 0, {"proof": proof(self._token, "gateway", nonces)})


class _NoFrameError(Exception):
    """The data is not a valid frame of a worker."""


def _parsed(kind: int, header: memoryview, data: memoryview) -> Any:  # noqa: ANN401 -- by its kind
    """Return a frame's content by its kind, such as a `Hello`, or the answers and seconds of DONE."""
    try:
        said: Any = _loaded(header) if header else None
        if kind == _DONE:
            return unpack_done(said, data)
        if kind == FrameKind.BEAT:
            return None if said is None else str(said["fault"])
        if kind == FrameKind.LOAD:
            return max(0, int(said["batches"]))
        if kind == FrameKind.CHALLENGE:
            return said
        return Hello.unpacked(said) if kind == FrameKind.HELLO else None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _NoFrameError(str(error)) from None


def _loaded(text: memoryview) -> Any:  # noqa: ANN401 -- whatever is JSON
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(bytes(text))  # accepts lone surrogates, which texts of errors may have


# The folder in which the sockets of ready workers appear

_SUFFIX = ".sock"
_EVERY_S = 0.05
_REST_S = (1.0, 30.0)  # pause after invalid frames: the first, and the longest
_REFUSALS = 2  # refused connections in a row, after which a socket counts as abandoned


class WorkersFolder:
    """Keeps one connection to every socket in a folder.

    Args:
        folder: of the sockets; it may be created later. None if there are none.
        protocol: makes the protocol of a connection, from the socket's name.
    """

    def __init__(self, folder: Path | None, protocol: Callable[[str], asyncio.Protocol]) -> None:
        self._folder, self._protocol = folder, protocol
        self._known: set[str] = set()
        self._silent: set[str] = set()
        self._refused: dict[str, int] = {}
        self._resting: dict[str, tuple[float, float]] = {}  # until when, and for how long
        self._connecting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Watch the folder; return when the existing sockets are connected."""
        self._look_again()
        if self._connecting:
            await asyncio.wait(set(self._connecting))

    def scan(self) -> set[asyncio.Task[None]]:
        """Scan the folder now; return the tasks that are connecting."""
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
        """Return whether some worker has not sent HELLO yet."""
        return bool(self._silent)

    def spoke(self, name: str) -> None:
        """Take note that a worker has sent HELLO."""
        self._silent.discard(name)

    def lost(self, name: str, *, again: bool, fault: bool = False) -> None:
        """Take note that a connection has ended.

        Args:
            name: of the socket.
            again: whether to connect again if the socket still exists.
            fault: whether to pause before that, each time twice as long.
        """
        self._silent.discard(name)
        if fault:
            first, most = _REST_S
            pause = min(most, 2.0 * self._resting[name][1]) if name in self._resting else first
            self._resting[name] = asyncio.get_running_loop().time() + pause, pause
        if again:
            self._known.discard(name)

    async def close(self) -> None:
        """Stop watching."""
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
        if self._folder is None:
            return set()
        try:
            with os.scandir(self._folder) as entries:
                return {each.name for each in entries if each.name.endswith(_SUFFIX) and each.name[0] != "."}
        except OSError:
            return set()

    async def _connect(self, name: str) -> None:
        assert self._folder is not None  # noqa: S101 -- the name is of a file in it
        folder, loop = self._folder, asyncio.get_running_loop()
        try:
            self._silent.add(name)
            with short_path(folder) as base:
                await loop.create_unix_connection(lambda: self._protocol(name), f"{base}/{name}")
        except ConnectionRefusedError:
            self._silent.discard(name)
            self._stale(folder, name)
        except OSError:
            self._silent.discard(name)
            self._known.discard(name)  # the next scan tries again
        else:
            self._refused.pop(name, None)

    def _stale(self, folder: Path, name: str) -> None:
        """Remove the socket of a dead worker: a living one listens before its socket gets its name."""
        times = self._refused[name] = self._refused.get(name, 0) + 1
        if times >= _REFUSALS:
            with suppress(OSError):
                (folder / name).unlink()
        self._known.discard(name)
