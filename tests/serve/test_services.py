"""How replicas are run is read from YAML, and what is wrong in it is said with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from partita.documents.text import parse_json
from partita.drive.replicas import CommandReady, PortReady, ReplicaProcess, UpstreamReplica
from partita.errors import InputError
from partita.serve.services import WorkerSettings, read_services, read_workers
from partita.serve.tensors import TensorSpec
from partita.serve.worker.spec import (
    UNDECLARED,
    DeclaredBatch,
    EmulatedSpec,
    OnnxSpec,
    UpstreamSpec,
    WorkerSpec,
)

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
services:
  - name: bert
    command: [serve, --port, "{port}"]
    environment: {THREADS: "4"}
    ready: port
    grace_s: 5
  - {name: vgg, command: [serve], ready: [curl, localhost]}
  - {name: told, start: [add, "{device}"], stop: [remove, "{device}"]}
"""
WORKERS = """
services:
  - {name: onnx, worker: {onnx: models/bert.onnx}, environment: {OMP_NUM_THREADS: "1"}, grace_s: 5}
  - {name: threads, worker: {onnx: {path: /models/bert.onnx, threads: 2}}}
  - {name: triton, worker: {upstream: "http://127.0.0.1:80{start}"}}
  - {name: slow, worker: {emulated: {slow_down: 2, inputs: [{name: X, datatype: FP32, shape: [-1, 3]}]}}}
  - {name: plain, worker: {emulated: true}, start_timeout_s: 7, hang_timeout_s: 3, retry: false}
  - {name: started, worker: {upstream: {url: "http://127.0.0.1:{port}", command: [serve, "{port}"]}}}
  - {name: other, command: [serve]}
"""


def test_processes_and_servers_that_are_told_are_read(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(GOOD)
    found = read_services(path, tmp_path)
    assert found == {
        "bert": ReplicaProcess(("serve", "--port", "{port}"), {"THREADS": "4"}, PortReady(), 5.0),
        "vgg": ReplicaProcess(("serve",), readiness=CommandReady(("curl", "localhost"))),
        "told": UpstreamReplica(("add", "{device}"), ("remove", "{device}")),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must be a mapping, not nothing"),
        ("services: [{name: a}]", "command is missing"),
        ("services: [{name: a, command: serve}]", "must be a list"),
        ("services: [{name: a, command: [serve, 1]}]", "must be text, not 1"),
        ("services: [{name: a, command: [serve], environmet: {}}]", "unknown key"),
        (
            "services: [{name: a, command: [serve], environment: {A: 1}}]",
            "environment.A: must be text, not 1",
        ),
        ("services: [{name: a, start: [x]}]", "stop is missing"),
        ("services: [{name: a, worker: {onyx: m.onnx}}]", "unknown key"),
        ("services: [{name: a, worker: onnx}]", "must be a mapping, not 'onnx'"),
        ("services: [{name: a, worker: {onnx: 3}}]", "must be text or a mapping, not 3"),
        ("services: [{name: a, worker: {onnx: {path: m, thread: 2}}}]", "thread: unknown key"),
        ("services: [{name: a, worker: {upstream: localhost}}]", "no HTTP address"),
        ("services: [{name: a, worker: {upstream: {url: 'http://h', command: serve}}}]", "must be a list"),
        ("services: [{name: a, worker: {emulated: yes please}}]", "must be true or false or a mapping"),
        ("services: [{name: a, worker: {emulated: false}}]", "must be true"),
        ("services: [{name: a, worker: {emulated: true, onnx: m}}]", "one of emulated, onnx and upstream"),
        ("services: [{name: a, worker: {emulated: true}, hang_timeout_s: 0}]", "at least 1"),
        ("services: [{name: a, worker: {emulated: true}, batch: 8}]", "must be 'none' or 'rows', not 8"),
        (
            "services: [{name: a, worker: {emulated: true}, batch: [rows]}]",
            "must be 'none' or 'rows', not a list",
        ),
        ("services: [{name: a, worker: {emulated: true}, max_batch_size: 0}]", "max_batch_size"),
        ("services: [{name: a, worker: {emulated: true}, max_batch_size: 1.5}]", "a whole number"),
        ("services: [{name: a, worker: {emulated: true}, max_batch_size: 65537}]", "at most 65536"),
        (
            "services: [{name: a, worker: {emulated: true}, batch: none, max_batch_size: 8}]",
            "no batch to limit",
        ),
        ("services: [{name: a, command: [x], batch: rows}]", "batch: is not for a service with command"),
        ("services: [{name: a, worker: {emulated: true}, retry: 1}]", "must be true or false"),
        (
            "services: [{name: a, worker: {emulated: true}, command: [x]}]",
            "command: is not for",
        ),
        ("services: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        read_services(path, tmp_path)
    assert str(path) in str(caught.value.where)


def test_services_are_read_as_yaml_1_2_as_workloads_are(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    text = "services:\n  - {name: on, command: [serve, no, 0x1F, 1:30], environment: {DEBUG: off}}\n"
    path.write_bytes(text.encode("utf-16"))
    assert read_services(path, tmp_path) == {
        "on": ReplicaProcess(("serve", "no", "0x1F", "1:30"), {"DEBUG": "off"}),
    }
    path.write_text(text + "services: []\n")
    with pytest.raises(InputError, match=r"services.yaml:3: key 'services' is already on line 1"):
        read_services(path, tmp_path)


def test_workers_are_read_and_models_lie_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(WORKERS)
    assert read_workers(path) == {
        "onnx": WorkerSettings(
            OnnxSpec(str(tmp_path / "models" / "bert.onnx")), {"OMP_NUM_THREADS": "1"}, 5.0
        ),
        "threads": WorkerSettings(OnnxSpec("/models/bert.onnx", 2)),
        "triton": WorkerSettings(UpstreamSpec("http://127.0.0.1:80{start}")),
        "slow": WorkerSettings(EmulatedSpec(inputs=(TensorSpec("X", "FP32", (-1, 3)),), slow_down=2.0)),
        "plain": WorkerSettings(EmulatedSpec(), start_timeout_s=7.0, hang_timeout_s=3.0, retry=False),
        "started": WorkerSettings(UpstreamSpec("http://127.0.0.1:{port}", command=("serve", "{port}"))),
    }
    found = read_services(path, tmp_path / "workers")
    assert list(found) == ["onnx", "threads", "triton", "slow", "plain", "started", "other"]
    worker = found["onnx"]
    assert isinstance(worker, ReplicaProcess)
    assert (worker.environment, worker.grace_s) == ({"OMP_NUM_THREADS": "1"}, 5.0)
    assert not (tmp_path / "workers").exists()


@pytest.mark.parametrize(
    ("told", "declared"),
    [
        ("", UNDECLARED),
        (", batch: rows", DeclaredBatch(rows=True)),
        (", batch: none", DeclaredBatch(rows=False)),
        (", max_batch_size: 64", DeclaredBatch(most=64)),
        (", batch: rows, max_batch_size: 64", DeclaredBatch(rows=True, most=64)),
    ],
)
def test_what_is_declared_of_the_batch_reaches_the_worker(
    tmp_path: Path, told: str, declared: DeclaredBatch
) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(f"services: [{{name: a, worker: {{emulated: true}}{told}}}]")
    assert (read_workers(path)["a"].declared or UNDECLARED) == declared
    worker = read_services(path, tmp_path / "workers")["a"]
    assert isinstance(worker, ReplicaProcess)
    assert worker.document is not None
    words = dict.fromkeys(("service", "model", "gpu", "gpu_model"), "x")
    words |= {"placement": "3g.20gb@4", "batch": "8", "token": "t1", "processes": "1", "latency_ms": "4"}
    assert parse_json(worker.document(words), WorkerSpec, "spec").declared == declared


def test_a_workers_specification_has_what_is_measured_and_what_is_planned(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(WORKERS)
    seconds = {
        "triton": {("a100-40gb", "3g.20gb", 2): {1: 0.01, 8: 0.05}, ("a30-24gb", "3g.20gb", 2): {1: 0.02}}
    }
    worker = read_services(path, tmp_path / "workers", seconds)["triton"]
    assert isinstance(worker, ReplicaProcess)
    assert worker.document is not None
    words = {
        "service": "triton",
        "model": "m",
        "gpu": "g",
        "gpu_model": "a100-40gb",
        "placement": "3g.20gb@4",
        "batch": "8",
        "token": "t1",
    }
    found = [
        parse_json(
            worker.document({**words, "processes": processes, "latency_ms": "40.0"}), WorkerSpec, "spec"
        )
        for processes in ("2", "1")
    ]
    assert [each.seconds for each in found] == [{1: 0.01, 8: 0.05}, {8: 0.04}]
    other = worker.document({**words, "gpu_model": "a30-24gb", "processes": "2", "latency_ms": "40.0"})
    assert parse_json(other, WorkerSpec, "spec").seconds == {1: 0.02}
    assert found[0].backend == UpstreamSpec("http://127.0.0.1:804")
    assert not found[0].supervised
