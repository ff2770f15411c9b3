"""A client that calls the application in this process, and a source of a small simulated cluster."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from partita.dash.access import Access, Guard
from partita.dash.local import LocalSource
from partita.dash.server import application, look
from partita.dash.state import ApiState
from partita.drive.simulated import SimulatedDriver
from partita.drive.state import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from partita.dash.source import Source


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Calls the application; each call is a request of its own."""

    api: ApiState
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        self.app = application(self.api, Guard(self.access))

    def look(self) -> None:
        asyncio.run(look(self.api))

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers)

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: object = None
    ) -> Answer:
        given = {"host": "localhost:8080", **(headers or {})}
        sent = b""
        if body is not None:
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            given.setdefault("content-type", "application/json")
        return asyncio.run(_ask(self.app, method, path, given, sent))


async def _ask(app: Any, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
    bare, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(bare),
        "raw_path": bare.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "http_version": "1.1",
        "scheme": "http",
        "headers": [(k.replace("_", "-").lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    head = sent[0]
    return Answer(
        head["status"],
        {name.decode(): value.decode() for name, value in head["headers"]},
        b"".join(each.get("body", b"") for each in sent[1:]),
    )


def local(folder: Path, **more: Any) -> LocalSource:
    """A source of the cluster in a folder."""
    return LocalSource(lambda: closing(SimulatedDriver(folder / CLUSTER)), folder, **more)


def client(source: Source, access: Access | None = None) -> Client:
    """A client of a source that was looked at once."""
    made = Client(ApiState(source), access or Access())
    made.look()
    return made
