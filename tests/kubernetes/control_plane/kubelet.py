"""The part of a kubelet that the API server calls: logs of containers."""

from __future__ import annotations

import ssl
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kubernetes.control_plane.cluster import ControlPlane


class LogServer:
    """Answers `/containerLogs/NAMESPACE/POD/CONTAINER` to those whose certificate the test's authority signed."""

    def __init__(self, plane: ControlPlane, log_of: Callable[[str, str], str | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = urllib.parse.urlsplit(self.path)
                parts = asked.path.strip("/").split("/")
                text = log_of(parts[1], parts[2]) if len(parts) == 4 and parts[0] == "containerLogs" else None
                lines = urllib.parse.parse_qs(asked.query).get("tailLines")
                if text is not None and lines:
                    text = "".join(text.splitlines(keepends=True)[-int(lines[0]) :])
                content = (text if text is not None else "not found").encode()
                self.send_response(200 if text is not None else 404)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        pair = plane.authority.sign("kubelet", "system:node", "system:nodes", addresses=("127.0.0.1",))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(plane.authority.own.certificate))
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_cert_chain(pair.certificate, pair.key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, name="kubelet", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
