"""A forecast of the next day's rates from those that were measured, with the error that it would have had.

The method is the plainest that knows the time of day: the mean of that time of the last days, times how much the last
day was above or below them. What it misses is measured on the past itself: each day is forecast from the days before
it alone. A quantile of these errors is added, so that a share of the rates stays within the forecast.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InputError, counted
from partita.series.rates import Period, RateSeries, read_rates

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from partita.series.rates import RatesTable, ServiceRates

_DAY_H = 24.0
_MOST_DAYS = 7
"""Days that are averaged, and whose errors count."""

_LEAST_SCALE = 0.1
"""Errors are shares of the forecast, or of this share of the service's mean where the forecast is less."""

_MOST_LEVEL = 3.0
"""How much the last day may raise or lower the mean of the days."""


@dataclass(frozen=True, slots=True)
class ForecastError:
    """How far forecasts of the past were off, each made from the days before it alone.

    Attributes:
        days: how many were forecast.
        mean: mean absolute error of the forecast without what is added, as a share of the mean rate.
        within: share of the rates that were at most the forecast, by errors of the days before them alone; None where
            there were none.
        above: how much of the forecast was above the rates, as a share of their sum; None likewise.
    """

    days: int
    mean: float
    within: float | None
    above: float | None


@dataclass(frozen=True, slots=True)
class RatesForecast:
    """The forecast of a day, and the error of such forecasts."""

    series: RateSeries
    error: ForecastError
    share: float

    @property
    def note(self) -> str:
        """The forecast in words."""
        error = self.error
        text = (
            f"forecast for {self.series.when(0.0)} to {self.series.when(self.series.hours)}; for the last "
            f"{counted(error.days, 'day')} such forecasts were off by {error.mean:.0%} of the "
            "mean rate"
        )
        if error.within is None or error.above is None:
            return f"{text}; too few days to say how many rates stay within it"
        return (
            f"{text}; {error.within:.0%} of the rates were within them ({self.share:.0%} wanted), and "
            f"{error.above:.0%} was planned for in vain"
        )


def forecast_file(path: Path | str, written: ServiceRates, share: float) -> RatesForecast:
    """Forecast the 24 hours after a history in a file, as `forecast` does; services that are no more are left out.

    Raises:
        InputError: the file cannot be used.
    """
    return forecast(read_rates(path, list(written), others=True), written, share, str(path))


def forecast(table: RatesTable, written: ServiceRates, share: float, name: str) -> RatesForecast:
    """Forecast the 24 hours after a history, by the hour.

    Args:
        table: what was measured; its times must have dates. A rate holds until the next time.
        written: the rates of the workload; a service that was never measured keeps its own.
        share: of the rates that should stay within the forecast, above 0 and below 1.
        name: of the history's file, for errors.

    Raises:
        InputError: times have no date, or are fewer than two days.
    """
    if table.start is None:
        raise InputError(
            "a history needs dates",
            where=name,
            hint="write times as 2026-03-01T07:00; `partita serve` keeps one so",
        )
    first = table.start + timedelta(hours=table.times[0].at)
    hourly = _hourly(table, list(written))
    days = hourly.shape[1] // int(_DAY_H)
    if days < 2:
        raise InputError(
            f"{hourly.shape[1]} whole hours are too few: a forecast needs a day, and another to measure its error",
            where=name,
            hint="wait until there are two days",
        )
    past = hourly[:, -days * int(_DAY_H) :].reshape(len(written), days, int(_DAY_H))
    after = _begin(first) + timedelta(hours=hourly.shape[1])
    measured = [not np.isnan(each).all() for each in past]
    upper, error = _with_error(_filled(past), share)
    rates = {
        name: upper[index] if measured[index] else np.full(int(_DAY_H), rate)
        for index, (name, rate) in enumerate(written.items())
    }
    periods = tuple(
        Period(float(hour), 1.0, {name: float(each[hour]) for name, each in rates.items()})
        for hour in range(int(_DAY_H))
    )
    return RatesForecast(RateSeries(periods, after), error, share)


def _begin(first: datetime) -> datetime:
    """Return the full hour at or after the first time."""
    floor = first.replace(minute=0, second=0, microsecond=0)
    return floor if floor == first else floor + timedelta(hours=1)


def _hourly(table: RatesTable, services: list[str]) -> NDArray[np.float64]:
    """Return the mean rate of each service in each whole hour, shape (S, H); NaN where it was not measured."""
    start = table.start
    if start is None:
        raise AssertionError("the history has no dates")
    first = start + timedelta(hours=table.times[0].at)
    begin = (_begin(first) - start).total_seconds() / 3600
    times = [each.at for each in table.times]
    gap = times[-1] - times[-2] if len(times) > 1 else 0.0
    ends = [*times[1:], times[-1] + gap]
    count = max(0, int(ends[-1] - begin + 1e-6))
    amount, known = np.zeros((len(services), count)), np.zeros((len(services), count))
    index = {name: at for at, name in enumerate(services)}
    for each, end in zip(table.times, ends, strict=True):
        # A longer gap than two hours is one in which nobody measured.
        until = min(end, each.at + 2.0)
        for hour in range(max(0, int(each.at - begin)), min(count, int(np.ceil(until - begin)))):
            part = min(until, begin + hour + 1) - max(each.at, begin + hour)
            if part > 0:
                for name, rate in each.rates.items():
                    amount[index[name], hour] += rate * part
                    known[index[name], hour] += part
    found: NDArray[np.float64] = np.divide(amount, known, out=np.full(amount.shape, np.nan), where=known > 0)
    return found


def _filled(past: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return days with hours in which nobody measured filled: with that hour of other days, or the mean of all."""
    known = ~np.isnan(past)
    values = np.where(known, past, 0.0)
    measured = known.sum(axis=1)
    every = values.sum(axis=(1, 2)) / np.maximum(1, known.sum(axis=(1, 2)))
    hour = np.where(measured > 0, values.sum(axis=1) / np.maximum(1, measured), every[:, None])
    found: NDArray[np.float64] = np.where(known, past, hour[:, None, :])
    return found


def _plain(past: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the next day by the hour, shape (S, 24), from days, shape (S, D, 24)."""
    days = past[:, -_MOST_DAYS:]
    mean: NDArray[np.float64] = days.mean(axis=1)
    total = mean.sum(axis=1)
    level = np.divide(days[:, -1].sum(axis=1), total, out=np.ones_like(total), where=total > 0)
    # Half of the last day's difference is taken for lasting.
    level = np.clip(np.sqrt(level), 1 / _MOST_LEVEL, _MOST_LEVEL)
    found: NDArray[np.float64] = mean * level[:, None]
    return found


def _scale(plain: NDArray[np.float64], past: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what errors of a forecast are measured in, shape (S, 24)."""
    least = _LEAST_SCALE * past.mean(axis=(1, 2))
    scale = np.maximum(plain, least[:, None])
    found: NDArray[np.float64] = np.where(scale > 0, scale, 1.0)
    return found


def _upper(
    plain: NDArray[np.float64], scale: NDArray[np.float64], errors: list[NDArray[np.float64]], share: float
) -> NDArray[np.float64]:
    """Return a forecast with the quantile of earlier errors added, each service's own."""
    own = np.concatenate(errors[-_MOST_DAYS:], axis=1)
    added: NDArray[np.float64] = np.quantile(own, share, axis=1)
    return np.maximum(plain + added[:, None] * scale, 0.0)


def _with_error(past: NDArray[np.float64], share: float) -> tuple[NDArray[np.float64], ForecastError]:
    """Return the forecast of the next day, and the error of those of the past days."""
    errors: list[NDArray[np.float64]] = []
    missed, total = 0.0, 0.0
    within: list[NDArray[np.bool_]] = []
    planned = real = 0.0
    for day in range(1, past.shape[1]):
        before, actual = past[:, :day], past[:, day]
        plain = _plain(before)
        scale = _scale(plain, before)
        if errors:
            upper = _upper(plain, scale, errors, share)
            within.append(actual <= upper)
            planned += float(np.maximum(upper - actual, 0.0).sum())
            real += float(actual.sum())
        errors.append((actual - plain) / scale)
        missed += float(np.abs(actual - plain).sum())
        total += float(actual.sum())
    plain = _plain(past)
    found = _upper(plain, _scale(plain, past), errors, share)
    return found, ForecastError(
        past.shape[1] - 1,
        missed / total if total else 0.0,
        float(np.concatenate(within).mean()) if within else None,
        planned / real if within and real else None,
    )
