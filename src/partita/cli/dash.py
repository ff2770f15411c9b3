"""`partita dash`: the API and the dashboard of a cluster."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from partita.cli.cluster import SIMULATED, Cluster, DriverOption, open_driver
from partita.cli.options import Listen, TlsCert, TlsKey
from partita.cli.output import echo
from partita.drive.state import state_path
from partita.errors import InputError

EXAMPLES = """On the host of the cluster, then open the address that it prints:

partita dash

From your desk, through ssh:

ssh -L 8080:localhost:8080 gpu-host partita dash

For colleagues, with TLS and two tokens, one that reads and one that may also apply plans:

umask 077; openssl rand -hex 32 > read; openssl rand -hex 32 > write

partita dash --listen 0.0.0.0 --token-file read --write-token-file write
--tls-cert host.pem --tls-key host.key --name gpu-host.example.com

Everything that the pages show is under /api/v1, described by /api/v1/openapi.json:

curl -s localhost:8080/api/v1/services

curl -sN localhost:8080/api/v1/stream"""

Port = Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port; 0 takes a free one.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Require this bearer token of those who read."),
]
WriteTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--write-token-file",
        metavar="FILE",
        help="Let those who have this token apply plans and submit jobs. (default: nobody may)",
    ),
]
Name = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar="HOST", help="Another name of this host, as browsers know it. Repeatable."
    ),
]

app = typer.Typer()

_NEEDED = ("starlette", "uvicorn", "httptools", "prometheus_client")


@app.command(epilog=EXAMPLES)
def dash(
    *,
    driver: DriverOption = SIMULATED,
    listen: Listen = "127.0.0.1",
    port: Port = 8080,
    token_file: TokenFile = None,
    write_token_file: WriteTokenFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    name: Name = None,
) -> None:
    """Serve the dashboard and the API under /api/v1: fleet, services, jobs, plans and transitions, live.

    It changes nothing by itself, and may run beside a controller, a daemon and a gateway. SIGTERM or Ctrl-C end it.
    """
    if missing := [each for each in _NEEDED if find_spec(each) is None]:
        raise InputError(f"{', '.join(missing)} is not installed", hint='pip install "partita[dash]"')
    from partita.dash.access import read_access  # noqa: PLC0415 -- of an extra
    from partita.dash.local import LocalSource  # noqa: PLC0415 -- likewise
    from partita.dash.server import serve  # noqa: PLC0415 -- likewise

    access = read_access(
        listen,
        port,
        read=token_file,
        write=write_token_file,
        cert=tls_cert,
        key=tls_key,
        names=name or (),
    )
    folder, cluster = state_path(), Cluster(driver)
    if not cluster.exists(folder):
        raise InputError(
            "there is no simulated cluster yet",
            where=str(folder),
            hint="make one: `partita apply plan.json`; for the GPUs of this host add --driver nvml",
        )
    with open_driver(cluster, folder, list) as opened:
        source = LocalSource(opened, folder)
        serve(source, access, lambda url: echo(f"partita dash: {url}"))
