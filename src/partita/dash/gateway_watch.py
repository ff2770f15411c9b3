"""Reads gateways again and again, as a Prometheus would, and says what they measure together.

Threads of their own read, so that a gateway that does not answer holds nothing up.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from partita.dash.measured import GatewayNow
from partita.errors import PartitaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from partita.dash.gateway import GatewayPage

EVERY_S = 2.0

_GONE_S = 15.0
"""Seconds after which a gateway that does not answer counts as gone."""

_UNKNOWN_S = 60.0
"""Seconds for which a gateway whose rates are not known may hold those of all gateways together up."""


class GatewayWatch:
    """Reads gateways again and again, each in a thread of its own, so that none waits for another; until `close`.

    All of them together take a tenth of a core: the larger their pages, the less often they are read. While the rates
    of one are not known, since it is new or does not answer, no rate of all together falls below that of before, for
    a minute at most.

    Args:
        pages: of the gateways.
        among: returns how many gateways share that tenth; by default those of this watch.
    """

    def __init__(self, pages: Sequence[GatewayPage] = (), *, among: Callable[[], int] | None = None) -> None:
        self._among = among or (lambda: len(self._followed))
        self._followed: dict[str, _Followed] = {}
        self._now = GatewayNow()
        self._news = False
        self._added_up = float("-inf")
        self._held: Mapping[str, float] | None = None
        self._lock = threading.Lock()
        self.follow(pages)

    @property
    def urls(self) -> frozenset[str]:
        """Those of the pages that are read."""
        return frozenset(self._followed)

    def latest(self) -> GatewayNow:
        """Return what was read last; the same object until more was read, and for 2 s at least."""
        with self._lock:
            now = time.monotonic()
            if self._news and now - self._added_up >= EVERY_S:
                self._news, self._added_up = False, now
                self._now = self._together()
            return self._now

    def follow(self, pages: Iterable[GatewayPage]) -> None:
        """Read these pages and no others; one of a URL that is read already goes on as it is."""
        wanted = {each.url: each for each in pages}
        with self._lock:
            for url in self._followed.keys() - wanted.keys():
                self._followed.pop(url).ended.set()
            began = [_Followed(page) for url, page in wanted.items() if url not in self._followed]
            self._followed |= {each.page.url: each for each in began}
            if not self._followed:
                self._now, self._news = GatewayNow(), False
        for each in began:
            threading.Thread(target=self._run, args=(each,), name="gateway", daemon=True).start()

    def close(self) -> None:
        """Read no more."""
        self.follow(())

    def _run(self, each: _Followed) -> None:
        while True:
            began, took = time.monotonic(), time.thread_time()
            fault: str | None = None
            try:
                each.page.read(self._lock)
            except PartitaError as error:
                fault = str(error)
            except Exception as error:  # noqa: BLE001 -- whatever a page says, the next one is read
                fault = f"{each.page.url}: {type(error).__name__}: {error}"
            with self._lock:
                if each.ended.is_set():
                    return
                each.note(began, fault)
                self._news = True
            # Pages so large that they take long are read less often, rather than all the time.
            if each.ended.wait(max(EVERY_S, 10 * (time.thread_time() - took) * self._among())):
                return

    def _together(self) -> GatewayNow:
        from partita.dash.gateway import together  # noqa: PLC0415 -- with numpy, for those who have gateways

        every = list(self._followed.values())
        found = together([each.page for each in every])
        services, now = dict(found.services), time.monotonic()
        if not any(each.unknown is not None and now - each.unknown < _UNKNOWN_S for each in every):
            self._held = None
        elif self._held is None:
            self._held = {
                name: each.rate for name, each in self._now.services.items() if each.rate is not None
            }
        for name, rate in (self._held or {}).items():
            service = services.get(name)
            if service is not None and (service.rate is None or service.rate < rate):
                services[name] = replace(service, rate=rate)
        faults = (each.fault for each in every if each.fault is not None)
        return GatewayNow(services, found.load, next(faults, None))


class _Followed:
    """A page that is read.

    Attributes:
        ended: set when it is to be read no more.
        fault: why the last reading failed; None if it did not.
        unknown: since when its rates are not known, on the monotonic clock; None where they are.
    """

    def __init__(self, page: GatewayPage) -> None:
        self.page = page
        self.ended = threading.Event()
        self.fault: str | None = None
        self.unknown: float | None = time.monotonic()
        self._silent: float | None = None

    def note(self, began: float, fault: str | None) -> None:
        """Take down how a reading went that began at a time."""
        self.fault = fault
        if fault is None:
            self._silent = None
            if self.page.rated:
                self.unknown = None
            return
        self._silent = began if self._silent is None else self._silent
        self.unknown = began if self.unknown is None else self.unknown
        if time.monotonic() - self._silent > _GONE_S:
            self.page.forget()
