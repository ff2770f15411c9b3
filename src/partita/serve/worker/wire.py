"""What the gateway and a worker say to each other, over a stream socket on which the worker listens: Unix, or TCP.

A frame is a head of 20 bytes, a JSON header and raw data:

    length of header (4) | length of data (4) | kind (1) | 3 unused | id (8)        all little-endian

On each connection the worker first says HELLO with what it is (`Hello`). Then RUN asks for one batch: its header
lists the queries, each with its inputs' names, datatypes, shapes and sizes in bytes, and the names of the outputs it
wants; the data are those of all inputs one after the other. DONE with the same id answers it alike, with the seconds
that the batch took. Meanwhile BEAT is a sign of life that comes whatever the worker computes, from a thread of its
own; its header is empty, or says why the worker cannot answer now. A worker that was told to end says DRAINING on
every connection; a gateway that will send it nothing more answers DRAINED; when all have, or are gone, and nothing is
under way, the worker ends.

A gateway that answers HELLO with SHARE is told by LOAD, whenever that changes, how many batches the worker has of
other gateways: else two would both take it for idle.

Over TCP the gateway speaks first: GREET, with a nonce. A worker that has a token answers CHALLENGE, with a nonce of
its own and a proof that it knows the token; the gateway proves the same with PROOF, and only then comes HELLO. The
token itself is never sent.

Readers believe no frame: each checks sizes before it takes them.
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
    """What a frame is."""

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


_RUN = int(FrameKind.RUN)  # looked up once: enumerations are slow at it


class Hello(Value):
    """What a worker is.

    Attributes:
        service: whose queries it answers.
        model: name of the model.
        gpu: id of its GPU, as `node-0/gpu-3`.
        placement: its instance there, as `3g.40gb@4`.
        profile: of the instance.
        batch: the largest batch it takes.
        processes: batches it runs side by side.
        pid: of its first process.
        inputs: what the model takes.
        outputs: what it gives.
        seconds: expected seconds of some batch sizes, from the performance table; may be empty.
        batching: whether its queries may be joined and split.
        beat_s: seconds between two BEATs; 0 of a worker that sends none.
        hang_timeout_s: seconds without a sign of life, or with a batch that nobody waits for any more, after which it
            hangs and may be killed.
        retry: whether its queries may run a second time, elsewhere.
        load_s: seconds from the start of its process until it was ready; 0 if it does not know.
        shares: whether it tells of other gateways' batches.
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

    def packed(self) -> bytes:
        """Return its frame."""
        return frame(FrameKind.HELLO, 0, {"protocol": PROTOCOL, **to_data(self)})

    @classmethod
    def unpacked(cls, header: dict[str, Any]) -> Hello:
        """Return what a frame's header says.

        Raises:
            ValueError: it is of another protocol, or no HELLO.
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
    """Return the frame that asks for one batch, in parts: the queries' data as they are, not copied."""
    header, data = [], []
    for query in queries:
        inputs = query.inputs
        asked: dict[str, Any] = {"inputs": _listed(inputs), "outputs": query.outputs}
        if query.parameters is not None:
            asked["parameters"] = query.parameters
        header.append(asked)
        data += [each.data for each in inputs]
    return _parts(_RUN, number, dumped(header), data)


def unpack_run(header: list[dict[str, Any]], data: memoryview) -> tuple[Query, ...]:
    """Return the queries of a RUN frame; their tensors are views of `data`.

    Raises:
        ValueError, KeyError, TypeError: the header is not as it should be, or the data too few.
    """
    at, found = 0, []
    for each in header:
        inputs, at = _taken(each["inputs"], data, at)
        found.append(Query(inputs, tuple(each["outputs"]), each.get("parameters")))
    return tuple(found)


def pack_done(number: int, answers: Sequence[Answer], seconds: float, waited: float = 0.0) -> bytes:
    """Return the frame that answers one batch, which took so many seconds and waited for others before."""
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
    """Return the answers of a DONE frame, the seconds that the batch took, and those that it waited in the worker."""
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
    """What came is no frame."""


class ByteStream(Protocol):
    """What frames are read from: a blocking socket, or TLS on one."""

    def recv(self, size: int, /) -> bytes:
        """Return what comes next, at most so many bytes; nothing at the end."""
        ...

    def recv_into(self, buffer: memoryview, /) -> int:
        """Fill a buffer from its beginning with what comes next; return how many bytes that were."""
        ...


class Frame(NamedTuple):
    """A frame as it came."""

    kind: int
    number: int
    header: Any
    data: memoryview


class Frames:
    """Frames of one connection, one after the other.

    Args:
        connection: a blocking stream socket, or what can be read like one.
        most: bytes that a header and the data behind it may have.
    """

    def __init__(self, connection: ByteStream, most: tuple[int, int] = (MOST_HEADER, MOST_DATA)) -> None:
        self._connection = connection
        self._most_header, self._most_data = most
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
    """Return a socket that listens at a name in a folder; nobody finds it before it does.

    Raises:
        OSError: it cannot be made.
    """
    part = f".{name}.{os.getpid()}"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(folder) as base:
            made.bind(f"{base}/{part}")
            # Listens before it has its name: whoever finds a socket that refuses may take it for a dead worker's.
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
    """Open a folder; its short name is good while it is open."""
    number = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
