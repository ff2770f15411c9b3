"""The energy counters of simulated GPUs: a power model, summed up over the cluster's time.

A GPU draws its idle power, and for each busy instance the instance's share of the compute slices of what is left to
the power limit: work at full load. Power is taken to have been since the last reading what it is now, so that
counters are as exact as they are read often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.drive.energy import Reading
from partita.drive.simulated import meta
from partita.drive.simulated.rows import observation
from partita.drive.simulated.store import Store
from partita.mig.catalogue import gpu_model
from partita.mig.power import CONTEXT_W, IDLE_W, LIMIT_W

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from partita.drive.port import ObservedGpu
    from partita.sim.clock import Clock

_TABLE = "CREATE TABLE IF NOT EXISTS energy (gpu TEXT PRIMARY KEY, at REAL NOT NULL, joules REAL NOT NULL)"
_WRITE = "INSERT OR REPLACE INTO energy (gpu, at, joules) VALUES (?, ?, ?)"


class SimulatedMeter:
    """Reads the counters of a simulated cluster, which live in its file.

    Args:
        path: the cluster's file.
        clock: the time it lives by.

    Raises:
        DriveError: there is no cluster.
    """

    def __init__(self, path: Path | str, clock: Clock) -> None:
        self._store = Store(path)
        self._clock = clock
        with self._store.transaction() as db:
            db.execute(_TABLE)

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[Reading, ...]:
        """Return the counters as they are now.

        Raises:
            DriveError: the cluster's file cannot be used.
        """
        with self._store.transaction() as db:
            now = meta.now(db, self._clock)
            last = {gpu: (at, joules) for gpu, at, joules in db.execute("SELECT gpu, at, joules FROM energy")}
            found = []
            for gpu in observation(db, now).gpus:
                at, joules = last.get(gpu.id, (now, 0.0))
                joules += 0.0 if gpu.lost else watts(gpu, busy) * max(0.0, now - at)
                db.execute(_WRITE, (gpu.id, now, joules))
                why = "the GPU fell off the bus" if gpu.lost else None
                told = None if gpu.lost else joules
                found.append(Reading(gpu.id, gpu.uuid, gpu.model, told, why=why, idle_w=IDLE_W))
        return tuple(found)

    def close(self) -> None:
        """Close the cluster's file."""
        self._store.close()


def watts(gpu: ObservedGpu, busy: Collection[tuple[str, int]]) -> float:
    """Return what a GPU draws by the power model.

    Args:
        gpu: as it was found.
        busy: instances (GPU's id and start) on which a job runs, besides those that are seen to be busy.
    """
    model = gpu_model(gpu.model)
    working = (
        each.placement.profile
        for each in gpu.instances
        if each.replica is not None or each.busy or (gpu.id, each.placement.start) in busy
    )
    compute = sum(model.profile(name).compute for name in working)
    base = IDLE_W + CONTEXT_W * (compute > 0)
    limit = model.power_limit_w or LIMIT_W
    return base + (limit - base) * min(1.0, compute / model.compute_slices)
