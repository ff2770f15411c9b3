"""From what the options of `partita serve` say to a gateway that runs."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from partita.cli.loading import Loaded
    from partita.cli.staff import Staff
    from partita.serve.gateway.access import Tls
    from partita.serve.gateway.route import ServedService
    from partita.serve.supervisor import Supervisor
    from partita.workload import ServiceSpec

_QUANTILE = 0.95
"""Share of queries that should be in time, where the workload says none."""
_PACKAGES = (
    "httptools", "uvloop", "orjson", "grpc", "grpc_health", "grpc_reflection", "google.protobuf",
    "prometheus_client",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Door:
    """Where the gateway listens, and who may ask."""

    host: str
    port: int
    grpc_port: int
    token: str | None
    tls: Tls | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say; see `partita serve --help`. `max_body` is in bytes."""

    door: Door
    router: str
    max_body: int
    grace_s: float
    as_json: bool


def open_door(
    host: str,
    ports: tuple[int, int],
    *,
    token_file: Path | None,
    cert: Path | None,
    key: Path | None,
    client_ca: Path | None,
) -> Door:
    """Read and check what the options name; `ports` are those of HTTP and gRPC.

    Raises:
        InputError: a package or a file is missing, or others could ask without leave.
    """
    _need_packages()
    from partita.serve.gateway.access import check_exposure, read_tls, read_token  # noqa: PLC0415 -- optional

    token = read_token(token_file) if token_file is not None else None
    tls = read_tls(cert, key, client_ca)
    check_exposure(host, token=token is not None, tls=tls)
    return Door(host, *ports, token, tls)


def serve_until_told(loaded: Loaded, staff: Staff | None, asked: Asked) -> None:
    """Serve a workload until a signal says to end.

    Args:
        loaded: the workload.
        staff: the workers to start; None to use those that are there.
        asked: everything else.

    Raises:
        InputError: a port or a file cannot be used.
        LockedError: another gateway serves from the same state folder.
        KeyboardInterrupt: a second signal cut it short.
    """
    # Else gRPC's core writes lines of its own on stderr, one for each client with a wrong certificate.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import uvloop  # noqa: PLC0415 -- optional packages, and only for a gateway

    from partita.control.lock import serving as serving_alone  # noqa: PLC0415
    from partita.drive.state import state_folder  # noqa: PLC0415
    from partita.serve.gateway.access import listening  # noqa: PLC0415
    from partita.serve.gateway.gateway import Gateway  # noqa: PLC0415
    from partita.serve.gateway.logs import logged  # noqa: PLC0415
    from partita.serve.gateway.metrics import Metrics  # noqa: PLC0415
    from partita.serve.gateway.oip import RequestLimits  # noqa: PLC0415
    from partita.serve.gateway.route import no_starts  # noqa: PLC0415
    from partita.serve.gateway.running import Access, run  # noqa: PLC0415

    served = [_served(loaded, spec) for spec in loaded.workload.services]
    names = [each.name for each in served]
    folder, metrics, door = state_folder(), Metrics(names), asked.door
    workers = folder / "workers"
    supervisor = None if staff is None else _supervisor(staff, served, workers, asked.grace_s)
    _allow_many_sockets()
    with (
        serving_alone(folder),
        logged(as_json=asked.as_json),
        listening(door.host, door.port, "--port") as listener,
    ):
        access = Access(
            listener, door.host, door.grpc_port, door.token, door.tls, RequestLimits(body=asked.max_body)
        )

        async def serving() -> bool:
            gateway = Gateway(
                served,
                workers,
                router=asked.router,
                rates=folder / "rates.json",
                on_end=metrics.on_end,
                starts=no_starts if supervisor is None else supervisor.starts,
            )
            return await run(gateway, names, metrics, access, supervisor=supervisor, grace_s=asked.grace_s)

        in_order = uvloop.run(serving())
    if not in_order:
        raise KeyboardInterrupt


def _supervisor(staff: Staff, served: list[ServedService], folder: Path, grace_s: float) -> Supervisor:
    import logging  # noqa: PLC0415 -- only for a gateway

    from partita.serve.supervisor import StartOptions, Supervisor  # noqa: PLC0415 -- only for a gateway
    from partita.serve.worker_specs import worker_specs  # noqa: PLC0415 -- only for a gateway

    ways = staff.ways
    specs = worker_specs(
        staff.plan,
        {name: way.backend for name, way in ways.items()},
        folder,
        tables={each.name: each.table for each in served},
        grace_s=grace_s,
        graces={name: way.grace_s for name, way in ways.items() if way.grace_s is not None},
        declared={name: way.declared for name, way in ways.items() if way.declared is not None},
        hang_timeouts={
            name: way.hang_timeout_s for name, way in ways.items() if way.hang_timeout_s is not None
        },
        once=[name for name, way in ways.items() if not way.retry],
    )
    return Supervisor(
        specs,
        devices=staff.devices,
        starts={name: StartOptions(way.environment, way.start_timeout_s) for name, way in ways.items()},
        tell=logging.getLogger("partita.serve.workers").warning,
    )


def _served(loaded: Loaded, spec: ServiceSpec) -> ServedService:
    """Return a service with the rows of its model at the quantile of its SLO."""
    from partita.cli.measured_seconds import seconds_of  # noqa: PLC0415 -- only for a gateway
    from partita.serve.gateway.route import ServedService  # noqa: PLC0415 -- slow to import

    table, deadline = seconds_of(loaded, spec), spec.slo.latency_ms / 1000
    return ServedService(spec.name, spec.model, deadline, spec.slo.quantile or _QUANTILE, table)


def _allow_many_sockets() -> None:
    """Let this process open as many files as it may: each client and each worker is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _need_packages() -> None:
    from importlib.util import find_spec  # noqa: PLC0415 -- only for a gateway

    if missing := [name for name in _PACKAGES if find_spec(name.partition(".")[0]) is None]:
        raise InputError(f"{', '.join(missing)} is not installed", hint='pip install "partita[serve]"')
