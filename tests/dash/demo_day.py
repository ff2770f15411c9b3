"""The demo's cluster in the evening, stopped at a moment of its transition: the same at each run.

What `partita dash --demo` does in real time and in other processes is done here on a simulated clock: the cluster is
cut for the day, then for the night, queries are counted, and jobs stand where services leave GPUs free.
"""

from __future__ import annotations

import math
import shutil
import threading
from contextlib import closing, contextmanager, nullcontext, suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partita.cli.cluster import OpenCluster, named
from partita.cli.demo import DemoCluster, plan_for
from partita.cli.demo_queries import Promised, SimulatedQueries
from partita.cli.live_demo import DAY_S, NIGHT, WORKLOAD, Demand
from partita.control.cluster_view import deployed
from partita.control.journal import FILE, Journal
from partita.control.sharing import Place, SharedDriver
from partita.dash.gateway import GatewayPage
from partita.dash.history import History
from partita.dash.local import LocalSource
from partita.dash.local_on_demand import LocalOnDemand
from partita.dash.power import SimulatedPower
from partita.dash.state import ApiState
from partita.drive.simulated import SimulatedCluster, SimulatedDriver
from partita.drive.state import CLUSTER
from partita.jobs.energy import FILE as LEDGER
from partita.jobs.energy import NOBODY, Counter, Energy, EnergyLedger, LedgerEntry
from partita.jobs.queue.folders import make_folders
from partita.jobs.queue.socket_server import SocketServer
from partita.mig.layout import Placement
from partita.planner import read_prepared
from partita.serve.gateway.metrics import Metrics
from partita.sim.clock import SimulatedClock
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from contextlib import AbstractContextManager

    from partita.drive.driver import Observation

EVENING = 1_795_979_700.0
"""When capacity begins to be given back: 2026-11-29, 19:15:00 UTC."""

LATER_S = 34.0
"""How long after that all is looked at: some instances are gone, a replica starts, and others drain still."""

JOBS: Mapping[str, tuple[str, str]] = {
    "13": ("node-2/gpu-0", "7g.80gb@0"),
    "15": ("node-2/gpu-2", "3g.40gb@0"),
    "16": ("node-2/gpu-4", "7g.80gb@0"),
    "17": ("node-2/gpu-6", "7g.80gb@0"),
    "18": ("node-2/gpu-2", "1g.20gb@4"),
    "19": ("node-2/gpu-1", "7g.80gb@0"),
    "20": ("node-2/gpu-2", "1g.20gb@6"),
}
"""Where jobs run, by their id."""

IDLE: Place = ("node-2/gpu-3", Placement.parse("7g.80gb@0"))
"""What the jobs have cut, and no job uses now."""


class _EnoughError(Exception):
    """It is the moment that is looked at."""


class _StoppingClock(SimulatedClock):
    """Time that does not pass beyond a moment."""

    def __init__(self, start: float) -> None:
        super().__init__(start)
        self.last = math.inf

    def sleep_until(self, moment: float) -> None:
        super().sleep_until(min(moment, self.last))
        if moment > self.last:
            raise _EnoughError


class _Jobs:
    """The jobs, for the controller and for whoever asks the queue."""

    def holds(self) -> Collection[Place]:
        return [IDLE, *((gpu, Placement.parse(place)) for gpu, place in JOBS.values())]

    def reserve(self, wanted: Mapping[str, Collection[Placement]]) -> None:
        for gpu, place in self.holds():
            assert place not in wanted.get(gpu, ()), "a service wants a job's place"

    def vacate(self, places: Collection[Place]) -> None:
        raise AssertionError(places)

    def step(self, now: float) -> float:
        del now
        return math.inf

    def answer(self, caller: object, request: Mapping[str, Any]) -> Any:
        del caller
        running = [{"gpu": gpu, "instance": place, "id": name} for name, (gpu, place) in JOBS.items()]
        return {
            "instances": {"ok": True, "jobs": running, "idle": [[IDLE[0], str(IDLE[1])]], "yields": True},
            "queue": {"ok": True, "jobs": [], "counts": {"running": len(JOBS)}, "revision": "1", "total": 0},
            "history": {"ok": True, "jobs": [], "before": None},
        }[request["ask"]]


class _Gateway(GatewayPage):
    """The metrics page of the demo's gateway after a minute of queries, without the minute."""

    def __init__(self, folder: Path, seen: Observation) -> None:
        super().__init__("http://localhost:1")
        day, night = (read_prepared(folder / name).workload for name in (WORKLOAD, NIGHT))
        promised = [Promised(each.name, each.slo.latency_ms / 1000, 0.95) for each in day.services]
        queries = SimulatedQueries(promised)
        demand = Demand(*({each.name: each.rate for each in one.services} for one in (day, night)))
        metrics = Metrics(queries.snapshot)
        capacity = deployed(seen).capacity()
        for second in range(0, 120, 4):
            rates, _ = demand.pass_by(DAY_S + second, 4.0, capacity)
            queries.pass_by(4.0, rates, seen)
            self.take(float(second), metrics.page()[0].decode())

    def read(self, lock: AbstractContextManager[object] | None = None) -> None:
        """All was read."""


class _Source(LocalSource):
    @property
    def cluster(self) -> str:
        """Not this host's name."""
        return "gpu-lab"


@contextmanager
def demo_day(folder: Path) -> Iterator[ApiState]:
    """Set the evening up in a folder, and return what the server of a dashboard keeps of it."""
    examples = Path(str(resources.files("partita.examples")))
    for name in (WORKLOAD, NIGHT, "perf.csv"):
        shutil.copy(examples / name, folder / name)
    by_day = read_prepared(folder / WORKLOAD)
    models = [pool.model for pool in by_day.workload.gpus for _ in range(pool.count or 0)]
    SimulatedCluster.create(folder / CLUSTER, named(models)).close()
    clock, jobs = _StoppingClock(EVENING - 600), _Jobs()
    driver = SimulatedDriver(folder / CLUSTER, clock)
    with closing(driver), closing(Journal(folder / FILE)) as journal:
        for number, (gpu, place) in enumerate(jobs.holds()):
            driver.begin(Action(f"job-{number}", ActionKind.CREATE_INSTANCE, gpu, place, None, (), 1.0))
        while driver.wait():
            pass
        shared = SharedDriver(driver)
        shared.share_with(jobs)
        cluster = DemoCluster(OpenCluster(shared, journal))
        cluster.reach(plan_for(by_day, cluster), lambda *_: lambda _: None)
        clock.sleep_until(EVENING)
        clock.last = EVENING + LATER_S
        with suppress(_EnoughError):
            cluster.reach(plan_for(read_prepared(folder / NIGHT), cluster), lambda *_: lambda _: None)
        with closing(EnergyLedger(folder / LEDGER)) as ledger:
            counter = Counter("node-2/gpu-7", "GPU-7", EVENING, 0.0, None, None)
            ledger.add(EVENING, [counter], [LedgerEntry("node-2/gpu-7", NOBODY, Energy(6e4, 0.0, 600.0))])
        server, over = SocketServer(make_folders(folder, shared=False), jobs.answer), threading.Event()

        def answering() -> None:
            while not over.is_set():
                server.poll(0.05)

        thread = threading.Thread(target=answering)
        thread.start()
        source = _Source(
            lambda: nullcontext(driver),
            folder,
            workload=folder / WORKLOAD,
            gateways=[_Gateway(folder, driver.observe())],
            power=lambda _: SimulatedPower(),
        )
        on_demand = LocalOnDemand(source, "simulated", threading.Lock())
        try:
            yield ApiState.of(source, History(None), on_demand)
        finally:
            on_demand.close()
            source.close()
            over.set()
            thread.join()
            server.close()
