"""What answers which request: one look into a dictionary, as all paths are known when it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from partita.serve.gateway.http.head import METHODS
from partita.serve.gateway.http.inferring import infer_paths
from partita.serve.gateway.http.pages import INDEX, LIVE, METRICS, OPEN, not_allowed
from partita.serve.gateway.oip import quoted
from partita.serve.gateway.values import Reason, RefusedError

if TYPE_CHECKING:
    from partita.serve.gateway.http.head import RequestHead
    from partita.serve.gateway.http.pages import Pages
    from partita.serve.gateway.http.reply import Reply
    from partita.serve.gateway.oip import ModelRepository
    from partita.serve.gateway.security import Doorkeeper

_SMALL_BODY = 1 << 16
_RETRY_S = 1.0


class Wanted(NamedTuple):
    """A request that is answered once its body is there.

    Attributes:
        service: that is asked to infer; None where the body says which services to list.
        most: bytes that the body may have.
    """

    service: str | None
    most: int


class Application:
    """Answers requests, or says what of them is needed to.

    Attributes:
        draining: whether nothing new is taken.

    Args:
        front: the models.
        pages: everything but inferring.
        doorkeeper: says who may ask.
    """

    def __init__(self, front: ModelRepository, pages: Pages, doorkeeper: Doorkeeper) -> None:
        self.front = front
        self.draining = False
        self._pages = pages
        self._doorkeeper = doorkeeper
        self._infer = infer_paths(front.services)

    def begin(self, head: RequestHead) -> Reply | Wanted:
        """Return the answer to a request, or which body it has to have.

        Raises:
            RequestError: it cannot be answered as it is.
            RefusedError: not now.
        """
        path, method = head.path, head.method
        if path not in OPEN:
            self._doorkeeper.check(head.headers.get(b"authorization"))
        if self.draining and path not in LIVE and path != METRICS:
            raise draining()
        service = self._infer.get(path)
        if service is not None:
            return Wanted(service, self.front.limits.body) if method == "POST" else not_allowed(method)
        if path == INDEX:
            return Wanted(None, _SMALL_BODY) if method == "POST" else not_allowed(method)
        if path == ("*",):
            return not_allowed(method, METHODS)
        return self._pages.page(path, method)

    def listed(self, body: bytes) -> Reply:
        """Return the services that a body asks for; raises as `Pages.index` does."""
        return self._pages.index(body)


def draining() -> RefusedError:
    """Return what is said while nothing new is taken."""
    return RefusedError(Reason.DRAINING, _RETRY_S)


def asked(head: RequestHead) -> str:
    """Return what a request asked for, for a log: nothing of it that may be secret, nothing that is not printable."""
    return f"{head.method} {quoted('/' + '/'.join(head.path))}"


def asked_to_infer(service: str) -> str:
    """Return the same of a request to infer."""
    return f"POST {quoted(f'/v2/models/{service}/infer')}"
