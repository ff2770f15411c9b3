"""`partita serve` as a process: it answers, also while workers die, ends as it is told, and runs on NVML."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.cli.commands import Commands
from tests.control.world import deployment
from tritonclient.utils import InferenceServerException

from partita.cli.serve import EXAMPLES
from partita.drive.nvml import NvmlDriver
from partita.mig.layout import Placement
from partita.serve.worker.spec import DEFAULT_INPUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.drive.fake_nvml import FakeNvml


PATIENCE_S = 60.0
EVERYWHERE = "0.0.0.0"  # noqa: S104 -- with a token, or refused
TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
net,a100-80gb,1g.10gb,1,1,500,2,0.95
net,a100-80gb,1g.10gb,8,1,1600,5,0.95
"""
WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{model: a100-80gb, count: 1}]
services:
  - {name: search, model: net, rate: 3000, slo: {latency_ms: 10000, quantile: 0.95}}
"""


@pytest.fixture
def commands(tmp_path, monkeypatch, capsys):
    return Commands(tmp_path, monkeypatch, capsys)


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    (tmp_path / "perf.csv").write_text(TABLE)
    made = tmp_path / "workload.yaml"
    made.write_text(WORKLOAD)
    return made


@dataclass
class Served:
    """A gateway that runs, and what it has logged."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def event(self, name: str) -> Any:
        """Wait for an event in the log."""
        return wait_for(lambda: next((each for each in self.events if each.get("event") == name), None), self)

    @property
    def http(self) -> str:
        address: str = self.event("listening")["http"]
        return address.partition("://")[2]

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers that live."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for each in threads for pid in each.read_text().split() if not _is_dead(pid)]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def _is_dead(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(found: Callable[[], Any], served: Served) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert served.process.poll() is None, "\n".join(served.lines)
        assert time.monotonic() < end, "\n".join(served.lines)
        time.sleep(0.02)
    return value


@contextmanager
def serve(workload: Path, *words: str, state: Path | None = None) -> Iterator[Served]:
    """Run the command while the block runs, with a state folder beside the workload if no other is given."""
    command = [
        sys.executable,
        "-m",
        "partita",
        "serve",
        "-f",
        str(workload),
        "--port",
        "0",
        "--grpc-port",
        "0",
    ]
    with subprocess.Popen(
        [*command, "--log-format", "json", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PARTITA_STATE": str(state or workload.parent / "state")},
    ) as process:
        served = Served(process)
        assert process.stderr is not None
        follow = threading.Thread(target=served.lines.extend, args=(process.stderr,))
        follow.start()
        try:
            yield served
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            follow.join(PATIENCE_S)


def given_input(value: np.ndarray) -> triton.InferInput:
    made = triton.InferInput("INPUT0", list(value.shape), "FP32")
    made.set_data_from_numpy(value)
    return made


def test_it_serves_a_workload_over_both_transports_and_drains(workload):
    value = np.arange(32, dtype=np.float32).reshape(2, 16)
    with serve(workload) as served:
        listening = served.event("listening")
        served.event("ready")
        with triton.InferenceServerClient(served.http) as client:
            assert client.is_server_ready()
            found = client.infer("search", [given_input(value)], request_id="one")
            assert (found.as_numpy("OUTPUT0") == value).all()
            assert client.get_inference_statistics("search")["model_stats"][0]["inference_count"] == 2
        with triton_grpc.InferenceServerClient(listening["grpc"]) as client:
            made = triton_grpc.InferInput("INPUT0", [2, 16], "FP32")
            made.set_data_from_numpy(value)
            assert (client.infer("search", [made]).as_numpy("OUTPUT0") == value).all()
        workers = served.workers
        sockets, end = workload.parent / "state" / "workers", time.monotonic() + PATIENCE_S
        while (
            not len(workers) == len(list(sockets.glob("*.sock"))) > 0
        ):  # the gateway is ready with the first
            assert time.monotonic() < end
            time.sleep(0.01)
        assert served.end() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        assert list((workload.parent / "state" / "workers").glob("*.sock")) == []
        assert served.process.stdout is not None
        assert served.process.stdout.read() == ""
    assert [line for line in served.lines if not line.startswith(("{", "note: "))] == []
    assert [each["message"] for each in served.events][-1] == "ended"


def test_queries_outlive_the_workers_that_run_them(workload):
    with serve(workload) as served:
        served.event("ready")
        before = wait_for(lambda: len(served.workers) > 1 and served.workers, served)
        wait_for(
            lambda: len(list((workload.parent / "state" / "workers").glob("*.sock"))) == len(before), served
        )
        killed = threading.Event()

        def ask(number: int) -> int:
            value = np.full((1, 16), number, dtype=np.float32)
            with triton.InferenceServerClient(served.http) as client:
                asked = 0
                while asked < 20 or not killed.is_set():
                    found = client.infer("search", [given_input(value)])
                    assert (found.as_numpy("OUTPUT0") == value).all()
                    asked += 1
            return asked

        with ThreadPoolExecutor(6) as pool:
            asking = [pool.submit(ask, number) for number in range(6)]
            try:
                for pid in before[:-1]:
                    time.sleep(0.1)
                    os.kill(pid, signal.SIGKILL)
                wait_for(lambda: not set(before[:-1]) & set(served.workers), served)
            finally:
                killed.set()
            assert sum(each.result(PATIENCE_S) for each in asking) >= 120
        wait_for(lambda: len(served.workers) == len(before), served)
        assert any("killed by signal 9" in each["message"] for each in served.events)
        assert served.end() == 0


def test_a_worker_that_falls_silent_is_told_of_and_worked_around(workload):
    with serve(workload) as served:
        served.event("ready")
        workers = wait_for(lambda: len(served.workers) > 1 and served.workers, served)
        done = threading.Event()

        def ask() -> None:
            with triton.InferenceServerClient(served.http) as client:
                patient = {"partita-deadline-ms": "20000"}  # so that there is time for a second try
                while not done.is_set():
                    client.infer("search", [given_input(np.zeros((1, 16), np.float32))], headers=patient)

        with ThreadPoolExecutor(6) as pool:
            asking = [pool.submit(ask) for _ in range(6)]
            try:
                os.kill(workers[0], signal.SIGSTOP)
                silent = served.event("suspected")["instance"]
                time.sleep(0.5)
                os.kill(workers[0], signal.SIGCONT)
                wait_for(
                    lambda: any(
                        (each.get("event"), each.get("instance")) == ("answers again", silent)
                        for each in served.events
                    ),
                    served,
                )
            finally:
                os.kill(workers[0], signal.SIGCONT)
                done.set()
            for each in asking:
                each.result(PATIENCE_S)
        assert served.end() == 0


def test_no_client_is_cut_off_when_it_ends_under_load(workload):
    body = json.dumps(
        {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 16], "data": [1.0] * 16}]}
    )
    with serve(workload) as served:
        served.event("ready")
        host, _, port = served.http.rpartition(":")

        def ask() -> set[int]:
            """Ask over one connection until it is closed behind an answer."""
            found = set()
            with closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)) as link:
                while True:
                    link.request("POST", "/v2/models/search/infer", body)
                    answer = link.getresponse()
                    answer.read()
                    found.add(answer.status)
                    if answer.headers["connection"] == "close":
                        return found

        with ThreadPoolExecutor(12) as pool:
            asking = [pool.submit(ask) for _ in range(12)]
            wait_for(lambda: b'outcome="in_time",service="search"} 0.0' not in metrics(served), served)
            assert served.end() == 0
            for each in asking:
                assert each.result(PATIENCE_S) <= {200, 503}


def test_it_serves_a_plan_and_what_others_started(workload, commands):
    plan = workload.parent / "plan.json"
    assert commands("plan", "-f", workload, "--out", plan).code == 0
    other = workload.parent / "other"
    other.mkdir()
    (other / "workers").symlink_to(workload.parent / "state" / "workers")
    with (
        serve(workload, "--plan", str(plan)) as first,
        serve(workload, "--attach", state=other) as second,
    ):
        first.event("ready")
        second.event("ready")
        assert second.workers == []
        third = commands("serve", "-f", workload, "--port", 0, "--grpc-port", 0, "--attach")
        assert third.code == 1
        told = f"another gateway serves from {workload.parent / 'state'}: process {first.process.pid}"
        assert told in third.err.replace("\n", " ")
        assert "PARTITA_STATE" in third.err
        with triton.InferenceServerClient(second.http) as client:
            assert (
                client.infer("search", [given_input(np.zeros((1, 16), np.float32))]).as_numpy("OUTPUT0").any()
                == 0
            )
        assert second.end(signal.SIGINT) == 0
        assert first.end(signal.SIGINT) == 0


def test_a_second_signal_ends_it_at_once(workload):
    (workload.parent / "perf.csv").write_text(TABLE.replace(",500,2,", ",0.01,100000,"))
    workload.write_text(WORKLOAD.replace("latency_ms: 10000", "latency_ms: 600000"))
    with serve(workload) as served:
        served.event("ready")

        def ask() -> None:
            with triton.InferenceServerClient(served.http, network_timeout=PATIENCE_S) as client:
                client.infer("search", [given_input(np.zeros((1, 16), np.float32))])

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            wait_for(lambda: b'in_flight{service="search"} 1.0' in metrics(served), served)
            began = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            wait_for(lambda: any("draining" in each["message"] for each in served.events), served)
            assert served.end() == 130
            assert time.monotonic() - began < 60, "it waited for the query"
            assert asking.exception(PATIENCE_S) is not None
        assert served.workers == []


def test_while_it_drains_it_says_so_to_whoever_comes(workload):
    (workload.parent / "perf.csv").write_text(TABLE.replace(",500,2,", ",0.16,6000,"))
    workload.write_text(WORKLOAD.replace("latency_ms: 10000", "latency_ms: 60000"))
    value = given_input(np.zeros((1, 16), np.float32))
    with serve(workload) as served:
        served.event("ready")

        def ask() -> Any:
            with triton.InferenceServerClient(served.http, network_timeout=PATIENCE_S) as client:
                return client.infer("search", [value]).as_numpy("OUTPUT0")

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            wait_for(lambda: b'in_flight{service="search"} 1.0' in metrics(served), served)
            served.process.send_signal(signal.SIGTERM)
            wait_for(lambda: any("draining" in each["message"] for each in served.events), served)
            host, _, port = served.http.rpartition(":")
            for path, status in (
                ("/v2/models/search", 503),
                ("/v2/health/ready", 503),
                ("/v2/health/live", 200),
            ):
                with closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)) as link:
                    link.request("GET", path)
                    answer = link.getresponse()
                    assert answer.status == status
                    assert status == 200 or answer.headers["partita-reason"] == "draining"
                    assert status == 200 or answer.headers["retry-after"] == "1"
            assert b"partita_draining 1.0" in metrics(served)
            with triton_grpc.InferenceServerClient(served.event("listening")["grpc"]) as client:
                made = triton_grpc.InferInput("INPUT0", [1, 16], "FP32")
                made.set_data_from_numpy(np.zeros((1, 16), np.float32))
                with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*draining"):
                    client.infer("search", [made])
            with grpc.insecure_channel(served.event("listening")["grpc"]) as channel:
                for name in ("", "search"):
                    found = health_pb2_grpc.HealthStub(channel).Check(
                        health_pb2.HealthCheckRequest(service=name)
                    )
                    assert found.status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert asking.result(PATIENCE_S).shape == (1, 16)
        assert served.process.wait(PATIENCE_S) == 0


def metrics(served: Served) -> bytes:
    host, _, port = served.http.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as link:
        link.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: link.recv(65536), b""))


def test_beyond_this_host_leave_is_asked_for(workload, commands):
    found = commands("serve", "-f", workload, "--listen", EVERYWHERE)
    assert found.code == 2
    assert "0.0.0.0 can be reached by others" in found.err
    assert "--token-file" in found.err
    token = workload.parent / "token"
    token.write_text("short\n")
    found = commands("serve", "-f", workload, "--token-file", token)
    assert (found.code, "openssl rand" in found.err) == (2, True)
    token.write_text("0123456789abcdef0123456789abcdef\n")
    with serve(workload, "--listen", EVERYWHERE, "--token-file", str(token)) as served:
        served.event("ready")
        assert b" 401 " in metrics(served)
        assert served.end() == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--attach", "--plan", "x.json"), "--attach starts no workers"),
        (("--tls-cert", "x.pem"), "both --tls-cert and --tls-key"),
        (("--tls-cert", "x.pem", "--tls-key", "y.pem"), "no such file"),
        (("--token-file", "nowhere"), "no such file"),
        (("--plan", "nowhere.json"), "no such file"),
        (("--services", "nowhere.yaml"), "no such file"),
        (("--listen", "300.300.300.300", "--token-file", "token"), "not an address of this host"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(workload, commands, words, says):
    (workload.parent / "token").write_text("0123456789abcdef0123456789abcdef\n")
    words = tuple(str(workload.parent / word) if word == "token" else word for word in words)
    found = commands("serve", "-f", workload, *words)
    assert found.code == 2
    assert says in found.err
    assert "hint: " in found.err or "no such file" in found.err
    assert not list(workload.parent.glob("state/workers/*"))


def test_a_taken_port_is_told(workload, commands):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--port", "--grpc-port"):
            other = "--grpc-port" if option == "--port" else "--port"
            found = commands("serve", "-f", workload, option, port, other, 0)
            assert found.code == 2
            assert f"cannot listen at 127.0.0.1:{port}" in found.err
    assert not list(workload.parent.glob("state/workers/*.sock"))


def test_services_that_nothing_says_how_to_run_are_refused(workload, commands):
    services = workload.parent / "services.yaml"
    services.write_text("services: [{name: other, worker: {emulated: true}}]\n")
    found = commands("serve", "-f", workload, "--services", services)
    assert found.code == 2
    assert "service search has no back-end" in found.err


def test_the_query_in_the_help_is_one_that_emulated_workers_take() -> None:
    found = re.search(r"-d '(.*?)'", EXAMPLES, re.DOTALL)
    assert found is not None
    (given,) = json.loads(found[1])["inputs"]
    (taken,) = DEFAULT_INPUTS
    assert (given["name"], given["datatype"]) == (taken.name, taken.datatype)
    assert given["shape"] == [1, *taken.shape[1:]]
    assert len(given["data"]) == taken.shape[1]


PLANNED = deployment("3g.20gb@0=net 2g.10gb@4=net", "7g.40gb@0=net")
# On GPUs behind NVML: each worker sees the MIG device that the plan gives it, and no other.


NVML_TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
net,a100-40gb,2g.10gb,1,1,500,2,0.95
net,a100-40gb,3g.20gb,1,1,500,2,0.95
net,a100-40gb,7g.40gb,1,1,500,2,0.95
"""
NVML_WORKLOAD = """apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{model: a100-40gb, count: 2}]
services:
  - {name: net, model: net, rate: 500, slo: {latency_ms: 100, quantile: 0.95}}
"""
SERVICES = "services: [{name: net, worker: {emulated: true}, environment: {KEY: value}, grace_s: 3}]\n"


@pytest.fixture
def partita(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nvml: FakeNvml
) -> Commands:
    del nvml
    (tmp_path / "services.yaml").write_text(SERVICES)
    (tmp_path / "perf.csv").write_text(NVML_TABLE)
    (tmp_path / "workload.yaml").write_text(NVML_WORKLOAD)
    return Commands(tmp_path, monkeypatch, capsys)


def cut(partita: Commands, nvml: FakeNvml, *instances: tuple[int, str]) -> dict[str, str]:
    """Make instances, and have them adopted; return their UUIDs by GPU and placement."""
    partita.state.mkdir(exist_ok=True)
    driver = NvmlDriver(partita.state, {})
    try:
        for card, at in instances:
            nvml.foreign(card, at)
            driver.adopt(f"node-0/gpu-{card}", Placement.parse(at))
        return {
            f"{gpu.id} {each.placement}": str(each.identity.mig_uuid)
            for gpu in driver.observe().gpus
            for each in gpu.instances
        }
    finally:
        driver.close()


def serve_nvml(partita: Commands, *words: str) -> list[object]:
    return [
        "serve",
        "-f",
        partita.folder / "workload.yaml",
        "--plan",
        partita.plan("plan.json", PLANNED),
        *("--driver", "nvml", "--port", 0, "--grpc-port", 0, *words),
    ]


def with_services(partita: Commands) -> list[object]:
    return [*serve_nvml(partita), "--services", partita.folder / "services.yaml"]


def when(true: Callable[[], object], work: Callable[[], object]) -> threading.Thread:
    """Do some work as soon as something is true, or a minute later, and then ask this process to end."""

    def wait() -> None:
        end = time.monotonic() + PATIENCE_S
        while not true() and time.monotonic() < end:
            time.sleep(0.05)
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def environments(folder: Path) -> dict[str, dict[str, str]]:
    """Return the environments of the workers whose specifications are in a folder, by GPU and placement."""
    found = {}
    for path in folder.glob("*.json"):
        spec = json.loads(path.read_text())
        for process in Path("/proc").iterdir():
            try:
                if str(path).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                    pairs = (process / "environ").read_bytes().decode().strip("\0").split("\0")
                    found[f"{spec['gpu']} {spec['placement']}"] = dict(pair.split("=", 1) for pair in pairs)
            except OSError:
                continue
    return found


def test_each_worker_is_pinned_to_an_instance_that_stands_if_need_be_under_another_name(
    partita: Commands, nvml: FakeNvml
) -> None:
    # The GPUs of the plan changed places, and the small instance is where a transition may have left it.
    uuids = cut(partita, nvml, (0, "7g.40gb@0"), (2, "3g.20gb@0"), (1, "2g.10gb@2"))
    folder = partita.state / "workers"
    seen: dict[str, dict[str, str]] = {}
    thread = when(lambda: len(list(folder.glob("*.sock"))) == 3, lambda: seen.update(environments(folder)))
    result = partita(*with_services(partita))
    thread.join()
    assert result.code == 0, result.err
    assert {at: each["CUDA_VISIBLE_DEVICES"] for at, each in seen.items()} == uuids
    assert {each["KEY"] for each in seen.values()} == {"value"}


@pytest.mark.parametrize(
    ("foreign", "says", "hint"),
    [
        ("", "the plan has 1 7g.40gb on a100-40gb, and 0 of this host are free", "partita apply"),
        ("7g.40gb@0", "node-0/gpu-0 7g.40gb@0 is not Partita's", "adopt node-0/gpu-0 7g.40gb@0"),
    ],
)
def test_what_does_not_stand_or_is_anothers_is_refused(
    partita: Commands, nvml: FakeNvml, foreign: str, says: str, hint: str
) -> None:
    cut(partita, nvml, (1, "3g.20gb@0"), (1, "2g.10gb@4"))
    if foreign:
        nvml.foreign(0, foreign)
    result = partita(*with_services(partita))
    assert result.code == 2
    assert says in result.err.replace("\n", " ")
    assert hint in result.err.replace("\n", " ")
    assert not list(partita.state.glob("workers/*"))


def test_workers_that_run_there_already_are_to_be_attached_to(partita: Commands) -> None:
    plan = partita.plan("plan.json", PLANNED)
    services = ("--services", partita.folder / "services.yaml", "--driver", "nvml")
    assert partita("apply", plan, "--yes", *services).code == 0
    try:
        result = partita(*with_services(partita))
        assert result.code == 2
        assert "partita serve --attach" in result.err.replace("\n", " ")
    finally:
        assert partita("apply", partita.plan("none.json", deployment("")), "--yes", *services).code == 0


def test_real_instances_get_no_emulated_workers_unasked(partita: Commands) -> None:
    result = partita(*serve_nvml(partita))
    assert result.code == 2
    assert "nothing says what runs on the GPUs" in result.err
