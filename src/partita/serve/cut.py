"""Cuts: how many instances of each size, and the legal layouts that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from partita.mig.layout import Layout, layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from partita.mig.gpu import GpuModel
    from partita.serve.problem import Multiset, ServingProblem


@dataclass(frozen=True, slots=True)
class ServingCut:
    """How each GPU is cut: one multiset per GPU, sorted, so that equal cuts compare equal."""

    gpus: tuple[Multiset, ...]

    @classmethod
    def of(cls, gpus: Iterable[Multiset]) -> ServingCut:
        """Return the cut of GPUs in any order."""
        return cls(tuple(sorted(gpus, reverse=True)))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Instances of each size on all GPUs together, shape (K,)."""
        return np.asarray(np.array(self.gpus, dtype=np.int64).sum(axis=0))

    def layouts(self, gpu: GpuModel) -> tuple[Layout, ...]:
        """Return a legal layout for each GPU, as the planner places them."""
        return tuple(layout_of(gpu, each) for each in self.gpus)


class Cutter(Protocol):
    """Chooses how to cut the GPUs."""

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return a legal cut of all GPUs of the problem.

        Raises:
            InfeasibleError: a batch size that comes cannot be answered in time on any size.
        """
        ...
