"""Rates over time: for each period the items/s of each service, as a table or as documents of rates.

A table is *long* (`time,service,rate`) or *wide* (`time` and a column for each service). A time is the beginning of
a period, which lasts until the next. The last lasts until midnight where the times are those of a day (07:30), and
else as long as the one before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from partita.errors import InputError, nearest, refuse
from partita.perf.records import MISSING, number_hint, plain_name, read_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from partita.perf.records import Records

ServiceRates = Mapping[str, float]
"""Items/s by service, without headroom; 0 for a service that is off."""

MOST_PERIODS = 1_000
"""More periods are refused: each takes a plan."""

_EXAMPLE = "time,service,rate"


@dataclass(frozen=True, slots=True)
class Period:
    """A time during which rates stay as they are.

    Attributes:
        begin: hours since the beginning of the series.
        hours: its length.
        rates: of all services.
    """

    begin: float
    hours: float
    rates: ServiceRates

    @property
    def end(self) -> float:
        """Hours since the beginning of the series."""
        return self.begin + self.hours


@dataclass(frozen=True, slots=True)
class RateSeries:
    """The rates of a day, or of any other time.

    Attributes:
        periods: one after another, at least one.
        start: the date and time of the beginning; None for times that have no date.
        hour: the hour of day of the beginning.
    """

    periods: tuple[Period, ...]
    start: datetime | None = None
    hour: float = 0.0

    @property
    def hours(self) -> float:
        """How long all of it lasts."""
        return sum(period.hours for period in self.periods)

    def most(self, first: int, last: int) -> dict[str, float]:
        """Return the largest rate of each service in the periods from `first` to before `last`."""
        return largest(period.rates for period in self.periods[first:last])

    def when(self, hours: float) -> str:
        """Return so many hours after the beginning as a time: ISO 8601, or 07:30 where there is no date."""
        seconds = round((hours + (0.0 if self.start else self.hour)) * 3600)
        if self.start is not None:
            return (self.start + timedelta(seconds=seconds)).isoformat(timespec="minutes")
        minutes, rest = divmod(abs(seconds), 60)
        text = f"{minutes // 60:02}:{minutes % 60:02}" + (f":{rest:02}" if rest else "")
        return f"-{text}" if seconds < 0 else text


def largest(rates: Iterable[ServiceRates]) -> dict[str, float]:
    """Return the largest rate of each service."""
    found: dict[str, float] = {}
    for each in rates:
        for name, rate in each.items():
            found[name] = max(found.get(name, 0.0), rate)
    return found


@dataclass(frozen=True, slots=True)
class TimedRates:
    """What a file says of one time: the rates of the services it names.

    Attributes:
        at: hours since the file's first time, or since midnight where times have no date.
        rates: items/s by service.
    """

    at: float
    rates: ServiceRates


@dataclass(frozen=True, slots=True)
class RatesTable:
    """A file of rates as it was read: times in order, and the date and time from which they count, if any."""

    times: tuple[TimedRates, ...]
    start: datetime | None
    clock: bool = False
    """Whether a time is written as one of a day, such as 07:30."""


def read_series(path: Path | str, written: ServiceRates) -> RateSeries:
    """Read the rates of each period, CSV or JSON lines; `-` is stdin.

    Times are ISO 8601 (2026-03-01T07:00), times of day (07:30) or hours (7.5). A service keeps its rate of the
    workload where a time has none for it.

    Args:
        path: the file.
        written: the rates of the workload, by which its services are known.

    Raises:
        InputError: all that is wrong, each with its line.
    """
    return as_series(read_rates(path, list(written)), written)


def as_series(table: RatesTable, written: ServiceRates) -> RateSeries:
    """Return the periods of a table; a service without a rate keeps the written one."""
    begins = [each.at for each in table.times]
    end = begins[-1] + (begins[-1] - begins[-2] if len(begins) > 1 else 1.0)
    ends = [*begins[1:], 24.0 if table.clock and begins[-1] < 24 else end]
    periods = tuple(
        Period(each.at - begins[0], end - each.at, {**written, **each.rates})
        for each, end in zip(table.times, ends, strict=True)
    )
    start = None if table.start is None else table.start + timedelta(hours=begins[0])
    hour = begins[0] if start is None else start.hour + start.minute / 60
    return RateSeries(periods, start, hour)


def read_rates(path: Path | str, services: Sequence[str], *, others: bool = False) -> RatesTable:
    """Read what a file says of each time.

    Args:
        path: the file; `-` is stdin.
        services: names of the services there are.
        others: as of a history, leave out other services, take the last of several rates, and any number of times.

    Raises:
        InputError: all that is wrong, each with its line.
    """
    records = read_records(path)
    refuse(records.path, records.ragged)
    if not records.has("time"):
        raise InputError(
            f"no column says the time; there are {', '.join(records.header)}",
            where=f"{records.path}:{records.header_line}",
            hint=f"write {_EXAMPLE}, or time and a column for each service",
        )
    if not records.fields:
        raise InputError(
            "a header and no rows",
            where=f"{records.path}:{records.header_line}",
            hint="one row for each time",
        )
    faults: list[InputError] = []
    cells = _long(records) if records.has("time", "service", "rate") else _wide(records, services)
    times: dict[float, dict[str, float]] = {}
    seen: dict[tuple[float, str], int] = {}
    dated: list[datetime | None] = []
    for cell in cells:
        try:
            at, start = cell.time()
            dated.append(start)
            first = dated[0]
            if (start is None) is not (first is None):
                raise cell.fault("some times have a date and some have none", "write all of them in one way")
            if start is not None and first is not None:
                if (start.tzinfo is None) is not (first.tzinfo is None):
                    raise cell.fault(
                        "some times have a time zone and some have none", "write all of them in one way"
                    )
                at = (start - first).total_seconds() / 3600
            times.setdefault(at, {})
            if cell.missing or (others and cell.service not in services):
                continue
            cell.known(services)
            if (at, cell.service) in seen and not others:
                raise cell.fault(
                    f"{cell.service} has a rate at this time already, on line {seen[at, cell.service]}",
                    "keep one of them; where clocks go back, write times with their offset: 2026-10-25T02:00+01:00"
                    if start is not None and start.tzinfo is None
                    else "keep one of them",
                )
            seen[at, cell.service] = cell.line
            times[at][cell.service] = cell.rate()
        except InputError as error:
            faults.append(error)
    refuse(records.path, faults)
    if len(times) > MOST_PERIODS and not others:
        raise InputError(
            f"{len(times):,} times are more than {MOST_PERIODS:,}",
            where=records.path,
            hint="take the largest rate of each quarter of an hour, or of each hour",
        )
    start = next(iter(dated), None)
    clock = (
        _CLOCK.fullmatch(records.fields[0][records.header.index(records.column("time"))].strip()) is not None
    )
    return RatesTable(tuple(TimedRates(at, times[at]) for at in sorted(times)), start, clock)


@dataclass(frozen=True, slots=True)
class _Cell:
    """A rate as a file writes it, and where."""

    path: str
    line: int
    when: str
    service: str
    text: str

    @property
    def missing(self) -> bool:
        return self.text.strip().casefold() in MISSING

    def fault(self, what: str, hint: str | None = None) -> InputError:
        return InputError(what, where=f"{self.path}:{self.line}", hint=hint)

    def time(self) -> tuple[float, datetime | None]:
        """Return hours, or the date and time."""
        text = self.when.strip()
        if clock := _CLOCK.fullmatch(text):
            return int(clock[1]) + int(clock[2]) / 60 + int(clock[3] or 0) / 3600, None
        try:
            hours = float(text)
        except ValueError:
            pass
        else:
            if 0 <= hours <= _MOST_HOURS:
                return hours, None
            raise self.fault(f"time {text} is not a number of hours", "write 7.5, 07:30 or 2026-03-01T07:30")
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            raise self.fault(f"time {text!r} is not a time", "write 7.5, 07:30 or 2026-03-01T07:30") from None
        if found.year not in _YEARS:
            raise self.fault(
                f"time {text} is not of our time", f"write a year of {_YEARS[0]} to {_YEARS[-1]}"
            )
        return 0.0, found if found.tzinfo is None else found.astimezone(UTC)

    def known(self, services: Sequence[str]) -> None:
        if self.service not in services:
            close = nearest(self.service, list(services))
            raise self.fault(
                f"the workload has no service {self.service!r}",
                f"did you mean {close}?" if close else f"it has {', '.join(services)}",
            )

    def rate(self) -> float:
        try:
            number = float(self.text)
        except ValueError:
            raise self.fault(
                f"the rate of {self.service} is {self.text!r}, not a number", number_hint(self.text)
            ) from None
        if not 0 <= number <= _MOST_RATE:
            raise self.fault(
                f"the rate of {self.service} is {self.text}, not a number of zero or more",
                "0 is a service that is off",
            )
        return number


_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?")
_MOST_HOURS = 24.0 * 366 * 10
_MOST_RATE = 1e15
_YEARS = range(1970, 2201)


def _long(records: Records) -> Iterator[_Cell]:
    when, service, rate = (records.header.index(records.column(name)) for name in ("time", "service", "rate"))
    for line, fields in zip(records.lines, records.fields, strict=True):
        yield _Cell(
            records.path,
            line,
            fields[when],
            fields[service].strip(),
            records.notation.plain(fields[rate].strip()),
        )


def _wide(records: Records, services: Sequence[str]) -> Iterator[_Cell]:
    """Yield the rates of a column for each service, or of documents of rates as gateways write them."""
    when = records.header.index(records.column("time"))
    columns = {
        index: named
        for index, name in enumerate(records.header)
        if index != when and (named := _service(name, services)) is not None
    }
    for line, fields in zip(records.lines, records.fields, strict=True):
        if not columns:
            yield _Cell(records.path, line, fields[when], "", "")
        for index, name in columns.items():
            yield _Cell(records.path, line, fields[when], name, records.notation.plain(fields[index].strip()))


def _service(column: str, services: Sequence[str]) -> str | None:
    """Return the service of a column: `name`, `rates.name` or `rates.name.rate`; None for batch sizes."""
    if column in services:
        return column
    inner = column.removeprefix("rates.")
    if inner in services or inner == column:
        return next((each for each in services if plain_name(each) == plain_name(inner)), inner)
    name, _, rest = inner.rpartition(".rate")
    if name and not rest:
        return name
    return None if ".batches." in inner else inner
