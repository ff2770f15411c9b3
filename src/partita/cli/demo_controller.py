"""The controller of the live demo, in a process of its own: `python -m partita.cli.demo_controller WORKLOAD RATES`.

Both are files in the state folder: the workload, and the demand as a gateway would have measured it.
It cuts the cluster as the day's plan says, at once, as if that had been some minutes ago; then it is `partita run`
with the queue of jobs. It ends when its standard input does, and so with the process that started it, however that
ended: then it also ends the jobs, and removes the folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from partita.cli.cluster import OpenCluster
from partita.cli.demo import DemoCluster, plan_for
from partita.cli.run import run
from partita.control.journal import FILE, Journal
from partita.drive.simulated import SimulatedDriver
from partita.drive.state import CLUSTER
from partita.planner import read_prepared
from partita.sim.clock import SimulatedClock

BEFORE_S = 600.0
"""How long ago the cluster seems to have been cut."""

MEMORY_SCALE = 1 / 256
"""Memory of simulated instances over that of real ones: jobs are real processes, and take little."""

_HOLD_S = 5.0
_AGAIN_S = 10.0
"""Seconds until SIGTERM is sent once more; `run` then leaves at once."""


def main(workload: Path, rates: Path) -> None:
    """Set the cluster of the workload's folder up, and keep it to the workload."""
    folder = workload.parent
    alone = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until `run` does better
    try:
        threading.Thread(target=_end_with_parent, args=(folder, alone), daemon=True).start()
        _run(workload, rates)
    finally:
        if alone.is_set():
            shutil.rmtree(folder, ignore_errors=True)


def _run(workload: Path, rates: Path) -> None:
    folder = workload.parent
    # So the journal names what one would type.
    sys.argv[1:] = ["run", "-f", workload.name, "--jobs"]
    driver = SimulatedDriver(folder / CLUSTER, SimulatedClock(time.time() - BEFORE_S))
    journal = Journal(folder / FILE)
    try:
        cluster = DemoCluster(OpenCluster(driver, journal))
        cluster.reach(plan_for(read_prepared(workload), cluster), lambda *_: lambda _: None)
    finally:
        journal.close()
        driver.close()
    run(
        workload,
        rates=rates,
        hold=_HOLD_S,
        poll=1.0,
        jobs=True,
        memory_scale=MEMORY_SCALE,
    )


def _end_with_parent(folder: Path, alone: threading.Event) -> None:
    while os.read(0, 1):
        pass
    from partita.cli.live_demo import end_jobs  # noqa: PLC0415 -- needed by nobody else here

    alone.set()
    while True:  # until this process has ended: what a handler raises in a callback of the solver is lost
        end_jobs(folder)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_AGAIN_S)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
