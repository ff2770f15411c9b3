"""A server that a worker starts for itself, and that does not outlive it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.serve.worker.log import note

if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_GRACE_S = 10.0


def free_port() -> int:
    """Return a TCP port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """The server. To be made in the main thread, with whose end the kernel ends the server too (prctl(2)).

    Args:
        command: its words.

    Raises:
        InputError: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        prctl = ctypes.CDLL(None).prctl
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- the user's own command
                list(command),
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 -- one call, no lock
            )
        except OSError as error:
            raise InputError(f"cannot be started: {error.strerror}", where=command[0]) from None
        self._closing = False
        self._watcher = threading.Thread(target=self._watch, name="server", daemon=True)
        self._watcher.start()

    @property
    def ended(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.returncode

    def close(self) -> None:
        """End it."""
        self._closing = True
        self._process.terminate()
        self._watcher.join(_GRACE_S)
        self._process.kill()
        self._watcher.join()

    def kill(self) -> None:
        """End it by force; its worker ends as it does whenever its server has."""
        self._process.kill()

    def _watch(self) -> None:
        """End the worker when its server ends: there is nothing left to serve with."""
        code = self._process.wait()
        if not self._closing:
            note(f"the server ended with {code}")
            os.kill(os.getpid(), signal.SIGTERM)
