"""The body of a worker: takes connections until it is told to end, then drains."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from partita.serve.worker.connection import Connection
from partita.serve.worker.lanes import Lanes
from partita.serve.worker.log import keep_short, note
from partita.serve.worker.sockets import listening
from partita.serve.worker.wire import Hello, Kind, frame

if TYPE_CHECKING:
    import socket

    from partita.serve.tensors import Query
    from partita.serve.worker.backend import Backend
    from partita.serve.worker.spec import WorkerSpec

LOOK_S = 30.0
"""Seconds between two looks at the length of the log."""
BEAT_S = 0.5
"""Seconds between two signs of life, at most."""
_MISSED = 4
"""Of them may be missed before the worker is held to hang."""


class Serving:
    """Serves one instance.

    Args:
        spec: what this worker is.
        backend: runs the batches.
    """

    def __init__(self, spec: WorkerSpec, backend: Backend) -> None:
        self._spec = spec
        self._backend = backend
        self._beat_s = min(BEAT_S, spec.hang_timeout_s / _MISSED)
        self._hello = _hello(spec, backend, self._beat_s).packed()
        note(
            ("queries are joined: " if backend.batching.rows else "queries run one by one: ")
            + backend.batching.why
        )
        self._connections: list[Connection] = []
        self._under_way = 0
        self._changed = threading.Condition()
        self._lanes = Lanes(backend, spec.processes, self._finished, note)
        self._told_to_end, self._tell = os.pipe()

    def serve(self) -> bool:
        """Serve until SIGTERM or SIGINT; return whether all that had been taken was finished by then."""
        # Installed before the socket is there: whoever finds that may send SIGTERM at once.
        for which in (signal.SIGTERM, signal.SIGINT):
            signal.signal(which, lambda *_: os.write(self._tell, b"."))
        folder = Path(self._spec.folder)
        with listening(folder, self._spec.socket_name) as listener:
            threading.Thread(target=self._beat, name="beat", daemon=True).start()
            self._accept(listener)
            # First of all, so that nobody new comes.
            (folder / self._spec.socket_name).unlink(missing_ok=True)
        finished = self._drain()
        if finished:
            for connection in self._connections:
                connection.close()
            self._lanes.close()
        return finished

    def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        watched = [listener.fileno(), self._told_to_end]
        while True:
            ready, _, _ = select.select(watched, [], [], LOOK_S)
            if self._told_to_end in ready:
                return
            if ready:
                with suppress(
                    OSError
                ):  # it has gone again, or there is no descriptor left: it will come again
                    self._welcome(listener.accept()[0])
            self._connections = [each for each in self._connections if each.open]
            keep_short(sys.stderr.fileno())

    def _welcome(self, stream: socket.socket) -> None:
        connection = Connection(stream, self._take, self._notify, note)
        connection.start(self._hello)
        self._connections.append(connection)  # only now may signs of life be sent: HELLO comes first

    def _beat(self) -> None:
        """Give signs of life on all connections, from a thread that has nothing else to do.

        It stops with what it is to tell of: a process that is stopped, or a call that holds the interpreter.
        """
        while True:
            time.sleep(self._beat_s)
            fault = self._backend.fault
            message = frame(Kind.BEAT, 0, None if fault is None else {"fault": fault})
            for connection in self._connections:
                connection.beat(message)

    def _take(self, connection: Connection, number: int, queries: tuple[Query, ...]) -> None:
        with self._changed:
            self._under_way += 1
        self._lanes.put(connection, number, queries)

    def _finished(self) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _drain(self) -> bool:
        for connection in self._connections:
            connection.drain()
        end = time.monotonic() + self._spec.grace_s
        with self._changed:
            return self._changed.wait_for(self._idle, max(0.0, end - time.monotonic()))

    def _idle(self) -> bool:
        return not self._under_way and all(each.drained or not each.open for each in self._connections)


def _hello(spec: WorkerSpec, backend: Backend, beat_s: float) -> Hello:
    return Hello(
        spec.service,
        spec.model,
        spec.gpu,
        spec.placement,
        spec.profile,
        spec.batch if backend.most is None else min(spec.batch, backend.most),
        spec.processes,
        os.getpid(),
        backend.inputs,
        backend.outputs,
        dict(spec.seconds),
        backend.batching,
        beat_s,
        spec.hang_timeout_s,
        spec.retry,
        _age_s(),
    )


def _age_s() -> float:
    """Return the seconds since this process was started; 0 where that cannot be read (proc(5))."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
