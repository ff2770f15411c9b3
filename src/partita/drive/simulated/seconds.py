"""How long actions take on a simulated GPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from partita.transition.transition import Durations, Kind

# Spread of log-normal durations. In 300 runs of one 7g.40gb on an A100 (github spcl/gpuless-thesis at c2434d8)
# the p95 is 1.91 (create) and 1.53 (destroy) times the mean, which are 0.46 and 0.28; of several instances at
# once it is less.
JITTER = 0.3


def draw(rng: random.Random, seconds: Durations, jitter: float, kind: Kind) -> float:
    """Return how long one action takes, log-normal around the mean of its kind."""
    return seconds.of(kind) * math.exp(rng.gauss(-jitter * jitter / 2, jitter))
