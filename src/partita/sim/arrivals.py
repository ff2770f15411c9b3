"""When queries arrive: Poisson, gamma, or a day's curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """N queries in order of arrival: `arrival` in seconds from 0, and `batch`, the items of each; shape (N,)."""

    arrival: NDArray[np.float64]
    batch: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrival)

    def faster(self, factor: float) -> Traffic:
        """Return the same queries with all times divided by `factor`."""
        return Traffic(self.arrival / factor, self.batch)

    def denser(self, copies: int, spread: float, rng: np.random.Generator) -> Traffic:
        """Return each query so many times, copies shifted by up to `spread` seconds to either side."""
        times = np.repeat(self.arrival, copies) + rng.uniform(-spread, spread, len(self) * copies)
        times = np.maximum(0.0, times)
        order = np.argsort(times, kind="stable")
        return Traffic(times[order], np.repeat(self.batch, copies)[order])


def poisson(rate: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return arrival times of a Poisson process of `rate` per second, shape (count,)."""
    return np.cumsum(rng.exponential(1 / rate, count))


def gamma(rate: float, count: int, rng: np.random.Generator, variation: float) -> NDArray[np.float64]:
    """Return arrival times whose gaps are gamma distributed, shape (count,).

    Args:
        rate: arrivals per second.
        count: how many.
        rng: source of chance.
        variation: coefficient of variation of the gaps: 1 is Poisson, more is burstier.
    """
    shape = variation**-2
    return np.cumsum(rng.gamma(shape, 1 / (rate * shape), count))


def day_curve(
    rate: float, seconds: float, rng: np.random.Generator, *, swing: float, period: float = 86_400.0
) -> NDArray[np.float64]:
    """Return arrival times of a Poisson process of rate x (1 - swing cos(2 pi t / period)), up to `seconds`.

    Args:
        rate: mean arrivals per second over a period.
        seconds: end of the time that is looked at.
        rng: source of chance.
        swing: from 0 (flat) to 1 (nothing arrives at the trough, which is at time 0).
        period: seconds from trough to trough.
    """
    grid = np.linspace(0.0, seconds, max(1000, int(seconds / period * 1000)))
    turn = 2 * np.pi / period
    expected = rate * (grid - swing * np.sin(turn * grid) / turn)
    arrivals = np.sort(rng.uniform(0.0, expected[-1], rng.poisson(expected[-1])))
    return np.asarray(np.interp(arrivals, expected, grid))
