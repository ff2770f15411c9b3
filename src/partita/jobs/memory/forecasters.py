"""Forecasters of memory by name, Partita's own and other packages': of jobs that wait, and of models on disk.

A package registers its own in the group `partita.forecasters`. A forecaster bounds the memory of waiting jobs; one
that has `forecast_model` as well is asked when a job is submitted with its model.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from partita.errors import InputError, PartitaError
from partita.registry import RegistryWarning, make, registered

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from partita.jobs.memory.bounds import Bounds, ModelForecast
    from partita.jobs.memory.history import History
    from partita.jobs.queue.record import JobRecord


class Forecaster(Protocol):
    """Bounds the memory of waiting jobs."""

    def forecast(self, job: JobRecord, past: History) -> Bounds:
        """Return the bounds of a job's memory in bytes; `Bounds()` where nothing is known of it.

        Args:
            job: which waits.
            past: how the jobs of its family ended that tell something of it.
        """
        ...


@runtime_checkable
class ForecastsModels(Protocol):
    """What a forecaster may have beside: it forecasts the memory of models on disk."""

    def forecast_model(self, model: Path, words: tuple[str, ...], option: str) -> ModelForecast | None:
        """Return what a model is expected to need; None if it is of no kind that this one knows.

        Args:
            model: a file or folder.
            words: sizes that were given, as `batch=8`; several in a word may be parted by commas.
            option: that they were given with, for errors.

        Raises:
            InputError: the model cannot be read, or a size is missing, unknown or no number.
        """
        ...


@cache
def forecasters() -> dict[str, Forecaster]:
    """Return those that are registered, by name; Partita's own come first. A warning tells of one that is broken."""
    found: dict[str, Forecaster] = {}
    for name, entry in registered("forecasters").items():
        try:
            found[name] = make("forecasters", name)
        except PartitaError as error:
            if entry.own:
                raise
            warnings.warn(f"{error.what}; jobs are forecast without it", RegistryWarning, stacklevel=2)
    return found


def forecast_model(model: Path, words: Iterable[str], option: str = "--with") -> ModelForecast:
    """Return what a model on disk is expected to need, by the first forecaster that knows it; Partita's own is last.

    Args:
        model: an ONNX file, a folder with `config.json` and weights, or what another package's forecaster reads.
        words: `name=value`, several in a word parted by commas; `optimiser` says how it trains, without it inference
            is meant.
        option: that the words were given with.

    Raises:
        InputError: it cannot be read, or a size is missing, unknown or no number.
    """
    given = tuple(words)
    for name, forecaster in reversed(forecasters().items()):
        if not isinstance(forecaster, ForecastsModels):
            continue
        try:
            found = forecaster.forecast_model(model, given, option)
        except InputError:
            raise
        except Exception as error:
            if registered("forecasters")[name].own:
                raise
            failed(name, error)
        else:
            if found is not None:
                return found
    raise InputError("no forecaster knows this model", where=str(model))


def failed(name: str, error: Exception) -> None:
    """Warn that a forecaster of another package has failed."""
    what = f"the forecaster {name!r} failed: {type(error).__name__}: {error}; jobs are forecast without it"
    warnings.warn(what, RegistryWarning, stacklevel=3)
