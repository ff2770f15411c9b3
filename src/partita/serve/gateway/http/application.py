"""The ASGI application: from a request to its answer.

All paths are known when it starts, so that one look into a dictionary finds what answers, and names may have any
character. Inferring is the hot path; everything else is in `Pages`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from partita.serve.gateway.http.body import WHOLE, Bodies, has_body, throw_away
from partita.serve.gateway.http.inferring import (
    answer_reply,
    deadline,
    error_reply,
    header_length,
    infer_paths,
)
from partita.serve.gateway.http.pages import INDEX, OPEN, not_allowed
from partita.serve.gateway.http.reply import ClientGoneError, refusal, send_reply
from partita.serve.gateway.oip.faults import RequestError
from partita.serve.gateway.oip.request import read_request
from partita.serve.gateway.values import Reason, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.serve.gateway.front import Front
    from partita.serve.gateway.http.asgi import Receive, Scope, Send
    from partita.serve.gateway.http.pages import Pages
    from partita.serve.gateway.http.reply import Reply
    from partita.serve.gateway.security import Doorkeeper

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
        self._bodies = Bodies(front.limits.body, body_s)
        self._infer = infer_paths(front.services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong is an answer too, unless the client has left."""
        connection = scope.get(CONNECTION)
        if connection is not None:
            connection.answering = asyncio.current_task()
        try:
            reply = await self._reply(scope, receive)
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            if connection is None or connection.gone:
                return
            reply = refusal(RefusedError(Reason.DRAINING, 1.0))
        except Exception as error:  # noqa: BLE001 -- it ends one request, not the server
            reply = error_reply(error, scope["method"], scope["path"])
        finally:
            if connection is not None:
                connection.answering = None
        if reply.status < 400 or WHOLE in scope:
            await send_reply(send, reply)
        else:
            await self._refuse(scope, receive, send, reply)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, reply: Reply) -> None:
        """Send an error before the body was read, and end the response only when the body has come.

        A server that closes while its client still sends makes the client's host drop the answer (RFC 9112,
        section 9.6).
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if reply.status == 408 or b"expect" in headers:  # the body is not waited for any longer, or at all
            await send_reply(send, reply._replace(headers=(*reply.headers, (b"connection", b"close"))))
            return
        if not has_body(headers):
            await send_reply(send, reply)
            return
        await send_reply(send, reply, more=True)
        await throw_away(receive, self._bodies.seconds)
        await send({"type": "http.response.body", "body": b""})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path, method = scope["path"], scope["method"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if path not in OPEN:
            self._doorkeeper.check(headers.get(b"authorization"))
        service = self._infer.get(path)
        if service is not None:
            if method != "POST":
                return not_allowed(method, ("POST",))
            return await self._inferred(service, scope, headers, receive)
        if len(path) > _MOST_PATH:
            raise RequestError(f"a path of {len(path)} characters, {_MOST_PATH} at most", 414)
        if path == INDEX:
            if method != "POST":
                return not_allowed(method, ("POST",))
            return self._pages.index(await self._small_body(scope, headers, receive))
        return self._pages.page(path, method)

    async def _inferred(
        self, service: str, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive
    ) -> Reply:
        front = self._front
        signature = front.signature(service)
        json_size = header_length(headers)
        body = await self._bodies.read(scope, headers, receive)
        request = read_request(body, json_size, signature, front.limits)
        allowed = deadline(headers, request, front.limits)
        return answer_reply(service, request, await front.gateway.infer(service, request.query, allowed))

    async def _small_body(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return b""
        return await self._bodies.read(scope, headers, receive, _SMALL_BODY)
