"""The ASGI application: from a request to its answer.

All paths are known when it starts, so that one look into a dictionary finds what answers, and names may have any
character. Inferring is the hot path; everything else is in `Pages`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from partita.serve.gateway.front import checked
from partita.serve.gateway.http.body import read_body
from partita.serve.gateway.http.pages import INDEX, OPEN, not_allowed
from partita.serve.gateway.http.reply import ClientGoneError, Reply, failure, refusal, send_reply
from partita.serve.gateway.oip.faults import RequestError, shown
from partita.serve.gateway.oip.request import checked_deadline, read_request
from partita.serve.gateway.oip.response import write_answer
from partita.serve.gateway.oip.version import VERSION
from partita.serve.gateway.values import FailedError, Reason, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.serve.gateway.front import Front
    from partita.serve.gateway.http.asgi import Receive, Scope, Send
    from partita.serve.gateway.http.pages import Pages
    from partita.serve.gateway.security import Doorkeeper

_LOG = logging.getLogger("partita.serve.http")
_OCTETS = b"application/octet-stream"
_MOST_PATH = 4096
_SMALL_BODY = 1 << 16
CONNECTION = "partita.connection"
"""Key of the scope under which the connection's guard is found."""


class Application:
    """Answers HTTP.

    Args:
        front: the models.
        pages: everything but inferring.
        doorkeeper: says who may ask.
        body_s: seconds within which a body must have come.
    """

    def __init__(self, front: Front, pages: Pages, doorkeeper: Doorkeeper, *, body_s: float = 30.0) -> None:
        self._front = front
        self._pages = pages
        self._doorkeeper = doorkeeper
        self._body_s = body_s
        self._infer = {
            f"/v2/models/{service}{version}/infer": service
            for service in front.services
            for version in ("", f"/versions/{VERSION}")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong is an answer too, unless the client has left."""
        connection = scope.get(CONNECTION)
        if connection is not None:
            connection.answering = asyncio.current_task()
        try:
            reply = await self._reply(scope, receive)
        except RequestError as error:
            reply = _fault(error)
        except RefusedError as error:
            reply = refusal(error)
        except FailedError as error:
            reply = failure(str(error), 500)
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            if connection is None or connection.gone:
                return
            reply = refusal(RefusedError(Reason.DRAINING, 1.0))
        except Exception:  # noqa: BLE001 -- it ends one request, not the server
            _LOG.exception("a fault in partita itself at %s %s", scope["method"], shown(scope["path"]))
            reply = failure("a fault in partita itself; its log says more", 500)
        finally:
            if connection is not None:
                connection.answering = None
        await send_reply(send, reply)

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path, method = scope["path"], scope["method"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if path not in OPEN:
            self._doorkeeper.check(headers.get(b"authorization"))
        service = self._infer.get(path)
        if service is not None:
            if method != "POST":
                return not_allowed(method, ("POST",))
            return await self._inferred(service, headers, receive)
        if len(path) > _MOST_PATH:
            raise RequestError(f"a path of {len(path)} characters, {_MOST_PATH} at most", 414)
        if path == INDEX:
            if method != "POST":
                return not_allowed(method, ("POST",))
            return self._pages.index(await self._small_body(headers, receive))
        return self._pages.page(path, method)

    async def _inferred(self, service: str, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        front = self._front
        signature = front.signature(service)
        header_length = _header_length(headers)
        body = await read_body(headers, receive, front.limits.body, self._body_s)
        request = read_request(body, header_length, signature, front.limits)
        deadline_s = request.deadline_s
        if b"partita-deadline-ms" in headers:
            deadline_s = self._deadline(headers[b"partita-deadline-ms"])
        answer = checked(await front.gateway.infer(service, request.query, deadline_s))
        document, json_size = write_answer(service, request, answer)
        if json_size is None:
            return Reply(200, document)
        return Reply(200, document, _OCTETS, ((b"inference-header-content-length", b"%d" % json_size),))

    async def _small_body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return b""
        return await read_body(headers, receive, _SMALL_BODY, self._body_s)

    def _deadline(self, text: bytes) -> float:
        value: Any
        try:
            value = float(text)
        except ValueError:
            value = text.decode("latin-1")
        return checked_deadline(value, 1e3, "partita-deadline-ms", self._front.limits)


def _header_length(headers: Mapping[bytes, bytes]) -> int | None:
    text = headers.get(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 15:
        raise RequestError(
            f"Inference-Header-Content-Length is {shown(text.decode('latin-1'))}, not a number"
        )
    return int(text)


def _fault(error: RequestError) -> Reply:
    return failure(error.what, error.status, _CHALLENGE if error.status == 401 else ())


_CHALLENGE = ((b"www-authenticate", b'Bearer realm="partita"'),)
