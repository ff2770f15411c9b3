"""Reads frames from a blocking socket, and believes none of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from partita.serve.worker.wire import HEAD

if TYPE_CHECKING:
    import socket

MOST_HEADER = 16 << 20
MOST_DATA = 1 << 30
CHUNK = 1 << 16


class FrameError(Exception):
    """What came is no frame."""


class Frame(NamedTuple):
    """A frame as it came."""

    kind: int
    number: int
    header: Any
    data: memoryview


class Frames:
    """Frames of one connection, one after the other.

    Args:
        connection: a blocking stream socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = memoryview(b"")

    def next(self) -> Frame | None:
        """Return the next frame, None at the end of the stream.

        Raises:
            FrameError: it is too large, cut short, or its header is no JSON.
            OSError: the connection broke.
        """
        head = self._take(HEAD.size)
        if head is None:
            return None
        header_size, data_size, kind, number = HEAD.unpack(head)
        if header_size > MOST_HEADER or data_size > MOST_DATA:
            raise FrameError(f"a frame of {header_size} and {data_size} bytes")
        body = self._take(header_size + data_size)
        if body is None:
            raise FrameError("the connection ended within a frame")
        try:
            header = json.loads(str(body[:header_size], "utf-8")) if header_size else None
        except (ValueError, RecursionError) as error:
            raise FrameError(f"a header that is no JSON: {error}") from None
        return Frame(kind, number, header, body[header_size:])

    def _take(self, size: int) -> memoryview | None:
        if not self._left and 0 < size <= CHUNK:
            self._left = memoryview(self._connection.recv(CHUNK))
            if not self._left:
                return None
        if len(self._left) >= size:
            taken, self._left = self._left[:size], self._left[size:]
            return taken
        return self._gather(size)

    def _gather(self, size: int) -> memoryview | None:
        body = memoryview(bytearray(size))
        have = len(self._left)
        body[:have] = self._left
        self._left = memoryview(b"")
        while have < size:
            got = self._connection.recv_into(body[have:])
            if not got:
                if size == HEAD.size:
                    raise FrameError("the connection ended within a frame's head")
                return None
            have += got
        return body
