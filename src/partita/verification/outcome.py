"""What became of the queries of a plan, and with which confidence it keeps its promises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

QUERIES = 20_000
"""Default number of queries of each service in the first look."""
QUANTILES = (0.5, 0.95, 0.99)
_PARTS = 20
_STUDENT_T = 2.093
"""Two-sided 95 % point of Student's t for `_PARTS` - 1 degrees of freedom."""
_NORMAL = 1.96


@dataclass(frozen=True, slots=True)
class Trial:
    """How a plan is simulated.

    Attributes:
        load: factor of all rates.
        queries: of each service in the first look; a promise that stays undecided gets up to 16 times as many.
        seed: of arrivals, sizes and jitter.
        jitter: standard deviation of the logarithm of a batch's seconds, around the table's as their mean; None for
            what capacity is counted with: as the table says, or else a little where it has nothing but means.
        router: name of the policy.
        processes: that simulate side by side; 0 for one per core.
    """

    load: float = 1.0
    queries: int = QUERIES
    seed: int = 0
    jitter: float | None = None
    router: str = "late-binding"
    processes: int = 0


class Verdict(StrEnum):
    """Whether a service keeps its promise, at 95 % confidence."""

    KEPT = "yes"
    BROKEN = "no"
    UNDECIDED = "undecided"
    NONE = "none"
    """It promises no share of its queries."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of queries answered in time, with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def verdict(self, promised: float | None) -> Verdict:
        """Return whether a promised share is kept."""
        if promised is None:
            return Verdict.NONE
        if self.low >= promised:
            return Verdict.KEPT
        return Verdict.BROKEN if self.high < promised else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class SizeOutcome:
    """The queries of a class of batch sizes.

    Attributes:
        smallest: batch size of the class.
        largest: batch size of the class.
        queries: that counted.
        in_time: share answered in time.
    """

    smallest: int
    largest: int
    queries: int
    in_time: Share

    @property
    def items(self) -> str:
        """The class in words, such as `5-8`."""
        return f"{self.smallest}" if self.smallest == self.largest else f"{self.smallest}-{self.largest}"


@dataclass(frozen=True, slots=True)
class ServiceOutcome:
    """What became of one service's queries.

    Attributes:
        service: its name.
        rate: items/s that arrived.
        queries_per_second: queries/s that arrived.
        deadline_ms: the SLO's latency.
        promised: share of the queries that must be answered in time; None if none is promised.
        in_time: share that was.
        verdict: whether the promise is kept.
        queries: that counted.
        refused: share without an answer.
        latency_ms: quantiles of all queries, a query without an answer counting as infinite; None there.
        busy: share of the time in which the processes of its instances ran batches.
        instances: number of its instances.
        sizes: classes of batch sizes, if its queries have several.
    """

    service: str
    rate: float
    queries_per_second: float
    deadline_ms: float
    promised: float | None
    in_time: Share
    verdict: Verdict
    queries: int
    refused: float
    latency_ms: tuple[float | None, ...]
    busy: float
    instances: int
    sizes: tuple[SizeOutcome, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "service": self.service,
            "rate": self.rate,
            "queries_per_second": self.queries_per_second,
            "deadline_ms": self.deadline_ms,
            "promised": self.promised,
            "kept": self.verdict.value,
            "in_time": self.in_time.value,
            "in_time_95": [self.in_time.low, self.in_time.high],
            "queries": self.queries,
            "refused": self.refused,
            "latency_ms": {f"p{q * 100:g}": ms for q, ms in zip(QUANTILES, self.latency_ms, strict=True)},
            "busy": self.busy,
            "instances": self.instances,
            "sizes": [
                {
                    "items": [each.smallest, each.largest],
                    "queries": each.queries,
                    "in_time": each.in_time.value,
                    "in_time_95": [each.in_time.low, each.in_time.high],
                }
                for each in self.sizes
            ],
        }


@dataclass(frozen=True, slots=True)
class PlanOutcome:
    """What became of the queries of a plan's services.

    Attributes:
        trial: how it was simulated.
        services: in the order of the workload; those that had not ended are missing if it was stopped.
        stopped: whether it was.
    """

    trial: Trial
    services: tuple[ServiceOutcome, ...]
    stopped: bool = False

    @property
    def broken(self) -> tuple[ServiceOutcome, ...]:
        """The services that do not keep their promise."""
        return tuple(each for each in self.services if each.verdict is Verdict.BROKEN)

    @property
    def undecided(self) -> tuple[ServiceOutcome, ...]:
        """The services of which confidence does not say whether they do."""
        return tuple(each for each in self.services if each.verdict is Verdict.UNDECIDED)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "load": self.trial.load,
            "router": self.trial.router,
            "jitter": self.trial.jitter,
            "seed": self.trial.seed,
            "keeps": not self.broken,
            "services": [each.to_dict() for each in self.services],
        }


# From single queries


def confident_share(in_time: NDArray[np.bool_]) -> Share:
    """Return the share of queries in time with its 95 % confidence interval.

    Queries that wait in one queue are correlated, so the interval is that of the means of 20 consecutive parts (batch
    means; Law, Simulation Modeling and Analysis, section 9.5.3), widened where consecutive parts are correlated too,
    and no narrower than that of as many independent queries (Wilson, 1927).

    Args:
        in_time: of each query, in order of arrival.
    """
    n = len(in_time)
    value = float(in_time.mean())
    low, high = _wilson(value, n)
    if n >= _PARTS:
        means = in_time[: n - n % _PARTS].reshape(_PARTS, -1).mean(axis=1)
        away = means - means.mean()
        spread = float(away @ away)
        again = max(0.0, float(away[1:] @ away[:-1]) / spread) if spread else 0.0
        half = _STUDENT_T * math.sqrt(spread / (_PARTS - 1) / _PARTS * (1 + again) / (1 - again))
        low, high = max(0.0, min(low, value - half)), min(1.0, max(high, value + half))
    return Share(value, low, high)


def _wilson(share: float, n: int) -> tuple[float, float]:
    squared = _NORMAL * _NORMAL / n
    middle = (share + squared / 2) / (1 + squared)
    half = _NORMAL / (1 + squared) * math.sqrt(share * (1 - share) / n + squared / (4 * n))
    return middle - half, middle + half


def latencies(seconds: NDArray[np.float64]) -> tuple[float | None, ...]:
    """Return quantiles in milliseconds; None for those of queries without an answer."""
    ordered = np.sort(seconds)
    at = [float(ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]) for q in QUANTILES]
    return tuple(each * 1000 if math.isfinite(each) else None for each in at)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return whether all of several promises are kept, as those of each size are."""
    order = (Verdict.BROKEN, Verdict.UNDECIDED, Verdict.NONE, Verdict.KEPT)
    return min(verdicts, key=order.index)


def by_size(
    sizes: NDArray[np.int64], in_time: NDArray[np.bool_], promised: tuple[int, ...]
) -> tuple[SizeOutcome, ...]:
    """Return the classes of batch sizes: those that are promised, or else 1, 2, 3 to 4, 5 to 8 and so on."""
    ends = promised or tuple(1 << power for power in range(int(sizes.max()).bit_length() + 1))
    found = []
    for before, largest in pairwise([0, *ends]):
        mine = (sizes > before) & ((sizes <= largest) | (largest == ends[-1]))
        if mine.any():
            found.append(SizeOutcome(before + 1, largest, int(mine.sum()), confident_share(in_time[mine])))
    return tuple(found)
