"""A power model of a GPU that several jobs share, for simulation.

A GPU draws its idle power as long as work remains; more, by a constant, while any process has a CUDA context on it,
since that alone takes it out of its lowest clocks, whatever memory it has; and each job adds the energy that its
work takes, the same on every slice and at every clock: what it draws beyond these on a whole GPU, times its run time
there. Where the jobs side by side would draw more than the limit, the GPU lowers its clocks: all of them slow down
until they draw the limit, and take the same energy over a longer time.

Measured power on a whole A100 is MISO's (github boringlee24/socc22-miso at 39b1ee6), whose readings end at 247 W: a
card of 250 W. The context is that of arXiv 2605.23918, 26 to 50 W on A100 and H100. That a unit of work takes the
same energy everywhere is an assumption, as no counter measures slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.mig.gpu import CONTEXT_W, IDLE_W

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from partita.jobs.simulate import Outcome, Run

LIMIT_W = 250.0
"""The power limit of an A100 PCIe 40GB (NVIDIA A100 data sheet), which is what MISO measured."""


@dataclass(frozen=True, slots=True)
class PowerModel:
    """What a GPU draws.

    Attributes:
        joules: by job id, the energy of its work beyond idle and context.
        idle_w: a GPU without any process.
        context_w: beyond that, while a process has a context on it.
        limit_w: the most a GPU draws.
    """

    joules: Mapping[int, float]
    idle_w: float = IDLE_W
    context_w: float = CONTEXT_W
    limit_w: float = LIMIT_W

    def speed(self, watts: float) -> float:
        """Return the share of their full speed at which jobs run that would draw so much beyond idle and context."""
        room = self.limit_w - self.idle_w - self.context_w
        return min(1.0, room / watts) if watts > 0.0 else 1.0

    def energy(self, outcome: Outcome, gpus: int) -> float:
        """Return the joules that this many GPUs take from the first arrival to the last end."""
        idle = self.idle_w * outcome.makespan * gpus
        busy = sum(_busy(run for run in outcome.runs if run.gpu == gpu) for gpu in range(gpus))
        return idle + self.context_w * busy + sum(self.joules[run.job.id] for run in outcome.runs)


def _busy(runs: Iterable[Run]) -> float:
    """Return the seconds in which any of the jobs of a GPU ran."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted((run.began, run.ended) for run in runs):
        total += max(ended - max(began, until), 0.0)
        until = max(until, ended)
    return total
