"""The problem of serving one model's queries on GPUs that can be cut, cuts, and the outcome of the queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from partita.mig.layout import Layout, layout_of, maximal_multisets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from partita.mig.gpu import GpuModel
    from partita.perf.table import Measurement
    from partita.sim.traffic import Traffic
    from partita.workload import Process


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
        classes: largest batch size of each class of batch sizes, ascending, where each class must keep the quantile
            (`size_classes`); empty where all queries together must.
        arrivals: how the queries come, as a service says it.
    """

    gpu: GpuModel
    gpus: int
    latency: NDArray[np.float64]
    share: NDArray[np.float64]
    deadline: float
    quantile: float = 0.95
    classes: tuple[int, ...] = ()
    arrivals: Process = "poisson"

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
    def class_of(self) -> NDArray[np.int64]:
        """Class of each batch size, from 0, shape (B,)."""
        return class_of(self.classes, self.latency.shape[1])

    @property
    def answerable(self) -> float:
        """Share of the queries that some size answers in time without any queue, in the class with the least."""
        able = np.isfinite(self.feasible).any(axis=0)
        asked = np.bincount(self.class_of, weights=self.share)
        there = np.bincount(self.class_of, weights=self.share * able)
        return float(np.divide(there, asked, out=np.ones(len(asked)), where=asked > 0).min())

    @cached_property
    def multisets(self) -> tuple[Multiset, ...]:
        """The ways to cut one GPU so that nothing more fits on it."""
        return maximal_multisets(self.gpu)

    def with_gpus(self, gpus: int) -> ServingProblem:
        """Return the same problem on another number of GPUs."""
        return replace(self, gpus=gpus)


_LEAST_SHARE = 0.05
"""Share of the queries that a class has at least: enough of them for a quantile to be told from chance."""


def size_classes(share: NDArray[np.float64]) -> tuple[int, ...]:
    """Return the largest batch size of each class of batch sizes, ascending.

    Classes end at powers of two: 1, 2, 3 to 4, 5 to 8, and so on. One that less than a twentieth of the queries
    belong to is joined with the next smaller one, the first with the next larger one.

    Args:
        share: share of the queries of batch size b at [b - 1].
    """
    largest = len(share)
    ends = sorted({min(1 << power, largest) for power in range(largest.bit_length() + 1)})
    below = np.concatenate([[0.0], np.cumsum(share)]) / np.sum(share)
    while len(ends) > 1:
        parts = [below[last] - below[first] for first, last in pairwise([0, *ends])]
        small = next((at for at, part in enumerate(parts) if part < _LEAST_SHARE), None)
        if small is None:
            break
        del ends[max(small - 1, 0)]
    return tuple(ends)


def in_words(classes: Sequence[int]) -> list[str]:
    """Return the batch sizes of each class, such as `1`, `2`, `3-4` and `5-32`."""
    return [
        str(last) if last == first + 1 else f"{first + 1}-{last}" for first, last in pairwise([0, *classes])
    ]


def class_of(classes: Sequence[int], largest: int) -> NDArray[np.int64]:
    """Return the class of each batch size from 1 to `largest`, from 0; of larger ones than any class, the last."""
    found = np.searchsorted(np.array(classes, dtype=np.int64), np.arange(1, largest + 1))
    return np.minimum(found, max(len(classes) - 1, 0))


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


class Cutter(Protocol):
    """Chooses how to cut the GPUs."""

    def cut(self, problem: ServingProblem) -> ServingCut:
        """Return a legal cut of all GPUs of the problem.

        Raises:
            InfeasibleError: no size can answer some batch size, or enough of the queries, in time.
        """
        ...


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

    def by_class(
        self, problem: ServingProblem, traffic: Traffic
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how many queries of each class were answered in time, and how many there were; shape (C,).

        The first tenth is left out as warm-up.

        Args:
            problem: that was simulated.
            traffic: the queries.
        """
        steady = len(self.latency) // 10
        classes = problem.class_of[traffic.batch[steady:] - 1]
        in_time = self.latency[steady:] <= problem.deadline + TICK
        number = max(len(problem.classes), 1)
        return np.bincount(classes[in_time], minlength=number), np.bincount(classes, minlength=number)


Serve = Callable[["Traffic"], ServingOutcome]
"""Simulates the serving of queries by one router on one cut."""


class SimulatedRouter(Protocol):
    """Decides which instance answers which query, and when it starts."""

    def on(self, problem: ServingProblem, counts: NDArray[np.int64]) -> Serve:
        """Return the simulation of this router on instances in these counts, shape (K,)."""
        ...
