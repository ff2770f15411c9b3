"""The client of the daemon's socket.

Answers are returned as plain data, which commands print: importing the codec would take as long as the daemon takes
to answer, and the daemon has checked them already.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Self

from partita.errors import DeniedError, InputError, PartitaError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType


FILE = "daemon.sock"
"""The daemon's socket, in the queue's folder."""


@contextmanager
def address(path: Path) -> Iterator[str]:
    """Yield a short path of a socket, valid while the block runs: its folder is an open descriptor.

    Raises:
        OSError: the folder cannot be opened.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


PATIENCE_S = 30.0

KINDS: Mapping[str, type[PartitaError]] = {
    "unknown": UnknownNameError,
    "input": InputError,
    "denied": DeniedError,
    "failed": PartitaError,
}
"""What a daemon calls the kind of a refusal, the narrowest first."""


class NoDaemonError(PartitaError):
    """No daemon answers."""


class BusyDaemonError(NoDaemonError):
    """A daemon is there, and has not answered in time."""


class OtherVersionError(PartitaError):
    """A daemon tells less than this program needs."""


_RESTART = "the daemon is of another version: restart it (jobs survive)"


class _Told(dict[str, Any]):
    """An object of an answer: reading a field that it lacks is an error, as daemons of other versions say less."""

    def __missing__(self, name: str) -> NoReturn:
        raise OtherVersionError(f"the daemon does not tell `{name}`", hint=_RESTART)


class QueueClient:
    """A connection to the daemon of a state folder, opened by the first request.

    Args:
        folder: `jobs` in the state folder.
        patience_s: seconds to wait for an answer.
    """

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self._path = folder / FILE
        self._patience_s = patience_s
        self._peer: socket.socket | None = None
        self._heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._peer is not None:
            self._peer.close()
        self._peer, self._heard = None, b""

    def ask(self, what: str, **fields: object) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            NoDaemonError: no daemon answers.
            OtherVersionError: it does not tell what every daemon of this version tells; raised also where a field
                of the answer is read that is not there.
            PartitaError: the daemon refused; the error says why, and is of the kind that it was there.
        """
        try:
            answer = self._exchange(json.dumps({"ask": what, **fields}).encode() + b"\n")
        except (OSError, EOFError) as error:
            self.close()
            raise self._no_daemon(error) from None
        ok = answer["ok"]
        del answer["ok"]
        if ok:
            return answer
        refusal = answer["error"]
        # Older daemons tell no kind, and newer ones perhaps one that is not known here.
        by_code = InputError if refusal.get("exit_code") == InputError.exit_code else PartitaError
        kind = KINDS.get(refusal.get("kind", ""), by_code)
        raise kind(refusal["what"], where=refusal.get("where"), hint=refusal.get("hint"))

    def _exchange(self, request: bytes) -> dict[str, Any]:
        if self._peer is None:
            self._peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._peer.settimeout(self._patience_s)
            with address(self._path) as short:
                self._peer.connect(short)
        self._peer.sendall(request)
        while b"\n" not in self._heard:
            data = self._peer.recv(2**20)
            if not data:
                raise EOFError
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        try:
            found = json.loads(line, object_hook=_Told)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise OtherVersionError("the answer of the daemon cannot be read", hint=_RESTART)
        return found

    def _no_daemon(self, error: OSError | EOFError) -> NoDaemonError:
        if isinstance(error, PermissionError):
            return NoDaemonError(
                "you may not reach this daemon",
                where=str(self._path),
                hint="start your own, with PARTITA_STATE set to a folder of yours: partita daemon",
            )
        if isinstance(error, TimeoutError):
            return BusyDaemonError(
                f"the daemon has not answered for {self._patience_s:g} s", where=str(self._path)
            )
        return NoDaemonError(
            "no daemon answers",
            where=str(self._path),
            hint="start it: `partita daemon`; on a machine without GPUs "
            "`partita daemon --driver simulated --simulate a100-80gb:1`; "
            "set PARTITA_STATE for one with another state folder",
        )
