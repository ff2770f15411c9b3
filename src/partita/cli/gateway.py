"""`partita gateway`: an inference gateway in front of workers on other hosts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from partita.cli.options import (
    Grace,
    GrpcPort,
    Kubeconfig,
    KubeContext,
    Listen,
    LogForm,
    LogFormat,
    MaxBody,
    Otlp,
    Port,
    Router,
    TlsCert,
    TlsClientCa,
    TlsKey,
    TokenFile,
    need_packages_to_serve,
)
from partita.errors import InputError
from partita.planner import read_prepared
from partita.serve.gateway.access import read_endpoint
from partita.serve.gateway.addresses import Served, WatchedFiles, WorkerAccess
from partita.serve.gateway.server import Remotes
from partita.serve.gateway.server import serve as serve_until_told
from partita.serve.gateway.tracing import RequestTracer
from partita.serve.routers import live_router
from partita.serve.served import served_services
from partita.serve.services import read_addresses
from partita.serve.tls import ClientTrust
from partita.serve.worker.listening import read_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.kubernetes.endpoints import ClusterEndpoints

Workload = Annotated[
    Path | None, typer.Option("-f", "--file", metavar="WORKLOAD", help="Workload (YAML or JSON).")
]
Services = Annotated[
    Path | None,
    typer.Option(
        "--services",
        metavar="FILE",
        envvar="PARTITA_SERVICES",
        help="Addresses of each service's workers (YAML); read again when it changes.",
    ),
]
FromKubernetes = Annotated[
    str | None,
    typer.Option(
        "--kubernetes",
        metavar="WORKLOAD",
        help="Serve this Workload of a cluster instead: its services, by the EndpointSlices of their pods.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", metavar="NAME", help="Of the Workload. (default: the context's, or the pod's)"
    ),
]
WorkerTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--worker-token-file", metavar="FILE", help="Token that the workers and this gateway share."
    ),
]
WorkerCa = Annotated[
    Path | None,
    typer.Option(
        "--worker-ca", metavar="FILE", help="Speak TLS with workers whose certificates this CA (PEM) signed."
    ),
]
WorkerName = Annotated[
    str | None,
    typer.Option(
        "--worker-name",
        metavar="NAME",
        help="Name in the workers' certificates. (default: each worker's own host)",
    ),
]

EXAMPLES = """On each host with GPUs, start a worker that listens at an address:

partita worker --service photo-search --onnx resnet50.onnx
--placement 3g.40gb@4 --batch 8 --listen 0.0.0.0:9000 --token-file token

Then write the addresses into a file, and start one or more gateways:

services:
  - name: photo-search
    workers: [10.0.0.2:9000, 10.0.0.3:9000]

partita gateway -f workload.yaml --services services.yaml
--worker-token-file token

In a Kubernetes cluster with `partita controller`, a Service selects the pods
of a Workload, and the gateway follows its endpoints:

partita gateway --kubernetes vision --worker-token-file /secrets/token

Gateways share nothing: each makes its own estimates, and workers report to
each the batches that they have from the others. If a host is cut off, its
queries are tried elsewhere in time, or refused."""

app = typer.Typer()


@app.command(epilog=EXAMPLES)
def gateway(
    *,
    workload: Workload = None,
    services: Services = None,
    kubernetes: FromKubernetes = None,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: Namespace = None,
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
    otlp: Otlp = None,
) -> None:
    """Serve a workload's models on workers of other hosts, over HTTP and gRPC (Open Inference Protocol v2).

    It starts no workers. It routes every query to a worker that answers it in time, on any host, and reads the file
    of addresses again when it changes.

    SIGTERM or Ctrl-C finish what is under way; a second one ends at once.
    """
    need_packages_to_serve()
    tracer = None if otlp is None else RequestTracer(otlp)
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
    place = ClusterPlace(kubeconfig, context, namespace)
    source = service_source((workload, services), kubernetes, place, _read)
    in_order = serve_until_told(
        source.found.services,
        None,
        endpoint,
        router=router,
        max_body=int(max_body * 2**20),
        grace_s=grace,
        json_log=log_format is LogFormat.JSON,
        tracer=tracer,
        remotes=Remotes(source, access),
    )
    if not in_order:
        raise KeyboardInterrupt


class ClusterPlace(NamedTuple):
    """Which cluster, and where in it."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None


def service_source(
    files: tuple[Path | None, Path | None],
    kubernetes: str | None,
    place: ClusterPlace,
    read: Callable[[Path, Path], Served],
) -> WatchedFiles | ClusterEndpoints:
    """Return who knows what to serve.

    Args:
        files: the workload, and where its services run.
        kubernetes: name of a Workload in a cluster.
        place: which cluster.
        read: reads the files.

    Raises:
        InputError: files and a cluster are given, or too little of either; or what is given cannot be used.
    """
    workload, services = files
    if kubernetes is None and workload is not None and services is not None:
        return WatchedFiles((workload, services), partial(read, workload, services))
    if kubernetes is None or any(files):
        raise InputError(
            "what to serve is unclear" if any(files) else "nothing says what to serve, and where it runs",
            hint="give -f WORKLOAD and --services FILE, or --kubernetes WORKLOAD alone",
        )
    # The client of Kubernetes is an extra, and takes long to import.
    from partita.kubernetes.connecting import open_api  # noqa: PLC0415 -- as said above
    from partita.kubernetes.endpoints import ClusterEndpoints  # noqa: PLC0415 -- likewise

    return ClusterEndpoints(open_api(*place), kubernetes)


def _read(workload: Path, services: Path) -> Served:
    loaded = read_prepared(workload, to_plan=False)
    served = served_services(loaded.workload, loaded.formulation.measured)
    found = read_addresses(services, [each.name for each in served])
    for each in found:
        if each.slice is not None:
            raise InputError(
                f"{each} is a tensor server, not a worker of Partita's",
                where=str(services),
                hint=f"start one in front of it, and name that: partita worker --upstream http://{each}",
            )
    return Served(served, found)


def _access(token_file: Path | None, ca: Path | None, name: str | None) -> WorkerAccess:
    tls = None if ca is None else ClientTrust(ca)
    if name is not None and tls is None:
        raise InputError(
            "a name is in certificates alone", where="--worker-name", hint="give --worker-ca FILE, too"
        )
    return WorkerAccess(None if token_file is None else read_token(token_file), tls, name)
