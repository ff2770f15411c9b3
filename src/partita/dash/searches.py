"""Plans that are searched on demand, in a process of their own, so that the pages stay live meanwhile.

The process is started when it is first needed, keeps the last workload prepared, and ends with this one. It does one
search after another; a what-if of somebody ends the one before of theirs.
"""

from __future__ import annotations

import signal
import threading
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from partita.errors import InputError, PartitaError, nearest
from partita.process.keeper import end_with_parent, uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.sharedctypes import SynchronizedArray

    from partita.dash.model import WhatIf, WhatIfAnswer
    from partita.planner import PreparedWorkload
    from partita.planning.plan import Plan

T = TypeVar("T")

_MOST = 256
"""Searches that may wait or run at once."""


class SupersededError(PartitaError):
    """Whoever asked has asked for something else since."""


class AskedWorkload(Protocol):
    """A workload that searches are about. Their process gets a copy, and keeps it until it gets another."""

    @property
    def version(self) -> str:
        """What it is: of two with the same version, one is not sent again."""
        ...

    @property
    def words(self) -> tuple[str, ...]:
        """The command that plans it as it is."""
        ...

    def prepared(self) -> PreparedWorkload:
        """Return it prepared to be planned, as it is now; called in the process that searches, may take long.

        Raises:
            PartitaError: it cannot be planned.
        """
        ...


class WorkloadFile:
    """A workload's file, which is read again when it or one of its tables has changed.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[tuple[tuple[int, int], ...], PreparedWorkload] | None = None

    @property
    def version(self) -> str:
        """Its path: what stands in it is looked at when it is used."""
        return str(self._path)

    @property
    def words(self) -> tuple[str, ...]:
        """The command that plans it as it is."""
        return ("partita", "plan", "-f", str(self._path))

    def prepared(self) -> PreparedWorkload:
        """Return it prepared to be planned, as its files are now.

        Raises:
            InputError: it cannot be read.
        """
        from partita.planner import read_prepared  # noqa: PLC0415 -- the process that asks needs none of it

        known = self._known
        if known is None or known[0] != _files(self._path, known[1]):
            made = read_prepared(self._path)
            known = self._known = _files(self._path, made), made
        return known[1]


class Searches:
    """Searches for plans of workloads. Methods may be called from any thread, and block.

    Attributes:
        asked: how many what-ifs were asked for.
    """

    def __init__(self) -> None:
        self._context = get_context("spawn")
        self._ended = self._context.Array("b", _MOST, lock=False)
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._sent: str | None = None
        self._over = False
        self.asked = 0
        self._newest: dict[tuple[str, str], int] = {}

    def warm(self, workload: AskedWorkload) -> None:
        """Start the process and have it prepare a workload; return at once."""
        self._submit(_warm, workload)

    def what_if(
        self, workload: AskedWorkload, asked: WhatIf, applied: Mapping[str, int] | None
    ) -> WhatIfAnswer:
        """Answer a what-if. It ends searches of the same `client` that go on, but one for a plan none for a bound.

        Args:
            workload: as it is.
            asked: what would be different.
            applied: GPUs in use by model in the plan that was applied last.

        Raises:
            SupersededError: they asked again meanwhile.
            InputError: the workload cannot be read, or not be so.
            PartitaError: no plan was found in time.
        """
        with self._lock:
            number = self.asked % _MOST
            self.asked += 1
            for until in ("plan",) if asked.until == "plan" else ("bound", "plan"):
                before = self._newest.get((asked.client, until))
                if before is not None:
                    self._ended[before] = 1
            mine = (asked.client, asked.until)
            self._newest[mine] = number
            self._ended[number] = 0
        try:
            found = self._run(_what_if, workload, asked, applied, number)
        finally:
            with self._lock:
                if self._newest.get(mine) == number:
                    del self._newest[mine]
        if found is None and self._over:
            raise _closed()
        if found is None:
            raise SupersededError("a newer what-if ended this one")
        return found

    def explain(self, workload: AskedWorkload, service: str, made: Plan) -> dict[str, object]:
        """Explain a service of a workload's plan, as `partita explain` does; takes some seconds.

        Raises:
            InputError: the workload cannot be read, or has no such service.
        """
        return self._run(_explain, workload, service, made)

    def close(self) -> None:
        """End the process, and the search that goes on; what is asked for later is refused."""
        with self._lock:
            pool, self._pool, self._over = self._pool, None, True
            for number in range(_MOST):
                self._ended[number] = 1
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _submit(
        self, search: Callable[..., T], workload: AskedWorkload, *arguments: object
    ) -> tuple[ProcessPoolExecutor, Future[T]]:
        """Have the process search, which takes one search after another; send it the workload if it has another."""
        with self._lock:
            if self._over:
                raise _closed()
            if self._pool is None:
                self._pool, self._sent = ProcessPoolExecutor(1, self._context, _begin, (self._ended,)), None
            sent = None if self._sent == workload.version else workload
            with uninterrupted():
                asked = self._pool.submit(search, sent, *arguments)
            self._sent = workload.version
            return self._pool, asked

    def _run(self, search: Callable[..., T], workload: AskedWorkload, *arguments: object) -> T:
        pool = self._pool
        try:
            pool, asked = self._submit(search, workload, *arguments)
            return asked.result()
        except CancelledError:
            raise _closed() from None
        except BrokenProcessPool:
            with self._lock:
                if self._pool is pool:
                    self._pool = None
            raise PartitaError(
                "the process that searches ended",
                hint="if the host's memory is full, ask for less; then ask again",
            ) from None


def _closed() -> PartitaError:
    return PartitaError("no search begins any more: this program ends", hint="ask again when it is back")


# --- in the process that searches


class _Kept:
    """What the process keeps."""

    ended: SynchronizedArray[int] | None = None
    workload: AskedWorkload | None = None


def _begin(ended: SynchronizedArray[int]) -> None:
    """Prepare the process: interrupts at a terminal are for its parent, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Kept.ended = ended
    end_with_parent()


def _warm(sent: AskedWorkload | None) -> None:
    from partita.planning.exact import compile_for  # noqa: PLC0415 -- as above

    problem = _told(sent).prepared().problem
    # Searches are quicker once their loops are compiled, and do without until then.
    threading.Thread(target=compile_for, args=(problem,), daemon=True).start()


def _told(sent: AskedWorkload | None) -> AskedWorkload:
    """Return the workload that is asked about: the one that is sent, or else the last one that was."""
    if sent is not None:
        _Kept.workload = sent
    if _Kept.workload is None:
        raise AssertionError("no workload was sent")
    return _Kept.workload


def _files(path: Path, prepared: PreparedWorkload) -> tuple[tuple[int, int], ...]:
    found = []
    for name in (path, *map(Path, prepared.workload.performance)):
        try:
            status = name.stat()
        except OSError:
            found.append((0, 0))  # the reader says what is wrong
            continue
        found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)


def _what_if(
    sent: AskedWorkload | None, asked: WhatIf, applied: Mapping[str, int] | None, number: int
) -> WhatIfAnswer | None:
    """Answer a what-if; None if it was ended."""
    from partita.dash.what_if import answer  # noqa: PLC0415 -- as above
    from partita.deadline import Deadline  # noqa: PLC0415 -- as above

    workload, ended = _told(sent), _Kept.ended
    if ended is None:
        raise AssertionError("the process was not begun")
    if ended[number]:
        return None
    prepared = workload.prepared()
    try:
        deadline = Deadline(asked.seconds, lambda: bool(ended[number]))
        found = answer(prepared, asked, deadline=deadline, applied=applied, words=workload.words)
    except PartitaError:
        if ended[number]:
            return None
        raise
    return None if ended[number] else found


def _explain(sent: AskedWorkload | None, service: str, made: Plan) -> dict[str, Any]:
    from partita.documents.codec import to_data  # noqa: PLC0415 -- as above
    from partita.explanation import explain_service  # noqa: PLC0415 -- as above

    prepared = _told(sent).prepared()
    specs = {spec.name: spec for spec in prepared.workload.services}
    if service not in specs:
        close = nearest(service, list(specs))
        raise InputError(
            f"the workload has no service {service!r}",
            where="name",
            hint=f"did you mean {close}?" if close else None,
        )
    found: dict[str, Any] = to_data(explain_service(prepared, made, specs[service]).to_dict())
    return found
