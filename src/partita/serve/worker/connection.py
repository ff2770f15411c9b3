"""One gateway's connection to a worker: read in a thread of its own, answered from whichever thread has an answer."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from partita.serve.worker.frames import FrameError, Frames
from partita.serve.worker.wire import Kind, frame, unpack_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.serve.tensors import Query
    from partita.serve.worker.frames import Frame

WINDOW = 256
"""Batches of one connection that wait or run; a gateway that sends more is read no further."""
STALLED_S = 5.0
"""Seconds after which a gateway that does not read its answers is given up."""


class Connection:
    """A gateway, from HELLO until either goes.

    Args:
        stream: as accepted.
        take: takes one batch: the connection, its number, its queries.
        changed: told when the gateway has drained or gone.
        note: told what was wrong with what came.
        stalled_s: seconds after which it is given up if it does not read.
    """

    def __init__(
        self,
        stream: socket.socket,
        take: Callable[[Connection, int, tuple[Query, ...]], None],
        changed: Callable[[], None],
        note: Callable[[str], None],
        stalled_s: float = STALLED_S,
    ) -> None:
        self.open = True
        self.drained = False
        self._stream = stream
        self._take = take
        self._changed = changed
        self._note = note
        self._sending = threading.Lock()
        self._window = threading.Semaphore(WINDOW)
        stream.setblocking(True)
        self._stalled_s = stalled_s
        # In the kernel, as a timeout of Python's would cost a poll for every call.
        patience = struct.pack("ll", int(stalled_s), int(stalled_s % 1 * 1e6))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        self._reader = threading.Thread(target=self._read, name="reader", daemon=True)

    def start(self, hello: bytes) -> None:
        """Say what this worker is, and read what comes."""
        self.send(hello)
        self._reader.start()

    def send(self, message: bytes) -> None:
        """Send a frame; a gateway that is gone, or does not read, is closed."""
        with self._sending:
            if not self.open:
                return
            try:
                self._stream.sendall(message)
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    self._note(f"a gateway did not read its answers for {self._stalled_s:g} s")
                self._shut()

    def answer(self, message: bytes) -> None:
        """Send the answer to a batch, and let another one in."""
        self.send(message)
        self._window.release()

    def beat(self, message: bytes) -> None:
        """Give a sign of life; not while an answer is on its way, which is one, or the gateway reads nothing."""
        if not self._sending.acquire(blocking=False):
            return
        try:
            if self.open and self._stream.send(message, socket.MSG_DONTWAIT) < len(message):
                self._shut()  # the rest of it would stand before the next frame
        except BlockingIOError:
            pass
        except OSError:
            self._shut()
        finally:
            self._sending.release()

    def drain(self) -> None:
        """Say that this worker ends."""
        self.send(frame(Kind.DRAINING, 0))

    def close(self) -> None:
        """End the connection and its thread."""
        self._shut()
        if self._reader.is_alive():
            self._window.release()  # it may wait for room
            self._reader.join(1.0)

    def _shut(self) -> None:
        self.open = False
        with suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)  # wakes the reader, which closes it

    def _read(self) -> None:
        frames = Frames(self._stream)
        try:
            while self.open and (found := frames.next()) is not None:
                self._handle(found)
        except FrameError as error:
            self._note(f"a gateway is cut off that sent {error}")
        except OSError:
            pass  # it is gone
        finally:
            self.open = False
            with self._sending:
                self._stream.close()
            self._changed()

    def _handle(self, found: Frame) -> None:
        if found.kind == Kind.DRAINED:
            self.drained = True
            self._changed()
            return
        if found.kind != Kind.RUN or self.drained:
            raise FrameError(f"a frame of kind {found.kind} out of turn")
        try:
            queries = unpack_run(found.header, found.data)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise FrameError(f"a batch that cannot be read: {error!r}") from None
        self._window.acquire()
        self._take(self, found.number, queries)
