"""The simulated cluster from outside: made, and troubled as the real world troubles one."""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING

from partita.drive.port import NoRoomError
from partita.drive.simulated import acts, faults, meta
from partita.drive.simulated.store import Store
from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

    from partita.drive.simulated.faults import Fault
    from partita.mig.layout import Placement


class SimulatedCluster:
    """A cluster that is there: what happens to it that no driver of ours does.

    Args:
        path: its file.

    Raises:
        DriveError: there is none.
    """

    def __init__(self, path: Path | str) -> None:
        self._store = Store(path)

    @classmethod
    def create(cls, path: Path | str, gpus: Iterable[tuple[str, str]], *, seed: int = 0) -> SimulatedCluster:
        """Make a cluster of GPUs in MIG mode, with nothing on them, at time 0.

        Args:
            path: its file, which must not be there.
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
            meta.begin(db, seed)
            db.executemany("INSERT INTO gpus (id, uuid, model) VALUES (?, ?, ?)", rows)

        Store(path, fill).close()
        return cls(path)

    def inject(self, fault: Fault) -> None:
        """Have something go wrong with actions to come."""
        with self._store.transaction() as db:
            faults.inject(db, fault)

    def lose(self, gpu: str) -> None:
        """Make a GPU fall off the bus, with all that is on it."""
        with self._store.transaction() as db:
            lose(db, gpu)

    def restore(self, gpu: str) -> None:
        """Bring a lost GPU back, empty as after a reset."""
        with self._store.transaction() as db:
            db.execute("UPDATE gpus SET lost = 0 WHERE id = ?", (gpu,))

    def set_mig(self, gpu: str, *, on: bool) -> None:
        """Turn MIG mode on or off; turned off, all instances go."""
        with self._store.transaction() as db:
            if not on:
                db.execute("DELETE FROM instances WHERE gpu = ?", (gpu,))
            db.execute("UPDATE gpus SET mig = ? WHERE id = ?", (on, gpu))

    def create_foreign(self, gpu: str, placement: Placement, *, busy: bool = False) -> None:
        """Have someone else create an instance; `busy` if a process of theirs runs on it.

        Raises:
            DriveError: the GPU's rules do not allow it, or it is lost, or MIG is off.
        """
        with self._store.transaction() as db:
            acts.insert_instance(db, acts.usable(db, gpu, now=0.0), placement, ours=False)
            acts.complete(db, gpu, placement, meta.draw(db))
            self._set_busy(db, gpu, placement, busy=busy)

    def destroy_behind_our_back(self, gpu: str, placement: Placement) -> None:
        """Have someone else destroy an instance, whoever's it is, and what runs on it."""
        with self._store.transaction() as db:
            _require(db, gpu, placement)
            db.execute("DELETE FROM instances WHERE gpu = ? AND start = ?", (gpu, placement.start))

    def set_busy(self, gpu: str, placement: Placement, *, busy: bool) -> None:
        """Have someone else's process run on an instance, or end."""
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
    """Make a GPU fall off the bus, with all that is on it."""
    db.execute("DELETE FROM instances WHERE gpu = ?", (gpu,))
    db.execute("UPDATE gpus SET lost = 1 WHERE id = ?", (gpu,))


def _require(db: sqlite3.Connection, gpu: str, placement: Placement) -> None:
    find = "SELECT 1 FROM instances WHERE gpu = ? AND start = ? AND profile = ?"
    if db.execute(find, (gpu, placement.start, placement.profile)).fetchone() is None:
        raise NoRoomError("there is no such instance", where=f"{gpu} {placement}")
