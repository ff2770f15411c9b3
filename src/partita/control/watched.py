"""A driver that remembers the cluster as it was last observed, for readers in other threads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from partita.control.cluster_view import changes
from partita.drive.driver import Observation, PassingDriver

if TYPE_CHECKING:
    from collections.abc import Collection

    from partita.drive.driver import Changes, Driver, ObservedGpu


class WatchedDriver(PassingDriver):
    """A driver, as it is, whose observations others may read in other threads.

    Args:
        inner: drives the cluster.
    """

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._gpus: dict[str, ObservedGpu] = {}
        self._seen: tuple[Observation, float] | None = None

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
