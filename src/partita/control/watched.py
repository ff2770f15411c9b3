"""A driver that remembers the cluster as it was last observed, for readers in other threads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from partita.control.cluster_view import changes
from partita.drive.driver import Observation

if TYPE_CHECKING:
    from collections.abc import Collection

    from partita.drive.driver import ActionResult, Changes, Driver, ObservedGpu
    from partita.mig.layout import Placement
    from partita.sim.clock import Clock
    from partita.transition.transition import Action


class WatchedDriver:
    """A driver, as it is, whose observations others may read in other threads.

    Args:
        inner: drives the cluster.
    """

    def __init__(self, inner: Driver) -> None:
        self._inner = inner
        self._gpus: dict[str, ObservedGpu] = {}
        self._seen: tuple[Observation, float] | None = None

    @property
    def clock(self) -> Clock:
        """The clock of the cluster."""
        return self._inner.clock

    @property
    def seen(self) -> tuple[Observation, float] | None:
        """The cluster as it was last observed, and when, in seconds since 1970; None if it never was."""
        return self._seen

    def observe(self) -> Observation:
        """Return the cluster as it is now."""
        found = self._inner.observe()
        self._gpus = {gpu.id: gpu for gpu in found.gpus}
        self._seen = found, time.time()
        return found

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return what has changed, as `changes` does."""
        found = changes(self._inner, mark, touched)
        for name in found.gone:
            self._gpus.pop(name, None)
        self._gpus.update((gpu.id, gpu) for gpu in found.gpus)
        self._seen = Observation(tuple(self._gpus.values())), time.time()
        return found

    def begin(self, action: Action) -> None:
        """Begin an action."""
        self._inner.begin(action)

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Return the actions that ended."""
        return self._inner.wait(until)

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Make someone else's instance ours."""
        self._inner.adopt(gpu, placement)
