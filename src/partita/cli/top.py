"""`partita top`: fleet, services and jobs in a terminal, over the API of `partita dash`."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlsplit

import typer

from partita.cli.dash import missing
from partita.errors import InputError, PartitaError
from partita.process import keeper
from partita.serve.worker.listening import read_token
from partita.serve.worker.spec import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = """Of this host:

partita top

Of another one, with a token:

partita top --url https://gpu-host.example.com:8080 --token-file read --ca ca.pem"""

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Address of a `partita dash`. (default: the one on port 8080 of this host; if none runs, one is "
        "started for the state folder, until the end)",
    ),
]
TopToken = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="Token that it requires.")
]
TopCa = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="CA (PEM) of its certificate. (default: the system's)"),
]
Every = Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")]

LOCAL = "http://localhost:8080"
_TIMEOUT_S = 10.0
_MOST = 1000
_GRACE_S = 10.0


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
            urllib.request.HTTPSHandler(context=_trust(ca)),
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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token is for this server alone."""

    def redirect_request(self, *_: object) -> None:
        """Return no further request; the answer is then an error."""


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        why = (
            error.strerror
            if isinstance(error, FileNotFoundError | PermissionError)
            else "it has no PEM certificate"
        )
        raise InputError(f"not a certificate of an authority: {why}", where=str(ca)) from None


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
    if isinstance(error, json.JSONDecodeError):
        return PartitaError("what answers there is no `partita dash`", where=url)
    return PartitaError(f"no API answers there: {why}", where=url, hint="start it: `partita dash`")


app = typer.Typer()


@app.command(epilog=EXAMPLES)
def top(*, url: Url = None, token_file: TopToken = None, ca: TopCa = None, every: Every = 2.0) -> None:
    """Watch fleet, services and jobs in the terminal, over the API of `partita dash`.

    f, s and j choose what is shown, / filters it, q ends it. It changes nothing.
    """
    if find_spec("textual") is None:
        raise InputError("textual is not installed", hint='pip install "partita[top]"')
    from partita.cli.top_screen import TopApp  # noqa: PLC0415 -- of an extra

    token = None if token_file is None else read_token(token_file)
    with _client(url, token, ca) as client:
        client.get("")  # what is wrong with the address or the token is told here
        screen = TopApp(client, every)
        screen.run()
    if screen.return_code:
        raise typer.Exit(screen.return_code)


@contextmanager
def _client(url: str | None, token: str | None, ca: Path | None) -> Iterator[ApiClient]:
    if url is not None or token is not None or _runs():
        yield ApiClient(url or LOCAL, token, ca)
        return
    if lacking := missing():
        raise InputError(
            f"no `partita dash` runs here, and {', '.join(lacking)} to start one is not installed",
            hint='name one with --url, or pip install "partita[dash]"',
        )
    with ExitStack() as stack:
        command = [sys.executable, "-u", "-m", "partita", "dash", "--port", "0"]
        errors = stack.enter_context(tempfile.TemporaryFile())
        process = keeper.start(
            command, os.environ, output=keeper.PIPE, errors=errors, orphaned=signal.SIGTERM
        )
        stack.callback(process.close)
        stack.callback(process.end, _GRACE_S)
        assert process.stdout is not None  # noqa: S101 -- for the type
        found = re.search(r"https?://\S+", process.stdout.readline().decode())
        if found is None:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().partition("\n")[0].removeprefix("error: ")
            raise PartitaError(f"no `partita dash` could be started: {said}", hint="try `partita dash`")
        yield ApiClient(found[0])


def _runs() -> bool:
    try:
        with socket.create_connection(("localhost", 8080), 1.0):
            pass
        return "version" in ApiClient(LOCAL).get("")
    except (OSError, PartitaError):
        return False
