"""Seconds of a query of any batch size on each profile, from a performance table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from partita.perf.table import Measurement


def latency_table(
    rows: Iterable[Measurement], profiles: Sequence[str], max_batch: int
) -> NDArray[np.float64]:
    """Return the seconds of batch sizes 1 to `max_batch` on each profile, shape (K, max_batch).

    Between measured batches the latency is interpolated piecewise linearly; below the smallest it is that of the
    smallest (the query is padded), above the largest it is inf: nobody has seen it run.

    Args:
        rows: measurements of one model on one GPU at one quantile; those with one process count.
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
