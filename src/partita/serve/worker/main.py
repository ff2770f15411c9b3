"""`python -m partita.serve.worker SPEC.json`: the worker process of one instance.

It loads the model, listens on a Unix socket or at an address, and runs batches of gateways. On SIGTERM it drains.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import InputError, PartitaError
from partita.process.logs import keep_short
from partita.serve.worker.backend import note
from partita.serve.worker.batching import Lanes, Turns
from partita.serve.worker.connection import Connection
from partita.serve.worker.loading import load
from partita.serve.worker.spec import read_spec
from partita.serve.worker.wire import FrameKind, Hello, frame, listening

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from partita.serve.tensors import Query
    from partita.serve.worker.backend import Backend
    from partita.serve.worker.listening import HealthPage, TlsStream
    from partita.serve.worker.spec import ListenSpec, WorkerSpec


LOOK_S = 30.0
"""Seconds between two checks of the log's length."""
BEAT_S = 0.5
"""Maximum seconds between two signs of life."""
_MISSED = 4
"""Number of signs of life within the hang timeout."""
_AGAIN_S = 0.001
"""Seconds until a LOAD that could not be sent is tried again."""


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
        if os.getpid() == 1:  # in a container, where the kernel ignores signals without a handler (signal(7))
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        page = _health_page(spec.listen)
        backends = [load(each) for each in spec.served]
        serving = Serving(spec, backends)
        if page is not None:
            page.why_not = serving.why_not_ready
        finished = serving.serve()
        if finished:
            for backend in backends:
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
        os._exit(1)  # a thread that runs a batch cannot be ended otherwise
    return 0


def _watch() -> None:
    """End this worker when its supervisor is gone, also while the model loads.

    The supervisor holds a pipe, since PR_SET_PDEATHSIG acts when the *thread* that started the process ends
    (prctl(2)).
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


class ServedModel:
    """One of the models of a worker.

    Args:
        spec: of its service.
        backend: runs its batches.
        beat_s: maximum seconds between two signs of life.
        lanes: run its batches.
        in_turn: whether the worker has other models, too.

    Attributes:
        spec: of its service.
        backend: runs its batches.
        lanes: run its batches.
        hello: its description, as sent to gateways.
    """

    def __init__(
        self, spec: WorkerSpec, backend: Backend, beat_s: float, lanes: Lanes, *, in_turn: bool
    ) -> None:
        self.spec, self.backend, self.lanes = spec, backend, lanes
        hello = _hello(spec, backend, beat_s)
        self.hello = hello.replace(shares=not in_turn, in_turn=in_turn).packed()
        joined = "queries are joined: " if backend.batching.rows else "queries run one by one: "
        note(f"{spec.service}: {joined}{backend.batching.why}")


class Serving:
    """Serves one instance.

    Args:
        spec: of this worker.
        backends: run the batches, one for each service that it serves.
    """

    def __init__(self, spec: WorkerSpec, backends: Sequence[Backend]) -> None:
        self._spec = spec
        self._beat_s = min(BEAT_S, spec.hang_timeout_s / _MISSED)
        turns = Turns()
        self._models = [
            ServedModel(
                each,
                backend,
                self._beat_s,
                Lanes(backend, spec.processes, self._finished, note, turns=turns),
                in_turn=bool(spec.tenants),
            )
            for each, backend in zip(spec.served, backends, strict=True)
        ]
        self._connections: list[Connection] = []
        self._under_way = 0
        self._ending = False
        self._changed = threading.Condition()
        self._shared = False  # whether several gateways want LOAD frames
        self._load = threading.Event()
        self._told_to_end, self._tell = os.pipe()

    def serve(self) -> bool:
        """Serve until SIGTERM or SIGINT, then drain; return whether all accepted batches were finished."""
        # Installed before the socket exists, since whoever finds the socket may send SIGTERM at once.
        for which in (signal.SIGTERM, signal.SIGINT):
            signal.signal(which, lambda *_: os.write(self._tell, b"."))
        if self._spec.listen is not None:
            from partita.serve.worker.listening import Greeter  # noqa: PLC0415 -- most have a socket in a folder

            greeter = Greeter(self._spec.listen, partial(self._welcome, self._models[0]), note)
            with greeter.listen() as listener:
                self._accept({listener: greeter.greet})
        else:
            folder = Path(self._spec.folder)
            with ExitStack() as stack:
                # The first socket, by which others see that the worker is ready, appears last.
                listeners = {
                    stack.enter_context(listening(folder, model.spec.socket_name)): partial(
                        self._welcome, model
                    )
                    for model in reversed(self._models)
                }
                self._accept(listeners)
                # First, so that no other gateway connects.
                for model in self._models:
                    (folder / model.spec.socket_name).unlink(missing_ok=True)
        finished = self._drain()
        if finished:
            for connection in self._connections:
                connection.close()
            for model in self._models:
                model.lanes.close()
        return finished

    def why_not_ready(self) -> str | None:
        """Return why it cannot answer queries now, None if it can."""
        if self._ending:
            return "the worker is ending"
        return next((model.backend.fault for model in self._models if model.backend.fault), None)

    def _accept(self, listeners: Mapping[socket.socket, Callable[[socket.socket], None]]) -> None:
        """Accept connections until told to end."""
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        watched = select.poll()  # select.select() takes no descriptor above 1023
        watched.register(self._told_to_end, select.POLLIN)
        by_number = {listener.fileno(): (listener, take) for listener, take in listeners.items()}
        for number, (listener, _) in by_number.items():
            listener.setblocking(False)
            watched.register(number, select.POLLIN)
        while True:
            ready = [number for number, _ in watched.poll(LOOK_S * 1000)]
            if self._told_to_end in ready:
                return
            for listener, take in (by_number[number] for number in ready):
                with suppress(OSError):  # the client has left, or no descriptor is free: it will try again
                    take(listener.accept()[0])
            with self._changed:
                self._connections = [each for each in self._connections if each.open]
            keep_short(sys.stderr.fileno())

    def _welcome(self, model: ServedModel, stream: socket.socket | TlsStream) -> None:
        connection = Connection(
            stream, partial(self._take, model), self._notify, note, fault=lambda: model.backend.fault
        )
        with self._changed:  # so that every gateway with HELLO also gets DRAINING
            connection.start(model.hello)
            self._connections.append(connection)  # after HELLO, which must come before signs of life
            ending = self._ending
        if ending:
            connection.drain()

    def _beat(self) -> None:
        """Send signs of life on all connections, from a thread of its own.

        They stop when the process is stopped, or a call holds the interpreter.
        """
        while True:
            time.sleep(self._beat_s)
            for connection in self._connections:
                connection.beat(_beat_frame(connection.fault()))

    def _take(
        self, model: ServedModel, connection: Connection, number: int, queries: tuple[Query, ...]
    ) -> None:
        with self._changed:
            self._under_way += 1
            connection.under_way += 1
        if self._shared:
            self._load.set()
        model.lanes.put(connection, number, queries)

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
        """Send each connection the number of batches of all others whenever it changes.

        It has a thread of its own, so that a gateway that does not read delays no batches of others.
        """
        while True:
            self._load.wait()
            self._load.clear()
            for connection in self._connections:
                others = self._under_way - connection.under_way
                if connection.shares and others != connection.told:
                    if connection.beat(frame(FrameKind.LOAD, 0, {"batches": others})):
                        connection.told = others
                    elif connection.open:  # an answer is being sent to it
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


def _beat_frame(fault: str | None) -> bytes:
    return frame(FrameKind.BEAT, 0, None if fault is None else {"fault": fault})


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
        gpu_uuid=spec.gpu_uuid,
        gpu_instance_id=spec.gpu_instance_id,
    )


def _age_s() -> float:
    """Return the seconds since this process was started; 0 if that cannot be read (proc(5))."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
