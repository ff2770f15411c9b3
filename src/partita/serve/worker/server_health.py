"""Asks a server that is not asked for anything else whether it still answers: an idle one may hang unnoticed."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from partita.serve.worker.log import note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from partita.serve.worker.oip_client import Client
    from partita.serve.worker.server_process import ServerProcess

PROBE_S = 2.0
"""Seconds between two questions, and that an answer may take."""


class ServerHealth:
    """Knows whether a server answers.

    It asks over the connection of the first lane and while no lane asks: a server may serve one connection, or one
    request, at a time, and the batches under way have a limit of their own.

    Args:
        clients: one for each lane.
        path: answered with 200 while the model is ready.
        server: the server's process where it is ours; it is killed when it hangs, and its worker ends with it.
        hang_timeout_s: seconds without an answer after which it hangs.
        every_s: seconds between two questions, and that an answer may take.
        look: is handed the first client each time that the server has answered, nobody else using it.

    Attributes:
        lanes: a lane's is held while it asks.
        fault: why the server cannot be asked; None if it can.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        path: str,
        server: ServerProcess | None,
        hang_timeout_s: float,
        every_s: float = PROBE_S,
        *,
        look: Callable[[Client], None] | None = None,
    ) -> None:
        self.lanes = tuple(threading.Lock() for _ in clients)
        self.fault: str | None = None
        self._client, self._path, self._server = clients[0], path, server
        self._hang_timeout_s, self._every_s = hang_timeout_s, min(every_s, hang_timeout_s / 2)
        self._look = look
        self._closed = threading.Event()
        self._since: float | None = None

    def start(self) -> None:
        """Ask from now on."""
        threading.Thread(target=self._ask_again, name="server-health", daemon=True).start()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _ask_again(self) -> None:
        while not self._closed.wait(self._every_s):
            with ExitStack() as held:
                if all(self._hold(lane, held) for lane in self.lanes):
                    answers = self._client.ready(self._path, self._every_s)
                    self._judge(answers=answers)
                    if answers and self._look is not None:
                        self._look(self._client)

    @staticmethod
    def _hold(lane: threading.Lock, held: ExitStack) -> bool:
        if lane.acquire(blocking=False):
            held.callback(lane.release)
            return True
        return False

    def _judge(self, *, answers: bool) -> None:
        now = time.monotonic()
        if answers:
            if self.fault is not None:
                note("the server answers again")
            self.fault = self._since = None
            return
        if self._since is None:
            self._since = now
            self.fault = f"the server does not say at {self._path} that it is ready"
            note(self.fault)
        if self._server is not None and now - self._since > self._hang_timeout_s:
            note(f"it has not for {self._hang_timeout_s:g} s: it is killed")
            self._server.kill()
            self.close()
