"""The energy of a queue's jobs: sampled beside the queue, which it never stops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.jobs.energy.attribution import Kind, Owner, Stay
from partita.jobs.energy.sampler import stay_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from partita.jobs.energy.sampler import EnergySampler
    from partita.jobs.queue.record import JobRecord

LOOK_S = 1.0
"""Seconds between two looks at who runs: the end of an attempt is known as exactly."""


class QueueEnergy:
    """Follows which attempts run, and has their energy sampled.

    Args:
        sampler: reads the counters.
        tell: told, once, what went wrong; the queue goes on without its energy.
    """

    def __init__(self, sampler: EnergySampler, tell: Callable[[str], None] = lambda _: None) -> None:
        self._sampler = sampler
        self._tell = tell
        self._told = ""
        self._there: dict[Owner, Stay] = {}
        self._gone: list[Stay] = []
        self._due = -math.inf

    def step(
        self, now: float, jobs: Iterable[JobRecord], services: Callable[[], Sequence[Stay]] = tuple
    ) -> float:
        """Look who runs, and sample if it is time to; return when to be called next.

        Args:
            now: seconds, of the queue's clock.
            jobs: at least all that run.
            services: looks at the stays of services on the same GPUs.
        """
        if self._due - LOOK_S <= now < self._due:
            return self._due
        self._due = now + LOOK_S
        running = {stay.owner: stay for job in jobs for stay in self._stays(job)}
        self._gone += [
            replace(stay, ended=now) for owner, stay in self._there.items() if owner not in running
        ]
        self._there = running
        try:
            self._sampler.step(now, [*running.values(), *self._gone, *services()])
        except PartitaError as error:
            if self._told != str(error):
                self._told = str(error)
                self._tell(f"energy is not measured: {error}")
            return self._due
        sampled = self._sampler.sampled
        self._gone = [stay for stay in self._gone if sampled is None or stay.ended > sampled]
        return self._due

    def _stays(self, job: JobRecord) -> Iterable[Stay]:
        attempt = job.attempts[-1] if job.attempts else None
        if attempt is None or attempt.began is None or attempt.verdict is not None:
            return
        model = self._sampler.models.get(attempt.gpu)
        # Before the first reading no model is known, and nothing was measured either.
        if model is not None:
            owner = Owner(Kind.JOB, job.id, attempt.number)
            yield stay_of(owner, attempt.gpu, model, attempt.placement, began=attempt.began)
