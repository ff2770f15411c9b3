"""`partita daemon`: the queue of jobs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

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
from partita.cli.queue_host import (
    Admins,
    DefaultTime,
    Discipline,
    HalfLife,
    JobLimits,
    Keep,
    Keeping,
    KeepLogs,
    LogSize,
    MaxTime,
    MaxWaiting,
    MetricsPort,
    OomPatterns,
    Recover,
    Scale,
    note,
    queue_host,
    queue_way,
    safe_state_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.cli.queue_host import QueueHost

_LONGEST_POLL_S = 0.5


def daemon(
    *,
    driver: DriverOption = DriverName.SIMULATED,
    simulate: Simulate = None,
    discipline: Discipline = "lookahead",
    admin: Admins = None,
    log_size: LogSize = "64MiB",
    keep: Keep = "30d",
    keep_logs: KeepLogs = "20GiB",
    half_life: HalfLife = "7d",
    max_waiting: MaxWaiting = 10_000,
    default_time: DefaultTime = None,
    max_time: MaxTime = None,
    oom_pattern: OomPatterns = None,
    recover: Recover = False,
    memory_scale: Scale = 1 / 64,
    allow_mig_mode: AllowMigMode = False,
    metrics_port: MetricsPort = None,
) -> None:
    """Run the queue of jobs on a cluster, until told to stop.

    SIGTERM or Ctrl-C end the daemon and not the jobs: they go on, and the next daemon finds them again, also after a
    kill -9. Run by root it serves all users, each job with the rights of its submitter; run by another user it serves
    that user. On the simulated cluster the processes are real, and so is running out of memory. Beside services, on
    what they leave free, `partita run --jobs` runs the same queue.
    """
    from partita.control.lock import controlling  # noqa: PLC0415 -- slow to import
    from partita.drive.state import host_folder  # noqa: PLC0415

    keeping = Keeping(log_size, keep, keep_logs, half_life, oom_pattern)
    limits = JobLimits(max_waiting, default_time, max_time)
    way = queue_way(
        discipline,
        admin,
        keeping,
        limits,
        memory_scale=memory_scale,
        metrics_port=metrics_port,
        recover=recover,
    )
    cluster = Cluster(driver, ClockName.WALL, None, allow_mig_mode)
    folder = safe_state_folder()
    with asked_to_stop() as stop, ExitStack() as stack:
        if driver is DriverName.NVML:
            stack.enter_context(controlling(host_folder()))
        stack.enter_context(controlling(folder))
        opened = stack.enter_context(open_driver(cluster, folder, lambda: simulated_gpus(simulate or ())))
        host = stack.enter_context(queue_host(opened, driver, folder, way))
        note(f"serving on {folder / 'jobs'}; {len(host.service.table.active):,} jobs are there")
        _loop(host, stop)


def _loop(host: QueueHost, stop: Callable[[], bool]) -> None:
    while not stop():
        due = host.step(host.service.now)
        host.server.poll(min(due - host.service.now, _LONGEST_POLL_S))
