"""Controllers of one namespace, as processes that are started, stopped for a while, and killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes


class Controllers:
    """A namespace of a cluster with nodes, and its controllers."""

    hold_s = 1
    """Seconds for which they hold a plan."""

    def __init__(self, plane: ControlPlane, nodes: SimulatedNodes, namespace: str, folder: Path) -> None:
        self.plane, self.nodes, self.namespace = plane, nodes, namespace
        self.admin = plane.admin
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self._log_of: dict[int, Path] = {}

    def controller(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a controller."""
        path = self._folder / f"controller-{len(self._running)}.log"
        log = path.open("wb")
        command = [
            sys.executable, "-m", "partita", "controller", "--kubeconfig", str(self.plane.kubeconfig("admin")),
            "--namespace", self.namespace, "--lease", f"partita-{self.namespace}", "--poll", "0.5", "--port", "0",
            "--hold", str(self.hold_s), *words,
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        self._running.append(process)
        self._log_of[process.pid] = path
        return process

    def log_of(self, process: subprocess.Popen[bytes]) -> str:
        """Return the log of one of them."""
        return self._log_of[process.pid].read_text()

    def stop(self) -> None:
        """Kill the running controllers."""
        for process in self._running:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def logs(self) -> str:
        """Return their logs."""
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("controller-*.log")))
