"""A simulated cluster from outside: creating it, disturbing it as the real world would, and its energy counters.

A GPU draws its idle power plus, for each busy instance, a share of the rest up to the power limit in proportion to
the instance's compute slices. Counters assume that the power now was the power since the last reading, so they are
the more exact the more often they are read.
"""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING

from partita.drive.driver import EnergyReading, NoRoomError
from partita.drive.simulated import actions, store
from partita.drive.simulated.store import ClusterFile, observation
from partita.mig.catalogue import gpu_model
from partita.mig.gpu import CONTEXT_W, IDLE_W, LIMIT_W

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from partita.drive.driver import ObservedGpu
    from partita.drive.simulated.actions import InjectedFault
    from partita.mig.layout import Placement
    from partita.sim.clock import Clock


class SimulatedCluster:
    """An existing cluster, and what others do to it: losses, foreign instances, killed processes.

    Args:
        path: its file.

    Raises:
        DriveError: there is none.
    """

    def __init__(self, path: Path | str) -> None:
        self._store = ClusterFile(path)

    @classmethod
    def create(cls, path: Path | str, gpus: Iterable[tuple[str, str]], *, seed: int = 0) -> SimulatedCluster:
        """Create a cluster of GPUs in MIG mode, with nothing on them, at time 0.

        Args:
            path: its file, which must not exist.
            gpus: pairs of id (`node-0/gpu-0`) and the catalogue's model.
            seed: of durations and UUIDs.

        Raises:
            InputError: a model that the catalogue does not have.
            DriveError: the file is there already, or two GPUs have one id.
        """
        rng = random.Random(seed)
        rows = [
            (name, f"GPU-{uuid.UUID(int=rng.getrandbits(128), version=4)}", gpu_model(model).name)
            for name, model in gpus
        ]

        def fill(db: sqlite3.Connection) -> None:
            store.begin_meta(db, seed)
            db.executemany("INSERT INTO gpus (id, uuid, model) VALUES (?, ?, ?)", rows)

        ClusterFile(path, fill).close()
        return cls(path)

    def inject(self, fault: InjectedFault) -> None:
        """Make later actions fail."""
        with self._store.transaction() as db:
            actions.inject(db, fault)

    def lose(self, gpu: str) -> None:
        """Make a GPU fall off the bus, with everything on it."""
        with self._store.transaction() as db:
            lose(db, gpu)

    def restore(self, gpu: str) -> None:
        """Bring a lost GPU back, empty as after a reset."""
        with self._store.transaction() as db:
            db.execute("UPDATE gpus SET lost = 0 WHERE id = ?", (gpu,))

    def set_mig(self, gpu: str, *, on: bool) -> None:
        """Turn MIG mode on or off; turning it off destroys all instances."""
        with self._store.transaction() as db:
            if not on:
                db.execute("DELETE FROM instances WHERE gpu = ?", (gpu,))
            db.execute("UPDATE gpus SET mig = ? WHERE id = ?", (on, gpu))

    def create_foreign(self, gpu: str, placement: Placement, *, busy: bool = False) -> None:
        """Create an instance as someone else; `busy` if a process of theirs runs on it.

        Raises:
            DriveError: the GPU's rules do not allow it, or it is lost, or MIG is off.
        """
        with self._store.transaction() as db:
            actions.insert_instance(db, actions.usable(db, gpu, now=0.0), placement, ours=False)
            actions.complete(db, gpu, placement, store.draw_random(db))
            self._set_busy(db, gpu, placement, busy=busy)

    def destroy_behind_our_back(self, gpu: str, placement: Placement) -> None:
        """Destroy an instance, ours or not, and what runs on it, as someone else."""
        with self._store.transaction() as db:
            _require(db, gpu, placement)
            db.execute("DELETE FROM instances WHERE gpu = ? AND start = ?", (gpu, placement.start))

    def set_busy(self, gpu: str, placement: Placement, *, busy: bool) -> None:
        """Start or end someone else's process on an instance."""
        with self._store.transaction() as db:
            self._set_busy(db, gpu, placement, busy=busy)

    def kill_replica(self, gpu: str, placement: Placement) -> None:
        """End a replica's process."""
        with self._store.transaction() as db:
            _require(db, gpu, placement)
            db.execute("DELETE FROM replicas WHERE gpu = ? AND start = ?", (gpu, placement.start))

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def _set_busy(self, db: sqlite3.Connection, gpu: str, placement: Placement, *, busy: bool) -> None:
        _require(db, gpu, placement)
        db.execute("UPDATE instances SET busy = ? WHERE gpu = ? AND start = ?", (busy, gpu, placement.start))


def lose(db: sqlite3.Connection, gpu: str) -> None:
    """Make a GPU fall off the bus, with everything on it."""
    db.execute("DELETE FROM instances WHERE gpu = ?", (gpu,))
    db.execute("UPDATE gpus SET lost = 1 WHERE id = ?", (gpu,))


def _require(db: sqlite3.Connection, gpu: str, placement: Placement) -> None:
    find = "SELECT 1 FROM instances WHERE gpu = ? AND start = ? AND profile = ?"
    if db.execute(find, (gpu, placement.start, placement.profile)).fetchone() is None:
        raise NoRoomError("there is no such instance", where=f"{gpu} {placement}")


_TABLE = "CREATE TABLE IF NOT EXISTS energy (gpu TEXT PRIMARY KEY, at REAL NOT NULL, joules REAL NOT NULL)"
_WRITE = "INSERT OR REPLACE INTO energy (gpu, at, joules) VALUES (?, ?, ?)"


class SimulatedEnergyMeter:
    """Reads the counters of a simulated cluster, which its file keeps.

    Args:
        path: the cluster's file.
        clock: the cluster's clock.

    Raises:
        DriveError: there is no cluster.
    """

    def __init__(self, path: Path | str, clock: Clock) -> None:
        self._store = ClusterFile(path)
        self._clock = clock
        with self._store.transaction() as db:
            db.execute(_TABLE)

    def energy(self, busy: Collection[tuple[str, int]] = ()) -> tuple[EnergyReading, ...]:
        """Return the counters as they are now.

        Raises:
            DriveError: the cluster's file cannot be used.
        """
        with self._store.transaction() as db:
            now = store.current_time(db, self._clock)
            last = {gpu: (at, joules) for gpu, at, joules in db.execute("SELECT gpu, at, joules FROM energy")}
            found = []
            for gpu in observation(db, now).gpus:
                at, joules = last.get(gpu.id, (now, 0.0))
                joules += 0.0 if gpu.lost else watts(gpu, busy) * max(0.0, now - at)
                db.execute(_WRITE, (gpu.id, now, joules))
                why = "the GPU fell off the bus" if gpu.lost else None
                told = None if gpu.lost else joules
                found.append(EnergyReading(gpu.id, gpu.uuid, gpu.model, told, why=why, idle_w=IDLE_W))
        return tuple(found)

    def close(self) -> None:
        """Close the cluster's file."""
        self._store.close()


def watts(gpu: ObservedGpu, busy: Collection[tuple[str, int]]) -> float:
    """Return what a GPU draws by the power model.

    Args:
        gpu: as it was observed.
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
