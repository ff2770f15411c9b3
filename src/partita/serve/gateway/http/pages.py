"""Everything that is asked over HTTP but inferring: health, metadata, configuration, statistics, metrics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import orjson

from partita.serve.gateway.http.inferring import with_slashes
from partita.serve.gateway.http.reply import Reply, failure, json_reply
from partita.serve.gateway.oip import (
    VERSION,
    RequestError,
    model_config,
    model_metadata_and_batch,
    quoted,
    repository_index,
    server_metadata,
    statistics,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.serve.gateway.oip import ModelRepository

Path = tuple[str, ...]
"""The segments of a path, percent-escapes resolved."""
READY: Path = ("v2", "health", "ready")
LIVE = frozenset({("healthz",), ("v2", "health", "live")})
"""Paths at which the process says that it lives."""
OPEN = LIVE | {READY}
"""Paths that need no token: those who look after a process have none."""
METRICS: Path = ("metrics",)
INDEX: Path = ("v2", "repository", "index")
_GET = ("GET", "HEAD")
_LIVE = Reply(200, b'{"live":true}')
_READY = Reply(200, b'{"ready":true}')
_MOST_NAMES = 5
_PLAIN = b"text/plain; version=0.0.4; charset=utf-8"


class Pages:
    """Pages by path; see `page`.

    Args:
        front: the models.
        metrics: returns the metrics page.
    """

    def __init__(self, front: ModelRepository, metrics: Callable[[], bytes]) -> None:
        self._front = front
        self._pages: dict[Path, Callable[[], Reply]] = {
            ("healthz",): lambda: Reply(200, b"ok\n", b"text/plain"),
            METRICS: lambda: Reply(200, metrics(), _PLAIN),
            ("v2",): lambda: json_reply(server_metadata()),
            ("v2", "health", "live"): lambda: _LIVE,
            READY: self._server_ready,
            ("v2", "models", "stats"): self._all_statistics,
        }
        for service in front.services:
            for version in ((), ("versions", VERSION)):
                path = ("v2", "models", service, *version)
                self._pages[path] = partial(self._metadata, service)
                self._pages[*path, "ready"] = partial(self._ready, service)
                self._pages[*path, "config"] = partial(self._config, service)
                self._pages[*path, "stats"] = partial(self._statistics, service)
        self._pages = with_slashes(self._pages)

    def page(self, path: Path, method: str) -> Reply:
        """Return what is at a path that needs no body.

        Raises:
            RequestError: nothing is there (404), or not for this method.
            RefusedError: no worker has been there to tell.
        """
        page = self._pages.get(path)
        if page is None:
            raise RequestError(self._unknown(path), 404)
        if method not in _GET:
            return not_allowed(method, ", ".join(_GET))
        return page()

    def index(self, body: bytes) -> Reply:
        """Return the services, all or the ready ones, as the body of a request asks.

        Raises:
            RequestError: the body is no JSON object.
        """
        try:
            asked = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError as error:
            raise RequestError(f"malformed JSON: {error}") from None
        if not isinstance(asked, dict):
            raise RequestError("the body is no JSON object")
        models = [(name, self._front.gateway.ready(name)) for name in self._front.services]
        return json_reply(
            repository_index(each for each in models if each[1] or asked.get("ready") is not True)
        )

    def _unknown(self, path: Path) -> str:
        if path[:2] == ("v2", "models") and len(path) > 2 and path[2] not in self._front.services:
            return f"no model {quoted(path[2])}; POST /{'/'.join(INDEX)} lists them"
        return f"nothing is at {quoted('/' + '/'.join(path))}"

    def _server_ready(self) -> Reply:
        waiting = [name for name in self._front.services if not self._front.gateway.ready(name)]
        if not waiting:
            return _READY
        more = f" and {len(waiting) - _MOST_NAMES} more" if len(waiting) > _MOST_NAMES else ""
        return _not_ready({}, f"no worker can answer for {', '.join(waiting[:_MOST_NAMES])}{more}")

    def _ready(self, service: str) -> Reply:
        if self._front.gateway.ready(service):
            return json_reply({"name": service, "ready": True})
        return _not_ready({"name": service}, f"no worker can answer for {service}")

    def _metadata(self, service: str) -> Reply:
        return json_reply(model_metadata_and_batch(self._front.described(service)))

    def _config(self, service: str) -> Reply:
        return json_reply(model_config(self._front.described(service)))

    def _statistics(self, service: str) -> Reply:
        return json_reply(statistics([(service, self._front.gateway.statistics(service))]))

    def _all_statistics(self) -> Reply:
        gateway = self._front.gateway
        return json_reply(statistics((name, gateway.statistics(name)) for name in self._front.services))


def _not_ready(named: dict[str, str], why: str) -> Reply:
    # No reason: it answers what was asked, and those who probe do so every few seconds.
    return Reply(503, orjson.dumps({**named, "ready": False, "error": why}))


def not_allowed(method: str, allowed: str = "POST") -> Reply:
    """Return 405, with the methods there are."""
    return failure(f"{method} is not for this path; {allowed} is", 405, ((b"allow", allowed.encode()),))
