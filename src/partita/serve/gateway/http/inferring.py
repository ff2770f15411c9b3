"""A request to infer, apart from how it comes and how its answer goes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from partita.serve.gateway.http.reply import Reply, failure, fault_reply, refusal
from partita.serve.gateway.oip import VERSION, RequestError, checked, quoted
from partita.serve.gateway.oip_json import write_answer
from partita.serve.gateway.values import FailedError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.serve.gateway.oip_json import InferRequest
    from partita.serve.tensors import Answer

T = TypeVar("T")
_LOG = logging.getLogger("partita.serve.http")
_OCTETS = b"application/octet-stream"
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="partita"'),)


def infer_paths(services: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Return the services by the paths, as segments, at which they are asked."""
    return with_slashes(
        {
            ("v2", "models", service, *version, "infer"): service
            for service in services
            for version in ((), ("versions", VERSION))
        }
    )


def with_slashes(found: dict[tuple[str, ...], T]) -> dict[tuple[str, ...], T]:
    """Add the paths in which slashes of names stand as they are, where those lead nowhere else.

    An escaped one separates nothing, so that `a%2Fb` is one name; NVIDIA's client sends names' slashes unescaped.
    """
    split = {tuple("/".join(path).split("/")): each for path, each in found.items()}
    return {**split, **found}


def header_length(headers: Mapping[bytes, bytes]) -> int | None:
    """Return the bytes of JSON before the binary data, None where all is JSON.

    Raises:
        RequestError: what is said of it is no number.
    """
    text = headers.get(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 15:
        raise RequestError(
            f"Inference-Header-Content-Length is {quoted(text.decode('latin-1'))}, not a number"
        )
    return int(text)


def answer_reply(service: str, request: InferRequest, answer: Answer) -> Reply:
    """Return what a client is sent of a worker's answer; raises as `checked` and `write_answer` do."""
    document, json_size = write_answer(service, request, checked(answer))
    if json_size is None:
        return Reply(200, document)
    return Reply(200, document, _OCTETS, ((b"inference-header-content-length", b"%d" % json_size),))


def error_reply(error: BaseException, asked: str) -> Reply:
    """Return what is said of an error; one that nobody foresaw is logged, with what was asked for."""
    if isinstance(error, RequestError):
        return fault_reply(error, _CHALLENGE if error.status == 401 else ())
    if isinstance(error, RefusedError):
        return refusal(error)
    if isinstance(error, FailedError):
        return failure(str(error), 500)
    _LOG.error("a fault in partita itself at %s", asked, exc_info=error)
    return failure("a fault in partita itself; its log says more", 500, reason="internal")
