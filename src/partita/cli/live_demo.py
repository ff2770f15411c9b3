"""The day of `partita demo`, live and again and again: a simulated cluster that `partita dash --demo` shows.

All is as on a real cluster: `partita run --jobs` in a process of its own keeps the cluster to the workload and runs
jobs, which are real processes; actions take as long as on real GPUs. Only GPUs and queries are simulated. The queries
are counted on a metrics page such as a gateway has, and the measured demand is written where a gateway writes it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from partita.cli.cluster import named
from partita.cli.demo_queries import Promised, SimulatedQueries
from partita.control.cluster_view import deployed
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.drive.state import CLUSTER, VARIABLE
from partita.errors import PartitaError
from partita.files import replacing
from partita.jobs.queue.client import QueueClient
from partita.jobs.queue.folders import jobs_folder
from partita.metrics import ServedPages, serving_pages
from partita.process import keeper
from partita.serve.gateway.metrics import Metrics
from partita.sim.clock import WallClock
from partita.workload import read_workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from partita.drive.driver import Observation
    from partita.workload import Workload

WORKLOAD, NIGHT, RATES = "day.yaml", "night.yaml", "measured.json"
"""Files in its folder: the workload, that of the night, and the demand as a gateway would have measured it."""

DAY_S = 300.0
"""Seconds of a day."""

_EVENING, _MORNING = 70.0, 190.0
"""When in the day demand falls, and when it is expected to rise."""

_PATIENCE_S = 75.0
"""Seconds after which demand rises in the morning, whether the capacity is there or not."""

_RAMP_S = 15.0
"""Seconds in which demand goes from night to day or back."""

_BURST, _BURST_S, _BURST_SERVICE, _BURST_FACTOR = 30.0, 12.0, "photo-search", 1.2
"""When in the day one service is asked for more than was planned, for how long, and how much more."""

_STEP_S = 1.0
_DEFAULT_QUANTILE = 0.95
_GB = 1e9

_EPOCHS = 'for epoch in $(seq {0}); do echo "epoch $epoch of {0}"; sleep 5; done'
_GROWS = "import time; print('reading the corpus', flush=True); held = bytearray(50 << 20); time.sleep(20)"
"""As scaled, more than a seventh of a GPU has, and less than two have."""

_WAITING, _EVERY_S = 3, 4.0
"""Jobs that wait at most, and seconds between two submissions at least."""


@dataclass(frozen=True, slots=True)
class DemoJob:
    """A job of the demo.

    Attributes:
        memory: that it says to need, in bytes; None if it says nothing.
        attempts: that may run out of memory.
    """

    name: str
    command: tuple[str, ...]
    memory: float | None = None
    attempts: int = 4


JOBS = (
    DemoJob("fine-tune", ("sh", "-c", _EPOCHS.format(12)), 70 * _GB),
    DemoJob("train-tokenizer", (sys.executable, "-c", _GROWS)),
    DemoJob("evaluate", ("sh", "-c", _EPOCHS.format(8)), 35 * _GB),
    DemoJob("distill", ("sh", "-c", _EPOCHS.format(14)), 70 * _GB),
    DemoJob("embed-corpus", ("sh", "-c", _EPOCHS.format(9)), 60 * _GB),
    DemoJob("count-words", (sys.executable, "-c", _GROWS), 9 * _GB, 1),
)
"""One after the other, again and again. The tokenizer's runs out of memory on the smallest slice and is tried on a
larger one, which its later runs begin on; the one that counts words says to need less than it does, and fails."""


@dataclass(frozen=True, slots=True)
class LiveDemo:
    """What runs: the state folder of its cluster, its workload's file, and the address of its gateway."""

    folder: Path
    workload: Path
    gateway: str


@contextmanager
def live_demo() -> Iterator[LiveDemo]:
    """Run the demo's day in a temporary folder while the block runs; afterwards nothing of it is left.

    Raises:
        PartitaError: it cannot be started.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="partita-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        examples = Path(str(resources.files("partita.examples")))
        for name in (WORKLOAD, NIGHT, "perf.csv"):
            shutil.copy(examples / name, folder / name)
        day, night = read_workload(folder / WORKLOAD), read_workload(folder / NIGHT)
        models = [pool.model for pool in day.gpus for _ in range(pool.count or 0)]
        SimulatedCluster.create(folder / CLUSTER, named(models)).close()
        files = (folder / WORKLOAD, folder / RATES)
        controller = keeper.start(
            (sys.executable, "-m", "partita.cli.demo_controller", *map(str, files)),
            {**os.environ, VARIABLE: str(folder)},
            stdin=keeper.PIPE,
            output=folder / "controller.log",
        )
        stack.callback(controller.close)
        stack.callback(controller.end, 10.0)
        stack.callback(end_jobs, folder)
        queries = SimulatedQueries(
            [
                Promised(each.name, each.slo.latency_ms / 1000, each.slo.quantile or _DEFAULT_QUANTILE)
                for each in day.services
            ]
        )
        metrics = Metrics(queries.snapshot)
        port = stack.enter_context(serving_pages(ServedPages(metrics.page), "127.0.0.1", 0))
        life = _Life(folder, queries, Demand(_rates(day), _rates(night)))
        stack.callback(life.end)
        try:
            yield LiveDemo(folder, folder / WORKLOAD, f"http://127.0.0.1:{port}")
        finally:
            with keeper.uninterrupted():  # another Ctrl-C would leave something behind
                stack.close()


def _rates(workload: Workload) -> dict[str, float]:
    return {each.name: each.rate for each in workload.services}


class Demand:
    """What services are asked for over the day, and what a gateway's measurement says that to be.

    Args:
        day: rates by service, items/s.
        night: likewise.
    """

    def __init__(self, day: Mapping[str, float], night: Mapping[str, float]) -> None:
        self._day, self._night = day, night
        self._share = 1.0

    def pass_by(
        self, now: float, seconds: float, capacity: Mapping[str, float]
    ) -> tuple[dict[str, float], bool]:
        """Let some seconds pass; return the rates now, and whether capacity for the day is wanted.

        In the evening capacity is given back when demand has fallen; in the morning it is there before demand rises.

        Args:
            now: seconds since the first midnight of the demo.
            seconds: since the last call.
            capacity: that is ready, by service.
        """
        at = now % DAY_S
        ready = at > _MORNING + _PATIENCE_S or all(
            capacity.get(name, 0.0) >= rate for name, rate in self._day.items()
        )
        by_day = at < _EVENING or (at >= _MORNING and ready)
        step = seconds / _RAMP_S
        self._share = min(1.0, self._share + step) if by_day else max(0.0, self._share - step)
        rates = {}
        for i, (name, rate) in enumerate(self._day.items()):
            level = self._night[name] + self._share * (rate - self._night[name])
            wave = 0.93 + 0.035 * math.sin(now / 11 + 2 * i) + 0.015 * math.sin(now / 2.7 + 5 * i)
            burst = name == _BURST_SERVICE and _BURST <= at < _BURST + _BURST_S
            rates[name] = level * (_BURST_FACTOR if burst else wave)
        return rates, at < _EVENING or at >= _MORNING or self._share > 0

    def planned(self, *, by_day: bool) -> Mapping[str, float]:
        """Return the rates that capacity is wanted for."""
        return self._day if by_day else self._night


class _Life:
    """A thread that lets queries come, measures them, and submits jobs, until it is ended."""

    def __init__(self, folder: Path, queries: SimulatedQueries, demand: Demand) -> None:
        self._folder = folder
        self._queries = queries
        self._demand = demand
        self._jobs = cycle(JOBS)
        self._submitted = 0.0
        self._by_day: bool | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End it, and wait until it has ended."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        driver = SimulatedDriver(self._folder / CLUSTER, WallClock())
        began: float | None = None
        last = time.monotonic()
        try:
            while not self._ended.wait(_STEP_S):
                now = time.monotonic()
                with suppress(PartitaError):  # the next look goes on
                    seen = driver.observe()
                    capacity = deployed(seen).capacity()
                    if began is None and capacity:
                        began = now
                    if began is not None:
                        self._step(now - began, now - last, capacity, seen)
                last = now
        finally:
            driver.close()

    def _step(self, now: float, seconds: float, capacity: Mapping[str, float], seen: Observation) -> None:
        rates, by_day = self._demand.pass_by(now, seconds, capacity)
        self._queries.pass_by(seconds, rates, seen)
        if by_day != self._by_day:
            with replacing(self._folder / RATES) as stream:
                json.dump(dict(self._demand.planned(by_day=by_day)), stream)
            self._by_day = by_day
        if now - self._submitted >= _EVERY_S:
            self._submitted = now
            self._submit()

    def _submit(self) -> None:
        with QueueClient(jobs_folder(self._folder), _STEP_S) as daemon:
            if daemon.ask("queue", limit=0)["counts"].get("waiting", 0) >= _WAITING:
                return
            job = next(self._jobs)
            memory = {} if job.memory is None else {"memory": {"source": "declared", "upper": job.memory}}
            daemon.ask(
                "submit",
                command=list(job.command),
                directory=str(self._folder),
                environment={"PATH": os.environ.get("PATH", os.defpath)},
                name=job.name,
                most_attempts=job.attempts,
                **memory,
            )


def end_jobs(folder: Path) -> None:
    """Cancel all jobs, and wait until their processes have ended."""
    with suppress(PartitaError), QueueClient(jobs_folder(folder), 5.0) as daemon:
        end = time.monotonic() + 10.0
        while time.monotonic() < end:
            active = [each["id"] for each in daemon.ask("queue", limit=500)["jobs"]]
            if not active:
                return
            daemon.ask("cancel", ids=active)
            time.sleep(0.2)
