"""Records of the replicas on this host, one file each, so that a restarted controller finds them again."""

from __future__ import annotations

import json
import secrets
import signal
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from partita.drive.replicas import procs
from partita.errors import InputError
from partita.files import json_value, read_text, replacing
from partita.mig.layout import Placement
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    from pathlib import Path

    from partita.drive.port import Identity


@dataclass(frozen=True, slots=True)
class Record:
    """A replica on an instance of this host.

    Attributes:
        token: carried by its processes in their environment.
        pid: of its first process; None for an upstream server's replica, and just before a process is started.
        began: when that process began, in ticks since boot.
        boot: the boot of the host in which it runs.
        port: given to it; None if its command names none.
        model: of its GPU; empty in records of earlier versions.
        upstream: it is a server's that runs already.
        told: an upstream server has answered that it is ready.
    """

    gpu_uuid: str
    placement: Placement
    mig_uuid: str
    replica: Replica
    token: str
    boot: str
    pid: int | None = None
    began: int | None = None
    port: int | None = None
    model: str = ""
    upstream: bool = False
    told: bool = False
    draining: bool = False

    def leader(self) -> int | None:
        """Return the pid of its first process if that lives."""
        if self.boot != procs.boot_id():
            return None
        if self.pid is None:
            return min(procs.carrying(self.token), default=None)
        return self.pid if procs.began(self.pid) == self.began else None

    def alive(self) -> bool:
        """Say whether it is there."""
        return self.boot == procs.boot_id() if self.upstream else self.leader() is not None

    def owns(self, pid: int) -> bool:
        """Say whether a process is one of its own."""
        return pid == self.pid or pid in procs.carrying(self.token)

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to all its processes; to none that only has the pid of one."""
        leader = self.leader()
        if leader is not None:
            procs.send_group(leader, which)
        if which is signal.SIGKILL:
            for pid in procs.carrying(self.token):
                procs.send(pid, which)


def new_record(identity: Identity, placement: Placement, replica: Replica, model: str) -> Record:
    """Return the record of a replica that is about to be started on a GPU of some model."""
    return Record(
        identity.gpu_uuid,
        placement,
        str(identity.mig_uuid),
        replica,
        secrets.token_hex(16),
        procs.boot_id(),
        model=model,
    )


class Records:
    """The folder of records and logs.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def find(self, gpu_uuid: str, placement: Placement) -> Record | None:
        """Return the record of the replica at a place, None if there is none.

        Raises:
            InputError: its file is damaged; it is kept as it is.
        """
        path = self._path(gpu_uuid, placement)
        try:
            found = _read(path) if path.is_file() else None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"a replica's record cannot be read: {error}",
                where=str(path),
                hint="see which process it names, end that, and remove the file",
            ) from None
        return found if found is not None and found.placement == placement else None

    def write(self, record: Record) -> None:
        """Write a record, whole or not at all."""
        with replacing(self._path(record.gpu_uuid, record.placement)) as stream:
            json.dump({**asdict(record), "placement": str(record.placement)}, stream, indent=2)

    def remove(self, record: Record) -> None:
        """Remove a record, and the document of its process."""
        self.document(record).unlink(missing_ok=True)
        self._path(record.gpu_uuid, record.placement).unlink(missing_ok=True)

    def log(self, record: Record) -> Path:
        """Return the file that its output goes to."""
        return self._path(record.gpu_uuid, record.placement).with_suffix(".log")

    def document(self, record: Record) -> Path:
        """Return the file that its process reads."""
        return self._path(record.gpu_uuid, record.placement).with_suffix(".document")

    def gpus(self) -> frozenset[str]:
        """Return the UUIDs of the GPUs that have records."""
        return frozenset(path.stem.rpartition("@")[0] for path in self._folder.glob("*@*.json"))

    def ports(self) -> set[int]:
        """Return the ports that replicas were given."""
        found = (json_value(read_text(path)).get("port") for path in self._folder.glob("*.json"))
        return {port for port in found if port is not None}

    def last_words(self, record: Record) -> str:
        """Return the last line of its log, empty if there is none."""
        try:
            with self.log(record).open("rb") as stream:
                stream.seek(max(0, self.log(record).stat().st_size - 4096))
                lines = stream.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    def _path(self, gpu_uuid: str, placement: Placement) -> Path:
        return self._folder / f"{gpu_uuid}@{placement.start}.json"


def _read(path: Path) -> Record:
    data = json_value(read_text(path))
    found = Record(**data)
    return replace(found, placement=Placement.parse(data["placement"]), replica=Replica(**data["replica"]))
