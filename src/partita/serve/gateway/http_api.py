"""The HTTP API: inference, health, metadata, configuration, statistics, metrics.

All paths are prepared when the services are set, so a request costs one look-up in a dictionary.
"""

from __future__ import annotations

import gzip
import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import orjson

from partita.metrics import accepts_gzip
from partita.registry import culprit
from partita.serve.dispatching.query import QueryFailedError, QueryRefusedError, RefusalReason
from partita.serve.gateway.gateway import checked
from partita.serve.gateway.http_message import METHODS, Reply, failure, json_reply, unavailable
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
from partita.serve.gateway.oip_json import write_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from partita.serve.gateway.access import Authenticator
    from partita.serve.gateway.gateway import ModelRepository
    from partita.serve.gateway.http_message import RequestHead
    from partita.serve.gateway.oip_json import InferRequest
    from partita.serve.tensors import Answer

T = TypeVar("T")
_LOG = logging.getLogger("partita.serve.http")
Path = tuple[str, ...]
"""The segments of a path, with percent-escapes resolved."""
_READY: Path = ("v2", "health", "ready")
_LIVE = frozenset({("healthz",), ("v2", "health", "live")})
"""Paths of liveness probes."""
_OPEN = _LIVE | {_READY}
"""Paths that need no token, since probes have none."""
_METRICS: Path = ("metrics",)
_INDEX: Path = ("v2", "repository", "index")
_GET = ("GET", "HEAD")
_OCTETS = b"application/octet-stream"
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="partita"'),)
_GZIP = ((b"content-encoding", b"gzip"), (b"vary", b"accept, accept-encoding"))
_SMALL_BODY = 1 << 16
_MOST_NAMES = 5
_RETRY_S = 1.0


class BodyWanted(NamedTuple):
    """A request that needs its body.

    Attributes:
        service: for inference; None for the repository index.
        most: maximum bytes of the body.
    """

    service: str | None
    most: int


class LongPage(NamedTuple):
    """A page that takes long to write, which may happen in another thread."""

    write: Callable[[], Reply]


class HttpApi:
    """Answers requests.

    Attributes:
        models: by name.
        draining: whether new requests are refused.

    Args:
        models: by name.
        metrics: returns what writes the metrics page of the moment and its media type, for an `Accept`.
        authenticator: checks the token.
    """

    def __init__(
        self,
        models: ModelRepository,
        metrics: Callable[[str], Callable[[], tuple[bytes, str]]],
        authenticator: Authenticator,
    ) -> None:
        self.models = models
        self.draining = False
        self._authenticator, self._metrics = authenticator, metrics
        self.list_paths()

    def list_paths(self) -> None:
        """Prepare the paths of the current services."""
        models = self.models
        live, infer = Reply(200, b'{"live":true}'), {}
        pages: dict[Path, Callable[[], Reply]] = {
            ("healthz",): lambda: Reply(200, b"ok\n", b"text/plain"),
            ("v2",): lambda: json_reply(server_metadata()),
            ("v2", "health", "live"): lambda: live,
            _READY: self._server_ready,
            ("v2", "models", "stats"): lambda: self._statistics(*models.services),
        }
        for service in models.services:
            for version in ((), ("versions", VERSION)):
                path = ("v2", "models", service, *version)
                infer[*path, "infer"] = service
                pages[path] = partial(self._metadata, service)
                pages[*path, "ready"] = partial(self._ready, service)
                pages[*path, "config"] = partial(self._config, service)
                pages[*path, "stats"] = partial(self._statistics, service)
        self._infer, self._pages = _with_slashes(infer), _with_slashes(pages)

    def begin(self, head: RequestHead) -> Reply | BodyWanted | LongPage:
        """Return the answer to a request, which body it needs, or what writes the answer.

        Raises:
            RequestError: the request has a fault, such as an unknown path (404).
            QueryRefusedError: the gateway is draining.
        """
        path, method = head.path, head.method
        if path not in _OPEN:
            self._authenticator.check(head.headers.get(b"authorization"))
        if self.draining and path not in _LIVE and path != _METRICS:
            raise draining()
        service = self._infer.get(path)
        if service is not None or path == _INDEX:
            most = _SMALL_BODY if service is None else self.models.limits.body
            return BodyWanted(service, most) if method == "POST" else _not_allowed(method, "POST")
        if path == ("*",):
            return _not_allowed(method, METHODS)
        if path == _METRICS:
            return self._metrics_page(head) if method in _GET else _not_allowed(method, ", ".join(_GET))
        page = self._pages.get(path)
        if page is None:
            what = f"nothing is at {quoted('/' + '/'.join(path))}"
            if path[:2] == ("v2", "models") and len(path) > 2 and path[2] not in self.models.services:
                what = f"no model {quoted(path[2])}; POST /{'/'.join(_INDEX)} lists them"
            raise RequestError(what, 404)
        return page() if method in _GET else _not_allowed(method, ", ".join(_GET))

    def index(self, body: bytes) -> Reply:
        """Return all services, or only the ready ones if the body of the request asks for them.

        Raises:
            RequestError: the body is not a JSON object.
        """
        try:
            wanted = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError as error:
            raise RequestError(f"malformed JSON: {error}") from None
        if not isinstance(wanted, dict):
            raise RequestError("the body is not a JSON object")
        listed = [(name, self.models.gateway.ready(name)) for name in self.models.services]
        return json_reply(
            repository_index(each for each in listed if each[1] or wanted.get("ready") is not True)
        )

    def _metrics_page(self, head: RequestHead) -> LongPage:
        accept, encoding = (
            head.headers.get(name, b"").decode("latin-1") for name in (b"accept", b"accept-encoding")
        )
        page = self._metrics(accept)

        def write() -> Reply:
            body, media = page()
            if not accepts_gzip(encoding):
                return Reply(200, body, media.encode())
            return Reply(200, gzip.compress(body, 1), media.encode(), _GZIP)

        return LongPage(write)

    def _server_ready(self) -> Reply:
        waiting = [name for name in self.models.services if not self.models.gateway.ready(name)]
        if not waiting:
            return Reply(200, b'{"ready":true}')
        more = f" and {len(waiting) - _MOST_NAMES} more" if len(waiting) > _MOST_NAMES else ""
        return _not_ready({}, f"no worker can answer for {', '.join(waiting[:_MOST_NAMES])}{more}")

    def _ready(self, service: str) -> Reply:
        if self.models.gateway.ready(service):
            return json_reply({"name": service, "ready": True})
        return _not_ready({"name": service}, f"no worker can answer for {service}")

    def _metadata(self, service: str) -> Reply:
        return json_reply(model_metadata_and_batch(self.models.described(service)))

    def _config(self, service: str) -> Reply:
        return json_reply(model_config(self.models.described(service)))

    def _statistics(self, *services: str) -> Reply:
        return json_reply(statistics((name, self.models.gateway.statistics(name)) for name in services))


def _with_slashes(found: dict[Path, T]) -> dict[Path, T]:
    """Add paths with unescaped slashes in names, unless these mean something else.

    An escaped slash does not separate segments, so `a%2Fb` is one name; NVIDIA's client does not escape slashes.
    """
    split = {tuple("/".join(path).split("/")): each for path, each in found.items()}
    return {**split, **found}


def _not_allowed(method: str, allowed: str) -> Reply:
    return failure(f"{method} is not for this path; {allowed} is", 405, ((b"allow", allowed.encode()),))


def _not_ready(named: dict[str, str], why: str) -> Reply:
    # No reason, so that it is not logged: it answers a probe, and probes come every few seconds.
    return Reply(503, orjson.dumps({**named, "ready": False, "error": why}))


def json_length(headers: Mapping[bytes, bytes]) -> int | None:
    """Return the bytes of JSON before the binary data of an inference request; None if all of it is JSON.

    Raises:
        RequestError: the header is no number.
    """
    text = headers.get(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 15:
        what = quoted(text.decode("latin-1"))
        raise RequestError(f"Inference-Header-Content-Length is {what}, not a number")
    return int(text)


def answer_reply(service: str, request: InferRequest, answer: Answer) -> Reply:
    """Return the reply with a worker's answer; raises as `checked` and `write_answer` do."""
    document, json_size = write_answer(service, request, checked(answer))
    if json_size is None:
        return Reply(200, document)
    return Reply(200, document, _OCTETS, ((b"inference-header-content-length", b"%d" % json_size),))


def error_reply(error: BaseException, request: str) -> Reply:
    """Return the reply for an error; an unexpected one is logged with the request."""
    if isinstance(error, RequestError):
        return failure(error.what, error.status, _CHALLENGE if error.status == 401 else (), error.reason)
    if isinstance(error, QueryRefusedError):
        return unavailable(str(error), str(error.reason), error.retry_after_s)
    if isinstance(error, QueryFailedError):
        return failure(str(error), 500)
    whose = culprit(error)
    _LOG.error("a fault in %s at %s", whose, request, exc_info=error)
    return failure(f"a fault in {whose}; the log of the gateway says more", 500, reason="internal")


def draining() -> QueryRefusedError:
    """Return the refusal of new requests while the gateway drains."""
    return QueryRefusedError(RefusalReason.DRAINING, _RETRY_S)
