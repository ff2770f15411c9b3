"""`partita daemon`: the queue of jobs."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from partita.cli.acting import asked_to_stop
from partita.cli.drivers import (
    AllowMigMode,
    ClockName,
    Cluster,
    DriverName,
    DriverOption,
    Simulate,
    open_driver,
    simulated_gpus,
)
from partita.cli.measuring import measuring
from partita.cli.options import stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from partita.drive.port import Driver
    from partita.jobs.energy.ledger import EnergyLedger
    from partita.jobs.energy.queue_energy import QueueEnergy
    from partita.jobs.queue.access import Access
    from partita.jobs.queue.daemon import QueueService, Settings
    from partita.jobs.queue.socket_server import SocketServer
    from partita.jobs.run.port import Runner

Discipline = Annotated[
    str,
    typer.Option(
        "--discipline",
        help="Who starts first: lookahead, fair, tightest-fifo, tightest-batched, whole, static-ones.",
    ),
]
Admins = Annotated[
    list[str] | None,
    typer.Option("--admin", metavar="USER|@GROUP", help="May act on everybody's jobs; may be given again."),
]
LogSize = Annotated[
    str, typer.Option("--log-size", metavar="SIZE", help="Most that is kept of an attempt's log.")
]
Scale = Annotated[
    float,
    typer.Option(
        "--memory-scale",
        min=1e-6,
        max=1.0,
        help="Memory of simulated instances, as a share of the real ones.",
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        metavar="PORT",
        help="Serve the energy of GPUs and jobs to Prometheus, on 127.0.0.1.",
    ),
]

_LONGEST_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class _Way:
    """How the queue is run, and for whom."""

    settings: Settings
    access: Access
    ledger: EnergyLedger


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("daemon")(daemon)


def daemon(
    *,
    driver: DriverOption = DriverName.SIMULATED,
    simulate: Simulate = None,
    discipline: Discipline = "lookahead",
    admin: Admins = None,
    log_size: LogSize = "64MiB",
    memory_scale: Scale = 1 / 64,
    allow_mig_mode: AllowMigMode = False,
    metrics_port: MetricsPort = None,
) -> None:
    """Run the queue of jobs on a cluster, until told to stop.

    SIGTERM or Ctrl-C end the daemon and not the jobs: they go on, and the next daemon finds them again, also after a
    kill -9. Run by root it serves all users, each job with the rights of its submitter; run by another user it serves
    that user. On the simulated cluster the processes are real, and so is running out of memory.
    """
    from partita.cli.quantities import read_bytes  # noqa: PLC0415 -- slow to import
    from partita.control.lock import controlling  # noqa: PLC0415
    from partita.drive.state import host_folder, state_folder  # noqa: PLC0415
    from partita.jobs.queue.access import Access, admins  # noqa: PLC0415
    from partita.jobs.queue.daemon import Settings  # noqa: PLC0415
    from partita.jobs.queue.disciplines import discipline as named  # noqa: PLC0415

    named(discipline)
    settings = Settings(discipline, read_bytes(log_size, "--log-size"))
    users, groups = admins(admin or ())
    cluster = Cluster(driver, ClockName.WALL, None, allow_mig_mode)
    folder = state_folder()
    with asked_to_stop() as stop, ExitStack() as stack:
        if driver is DriverName.NVML:
            stack.enter_context(controlling(host_folder()))
        stack.enter_context(controlling(folder))
        opened = stack.enter_context(open_driver(cluster, folder, lambda: simulated_gpus(simulate or ())))
        runner = _runner(driver, memory_scale)
        ledger, energy = stack.enter_context(measuring(driver, folder, opened.clock, _tell, metrics_port))
        way = _Way(settings, Access(os.geteuid(), users, groups), ledger)
        service, server = stack.enter_context(_open(opened, runner, folder, way))
        _tell(f"serving on {folder / 'jobs'}; {len(service.active):,} jobs are there")
        _loop(service, server, energy, stop)


@contextmanager
def _open(
    driver: Driver, runner: Runner, folder: Path, way: _Way
) -> Iterator[tuple[QueueService, SocketServer]]:
    from partita.jobs.queue.answers import Answers  # noqa: PLC0415 -- slow to import
    from partita.jobs.queue.daemon import QueueService  # noqa: PLC0415
    from partita.jobs.queue.folders import ATTEMPTS, make_folders  # noqa: PLC0415
    from partita.jobs.queue.socket_server import SocketServer  # noqa: PLC0415
    from partita.jobs.queue.store import FILE, Store  # noqa: PLC0415

    jobs = make_folders(folder, shared=os.geteuid() == 0)
    with closing(Store(jobs / FILE)) as store:
        service = QueueService(driver, runner, store, jobs / ATTEMPTS, settings=way.settings, tell=_tell)
        with closing(SocketServer(jobs, Answers(service, way.access, way.ledger.joules))) as server:
            yield service, server


def _runner(driver: DriverName, scale: float) -> Runner:
    from partita.jobs.run.real import RealRunner  # noqa: PLC0415 -- slow to import

    if driver is DriverName.SIMULATED:
        return RealRunner(scale)
    from partita.drive.nvml.memory import used_bytes  # noqa: PLC0415 -- each driver imports its own modules

    return RealRunner(used=used_bytes)


def _loop(service: QueueService, server: SocketServer, energy: QueueEnergy, stop: Callable[[], bool]) -> None:
    while not stop():
        # Before the queue finds what has ended meanwhile: it ran until now as far as anybody knows.
        due = energy.step(service.now, service.active.values())
        due = min(due, service.step(service.now))
        server.poll(min(due - service.now, _LONGEST_POLL_S))


def _tell(text: str) -> None:
    stderr().print(f"note: {text}", markup=False, soft_wrap=True)
