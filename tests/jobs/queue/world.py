"""A queue on a small simulated cluster, with real processes that end with the test."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from partita.documents.text import compact
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.jobs.queue.access import Access, Caller
from partita.jobs.queue.answers import Answers
from partita.jobs.queue.folders import ATTEMPTS, make_folders
from partita.jobs.queue.job_store import FILE
from partita.jobs.queue.record import OVER, JobState
from partita.jobs.queue.recovery import open_store, recover
from partita.jobs.queue.service import QueueService
from partita.jobs.queue.settings import PollIntervals, QueueSettings
from partita.jobs.queue.socket_server import SocketServer
from partita.jobs.run.real import RealJobRunner
from partita.sim.clock import WallClock
from partita.transition.transition import Durations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from partita.jobs.queue.job_store import JobStore
    from partita.jobs.queue.record import JobRecord

MODEL = "a100-40gb"
GPU = "node-0/gpu-0"
SCALE = 1 / 64
PACE = PollIntervals(making=0.005, running=0.02, cluster=0.2, afresh=1.0, failed=0.1)
QUICK = Durations(0.02, 0.02, 0.02, 0.02)
ME = Caller(os.getpid(), os.geteuid(), os.getegid())
PATIENCE_S = 30.0


def make_cluster(folder: Path, gpus: int = 1) -> SimulatedCluster:
    return SimulatedCluster.create(
        folder / "cluster.sqlite3", [(f"node-0/gpu-{i}", MODEL) for i in range(gpus)], seed=3
    )


@dataclass
class World:
    """A queue at work, and what may be asked of it."""

    folder: Path
    service: QueueService
    answers: Answers
    told: list[str] = field(default_factory=list)

    def submit(self, *command: str, caller: Caller = ME, **more: Any) -> str:
        body = {
            "what": "submit",
            "command": list(command),
            "directory": str(self.folder),
            "environment": {"PATH": os.environ["PATH"]},
            **more,
        }
        return str(self.ask(caller=caller, **body)["id"])

    def ask(self, what: str, caller: Caller = ME, **more: Any) -> dict[str, Any]:
        """Return an answer as it comes over the socket."""
        found: dict[str, Any] = json.loads(compact(self.answers(caller, {"ask": what, **more})))
        assert found.pop("ok")
        return found

    def job(self, job: str) -> JobRecord:
        number = int(job)
        found = self.service.table.active.get(number) or self.service.table.store.get(number)
        assert found is not None
        return found

    def until(self, holds: Callable[[], bool]) -> None:
        """Have the queue work until something holds."""
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end, (
                f"never came to hold; told {self.told}, {self.service.table.active}"
            )
            due = self.service.step(self.service.now)
            time.sleep(min(max(due - self.service.now, 0.0), 0.02))

    def until_state(self, job: str, *states: JobState) -> JobRecord:
        self.until(lambda: self.job(job).state in states)
        return self.job(job)

    def finish(self) -> None:
        self.until(lambda: not self.service.table.active)

    def reasons(self) -> dict[str, str]:
        return {job["id"]: job["reason"] for job in self.ask("queue")["jobs"]}


@contextmanager
def queue(
    folder: Path,
    *,
    store: Callable[[Path], JobStore] | None = None,
    access: Access | None = None,
    discipline: str = "lookahead",
    settings: QueueSettings | None = None,
    keep: bool = False,
    mend: bool = False,
) -> Iterator[World]:
    """Open the queue of a folder, as a daemon does.

    Args:
        folder: the state folder; a cluster of one GPU is made if there is none.
        store: opens the store's file; by default as a daemon does.
        access: who may what; by default as for a daemon of ours.
        discipline: its name.
        settings: instead of the usual ones, the discipline's included.
        keep: leave running what runs at the end.
        mend: as a daemon with `--recover`.
    """
    if not (folder / "cluster.sqlite3").exists():
        make_cluster(folder).close()
    driver = SimulatedDriver(folder / "cluster.sqlite3", WallClock(), seconds=QUICK, jitter=0.0)
    jobs = make_folders(folder, shared=os.geteuid() == 0)
    told: list[str] = []
    try:
        opened = store(jobs / FILE) if store else recover(jobs, told.append) if mend else open_store(jobs)
    except BaseException:
        driver.close()
        raise
    runner = RealJobRunner(SCALE)
    try:
        service = QueueService(
            driver,
            runner,
            opened,
            jobs / ATTEMPTS,
            settings=settings or QueueSettings(discipline, 2**20, pace=PACE),
            tell=told.append,
        )
        world = World(folder, service, Answers(service, access or Access(os.geteuid())), told)
        yield world
        if not keep:
            end_all(world)
    finally:
        for attempt in (jobs / ATTEMPTS).glob("*/*") if not keep else ():
            runner.stop(attempt, grace_s=0.0)
        opened.close()
        driver.close()


@contextmanager
def served(world: World) -> Iterator[World]:
    """Have the commands find a queue: a thread works it and answers on its socket. Only that thread may use it."""
    server, over = SocketServer(make_folders(world.folder, shared=False), world.answers), Event()

    def work() -> None:
        while not over.is_set():
            due = world.service.step(world.service.now)
            server.poll(min(max(due - world.service.now, 0.0), 0.02))

    thread = Thread(target=work)
    thread.start()
    try:
        yield world
    finally:
        over.set()
        thread.join()
        server.close()


def end_all(world: World) -> None:
    """Cancel what is there, and wait for the processes to be gone."""
    if world.service.table.active:
        ids = {
            str(job.array or job.number)
            for job in world.service.table.active.values()
            if job.state not in OVER
        }
        world.ask("cancel", ids=sorted(ids))
        world.finish()


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)
