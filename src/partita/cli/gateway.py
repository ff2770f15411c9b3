"""`partita gateway`: an inference gateway in front of workers on other hosts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.options import (
    Grace,
    GrpcPort,
    Listen,
    LogForm,
    LogFormat,
    MaxBody,
    Port,
    Router,
    TlsCert,
    TlsClientCa,
    TlsKey,
    TokenFile,
    need_packages_to_serve,
)
from partita.cli.output import WorkloadFile  # noqa: TC001 -- typer reads it
from partita.cli.serve import served_services
from partita.errors import InputError
from partita.planner import read_prepared
from partita.serve.gateway.access import read_endpoint
from partita.serve.gateway.addresses import WatchedServices, WorkerAccess, read_tls_client
from partita.serve.gateway.server import Remotes
from partita.serve.gateway.server import serve as serve_until_told
from partita.serve.routers import live_router
from partita.serve.worker.listening import read_token

if TYPE_CHECKING:
    import ssl

Services = Annotated[
    Path,
    typer.Option(
        "--services",
        metavar="FILE",
        envvar="PARTITA_SERVICES",
        help="Addresses of each service's workers (YAML); read again when it changes.",
    ),
]
WorkerTokenFile = Annotated[
    Path | None,
    typer.Option("--worker-token-file", metavar="FILE", help="Token that the workers and this gateway know."),
]
WorkerCa = Annotated[
    Path | None,
    typer.Option("--worker-ca", metavar="FILE", help="Speak TLS with workers that this CA (PEM) has signed."),
]
WorkerName = Annotated[
    str | None,
    typer.Option(
        "--worker-name", metavar="NAME", help="In the workers' certificates; else each one's own host is."
    ),
]

EXAMPLES = """On each host that has GPUs, start a worker that listens at an address:

partita worker photo-search --onnx resnet50.onnx --placement 3g.40gb@4
--batch 8 --listen 0.0.0.0:9000 --token-file token

Then name the addresses in a file, and start as many gateways as you like:

services:
  - name: photo-search
    workers: [10.0.0.2:9000, 10.0.0.3:9000]

partita gateway -f workload.yaml --services services.yaml
--worker-token-file token

Gateways share nothing: each estimates by what it sees, and workers tell each
of the batches that they have of the others. A host that is cut off is found
out by its silence; its queries are tried elsewhere in time, or refused."""

app = typer.Typer()


@app.command(epilog=EXAMPLES)
def gateway(
    workload: WorkloadFile,
    services: Services,
    *,
    worker_token_file: WorkerTokenFile = None,
    worker_ca: WorkerCa = None,
    worker_name: WorkerName = None,
    listen: Listen = "127.0.0.1",
    port: Port = 8000,
    grpc_port: GrpcPort = 8001,
    token_file: TokenFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    router: Router = "late-binding",
    max_body: MaxBody = 64.0,
    grace: Grace = 30.0,
    log_format: LogForm = LogFormat.TEXT,
) -> None:
    """Serve a workload's models on workers of other hosts, over HTTP and gRPC (Open Inference Protocol v2).

    It starts no workers: it routes every query to one that answers it in time,
    wherever that is, and follows the file of addresses while it serves.

    SIGTERM or Ctrl-C finish what is under way; a second one ends at once.
    """
    need_packages_to_serve()
    live_router(router)  # one that cannot be used is told before anything is started
    endpoint = read_endpoint(
        listen,
        (port, grpc_port),
        token_file=token_file,
        cert=tls_cert,
        key=tls_key,
        client_ca=tls_client_ca,
    )
    access = _access(worker_token_file, worker_ca, worker_name)
    served = served_services(read_prepared(workload))
    source = WatchedServices(services, [each.name for each in served])
    with tempfile.TemporaryDirectory(prefix="partita-gateway-") as folder:
        in_order = serve_until_told(
            served,
            Path(folder),
            endpoint,
            router=router,
            max_body=int(max_body * 2**20),
            grace_s=grace,
            json_log=log_format is LogFormat.JSON,
            remotes=Remotes(source, access),
        )
    if not in_order:
        raise KeyboardInterrupt


def _access(token_file: Path | None, ca: Path | None, name: str | None) -> WorkerAccess:
    tls: ssl.SSLContext | None = None if ca is None else read_tls_client(ca)
    if name is not None and tls is None:
        raise InputError(
            "a name is in certificates alone", where="--worker-name", hint="give --worker-ca FILE, too"
        )
    return WorkerAccess(None if token_file is None else read_token(token_file), tls, name)
