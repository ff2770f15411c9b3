"""How an endpoint of the API is declared: its path, what it takes and returns, and the function that answers.

A module of endpoints has a tuple of them; `endpoints.ALL` joins these. The server routes by them, and the OpenAPI
document is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from partita.dash.model import Role
from partita.documents.codec import Meta, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from partita.dash.model import Part
    from partita.dash.state import ApiState, Encoded


class Nothing(Value):
    """The query of an endpoint without parameters."""


class Page(Value):
    """The query of a list."""

    after: Annotated[str | None, Meta(description="Cursor: `next` of the page before.")] = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="Most elements of the page.")] = 100


class SearchPage(Page):
    """The query of a list that can be searched."""

    q: Annotated[str, Meta(max_length=200, description="Text that each element contains.")] = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A request, read and checked.

    Attributes:
        path: the values in the path, by name.
        query: of the endpoint's `query`.
        body: of the endpoint's `body`; None where it has none.
        role: what the caller may do.
        if_match: the state that the caller made the request for; only where the endpoint asks for it.
    """

    path: Mapping[str, str]
    query: Any
    body: Any
    role: Role
    if_match: str | None = None


@dataclass(frozen=True, slots=True)
class IfMatch:
    """What a request's header `If-Match` must name.

    Attributes:
        current: returns what it must name now, in a thread; given the API's state and the values in the path. It
            raises `RequestFault` where there is no such thing.
        about: what that is, for people.
    """

    current: Callable[[ApiState, Mapping[str, str]], str]
    about: str


STATE = IfMatch(lambda api, _: api.state(), "`state` of the index")
"""The state of the whole cluster."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path.

    Attributes:
        path: under `/api/v1`, such as `/gpus/{id}`; `{id:path}` holds slashes, too.
        returns: type of the document in the answer.
        answer: called with the API's state and the request; returns that document, or raises `RequestFault` or a
            `PartitaError`. It runs in the event loop, and must be quick, unless it is `slow`.
        about: one line for the OpenAPI document.
        part: the part of the API that the source must have; others answer 404.
        query: type of the parameters behind `?`.
        body: type of the document in the request.
        role: that the caller must have.
        if_match: the header `If-Match` that the request needs, so that it changes only what the caller has seen.
        slow: whether `answer` runs in a thread.
        etag: returns the ETag of the answer without making it; by default it is made from the body.
        status: of the answer.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    returns: type[Value]
    answer: Callable[[ApiState, Call], Value | Encoded]
    about: str
    part: Part | None = None
    query: type[Value] = Nothing
    body: type[Value] | None = None
    role: Role = Role.READ
    if_match: IfMatch | None = None
    slow: bool = False
    etag: Callable[[ApiState, Call], str] | None = None
    status: int = 200
