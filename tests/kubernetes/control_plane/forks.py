"""Controllers by the dozen: processes forked from one that has imported all they need, so that each starts at once.

Each is a process and a session of its own and runs the command as `python -m partita` does. Only the imports, a
second of a core, are not repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.cluster import Guard

SERVER = """
import json, os, signal, sys
import kubernetes.client.api_client, kubernetes.config, partita.cli.controller
from partita.cli.main import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    words, log = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.argv = ["partita", *words]
        try:
            main()
        finally:
            os._exit(1)
    print(pid, flush=True)
"""


class ForkedController:
    """A controller that was forked."""

    def __init__(self, pid: int, log: Path, guard: Guard) -> None:
        self.pid, self.log = pid, log
        self._guard = guard

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def kill(self) -> None:
        """Kill it, and return when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while self.alive:
            time.sleep(0.005)
        self._guard.forget(self.pid)


class ForkServer:
    """Forks controllers; a context manager that ends them all."""

    def __init__(self, guard: Guard, folder: Path) -> None:
        self._guard, self._folder = guard, folder
        self._made: list[ForkedController] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._made:
            each.kill()
        self._process.communicate()

    def start(self, words: list[str]) -> ForkedController:
        """Start a controller with the words of its command line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        log = self._folder / f"forked-{len(self._made) + 1}.log"
        self._process.stdin.write(json.dumps([words, str(log)]) + "\n")
        self._process.stdin.flush()
        found = ForkedController(int(self._process.stdout.readline()), log, self._guard)
        self._guard.adopt(found.pid)
        self._made.append(found)
        return found
