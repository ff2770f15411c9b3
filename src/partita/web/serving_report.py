"""A simulation of serving as one self-contained HTML page: latencies, and the use of each slice."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from partita.web.page import figures, page, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.serve.problem import ServingProblem
    from partita.serve.simulation import Simulation

STYLES = ("report.css", "serving.css")
MOST_SLICES = 1000
_BINS = 80
_BEYOND = 1.25
"""Width of the histogram in deadlines; the last bin has all later answers."""


def serving_report(
    data: dict[str, Any], problem: ServingProblem, found: Simulation, *, embedded: bool = False
) -> str:
    """Return the page.

    Args:
        data: the output of `partita simulate -o json`.
        problem: what was simulated.
        found: the result.
        embedded: whether to return a part of another page.
    """
    parts = (
        f"<h1>{data['attainment']:.3%} of {data['queries']:,} queries in time</h1>",
        *figures(_figures(data)),
        "<h2>Latency</h2>",
        *_histogram(problem, found, data),
        "<h2>Slices</h2>",
        *_slices(data),
        "<footer>Simulated and drawn by Partita.</footer>",
    )
    return page(f"Serving {data['service']}", STYLES, parts, embedded=embedded)


def _figures(data: dict[str, Any]) -> dict[str, str]:
    holds, about = data["holds"], "≈" if data["estimated"] else ""
    instances = " + ".join(f"{n}x {name}" for name, n in data["cut"]["instances"].items())
    latency = {
        f"{name} ms": "refused" if ms is None else f"{about}{ms:,.1f}"
        for name, ms in data["latency_ms"].items()
    }
    return {
        "service": escape(data["service"]),
        "GPUs": f"{data['gpus']:,} {escape(data['gpu'])}",
        f"cut by {data['cut']['name']}": escape(instances),
        "router": data["router"],
        "deadline ms": f"{data['deadline_ms']:,.6g}",
        **latency,
        "late": f"{data['late']:,}",
        "refused": f"{data['refused']:,}",
        "holds queries/s": f"{about}{holds['queries_per_second']:,.5g}",
        "bound of any router": f"{about}{holds['bound']:,.5g}",
    }


def _histogram(problem: ServingProblem, found: Simulation, data: dict[str, Any]) -> Iterator[str]:
    edge = problem.deadline * _BEYOND
    answered = found.outcome.latency[np.isfinite(found.outcome.latency)]
    counts, _ = np.histogram(np.minimum(answered, edge), bins=_BINS, range=(0.0, edge))
    top = max(1, int(counts.max()))
    bars = "".join(
        f"M{100 * i / _BINS:.3f} 100V{100 - 96 * n / top:.2f}h{100 / _BINS:.3f}V100"
        for i, n in enumerate(counts.tolist())
        if n
    )
    at = 100 / _BEYOND
    yield (
        f"<p>Answered queries by latency, from 0 to {edge * 1000:,.4g} ms; the last bar has all later ones. The "
        f"line is the deadline of {data['deadline_ms']:,.6g} ms.</p>"
    )
    yield '<svg class=histogram viewBox="0 0 100 100" preserveAspectRatio="none" role=img aria-label="latencies">'
    yield f'<path class=bars d="{bars}"/><path class=deadline d="M{at:g} 0V100"/></svg>'


def _slices(data: dict[str, Any]) -> Iterator[str]:
    yield "<p>Share of the time in which each instance was busy.</p>"
    yield "<table><thead><tr><th>instance<th>queries<th>busy<th></thead><tbody>"
    for each in data["slices"][:MOST_SLICES]:
        name = f"gpu-{each['gpu']} {each['profile']}@{each['start']}"
        bar = f'<span class=use><span style="width:{each["busy"]:.1%}"></span></span>'
        yield row(
            {
                "instance": escape(name),
                "queries": f"{each['queries']:,}",
                "busy": f"{each['busy']:.1%}",
                "use": bar,
            }
        )
    yield "</tbody></table>"
    left = len(data["slices"]) - MOST_SLICES
    if left > 0:
        yield f"<p>{left:,} more instances are not listed.</p>"
