"""A client of the API of a controller."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any


class Dashboard:
    """Asks a controller's API on this host.

    Args:
        port: where it listens.
        token: of those who may write; empty to read alone.
    """

    def __init__(self, port: int, token: str = "") -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def ask(self, path: str, method: str = "GET", body: object = None, **headers: str) -> tuple[int, Any]:
        """Return the status and the document of an answer; 0 where nobody listens."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 -- http alone
            f"{self.url}/api/v1{path}", data=data, method=method
        )
        if data is not None:
            request.add_header("content-type", "application/json")
        for name, value in (self._headers | headers).items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 -- likewise
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError:
            return 0, None
