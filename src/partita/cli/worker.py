"""`partita worker`: one worker by itself, for gateways on other hosts."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from partita.cli.output import note
from partita.documents.codec import DocumentSource, convert, to_data
from partita.drive.own_device import own_device
from partita.errors import InputError
from partita.serve.services import host_and_port
from partita.serve.worker.spec import (
    GRACE_S,
    LOAD_TIMEOUT_S,
    DeclaredBatch,
    EmulatedSpec,
    ListenSpec,
    OnnxSpec,
    UpstreamSpec,
    WorkerSpec,
)

Service = Annotated[
    str, typer.Option("--service", metavar="NAME", envvar="PARTITA_SERVICE", help="Service that it serves.")
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", envvar="PARTITA_MODEL", help="Name of the model. (default: the service's)"
    ),
]
OnnxFile = Annotated[
    Path | None, typer.Option("--onnx", metavar="FILE", help="ONNX model, run by ONNX Runtime.")
]
Upstream = Annotated[
    str | None,
    typer.Option(
        "--upstream",
        metavar="URL",
        help="Server of the Open Inference Protocol v2, such as Triton in the same pod.",
    ),
]
Emulated = Annotated[
    bool, typer.Option("--emulated", help="Take as long as --latency-ms says, and return the input.")
]
Gpu = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="ID",
        envvar="PARTITA_GPU",
        help="Id of its GPU. (default: HOST/gpu-0)",
    ),
]
PlacedAt = Annotated[
    str,
    typer.Option(
        "--placement", metavar="PLACEMENT", envvar="PARTITA_PLACEMENT", help="Its instance: 3g.40gb@4."
    ),
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, envvar="PARTITA_BATCH", help="Largest batch that it takes.")
]
Processes = Annotated[
    int,
    typer.Option("--processes", min=1, envvar="PARTITA_PROCESSES", help="Batches that it runs side by side."),
]
LatencyMs = Annotated[
    float | None,
    typer.Option(
        "--latency-ms",
        min=0.0,
        envvar="PARTITA_LATENCY_MS",
        help="Milliseconds of its largest batch, until gateways have measured it.",
    ),
]
ListenAt = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        envvar="PARTITA_LISTEN",
        help="Address and port; beyond this host, a token is needed.",
    ),
]
TokenFileOfWorker = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        envvar="PARTITA_WORKER_TOKEN_FILE",
        help="Token that the gateways and this worker share.",
    ),
]
WorkerCert = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate (PEM): speak TLS.")
]
WorkerKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key (PEM).")]
HealthPort = Annotated[
    int | None,
    typer.Option(
        "--health-port",
        min=1,
        max=65_535,
        help="Port for probes: /healthz, and /readyz once the model is loaded.",
    ),
]
GraceOfWorker = Annotated[
    float,
    typer.Option("--grace", min=0.0, max=86_400, help="Seconds to finish what it has when told to end."),
]
LoadTimeout = Annotated[
    float,
    typer.Option("--load-timeout", min=0.0, help="Seconds that an upstream server may take to be ready."),
]
NoRetry = Annotated[
    bool, typer.Option("--no-retry", help="Its queries must not run a second time elsewhere.")
]
BatchRows = Annotated[
    bool | None,
    typer.Option(
        "--batch-rows/--no-batch-rows",
        help="Whether the first size of its tensors is a batch. (default: as the model says)",
    ),
]

EXAMPLES = """In a pod, most options come from the environment that Partita gives its pods
(PARTITA_SERVICE, PARTITA_BATCH, PARTITA_PLACEMENT ...):

command: \\[partita, worker, --upstream, "http://127.0.0.1:8000",
--listen, "0.0.0.0:9000", --token-file, /secrets/token, --health-port, "9001"]

readinessProbe: {httpGet: {path: /readyz, port: 9001}}

By hand, to try it on one host:

partita worker --service search --emulated --latency-ms 5
--placement 1g.5gb@0 --listen 127.0.0.1:9000"""

app = typer.Typer()


@app.command(epilog=EXAMPLES)
def worker(
    service: Service,
    placement: PlacedAt,
    *,
    onnx: OnnxFile = None,
    upstream: Upstream = None,
    emulated: Emulated = False,
    model: ModelName = None,
    gpu: Gpu = None,
    batch: Batch = 1,
    processes: Processes = 1,
    latency_ms: LatencyMs = None,
    listen: ListenAt = "127.0.0.1:9000",
    token_file: TokenFileOfWorker = None,
    tls_cert: WorkerCert = None,
    tls_key: WorkerKey = None,
    health_port: HealthPort = None,
    grace: GraceOfWorker = GRACE_S,
    load_timeout: LoadTimeout = LOAD_TIMEOUT_S,
    no_retry: NoRetry = False,
    batch_rows: BatchRows = None,
) -> None:
    """Run one worker that listens at an address, for gateways on other hosts.

    It loads the model and runs the batches that `partita gateway` sends. On SIGTERM it gets nothing new, finishes its
    batches, and ends within its grace.
    """
    given = [
        option
        for option, there in (("--onnx", onnx), ("--upstream", upstream), ("--emulated", emulated))
        if there
    ]
    if len(given) != 1:
        raise InputError(
            f"{' and '.join(given)} are too many" if given else "nothing says what runs the model",
            hint="give one of --onnx FILE, --upstream URL and --emulated",
        )
    if emulated and latency_ms is None:
        raise InputError("an emulated worker needs to know how long it takes", hint="give --latency-ms")
    host, port = host_and_port(listen)
    device = own_device(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if device.why_not:
        note(f"metrics cannot name the GPU and its instance: {device.why_not}")
    backend = (
        OnnxSpec(str(onnx.resolve()))
        if onnx is not None
        else UpstreamSpec(upstream, load_timeout_s=load_timeout)
        if upstream is not None
        else EmulatedSpec()
    )
    spec = WorkerSpec(
        service=service,
        model=model or service,
        gpu=gpu or f"{socket.gethostname()}/gpu-0",
        placement=placement,
        batch=batch,
        backend=backend,
        processes=processes,
        seconds={} if latency_ms is None else {batch: latency_ms / 1000},
        grace_s=grace,
        declared=DeclaredBatch(batch_rows),
        retry=not no_retry,
        gpu_uuid=device.gpu_uuid,
        gpu_instance_id=device.gpu_instance_id,
        listen=ListenSpec(
            host,
            port,
            token_file=_path(token_file),
            cert=_path(tls_cert),
            key=_path(tls_key),
            health_port=health_port,
        ),
    )
    _become(convert(to_data(spec), WorkerSpec, DocumentSource("partita worker")))


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _become(spec: WorkerSpec) -> None:
    """Go on as the worker, in this very process and without what the command line has imported."""
    file = os.memfd_create("worker", 0)
    os.write(file, spec.text().encode())
    os.execv(  # noqa: S606 -- this Python
        sys.executable, [sys.executable, "-m", "partita.serve.worker", f"/proc/self/fd/{file}"]
    )
