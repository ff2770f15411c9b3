"""`partita picker`: an endpoint picker for proxies that speak Envoy's external processing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.gateway import (
    ClusterPlace,
    FromKubernetes,
    Namespace,
    Services,
    Workload,
    service_source,
)
from partita.cli.options import (
    Grace,
    Kubeconfig,
    KubeContext,
    LogForm,
    LogFormat,
    Router,
    TlsCert,
    TlsClientCa,
    TlsKey,
    need_packages_to_serve,
)
from partita.errors import InputError
from partita.kubernetes.picker import PickerEndpoint, serve_picker
from partita.planner import read_prepared
from partita.serve.gateway.access import read_tls
from partita.serve.gateway.addresses import Served
from partita.serve.gateway.server import logged
from partita.serve.routers import live_router
from partita.serve.served import served_services
from partita.serve.services import read_addresses

if TYPE_CHECKING:
    from pathlib import Path

ListenAt = Annotated[
    str,
    typer.Option("--listen", metavar="ADDRESS", help="Address at which the proxy reaches the picker."),
]
PickerPort = Annotated[int, typer.Option("--port", min=0, max=65_535, help="gRPC port; 0 takes a free one.")]
MetricsPort = Annotated[
    int,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65_535,
        help="HTTP port of /metrics, /healthz and /readyz; 0 takes a free one.",
    ),
]

EXAMPLES = """A proxy such as Envoy, set up by a gateway of the Gateway API inference
extension, asks the picker for an endpoint for every request:

partita picker --kubernetes vision --listen 0.0.0.0

kind: InferencePool
spec: {endpointPickerRef: {name: partita-picker, port: {number: 9002}}, ...}

Outside Kubernetes the file of services names tensor servers and their slices:

services:
  - name: photo-search
    workers:
      - {server: "10.0.0.2:8000", placement: 3g.40gb@4, batch: 8}

A request that no slice answers in time is refused with 429, and with 503 if
no server is ready. Deadlines are those of `partita gateway`."""

app = typer.Typer()


@app.command(epilog=EXAMPLES)
def picker(
    *,
    workload: Workload = None,
    services: Services = None,
    kubernetes: FromKubernetes = None,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: Namespace = None,
    listen: ListenAt = "127.0.0.1",
    port: PickerPort = 9002,
    metrics_port: MetricsPort = 9090,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    router: Router = "late-binding",
    grace: Grace = 30.0,
    log_format: LogForm = LogFormat.TEXT,
) -> None:
    """Pick for each request of a proxy such as Envoy the tensor server that answers it in time.

    It speaks Envoy's external processing (the Endpoint Picker Protocol of the
    Gateway API inference extension), with the same routers as `partita gateway`:
    how many items a request has decides on which slice it runs.

    SIGTERM or Ctrl-C finish requests under way; a second one ends at once.
    """
    need_packages_to_serve()
    live_router(router)  # one that cannot be used is told before anything is started
    tls = read_tls(tls_cert, tls_key, tls_client_ca)
    place = ClusterPlace(kubeconfig, context, namespace)
    source = service_source((workload, services), kubernetes, place, _read)
    with logged(as_json=log_format is LogFormat.JSON):
        in_order = serve_picker(
            source, PickerEndpoint(listen, port, metrics_port, tls), router, grace_s=grace
        )
    if not in_order:
        raise KeyboardInterrupt


def _read(workload: Path, services: Path) -> Served:
    loaded = read_prepared(workload, to_plan=False)
    served = served_services(loaded.workload, loaded.formulation.measured)
    found = read_addresses(services, [each.name for each in served])
    for each in found:
        if each.slice is None:
            raise InputError(
                f"nothing says which slice {each} has",
                where=str(services),
                hint=f"write {{server: {each}, placement: 3g.40gb@4, batch: 8}}",
            )
    return Served(served, found)
