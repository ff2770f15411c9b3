"""What the server keeps while it runs: the source, the fleet as of the last look, the stream and the history."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from partita.dash.fleet import FleetState
from partita.dash.history import History
from partita.dash.stream import EventStream

if TYPE_CHECKING:
    from partita.dash.model import Part, Service
    from partita.dash.on_demand import OnDemand
    from partita.dash.source import Look, Source
    from partita.documents.codec import Value
    from partita.errors import PartitaError

MOST_THREADS = 16
SERVICES_PER_S = 100
_GZIP_LEVEL = 4


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document that is encoded already, and is kept by its maker."""

    body: bytes
    gzipped: bytes


@dataclass(slots=True)
class ApiState:
    """What all answers are made of.

    Attributes:
        lock: held while the source is asked, which one thread may do at a time.
        on_demand: answers what is asked for on demand; None where nothing does.
        fault: why the last look saw nothing; None where it did.
        threads: of slow answers, which are that many at a time.
        searches: likewise of those that search for plans, so that they hold nothing else up.
        looker: the thread that looks, so that slow answers hold no look up.
    """

    source: Source
    fleet: FleetState = field(default_factory=FleetState)
    stream: EventStream = field(default_factory=EventStream)
    history: History = field(default_factory=lambda: History(None))
    lock: threading.Lock = field(default_factory=threading.Lock)
    fault: PartitaError | None = None
    threads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_THREADS))
    searches: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_THREADS))
    on_demand: OnDemand | None = None
    looker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "look"))
    _encoded: dict[str, tuple[str, Encoded]] = field(default_factory=dict)
    _state: tuple[str, str] | None = None
    _untold: dict[str, Service] = field(default_factory=dict)
    _services_next: float = 0.0

    @classmethod
    def of(cls, source: Source, history: History, on_demand: OnDemand | None) -> ApiState:
        """Return the state of a source, and of what answers on demand, which uses the same lock."""
        lock = threading.Lock() if on_demand is None else on_demand.lock
        return cls(source, history=history, lock=lock, on_demand=on_demand)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that there are."""
        return (*self.source.parts, *(() if self.on_demand is None else self.on_demand.parts))

    def state(self) -> str:
        """Return the fingerprint of the whole state; made once for each version of the fleet.

        Raises:
            PartitaError: nothing can be seen.
        """
        version = self.fleet.version
        if self._state is None or self._state[0] != version:
            with self.lock:
                self._state = (version, self.source.state())
        return self._state[1]

    def services_due(self, seen: Look) -> tuple[Service, ...]:
        """Return changed services to tell, as they are now.

        A thousand services whose rates change with every reading of a gateway are told every ten seconds.
        """
        self._untold.update((each.name, each) for each in seen.services)
        for name in seen.gone_services:
            self._untold.pop(name, None)
        now = time.monotonic()
        if len(self._untold) > SERVICES_PER_S and now < self._services_next:
            return ()
        told = tuple(self._untold.values())
        self._untold.clear()
        self._services_next = now + len(told) / SERVICES_PER_S
        return told

    def encoded(self, name: str, version: str, document: Value) -> Encoded:
        """Return a large document as bytes, kept until its version is another."""
        known = self._encoded.get(name)
        if known is None or known[0] != version:
            body = msgspec.json.encode(document)
            made = Encoded(body, gzip.compress(body, _GZIP_LEVEL, mtime=0))
            known = self._encoded[name] = (version, made)
        return known[1]
