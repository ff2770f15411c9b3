"""A client of the API of `partita dash`, which says why it does not answer."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from partita.errors import PartitaError
from partita.serve.tls import ClientTrust
from partita.serve.worker.spec import is_loopback

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_S = 10.0
_MOST = 1000


class ApiClient:
    """Asks the API of a `partita dash`.

    Args:
        url: its address.
        token: bearer token; None if it needs none.
        ca: PEM file of the authority of its certificate; None for the system's.
    """

    def __init__(self, url: str, token: str | None = None, ca: Path | None = None) -> None:
        base = url if "://" in url else f"http://{url}"
        self.url = base.rstrip("/")
        self._headers = {"Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        handlers: list[urllib.request.BaseHandler] = [
            _NoRedirect(),
            urllib.request.HTTPSHandler(context=ClientTrust(ca).current()),
        ]
        if is_loopback(urlsplit(self.url).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))  # http_proxy is for what is elsewhere
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Return a document of the API.

        Raises:
            PartitaError: it does not answer, or refuses; the error says why.
        """
        asked = "&".join(f"{name}={quote(value)}" for name, value in query.items() if value)
        where = f"{self.url}/api/v1{path}" + (f"?{asked}" if asked else "")
        try:
            request = urllib.request.Request(where, headers=self._headers)  # noqa: S310 -- the user's own URL
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error, where) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _silent(error, self.url) from None
        if not isinstance(found, dict):
            raise PartitaError("what answers there is no `partita dash`", where=self.url)
        return found

    def most(self, path: str, q: str = "") -> dict[str, Any]:
        """Return the first page of a list, as long as pages are."""
        return self.get(path, limit=str(_MOST), q=q)


_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""How OpenSSL calls plain text in the place of TLS."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token is for this server alone."""

    def redirect_request(self, *_: object) -> None:
        """Return no further request; the answer is then an error."""


def _refused(error: urllib.error.HTTPError, where: str) -> PartitaError:
    if 300 <= error.code < 400:
        to = error.headers.get("location", "elsewhere")
        return PartitaError(f"it leads to {to}", where=where, hint=f"if that is right: --url {to}")
    try:
        fault = json.load(error)
        return PartitaError(fault["error"], where=fault["where"] or where, hint=fault["hint"])
    except (OSError, ValueError, KeyError, TypeError):
        return PartitaError(f"it answers {error.code} {error.reason}", where=where)


def _silent(error: Exception, url: str) -> PartitaError:
    """Return the error for a server that gives no answer that can be read."""
    why = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(why, ssl.SSLCertVerificationError):
        said = why.verify_message
        hint = (
            "have it renewed"
            if "expired" in said
            else "name its authority's certificate, or itself, with --ca"
        )
        return PartitaError(f"its certificate is not to be trusted: {said}", where=url, hint=hint)
    if isinstance(why, ssl.SSLError) and why.reason in _NO_TLS:
        plain = f"http{url.removeprefix('https')}"
        return PartitaError(
            "what answers there speaks no TLS", where=url, hint=f"if that is right: --url {plain}"
        )
    if isinstance(error, json.JSONDecodeError):
        return PartitaError("what answers there is no `partita dash`", where=url)
    return PartitaError(f"no API answers there: {why}", where=url, hint="start it: `partita dash`")
