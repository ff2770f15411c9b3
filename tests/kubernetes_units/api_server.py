"""An API server with ConfigMaps alone, as unkind as real ones: it cuts lines, forgets, is silent, is away."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{tokenFile: token}}}}]
contexts:
- {{name: first, context: {{cluster: c, user: u, namespace: teams}}}}
- {{name: second, context: {{cluster: c, user: u}}}}
current-context: first
"""


class ApiServer:
    """ConfigMaps of the namespace `teams`, and what goes wrong.

    Attributes:
        requests: method and path with query, in order.
        oldest: versions before it are forgotten.
        cut: watches end in the middle of the next line.
        silent: watches say nothing more.
        token: what is accepted.
        refusals: what is answered to the next requests: code, reason, message and more of the status.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.log: list[tuple[int, str, Any]] = []
        self.version = 100
        self.oldest = 0
        self.requests: list[str] = []
        self.cut = self.silent = False
        self.token = "one"  # noqa: S105 -- of a test
        self.refusals: list[tuple[int, dict[str, Any]]] = []
        self.changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    def start(self) -> None:
        """Begin to listen, on the port as before if there was one."""
        outer = self

        class Handler(_Handler):
            api = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def stop(self) -> None:
        """Cut all connections and listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        with self.changed:
            self.changed.notify_all()

    @property
    def up(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    def since(self, version: int) -> list[tuple[int, str, Any]]:
        """Return what happened after a version."""
        return [each for each in self.log if each[0] > version]

    def put(self, name: str, **data: str) -> None:
        """Change an object as somebody else does."""
        with self.changed:
            self.version += 1
            event = "MODIFIED" if name in self.objects else "ADDED"
            meta = {"name": name, "namespace": "teams", "uid": name, "resourceVersion": str(self.version)}
            self.objects[name] = {"metadata": meta, "data": data}
            self._tell(event, self.objects[name])

    def put_raw(self, name: str, fields: dict[str, Any]) -> None:
        """Change an object to one with any fields."""
        with self.changed:
            self.put(name)
            self.objects[name] |= fields

    def remove(self, name: str) -> None:
        """Delete an object as somebody else does."""
        with self.changed:
            self.version += 1
            gone = self.objects.pop(name)
            gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
            self._tell("DELETED", gone)

    def _tell(self, event: str, thing: Any) -> None:
        self.log.append((self.version, event, thing))
        self.changed.notify_all()

    @contextmanager
    def running(self, folder: Path) -> Iterator[str]:
        """Serve while the block runs; yields the path of a kubeconfig."""
        self.start()
        (folder / "token").write_text(self.token)
        path = folder / "kubeconfig"
        path.write_text(KUBECONFIG.format(port=self.port))
        try:
            yield str(path)
        finally:
            self.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ApiServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        api = self.api
        if not api.up:
            return self._cut()
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        api.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if self.headers.get("Authorization") != f"Bearer {api.token}":
            self._refuse(401, {"reason": "Unauthorized", "message": "Unauthorized"})
        elif api.refusals:
            self._refuse(*api.refusals.pop(0))
        elif "watch" in query:
            self._watch(int(query["resourceVersion"]), float(query["timeoutSeconds"]))
        elif self.command == "GET":
            self._list(query)
        else:
            with api.changed:
                api.put(body["metadata"]["name"], **body.get("data", {}))
                self._answer(200, api.objects[body["metadata"]["name"]])
        return None

    def _list(self, query: dict[str, str]) -> None:
        with self.api.changed:
            names = sorted(self.api.objects)
            start, limit = int(query.get("continue", 0)), int(query["limit"])
            more = {"continue": str(start + limit)} if start + limit < len(names) else {}
            items = [self.api.objects[name] for name in names[start : start + limit]]
            meta = {"resourceVersion": str(self.api.version), **more}
        self._answer(200, {"metadata": meta, "items": items or None})

    def _watch(self, version: int, timeout_s: float) -> None:
        api, until = self.api, time.monotonic() + timeout_s
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if version < api.oldest:
            self._event("ERROR", {"code": 410, "reason": "Expired", "message": "too old resource version"})
            return self._end()
        seen = version
        while True:
            with api.changed:
                while api.up and time.monotonic() < until and (api.silent or not api.since(seen)):
                    api.changed.wait(until - time.monotonic())
                events = api.since(seen)
            if not api.up or time.monotonic() >= until:
                break
            for at, event, thing in events:
                seen = at
                if api.cut:
                    api.cut = False
                    self._chunk(b'{"type":"MODIFIED","obj')
                    return self._cut()
                self._event(event, thing)
        if api.up:
            self._event("BOOKMARK", {"metadata": {"resourceVersion": str(api.version)}})
            return self._end()
        return self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _event(self, event: str, thing: Any) -> None:
        line = json.dumps({"type": event, "object": thing}).encode() + b"\n"
        self._chunk(line[:7])  # lines come in pieces
        self._chunk(line[7:])

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, code: int, status: dict[str, Any]) -> None:
        self._answer(code, {"kind": "Status", "code": code, **status})

    def _answer(self, code: int, thing: Any) -> None:
        data = json.dumps(thing).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
