"""The cluster as a controller sees it, kept up to date by what has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.control.snapshot import Snapshot, snapshot
from partita.drive.driver import Changes, Observation, ObservesChanges

if TYPE_CHECKING:
    from collections.abc import Collection

    from partita.drive.driver import Driver, ObservedGpu


@dataclass(frozen=True, slots=True)
class Difference:
    """What two looks saw of the GPUs that may have changed between them.

    Attributes:
        gpus: ids of those GPUs; the snapshots are of them alone.
    """

    gpus: frozenset[str]
    before: Snapshot
    now: Snapshot


class ClusterView:
    """The cluster as it was when it was last looked at.

    A look costs as much as has changed, where the driver can say what that is, and as much as the whole cluster
    where it cannot.

    Args:
        driver: is asked.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._gpus: dict[str, ObservedGpu] = {}
        self._mark: object | None = None

    def look(self, touched: Collection[str] = ()) -> Difference:
        """See what has changed since the last look; at the first one, everything has.

        Args:
            touched: ids of GPUs on which actions have ended since then.

        Raises:
            DriveError: the cluster cannot be observed.
        """
        seen = changes(self._driver, self._mark, touched)
        self._mark = seen.mark
        ids = frozenset([*(gpu.id for gpu in seen.gpus), *seen.gone])
        was = tuple(self._gpus[name] for name in ids if name in self._gpus)
        for name in seen.gone:
            self._gpus.pop(name, None)
        self._gpus.update((gpu.id, gpu) for gpu in seen.gpus)
        return Difference(ids, snapshot(Observation(was)), snapshot(Observation(seen.gpus)))

    def gpu(self, gpu_id: str) -> ObservedGpu | None:
        """Return the GPU of that id, None if there is none."""
        return self._gpus.get(gpu_id)

    @property
    def observation(self) -> Observation:
        """The whole cluster."""
        return Observation(tuple(self._gpus.values()))


def changes(driver: Driver, mark: object | None, touched: Collection[str]) -> Changes:
    """Return what has changed by any driver: of one that cannot say, all GPUs count as changed.

    Args:
        driver: is asked.
        mark: of the last look, None for the first.
        touched: ids of GPUs on which actions have ended since then.

    Raises:
        DriveError: the cluster cannot be observed.
    """
    if isinstance(driver, ObservesChanges):
        return driver.observe_changes(mark, touched)
    gpus = driver.observe().gpus
    there = frozenset(gpu.id for gpu in gpus)
    return Changes(there, gpus, tuple(mark - there) if isinstance(mark, frozenset) else ())
