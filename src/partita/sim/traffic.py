"""Traffic: when queries arrive and of which sizes, made by a law or replayed from a trace."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil, erf, isfinite, log, sqrt
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from partita.errors import InputError, nearest, refuse
from partita.perf.records import number_hint, read_records

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from partita.perf.records import Records
    from partita.workload import ArrivalsSpec


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """N queries in order of arrival: `arrival` in seconds from 0, and `batch`, the items of each; shape (N,)."""

    arrival: NDArray[np.float64]
    batch: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrival)

    def faster(self, factor: float) -> Traffic:
        """Return the same queries with all times divided by `factor`."""
        return Traffic(self.arrival / factor, self.batch)

    def denser(self, copies: int, spread: float, rng: np.random.Generator) -> Traffic:
        """Return each query `copies` times, shifted by up to `spread` seconds to either side."""
        times = np.repeat(self.arrival, copies) + rng.uniform(-spread, spread, len(self) * copies)
        times = np.maximum(0.0, times)
        order = np.argsort(times, kind="stable")
        return Traffic(times[order], np.repeat(self.batch, copies)[order])


def poisson(rate: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return arrival times of a Poisson process of `rate` per second, shape (count,)."""
    return np.cumsum(rng.exponential(1 / rate, count))


def gamma(rate: float, count: int, rng: np.random.Generator, variation: float) -> NDArray[np.float64]:
    """Return arrival times whose gaps are gamma distributed, shape (count,).

    Args:
        rate: arrivals per second.
        count: how many.
        rng: random number generator.
        variation: coefficient of variation of the gaps: 1 is Poisson, more is burstier.
    """
    shape = variation**-2
    return np.cumsum(rng.gamma(shape, 1 / (rate * shape), count))


def unit_arrivals(
    process: Literal["poisson", "constant"] | ArrivalsSpec, count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return arrival times of one query per second on average, as a service's `arrivals` say.

    A trace is repeated, each time from a random place on, until it has enough queries. Its shortest and longest gaps
    keep their ratio; it is stretched to the rate.

    Args:
        process: a service's arrivals.
        count: how many times.
        rng: random number generator.

    Raises:
        InputError: the trace cannot be read, has too few queries, or all its queries come at once.
    """
    if process == "poisson":
        return poisson(1.0, count, rng)
    if process == "constant":
        return np.arange(1, count + 1, dtype=np.float64)
    if process.gamma is not None:
        return gamma(1.0, count, rng, process.gamma.cv)
    gaps = _trace_gaps(str(process.trace))[0]
    if len(gaps) + 1 < _FEWEST:
        raise InputError(
            f"too few queries to say how they come: {len(gaps) + 1}; at least {_FEWEST} are needed",
            where=process.trace,
            hint="give a longer trace: thousands of queries say more",
        )
    return np.cumsum(gaps[_places(len(gaps), count, rng)])


def unit_queries(
    process: Literal["poisson", "constant"] | ArrivalsSpec,
    share: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
) -> Traffic:
    """Return queries, one per second on average, that come as a service's `arrivals` say.

    Batch sizes are drawn from `share`; those of a trace in its order: a query's size has the same rank in `share` as
    it has in the trace. So large queries that come together there come together here.

    Args:
        process: a service's arrivals.
        share: share of the queries of each batch size.
        count: how many.
        rng: random number generator.

    Raises:
        InputError: as for `unit_arrivals`.
    """
    if isinstance(process, str) or process.trace is None:
        return Traffic(unit_arrivals(process, count, rng), draw(share, count, rng))
    gaps, batch = _trace_gaps(str(process.trace))
    ordered = np.sort(batch)
    below, upto = (np.searchsorted(ordered, batch, side=side) / len(batch) for side in ("left", "right"))
    places = _places(len(gaps), count, rng)
    rank = below[places] + rng.random(count) * (upto - below)[places]
    sizes = np.searchsorted(np.cumsum(share)[:-1], rank, side="right") + 1
    return Traffic(np.cumsum(gaps[places]), sizes)


def _places(length: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return places in a trace, which is repeated, each time from a random place on; shape (count,)."""
    starts = rng.integers(length, size=ceil(count / length))
    return np.concatenate([np.roll(np.arange(length), -start) for start in starts])[:count]


_FEWEST = 20
"""A trace of fewer queries is no process of arrivals."""


def _trace_gaps(path: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the gaps of a trace, with a mean of 1 second, and the batch size of the query after each."""
    seen = read_trace(path)
    gaps = np.diff(seen.arrival)
    if not len(gaps) or gaps.sum() <= 0.0:
        raise InputError(
            "all queries of the trace come at once", where=path, hint="give a trace with times that differ"
        )
    return gaps / gaps.mean(), seen.batch[1:]


def day_curve(
    rate: float, seconds: float, rng: np.random.Generator, *, swing: float, period: float = 86_400.0
) -> NDArray[np.float64]:
    """Return arrival times of a Poisson process of rate x (1 - swing cos(2 pi t / period)), up to `seconds`.

    Args:
        rate: mean arrivals per second over a period.
        seconds: end of the period.
        rng: random number generator.
        swing: from 0 (flat) to 1 (nothing arrives at the trough, which is at time 0).
        period: seconds from trough to trough.
    """
    grid = np.linspace(0.0, seconds, max(1000, int(seconds / period * 1000)))
    turn = 2 * np.pi / period
    expected = rate * (grid - swing * np.sin(turn * grid) / turn)
    arrivals = np.sort(rng.uniform(0.0, expected[-1], rng.poisson(expected[-1])))
    return np.asarray(np.interp(arrivals, expected, grid))


_LEAST = 1e-6
"""Least share of a log-normal that must lie within the largest batch size."""


def lognormal_share(median: float, sigma: float, largest: int) -> NDArray[np.float64]:
    """Return the share of each batch size from 1 to `largest` under a log-normal, cut off there, shape (largest,).

    Size b stands for (b - 1/2, b + 1/2], size 1 for all below 3/2 (PARIS and ELSA, DAC'22, uses sigma 0.9).

    Args:
        median: of the log-normal before it is cut off.
        sigma: standard deviation of the logarithm.
        largest: largest batch size.

    Raises:
        InputError: the log-normal has hardly any batch size up to `largest`.
    """
    below = [0.5 * (1 + erf((log(b + 0.5) - log(median)) / (sigma * sqrt(2)))) for b in range(1, largest + 1)]
    share = np.diff(below, prepend=0.0)
    if below[-1] < _LEAST:
        raise InputError(
            f"hardly any batch size of a log-normal of median {median:g} and sigma {sigma:g} is at most {largest}",
            hint="choose a smaller median",
        )
    return np.asarray(share / share.sum())


def empirical_share(batch: NDArray[np.int64], largest: int) -> NDArray[np.float64]:
    """Return the share of each batch size from 1 to `largest` among those seen, larger ones left out."""
    seen = np.bincount(batch[batch <= largest], minlength=largest + 1)[1:]
    return np.asarray(seen / seen.sum())


def draw(share: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return batch sizes drawn independently, shape (count,)."""
    edges = np.cumsum(share)[:-1]
    return np.searchsorted(edges, rng.random(count), side="right") + 1


Value = TypeVar("Value", int, float)


COLUMNS = ("seconds", "batch", "tokens")
"""What `columns` may name: the time, and the size as items or as tokens."""


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A published layout of traces: how its columns give a query's time, and its items or tokens."""

    name: str
    seconds: str
    batch: str | None = None
    tokens: str | None = None
    needs: tuple[str, ...] = ()


FORMATS = (
    TraceFormat("Partita's own", "seconds", batch="batch", needs=("seconds", "batch")),
    # github Azure/AzurePublicDataset, AzureLLMInferenceTrace of 2023 and 2024
    TraceFormat(
        "Azure's LLM traces",
        "TIMESTAMP",
        tokens="ContextTokens + GeneratedTokens",
        needs=("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ),
    # github HPMLL/BurstGPT; a request that failed has no response tokens
    TraceFormat(
        "BurstGPT",
        "Timestamp",
        tokens="Request tokens + Response tokens",
        needs=("Timestamp", "Request tokens", "Response tokens"),
    ),
    # github kvcache-ai/Mooncake, FAST25-release/traces; milliseconds
    TraceFormat(
        "Mooncake",
        "timestamp * 0.001",
        tokens="input_length + output_length",
        needs=("timestamp", "input_length", "output_length"),
    ),
)

_LATEST = 1e11
"""Larger times cannot be seconds: since 1970 they would lead to the year 5138."""
_MOST = 1e9
"""More items or tokens than this are refused as a mistake."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UTC = re.compile(r"\s*(?:UTC|GMT)$")
"""How BigQuery and others write the offset of UTC, which the standard writes `Z`."""
_MICROSECOND = timedelta(microseconds=1)


def read_trace(
    path: Path | str, *, tokens_per_item: int = 256, columns: Mapping[str, str] | None = None
) -> Traffic:
    """Read a trace, CSV or JSON lines, also as gzip: one of `FORMATS`, or with columns that the user names.

    A request of an LLM trace becomes a query of ceil((tokens in + tokens out) / tokens_per_item) items, at least one;
    a failed one counts with its recorded tokens. Times are numbers of seconds or dates with times, in UTC where they
    have no offset; they count from the first query. Rows may be in any order.

    Args:
        path: the file; `-` is stdin.
        tokens_per_item: tokens that make one item.
        columns: the file's columns, or sums and multiples of them, for `seconds` and for `batch` or `tokens`.

    Raises:
        InputError: no such file, an unknown format, no rows, or rows that cannot be used; each kind is described.
    """
    records = read_records(path)
    layout = _named(columns, records) if columns else _recognised(records)
    refuse(records.path, records.ragged)
    if not records.fields:
        raise InputError(
            "a header and no rows",
            where=f"{records.path}:{records.header_line}",
            hint="one row for each query",
        )
    faults: list[InputError] = []
    times = _parsed(records, layout.seconds, _moment, faults)
    if layout.batch is not None:
        sizes = _parsed(records, layout.batch, _items, faults)
    else:
        tokens = _parsed(records, layout.tokens or "", _amount, faults)
        sizes = [max(1, ceil(each / tokens_per_item)) for each in tokens]
    refuse(records.path, faults)
    start = min(times)
    arrival = np.array([each - start for each in times], dtype=np.float64) / 1e6
    order = np.argsort(arrival, kind="stable")
    return Traffic(arrival[order], np.array(sizes, dtype=np.int64)[order])


def _recognised(records: Records) -> TraceFormat:
    found = next((each for each in FORMATS if records.has(*each.needs)), None)
    if found is None:
        known = "; ".join(f"{each.name} ({','.join(each.needs)})" for each in FORMATS)
        raise InputError(
            f"an unknown trace format, with the columns {', '.join(records.header)}",
            where=f"{records.path}:{records.header_line}",
            hint=f"name the columns, as in --columns seconds=Timestamp,tokens='Total tokens'; read are {known}",
        )
    return found


def _named(columns: Mapping[str, str], records: Records) -> TraceFormat:
    for name in columns:
        if name not in COLUMNS:
            close = nearest(name, list(COLUMNS))
            raise InputError(
                f"traces have no {name!r}",
                where="--columns",
                hint=f"did you mean {close}?" if close else f"they have {', '.join(COLUMNS)}",
            )
    if "batch" in columns and "tokens" in columns:
        raise InputError("a query's size is batch or tokens, not both", where="--columns", hint="name one")
    seconds = columns.get("seconds", "seconds")
    if "tokens" in columns:
        return TraceFormat("named", seconds, tokens=columns["tokens"])
    if "batch" not in columns and not records.has("batch"):
        raise InputError(
            "no column gives the size of a query",
            where="--columns",
            hint=f"add batch=COLUMN or tokens=COLUMN; the file's columns are {', '.join(records.header)}",
        )
    return TraceFormat("named", seconds, batch=columns.get("batch", "batch"))


def _parsed(
    records: Records, expression: str, parse: Callable[[str], Value], faults: list[InputError]
) -> list[Value]:
    """Return a column's values, and add what is wrong with it to the faults."""
    found: list[Value] = []
    for text, line in zip(records.numbers(expression), records.lines, strict=True):
        try:
            found.append(parse(text))
        except InputError as error:
            shown = f"is {text!r}" if text.strip() else "is empty"
            what = f"{expression} {shown}: {error.what}"
            faults.append(InputError(what, where=f"{records.path}:{line}", hint=error.hint))
    return found


def _moment(text: str) -> int:
    """Return a time in microseconds, since 1970 for a date; a float of seconds since 1970 would blur small gaps."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(_UTC.sub("+00:00", text.strip()))
        except ValueError:
            raise InputError(
                "neither seconds nor a date and time",
                hint=number_hint(text) or "write 2024-05-10 09:30:00.25+02:00",
            ) from None
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (aware - _EPOCH) // _MICROSECOND
    if not isfinite(seconds) or seconds < 0:
        raise InputError("not a number of zero or more")
    if seconds > _LATEST:
        hint = "milliseconds? Name the column with a factor: --columns seconds='timestamp * 0.001'"
        raise InputError(f"more seconds than {_LATEST:,.0f}", hint=hint)
    return round(seconds * 1e6)


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InputError("not a number", hint=number_hint(text)) from None
    if not 0 <= number < float("inf"):
        raise InputError("not a number of zero or more")
    if number > _MOST:
        raise InputError(f"more than {_MOST:,.0f}")
    return number


def _items(text: str) -> int:
    number = _amount(text)
    if number < 1 or not number.is_integer():
        raise InputError("not a whole number above zero")
    return int(number)
