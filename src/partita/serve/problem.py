"""The problem of serving one model's queries on GPUs that can be cut, cuts, and the outcome of the queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from partita.mig.layout import Layout, layout_of, maximal_multisets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from partita.mig.gpu import GpuModel
    from partita.perf.table import Measurement
    from partita.sim.traffic import Traffic


Multiset = tuple[int, ...]
"""Instances of each size on one GPU, in the order of the GPU's profiles."""
REFUSED = -1
"""The instance number of a refused query."""
TICK = 1e-9
"""Tolerance of deadlines in seconds, for rounding errors."""


@dataclass(frozen=True, eq=False)
class ServingProblem:
    """Queries of one model with various batch sizes and one deadline for all (PARIS and ELSA, DAC'22).

    Attributes:
        gpu: the model of GPU, its profiles restricted to those that the model runs on, from small to large.
        gpus: number of GPUs.
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


def latency_table(
    rows: Iterable[Measurement], profiles: Sequence[str], max_batch: int
) -> NDArray[np.float64]:
    """Return the seconds of batch sizes 1 to `max_batch` on each profile, shape (K, max_batch).

    Between measured batches the latency is interpolated linearly. Below the smallest it is that of the smallest (the
    query is padded). Above the largest it is inf, as no such batch was measured.

    Args:
        rows: measurements of one model on one GPU at one quantile; only those with one process are used.
        profiles: the K sizes.
        max_batch: largest batch size of a query.
    """
    table = np.full((len(profiles), max_batch), np.inf)
    batches = np.arange(1, max_batch + 1)
    single = [row for row in rows if row.processes == 1]
    for index, profile in enumerate(profiles):
        seen = sorted((row.batch, row.latency_ms / 1000) for row in single if row.profile == profile)
        if seen:
            at, seconds = zip(*seen, strict=True)
            table[index] = np.interp(batches, at, seconds, right=np.inf)
    return table


@dataclass(frozen=True, slots=True)
class ServingCut:
    """How each GPU is cut: one multiset per GPU, sorted so that equal cuts compare equal."""

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


@dataclass(frozen=True, slots=True, eq=False)
class ServingOutcome:
    """The outcome of each of N queries, in order of arrival.

    Attributes:
        latency: seconds from arrival to answer, inf if refused, shape (N,).
        instance: number of the instance that answered, `REFUSED` if none, shape (N,). Instances are numbered by
            size, from small to large.
    """

    latency: NDArray[np.float64]
    instance: NDArray[np.int16]

    def attainment(self, deadline: float) -> float:
        """Return the share of queries answered within the deadline, the first tenth left out as warm-up."""
        steady = self.latency[len(self.latency) // 10 :]
        return float(np.count_nonzero(steady <= deadline + TICK) / len(steady))


Serve = Callable[["Traffic"], ServingOutcome]
"""Simulates the serving of queries by one router on one cut."""


class SimulatedRouter(Protocol):
    """Decides which instance answers which query, and when it starts."""

    def on(self, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return the simulation of this router on instances in these counts, shape (K,)."""
        ...
