"""The report of a simulation of one service: its figures, latencies, and the use of each slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from partita import __version__
from partita.web.report import Column, ColumnKind, Histogram, Report, Section, Table, figures_of

if TYPE_CHECKING:
    from partita.serve.problem import ServingProblem
    from partita.serve.simulation import Simulation

_BINS = 80
_BEYOND = 1.25
"""Width of the histogram in deadlines; the last bin has all later answers."""


def serving_report(data: dict[str, Any], problem: ServingProblem, found: Simulation) -> Report:
    """Return the report.

    Args:
        data: the output of `partita simulate -o json`.
        problem: what was simulated.
        found: the result.
    """
    attainment = data["attainment"]
    headline = f"{attainment:.3%} of {data['queries']:,} queries in time"
    quantile = data["holds"]["quantile"]
    edge = problem.deadline * _BEYOND
    return Report(
        title=f"Serving {data['service']}",
        headline=headline,
        verdict=f"{quantile * 100:g} % asked",
        good=attainment >= quantile,
        figures=figures_of(_figures(data)),
        sections=(
            Section(
                title="Latency",
                notes=(
                    f"Answered queries by latency, from 0 to {edge * 1000:,.4g} ms; the last bar has all later ones.",
                ),
                histogram=_histogram(problem, found),
            ),
            Section(
                title="Slices",
                notes=("Share of the time in which each instance was busy.",),
                table=_slices(data["slices"]),
            ),
        ),
        footer="Simulated.",
        version=__version__,
    )


def _figures(data: dict[str, Any]) -> dict[str, str]:
    holds, about = data["holds"], "≈" if data["estimated"] else ""
    latency = {
        f"{name} ms": "refused" if ms is None else f"{about}{ms:,.1f}"
        for name, ms in data["latency_ms"].items()
    }
    return {
        "service": data["service"],
        "GPUs": f"{data['gpus']:,} {data['gpu']}",
        f"cut by {data['cut']['name']}": " + ".join(
            f"{n}× {name}" for name, n in data["cut"]["instances"].items()
        ),
        "router": data["router"],
        "deadline ms": f"{data['deadline_ms']:,.6g}",
        **latency,
        "late": f"{data['late']:,}",
        "refused": f"{data['refused']:,}",
        "holds queries/s": f"{about}{holds['queries_per_second']:,.5g}",
        "bound of any router": f"{about}{holds['bound']:,.5g}",
    }


def _histogram(problem: ServingProblem, found: Simulation) -> Histogram:
    edge = problem.deadline * _BEYOND
    answered = found.outcome.latency[np.isfinite(found.outcome.latency)]
    counts, _ = np.histogram(np.minimum(answered, edge), bins=_BINS, range=(0.0, edge))
    return Histogram(
        unit="ms",
        most=edge * 1000,
        counts=tuple(counts.tolist()),
        mark=problem.deadline * 1000,
        mark_name=f"deadline {problem.deadline * 1000:,.6g} ms",
    )


def _slices(slices: list[dict[str, Any]]) -> Table:
    return Table(
        (
            Column("GPU", ColumnKind.TEXT, tuple(f"gpu-{each['gpu']}" for each in slices)),
            Column(
                "instance", ColumnKind.TEXT, tuple(f"{each['profile']}@{each['start']}" for each in slices)
            ),
            Column("queries", ColumnKind.NUMBER, tuple(each["queries"] for each in slices)),
            Column("busy", ColumnKind.BAR, tuple(each["busy"] for each in slices), digits=1),
        )
    )
