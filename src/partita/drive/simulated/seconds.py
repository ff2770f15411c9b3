"""How long actions take on a simulated GPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from partita.transition.transition import Durations

if TYPE_CHECKING:
    import random

    from partita.transition.transition import Kind

# Instances: means of 300 runs of one 7g.40gb on an A100 (github spcl/gpuless-thesis at c2434d8). Replicas: a
# service that is created and loads its model, MIG-Serving's 47.4 s (arXiv 2109.11067, section 8); one that
# drains gracefully, Jormungandr's 32 s for a pod (doi 10.1145/3688351.3689156).
SECONDS = Durations(create_instance=0.0566, destroy_instance=0.1244, start_replica=47.4, stop_replica=32.0)

# Spread of log-normal durations. Those runs' p95 is 1.91 (create) and 1.53 (destroy) times the mean, which are
# 0.46 and 0.28.
JITTER = 0.3


def draw(rng: random.Random, seconds: Durations, jitter: float, kind: Kind) -> float:
    """Return how long one action takes, log-normal around the mean of its kind."""
    return seconds.of(kind) * math.exp(rng.gauss(-jitter * jitter / 2, jitter))
