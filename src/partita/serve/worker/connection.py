"""A worker's connection to a gateway: batches come in, answers and signs of life go out."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from partita.serve.worker.wire import FrameError, FrameKind, Frames, frame, unpack_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.serve.tensors import Query
    from partita.serve.worker.listening import TlsStream
    from partita.serve.worker.wire import Frame

WINDOW = 256
"""Maximum number of a connection's batches that wait or run; beyond it no more are read."""
STALLED_S = 5.0
"""Seconds after which a gateway that does not read its answers is disconnected."""


class Connection:
    """The connection to a gateway, from HELLO on.

    Args:
        stream: the accepted socket.
        take: called with each batch: the connection, its number, its queries.
        changed: called when the gateway has drained or left.
        note: called with a sentence for the log.
        stalled_s: seconds after which a gateway that does not read is disconnected.
        fault: returns why the model cannot answer now, None if it can.

    Attributes:
        open: whether the connection is open.
        fault: as given.
        drained: whether the gateway will send nothing more.
        shares: whether the gateway wants LOAD frames.
        told: number of other gateways' batches in the last LOAD.
        under_way: number of its batches that wait or run.
    """

    def __init__(
        self,
        stream: socket.socket | TlsStream,
        take: Callable[[Connection, int, tuple[Query, ...]], None],
        changed: Callable[[], None],
        note: Callable[[str], None],
        stalled_s: float = STALLED_S,
        *,
        fault: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.open = True
        self.fault = fault
        self.drained = self.shares = False
        self.told = self.under_way = 0
        self._stream = stream
        self._take = take
        self._changed = changed
        self._note = note
        self._sending = threading.Lock()
        self._window = threading.Semaphore(WINDOW)
        stream.setblocking(True)
        self._stalled_s = stalled_s
        # The kernel's timeout, since Python's would cost a poll for every call.
        patience = struct.pack("ll", int(stalled_s), int(stalled_s % 1 * 1e6))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        self._reader = threading.Thread(target=self._read, name="reader", daemon=True)

    def start(self, hello: bytes) -> None:
        """Send HELLO, and start to read."""
        self.send(hello)
        self._reader.start()

    def send(self, message: bytes) -> None:
        """Send a frame; close the connection if the gateway is gone or does not read."""
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
        """Send the answer to a batch, and allow another batch to be read."""
        self.send(message)
        self._window.release()

    def beat(self, message: bytes) -> bool:
        """Send a sign of life, unless an answer is being sent or the gateway does not read.

        Returns:
            Whether it was sent.
        """
        if not self._sending.acquire(blocking=False):
            return False
        try:
            if self.open and self._stream.send(message, socket.MSG_DONTWAIT) < len(message):
                self._shut()  # half a frame is sent, so nothing can follow
        except BlockingIOError:
            return False
        except OSError:
            self._shut()
        finally:
            self._sending.release()
        return self.open

    def drain(self) -> None:
        """Tell the gateway that this worker ends."""
        self.send(frame(FrameKind.DRAINING, 0))

    def close(self) -> None:
        """End the connection and its thread."""
        self._shut()
        if self._reader.is_alive():
            self._window.release()  # the reader may wait for it
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
            self._note(f"a gateway is disconnected, as it sent {error}")
        except OSError:
            pass  # the gateway is gone
        finally:
            self.open = False
            with self._sending:
                self._stream.close()
            self._changed()

    def _handle(self, found: Frame) -> None:
        if found.kind == FrameKind.DRAINED:
            self.drained = True
            self._changed()
            return
        if found.kind == FrameKind.SHARE:
            self.shares = True
            self._changed()
            return
        if found.kind != FrameKind.RUN or self.drained:
            raise FrameError(f"a frame of kind {found.kind} out of turn")
        try:
            queries = unpack_run(found.header, found.data)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise FrameError(f"a batch that cannot be read: {error!r}") from None
        self._window.acquire()
        self._take(self, found.number, queries)
