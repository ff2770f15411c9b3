"""`partita serve`: an inference gateway in front of a plan's instances."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.cluster import SIMULATED, ClockName, Cluster, ServicesFile, open_driver
from partita.cli.options import (
    DriverName,
    Grace,
    GrpcPort,
    Listen,
    LogForm,
    LogFormat,
    MaxBody,
    Otlp,
    Port,
    Router,
    Seed,
    TimeLimit,
    TlsCert,
    TlsClientCa,
    TlsKey,
    TokenFile,
    need_packages_to_serve,
)
from partita.cli.output import WorkloadFile, note, stderr
from partita.cli.searching import planned, read_to_plan
from partita.control.journal import serving
from partita.drive.state import WORKERS, state_folder
from partita.errors import InputError
from partita.planning.document import read_plan
from partita.serve.gateway.access import read_endpoint
from partita.serve.gateway.server import serve as serve_until_told
from partita.serve.gateway.tracing import RequestTracer
from partita.serve.routers import live_router
from partita.serve.served import measured_seconds, served_services
from partita.serve.services import WorkerSettings, read_workers
from partita.serve.supervisor import StartOptions, Supervisor
from partita.serve.worker.spec import EmulatedSpec
from partita.serve.worker_specs import place_on_existing, worker_specs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.drive.driver import Identity
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan
    from partita.serve.worker_specs import PlacedPlan


if TYPE_CHECKING:
    Tables = dict[str, dict[tuple[str, str, int], dict[int, float]]]

PlanFile = Annotated[
    Path | None, typer.Option("--plan", metavar="PLAN", help="Serve this plan; without it, plan first.")
]
Attach = Annotated[
    bool, typer.Option("--attach", help="Start no workers: use those that `partita run` has started.")
]
Driver = Annotated[
    DriverName,
    typer.Option(
        "--driver",
        envvar="PARTITA_DRIVER",
        help="Where its workers run: nvml, each on one of this host's existing MIG instances; simulated, on none.",
    ),
]
EXAMPLES = """Query it with curl, or with NVIDIA's client (pip install "tritonclient\\[all]"):

curl 127.0.0.1:8000/v2/models/SERVICE/infer -d '{"inputs": [{"name":
"INPUT0", "datatype": "FP32", "shape": [1, 16], "data": [1, 2, 3, 4, 5, 6, 7,
8, 9, 10, 11, 12, 13, 14, 15, 16]}]}'

Emulated workers take this input. To see the inputs of a model:

curl 127.0.0.1:8000/v2/models/SERVICE

import tritonclient.http as triton
client = triton.InferenceServerClient("127.0.0.1:8000")
client.get_model_metadata("SERVICE")

A request sets its deadline in the header `partita-deadline-ms` or the
parameter `deadline_ms`; the default is the service's SLO. A query that cannot
be answered in time is refused at once: 503 with Retry-After. Metrics are at
/metrics."""

app = typer.Typer()


@app.command(epilog=EXAMPLES)
def serve(
    workload: WorkloadFile,
    *,
    plan: PlanFile = None,
    attach: Attach = False,
    services: ServicesFile = None,
    driver: Driver = SIMULATED,
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
    time_limit: TimeLimit = 30.0,
    seed: Seed = 0,
) -> None:
    """Serve a workload's models over HTTP and gRPC (Open Inference Protocol v2).

    Starts a worker for each instance of the plan, routes every query to a slice
    that answers it in time, and replaces workers that die. A model's name in URLs
    is its service's.

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
    if attach and (plan or services):
        raise InputError(
            "--attach starts no workers", hint="leave out --plan and --services, or leave out --attach"
        )
    loaded = read_to_plan(workload, time_limit, to_plan=not attach and plan is None)
    tables = measured_seconds(loaded.workload, loaded.formulation.measured)
    folder, supervisor = state_folder(), None
    if not attach:
        made = staff(loaded, _plan(loaded, plan, time_limit, seed), services, driver, plan)
        supervisor = _supervisor(made, tables, folder / WORKERS, grace)
    with serving(folder):
        in_order = serve_until_told(
            served_services(loaded.workload, loaded.formulation.measured),
            folder / WORKERS,
            endpoint,
            router=router,
            max_body=int(max_body * 2**20),
            grace_s=grace,
            supervisor=supervisor,
            rates=folder / "rates.json",
            json_log=log_format is LogFormat.JSON,
            tracer=tracer,
        )
    if not in_order:
        raise KeyboardInterrupt


def _plan(loaded: PreparedWorkload, path: Path | None, time_limit: float, seed: int) -> Plan:
    if path is None:
        made = planned(loaded, time_limit=time_limit, seed=seed)
        note(*made.notes)
        return made.plan

    plan = read_plan(path)
    known = {service.name for service in loaded.workload.services}
    planned_for = {name for gpu in plan.gpus for each in gpu.instances for name, _ in each.serves}
    unknown = sorted(planned_for - known)
    if unknown:
        raise InputError(
            f"{unknown[0]} is not in {loaded.path}",
            where=str(path),
            hint=f"make a plan of this workload: partita plan -f {loaded.path} --out {path}",
        )
    return plan


def _supervisor(made: Staff, tables: Tables, folder: Path, grace_s: float) -> Supervisor:
    ways = made.ways
    specs = worker_specs(
        made.plan,
        {name: way.backend for name, way in ways.items()},
        folder,
        tables=tables,
        grace_s=grace_s,
        graces={name: way.grace_s for name, way in ways.items() if way.grace_s is not None},
        declared={name: way.declared for name, way in ways.items() if way.declared is not None},
        hang_timeouts={
            name: way.hang_timeout_s for name, way in ways.items() if way.hang_timeout_s is not None
        },
        once=[name for name, way in ways.items() if not way.retry],
        identities=made.identities,
    )
    return Supervisor(
        specs,
        devices={at: str(identity.mig_uuid) for at, identity in made.identities.items()},
        starts={name: StartOptions(way.environment, way.start_timeout_s) for name, way in ways.items()},
        tell=logging.getLogger("partita.serve.workers").warning,
    )


@dataclass(frozen=True, slots=True)
class Staff:
    """The workers to start.

    Attributes:
        plan: whose instances get one each.
        ways: how each service's are run.
        identities: of their instances, by GPU id and placement; empty where there are no GPUs.
    """

    plan: Plan
    ways: Mapping[str, WorkerSettings]
    identities: Mapping[tuple[str, str], Identity] = field(default_factory=dict)


def staff(
    loaded: PreparedWorkload, plan: Plan, services: Path | None, driver: str, plan_file: Path | None
) -> Staff:
    """Return the workers for a plan.

    Args:
        loaded: the workload.
        plan: what runs where.
        services: file that says how each service is run; emulated without it.
        driver: on the GPUs of this host, or on none.
        plan_file: where the plan is from.

    Raises:
        InputError: the file of services cannot be used, or the plan's instances do not stand free on this host.
        DriveError: the host's GPUs do not answer.
    """
    if driver == SIMULATED:
        return Staff(plan, _ways(loaded, services))
    if services is None:
        raise InputError(
            "nothing says what runs on the GPUs",
            where="--services",
            hint="write {services: [{name: resnet50, worker: {onnx: resnet50.onnx}}]} to a file",
        )
    ways = _ways(loaded, services)
    found = _standing(plan, plan_file, driver)
    return Staff(found.plan, ways, found.identities)


def _ways(loaded: PreparedWorkload, services: Path | None) -> Mapping[str, WorkerSettings]:
    if services is not None:
        return read_workers(services)
    stderr().print(
        "note: nothing says how the services are run (--services): their workers are emulated; they take as "
        "long as the table says and answer with what they were sent",
        markup=False,
        soft_wrap=True,
    )
    return {each.name: WorkerSettings(EmulatedSpec()) for each in loaded.workload.services}


def _standing(plan: Plan, plan_file: Path | None, driver: str) -> PlacedPlan:
    """Place a plan on the GPUs of this host as they are; nothing is changed."""
    with open_driver(Cluster(driver, ClockName.WALL), state_folder(), list, read_only=True) as opened:
        seen = opened.observe()
    return place_on_existing(plan, seen, plan_file=str(plan_file or "PLAN"))
