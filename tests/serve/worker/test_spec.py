"""What a worker is started with, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from partita.documents.codec import DocumentSource, convert
from partita.errors import InputError
from partita.serve.tensors import Query, Tensor
from partita.serve.worker.emulated import EmulatedBackend, interpolated
from partita.serve.worker.spec import EmulatedSpec, WorkerSpec, read_spec

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, Any] = {
    "service": "bert",
    "model": "bert",
    "gpu": "node-0/gpu-0",
    "placement": "3g.20gb@4",
    "batch": 8,
    "backend": {"kind": "emulated"},
    "folder": "/run/partita",
    "token": "a1",
}


def test_the_shortest_specification_is_enough() -> None:
    spec = convert(GOOD, WorkerSpec, DocumentSource("spec.json"))
    assert (spec.processes, spec.seconds, spec.supervised) == (1, {}, False)
    assert spec.backend == EmulatedSpec()
    assert spec.profile == "3g.20gb"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"service": ""}, "service: must be text, not empty"),
        ({"batch": 0}, "batch: must be at least 1"),
        ({"batch": "8"}, "batch: must be a whole number, not '8'"),
        ({"processes": 1.5}, "processes: must be a whole number"),
        ({"placement": "3g.20gb"}, "placement: '3g.20gb' is no placement"),
        ({"token": "../../etc"}, "token: must be letters and digits"),
        ({"seconds": [1]}, "seconds: must be a mapping"),
        ({"seconds": {"0": 1}}, "seconds.0: must be at least 1"),
        ({"seconds": {"1": -1}}, "seconds.1: must be at least 0"),
        ({"grace": 3}, "grace: unknown key"),
        ({"supervised": 1}, "supervised: must be true or false"),
        ({"hang_timeout_s": 0.5}, "hang_timeout_s: must be at least 1, not 0.5"),
        ({"retry": "no"}, "retry: must be true or false"),
        ({"backend": "onnx"}, "backend: must be a mapping"),
        (
            {"backend": {"kind": "tensorrt"}},
            "backend: kind must be 'emulated', 'onnx' or 'upstream', not 'tensorrt'",
        ),
        ({"backend": {"kind": "onnx"}}, "backend: path is missing"),
        ({"backend": {"kind": "upstream", "url": "ftp://x"}}, "backend.url: 'ftp://x' is no HTTP address"),
        ({"backend": {"kind": "emulated", "jitter": -1}}, "backend.jitter: must be at least 0"),
        ({"backend": {"kind": "emulated", "inputs": []}}, "backend.inputs: must be a list, not empty"),
        (
            {"backend": {"kind": "emulated", "inputs": [{"name": "X", "datatype": "FLOAT", "shape": [-1]}]}},
            "backend.inputs[0].datatype: unknown datatype 'FLOAT'",
        ),
        (
            {"backend": {"kind": "emulated", "outputs": [{"name": "X", "datatype": "FP32", "shape": [-2]}]}},
            "backend.outputs[0].shape[0]: must be at least -1",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        convert({**GOOD, **change}, WorkerSpec, DocumentSource("spec.json"))
    assert told in str(caught.value)
    assert str(caught.value).startswith("spec.json: ")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_spec(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("batch", "seconds"), [(1, 0.1), (2, 0.1), (3, 0.2), (4, 0.3), (6, 0.3), (8, 0.3), (16, 0.6)]
)
def test_seconds_lie_between_those_measured(batch: int, seconds: float) -> None:
    assert interpolated([(2, 0.1), (4, 0.3), (8, 0.3)], batch) == pytest.approx(seconds)


def test_jitter_keeps_the_mean_and_slowing_down_does_not() -> None:
    query = Query((Tensor("INPUT0", "FP32", (1, 16), bytes(64)),))
    steady = EmulatedBackend(EmulatedSpec(jitter=0.5), {1: 1.0})
    slow = EmulatedBackend(EmulatedSpec(slow_down=3.0), {1: 1.0})
    drawn = [steady._seconds(query.batch) for _ in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(1.0, abs=0.05)
    assert max(drawn) > 1.5
    assert min(drawn) < 0.7
    assert slow._seconds(query.batch) == 3.0


def test_an_emulated_worker_without_seconds_is_refused() -> None:
    with pytest.raises(InputError, match="needs the seconds"):
        EmulatedBackend(EmulatedSpec(), {})
