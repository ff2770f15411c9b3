"""The queue with ten thousand waiting jobs: seconds of a submission, a decision and a listing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import table
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.jobs.queue.access import Access, Caller
from partita.jobs.queue.answers import Answers
from partita.jobs.queue.folders import make_folders
from partita.jobs.queue.job_store import FILE, JobStore
from partita.jobs.queue.overview import Overview
from partita.jobs.queue.service import QueueService
from partita.jobs.queue.settings import QueueSettings
from partita.jobs.queue.socket_server import SocketServer
from partita.jobs.run.runner import AttemptPhase, AttemptStatus
from partita.registry import names
from partita.sim.clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.jobs.run.runner import Launch

SEED = 5
GPUS = 8
ME = Caller(os.getpid(), os.getuid(), os.getgid())


class Sleepers:
    """A runner whose jobs run for ever, and have no processes."""

    def start(self, launch: Launch) -> None:
        """Start nothing."""
        del launch

    def look(self, folder: Path) -> AttemptStatus:
        """Return that it runs."""
        del folder
        return AttemptStatus(AttemptPhase.RUNNING)

    def stop(self, folder: Path, *, grace_s: float) -> None:
        """Stop nothing."""
        del folder, grace_s


def run(*, quick: bool) -> str:
    many = 1000 if quick else 10_000
    rows = [_measure(many, name) for name in (("lookahead",) if quick else names("disciplines"))]
    header = [
        "discipline",
        "submission, median ms",
        "submission, p99 ms",
        "decision, median ms",
        "decision, longest ms",
        "overview with predicted starts, ms",
        "`partita queue`, s",
    ]
    return (
        f"## The queue of jobs with {many:,} waiting\n\n"
        f"The {GPUS} simulated A100-80GB are all in use. Half of the jobs declare 4 to 70 GiB of memory; run "
        f"times are 1 minute to 8 hours; seed {SEED}. Measured inside the daemon while the {many:,} jobs wait: "
        "a submission from its request to its answer, with its commit on the disk, in wall time; a decision "
        "with one slice of each GPU free; and the whole overview that `partita queue` requests, both in CPU "
        "time. A job arrives before each decision, so that `lookahead` chooses its rule anew. The command is "
        "timed with its start-up, the best of 5. The longest decision is the first one, which meets the states "
        "of the GPUs for the first time.\n\n" + table(header, rows)
    )


def _measure(many: int, discipline: str) -> list[object]:
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        path = state / "cluster.sqlite3"
        SimulatedCluster.create(path, [(f"node-0/gpu-{i}", "a100-80gb") for i in range(GPUS)]).close()
        jobs = make_folders(state, shared=False)
        with (
            closing(SimulatedDriver(path, WallClock(), jitter=0.0)) as driver,
            closing(JobStore(jobs / FILE)) as store,
        ):
            service = QueueService(
                driver, Sleepers(), store, jobs, settings=QueueSettings(discipline), tell=print
            )
            return [discipline, *_figures(service, Answers(service, Access(os.geteuid())), state, many)]


def _figures(service: QueueService, answers: Answers, state: Path, many: int) -> list[object]:
    rng = random.Random(SEED)
    for _ in range(7 * GPUS):
        answers(ME, {**_body(rng), "memory": {"source": "declared", "lower": 0, "upper": 2**32}})
        service.step(service.now)
    _settle(service)
    submissions = sorted(_timed(lambda: answers(ME, _body(rng))) for _ in range(many))
    _settle(service)
    decisions = sorted(_decision(service, answers, rng) for _ in range(20))
    overview = min(_worked(lambda: Overview(service)) for _ in range(3))
    return [
        1e3 * submissions[len(submissions) // 2],
        1e3 * submissions[-len(submissions) // 100],
        1e3 * decisions[len(decisions) // 2],
        1e3 * decisions[-1],
        1e3 * overview,
        _command(answers, state),
    ]


def _body(rng: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {
        "ask": "submit",
        "command": ["python", "train.py", f"--seed={rng.random()}"],
        "directory": "/",
        "environment": {"HOME": "/root", "PATH": "/usr/bin"},
        "seconds": {"": 60.0 * 480.0 ** rng.random()},
    }
    if rng.random() < 0.5:
        body["memory"] = {"source": "declared", "lower": 0, "upper": rng.uniform(4, 70) * 2**30}
    return body


def _settle(service: QueueService) -> None:
    """Start all jobs that can start."""
    end = time.monotonic() + 5.0
    while time.monotonic() < end:
        due = service.step(service.now)
        time.sleep(min(max(due - service.now, 0.0), 0.05))


def _decision(service: QueueService, answers: Answers, rng: random.Random) -> float:
    """Time a decision on GPUs of which each has just lost a job, after an arrival; nothing is carried out."""
    answers(ME, _body(rng))
    view = service.scheduler_input()
    freed = []
    for host in view.hosts:
        placement = min(host.partition.busy, default=None)
        partition = host.partition if placement is None else host.partition.end(placement)
        freed.append(type(host)(host.id, partition))
    gone = {(host.id, min(host.partition.busy, default=None)) for host in view.hosts}
    active = [job for job in view.active if (job.attempt.gpu, job.attempt.placement) not in gone]
    lacking = type(view)(view.now, view.waiting, active, freed, view.used)
    return _worked(lambda: service.scheduler.decide(lacking))


def _command(answers: Answers, state: Path) -> float:
    """Time the command against a daemon in a thread of this process, which is all it then does."""
    over = threading.Event()

    def serve() -> None:
        with closing(SocketServer(state / "jobs", answers)) as server:
            while not over.is_set():
                server.poll(0.02)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        while not (state / "jobs" / "daemon.sock").exists():
            time.sleep(0.01)
        command = [sys.executable, "-m", "partita", "queue"]
        environment = {**os.environ, "PARTITA_STATE": str(state)}
        return min(
            _timed(lambda: subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL))
            for _ in range(5)
        )
    finally:
        over.set()
        thread.join()


def _timed(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _worked(do: Callable[[], object]) -> float:
    """Return the CPU seconds of a call, which do not depend on the load of the machine."""
    began = time.thread_time()
    do()
    return time.thread_time() - began
