"""What services do now, read from the metrics pages of their gateways, as a Prometheus would.

Threads of their own read, so that a gateway that does not answer holds nothing up. What it says is compared with what
it said before: rates over the last seconds, latency over the last minute, what was in time and what was refused over
the last minutes. A counter that falls belongs to a gateway that was started again: what it counts is added to what it
counted before.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import time
import urllib.request
from array import array
from bisect import bisect_left
from collections import defaultdict, deque
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf, isfinite, isnan
from operator import add
from typing import TYPE_CHECKING, TypeVar

from partita.dash.source import InstanceLoad
from partita.errors import PartitaError
from partita.mig.layout import Placement
from partita.workload import QUANTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from partita.dash.model import Service
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

_UNKNOWN_S = 60.0
"""Seconds for which a gateway whose rates are not known may hold those of all gateways together up."""

_WANTED = re.compile(
    r"partita_(requests_total|request_seconds_bucket|queue_length|in_flight|offered_items_total|refused_total"
    r"|instance_busy_seconds_total|instance_slowdown|slo_seconds|slo_objective)[ {]"
)


@dataclass(slots=True)
class _Counts:
    """Counters of one service, as of one reading."""

    outcomes: dict[str, float] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    edges: tuple[float, ...] = ()
    """Of the histogram of latencies, in seconds, ascending."""
    latency: array[float] = field(default_factory=lambda: array("d"))
    """How many answers took at most as long as each edge says."""
    offered: float = 0.0

    def __add__(self, more: _Counts) -> _Counts:
        """Return both added up; the histogram is the other's where its edges are others."""
        same = self.edges == more.edges
        latency = array("d", map(add, self.latency, more.latency)) if same else more.latency
        return _Counts(
            _sum(self.outcomes, more.outcomes),
            _sum(self.refused, more.refused),
            more.edges,
            latency,
            self.offered + more.offered,
        )

    def began_again(self, now: _Counts) -> bool:
        """Return whether later counts are lower: those of a process that was started since."""
        return now.offered < self.offered or sum(now.outcomes.values()) < sum(self.outcomes.values())


def _sum(these: Mapping[str, float], those: Mapping[str, float]) -> dict[str, float]:
    return {key: these.get(key, 0.0) + those.get(key, 0.0) for key in these.keys() | those.keys()}


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
        named: whether its certificate must name the URL's host.
    """

    def __init__(
        self, url: str, token: str | None = None, ca: Path | None = None, *, named: bool = True
    ) -> None:
        base = url if "://" in url else f"http://{url}"
        self.url = base if base.rstrip("/").endswith("/metrics") else f"{base.rstrip('/')}/metrics"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        tls = ssl.create_default_context(cafile=ca) if self.url.startswith("https:") else None
        if tls is not None:
            tls.check_hostname = named
        # Neither a proxy nor a redirect gets to see the token.
        self._opener = urllib.request.OpenerDirector()
        for each in (urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(context=tls)):
            self._opener.add_handler(each)
        self._kept: deque[_Reading] = deque()
        self._newest: dict[str, _Counts] = {}
        self._before: dict[str, _Counts] = {}
        self._newest_busy: dict[InstanceKey, float] = {}
        self._busy_before: dict[InstanceKey, float] = defaultdict(float)

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
        self._add_up(reading)
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

    def _add_up(self, reading: _Reading) -> None:
        """Add what the gateway counted before it was started again, and keep once what has not changed."""
        last = self._kept[-1].services if self._kept else {}
        services = dict(reading.services)
        if any(each.began_again(services[name]) for name, each in self._newest.items() if name in services):
            self._before = dict(last)
        for name, counts in services.items():
            whole = self._before[name] + counts if name in self._before else counts
            reading.services[name] = last[name] if last.get(name) == whole else whole
        self._newest = services
        busy = dict(reading.busy)
        for key, seconds in busy.items():
            if seconds < self._newest_busy.get(key, 0.0):
                self._busy_before[key] += self._newest_busy[key]
            reading.busy[key] = seconds + self._busy_before.get(key, 0.0)
        self._newest_busy = busy

    def forget(self) -> None:
        """Forget all readings: the gateway is gone."""
        self._kept.clear()
        self._newest, self._before, self._newest_busy = {}, {}, {}
        self._busy_before.clear()

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
    buckets: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            if isfinite(sample.value) and abs(sample.value) <= _MOST_COUNT:
                if sample.name == "partita_request_seconds_bucket":
                    buckets[sample.labels.get("service", "")].append(
                        (_edge(sample.labels.get("le", "inf")), sample.value)
                    )
                else:
                    _take(found, sample.name.removeprefix("partita_"), sample.labels, sample.value)
    known: dict[tuple[float, ...], tuple[float, ...]] = {}
    for service, rows in buckets.items():
        rows.sort()
        counts, edges = found.services[service], tuple(edge for edge, _ in rows)
        counts.edges = known.setdefault(edges, edges)
        counts.latency = array("d", (count for _, count in rows))
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
        earlier = dict(zip(before.edges, before.latency, strict=True))
        # A bucket that was not there, as that of another SLO, counts from the start: nothing says what came since.
        known = {
            each: n for each, n in zip(now.edges, now.latency, strict=True) if each in earlier or not earlier
        }
        _add(latency, known, earlier)
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
            yield last.services[name], then.services[name]


def _add(total: dict[K, float], now: Mapping[K, float], before: Mapping[K, float]) -> None:
    for key, count in now.items():
        total[key] += max(0.0, count - before.get(key, 0.0))


def quantile_ms(cumulative: Mapping[float, float], share: float) -> float | None:
    """Return a quantile of a histogram in milliseconds, as Prometheus's `histogram_quantile` does.

    It is an estimate: within a bucket answers count as spread evenly. A gateway has the SLO as an edge, so that on
    which side of it the quantile lies is no estimate.

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
        upto = max(under, cumulative[edge])  # gateways of unlike SLOs have unlike edges
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
        self._held: Mapping[str, float] | None = None
        self._lock = threading.Lock()
        self.follow(pages)

    @property
    def urls(self) -> frozenset[str]:
        """Those of the pages that are read."""
        return frozenset(self._followed)

    def latest(self) -> GatewayNow:
        """Return what was read last."""
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
                self._now = GatewayNow()
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
                self._now = self._together()
            # Pages so large that they take long are read less often, rather than all the time.
            if each.ended.wait(max(EVERY_S, 10 * (time.thread_time() - took) * self._among())):
                return

    def _together(self) -> GatewayNow:
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
            if self.page.before(RATE_S) is not None:
                self.unknown = None
            return
        self._silent = began if self._silent is None else self._silent
        self.unknown = began if self.unknown is None else self.unknown
        if time.monotonic() - self._silent > _GONE_S:
            self.page.forget()


def load_change(before: GatewayNow, now: GatewayNow) -> dict[InstanceKey, InstanceLoad]:
    """Return the loads of all instances now; unknown ones of those of which nothing is said any more."""
    return {**{key: InstanceLoad() for key in before.load if key not in now.load}, **now.load}


def with_measured(service: Service, now: ServiceNow) -> Service:
    """Return a service with what gateways measure of it, and their SLO, or its share, where it has none."""
    slo_ms = now.slo_ms if service.slo_ms is None else service.slo_ms
    return service.replace(
        slo_ms=slo_ms,
        quantile=service.quantile or now.quantile or (None if slo_ms is None else QUANTILE),
        rate=_digits(now.rate),
        attainment=_digits(now.attainment, 4),
        p50_ms=_digits(now.p50_ms),
        p95_ms=_digits(now.p95_ms),
        p99_ms=_digits(now.p99_ms),
        queue=now.queue,
        in_flight=now.in_flight,
        refused=dict(now.refused),
    )


def _digits(value: float | None, digits: int = 5) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")
