"""A power model of a GPU that several jobs share, for simulation.

A GPU draws its idle power as long as work remains, and each job adds the energy that its work takes, the same on
every slice: what it draws beyond idle on a whole GPU, times its run time there, is spread over its run. The sum is
capped at the power limit.
Measured power on a whole A100 is MISO's (github boringlee24/socc22-miso at 39b1ee6); that a unit of work takes the
same energy on every slice is an assumption, as no counter measures slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from partita.mig.power import IDLE_W, LIMIT_W

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.jobs.simulate import Outcome, Run


@dataclass(frozen=True, slots=True)
class PowerModel:
    """What a GPU draws.

    Attributes:
        joules: by job id, the energy of its work beyond idle.
        idle_w: a GPU without work.
        limit_w: the most a GPU draws.
    """

    joules: Mapping[int, float]
    idle_w: float = IDLE_W
    limit_w: float = LIMIT_W

    def energy(self, outcome: Outcome, gpus: int) -> float:
        """Return the joules that this many GPUs take from the first arrival to the last end."""
        idle = self.idle_w * outcome.makespan * gpus
        each = [[run for run in outcome.runs if run.gpu == gpu] for gpu in range(gpus)]
        return idle + sum(self._dynamic(runs) for runs in each if runs)

    def _dynamic(self, runs: Sequence[Run]) -> float:
        edges: dict[float, float] = {}
        for run in runs:
            watts = self.joules[run.job.id] / (run.ended - run.began)
            edges[run.began] = edges.get(run.began, 0.0) + watts
            edges[run.ended] = edges.get(run.ended, 0.0) - watts
        total = watts = 0.0
        for (moment, step), (following, _) in pairwise(sorted(edges.items())):
            watts += step
            total += min(watts, self.limit_w - self.idle_w) * (following - moment)
        return total
