"""The section on the gateway under load: tables of rates, latencies, ratios and decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from benchmarks.gateway_clients import MOST_ADDED_MS, version
from benchmarks.gateway_processes import may_come_first
from benchmarks.report import table

if TYPE_CHECKING:
    from benchmarks.gateway_clients import Load
    from benchmarks.gateway_processes import Pinning

_SHOWN = (500, 1000, 2500, 3000)


@dataclass(frozen=True, slots=True)
class Measured:
    """One server under load.

    Attributes:
        name: with its version and the bodies.
        pinning: of its processes.
        work_ms: that a worker takes; 0 for an echo.
        steps: by the rate asked for.
        closed: answers per second in a closed loop.
        costs: by rates that it sustained, CPU seconds of the front for each request; none where it shares cores.
    """

    name: str
    pinning: Pinning
    work_ms: float
    steps: dict[int, Load]
    closed: float
    costs: dict[int, float]

    @property
    def highest(self) -> int:
        """The highest rate that it sustained, 0 if none."""
        return max(
            (rate for rate, found in self.steps.items() if found.sustained(rate, self.work_ms)), default=0
        )

    @property
    def cost(self) -> float | None:
        """CPU seconds of the front for each request at the highest rate sustained."""
        return self.costs[max(self.costs)] if self.costs else None

    def cheapness(self, other: Measured) -> str:
        """Return another's CPU for each request by its own, at the highest rate that both sustained, and the rate."""
        rates = self.costs.keys() & other.costs.keys()
        if not rates:
            return "-"
        rate = max(rates)
        return f"{other.costs[rate] / self.costs[rate]:.2f} at {rate:,}/s"

    def added(self, rate: int) -> str:
        """Return what it added to the work at a rate: p50 / p99 in ms."""
        found = self.steps.get(rate)
        if found is None:
            return "-"
        failed = f", {found.failed / found.sent:.1%} failed" if found.failed else ""
        return f"{found.p50 - self.work_ms:.2f} / {found.p99 - self.work_ms:.2f}{failed}"


@dataclass(slots=True)
class Found:
    """All that was measured.

    Attributes:
        headline: JSON at 2,500 requests/s for longer.
        decisions: how many took at most so many seconds meanwhile.
        how: each other server's configuration.
        skipped: why others were not measured.
    """

    measured: list[Measured] = field(default_factory=list)
    headline: Load | None = None
    decisions: dict[float, float] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def text(found: Found) -> str:
    """Return the section."""
    parts = [_INTRODUCTION.format(oha=version("oha"), ghz=version("ghz"), most=MOST_ADDED_MS)]
    parts += [_FIRST if may_come_first() else "", _rates(found)]
    parts += [
        _STEPS,
        _steps(found),
        _headline(found.headline),
        _DECISIONS,
        _decided(found.decisions),
        _OTHERS,
    ]
    parts += [f"- {name}: {how}.\n" for name, how in found.how.items()]
    parts += [f"- {name}: not measured: {why}.\n" for name, why in found.skipped.items()]
    return "".join(parts)


def _rates(found: Found) -> str:
    echo = {each.name.partition(", ")[2]: each for each in found.measured if each.name.startswith("echo")}
    rows: list[list[object]] = []
    for each in found.measured:
        bare = echo.get(each.name.partition(", ")[2]) if each.costs else None
        rows.append(
            [
                each.name,
                str(each.pinning),
                each.highest,
                each.added(each.highest),
                round(each.closed),
                f"{each.closed / bare.closed:.2f}" if bare is not None and bare is not each else "-",
                f"{each.cost * 1e6:.0f}" if each.cost else "-",
                each.cheapness(bare) if bare is not None and bare is not each else "-",
            ]
        )
    header = [
        "server",
        "processes",
        "highest rate sustained",
        "added there, p50 / p99 ms",
        "closed loop, requests/s",
        "of the echo's",
        "front's CPU, µs a request",
        "of the echo's, by CPU",
    ]
    return table(header, rows)


def _steps(found: Found) -> str:
    rows: list[list[object]] = [
        [each.name, str(each.pinning), *(each.added(rate) for rate in _SHOWN)] for each in found.measured
    ]
    return table(["server", "processes", *(f"{rate:,}/s" for rate in _SHOWN)], rows)


def _headline(found: Load | None) -> str:
    if found is None:
        return ""
    return (
        f"\nPartita, JSON, front on one core, with 2,500 requests a second for 10 s: {found.rate:,.0f} answers a "
        f"second, p50 {found.p50:.2f} ms and p99 {found.p99:.2f} ms with the work's 5 ms, {found.failed} of "
        f"{found.sent:,} failed.\n"
    )


def _decided(counts: dict[float, float]) -> str:
    total = counts.get(inf, 0.0)
    if not total:
        return "None was seen.\n"
    limits = sorted(each for each in counts if each != inf)
    rows: list[list[object]] = [
        [f"{limit * 1e6:g}", f"{counts[limit] / total:.3%}"] for limit in limits if 3e-6 < limit < 2e-4
    ]
    return f"{int(total):,} decisions.\n\n" + table(["at most, µs", "of all decisions"], rows)


_INTRODUCTION = """\
## The gateway under load

`partita serve` has 56 emulated workers (8 A100 as 7x1g.10gb) that take 5 ms for each query, one at a time. The load
comes over HTTP from oha {oha} (128 connections, open loop, latencies from the moment at which a request was due), and
over gRPC from ghz {ghz}. A request is one FP32 tensor of 16 elements, and so is its answer; JSON is the main case,
since all servers accept it. A rate is sustained if every request is answered, 99 % of them within {most:g} ms more
than the work. Each try lasts 2 s, and of three tries the one with the median p99 counts. "Front on one core": the
server's front is pinned to one of two cores. Its workers and the client share the other core and need more time there
for each request than the gateway does on its own, so the other core is full first. "Anywhere": nothing is pinned. The
echo is a bare ASGI application on uvicorn with the gateway's settings (uvloop, httptools, no access log) that returns
each body; it was tried up to 10,000 requests/s. "By CPU": the echo's CPU time per request divided by the server's, at
the highest rate that both sustained. In rows with 602 KB, request and answer are an image, 1 x 3 x 224 x 224 in FP32,
as binary data. The aims for the gateway were 2,500 requests/s, 0.35 of the echo's throughput, and decisions under 20
microseconds at p99. Throughput cannot show the second: 56 workers of 5 ms answer at most 11,200 requests/s, and the
echo, which has no workers, several times that. So CPU time is compared.

"""
_FIRST = """\
Other programs used the same two cores during the measurement. To keep them from disturbing it, all servers, their
workers and the clients run under SCHED_RR once a server is ready.

"""
_STEPS = (
    "\nLatency beyond the work at fixed rates, p50 / p99 in ms (`-`: not tried: two lower rates failed):\n\n"
)
_DECISIONS = (
    "\nTime of a routing decision among the 56 instances, inside the gateway, on each arrival and each answer "
    "during this load: "
)
_OTHERS = "\nThe other servers, each with 56 workers that sleep 5 ms, get the same JSON:\n\n"
