"""Real models behind the gateway: whoever asks, with however many others, gets what the model says to them alone."""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.dispatching.rehearsal import hello
from tests.serve.gateway.test_route import FakeLink, World
from tests.serve.worker.models import APART, ROWS
from tests.serve.worker.test_probe import check, query

from partita.serve.tensors import Answer
from partita.serve.worker.onnx_runtime import OnnxBackend
from partita.serve.worker.spec import OnnxSpec

if TYPE_CHECKING:
    from pathlib import Path

    from partita.serve.gateway.link import Link

ALL = {**ROWS, **APART}
BATCH = 8


@cache
def loaded(name: str, base: Path) -> tuple[OnnxBackend, Any]:
    folder = base / "models" / f"{name}-behind"
    folder.mkdir(parents=True, exist_ok=True)
    path = ALL[name].save(folder)
    return OnnxBackend(OnnxSpec(path, threads=1), BATCH, 1), onnxruntime.InferenceSession(path)


class Served(World):
    """A gateway with workers that run a model."""

    def __init__(self, folder: Path, backend: OnnxBackend, workers: int) -> None:
        super().__init__(folder)
        self.backend = backend
        for number in range(workers):
            said = hello(batch=BATCH, seconds={1: 0.001, BATCH: 0.001}, gpu=number, batching=backend.batching)
            said = type(said)(**{**_fields(said), "inputs": backend.inputs, "outputs": backend.outputs})
            link = FakeLink(f"worker-{number}", self.gateway)
            assert self.gateway.said_hello(cast("Link", link), said)
            self.links.append(link)

    def work(self, rng: random.Random) -> None:
        while busy := [link for link in self.links if link.runs]:
            link = rng.choice(busy)
            queries = next(iter(link.runs.values()))
            assert len(queries) == 1 or self.backend.batching.rows
            link.answer(list(self.backend.run(0, queries)))


def _fields(said: Any) -> dict[str, Any]:
    return {name: getattr(said, name) for name in said.__struct_fields__}


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=5)
@given(
    seed=st.integers(0, 999),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    workers=st.integers(1, 3),
)
def test_the_gateways_answers_are_the_models_own(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, sizes: list[int], workers: int
) -> None:
    backend, session = loaded(name, tmp_path_factory.getbasetemp())
    world = Served(tmp_path_factory.getbasetemp(), backend, workers)
    numbers = np.random.default_rng(seed)
    feeds = [ALL[name].feed(numbers, size) for size in sizes]
    askers = [world.ask(query(feed))[0] for feed in feeds]
    world.work(random.Random(seed))
    names = [each.name for each in session.get_outputs()]
    for feed, asker in zip(feeds, askers, strict=True):
        (heard,) = asker.heard
        assert isinstance(heard, Answer)
        try:
            wanted = session.run(names, feed)
        except Exception:  # noqa: BLE001 -- ONNX Runtime's errors have no common class
            assert heard.invalid
        else:
            check(names, wanted, heard)
