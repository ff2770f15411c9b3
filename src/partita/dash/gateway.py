"""What services do now, read from the metrics pages of their gateways, as a Prometheus would.

A thread of its own reads, so that a gateway that does not answer holds nothing up. What it says is compared with what
it said before: rates over the last seconds, latency over the last minute, what was in time and what was refused over
the last minutes. A counter that falls belongs to a gateway that was started again, and counts from there.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import time
import urllib.request
from bisect import bisect_left
from collections import defaultdict, deque
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite, isnan
from typing import TYPE_CHECKING, TypeVar

from partita.dash.source import InstanceLoad
from partita.errors import PartitaError
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from partita.dash.source import InstanceKey

K = TypeVar("K")

EVERY_S = 2.0
RATE_S, LATENCY_S, ATTAINMENT_S = 10.0, 60.0, 300.0
"""Over how many seconds rates, latencies and attainment are taken."""

_THIN_S = 10.0
"""Seconds between two readings that are kept beyond `RATE_S`."""

_TIMEOUT_S = 5.0
_LARGEST = 64 << 20
_LONGEST_S = 10.0
_MOST_COUNT = 1e15
"""What no count on a page exceeds; more is no measurement."""

_GONE_S = 15.0
"""Seconds after which a gateway that does not answer counts as gone."""

_WANTED = re.compile(
    r"partita_(requests_total|request_seconds_bucket|queue_length|in_flight|offered_items_total|refused_total"
    r"|instance_busy_seconds_total|instance_slowdown|slo_seconds|slo_objective)[ {]"
)


@dataclass(slots=True)
class _Counts:
    """Counters of one service, as of one reading."""

    outcomes: dict[str, float] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    latency: list[tuple[float, float]] = field(default_factory=list)
    """Upper edges in seconds, and how many answers took at most as long."""
    offered: float = 0.0


@dataclass(slots=True)
class _Reading:
    """A metrics page, as of one moment of the monotonic clock."""

    at: float
    services: dict[str, _Counts] = field(default_factory=lambda: defaultdict(_Counts))
    busy: dict[InstanceKey, float] = field(default_factory=dict)
    serves: dict[InstanceKey, str] = field(default_factory=dict)
    slowdown: dict[InstanceKey, float] = field(default_factory=dict)
    queue: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    slo_ms: dict[str, float] = field(default_factory=dict)
    quantile: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceNow:
    """What a service does now; None where nothing says so."""

    rate: float | None = None
    attainment: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    queue: int | None = None
    in_flight: int | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    slo_ms: float | None = None
    quantile: float | None = None


@dataclass(frozen=True, slots=True)
class GatewayNow:
    """What all gateways together say; nothing where none answers."""

    services: Mapping[str, ServiceNow] = field(default_factory=dict)
    load: Mapping[InstanceKey, InstanceLoad] = field(default_factory=dict)
    fault: str | None = None


class GatewayPage:
    """Readings of one gateway's metrics page.

    Args:
        url: of the gateway, with or without `/metrics`.
        token: bearer token; None if it needs none.
        ca: PEM file of the authority of its certificate; None for the system's.
    """

    def __init__(self, url: str, token: str | None = None, ca: Path | None = None) -> None:
        base = url if "://" in url else f"http://{url}"
        self.url = base if base.rstrip("/").endswith("/metrics") else f"{base.rstrip('/')}/metrics"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        tls = ssl.create_default_context(cafile=ca) if self.url.startswith("https:") else None
        # Neither a proxy nor a redirect gets to see the token.
        self._opener = urllib.request.OpenerDirector()
        for each in (urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(context=tls)):
            self._opener.add_handler(each)
        self._kept: deque[_Reading] = deque()

    def read(self, lock: AbstractContextManager[object] | None = None) -> None:
        """Read the page once, as of now.

        Args:
            lock: held while the page is taken over, but not while it is waited for.

        Raises:
            PartitaError: it does not answer, or not with a metrics page.
        """
        request = urllib.request.Request(self.url, headers=self._headers)  # noqa: S310 -- the user's own URL
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                status, page = answer.status, _whole(answer).decode("utf-8", "replace")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise PartitaError(f"the gateway does not answer: {error}", where=self.url) from None
        if status != 200:
            raise PartitaError(f"the gateway answers {status}", where=self.url)
        try:
            with lock or nullcontext():
                self.take(time.monotonic(), page)
        except ValueError as error:
            raise PartitaError(f"this is no metrics page: {error}", where=self.url) from None

    def take(self, now: float, page: str) -> None:
        """Take a page over as the newest reading.

        Raises:
            ValueError: it is no metrics page.
        """
        reading = parsed(now, page)
        kept = self._kept
        kept.append(reading)
        while len(kept) > 1 and kept[1].at <= now - ATTAINMENT_S:
            kept.popleft()
        # Old readings stand in for those near them.
        thinned = [kept[0]]
        for each, following in pairwise(list(kept)[1:]):
            if each.at > now - RATE_S - EVERY_S or following.at - thinned[-1].at > _THIN_S:
                thinned.append(each)
        if reading is not thinned[-1]:
            thinned.append(reading)
        self._kept = deque(thinned)

    def forget(self) -> None:
        """Forget all readings: the gateway is gone."""
        self._kept.clear()

    def last(self) -> _Reading | None:
        """Return the newest reading."""
        return self._kept[-1] if self._kept else None

    def before(self, seconds: float) -> _Reading | None:
        """Return the reading of so many seconds before the newest, or the oldest; None if there is but one."""
        if len(self._kept) < 2:
            return None
        since = self._kept[-1].at - seconds
        times = [each.at for each in self._kept]
        return self._kept[min(bisect_left(times, since), len(times) - 2)]


def _whole(answer: http.client.HTTPResponse) -> bytes:
    """Return the body of an answer.

    Raises:
        TimeoutError: it comes byte by byte, so that no single wait for it is too long.
    """
    end, body = time.monotonic() + _LONGEST_S, bytearray()
    while len(body) < _LARGEST and (piece := answer.read1(1 << 16)):
        body += piece
        if time.monotonic() > end:
            raise TimeoutError(f"its page has not come within {_LONGEST_S:g} s")
    return bytes(body)


def parsed(now: float, page: str) -> _Reading:
    """Return what a metrics page says.

    Raises:
        ValueError: it is no metrics page.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 -- of an extra

    wanted = "\n".join(line for line in page.splitlines() if _WANTED.match(line)) + "\n"
    found = _Reading(now)
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            if isfinite(sample.value) and abs(sample.value) <= _MOST_COUNT:
                _take(found, sample.name.removeprefix("partita_"), sample.labels, sample.value)
    for counts in found.services.values():
        counts.latency.sort()
    return found


def _take(found: _Reading, name: str, labels: Mapping[str, str], value: float) -> None:
    service = labels.get("service", "")
    if name.startswith("instance_"):
        gpu, _, placement = labels.get("gpu_instance", "").rpartition("/")
        try:
            key = gpu, Placement.parse(placement).start
        except PartitaError:
            return  # a worker that is on no instance
        if name == "instance_slowdown":
            found.slowdown[key] = value
        else:
            found.busy[key] = found.busy.get(key, 0.0) + value
            found.serves[key] = service
        return
    counts = found.services[service]
    match name:
        case "requests_total":
            counts.outcomes[labels.get("outcome", "")] = value
        case "request_seconds_bucket":
            counts.latency.append((_edge(labels.get("le", "inf")), value))
        case "offered_items_total":
            counts.offered = value
        case "refused_total":
            counts.refused[labels.get("reason", "")] = value
        case "queue_length":
            found.queue[service] = int(value)
        case "in_flight":
            found.in_flight[service] = int(value)
        case "slo_seconds":
            found.slo_ms[service] = value * 1000
        case "slo_objective":
            found.quantile[service] = value


def _edge(text: str) -> float:
    edge = float(text)
    if isnan(edge):
        raise ValueError("an edge of a histogram is no number")
    return edge


def together(pages: Sequence[GatewayPage]) -> GatewayNow:
    """Return what several gateways say together: counts add up, and latencies are those of all queries."""
    services = {name for page in pages if (last := page.last()) for name in last.services}
    load: dict[InstanceKey, InstanceLoad] = {}
    found = {name: _service(name, pages) for name in sorted(services)}
    busy: dict[InstanceKey, float] = defaultdict(float)
    for page in pages:
        last, then = page.last(), page.before(RATE_S)
        if last is None:
            continue
        for key, seconds in last.busy.items():
            service = found.get(last.serves[key])
            if then is not None and key in then.busy:
                busy[key] += max(0.0, seconds - then.busy[key]) / (last.at - then.at)
            share = min(1.0, busy[key]) if key in busy else None
            attained = service.attainment if service is not None else None
            load[key] = InstanceLoad(_rounded(share), _rounded(attained), last.slowdown.get(key))
    return GatewayNow(found, load)


def _service(name: str, pages: Sequence[GatewayPage]) -> ServiceNow:
    rate: float | None = None
    queue: int | None = None
    in_flight: int | None = None
    for page in pages:
        last, then = page.last(), page.before(RATE_S)
        if last is None or name not in last.services:
            continue
        queue = (queue or 0) + last.queue.get(name, 0)
        in_flight = (in_flight or 0) + last.in_flight.get(name, 0)
        if then is not None and name in then.services:
            more = last.services[name].offered - then.services[name].offered
            rate = (rate or 0.0) + max(0.0, more) / (last.at - then.at)
    outcomes: dict[str, float] = defaultdict(float)
    refused: dict[str, float] = defaultdict(float)
    for now, before in _windows(name, pages, ATTAINMENT_S):
        _add(outcomes, now.outcomes, before.outcomes)
        _add(refused, now.refused, before.refused)
    judged = sum(outcomes[each] for each in ("in_time", "late", "failed", "refused"))
    latency: dict[float, float] = defaultdict(float)
    for now, before in _windows(name, pages, LATENCY_S):
        _add(latency, dict(now.latency), dict(before.latency))
    p50, p95, p99 = (quantile_ms(latency, each) for each in (0.5, 0.95, 0.99))
    lasts = [last for page in pages if (last := page.last()) is not None]
    return ServiceNow(
        rate,
        outcomes["in_time"] / judged if judged else None,
        p50,
        p95,
        p99,
        queue,
        in_flight,
        {reason: round(count) for reason, count in sorted(refused.items()) if count},
        next((each.slo_ms[name] for each in lasts if name in each.slo_ms), None),
        next((each.quantile[name] for each in lasts if name in each.quantile), None),
    )


def _windows(name: str, pages: Sequence[GatewayPage], seconds: float) -> Iterator[tuple[_Counts, _Counts]]:
    for page in pages:
        last, then = page.last(), page.before(seconds)
        if last is not None and then is not None and name in last.services and name in then.services:
            now, before = last.services[name], then.services[name]
            yield now, _Counts() if now.offered < before.offered else before


def _add(total: dict[K, float], now: Mapping[K, float], before: Mapping[K, float]) -> None:
    for key, count in now.items():
        total[key] += max(0.0, count - before.get(key, 0.0))


def quantile_ms(cumulative: Mapping[float, float], share: float) -> float | None:
    """Return a quantile of a histogram in milliseconds, as Prometheus's `histogram_quantile` does.

    Args:
        cumulative: how many took at most so many seconds; the last edge is infinite.
        share: between 0 and 1.

    Returns:
        None without any; the last finite edge where the quantile lies beyond it.
    """
    edges = sorted(cumulative)
    total = cumulative[edges[-1]] if edges else 0.0
    if total <= 0:
        return None
    rank, low, under = share * total, 0.0, 0.0
    for edge in edges:
        upto = cumulative[edge]
        if upto >= rank:
            if edge == inf:
                return low * 1000
            return 1000 * (low + (edge - low) * ((rank - under) / (upto - under) if upto > under else 1.0))
        low, under = edge, upto
    return low * 1000


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 3)


class GatewayWatch:
    """Reads gateways again and again, each in a thread of its own, so that none waits for another; until `close`.

    Args:
        pages: of the gateways.
    """

    def __init__(self, pages: Sequence[GatewayPage]) -> None:
        self._pages = pages
        self._now = GatewayNow()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._faults: dict[str, str] = {}
        for page in pages:
            threading.Thread(target=self._run, args=(page,), name="gateway", daemon=True).start()

    def latest(self) -> GatewayNow:
        """Return what was read last."""
        return self._now

    def close(self) -> None:
        """Read no more."""
        self._ended.set()

    def _run(self, page: GatewayPage) -> None:
        silent: float | None = None
        while True:
            began, took = time.monotonic(), time.thread_time()
            fault: str | None = None
            try:
                page.read(self._lock)
            except PartitaError as error:
                fault = str(error)
            except Exception as error:  # noqa: BLE001 -- whatever a page says, the next one is read
                fault = f"{page.url}: {type(error).__name__}: {error}"
            with self._lock:
                if fault is None:
                    silent = None
                    self._faults.pop(page.url, None)
                else:
                    silent = began if silent is None else silent
                    self._faults[page.url] = fault
                    if time.monotonic() - silent > _GONE_S:
                        page.forget()
                found = together(self._pages)
                self._now = GatewayNow(found.services, found.load, next(iter(self._faults.values()), None))
            # A page so large that it takes long is read less often, rather than all the time.
            if self._ended.wait(max(EVERY_S, 10 * (time.thread_time() - took))):
                return
