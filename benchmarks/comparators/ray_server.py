"""Ray Serve: `python ray_server.py PORT WORKERS`; with BENCH_FRONT_CORE its proxy goes to that core."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import psutil  # type: ignore[import-untyped]
import ray  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import (  # type: ignore[import-not-found,unused-ignore]
    Request,  # noqa: TC002 -- Ray reads the annotation
)
from work import answer, to_core  # type: ignore[import-not-found]


class Emulated:
    """A replica that answers one request at a time."""

    def __init__(self) -> None:
        to_core()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Work."""
        return dict(answer(await request.json()))


def pin() -> None:
    """Put the proxy on the front's core and all else of Ray on the workers'."""
    front, other = os.environ.get("BENCH_FRONT_CORE"), os.environ.get("BENCH_WORKER_CORE")
    if not (front and other):
        return
    for process in psutil.Process().children(recursive=True):
        core = front if "ProxyActor" in " ".join(process.cmdline()) else other
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {int(core)})


if __name__ == "__main__":
    port, workers = int(sys.argv[1]), int(sys.argv[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment = serve.deployment(
        Emulated, num_replicas=workers, max_ongoing_requests=4, ray_actor_options={"num_cpus": 0.001}
    )
    serve.run(deployment.bind(), name="emulated", route_prefix="/infer")
    pin()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
