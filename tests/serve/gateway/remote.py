"""Workers that listen at addresses."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.process.ports import free_ports
from tests.serve.gateway.workers import spec

from partita.serve.services import WorkerAddress
from partita.serve.worker.spec import ListenSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


TOKEN = "correct-horse-battery-staple"  # noqa: S105 -- it opens nothing else
PATIENCE_S = 30.0


class RemoteWorker:
    """A process that listens at an address."""

    def __init__(self, folder: Path, number: int, seconds: dict[int, float], **more: object) -> None:
        made = spec(None, number, seconds, **more)
        assert made.listen is not None
        self.listen = made.listen
        path = folder / f"remote-{number}.json"
        path.write_text(made.text())
        self.log = folder / f"remote-{number}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "partita.serve.worker", str(path)], stderr=log
            )

    @property
    def address(self) -> WorkerAddress:
        return WorkerAddress("one", self.listen.host, self.listen.port)

    def wait_listening(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while "listens at" not in self.log.read_text():
            assert time.monotonic() < end
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)


class RemoteWorkers:
    """Processes, by number, with their files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[RemoteWorker] = []

    def start(
        self,
        seconds: dict[int, float],
        listen: dict[str, object] | None = None,
        *,
        token: bool = False,
        **more: object,
    ) -> RemoteWorker:
        fields: dict[str, object] = {"host": "127.0.0.1", "port": free_ports(1)[0], **(listen or {})}
        if token:
            (self.folder / "token").write_text(TOKEN)
            fields["token_file"] = str(self.folder / "token")
        made = RemoteWorker(self.folder, len(self.made), seconds, listen=ListenSpec(**fields), **more)  # type: ignore[arg-type]
        self.made.append(made)
        return made


@contextmanager
def remote_workers(folder: Path) -> Iterator[RemoteWorkers]:
    made = RemoteWorkers(folder)
    try:
        yield made
    finally:
        for each in made.made:
            each.process.kill()
        for each in made.made:
            each.process.wait()
