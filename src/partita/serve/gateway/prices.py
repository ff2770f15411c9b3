"""What a second of each size is worth: the fluid prices for the workers there are and the queries that come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from partita.serve.gateway.fleet import Fleet, SizeKey
    from partita.serve.problem import ServingProblem

_DRIFT = 0.2
"""Half the sum of differences between two distributions of batch sizes above which prices are made anew."""


@dataclass(frozen=True, slots=True)
class Question:
    """What prices depend on.

    Attributes:
        sizes: of the workers.
        slots: batches that run side by side on all workers of each size.
        seconds: of batch sizes 1, 2, ... on each size, inf where it takes none such.
        share: of queries of each batch size, adding up to 1.
        deadline: seconds.
        quantile: share of the queries that must be answered by then.
    """

    sizes: tuple[SizeKey, ...]
    slots: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    share: tuple[float, ...]
    deadline: float
    quantile: float

    def differs(self, other: Question | None) -> bool:
        """Return whether the other's prices may be unlike these."""
        if other is None or (self.sizes, self.slots) != (other.sizes, other.slots):
            return True
        changes = (abs(a - b) for a, b in zip(self.share, other.share, strict=True))
        return sum(changes) / 2 > _DRIFT


@dataclass(frozen=True, slots=True, eq=False)
class _Flows:
    """What the fluid model reads of a problem; the sizes may be of several models of GPU."""

    profiles: tuple[SizeKey, ...]
    latency: NDArray[np.float64]
    share: NDArray[np.float64]
    deadline: float
    quantile: float


def question(fleet: Fleet, queries: Mapping[int, int], deadline: float, quantile: float) -> Question | None:
    """Return what to ask; None where there is nothing to choose between."""
    slots: dict[SizeKey, int] = {}
    seconds: dict[SizeKey, tuple[float, ...]] = {}
    for group in fleet.groups:
        slots[group.key] = slots.get(group.key, 0) + sum(each.hello.processes for each in group.members)
        own = group.size.seconds[1:]
        seconds[group.key] = (*own, *[float("inf")] * (fleet.most - len(own)))
    counts = _in_parts(queries, fleet.most)
    total = sum(counts)
    if len(slots) < 2 or not total:
        return None
    return Question(
        tuple(slots),
        tuple(slots.values()),
        tuple(seconds.values()),
        tuple(count / total for count in counts),
        deadline,
        quantile,
    )


def _in_parts(queries: Mapping[int, int], most: int) -> list[int]:
    """Return how many queries have each batch size from 1 to `most`; larger ones are run in parts of so many rows."""
    counts = [0] * (most + 1)
    for batch, count in queries.items():
        counts[min(batch, most)] += count * max(1, batch // most) if most else 0
        if batch > most and most and batch % most:
            counts[batch % most] += count
    return counts[1:]


def answer(asked: Question) -> dict[SizeKey, float]:
    """Return the prices, the dearest 1. Takes milliseconds, and long imports at first: for a thread."""
    import numpy as np  # noqa: PLC0415 -- the gateway starts without waiting for it

    from partita.serve.fluid import second_prices  # noqa: PLC0415 -- likewise

    flows = _Flows(
        asked.sizes, np.array(asked.seconds), np.array(asked.share), asked.deadline, asked.quantile
    )
    prices = second_prices(cast("ServingProblem", flows), np.array(asked.slots)).tolist()
    return dict(zip(asked.sizes, prices, strict=True))
