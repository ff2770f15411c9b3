"""The protocol between gateways and workers, over a Unix or TCP stream socket on which the worker listens.

A frame is a head of 20 bytes, a JSON header and raw data:

    length of header (4) | length of data (4) | kind (1) | 3 unused | id (8)        all little-endian

On each connection the worker first sends HELLO, its description (`Hello`). RUN then requests one batch: its header
lists the queries, each with its inputs' names, datatypes, shapes and sizes in bytes, and the names of the wanted
outputs, with its parameters and the context of its trace where it has them; its data are those of all inputs in
order. DONE with the same id answers it in the same way, with the seconds that the batch took. BEAT is a sign of life
from a thread of its own, whatever the worker computes; its header is empty, or says why the worker cannot answer now.
A worker that is to end sends DRAINING on every connection, and a gateway that will send nothing more answers DRAINED.
The worker ends when all gateways have done so or left, and no batch is left.

A gateway that answers HELLO with SHARE gets LOAD, with the number of the worker's batches from other gateways,
whenever it changes; otherwise two gateways could both take the worker for idle.

Over TCP the gateway begins with GREET, which has a nonce. A worker with a token answers CHALLENGE, with a nonce of
its own and a proof that it knows the token. The gateway answers with its own proof in PROOF, and then comes HELLO.
The token itself is never sent.

Readers check all sizes in a frame before they use them.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from partita.documents.codec import DocumentSource, Value, convert, to_data
from partita.errors import InputError
from partita.serve.tensors import APART, Answer, Batching, Query, Tensor, TensorSpec
from partita.serve.trace_context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from partita.serve.tensors import Buffer


PROTOCOL = 2
HANG_TIMEOUT_S = 10.0
HEAD = struct.Struct("<IIB3xQ")
"""Length of the header, length of the data, kind, id."""
MOST_HEADER = 16 << 20
MOST_DATA = 1 << 30
CHUNK = 1 << 16
BACKLOG = 64


class FrameKind(IntEnum):
    """The kind of a frame."""

    HELLO = 1
    RUN = 2
    DONE = 3
    DRAINING = 4
    DRAINED = 5
    BEAT = 6
    GREET = 7
    CHALLENGE = 8
    PROOF = 9
    SHARE = 10
    LOAD = 11


_RUN = int(FrameKind.RUN)  # looked up once, since access to members of enumerations is slow


class Hello(Value):
    """A worker's description of itself.

    Attributes:
        service: that it serves.
        model: name of the model.
        gpu: id of its GPU, such as `node-0/gpu-3`.
        placement: of its instance, such as `3g.40gb@4`.
        profile: of its instance.
        batch: the largest batch that it takes.
        processes: number of batches that it runs concurrently.
        pid: of its first process.
        inputs: of the model.
        outputs: of the model.
        seconds: expected seconds by batch size, from the performance table; may be empty.
        batching: whether its queries may be joined and split.
        beat_s: seconds between two BEATs; 0 if it sends none.
        hang_timeout_s: seconds without a sign of life, or with a batch that was given up, after which it counts as
        hung
            and may be killed.
        retry: whether its queries may run a second time, elsewhere.
        load_s: seconds from the start of its process until it was ready; 0 if unknown.
        shares: whether it can send LOAD.
        in_turn: whether its process serves other services, too, whose batches run in turn with its own. Then it sends
            no LOAD, which would be two messages to each service for every batch.
        gpu_uuid: of its GPU; None if it is not known.
        gpu_instance_id: of its instance on that GPU; None if it is not known.
    """

    service: str
    model: str
    gpu: str
    placement: str
    profile: str
    batch: int
    processes: int
    pid: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    seconds: dict[int, float]
    batching: Batching = APART
    beat_s: float = 0.0
    hang_timeout_s: float = HANG_TIMEOUT_S
    retry: bool = True
    load_s: float = 0.0
    shares: bool = False
    in_turn: bool = False
    gpu_uuid: str | None = None
    gpu_instance_id: int | None = None

    def packed(self) -> bytes:
        """Return the HELLO frame."""
        return frame(FrameKind.HELLO, 0, {"protocol": PROTOCOL, **to_data(self)})

    @classmethod
    def unpacked(cls, header: dict[str, Any]) -> Hello:
        """Return the description in a HELLO frame's header.

        Raises:
            ValueError: it is of another protocol version, or invalid.
        """
        data = {name: value for name, value in dict(header).items() if name in cls.__struct_fields__}
        if header.get("protocol") != PROTOCOL:
            raise ValueError(f"a worker of protocol {header.get('protocol')}, not {PROTOCOL}")
        try:
            return convert(data, cls, DocumentSource("HELLO"))
        except InputError as error:
            raise ValueError(f"no worker's HELLO: {error}") from None


_text = json.JSONEncoder(separators=(",", ":")).encode


def _dumped(header: object) -> bytes:
    return _text(header).encode()


def frame(
    kind: FrameKind,
    number: int,
    header: object = None,
    data: Iterable[Buffer] = (),
    dumped: Callable[[object], bytes] = _dumped,
) -> bytes:
    """Return a frame; `dumped` makes JSON of its header."""
    return b"".join(_parts(kind, number, b"" if header is None else dumped(header), list(data)))


def run_parts(
    number: int, queries: Sequence[Query], dumped: Callable[[object], bytes] = _dumped
) -> list[Buffer]:
    """Return the RUN frame of one batch in pieces, so that the queries' data are not copied."""
    header, data = [], []
    for query in queries:
        inputs = query.inputs
        asked: dict[str, Any] = {"inputs": _listed(inputs), "outputs": query.outputs}
        if query.parameters is not None:
            asked["parameters"] = query.parameters
        if query.context is not None:
            asked["context"] = tuple(query.context)
        header.append(asked)
        data += [each.data for each in inputs]
    return _parts(_RUN, number, dumped(header), data)


def unpack_run(header: list[dict[str, Any]], data: memoryview) -> tuple[Query, ...]:
    """Return the queries of a RUN frame; their tensors are views of `data`.

    Raises:
        ValueError, KeyError, TypeError: the header is invalid, or the data are too short.
    """
    at, found = 0, []
    for each in header:
        inputs, at = _taken(each["inputs"], data, at)
        context = each.get("context")
        found.append(
            Query(
                inputs,
                tuple(each["outputs"]),
                each.get("parameters"),
                None if context is None else TraceContext(*map(str, context)),
            )
        )
    return tuple(found)


def pack_done(number: int, answers: Sequence[Answer], seconds: float, waited: float = 0.0) -> bytes:
    """Return the DONE frame of one batch, which took `seconds` and waited for other batches for `waited` seconds."""
    header = {
        "seconds": seconds,
        "waited": waited,
        "answers": [
            {"outputs": _listed(answer.outputs), "parameters": answer.parameters}
            if answer.error is None
            else {"error": answer.error, "invalid": answer.invalid}
            for answer in answers
        ],
    }
    return frame(
        FrameKind.DONE, number, header, (tensor.data for answer in answers for tensor in answer.outputs)
    )


def unpack_done(header: dict[str, Any], data: memoryview) -> tuple[tuple[Answer, ...], float, float]:
    """Return the answers in a DONE frame, the seconds that the batch ran, and the seconds that it waited."""
    at, found = 0, []
    for each in header["answers"]:
        if "error" in each:
            found.append(Answer(error=each["error"], invalid=each["invalid"]))
            continue
        outputs, at = _taken(each["outputs"], data, at)
        found.append(Answer(outputs, parameters=each["parameters"]))
    return tuple(found), float(header["seconds"]), float(header.get("waited", 0.0))


def _parts(kind: int, number: int, head: bytes, data: list[Buffer]) -> list[Buffer]:
    return [HEAD.pack(len(head), sum(map(len, data)), kind, number), head, *data]


def _listed(tensors: Sequence[Tensor]) -> list[tuple[str, str, tuple[int, ...], int]]:
    return [(name, datatype, shape, len(data)) for name, datatype, shape, data in tensors]


def _taken(listed: Sequence[Any], data: memoryview, at: int) -> tuple[tuple[Tensor, ...], int]:
    found = []
    for name, datatype, shape, size in listed:
        if not 0 <= size <= len(data) - at:
            raise ValueError(f"a tensor of {size} bytes where {len(data) - at} are left")
        found.append(Tensor(name, datatype, tuple(shape), data[at : at + size]))
        at += size
    return tuple(found), at


class FrameError(Exception):
    """The data is no valid frame."""


class ByteStream(Protocol):
    """A stream from which frames are read: a blocking socket, or TLS on one."""

    def recv(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; empty at the end."""
        ...

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read the next bytes into the beginning of a buffer; return their number."""
        ...


class Frame(NamedTuple):
    """A received frame."""

    kind: int
    number: int
    header: Any
    data: memoryview


class Frames:
    """Reads the frames of one connection.

    Args:
        connection: a blocking stream.
        most: maximum bytes of a header, and of data.
    """

    def __init__(self, connection: ByteStream, most: tuple[int, int] = (MOST_HEADER, MOST_DATA)) -> None:
        self._connection = connection
        self._most_header, self._most_data = most
        self._left = memoryview(b"")

    def next(self) -> Frame | None:
        """Return the next frame, None at the end of the stream.

        Raises:
            FrameError: it is too large or cut short, or its header is no JSON.
            OSError: the connection failed.
        """
        head = self._take(HEAD.size)
        if head is None:
            return None
        header_size, data_size, kind, number = HEAD.unpack(head)
        if header_size > self._most_header or data_size > self._most_data:
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


def listening(folder: Path, name: str) -> socket.socket:
    """Return a listening socket with a name in a folder; the name appears only when it listens.

    Raises:
        OSError: it cannot be created.
    """
    part = f".{name}.{os.getpid()}"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(folder) as base:
            made.bind(f"{base}/{part}")
            # It listens before it gets its name, since a socket that refuses is taken for a dead worker's.
            made.listen(BACKLOG)
            os.rename(f"{base}/{part}", f"{base}/{name}")  # noqa: PTH104 -- pathlib would open the folder again
    except BaseException:
        made.close()
        raise
    return made


def connected(folder: Path, name: str, timeout_s: float | None = None) -> socket.socket:
    """Return a socket connected to a name in a folder.

    Raises:
        OSError: nobody listens there.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(timeout_s)
    try:
        with short_path(folder) as base:
            made.connect(f"{base}/{name}")
    except BaseException:
        made.close()
        raise
    return made


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Yield a short path of a folder, which holds while the block runs; socket paths have at most 107 bytes."""
    number = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
