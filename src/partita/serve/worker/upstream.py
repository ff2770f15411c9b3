"""Forwards batches to a server of the Open Inference Protocol v2: Triton, MLServer and others.

The server runs already, or the worker starts it; either way the worker watches whether it answers (`ServerHealth`).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeAlias

from partita.errors import InputError
from partita.process import keeper
from partita.serve.tensors import ITEM_BYTES, Batching, TensorSpec
from partita.serve.worker.backend import note
from partita.serve.worker.batching import Joining, run_joined
from partita.serve.worker.oip_client import OipClient, UpstreamError, read_answer, write_query
from partita.serve.worker.spec import UNDECLARED, fill_in
from partita.serve.worker.wire import HANG_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from partita.serve.tensors import Answer, Query
    from partita.serve.worker.spec import DeclaredBatch, UpstreamSpec


BINARY = "binary_tensor_data"
"""The binary tensor extension's name in a server's metadata (Triton's protocol extensions)."""
_APART_FOR_SEQUENCES = Batching(why="its server keeps the state of sequences for it")
_LOOK_S = 0.25
_FILL_HINT = "with a command it may name {port}; write {{ for a brace"
_CHANGED = "the server has loaded a model of other inputs, outputs or batches"
_RELOAD_S = 2.0
"""Seconds after which a server in use is asked again what its model takes."""
_ANSWER_S = 5.0
"""Seconds that an answer may take while the server gets ready: one that accepts and never answers is asked again."""
PROBE_S = 2.0
"""Seconds between two questions, and that an answer may take."""
_GRACE_S = 10.0
_Kind: TypeAlias = "tuple[frozenset[TensorSpec], frozenset[TensorSpec], tuple[int | None, bool] | None]"
"""Inputs and outputs, and what the configuration says of batches; None without one."""


class UpstreamBackend:
    """A back-end (the protocol's `Backend`) with one connection kept for each lane.

    Queries are joined up to the `max_batch_size` that the server's own configuration of the model has; where that is
    0, or the server has no configurations, only if whoever owns the model says so.

    Args:
        spec: the server.
        model: the model's name there, unless the specification says another.
        lanes: connections.
        declared: what is said of the model's batch.
        hang_timeout_s: seconds without an answer, while it is asked nothing else, after which the server hangs.
        retry: whether a query may be sent again where a connection ends before its answer.

    Attributes:
        batching: whether its queries may be joined and split.
        most: rows that it takes at once at most; None for no limit.

    Raises:
        InputError: the server does not answer in time, or does not have the model, or tells of it what is none.
    """

    def __init__(
        self,
        spec: UpstreamSpec,
        model: str,
        lanes: int,
        declared: DeclaredBatch = UNDECLARED,
        *,
        hang_timeout_s: float = HANG_TIMEOUT_S,
        retry: bool = True,
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        words = {"port": free_port()} if spec.command else {}
        self._url = fill_in(spec.url, words, _FILL_HINT)
        command = [fill_in(word, words, _FILL_HINT) for word in spec.command]
        self._server = ServerProcess(command) if command else None
        self._clients = [OipClient(self._url, spec.timeout_s, again=retry) for _ in range(lanes)]
        self._path = f"/v2/models/{spec.model or model}"
        self._ready_path = f"{self._path}/ready"
        self._health = ServerHealth(
            self._clients, self._ready_path, self._server, hang_timeout_s, look=self._look_at_model
        )
        try:
            self._await_ready(self._clients[0], spec)
            self._read_metadata(self._clients[0])
            config = self._config(self._clients[0])
        except BaseException:
            self.close()
            raise
        self._known: _Kind = (frozenset(self.inputs), frozenset(self.outputs), _kind(config))
        self._looked, self._changed = time.monotonic(), False
        own = _own_limit(config)
        sequences = "sequence_batching" in (config or {})
        self.inputs = _with_optional(self.inputs, config)
        self.batching = (
            _APART_FOR_SEQUENCES if sequences else _batching(self.inputs, self.outputs, own, declared)
        )
        self.most = own or None
        self._joining = Joining(self.most, apart=not self.batching.rows)
        self._health.start()

    @property
    def fault(self) -> str | None:
        """Why the server cannot be asked now; None if it can."""
        return self._health.fault

    def run(self, lane: int, queries: Sequence[Query]) -> Sequence[Answer]:
        """Return the server's answers, from as few requests as the queries' shapes allow.

        Raises:
            UpstreamError: the server has failed, or loaded another kind of model meanwhile; the worker ends by that.
        """
        with self._health.lanes[lane]:
            # A connection that has broken may be a restart.
            if self._clients[lane].lost() or time.monotonic() - self._looked >= _RELOAD_S:
                self._look_at_model(self._clients[lane])
        if self._changed:
            raise UpstreamError(_CHANGED)
        return run_joined(queries, self._joining, lambda query: self._infer(lane, query))

    def _look_at_model(self, client: OipClient) -> None:
        """End the worker if the server now has another kind of model, which queries are to be checked and joined for.

        The client must be nobody else's meanwhile.
        """
        self._looked = time.monotonic()
        try:
            metadata = client.get(self._path)
            config = None if self._known[2] is None else client.get(f"{self._path}/config")
            inputs, outputs = _sides(metadata)
            found: _Kind = (frozenset(inputs), frozenset(outputs), _kind(config))
        except (OSError, UpstreamError, KeyError, TypeError, ValueError, AttributeError):
            return  # it says nothing now: whether it answers is seen by asking it
        if found != self._known and not self._changed:
            self._changed = True
            note(f"{_CHANGED}: this worker ends, and the next one reads them")
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        """Close the connections, and end the server if it is ours."""
        self._health.close()
        for client in self._clients:
            client.close()
        if self._server is not None:
            self._server.close()

    def _read_metadata(self, client: OipClient) -> None:
        try:
            self._binary = _takes_binary(client)
            metadata = client.get(self._path)
            self.inputs, self.outputs = _sides(metadata)
        except (OSError, UpstreamError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the server's metadata cannot be read: {error!r}", where=self._url + self._path
            ) from None

    def _config(self, client: OipClient) -> dict[str, Any] | None:
        """Return the server's configuration of the model, which Triton and those like it have; None without one."""
        try:
            return client.get(f"{self._path}/config")
        except (OSError, UpstreamError, ValueError):
            return None  # then nothing is joined, which is always right

    def _infer(self, lane: int, query: Query) -> Answer:
        header, body = write_query(query, binary=self._binary)
        try:
            with self._health.lanes[lane]:
                told, answer = self._clients[lane].post(f"{self._path}/infer", header, body, query.context)
        except OSError as error:
            raise UpstreamError(f"{self._url} does not answer: {error.strerror or error}") from None
        return read_answer(answer, told)

    def _await_ready(self, client: OipClient, spec: UpstreamSpec) -> None:
        end = time.monotonic() + spec.load_timeout_s
        while not client.ready(self._ready_path, min(_ANSWER_S, max(_LOOK_S, end - time.monotonic()))):
            if self._server is not None and self._server.ended is not None:
                raise InputError(
                    f"the server ended with {self._server.ended} before it was ready", where=spec.command[0]
                )
            if time.monotonic() > end:
                raise InputError(
                    f"the server did not have the model ready in {spec.load_timeout_s:g} s",
                    where=self._url + self._path,
                    hint=f"see `curl {self._url}{self._path}/ready`",
                )
            time.sleep(_LOOK_S)


def _takes_binary(client: OipClient) -> bool:
    """Say whether the server's own metadata list the extension; it may have none that can be read."""
    try:
        return BINARY in (client.get("/v2").get("extensions") or [])
    except (UpstreamError, TypeError):
        return False


def _sides(metadata: dict[str, Any]) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    return _tensors(metadata.get("inputs") or []), _tensors(metadata.get("outputs") or [])


def _kind(config: dict[str, Any] | None) -> tuple[int | None, bool] | None:
    """Return what of a configuration decides how queries may be put together; None without one."""
    return None if config is None else (_own_limit(config), "sequence_batching" in config)


def _tensors(listed: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    """Return what is listed; nothing if any of it is of a datatype that no query could have, or without a shape.

    Some servers list what whoever owns the model has written down, in words of their own.
    """
    if not all(
        "shape" in each and (each["datatype"] in ITEM_BYTES or each["datatype"] == "BYTES") for each in listed
    ):
        return ()
    return tuple(
        TensorSpec(str(each["name"]), str(each["datatype"]), tuple(int(size) for size in each["shape"]))
        for each in listed
    )


def _own_limit(config: dict[str, Any] | None) -> int | None:
    """Return the `max_batch_size` of a configuration; None if nothing is said of it."""
    value = None if config is None else config.get("max_batch_size", 0)
    return value if isinstance(value, int) and value >= 0 else None


def _batching(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], own: int | None, declared: DeclaredBatch
) -> Batching:
    """Return whether queries may be joined: as is declared, or else as the server's own limit says."""
    if declared.rows is False:
        return Batching(why="it is declared to have no batch dimension")
    if declared.rows:
        return Batching(rows=True, most=declared.most or own or 0, why="it is declared `batch: rows`")
    if own is None:
        return Batching(why="its server says nothing of a max_batch_size")
    if own == 0:
        return Batching(why="its server says max_batch_size 0")
    for spec in (*inputs, *outputs):
        # Where there is a max_batch_size, metadata begin each shape with the batch (Triton's model configuration).
        if spec.shape[:1] != (-1,):
            return Batching(
                why=f"its server says max_batch_size {own}, and {spec.name} is {list(spec.shape)}, without a batch"
            )
    return Batching(rows=True, most=declared.most or own, why=f"its server says max_batch_size {own}")


def _with_optional(inputs: Sequence[TensorSpec], config: dict[str, Any] | None) -> tuple[TensorSpec, ...]:
    """Return the inputs, marked where the configuration says that a query may leave them out."""
    listed = (config or {}).get("input")
    optional = {
        each.get("name")
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, dict) and each.get("optional") is True
    }
    return tuple(each.replace(optional=each.name in optional) for each in inputs)


class ServerHealth:
    """Knows whether a server answers.

    It asks over the connection of the first lane and while no lane asks: a server may serve one connection, or one
    request, at a time, and the batches under way have a limit of their own.

    Args:
        clients: one for each lane.
        path: answered with 200 while the model is ready.
        server: the server's process where it is ours; it is killed when it hangs, and its worker ends with it.
        hang_timeout_s: seconds without an answer after which it hangs.
        every_s: seconds between two questions, and that an answer may take.
        look: is handed the first client each time that the server has answered, nobody else using it.

    Attributes:
        lanes: a lane's is held while it asks.
        fault: why the server cannot be asked; None if it can.
    """

    def __init__(
        self,
        clients: Sequence[OipClient],
        path: str,
        server: ServerProcess | None,
        hang_timeout_s: float,
        every_s: float = PROBE_S,
        *,
        look: Callable[[OipClient], None] | None = None,
    ) -> None:
        self.lanes = tuple(threading.Lock() for _ in clients)
        self.fault: str | None = None
        self._client, self._path, self._server = clients[0], path, server
        self._hang_timeout_s, self._every_s = hang_timeout_s, min(every_s, hang_timeout_s / 2)
        self._look = look
        self._closed = threading.Event()
        self._since: float | None = None

    def start(self) -> None:
        """Ask from now on."""
        threading.Thread(target=self._ask_again, name="server-health", daemon=True).start()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _ask_again(self) -> None:
        while not self._closed.wait(self._every_s):
            with ExitStack() as held:
                if all(self._hold(lane, held) for lane in self.lanes):
                    answers = self._client.ready(self._path, self._every_s)
                    self._judge(answers=answers)
                    if answers and self._look is not None:
                        self._look(self._client)

    @staticmethod
    def _hold(lane: threading.Lock, held: ExitStack) -> bool:
        if lane.acquire(blocking=False):
            held.callback(lane.release)
            return True
        return False

    def _judge(self, *, answers: bool) -> None:
        now = time.monotonic()
        if answers:
            if self.fault is not None:
                note("the server answers again")
            self.fault = self._since = None
            return
        if self._since is None:
            self._since = now
            self.fault = f"the server does not say at {self._path} that it is ready"
            note(self.fault)
        if self._server is not None and now - self._since > self._hang_timeout_s:
            note(f"it has not for {self._hang_timeout_s:g} s: it is killed")
            self._server.kill()
            self.close()


def free_port() -> int:
    """Return a TCP port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """The server. To be made in the main thread, with whose end the kernel ends the server too (prctl(2)).

    Args:
        command: its words.

    Raises:
        InputError: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._closing = False
        try:
            # Of the worker's group, so that whoever ends that by force ends the server and what it has started.
            self._process = keeper.start(
                command, os.environ, output=None, apart=False, orphaned=signal.SIGKILL, ended=self._ended
            )
        except OSError as error:
            raise InputError(f"cannot be started: {error.strerror}", where=command[0]) from None

    @property
    def ended(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.returncode

    def close(self) -> None:
        """End it."""
        self._closing = True
        self._process.end(_GRACE_S)

    def kill(self) -> None:
        """End it by force; its worker ends as it does whenever its server has."""
        self._process.kill()

    def _ended(self, process: keeper.Child) -> None:
        """End the worker when its server ends: there is nothing left to serve with."""
        if not self._closing:
            note(f"the server {keeper.how_it_ended(process.returncode or 0)}")
            os.kill(os.getpid(), signal.SIGTERM)
