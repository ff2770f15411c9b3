"""A small tensor server of the Open Inference Protocol v2, as stands beside a worker in a pod; it answers its input.

It takes batches of FP32, [-1, 16], and says so as Triton does. It has one thing to do at a time, as a slice has.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "echo"
BATCH = 4
SECONDS = 0.01
_TENSOR = {"datatype": "FP32", "shape": [-1, 16]}
PAGES: dict[str, dict[str, Any]] = {
    "/v2": {"name": "small", "extensions": []},
    f"/v2/models/{MODEL}/ready": {},
    f"/v2/models/{MODEL}": {
        "name": MODEL,
        "inputs": [_TENSOR | {"name": "INPUT0"}],
        "outputs": [_TENSOR | {"name": "OUTPUT0"}],
    },
    f"/v2/models/{MODEL}/config": {"name": MODEL, "max_batch_size": BATCH},
}
_SLICE = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Answers requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say what it is."""
        page = PAGES.get(self.path)
        self._say({"error": "there is no such page"} if page is None else page, 404 if page is None else 200)

    def do_POST(self) -> None:
        """Infer."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (tensor,) = asked["inputs"]
        if tensor["shape"][0] > BATCH:
            self._say({"error": f"at most {BATCH} rows"}, 400)
            return
        with _SLICE:
            time.sleep(SECONDS)
        answer = _TENSOR | {"name": "OUTPUT0", "shape": tensor["shape"], "data": tensor["data"]}
        self._say({"model_name": MODEL, "outputs": [answer]})

    def _say(self, told: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
