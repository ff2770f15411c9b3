"""Forecasters of memory by name, Partita's own and other packages': for waiting jobs, and for models on disk.

A package registers its own in the group `partita.forecasters`. A forecaster bounds the memory of waiting jobs; one
that also has `forecast_model` is used when a job is submitted with its model.
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
            job: the waiting job.
            past: how those jobs of its family ended that are relevant to it.
        """
        ...


@runtime_checkable
class ForecastsModels(Protocol):
    """An optional part of a forecaster: it forecasts the memory of models on disk."""

    def forecast_model(self, model: Path, words: tuple[str, ...], option: str) -> ModelForecast | None:
        """Return what a model is expected to need; None if this forecaster does not know its kind.

        Args:
            model: a file or folder.
            words: given sizes, such as `batch=8`; a word may have several, separated by commas.
            option: the option that gives them, for errors.

        Raises:
            InputError: the model cannot be read, or a size is missing, unknown or not a number.
        """
        ...


@cache
def forecasters() -> dict[str, Forecaster]:
    """Return the registered forecasters by name, Partita's own first. A broken one is left out with a warning."""
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
        words: `name=value`, several in a word separated by commas; `optimiser` means training, by default it is
            inference.
        option: the option that gives the words, for errors.

    Raises:
        InputError: the model cannot be read, or a size is missing, unknown or not a number.
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
