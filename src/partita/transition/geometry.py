"""The rules of one GPU of a deployment: what may stand beside what."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault

if TYPE_CHECKING:
    from partita.mig.gpu import GpuModel


@lru_cache(maxsize=256)
def rules(model: str, forbid: tuple[str, ...]) -> GpuModel:
    """Return the GPU of that name with these combinations forbidden.

    Raises:
        InputError: the catalogue has no such GPU, or a combination cannot be read.
    """
    return gpu_model(model).forbidding(forbid) if forbid else gpu_model(model)


@lru_cache(maxsize=65536)
def legal(gpu: GpuModel, placements: frozenset[Placement]) -> bool:
    """Say whether these placements may stand together."""
    return fault(gpu, sorted(placements)) is None


def conflict(gpu: GpuModel, one: Placement, other: Placement) -> bool:
    """Say whether two placements, each legal alone, may never stand together."""
    return one == other or not legal(gpu, frozenset((one, other)))
