"""`python -m partita.serve.worker SPEC.json`: one process for one instance.

It loads the model, listens on a Unix socket or at an address, and runs what gateways ask for until it is told to end;
then it drains.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import InputError, PartitaError
from partita.process.logs import keep_short
from partita.serve.worker.backend import load, note
from partita.serve.worker.batching import Lanes
from partita.serve.worker.spec import read_spec
from partita.serve.worker.wire import FrameError, FrameKind, Frames, Hello, frame, listening, unpack_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.serve.tensors import Query
    from partita.serve.worker.backend import Backend
    from partita.serve.worker.listening import HealthPage, TlsStream
    from partita.serve.worker.spec import ListenSpec, WorkerSpec
    from partita.serve.worker.wire import Frame


LOOK_S = 30.0
"""Seconds between two looks at the length of the log."""
BEAT_S = 0.5
"""Seconds between two signs of life, at most."""
_MISSED = 4
"""Of them may be missed before the worker is held to hang."""
WINDOW = 256
"""Batches of one connection that wait or run; a gateway that sends more is read no further."""
_AGAIN_S = 0.001
"""Seconds before a gateway is told of others' batches that could not be told at once."""
STALLED_S = 5.0
"""Seconds after which a gateway that does not read its answers is given up."""


def main(arguments: list[str]) -> int:
    """Load a model, serve until told to end, and return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m partita.serve.worker SPEC.json\n")
        return InputError.exit_code
    try:
        spec = read_spec(arguments[0])
        if spec.supervised:
            threading.Thread(target=_watch, name="supervisor", daemon=True).start()
        if spec.folder and not Path(spec.folder).is_dir():
            raise InputError("no such folder", where=spec.folder)
        if os.getpid() == 1:  # as in a container: the kernel ignores what init has no handler for (signal(7))
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        page = _health_page(spec.listen)
        backend = load(spec)
        serving = Serving(spec, backend)
        if page is not None:
            page.why_not = serving.why_not_ready
        finished = serving.serve()
        if finished:
            backend.close()
    except PartitaError as error:
        sys.stderr.write(f"error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if not finished:
        note(f"ended after {spec.grace_s:g} s with work unfinished")
        sys.stderr.flush()
        os._exit(1)  # a thread in the midst of a batch cannot be asked to end
    return 0


def _watch() -> None:
    """End this worker when its supervisor is gone; while the model loads, at once.

    A pipe, as PR_SET_PDEATHSIG strikes when the *thread* ends that started the process (prctl(2)).
    """
    with suppress(OSError):  # closed already
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _health_page(listen: ListenSpec | None) -> HealthPage | None:
    if listen is None or listen.health_port is None:
        return None
    from partita.serve.worker.listening import HealthPage  # noqa: PLC0415 -- most workers have a socket in a folder

    return HealthPage(listen.host, listen.health_port)


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
        self._ending = False
        self._changed = threading.Condition()
        self._shared = False  # whether several gateways want to know of each other's batches
        self._load = threading.Event()
        self._lanes = Lanes(backend, spec.processes, self._finished, note)
        self._told_to_end, self._tell = os.pipe()

    def serve(self) -> bool:
        """Serve until SIGTERM or SIGINT; return whether all that had been taken was finished by then."""
        # Installed before the socket is there: whoever finds that may send SIGTERM at once.
        for which in (signal.SIGTERM, signal.SIGINT):
            signal.signal(which, lambda *_: os.write(self._tell, b"."))
        if self._spec.listen is not None:
            # Most workers have a socket in a folder, and prove nothing.
            from partita.serve.worker.listening import Greeter  # noqa: PLC0415 -- as said above

            greeter = Greeter(self._spec.listen, self._welcome, note)
            with greeter.listen() as listener:
                self._accept(listener, greeter.greet)
        else:
            folder = Path(self._spec.folder)
            with listening(folder, self._spec.socket_name) as listener:
                self._accept(listener, self._welcome)
                # First of all, so that nobody new comes.
                (folder / self._spec.socket_name).unlink(missing_ok=True)
        finished = self._drain()
        if finished:
            for connection in self._connections:
                connection.close()
            self._lanes.close()
        return finished

    def why_not_ready(self) -> str | None:
        """Say why it cannot answer queries now, None if it can."""
        return "it is told to end" if self._ending else self._backend.fault

    def _accept(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        """Hand connections on until told to end."""
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
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
                    take(listener.accept()[0])
            with self._changed:
                self._connections = [each for each in self._connections if each.open]
            keep_short(sys.stderr.fileno())

    def _welcome(self, stream: socket.socket | TlsStream) -> None:
        connection = Connection(stream, self._take, self._notify, note)
        with self._changed:  # at once, so that whoever has HELLO is told of the end
            connection.start(self._hello)
            self._connections.append(connection)  # only now may signs of life be sent: HELLO comes first
            ending = self._ending
        if ending:  # it came as the end was told
            connection.drain()

    def _beat(self) -> None:
        """Give signs of life on all connections, from a thread that has nothing else to do.

        It stops with what it is to tell of: a process that is stopped, or a call that holds the interpreter.
        """
        while True:
            time.sleep(self._beat_s)
            fault = self._backend.fault
            message = frame(FrameKind.BEAT, 0, None if fault is None else {"fault": fault})
            for connection in self._connections:
                connection.beat(message)

    def _take(self, connection: Connection, number: int, queries: tuple[Query, ...]) -> None:
        with self._changed:
            self._under_way += 1
            connection.under_way += 1
        if self._shared:
            self._load.set()
        self._lanes.put(connection, number, queries)

    def _finished(self, connection: Connection) -> None:
        with self._changed:
            self._under_way -= 1
            connection.under_way -= 1
            self._changed.notify_all()
        if self._shared:
            self._load.set()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
            if not self._shared and sum(each.shares for each in self._connections) > 1:
                self._shared = True
                threading.Thread(target=self._tell_load, name="load", daemon=True).start()
            self._load.set()

    def _tell_load(self) -> None:
        """Tell each gateway how many batches there are of others, when that has changed.

        From a thread of its own: a gateway that does not read holds up no other one's batches.
        """
        while True:
            self._load.wait()
            self._load.clear()
            for connection in self._connections:
                others = self._under_way - connection.under_way
                if connection.shares and others != connection.told:
                    if connection.beat(frame(FrameKind.LOAD, 0, {"batches": others})):
                        connection.told = others
                    elif connection.open:  # an answer is on its way to it
                        time.sleep(_AGAIN_S)
                        self._load.set()

    def _drain(self) -> bool:
        with self._changed:
            self._ending = True
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
        shares=True,
    )


def _age_s() -> float:
    """Return the seconds since this process was started; 0 where that cannot be read (proc(5))."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


class Connection:
    """A gateway, from HELLO until either goes.

    Args:
        stream: as accepted.
        take: takes one batch: the connection, its number, its queries.
        changed: told when the gateway has drained or gone.
        note: told what was wrong with what came.
        stalled_s: seconds after which it is given up if it does not read.

    Attributes:
        open: whether it is there.
        drained: whether it sends nothing more.
        shares: whether it wants to know of other gateways' batches.
        told: how many there were when it was last told.
        under_way: its batches that wait or run.
    """

    def __init__(
        self,
        stream: socket.socket | TlsStream,
        take: Callable[[Connection, int, tuple[Query, ...]], None],
        changed: Callable[[], None],
        note: Callable[[str], None],
        stalled_s: float = STALLED_S,
    ) -> None:
        self.open = True
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

    def beat(self, message: bytes) -> bool:
        """Give a sign of life; not while an answer is on its way, which is one, or the gateway reads nothing.

        Returns:
            Whether it was sent.
        """
        if not self._sending.acquire(blocking=False):
            return False
        try:
            if self.open and self._stream.send(message, socket.MSG_DONTWAIT) < len(message):
                self._shut()  # the rest of it would stand before the next frame
        except BlockingIOError:
            return False
        except OSError:
            self._shut()
        finally:
            self._sending.release()
        return self.open

    def drain(self) -> None:
        """Say that this worker ends."""
        self.send(frame(FrameKind.DRAINING, 0))

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
