"""The problem of serving one model's queries on GPUs that can be cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from partita.mig.layout import maximal_multisets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.mig.gpu import GpuModel

Multiset = tuple[int, ...]
"""Instances of each size on one GPU, in the order of the GPU's profiles."""


@dataclass(frozen=True, eq=False)
class ServingProblem:
    """One model's queries, each with a batch size of its own, and one deadline for all (PARIS and ELSA, DAC'22).

    Attributes:
        gpu: the model of GPU, its profiles restricted to those that the model runs on, from small to large.
        gpus: how many GPUs there are.
        latency: seconds of a query of batch size b on size k at [k, b - 1], inf where it cannot run; shape (K, B).
        share: share of queries of batch size b at [b - 1], adding up to 1; shape (B,).
        deadline: seconds from a query's arrival to its latest answer (the SLA).
        quantile: share of the queries that must be answered by then.
    """

    gpu: GpuModel
    gpus: int
    latency: NDArray[np.float64]
    share: NDArray[np.float64]
    deadline: float
    quantile: float = 0.95

    @property
    def profiles(self) -> tuple[str, ...]:
        """Names of the K sizes."""
        return tuple(profile.name for profile in self.gpu.profiles)

    @cached_property
    def compute(self) -> NDArray[np.int64]:
        """Compute slices of each size, shape (K,)."""
        return np.array([profile.compute for profile in self.gpu.profiles])

    @cached_property
    def feasible(self) -> NDArray[np.float64]:
        """As `latency`, but inf where a query that starts at once would miss its deadline."""
        return np.where(self.latency <= self.deadline, self.latency, np.inf)

    @cached_property
    def multisets(self) -> tuple[Multiset, ...]:
        """The ways to cut one GPU so that nothing more fits on it."""
        return maximal_multisets(self.gpu)

    def with_gpus(self, gpus: int) -> ServingProblem:
        """Return the same problem on another number of GPUs."""
        return replace(self, gpus=gpus)
