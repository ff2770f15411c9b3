"""A reverse proxy as people have them in front: it may end TLS, take a path away, and name the host it asks."""

from __future__ import annotations

import http.client
import ssl
import threading
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUFFER = 65_536
_HOPS = {"connection", "transfer-encoding", "keep-alive", "host"}


@contextmanager
def proxied(
    to: int,
    path: str = "/",
    *,
    strips: bool = False,
    keeps_host: bool = True,
    tls: tuple[Path, Path] | None = None,
    holds: threading.Event | None = None,
) -> Iterator[int]:
    """Have a proxy in front of a port of this host for a block; yield its own port.

    Args:
        to: the port behind it.
        path: that it leads from, with a slash at both ends.
        strips: whether it takes the path away before it asks.
        keeps_host: whether it asks with the browser's `Host`, or with that of whom it asks.
        tls: certificate and key; None for plain text.
        holds: while it is set, answers are held back until they are over or 64 kB long.
            Such a proxy speaks HTTP/1.0, and takes headers away that it does not know.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(length)
            if not f"{self.path}/".startswith(path):
                self.send_error(404)
                return
            asked = self.path.removeprefix(path[:-1]) if strips else self.path
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOPS}
            headers["Host"] = self.headers["host"] if keeps_host else f"127.0.0.1:{to}"
            headers |= {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "gpus.example.org"}
            if holds is not None:
                headers.pop("Last-Event-ID", None)
            with closing(http.client.HTTPConnection("127.0.0.1", to, timeout=60)) as behind:
                if holds is not None:
                    behind._http_vsn, behind._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
                behind.request(self.command, asked or "/", body or None, headers)
                answer = behind.getresponse()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOPS:
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                kept = b""
                with suppress(OSError):
                    while chunk := answer.read1():
                        kept += chunk
                        if holds is None or not holds.is_set() or len(kept) >= _BUFFER:
                            self.wfile.write(kept)
                            kept = b""
                    self.wfile.write(kept)
            self.close_connection = True

        do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 -- the library's names

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that went away

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
