"""The paper's model classes: how throughput grows from the smallest slice to the whole GPU."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.mig.gpu import GpuModel
    from partita.perf.table import Measurement


class Growth(StrEnum):
    """Whether a whole GPU gives less than, as much as or more than its slices would."""

    SUB_LINEAR = "sub-linear"
    LINEAR = "linear"
    SUPER_LINEAR = "super-linear"


@dataclass(frozen=True, slots=True)
class ModelClass:
    """A model's class at one batch, and the ratio that decides it.

    Attributes:
        ratio: throughput of the whole GPU over that of the smallest profile that runs, per compute slice.
        smallest: that profile's name.
    """

    growth: Growth
    ratio: float
    smallest: str


def model_classes(rows: Iterable[Measurement], gpu: GpuModel) -> dict[int, ModelClass]:
    """Return the class at each batch that ran on the whole GPU and on a smaller profile, with one process.

    Linear is a ratio of 6.5 to 7.5 on a GPU of 7 compute slices (MIG-Serving, arXiv 2109.11067, figure 4).
    The bounds scale with the slices, so on an A30 of 4 they are 26/7 and 30/7.

    Args:
        rows: measurements of one model on this GPU.
        gpu: the GPU.
    """
    compute = {profile.name: (profile.compute, profile.memory) for profile in gpu.profiles}
    best: dict[int, dict[str, float]] = {}
    for row in rows:
        if row.processes == 1:
            found = best.setdefault(row.batch, {})
            found[row.profile] = max(row.throughput, found.get(row.profile, 0.0))
    classes = {}
    for batch, throughput in sorted(best.items()):
        smallest = min(throughput, key=lambda name: compute[name])
        largest = max(throughput, key=lambda name: compute[name])
        slices = compute[smallest][0]
        if compute[largest][0] == gpu.compute_slices > slices:
            ratio = throughput[largest] / (throughput[smallest] / slices)
            classes[batch] = ModelClass(_growth(ratio, gpu.compute_slices), ratio, smallest)
    return classes


def _growth(ratio: float, slices: int) -> Growth:
    if ratio < 6.5 / 7 * slices:
        return Growth.SUB_LINEAR
    return Growth.LINEAR if ratio <= 7.5 / 7 * slices else Growth.SUPER_LINEAR
