"""`partita dash`: the API and the dashboard of a cluster."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.cluster import NVML, SIMULATED, ClockName, Cluster, DriverOption, open_driver
from partita.cli.options import LogForm, LogFormat, TlsCert, TlsKey
from partita.cli.output import echo
from partita.cli.safe_text import shown
from partita.drive.driver import EnergyMeter
from partita.drive.state import state_path
from partita.errors import InputError
from partita.log_lines import JsonFormatter
from partita.serve.worker.listening import read_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.dash.power import PowerMeter
    from partita.drive.driver import Driver

EXAMPLES = """On the host of the cluster, then open the address that it prints:

partita dash

From your desk, through ssh:

ssh -t -L 8080:localhost:8080 gpu-host partita dash

Behind a proxy of this host that ends TLS:

partita dash --public-url https://gpus.example.org/partita/ --token-file read

For colleagues, with TLS and two tokens, one that reads and one that may also apply plans:

umask 077; openssl rand -hex 32 > read; openssl rand -hex 32 > write

partita dash --listen 0.0.0.0 --token-file read --write-token-file write
--tls-cert host.pem --tls-key host.key --name gpu-host.example.com

The day of `partita demo` on simulated GPUs, live:

partita dash --demo

Everything that the pages show is under /api/v1, described by /api/v1/openapi.json:

curl -s localhost:8080/api/v1/services

curl -sN localhost:8080/api/v1/stream"""

Address = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        help="Address to listen on; beyond this host, TLS and a token are needed.",
    ),
]
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
PublicUrl = Annotated[
    str | None,
    typer.Option(
        "--public-url",
        metavar="URL",
        help="Address, with its path, by which browsers reach a proxy in front of this one, which ends TLS.",
    ),
]

Workload = Annotated[
    Path | None,
    typer.Option("-f", "--file", metavar="WORKLOAD", help="Workload, for what services promise."),
]
Gateways = Annotated[
    list[str] | None,
    typer.Option(
        "--gateway",
        metavar="URL",
        help="Gateway of the services, whose metrics say rates and latencies: http://localhost:8000. Repeatable.",
    ),
]
GatewayTokenFile = Annotated[
    Path | None, typer.Option("--gateway-token-file", metavar="FILE", help="Token that the gateways require.")
]
GatewayCa = Annotated[
    Path | None,
    typer.Option(
        "--gateway-ca", metavar="FILE", help="CA (PEM) of the gateways' certificates. (default: the system's)"
    ),
]

Demo = Annotated[
    bool,
    typer.Option("--demo", help="Show the day of `partita demo` on simulated GPUs, again and again, live."),
]

app = typer.Typer()

_NEEDED = ("starlette", "uvicorn", "prometheus_client")


def missing() -> list[str]:
    """Return what is not installed of what the extra `dash` brings."""
    return [each for each in _NEEDED if find_spec(each) is None]


@app.command(epilog=EXAMPLES)
def dash(
    *,
    demo: Demo = False,
    workload: Workload = None,
    gateway: Gateways = None,
    gateway_token_file: GatewayTokenFile = None,
    gateway_ca: GatewayCa = None,
    driver: DriverOption = SIMULATED,
    listen: Address = "127.0.0.1",
    port: Port = 8080,
    token_file: TokenFile = None,
    write_token_file: WriteTokenFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    name: Name = None,
    public_url: PublicUrl = None,
    log_format: LogForm = LogFormat.TEXT,
) -> None:
    """Serve the dashboard and the API under /api/v1: fleet, services, jobs, plans and transitions, live.

    It changes nothing by itself, and may run beside a controller, a daemon and a gateway. SIGTERM or Ctrl-C end it.
    """
    if lacking := missing():
        raise InputError(f"{', '.join(lacking)} is not installed", hint='pip install "partita[dash]"')
    from partita.dash.access import read_access  # noqa: PLC0415 -- of an extra

    access = read_access(
        listen,
        port,
        read=token_file,
        write=write_token_file,
        cert=tls_cert,
        key=tls_key,
        names=name or (),
        public_url=public_url,
    )
    token = None if gateway_token_file is None else read_token(gateway_token_file)
    with ExitStack() as stack:
        shown = _Shown(state_path(), Cluster(driver), workload, tuple(gateway or ()))
        if demo:
            _refuse_with_demo(driver, workload, gateway)
            shown = _demo(stack)
        elif not shown.cluster.exists(shown.folder):
            raise InputError(
                "there is no simulated cluster yet",
                where=str(shown.folder),
                hint="make one: `partita apply plan.json`; for the GPUs of this host add --driver nvml; to look at "
                "a day of an example: `partita dash --demo`",
            )
        # Its controller plans while this process still imports what it needs.
        from partita.dash.gateway import GatewayPage  # noqa: PLC0415 -- of an extra
        from partita.dash.history import FILE, History  # noqa: PLC0415 -- likewise
        from partita.dash.local import LocalSource  # noqa: PLC0415 -- likewise
        from partita.dash.local_on_demand import LocalOnDemand  # noqa: PLC0415 -- likewise
        from partita.dash.server import serve  # noqa: PLC0415 -- likewise

        source = LocalSource(
            partial(open_driver, shown.cluster, shown.folder, list, read_only=True),
            shown.folder,
            workload=shown.workload,
            gateways=[GatewayPage(url, token, gateway_ca) for url in shown.gateways],
            power=partial(_power, driver, stack),
        )
        stack.callback(source.close)
        on_demand = LocalOnDemand(source, driver, Lock())
        stack.callback(on_demand.close)
        history = stack.enter_context(closing(History(shown.folder / FILE)))
        stack.enter_context(_logged(as_json=log_format is LogFormat.JSON))
        serve(source, access, history, partial(_tell, access.public, demo), on_demand)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is shown: a cluster, its state folder, and the workload and the addresses of the gateways on it."""

    folder: Path
    cluster: Cluster
    workload: Path | None
    gateways: tuple[str, ...]


def _refuse_with_demo(driver: str, workload: Path | None, gateway: list[str] | None) -> None:
    options = {"--driver": driver != SIMULATED, "--file": workload is not None, "--gateway": bool(gateway)}
    if given := [name for name, there in options.items() if there]:
        raise InputError(
            "the demo has its own cluster", where=", ".join(given), hint="leave it out, or --demo"
        )


def _demo(stack: ExitStack) -> _Shown:
    from partita.cli.live_demo import live_demo  # noqa: PLC0415 -- imports what the extra brings

    running = stack.enter_context(live_demo())
    # By the wall clock, by which its controller lives, also before that has begun.
    cluster = Cluster(SIMULATED, ClockName.WALL)
    return _Shown(running.folder, cluster, running.workload, (running.gateway,))


def _tell(public: object, demo: bool, url: str) -> None:  # noqa: FBT001 -- bound by its place
    echo(f"partita dash: {url}")
    if public is not None:
        echo(f"through the proxy: {public}")
    if demo:
        echo(
            "A day of five services on 24 simulated GPUs, five minutes long, again and again. Ctrl-C ends it."
        )


def _power(name: str, stack: ExitStack, driver: Driver) -> PowerMeter | None:
    from partita.dash.power import CounterPower, SimulatedPower  # noqa: PLC0415 -- of an extra

    if name == SIMULATED:
        return SimulatedPower()
    if name == NVML:
        from partita.drive.nvml.driver import NvmlEnergyMeter  # noqa: PLC0415 -- with NVIDIA's binding, 0.2 s

        return CounterPower(stack.enter_context(closing(NvmlEnergyMeter())))
    return CounterPower(driver) if isinstance(driver, EnergyMeter) else None


class _ShownFormatter(logging.Formatter):
    """Formats for a terminal: faults may hold what gateways and users wrote."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text that the terminal shows and does not act on."""
        return shown(super().format(record))


@contextmanager
def _logged(*, as_json: bool) -> Iterator[None]:
    """While the block runs, write what the server notes to stderr."""
    log, handler = logging.getLogger("partita.dash"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if as_json else _ShownFormatter("%(asctime)s %(message)s", "%H:%M:%S")
    )
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
