"""The cases that serving is measured on: public latencies, log-normal batch sizes, 8 A100-80GB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from partita.mig.catalogue import gpu_model
from partita.perf.reading import read_table
from partita.serve.problem import ServingProblem, latency_table
from partita.sim.traffic import lognormal_share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.perf.table import PerfTable

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PROFILES = ("1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
MEDIANS = (4, 8, 16)
FACTORS = (1.5, 2.0)
LARGEST, SIGMA, GPUS = 32, 0.9, 8
GPU = gpu_model("a100-80gb").restricted(PROFILES)


@dataclass(frozen=True)
class Case:
    """A model, the median of its batch sizes, and the deadline in latencies of the whole GPU at batch 32."""

    model: str
    median: int
    factor: float
    problem: ServingProblem


def table() -> PerfTable:
    return read_table(DATA / "perf" / "parvagpu_a100_80gb.csv")


def models(measured: PerfTable) -> list[str]:
    """Return the models that run all of batch 1 to 32 on all five sizes with one process."""
    return [name for name in measured.models if np.isfinite(_latency(measured, name)).all()]


def problem(measured: PerfTable, model: str, share: np.ndarray, factor: float, gpus: int) -> ServingProblem:
    latency = _latency(measured, model)
    return ServingProblem(GPU, gpus, latency, share, factor * float(latency[-1, -1]))


def cases(measured: PerfTable, names: list[str], medians: tuple[int, ...] = MEDIANS) -> Iterator[Case]:
    for model in names:
        for median in medians:
            share = lognormal_share(median, SIGMA, LARGEST)
            for factor in FACTORS:
                yield Case(model, median, factor, problem(measured, model, share, factor, GPUS))


def _latency(measured: PerfTable, model: str) -> np.ndarray:
    return latency_table(measured.of(model, GPU.name), PROFILES, LARGEST)
