"""What a report shows, as a document that the bundle draws: figures, tables, charts, transitions, GPUs.

A report is a page of sections, and each section has one drawing. GPUs and transitions stand in the terms of the API
(`partita.dash.model`), so that one code draws what runs and what was planned.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from partita.dash.model import CapacityLine, Fleet, TransitionDetail
from partita.documents.codec import Meta, Value

if TYPE_CHECKING:
    from collections.abc import Mapping


class ColumnKind(StrEnum):
    """How the values of a column are written, and whether they sort as numbers."""

    TEXT = "text"
    SERVICE = "service"
    """Names of services, which can be chosen."""
    NUMBER = "number"
    SHARE = "share"
    """Fractions, written as percentages."""
    CHANGE = "change"
    """Fractions, written as percentages with a sign."""
    BAR = "bar"
    """Fractions from 0 to 1, written as percentages beside a bar."""


class Column(Value):
    """A column of a table."""

    name: str
    kind: ColumnKind
    values: tuple[str | float | None, ...]
    digits: Annotated[int, Meta(description="Significant digits of numbers; decimals of percentages.")] = 6
    none: Annotated[str, Meta(description="What is written where there is no value.")] = "none"
    estimated: Annotated[tuple[int, ...], Meta(description="Rows whose value is an estimate.")] = ()


class Table(Value):
    """Rows by column; all columns are of one length."""

    columns: tuple[Column, ...]
    left: Annotated[int, Meta(description="Rows that are left out.")] = 0


class OperatingPoint(Value):
    """How a service runs on an instance; `tenants` are the services that share it."""

    service: str
    model: str
    batch: int
    processes: int
    throughput: Annotated[float, Meta(description="Items/s.")]
    latency_ms: float
    estimated: bool = False
    tenants: tuple[str, ...] = ()
    megabytes: Annotated[float | None, Meta(description="Memory of all tenants together.")] = None


class FleetPart(Value):
    """GPUs, how they are cut and what runs there; with `fleet.planned`, before and after a change."""

    fleet: Fleet
    points: tuple[OperatingPoint, ...]
    point: Annotated[tuple[int, ...], Meta(description="Index into `points` of each instance; -1 for none.")]
    planned_point: Annotated[
        tuple[int, ...], Meta(description="The same of each instance of `fleet.planned`.")
    ] = ()
    pools: tuple[str, ...] = ()
    pool: Annotated[tuple[int, ...], Meta(description="Index into `pools` of each GPU; empty without.")] = ()
    left: Annotated[int, Meta(description="GPUs that are left out.")] = 0


class TransitionPart(Value):
    """A transition over time."""

    detail: TransitionDetail
    in_use: Annotated[CapacityLine, Meta(description="GPUs in use; the floor is the most before and after.")]
    left: Annotated[int, Meta(description="Actions that are left out.")] = 0


class Line(Value):
    """Values over time, each for a period of `Chart.ends`."""

    name: str
    values: tuple[float, ...]
    look: Annotated[str, Meta(description="area, line, dashes or dots.")] = "line"


class Chart(Value):
    """Values over time, in steps."""

    unit: str
    ends: Annotated[
        tuple[float, ...], Meta(description="End of each period, in hours; the first begins at 0.")
    ]
    begins: Annotated[tuple[str, ...], Meta(description="Begin of each period, in words.")]
    lines: tuple[Line, ...]


class Histogram(Value):
    """How many values fall into each of a number of equal bins from 0 to `most`; the last has all beyond."""

    unit: str
    most: float
    counts: tuple[int, ...]
    mark: Annotated[float, Meta(description="A value to compare with.")]
    mark_name: str


class Bar(Value):
    """A number beside others."""

    name: str
    value: float


class Section(Value):
    """A part of a report: its heading, what has to be said about it, and its drawing."""

    title: str
    notes: tuple[str, ...] = ()
    table: Table | None = None
    gpus: FleetPart | None = None
    transition: TransitionPart | None = None
    chart: Chart | None = None
    histogram: Histogram | None = None
    bars: tuple[Bar, ...] = ()


class Figure(Value):
    """A figure at the top of a report, as it is written."""

    name: str
    text: str


def figures_of(texts: Mapping[str, str]) -> tuple[Figure, ...]:
    """Return figures from their texts by name."""
    return tuple(Figure(name, text) for name, text in texts.items())


class Report(Value):
    """A whole report."""

    title: str
    headline: str
    verdict: str
    good: Annotated[bool, Meta(description="Whether the verdict is what one hopes for.")]
    figures: tuple[Figure, ...]
    sections: tuple[Section, ...]
    footer: str
    version: Annotated[str, Meta(description="Version of Partita that made it.")]
    notes: tuple[str, ...] = ()
    workload: Annotated[str | None, Meta(description="Name of what was planned, mostly its file.")] = None
    made: Annotated[float | None, Meta(description="When, in seconds since 1970.")] = None
