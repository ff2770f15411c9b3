"""`partita controller`: carries Workloads on a Kubernetes cluster."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from partita.cli.options import Kubeconfig, KubeContext, LogForm, LogFormat
from partita.cli.output import stderr
from partita.control.reconciler import Hysteresis
from partita.errors import InputError
from partita.files import read_text
from partita.kubernetes.connecting import open_api
from partita.kubernetes.controller import ClusterController
from partita.kubernetes.dra import DraDrivers, DraSettings
from partita.kubernetes.health import controller_pages
from partita.kubernetes.leader import Leader
from partita.kubernetes.objects import KubernetesError
from partita.kubernetes.rates import GatewayAccess
from partita.kubernetes.rights import CONTROLLER, DASH, missing_rights
from partita.kubernetes.silence import NODE_TIMEOUT_S
from partita.kubernetes.workload_session import ControllerSettings
from partita.metrics import serving_pages
from partita.process.keeper import SignalEvent, ending_signals
from partita.serve.worker.listening import read_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.rights import Right

GatewayTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--gateway-token-file",
        metavar="FILE",
        help="Token for the gateways that measure rates (`rates.gateway`).",
    ),
]
GatewayCa = Annotated[
    Path | None,
    typer.Option(
        "--gateway-ca",
        metavar="FILE",
        help="Reach those gateways over TLS; this CA (PEM) signed their certificates.",
    ),
]


DashPort = Annotated[
    int,
    typer.Option(
        "--dash-port",
        metavar="PORT",
        min=0,
        max=65535,
        help="Port of the dashboard and the API /api/v1; 0 for none.",
    ),
]
DashListen = Annotated[
    str,
    typer.Option(
        "--dash-listen",
        metavar="ADDRESS",
        help="Address that it listens on: the pod's own loopback, for `kubectl port-forward`, or, with TLS and a "
        "token, another.",
    ),
]
DashTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--dash-token-file", metavar="FILE", help="Require this bearer token of those who read there."
    ),
]
DashCert = Annotated[
    Path | None, typer.Option("--dash-tls-cert", metavar="FILE", help="Certificate (PEM) to serve it by TLS.")
]
DashKey = Annotated[
    Path | None, typer.Option("--dash-tls-key", metavar="FILE", help="Key (PEM) of that certificate.")
]
DashName = Annotated[
    list[str] | None,
    typer.Option(
        "--dash-name",
        metavar="HOST",
        help="A name by which browsers know it, such as its Service's. Repeatable.",
    ),
]
DashPublicUrl = Annotated[
    str | None,
    typer.Option(
        "--dash-public-url", metavar="URL", help="Address by which browsers reach a proxy in front of it."
    ),
]
MarkLeader = Annotated[
    str,
    typer.Option(
        "--mark-leader",
        metavar="POD",
        help="Label this pod, the controller's own, with partita.dev/leads=true while it leads.",
    ),
]
DashHistory = Annotated[
    Path | None,
    typer.Option(
        "--dash-history",
        metavar="DIR",
        help="Keep the past of fleet and services in this folder, over restarts. (default: in memory)",
    ),
]
DashWriteTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--dash-write-token-file",
        metavar="FILE",
        help="Let those who have this token pause and approve there. (default: nobody may)",
    ),
]


def controller(
    *,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    namespace: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only Workloads of this namespace. (default: all)"),
    ] = None,
    lease: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Lease that decides which controller acts, in the namespace of the pod or the context.",
        ),
    ] = "partita-controller",
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Port of /healthz, /readyz and /metrics; 0 for none."
        ),
    ] = 8080,
    dead_band: Annotated[
        float,
        typer.Option(
            "--dead-band",
            metavar="FRACTION",
            min=0.0,
            help="Plan again when a rate differs from the planned one by more than this fraction.",
        ),
    ] = 0.1,
    hold: Annotated[
        float,
        typer.Option("--hold", metavar="SECONDS", min=0.0, help="Seconds for which a plan is held at least."),
    ] = 300.0,
    poll: Annotated[
        float,
        typer.Option(
            "--poll",
            metavar="SECONDS",
            min=0.1,
            help="Seconds between two checks of a Workload without events.",
        ),
    ] = 5.0,
    time_limit: Annotated[
        float,
        typer.Option("--time-limit", metavar="SECONDS", min=0.1, help="Seconds of search for each plan."),
    ] = 30.0,
    start_timeout: Annotated[
        float,
        typer.Option(
            "--start-timeout",
            metavar="SECONDS",
            min=1.0,
            help="Seconds after which a pod that is not ready is given up.",
        ),
    ] = 600.0,
    node_timeout: Annotated[
        float,
        typer.Option(
            "--node-timeout",
            metavar="SECONDS",
            min=0.0,
            help="Seconds after which a node that is not ready counts as gone, while most are ready.",
        ),
    ] = NODE_TIMEOUT_S,
    keep_off: Annotated[
        Literal["DeviceTaints", "None"],
        typer.Option("--keep-off", help="How other claims are kept off the GPUs; with None, you must do it."),
    ] = "DeviceTaints",
    gateway_token_file: GatewayTokenFile = None,
    gateway_ca: GatewayCa = None,
    dash_port: DashPort = 0,
    dash_listen: DashListen = "127.0.0.1",
    dash_token_file: DashTokenFile = None,
    dash_write_token_file: DashWriteTokenFile = None,
    dash_tls_cert: DashCert = None,
    dash_tls_key: DashKey = None,
    dash_name: DashName = None,
    dash_public_url: DashPublicUrl = None,
    dash_history: DashHistory = None,
    mark_leader: MarkLeader = "",
    log_format: LogForm = LogFormat.TEXT,
) -> None:
    """Run Workloads on a Kubernetes cluster: plan them, and place their pods on exact slices.

    It needs the resources in deploy/crds and NVIDIA's DRA driver. All its state is in the API. Of two or more
    controllers, the holder of the Lease acts; when it is killed, the next one continues within 20 seconds. A Workload
    has the fields of the YAML of `partita plan`, and a pod template. `kubectl get workloads,plans,transitions` shows
    the state, and `kubectl describe` the reasons. On SIGTERM or Ctrl-C the controller begins nothing new and releases
    the Lease; the next controller continues the actions under way.
    """
    del log_format  # read in main()
    api = open_api(kubeconfig, context)
    stop = SignalEvent()
    leader = Leader(api, lease, _tell)
    settings = ControllerSettings(
        namespace=namespace,
        poll_s=poll,
        time_limit_s=time_limit,
        hysteresis=Hysteresis(dead_band, hold),
        gateways=_gateway_access(gateway_token_file, gateway_ca),
        pod=mark_leader,
    )
    drivers = DraDrivers(DraSettings(start_timeout, keep_off, node_timeout))
    made = ClusterController(api, leader, drivers, settings, _tell)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in ending_signals()}
    try:
        with ExitStack() as stack:
            if port:
                stack.enter_context(serving_pages(controller_pages(made), "", port))
            if dash_port:
                files = (dash_token_file, dash_write_token_file, dash_tls_cert, dash_tls_key)
                names = tuple(dash_name or ())
                serving = _dash(
                    made, dash_listen, dash_port, files=files, names=names, public_url=dash_public_url,
                    past=dash_history,
                )  # fmt: skip
                stack.enter_context(serving)
            _tell_missing_rights(api, (*CONTROLLER, *(DASH if mark_leader else ())), namespace)
            made.run(stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        drivers.close()
        api.close()


@contextmanager
def _dash(
    made: ClusterController,
    host: str,
    port: int,
    *,
    files: Sequence[Path | None],
    names: Sequence[str],
    public_url: str | None,
    past: Path | None,
) -> Iterator[None]:
    """While the block runs, serve the dashboard and the API of a controller.

    Args:
        made: the controller.
        host: address to listen on.
        port: of TCP.
        files: tokens of those who read and of those who write, certificate and key.
        names: of the host.
        public_url: of a proxy in front.
        past: folder of the history; None for memory alone.

    Raises:
        InputError: the extra is not installed, or the port, the token's file or the history's folder cannot be used.
    """
    if missing := [name for name in ("starlette", "uvicorn", "httptools") if find_spec(name) is None]:
        raise InputError(
            f"{', '.join(missing)} is not installed", where="--dash-port", hint='pip install "partita[dash]"'
        )
    from partita.dash.access import read_access  # noqa: PLC0415 -- of another extra
    from partita.dash.history import FILE, History  # noqa: PLC0415 -- likewise
    from partita.dash.server import BackgroundServer  # noqa: PLC0415 -- likewise
    from partita.kubernetes.dash_source import (  # noqa: PLC0415 -- likewise
        ControllerOnDemand,
        ControllerSource,
    )

    read, write, cert, key = files
    access = read_access(
        host,
        port,
        read=read,
        write=write,
        cert=cert,
        key=key,
        names=names,
        public_url=public_url,
        prefix="dash-",
    )
    history = History(None if past is None else _folder(past) / FILE)
    source = ControllerSource(made)
    answers = ControllerOnDemand(source, made, threading.Lock())
    with (
        closing(source),
        closing(BackgroundServer(source, access, history, on_demand=answers)) as server,
    ):
        _tell(f"dashboard: {server.url}")
        yield


def _folder(path: Path) -> Path:
    """Return a folder, made if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        hint = "name a folder that may be written"
        raise InputError(f"{path}: {error.strerror}", where="--dash-history", hint=hint) from None
    return path


def _gateway_access(token_file: Path | None, ca: Path | None) -> GatewayAccess:
    """Return how gateways are asked.

    Raises:
        InputError: a file cannot be used.
    """
    if ca is not None:
        read_text(ca)
    return GatewayAccess(
        None if token_file is None else read_token(token_file), None if ca is None else str(ca)
    )


def _tell_missing_rights(api: KubernetesApi, rights: Sequence[Right], namespace: str | None) -> None:
    """Write to the log which rights are missing; whatever needs them says so, too, when it comes to that."""
    try:
        for text in missing_rights(api, rights, namespace):
            _tell(text)
    except KubernetesError as error:
        _tell(f"the rights cannot be looked up: {error}")


def _tell(text: str) -> None:
    """Write a line to the log."""
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    stderr().print(f"{now} {text}", markup=False, highlight=False, soft_wrap=True)
