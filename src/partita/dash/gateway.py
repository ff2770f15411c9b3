"""Metrics pages of gateways: read line by line, kept as arrays, and added up.

A page has the same series at each reading, but for a change of what runs. So its lines are looked up in a layout,
which says where each series stands in an array, and which all gateways that have the same series share. What is kept
are arrays of counters, as far as they are compared: rates with 10 s ago, latency with a minute ago, what was in time
and what was refused with 5 minutes ago. A counter that falls belongs to a gateway that was started again: what it
counts is added to what it counted before.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
import urllib.request
from collections import defaultdict, deque
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import inf, isnan, nan
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from weakref import WeakSet

import numpy as np

from partita.dash.measured import GatewayNow, ServiceNow
from partita.dash.source import InstanceLoad
from partita.errors import PartitaError
from partita.mig.layout import Placement
from partita.serve.tls import ClientTrust

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import TypeAlias

    from numpy.typing import NDArray

    from partita.dash.source import InstanceKey

    Numbers: TypeAlias = NDArray[np.float64]
    Places: TypeAlias = NDArray[np.intp]

K = TypeVar("K")

RATE_S, LATENCY_S, ATTAINMENT_S = 10.0, 60.0, 300.0
"""Over how many seconds rates, latencies and attainment are taken."""

_POINTS = 10
"""How many points of each of these times are kept: its begin is known to a tenth of it."""

_TIMEOUT_S = 5.0
_LONGEST_S = 10.0
_LARGEST = 64 << 20
_LONGEST_LINE = 64 << 10
_MOST_SERIES = 300_000
"""Most series that are taken from a page: those of about 7,000 services."""
_MOST_COUNT = 1e15
"""What no count on a page exceeds; more is no measurement."""

_WANTED = re.compile(
    rb"^partita_(?:requests_total|request_seconds_bucket|queue_length|in_flight|offered_items_total|refused_total"
    rb"|instance_busy_seconds_total|instance_slowdown|slo_seconds|slo_objective)\{.*$",
    re.MULTILINE,
)
_OURS = re.compile(rb"^(?:# (?:HELP|TYPE) )?partita_", re.MULTILINE)
_TIMED = re.compile(rb"(.*\}) (\S+) -?\d+\s*")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\.)*)"(?:,|$)')
_ESCAPED = re.compile(r"\\(.)")

_BUSY, _SLOWDOWN = "instance_busy_seconds_total", "instance_slowdown"
_OFFERED, _OUTCOMES, _REFUSED = "offered_items_total", "requests_total", "refused_total"
_LATENCY = "request_seconds_bucket"
_QUEUE, _IN_FLIGHT, _SLO, _QUANTILE = "queue_length", "in_flight", "slo_seconds", "slo_objective"
_DETAIL = {
    _OUTCOMES: "outcome", _LATENCY: "le", _REFUSED: "reason", _BUSY: "gpu_instance", _SLOWDOWN: "gpu_instance",
}  # fmt: skip
"""The label beside the service, of the series that have one."""
_LASTING = frozenset({_OFFERED, _LATENCY, _OUTCOMES, _REFUSED})
"""Counters of services, which never fall while their gateway runs."""
_JUDGED = ("in_time", "late", "failed", "refused")
"""Outcomes of queries that count for attainment."""


class _Key(NamedTuple):
    """What a series is: its name, its service, and the value of its other label."""

    name: str
    service: str
    detail: str


def _key(text: bytes) -> _Key:
    """Return what a series is, from the text before its value.

    Raises:
        ValueError: it is no series.
    """
    name, _, inside = text.decode("utf-8", "replace").removeprefix("partita_").partition("{")
    labels, at, end = {}, 0, len(inside) - 1
    while at < end:
        found = _LABEL.match(inside, at, end)
        if found is None:
            raise ValueError(f"{text[:80]!r} is no series")
        labels[found[1]], at = found[2], found.end()
    return _Key(name, _plain(labels.get("service", "")), _plain(labels.get(_DETAIL.get(name, ""), "")))


def _plain(text: str) -> str:
    """Return the value of a label without its escapes."""
    return _ESCAPED.sub(lambda each: "\n" if each[1] == "n" else each[1], text) if "\\" in text else text


def _split(line: bytes) -> tuple[bytes, bytes]:
    """Return a series, and its value.

    Raises:
        ValueError: it is no line of a metrics page.
    """
    series, _, value = line.rpartition(b" ")
    if series.endswith(b"}"):
        return series, value
    timed = _TIMED.fullmatch(line)
    if timed is None:
        raise ValueError(f"{line[:80]!r} is no series with a value")
    return timed[1], timed[2]


@dataclass(slots=True)
class _OfService:
    """Where the series of a service stand."""

    single: dict[str, int] = field(default_factory=dict)
    """Those without another label, by name."""
    outcomes: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    latency: dict[float, int] = field(default_factory=dict)
    """By upper edge, in seconds: how many answers took at most as long."""


@dataclass(slots=True)
class _OnInstance:
    """Where the series of an instance stand, and a service that it serves."""

    serves: str
    busy: list[int] = field(default_factory=list)
    slowdown: list[int] = field(default_factory=list)


class _Layout:
    """Where each series of a page stands in an array.

    Args:
        lines: those that are wanted of a page.

    Attributes:
        keys: what each series is.
        services: where the series of each service stand, by name.
        instances: likewise, by instance.
        windows: where that stands of which the increase over 10 s, a minute, and 5 minutes is asked.
        lasting: where counters of services stand, which never fall while their gateway runs.
        busy: where the seconds of work stand, which begin anew with each worker.
        gauges: where queues and queries in flight stand.

    Raises:
        ValueError: these are no series, or too many.
    """

    def __init__(self, lines: Sequence[bytes]) -> None:
        if len(lines) > _MOST_SERIES:
            raise ValueError(f"it has more than {_MOST_SERIES:,} series")
        self._at = {_split(line)[0]: place for place, line in enumerate(lines)}
        if len(self._at) < len(lines):
            raise ValueError("a series is on it twice")
        self.keys = [_key(text) for text in self._at]
        self.services: dict[str, _OfService] = {}
        self.instances: dict[InstanceKey, _OnInstance] = {}
        named: dict[str, list[int]] = defaultdict(list)
        for place, key in enumerate(self.keys):
            named[key.name].append(place)
            if key.name in {_BUSY, _SLOWDOWN}:
                self._put_instance(place, key)
            else:
                self._put(place, key)

        def places(*names: str) -> Places:
            return np.array([place for name in names for place in named[name]], np.intp)

        self.windows = places(_OFFERED, _BUSY), places(_LATENCY), places(_OUTCOMES, _REFUSED)
        self.lasting = places(*_LASTING)
        self.busy = places(_BUSY)
        self.gauges = places(_QUEUE, _IN_FLIGHT)

    def _put(self, place: int, key: _Key) -> None:
        of = self.services.setdefault(key.service, _OfService())
        match key.name:
            case "requests_total":
                of.outcomes[key.detail] = place
            case "refused_total":
                of.refused[key.detail] = place
            case "request_seconds_bucket":
                edge = float(key.detail)
                if isnan(edge):
                    raise ValueError("an edge of a histogram is no number")
                of.latency[edge] = place
            case _:
                of.single[key.name] = place

    def _put_instance(self, place: int, key: _Key) -> None:
        gpu, _, placement = key.detail.rpartition("/")
        try:
            at = gpu, Placement.parse(placement).start
        except PartitaError:
            return  # a worker that is on no instance
        on = self.instances.setdefault(at, _OnInstance(key.service))
        (on.busy if key.name == _BUSY else on.slowdown).append(place)

    def values(self, lines: Sequence[bytes]) -> Numbers | None:
        """Return the values of a page, NaN for those that are none; None if its series are not these.

        Raises:
            ValueError: it is no metrics page.
        """
        if len(lines) != len(self._at):
            return None
        found, place_of = [nan] * len(lines), self._at.get
        for line in lines:
            series, value = _split(line)
            place = place_of(series)
            if place is None:
                return None
            found[place] = float(value)
        made = np.array(found)
        made[~(np.abs(made) <= _MOST_COUNT)] = nan
        return made


class _Layouts:
    """The layouts of all pages that are read; gateways that have the same series share one."""

    def __init__(self) -> None:
        self._known: WeakSet[_Layout] = WeakSet()
        self._lock = threading.Lock()

    def read(self, lines: Sequence[bytes]) -> tuple[_Layout, Numbers]:
        """Return a layout and the values of a page in it.

        Raises:
            ValueError: it is no metrics page.
        """
        with self._lock:
            for each in list(self._known):
                values = each.values(lines)
                if values is not None:
                    return each, values
            made = _Layout(lines)
            values = made.values(lines)
            if values is None:
                raise AssertionError("a layout of these lines has their series")
            self._known.add(made)
            return made, values


_LAYOUTS = _Layouts()


class _Window:
    """Counters as they were: some points over a time, and the newest."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.points: deque[tuple[float, Numbers]] = deque()

    def take(self, at: float, values: Numbers) -> None:
        """Take the newest values down."""
        points = self.points
        if len(points) > 1 and points[-1][0] - points[-2][0] < self._seconds / _POINTS:
            points.pop()
        points.append((at, values))
        while len(points) > 2 and points[1][0] <= at - self._seconds:
            points.popleft()

    def increase(self) -> tuple[Numbers, float] | None:
        """Return by how much each counter rose, and over how many seconds; None without two readings."""
        if len(self.points) < 2:
            return None
        (begin, before), (end, now) = self.points[0], self.points[-1]
        return now - before, max(1e-3, end - begin)


class GatewayPage:
    """Readings of one gateway's metrics page.

    Args:
        url: of the gateway, with or without `/metrics`.
        token: bearer token; None if it needs none.
        ca: PEM file of the authority of its certificate; None for the system's.
        named: whether its certificate must name the URL's host.

    Attributes:
        layout: where the series of the newest reading stand; None without a reading.
        newest: its values.
        windows: of what is compared with 10 s, a minute, and 5 minutes ago.
    """

    def __init__(
        self, url: str, token: str | None = None, ca: Path | None = None, *, named: bool = True
    ) -> None:
        base = url if "://" in url else f"http://{url}"
        self.url = base if base.rstrip("/").endswith("/metrics") else f"{base.rstrip('/')}/metrics"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._trust = ClientTrust(ca, named=named) if self.url.startswith("https:") else None
        self.forget()

    def _opener(self) -> urllib.request.OpenerDirector:
        """Return what opens the page; neither a proxy nor a redirect gets to see the token."""
        made = urllib.request.OpenerDirector()
        tls = None if self._trust is None else self._trust.current()
        for each in (urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(context=tls)):
            made.add_handler(each)
        return made

    def forget(self) -> None:
        """Forget all readings: the gateway is gone."""
        self.layout: _Layout | None = None
        self.newest: Numbers = np.zeros(0)
        self._earlier: Numbers = np.zeros(0)  # counted before it was started again
        self.windows = tuple(map(_Window, (RATE_S, LATENCY_S, ATTAINMENT_S)))

    @property
    def rated(self) -> bool:
        """Whether its rates are known: it was read twice."""
        return len(self.windows[0].points) > 1

    def read(self, lock: AbstractContextManager[object] | None = None) -> None:
        """Read the page once, as of now.

        Args:
            lock: held while the page is taken over, but not while it is waited for.

        Raises:
            PartitaError: it does not answer, or not with a metrics page.
        """
        request = urllib.request.Request(self.url, headers=self._headers)  # noqa: S310 -- the user's own URL
        try:
            with self._opener().open(request, timeout=_TIMEOUT_S) as answer:
                status = answer.status
                lines = _lines(answer) if status == 200 else []
        except _NoPageError as error:
            raise PartitaError(f"this is no metrics page: {error}", where=self.url) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise PartitaError(f"the gateway does not answer: {error}", where=self.url) from None
        if status != 200:
            raise PartitaError(f"the gateway answers {status}", where=self.url)
        try:
            self._take(time.monotonic(), lines, lock or nullcontext())
        except ValueError as error:
            raise PartitaError(f"this is no metrics page: {error}", where=self.url) from None

    def take(self, now: float, page: str) -> None:
        """Take a page over as the newest reading.

        Raises:
            ValueError: it is no metrics page.
        """
        self._take(now, _WANTED.findall(page.encode()), nullcontext())

    def _take(self, now: float, lines: Sequence[bytes], lock: AbstractContextManager[object]) -> None:
        values = None if self.layout is None else self.layout.values(lines)
        layout = self.layout
        if layout is None or values is None:
            layout, values = _LAYOUTS.read(lines)
        with lock:
            if self.layout is None:
                self._earlier = np.zeros(len(values))
            else:
                if self.layout is not layout:
                    self._move(self.layout, layout, values)
                self._add_up(layout, values)
            self.layout, self.newest = layout, values
            whole = values + self._earlier
            for window, places in zip(self.windows, layout.windows, strict=True):
                window.take(now, whole[places])

    def _add_up(self, layout: _Layout, now: Numbers) -> None:
        """Add what was counted before the gateway, or a worker of it, was started again."""
        fell = now < self.newest  # what is no number did not
        if fell[layout.lasting].any():
            self._earlier[layout.lasting] += np.nan_to_num(self.newest[layout.lasting])
        begun = layout.busy[fell[layout.busy]]
        self._earlier[begun] += self.newest[begun]

    def _move(self, before: _Layout, now: _Layout, values: Numbers) -> None:
        """Have what is kept stand where the series of another layout do.

        A series that is new counts from zero where its service is known. Where it is not, it counts from now on, and
        its rate is unknown until it was there for as long as rates are taken over. So is a new bucket of a known
        histogram, as that of another SLO: it counts from the start, and nothing says what came since.
        """
        at = {key: place for place, key in enumerate(before.keys)}
        moved = np.array([at.get(key, -1) for key in now.keys], np.intp)
        there = moved >= 0
        of = [before.services.get(key.service) if key.name in _LASTING else None for key in now.keys]
        bucket = np.array([key.name == _LATENCY for key in now.keys]) & np.array(
            [each is not None and bool(each.latency) for each in of]
        )
        zero = np.array([each is not None for each in of]) & ~bucket

        def carried(kept: Numbers, unknown: Numbers | float) -> Numbers:
            made: Numbers = np.where(zero, 0.0, unknown)
            made[there] = kept[moved[there]]
            return made

        for window, old, places in zip(self.windows, before.windows, now.windows, strict=True):
            unknown = (
                np.full(len(values), nan) if window is self.windows[0] else np.where(bucket, nan, values)
            )
            for number, (when, kept) in enumerate(window.points):
                whole = np.full(len(before.keys), nan)
                whole[old] = kept
                window.points[number] = when, carried(whole, unknown)[places]
        self.newest, self._earlier = carried(self.newest, nan), carried(self._earlier, 0.0)


class _NoPageError(ValueError):
    """What comes is no metrics page."""


def _lines(answer: http.client.HTTPResponse) -> list[bytes]:
    """Return the lines of a page that are wanted; no more of it is ever in memory.

    Raises:
        TimeoutError: it comes byte by byte, so that no single wait for it is too long.
        _NoPageError: it is no metrics page of a gateway, or is too large.
    """
    end, read, rest, ours = time.monotonic() + _LONGEST_S, 0, b"", False
    found: list[bytes] = []
    while piece := answer.read1(1 << 16):
        read += len(piece)
        whole, _, rest = (rest + piece).rpartition(b"\n")
        ours = ours or _OURS.search(whole) is not None
        found += _WANTED.findall(whole)
        if len(rest) > _LONGEST_LINE:
            raise _NoPageError(f"a line is longer than {_LONGEST_LINE >> 10} KiB")
        if read > _LARGEST or len(found) > _MOST_SERIES:
            raise _NoPageError(f"it has more than {_LARGEST >> 20} MiB, or than {_MOST_SERIES:,} series")
        if time.monotonic() > end:
            raise TimeoutError(f"its page has not come within {_LONGEST_S:g} s")
    found += _WANTED.findall(rest)
    if not ours and _OURS.search(rest) is None:
        raise _NoPageError("it has no metrics of Partita")
    return found


class _Sums:
    """What gateways that have the same series say together.

    Args:
        layout: where these stand.
        pages: of the gateways.

    Attributes:
        layout: likewise.
        total: increases (of offered items and seconds of work for each second) and gauges, added up.
        known: whether an increase is known.
        highest: the highest of the newest values; NaN if there is none.
    """

    def __init__(self, layout: _Layout, pages: Iterable[GatewayPage]) -> None:
        count = len(layout.keys)
        total, known, highest = np.zeros(count), np.zeros(count, np.bool_), np.full(count, nan)
        for page in pages:
            for window, places in zip(page.windows, layout.windows, strict=True):
                increase = window.increase()
                if increase is not None:
                    more, seconds = increase
                    there = ~np.isnan(more)
                    share = 1 / seconds if window is page.windows[0] else 1.0
                    total[places] += np.where(there, np.maximum(more, 0.0), 0.0) * share
                    known[places] |= there
            total[layout.gauges] += np.nan_to_num(page.newest[layout.gauges])
            highest = np.fmax(highest, page.newest)
        self.layout = layout
        self.total: list[float] = total.tolist()
        self.known: list[bool] = known.tolist()
        self.highest: list[float] = highest.tolist()

    def increases(self, places: Mapping[K, int]) -> dict[K, float]:
        """Return what stands at some places."""
        return {key: self.total[place] for key, place in places.items()}


def together(pages: Iterable[GatewayPage]) -> GatewayNow:
    """Return what several gateways say together: counts add up, and latencies are those of all queries."""
    by_layout: dict[int, list[GatewayPage]] = defaultdict(list)
    for page in pages:
        if page.layout is not None:
            by_layout[id(page.layout)].append(page)
    sums = [_Sums(those[0].layout, those) for those in by_layout.values() if those[0].layout is not None]
    services = {
        name: _service(name, sums) for name in sorted({n for each in sums for n in each.layout.services})
    }
    busy: dict[InstanceKey, float] = defaultdict(float)
    slow: dict[InstanceKey, float] = defaultdict(lambda: nan)
    serves: dict[InstanceKey, str] = {}
    for each in sums:
        for key, on in each.layout.instances.items():
            serves[key] = on.serves
            for place in on.busy:
                if each.known[place]:
                    busy[key] += each.total[place]
            for place in on.slowdown:
                slow[key] = max(each.highest[place], slow[key])
    load = {}
    for key, name in serves.items():
        service = services.get(name)
        load[key] = InstanceLoad(
            _rounded(min(1.0, busy[key]) if key in busy else None),
            _rounded(None if service is None else service.attainment),
            _number(slow[key]),
        )
    return GatewayNow(services, load)


def _service(name: str, sums: Iterable[_Sums]) -> ServiceNow:
    rate: float | None = None
    queue, in_flight = 0.0, 0.0
    outcomes: dict[str, float] = defaultdict(float)
    refused: dict[str, float] = defaultdict(float)
    latency: dict[float, float] = defaultdict(float)
    promise: dict[str, float] = {}
    for each in sums:
        of = each.layout.services.get(name)
        if of is None:
            continue
        offered = of.single.get(_OFFERED)
        if offered is not None and each.known[offered]:
            rate = (rate or 0.0) + each.total[offered]
        single = each.increases(of.single)
        queue += single.get(_QUEUE, 0.0)
        in_flight += single.get(_IN_FLIGHT, 0.0)
        for total, places in ((outcomes, of.outcomes), (refused, of.refused)):
            for key, count in each.increases(places).items():
                total[key] += count
        for edge, place in of.latency.items():
            if each.known[place]:
                latency[edge] += each.total[place]
        promise |= {
            key: value
            for key in (_SLO, _QUANTILE)
            if key in of.single and not isnan(value := each.highest[of.single[key]])
        }
    judged = sum(outcomes[each] for each in _JUDGED)
    p50, p95, p99 = (quantile_ms(latency, each) for each in (0.5, 0.95, 0.99))
    return ServiceNow(
        rate,
        outcomes["in_time"] / judged if judged else None,
        p50,
        p95,
        p99,
        int(queue),
        int(in_flight),
        {reason: round(count) for reason, count in sorted(refused.items()) if count},
        promise[_SLO] * 1000 if _SLO in promise else None,
        promise.get(_QUANTILE),
    )


def _number(value: float) -> float | None:
    return None if isnan(value) else value


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
