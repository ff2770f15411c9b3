"""Which models' queries are joined, and that whatever is asked together is answered as if it were asked alone."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from tests.serve.worker.models import APART, ROWS, Example, info, node, simple, weights

from partita.errors import InputError
from partita.serve.tensors import Answer, Query, Tensor, TensorSpec, pack_texts
from partita.serve.worker.batching import decode_texts
from partita.serve.worker.onnx_runtime import NUMPY, OnnxBackend
from partita.serve.worker.probe import RowDependence, probe
from partita.serve.worker.spec import DeclaredBatch, OnnxSpec

if TYPE_CHECKING:
    from pathlib import Path

ALL = {**ROWS, **APART}
_DATATYPES = {np.dtype(each): name for name, each in NUMPY.items()}


@cache
def loaded(name: str, folder: Path) -> tuple[OnnxBackend, Any]:
    path = ALL[name].save(folder)
    return OnnxBackend(OnnxSpec(path, threads=1), 32, 1), onnxruntime.InferenceSession(path)


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp() / "models" / name
    base.mkdir(parents=True, exist_ok=True)
    return base


def test_only_rows_that_do_not_influence_each_other_are_a_batch(name: str, folder: Path) -> None:
    backend, _ = loaded(name, folder)
    assert backend.batching.rows == ALL[name].rows, backend.batching.why
    assert ALL[name].why in backend.batching.why


def test_whatever_is_asked_together_is_answered_as_if_alone(name: str, folder: Path) -> None:
    backend, session = loaded(name, folder)
    names = [each.name for each in session.get_outputs()]
    rng = np.random.default_rng(3)
    for sizes in ([1, 1], [2, 3, 2, 1], [8, 16, 8], [40, 1]):
        feeds = [ALL[name].feed(rng, size) for size in sizes]
        answers = backend.run(0, [query(feed) for feed in feeds])
        for feed, answer in zip(feeds, answers, strict=True):
            try:
                wanted = session.run(names, feed)
            except Exception:  # noqa: BLE001 -- ONNX Runtime's errors have no common class
                assert answer.invalid, answer
                continue
            check(names, wanted, answer)


def query(feed: dict[str, np.ndarray]) -> Query:
    return Query(tuple(tensor(name, each) for name, each in feed.items()))


def tensor(name: str, array: np.ndarray) -> Tensor:
    if array.dtype == object:
        return Tensor(name, "BYTES", array.shape, pack_texts(each.encode() for each in array.reshape(-1)))
    return Tensor(name, _DATATYPES[array.dtype], array.shape, array.tobytes())


def check(names: list[str], wanted: list[np.ndarray], answer: Answer) -> None:
    assert answer.error is None, answer.error
    for name, right, found in zip(names, wanted, answer.outputs, strict=True):
        assert (found.name, found.shape) == (name, right.shape)
        if found.datatype == "BYTES":
            assert [each.decode() for each in decode_texts(found.data)] == right.reshape(-1).tolist()
            continue
        values = np.frombuffer(found.data, NUMPY[found.datatype]).reshape(found.shape)
        np.testing.assert_allclose(values, right, rtol=1e-5, atol=1e-6)


NOISE = simple(
    [node("RandomNormalLike", ["x"], ["e"]), node("Add", ["x", "e"], ["y"])],
    rows=True,
)


def test_a_model_with_random_operators_is_joined_only_if_it_is_declared(tmp_path: Path) -> None:
    spec = OnnxSpec(NOISE.save(tmp_path), threads=1)
    backend = OnnxBackend(spec, 8, 1)
    assert not backend.batching.rows
    assert "the same way twice" in backend.batching.why
    assert OnnxBackend(spec, 8, 1, DeclaredBatch(rows=True)).batching.rows


@pytest.mark.parametrize(
    "name", ["lstm-time-major", "softmax-of-a-list", "cumulative", "detections-said-to-be-rows"]
)
def test_a_declaration_that_the_probe_refutes_is_refused_at_start(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="declared `batch: rows`, and its rows influence each other"
    ) as error:
        OnnxBackend(OnnxSpec(APART[name].save(tmp_path), threads=1), 8, 1, DeclaredBatch(rows=True))
    assert "batch: none" in str(error.value.hint)


@pytest.mark.parametrize(
    "name", ["scalar-input", "total", "table-beside-rows", "lstm-fixed-time", "no-input"]
)
def test_a_declaration_that_the_shapes_refute_is_refused_at_start(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="declared `batch: rows`, and "):
        OnnxBackend(OnnxSpec(APART[name].save(tmp_path), threads=1), 8, 1, DeclaredBatch(rows=True))


@pytest.mark.parametrize("name", ["without-names", "names-of-its-exporter", "one-size", "always-the-same"])
def test_a_declaration_that_nothing_refutes_holds(name: str, tmp_path: Path) -> None:
    declared = DeclaredBatch(rows=True, most=64)
    backend = OnnxBackend(OnnxSpec(APART[name].save(tmp_path), threads=1), 8, 1, declared)
    assert (backend.batching.rows, backend.batching.most) == (True, 64)
    assert backend.inputs[0].shape == (-1, 4)
    rng = np.random.default_rng(1)
    three, two = (rng.normal(size=(rows, 4)).astype(np.float32) for rows in (3, 2))
    for sent, answer in zip(
        (three, two), backend.run(0, [query({"x": three}), query({"x": two})]), strict=True
    ):
        found = np.frombuffer(answer.outputs[0].data, "<f4").reshape(answer.outputs[0].shape)
        np.testing.assert_array_equal(found, np.maximum(sent, 0) if name != "always-the-same" else 0 * sent)


def test_a_slight_influence_is_borne_where_it_is_declared_and_told(tmp_path: Path) -> None:
    path = APART["quantised-by-the-range-of-all"].save(tmp_path)
    backend = OnnxBackend(OnnxSpec(path, threads=1), 8, 1, DeclaredBatch(rows=True))
    assert backend.batching.rows
    assert "though output y differs" in backend.batching.why


def test_a_model_may_be_declared_to_have_no_batch(tmp_path: Path) -> None:
    backend = OnnxBackend(OnnxSpec(ROWS["mlp"].save(tmp_path), threads=1), 8, 1, DeclaredBatch(rows=False))
    assert not backend.batching.rows
    assert "declared" in backend.batching.why


def test_no_rows_get_what_the_model_makes_of_them(tmp_path: Path) -> None:
    backend = OnnxBackend(OnnxSpec(ROWS["mlp"].save(tmp_path), threads=1), 8, 1)
    empty, one = (query({"x": np.zeros((rows, 4), np.float32)}) for rows in (0, 1))
    first, second, third = backend.run(0, [empty, one, empty])
    assert [each.outputs[0].shape for each in (first, second, third)] == [(0, 4), (1, 4), (0, 4)]


UNNAMED = Example(
    [node("Mul", ["a", "b"], ["y"])],
    [info("a", ["n", None]), info("b", ["n", None])],
    [info("y", ["n", None])],
    [],
    lambda rng, n: {
        "a": rng.normal(size=(n, 3)).astype(np.float32),
        "b": rng.normal(size=(n, 3)).astype(np.float32),
    },
)


def test_what_a_query_alone_cannot_run_is_its_own_fault_and_what_nothing_can_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = OnnxBackend(OnnxSpec(UNNAMED.save(tmp_path), threads=1), 8, 1)
    rng = np.random.default_rng(0)
    good = query(UNNAMED.feed(rng, 1))
    bad = query({"a": np.ones((1, 3), np.float32), "b": np.ones((1, 4), np.float32)})
    before, blamed, after = backend.run(0, [good, bad, good])
    assert before.error is None
    assert after.error is None
    assert blamed.invalid
    assert "3 by 4" in str(blamed.error)

    def broken(*_: object) -> None:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(backend, "_arrays", broken)
    with pytest.raises(RuntimeError, match="the device is lost"):
        backend.run(0, [good])


def test_memory_that_runs_out_is_no_querys_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnnxBackend(OnnxSpec(ROWS["mlp"].save(tmp_path), threads=1), 8, 1)
    arrays = backend._arrays

    def full(lane: int, names: list[str], feeds: dict[str, np.ndarray]) -> Any:
        if len(feeds["x"]) > 3:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 4096")
        return arrays(lane, names, feeds)

    monkeypatch.setattr(backend, "_arrays", full)
    with pytest.raises(RuntimeError, match="allocate memory"):
        backend.run(0, [query({"x": weights(5, 4)})])


def test_half_precision_is_compared_as_such() -> None:
    spec = TensorSpec("x", "FP16", (-1, 4), ("batch", ""))
    out = TensorSpec("y", "FP16", (-1, 4), ("batch", ""))

    def rounding(feeds: dict[str, Any]) -> list[Any]:
        return [(feeds["x"] * np.float16(1 + 1e-3 * (len(feeds["x"]) > 1))).astype("<f2")]

    assert probe([spec], [out], rounding, most=8).finding is RowDependence.APART
    single = [TensorSpec(each.name, "FP32", each.shape) for each in (spec, out)]
    assert probe(
        single[:1], single[1:], lambda feeds: [feeds["x"] * (1 + 0.01 * len(feeds["x"]))], most=8
    ).finding in (
        RowDependence.SLIGHTLY,
        RowDependence.TOGETHER,
    )


def test_a_device_that_sums_in_any_order_is_held_to_its_precision_alone() -> None:
    spec = TensorSpec("x", "FP32", (-1, 4), ("batch", ""))
    noise = np.random.default_rng(5)

    def summed(feeds: dict[str, Any]) -> list[Any]:
        return [(feeds["x"] * (1 + 1e-6 * noise.normal(size=feeds["x"].shape))).astype("<f4")]

    assert probe([spec], [spec], summed, most=8, coarse=True).finding is RowDependence.APART


def test_bytes_that_differ_by_one_are_a_matter_of_precision() -> None:
    given = TensorSpec("x", "UINT8", (-1, 4), ("batch", ""))

    def rounded(feeds: dict[str, Any]) -> list[Any]:
        return [feeds["x"] // 2 * 2 + (len(feeds["x"]) > 2)]

    assert probe([given], [given], rounded, most=8).finding in (
        RowDependence.SLIGHTLY,
        RowDependence.TOGETHER,
    )
    whole = TensorSpec("y", "INT64", (-1, 4), ("batch", ""))
    found = probe([given], [whole], lambda feeds: [feeds["x"].astype("<i8") + (len(feeds["x"]) > 2)], most=8)
    assert found.finding is RowDependence.TOGETHER
