"""`partita top`: fleet, services and jobs in a terminal, over the API of `partita dash`."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.api_client import ApiClient
from partita.cli.dash import missing
from partita.errors import InputError, PartitaError
from partita.process import keeper
from partita.serve.worker.listening import read_token

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
_GRACE_S = 10.0


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
