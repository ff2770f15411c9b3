"""Asks a server of the Open Inference Protocol v2: the HTTP client, and requests and answers as bytes.

The client is the standard library's, with blocking calls over one connection that is kept.
"""

from __future__ import annotations

import http.client
import json
import math
import select
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from partita.files import json_value
from partita.serve.tensors import ITEM_BYTES, Answer, Tensor, pack_texts
from partita.serve.worker.batching import InvalidQueryError, decode_texts

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from partita.serve.tensors import Query
    from partita.serve.trace_context import TraceContext


HEADER_LENGTH = "Inference-Header-Content-Length"
"""How much of a body is JSON, in the binary tensor extension."""
_TOLD = 500
_NOT_TO_BLAME = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 426, 429})
"""Of 4xx, what is no query's fault: that of who set us up, or the server's state of the moment (RFC 9110, 15.5)."""
_MOST_INTERIM = 32
"""Interim responses before the final one: a server that sends more never comes to it."""


class UpstreamError(Exception):
    """The server failed, or answered what is no answer."""


class OipClient:
    """A connection to one server, opened when needed. Not for several threads at once.

    Args:
        url: `http://host:port`, with a path before the protocol's where it has one.
        timeout_s: seconds that any answer may take.
        again: whether a query may be sent a second time where a kept connection ends before its answer.
    """

    def __init__(self, url: str, timeout_s: float, *, again: bool = True) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._base = parts.path.rstrip("/")
        self._again = again
        self._broken = False
        self._connection = kind(str(parts.hostname), parts.port, timeout=timeout_s)
        self._connection.response_class = _Response

    def lost(self) -> bool:
        """Say once whether the connection has broken since this was last asked; not if an answer has ended it."""
        self._drop_stale()
        broken, self._broken = self._broken, False
        return broken

    def ready(self, path: str, timeout_s: float) -> bool:
        """Say whether a GET is answered with 200, within so many seconds."""
        usual = self._connection.timeout
        self._limit(timeout_s)
        try:
            return self._ask("GET", path, None, {})[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            self._limit(usual)

    def get(self, path: str) -> dict[str, Any]:
        """Return the object that a GET is answered with.

        Raises:
            UpstreamError: the server says no, or answers no object.
            OSError: it does not answer.
        """
        status, _, body = self._told("GET", path, None, {})
        if status != http.client.OK:
            raise UpstreamError(f"{path}: HTTP {status}")
        try:
            found = json_value(body)
        except ValueError as error:
            raise UpstreamError(f"{path}: no JSON: {error}") from None
        if not isinstance(found, dict):
            raise UpstreamError(f"{path}: no object")
        return found

    def post(
        self, path: str, header: int | None, body: bytes, context: TraceContext | None = None
    ) -> tuple[int | None, bytes]:
        """Send a request for inference; return the length of the answer's JSON if it has binary data, and the answer.

        Args:
            path: of the model.
            header: length of the body's JSON if binary data follow it.
            body: the request.
            context: of the request's trace; None for none.

        Raises:
            InvalidQueryError: the server says that the query is to blame.
            UpstreamError: the server failed, or does not have the model or let us in, or is no server of HTTP.
            OSError: it does not answer.
        """
        kind = "application/json" if header is None else "application/octet-stream"
        headers = {"Content-Type": kind} | ({} if header is None else {HEADER_LENGTH: str(header)})
        if context is not None:
            headers |= context.headers()
        status, told, answer = self._told("POST", path, body, headers)
        if status == http.client.OK:
            return told, answer
        why = f"the server says {status}: {_reason(answer)}"
        if 400 <= status < 500 and status not in _NOT_TO_BLAME:
            raise InvalidQueryError(why)
        raise UpstreamError(why)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _limit(self, seconds: float | None) -> None:
        self._connection.timeout = seconds
        if self._connection.sock is not None:
            self._connection.sock.settimeout(seconds)

    def _told(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, int | None, bytes]:
        try:
            return self._ask(method, path, body, headers)
        except http.client.HTTPException as error:
            raise UpstreamError(f"no answer of HTTP: {error!r}") from None

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, int | None, bytes]:
        self._drop_stale()
        kept = self._connection.sock is not None
        try:
            return self._once(method, path, body, headers)
        except (ConnectionError, http.client.RemoteDisconnected):
            # A server may close a kept connection at any time; only then is the request sent again.
            if not kept or (method == "POST" and not self._again):
                raise
            return self._once(method, path, body, headers)

    def _once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, int | None, bytes]:
        try:
            self._connection.request(method, self._base + path, body, dict(headers))
            answer = self._connection.getresponse()
            told = answer.getheader(HEADER_LENGTH)
            found = answer.status, None if told is None else _whole(told), answer.read()
            coding = answer.getheader("Content-Encoding", "identity")
            if answer.status == http.client.OK and coding.lower() != "identity":
                raise UpstreamError(
                    f"the server's answer is compressed ({coding}), which it was not asked for"
                )
        except BaseException:
            self._connection.close()
            self._broken = True
            raise
        return found

    def _drop_stale(self) -> None:
        """Close a connection on which something waits: its end, or what would be read as the next answer."""
        if self._connection.sock is not None and _has_something_to_read(self._connection.sock):
            self._connection.close()
            self._broken = True


class _Response(http.client.HTTPResponse):
    """A final response: all interim ones are passed over (RFC 9110, section 15.2), and not 100 alone.

    An interim one that is taken for the answer leaves the answer on the connection, to be read as the next one's.
    """

    def begin(self) -> None:
        """Read up to the end of the final response's head."""
        super().begin()
        for _ in range(_MOST_INTERIM):
            if not 100 <= self.status < 200 or self.status == http.client.SWITCHING_PROTOCOLS:
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # as before the first one
            super().begin()
        raise http.client.BadStatusLine(f"{_MOST_INTERIM} interim responses and no final one")


def _has_something_to_read(sock: socket.socket) -> bool:
    waiting = select.poll()  # select.select() takes no descriptor above 1023
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(0))


def _whole(told: str) -> int:
    if not (told.isascii() and told.isdigit()):
        raise UpstreamError(f"the server's {HEADER_LENGTH} is {told!r}, not a number of bytes")
    return int(told)


def _reason(body: bytes) -> str:
    try:
        return str(json_value(body)["error"])[:_TOLD]
    except (ValueError, KeyError, TypeError):
        return body[:_TOLD].decode(errors="replace")


_CODES = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_FRACTIONS = frozenset({"FP16", "FP32", "FP64"})


def write_query(query: Query, *, binary: bool) -> tuple[int | None, bytes]:
    """Return the length of a body's JSON if binary data follow, else None, and the body.

    Raises:
        InvalidQueryError: a datatype that JSON cannot carry.
    """
    inputs, data, more = [], [], query.parameters or {}
    for each in query.inputs:
        told: dict[str, Any] = {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
        if each.name in more:
            told["parameters"] = dict(more[each.name])
        if binary:
            told.setdefault("parameters", {})["binary_data_size"] = len(each.data)
            data.append(each.data)
        else:
            told["data"] = _values(each)
        inputs.append(told)
    document: dict[str, Any] = {"inputs": inputs}
    if query.outputs:
        document["outputs"] = [
            {"name": name, **({"parameters": {"binary_data": True}} if binary else {})}
            for name in query.outputs
        ]
    elif binary:
        document["parameters"] = {"binary_data_output": True}
    if "" in more:
        document["parameters"] = {**more[""], **document.get("parameters", {})}
    text = json.dumps(document, separators=(",", ":")).encode()
    return (len(text) if binary else None), b"".join([text, *data])


def read_answer(body: bytes, header: int | None) -> Answer:
    """Return the answer that a body holds, of whose bytes the first `header` are JSON if it is given.

    Raises:
        UpstreamError: it is no answer.
        InvalidQueryError: the answer has numbers that the server does not tell.
    """
    try:
        document = json_value(bytes(body if header is None else body[:header]))
        data = memoryview(body)[len(body) if header is None else header :]
        found, more = [], {"": dict(document.get("parameters") or {})}
        for each in document["outputs"]:
            name = str(each["name"])
            if name in more or not name:
                raise ValueError(f"output {name!r} appears twice, or without a name")
            more[name] = told = dict(each.get("parameters") or {})
            size = told.pop("binary_data_size", None)
            shape = tuple(_size(one) for one in each["shape"])
            datatype = str(each["datatype"])
            if size is None:
                raw: bytes | memoryview = _packed(name, datatype, each["data"])
            else:
                raw, data = data[: _size(size)], data[_size(size) :]
            found.append(_checked(Tensor(name, datatype, shape, raw)))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise UpstreamError(f"the server's answer cannot be read: {error!r}") from None
    return Answer(tuple(found), parameters={name: told for name, told in more.items() if told} or None)


def _size(told: object) -> int:
    """Return a number of elements or bytes; some servers write 64-bit numbers as texts (protobuf's JSON)."""
    if isinstance(told, str) and told.isascii() and told.isdigit():
        return int(told)
    if isinstance(told, bool) or not isinstance(told, int | float) or told < 0 or told != int(told):
        raise ValueError(f"{told!r} is no size")
    return int(told)


def _checked(tensor: Tensor) -> Tensor:
    name, datatype, shape, data = tensor
    count = math.prod(shape)
    if datatype == "BYTES":
        try:
            found = len(decode_texts(data))
        except InvalidQueryError as error:
            raise ValueError(f"output {name}: {error}") from None
        if found != count:
            raise ValueError(f"output {name} has {found} elements, not {count}")
    elif len(data) != (wanted := count * ITEM_BYTES[datatype]):
        raise ValueError(f"output {name} has {len(data)} bytes, not {wanted}")
    return tensor


def _values(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "BYTES":
        return [_text(each) for each in decode_texts(tensor.data)]
    if tensor.datatype not in _CODES:
        raise InvalidQueryError(f"the server takes no binary data, and JSON cannot carry {tensor.datatype}")
    count = len(tensor.data) // ITEM_BYTES[tensor.datatype]
    return list(struct.unpack(f"<{count}{_CODES[tensor.datatype]}", tensor.data))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidQueryError("the server takes no binary data, and an element is not UTF-8") from None


def _packed(name: str, datatype: str, values: Any) -> bytes:  # noqa: ANN401 -- nested lists of anything
    if not isinstance(values, list):
        raise TypeError(f"the data of output {name} are no list")
    flat = list(_flat(values))
    if None in flat:
        what = "null where it has NaN or an infinity" if datatype in _FRACTIONS else "null for an element"
        raise InvalidQueryError(f"output {name}: the server writes {what}, and which it is cannot be told")
    if datatype == "BYTES":
        return pack_texts(_written(each) for each in flat)
    if datatype == "BOOL" and not all(each in (0, 1) for each in flat):
        raise ValueError(f"output {name} is BOOL, and not all of its elements are true or false")
    return struct.pack(f"<{len(flat)}{_CODES[datatype]}", *flat)


def _written(value: object) -> bytes:
    """Return an element of a BYTES tensor; numbers among texts are taken as they are written."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"{value!r} is no text")
    return str(value).encode()


def _flat(values: Any) -> Any:  # noqa: ANN401 -- nested lists of anything
    for each in values:
        if isinstance(each, list):
            yield from _flat(each)
        else:
            yield each
