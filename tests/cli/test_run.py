"""`partita run` keeps a cluster to a workload: file, rates, other people's doing, signals, jobs, workers and cuts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.cli.commands import Commands
from tests.cli.test_plan import CUT_WORKLOAD, LARGE, SMALL, write_cut_table
from tests.control.world import World
from tests.serve.worker.client import gateway, numbered, until

from partita.cli.daemon import QueueOptions, shared_with_jobs
from partita.cli.run import Planning, WatchedWorkload
from partita.control.reconciler import Demand, Hysteresis, Reconciler, TransitionOptions
from partita.control.watched import WatchedDriver
from partita.drive.driver import EnergyReading
from partita.drive.replicas import ReplicaRecords
from partita.drive.simulated import FaultKind, InjectedFault, SimulatedCluster, SimulatedDriver
from partita.drive.state import CLUSTER
from partita.errors import InputError, PartitaError
from partita.jobs.queue.access import Access
from partita.jobs.queue.client import QueueClient
from partita.jobs.queue.settings import QueueSettings
from partita.mig.layout import Placement
from partita.serve.worker.spec import WorkerSpec, read_spec
from partita.sim.clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path


TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
bert,a100-40gb,1g.5gb,8,1,100,20,0.99
bert,a100-40gb,2g.10gb,8,1,210,20,0.99
bert,a100-40gb,3g.20gb,8,1,310,20,0.99
bert,a100-40gb,7g.40gb,8,1,750,20,0.99
vgg,a100-40gb,1g.5gb,8,1,50,20,0.99
vgg,a100-40gb,3g.20gb,8,1,160,20,0.99
"""

WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{{model: a100-40gb, count: {count}}}]
services:
  - {{name: bert, model: bert, rate: {bert}, slo: {{latency_ms: 100}}}}
  - {{name: vgg, model: vgg, rate: 90, slo: {{latency_ms: 100}}}}
"""


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    (tmp_path / "perf.csv").write_text(TABLE)
    return Commands(tmp_path, monkeypatch, capsys)


def write(partita: Commands, bert: float, count: int = 4) -> Path:
    path = partita.folder / "workload.yaml"
    path.write_text(WORKLOAD.format(bert=bert, count=count))
    return path


def capacity(partita: Commands) -> dict[str, float]:
    return {
        each["name"]: each["capacity"] for each in json.loads(partita("status", "-o", "json").out)["services"]
    }


def reached(partita: Commands) -> bool:
    return bool(json.loads(partita("status", "-o", "json").out)["goal"]["state"] == "reached")


def test_once_plans_and_applies(partita: Commands) -> None:
    result = partita("run", "-f", write(partita, 700), "--once")
    assert result.code == 0, result.err
    assert "planning: there is no plan yet" in result.err
    assert capacity(partita)["bert"] >= 700


def test_once_more_with_more_load_follows_the_file(partita: Commands) -> None:
    partita("run", "-f", write(partita, 700), "--once")
    assert partita("run", "-f", write(partita, 1500), "--once").code == 0
    assert capacity(partita)["bert"] >= 1500


def test_measured_rates_go_before_those_in_the_file(partita: Commands) -> None:
    path = write(partita, 700)
    rates = partita.folder / "measured.json"
    rates.write_text('{"bert": 1500}')
    partita("run", "-f", path, "--once", "--rates", rates)
    assert capacity(partita)["bert"] >= 1500


def test_with_too_few_gpus_the_most_important_is_met(partita: Commands) -> None:
    path = write(partita, 5000, count=2)
    result = partita("run", "-f", path, "--once")
    assert result.code == 0, result.err
    assert sum(capacity(partita).values()) > 0


def test_without_a_count_the_simulated_cluster_has_whole_nodes(partita: Commands) -> None:
    path = write(partita, 700)
    path.write_text(path.read_text().replace(", count: 4", ""))
    result = partita("run", "-f", path, "--once")
    assert result.code == 0, result.err
    assert "made a simulated cluster of 8 GPUs" in result.err


def test_a_lost_gpu_is_planned_around(partita: Commands) -> None:
    path = write(partita, 1500)
    partita("run", "-f", path, "--once")
    used = [gpu["id"] for gpu in json.loads(partita("status", "-o", "json").out)["gpus"] if gpu["instances"]]
    SimulatedCluster(partita.state / "cluster.sqlite3").lose(used[0])
    result = partita("run", "-f", path, "--once")
    assert result.code == 0, result.err
    assert f"{used[0]}: is lost" in result.err
    assert capacity(partita)["bert"] >= 1500


def test_a_small_change_moves_little(partita: Commands) -> None:
    partita("run", "-f", write(partita, 1500), "--once")
    before = _replicas(partita)
    partita("run", "-f", write(partita, 1600), "--once")
    assert len(before - _replicas(partita)) <= 1


def _replicas(partita: Commands) -> set[tuple[str, int, str]]:
    gpus = json.loads(partita("status", "-o", "json").out)["gpus"]
    return {(gpu["id"], each["start"], each["service"]) for gpu in gpus for each in gpu["instances"]}


def test_a_fault_in_the_workload_is_told_before_anything_is_made(partita: Commands) -> None:
    path = partita.folder / "workload.yaml"
    path.write_text("apiVersion: partita/v1\nkind: Workload\n")
    assert partita("run", "-f", path, "--once").code == 2
    assert not partita.state.exists()


def test_once_fails_where_an_action_fails_for_ever(partita: Commands) -> None:
    partita("run", "-f", write(partita, 700), "--once")
    cluster = SimulatedCluster(partita.state / "cluster.sqlite3")
    cluster.inject(InjectedFault(FaultKind.FAILS, times=1000))
    result = partita("run", "-f", write(partita, 1500), "--once")
    assert result.code == 1
    assert "failed after 5 tries" in result.err


class Running:
    """A `partita run` in a process of its own, on a simulated clock, looking every 50 ms."""

    def __init__(self, partita: Commands, *words: object) -> None:
        self.partita = partita
        command = [sys.executable, "-m", "partita", "run", "-f", str(partita.folder / "workload.yaml")]
        command += ["--clock", "simulated", "--poll", "0.05", *map(str, words)]
        environment = {**os.environ, "PARTITA_STATE": str(partita.state)}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.told: list[str] = []
        self._reading = threading.Thread(target=self.told.extend, args=(self.process.stderr,))
        self._reading.start()

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not (self.partita.state / "cluster.sqlite3").exists() or not holds():
            assert self.process.poll() is None, self.told
            assert time.monotonic() < deadline, f"it never came about: {self.told}"
            time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self._reading.join()
            self.process.communicate()
        return "".join(self.told)


def test_it_follows_file_rates_and_other_peoples_doing_until_it_is_told_to_stop(partita: Commands) -> None:
    path = write(partita, 700)
    running = Running(partita, "--hold", 0)
    try:
        running.until(lambda: capacity(partita).get("bert", 0) >= 700)
        path.write_text("kind: nonsense")
        running.until(lambda: "workload.yaml" in "".join(running.told))
        write(partita, 1500)
        running.until(lambda: capacity(partita)["bert"] >= 1500)
        (partita.state / "rates.json").write_text('{"bert": 300}')
        running.until(lambda: capacity(partita)["bert"] < 1500 and reached(partita))
        first = capacity(partita)
        used = next(g for g in json.loads(partita("status", "-o", "json").out)["gpus"] if g["instances"])
        each = used["instances"][0]
        cluster = SimulatedCluster(partita.state / "cluster.sqlite3")
        cluster.kill_replica(used["id"], Placement(each["start"], each["profile"]))
        running.until(lambda: capacity(partita) == first)
    finally:
        err = running.end()
    assert running.process.returncode == 0, err
    assert "workload.yaml" in err, "the fault in the file was not told"
    assert "the workload has changed" in err
    assert "bert is at 300 items/s, planned for 1500" in err
    assert "does not run" in err


def test_a_plan_is_held(partita: Commands) -> None:
    write(partita, 700)
    running = Running(partita, "--hold", 1000)
    try:
        running.until(lambda: capacity(partita).get("bert", 0) >= 700)
        write(partita, 1500)
        time.sleep(0.5)
        assert capacity(partita)["bert"] < 1500
    finally:
        running.end(signal.SIGINT)
    assert running.process.returncode == 0


# With --jobs: services and jobs on one cluster, with real processes of both, on the wall clock.


JOBS_TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
bert,a100-40gb,3g.20gb,8,1,310,20,0.99
"""
JOBS_WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{{model: a100-40gb, count: 2}}]
services:
  - {{name: bert, model: bert, rate: {rate}, slo: {{latency_ms: 100}}}}
"""
# Works until there is a file `finish`, and writes a checkpoint when asked to go.
JOB = """
import pathlib, signal, sys, time
def leave(*_):
    with open("saved", "a") as stream:
        stream.write("x")
    sys.exit(3)
signal.signal(signal.SIGTERM, leave)
with open("began", "a") as stream:
    stream.write("x")
while not pathlib.Path("finish").exists():
    time.sleep(0.02)
"""


class Shop:
    """A controller with a queue, in a process of its own."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.process: subprocess.Popen[bytes] | None = None
        self.wish(300)
        (commands.folder / "perf.csv").write_text(JOBS_TABLE)
        (commands.folder / "services.yaml").write_text("services: [{name: bert, worker: {emulated: true}}]")
        (commands.folder / "job.py").write_text(JOB)

    def wish(self, rate: int) -> None:
        (self.commands.folder / "workload.yaml").write_text(JOBS_WORKLOAD.format(rate=rate))

    def start(self) -> None:
        folder = self.commands.folder
        words = ["run", "-f", folder / "workload.yaml", "--services", folder / "services.yaml", "--jobs"]
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "partita", *map(str, words), "--hold", "0", "--poll", "0.1"],
                env={**os.environ, "PARTITA_STATE": str(self.commands.state)},
                stderr=log,
            )

    def end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None

    def jobs(self) -> list[dict[str, Any]]:
        with suppress(PartitaError), QueueClient(self.commands.state / "jobs") as client:
            return list(client.ask("queue")["jobs"])
        return []

    def states(self) -> list[str]:
        return [str(job["state"]) for job in self.jobs()]

    def workers(self) -> int:
        return len(list((self.commands.state / "workers").glob("*.sock")))

    def count(self, name: str) -> int:
        path = self.commands.folder / name
        return len(path.read_text()) if path.exists() else 0


@pytest.fixture
def shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    made = Shop(Commands(tmp_path, monkeypatch, capsys))
    yield made
    (tmp_path / "finish").touch()
    if made.process is not None:
        until(lambda: made.states() == [])
    made.end(signal.SIGTERM)
    for path in (tmp_path / "state" / "replicas").glob("*.document"):
        with suppress(InputError, OSError), gateway(read_spec(path)) as one:
            os.killpg(one.hello.pid, signal.SIGKILL)


def test_jobs_use_what_services_leave_and_go_while_services_need_it(shop: Shop) -> None:
    shop.start()
    until(lambda: shop.workers() == 1)
    for _ in range(2):
        submitted = shop.commands("submit", "--memory", "15GiB", "--", sys.executable, "job.py")
        assert submitted.code == 0, submitted.err
    until(lambda: shop.states() == ["running"] * 2 and shop.count("began") == 2)
    shop.end(signal.SIGKILL)
    shop.start()
    until(lambda: shop.states() == ["running"] * 2)
    assert shop.count("began") == 2
    shop.wish(1200)
    until(lambda: shop.workers() == 4)

    def yielded() -> list[str]:
        return [each["state"] for each in shop.jobs() if "services need its instance" in each["reason"]]

    until(lambda: yielded() == ["waiting"] * 2)
    assert shop.count("saved") == 2
    shop.wish(300)
    until(lambda: shop.states() == ["running"] * 2 and shop.count("began") == 4)
    shop.end(signal.SIGTERM)
    shop.start()
    until(lambda: shop.states() == ["running"] * 2)
    (shop.commands.folder / "finish").touch()
    assert shop.commands("wait", "1", "2").code == 0
    told = json.loads(shop.commands("history", "-o", "json").out)
    verdicts = [[attempt["verdict"] for attempt in job["attempts"]] for job in told["jobs"]]
    assert verdicts == [["yielded", "done"]] * 2


def test_jobs_want_the_wall_clock(shop: Shop) -> None:
    found = shop.commands("run", "-f", "workload.yaml", "--jobs", "--once")
    assert found.code == 2
    assert "jobs take real time" in found.err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--metrics-listen", "0.0.0.0"), "--metrics-listen: no metrics are served"),  # noqa: S104
        (("--metrics-listen", "192.0.2.1", "--metrics-port", "0"), "cannot listen at 192.0.2.1:0"),
    ],
)
def test_metrics_that_cannot_be_served_are_refused(
    partita: Commands, words: tuple[str, ...], what: str
) -> None:
    found = partita("run", "-f", write(partita, 700), "--once", *words)
    assert found.code == 2
    assert what in found.err


def test_it_says_to_prometheus_what_it_wants_and_what_runs(partita: Commands) -> None:
    words = ("run", "-f", str(write(partita, 700)), "--clock", "simulated", "--poll", "0.1")
    with subprocess.Popen(
        [sys.executable, "-m", "partita", *words, "--metrics-port", "0"],
        env={**os.environ, "PARTITA_STATE": str(partita.folder / "state")},
        stderr=subprocess.PIPE,
        text=True,
        cwd=partita.folder,
    ) as process:
        try:
            assert process.stderr is not None
            said = ""
            while not (found := re.search(r"metrics on (http://127\.0\.0\.1:\d+/metrics)", said)):
                said += process.stderr.readline()
                assert process.poll() is None, said

            def page() -> str:
                with urllib.request.urlopen(found[1]) as answer:  # noqa: S310 -- our own
                    text: str = answer.read().decode()
                return text

            until(lambda: 'partita_transition{state="reached"} 1.0' in page())
            samples = {
                (each.name, *each.labels.values()): each.value
                for family in text_string_to_metric_families(page())
                for each in family.samples
            }
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    runs = capacity(partita)
    for service, rate in (("bert", 700.0), ("vgg", 90.0)):
        assert samples["partita_required_rate", service] == rate
        assert samples["partita_capacity_floor", service] == rate
        assert samples["partita_planned_capacity", service] == runs[service]
        assert samples["partita_ready_capacity", service] == runs[service]
        assert samples["partita_slo_seconds", service] == 0.1
    assert samples["partita_gpus", "a100-40gb", "used"] + samples["partita_gpus", "a100-40gb", "free"] == 4
    assert samples["partita_gpus", "a100-40gb", "lost"] == 0
    assert samples["partita_transition", "running"] == 0
    assert samples[("partita_transition_actions",)] == samples[("partita_transition_actions_done",)]
    instances = [key for key in samples if key[0] == "partita_instance_info"]
    assert len(instances) == samples["partita_instances", "ready"]
    assert time.time() - samples[("partita_observed_timestamp_seconds",)] < 60


class MeteredDriver(SimulatedDriver):
    """Another package's driver, which has energy counters."""

    readings = 0

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:
        del busy
        self.readings += 1
        return (EnergyReading("node-0/gpu-0", "GPU-0", "a100-40gb", 100.0 * self.readings),)


def test_energy_beside_services_is_read_from_the_driver_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITA_STATE", str(tmp_path))
    SimulatedCluster.create(tmp_path / CLUSTER, [("node-0/gpu-0", "a100-40gb")]).close()
    options = QueueOptions(QueueSettings(), Access(os.geteuid()), 1.0, recover=False)
    with (
        closing(MeteredDriver(tmp_path / CLUSTER, WallClock())) as driver,
        shared_with_jobs(WatchedDriver(driver), "metered", options, driver) as (shared, host),
    ):
        shared.wait(driver.clock.now())
        assert driver.readings
        found = {each.name: each for each in host.metrics()}
        assert [each.value for each in found["partita_gpu_energy_joules"].samples] == [100.0]
        assert {each.labels["state"]: each.value for each in found["partita_jobs"].samples} == {
            "waiting": 0,
            "blocked": 0,
            "starting": 0,
            "running": 0,
            "stopping": 0,
        }


# With replicas that are workers, on a simulated cluster and the wall clock.


WORKERS_TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
bert,a100-40gb,3g.20gb,1,1,200,5,0.99
bert,a100-40gb,3g.20gb,8,1,310,20,0.99
"""
WORKERS_WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{model: a100-40gb, count: 1}]
services:
  - {name: bert, model: bert, rate: 500, slo: {latency_ms: 100}}
"""


@pytest.fixture
def with_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Commands]:
    (tmp_path / "perf.csv").write_text(WORKERS_TABLE)
    (tmp_path / "workload.yaml").write_text(WORKERS_WORKLOAD)
    (tmp_path / "services.yaml").write_text("services: [{name: bert, worker: {emulated: true}}]")
    yield Commands(tmp_path, monkeypatch, capsys)
    for spec in specs(tmp_path):
        with suppress(OSError), gateway(spec) as one:  # one that was killed leaves its socket
            os.killpg(one.hello.pid, signal.SIGKILL)


def specs(folder: Path) -> list[WorkerSpec]:
    found = []
    for path in (folder / "state" / "replicas").glob("*.document"):
        with suppress(InputError):  # just removed, with the replica that it was for
            found.append(read_spec(path))
    return [each for each in found if (folder / "state" / "workers" / each.socket_name).exists()]


def test_once_leaves_workers_that_answer_and_mends_what_died(with_workers: Commands) -> None:
    folder = with_workers.folder
    run = ("run", "-f", folder / "workload.yaml", "--once", "--clock", "wall")
    words = (*run, "--services", folder / "services.yaml")
    assert with_workers(*words).code == 0
    found = specs(with_workers.folder)
    assert len(found) == 2
    assert all(each.seconds == {1: 0.005, 8: 0.02} for each in found)
    for each in found:
        with gateway(each) as one:
            assert one.ask(numbered(3))[0].error is None
            last = one.hello.pid
    os.kill(last, signal.SIGKILL)
    until(lambda: len(alive(with_workers)) == 1)
    assert with_workers(*words).code == 0
    assert len(alive(with_workers)) == 2
    assert last not in alive(with_workers)


def alive(with_workers: Commands) -> set[int]:
    records = with_workers.state / "replicas"
    found = set()
    for spec in specs(with_workers.folder):
        with suppress(OSError), gateway(spec) as one:  # as above
            found.add(one.hello.pid)
    assert ReplicaRecords(records).gpus()
    return found


def test_workers_outlive_a_controller_that_keeps_them(with_workers: Commands) -> None:
    environment = {**os.environ, "PARTITA_STATE": str(with_workers.state)}
    command = [
        sys.executable,
        "-m",
        "partita",
        "run",
        "-f",
        str(with_workers.folder / "workload.yaml"),
        "--poll",
        "0.05",
    ]
    command += ["--services", str(with_workers.folder / "services.yaml")]
    log = with_workers.folder / "log"
    with log.open("wb") as stream, subprocess.Popen(command, env=environment, stderr=stream) as process:

        def alive_again(but: set[int]) -> bool:
            assert process.poll() is None
            return len(alive(with_workers) - but) == 2

        try:
            until(lambda: len(specs(with_workers.folder)) == 2)
            until(lambda: alive_again(set()))
            victim = min(alive(with_workers))
            os.kill(victim, signal.SIGKILL)
            until(lambda: alive_again({victim}))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from error
        finally:
            process.kill()
    assert len(alive(with_workers)) == 2


def test_workers_on_a_simulated_clock_are_refused_with_what_helps(with_workers: Commands) -> None:
    folder = with_workers.folder
    told = with_workers(
        "run", "-f", folder / "workload.yaml", "--once", "--services", folder / "services.yaml"
    )
    assert told.code == 2
    assert "--clock wall" in told.err
    (folder / "services.yaml").write_text("services: [{name: vgg, worker: {emulated: true}}]")
    told = with_workers("run", "-f", folder / "workload.yaml", "--services", folder / "services.yaml")
    assert told.code == 2
    assert "nothing says how bert is run" in told.err


# A day in which the batch sizes of a service's queries shift: it is cut anew, and served all along.


HOUR = 3600.0
MORNING, NOON = {1: 0.7, 2: 0.3}, {12: 0.5, 16: 0.5}


class Day:
    """What is measured, hour by hour."""

    def __init__(self) -> None:
        self.now = Demand({})

    def measured(self) -> Demand:
        return self.now


@pytest.fixture
def world(tmp_path: Path) -> World:
    write_cut_table(tmp_path)
    (tmp_path / "workload.yaml").write_text(
        CUT_WORKLOAD.format(rate=300, batches=SMALL, count=8, cut="search")
    )
    return World(tmp_path, gpus=8)


def cut_of(world: World) -> list[str]:
    return sorted(
        each.placement.profile
        for gpu in world.now().gpus
        for each in gpu.instances
        if each.replica and each.replica.service == "search"
    )


def test_through_a_day_of_shifting_batch_sizes_the_cut_follows_and_floors_are_kept(world: World) -> None:
    day = Day()
    source = WatchedWorkload(world.folder / "workload.yaml", Planning(30.0, 0, lambda: False))
    keeper = Reconciler(
        world.controller, source, day, Hysteresis(0.1, 300.0, 0.15), TransitionOptions("shortest", None)
    )
    keeper.look(0.0)
    small = cut_of(world)
    world.driver.floors = {"search": 300.0, "photos": 90.0}
    began = len(world.driver.began)

    day.now = Demand({"search": 310.0}, {"search": {1: 0.65, 2: 0.35}})
    assert keeper.look(1 * HOUR) is None
    assert len(world.driver.began) == began, "within both bands nothing is done"

    day.now = Demand({"search": 310.0}, {"search": NOON, "photos": NOON})
    reached = keeper.look(2 * HOUR)
    assert reached is not None
    assert any("search has other batch sizes of 100% of its queries" in note for note in world.told.notes)
    large = cut_of(world)
    assert large != small
    assert "1g.5gb" not in large

    began = len(world.driver.began)
    day.now = Demand({"search": 350.0}, {"search": NOON})
    keeper.look(3 * HOUR)
    if cut_of(world) == large:
        assert len(world.driver.began) == began, "a cut that holds the new rate is left alone"

    day.now = Demand({"search": 310.0}, {"search": MORNING})
    keeper.look(4 * HOUR)
    assert cut_of(world) != large
    assert world.now().capacity()["search"] >= 310.0


def test_the_demand_that_is_written_names_batch_sizes_of_services_with_a_cut_alone(world: World) -> None:
    path = world.folder / "workload.yaml"
    path.write_text(path.read_text().replace(SMALL, LARGE))
    demand = WatchedWorkload(path, Planning(30.0, 0, lambda: False)).read().demand
    assert demand.rates == {"search": 300.0, "photos": 90.0}
    assert demand.batches == {"search": {12: 0.5, 16: 0.5}}
