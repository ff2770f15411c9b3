"""A tiny server of the Open Inference Protocol v2: doubles bytes, and has bad days."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = "Inference-Header-Content-Length"


class Server(ThreadingHTTPServer):
    """Answers `X` (UINT8, [-1, 2]) with `Y`, the same plus one, and `T`, texts, as they come."""

    daemon_threads = True
    binary = True
    ready_after = 0
    """Questions whether it is ready that it says no to."""
    fail_with = 0
    hang_up = False
    config: dict[str, Any]
    """What else its configuration says."""
    limit: int | None = 64
    """`max_batch_size` of its configuration of the model; without one it has no configurations."""
    nameless = False
    """Whether it says nothing of itself."""
    metadata: dict[str, Any] | None = None
    """What it says of its model in place of what is right."""
    mute = False
    """Whether it accepts and does not answer."""
    connections = 0
    requests: list[int]
    """Rows of each request."""
    heads: list[dict[str, str]]
    """Headers of each request, with names in lower case."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/base"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        while self.server.mute:
            time.sleep(0.01)
        match self.path.removeprefix("/base"):
            case "/v2" if not self.server.nameless:
                extensions = ["binary_tensor_data"] if self.server.binary else []
                self._say({"name": "tiny", "extensions": extensions})
            case "/v2/models/plus/ready":
                self.server.ready_after -= 1
                self._say({}, 200 if self.server.ready_after < 0 else 400)
            case "/v2/models/plus/config" if self.server.limit is not None:
                self._say({"name": "plus", "max_batch_size": self.server.limit, **self.server.config})
            case "/v2/models/plus" if self.server.metadata is not None:
                self._say(self.server.metadata)
            case "/v2/models/plus":
                sides = [
                    {"name": "X", "datatype": "UINT8", "shape": [-1, 2]},
                    {"name": "T", "datatype": "BYTES", "shape": [-1, 1]},
                ]
                outs = [{**sides[0], "name": "Y"}, {**sides[1], "name": "U"}]
                self._say({"name": "plus", "inputs": sides, "outputs": outs})
            case _:
                self._say({"error": "unknown model"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.hang_up:
            self.close_connection = True
            return
        if self.server.fail_with:
            self._say({"error": "a bad day"}, self.server.fail_with)
            return
        length = self.headers.get(HEADER)
        asked = json.loads(body if length is None else body[: int(length)])
        self._infer(asked, b"" if length is None else body[int(length) :], binary=length is not None)

    def _infer(self, asked: dict[str, Any], data: bytes, *, binary: bool) -> None:
        outputs, tail = [], b""
        self.server.requests.append(asked["inputs"][0]["shape"][0])
        self.server.heads.append({name.lower(): value for name, value in self.headers.items()})
        for each in asked["inputs"]:
            if binary:
                size = each["parameters"]["binary_data_size"]
                raw, data = data[:size], data[size:]
            numbers = each["name"] == "X"
            if numbers and 13 in (raw if binary else each["data"]):
                self._say({"error": "13 is unlucky"}, 400)
                return
            told = {"name": "Y" if numbers else "U", "datatype": each["datatype"], "shape": each["shape"]}
            if binary:
                plus = bytes(byte + 1 for byte in raw) if numbers else raw
                tail += plus
                told["parameters"] = {"binary_data_size": len(plus)}
            else:
                told["data"] = [byte + 1 for byte in each["data"]] if numbers else each["data"]
            outputs.append(told)
        head = json.dumps({"model_name": "plus", "outputs": outputs}).encode()
        self._send(200, head + tail, {HEADER: str(len(head))} if binary else {})

    def _say(self, told: dict[str, Any], status: int = 200) -> None:
        self._send(status, json.dumps(told).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.requests, server.heads, server.config = [], [], {}
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.mute = False
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[1])), Handler) as started:
        started.requests, started.heads, started.config = [], [], {}
        started.serve_forever()
