"""Batch sizes of queries: log-normal, or as they were seen."""

from __future__ import annotations

from math import erf, log, sqrt
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST = 1e-6
"""Share of a distribution below which what is left of it after a cut means nothing."""


def lognormal_share(median: float, sigma: float, largest: int) -> NDArray[np.float64]:
    """Return the share of each batch size from 1 to `largest` under a log-normal, cut off there, shape (largest,).

    Size b stands for (b - 1/2, b + 1/2], size 1 for all below 3/2 (PARIS and ELSA, DAC'22, uses sigma 0.9).

    Args:
        median: of the log-normal before it is cut off.
        sigma: standard deviation of the logarithm.
        largest: largest batch size; larger ones do not come.

    Raises:
        InputError: next to nothing of the log-normal is within it.
    """
    below = [0.5 * (1 + erf((log(b + 0.5) - log(median)) / (sigma * sqrt(2)))) for b in range(1, largest + 1)]
    share = np.diff(below, prepend=0.0)
    if below[-1] < _LEAST:
        raise InputError(
            f"hardly any batch size of a log-normal of median {median:g} and sigma {sigma:g} is at most {largest}",
            hint="choose a smaller median",
        )
    return np.asarray(share / share.sum())


def empirical_share(batch: NDArray[np.int64], largest: int) -> NDArray[np.float64]:
    """Return the share of each batch size from 1 to `largest` among those seen, larger ones left out."""
    seen = np.bincount(batch[batch <= largest], minlength=largest + 1)[1:]
    return np.asarray(seen / seen.sum())


def draw(share: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return batch sizes drawn independently, shape (count,)."""
    edges = np.cumsum(share)[:-1]
    return np.searchsorted(edges, rng.random(count), side="right") + 1
