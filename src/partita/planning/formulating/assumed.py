"""What a planning problem takes for granted, said once for all models that it holds for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.planning.formulating.measured import quantile_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.planning.formulating.measured import Measured
    from partita.workload import Workload


def notes(workload: Workload, measured: Measured) -> tuple[str, ...]:
    """Return a sentence for each thing assumed: which latencies, estimates and GPUs, and what is not looked at."""
    ignored = [pool.label for pool in workload.gpus if pool.cost_per_hour is not None]
    costs = []
    if ignored and workload.objective != "cost":
        costs = [
            (
                f"cost_per_hour of {names(ignored)} is not looked at: the objective is {workload.objective} "
                "(write objective: cost)"
            )
        ]
    said: dict[str, set[str]] = {}
    placed = [service for service in workload.services if service.cut is None]
    for model, asked in sorted({(s.model, s.slo.quantile) for s in placed}, key=str):
        for gpu in measured.gpus:
            for note in _notes_on(measured, model, asked, gpu.name):
                said.setdefault(note, set()).add(model)
    return (*costs, *(f"{names(models)}: {note}" for note, models in said.items()))


def _notes_on(measured: Measured, model: str, asked: float | None, gpu: str) -> list[str]:
    rows = measured.rows(model).get(gpu, ())
    if not rows:
        return [f"not measured on {gpu}, so not placed on it"]
    said = []
    if rows[0].estimated:
        said.append(f"no measurement on {gpu}, planned with an estimate")
    quantile = quantile_of(rows, asked)
    if quantile is None:
        said.append(f"no latency at quantile {asked} on {gpu}, so not placed on it")
    elif quantile == "mean":
        said.append(f"latencies on {gpu} are means, no quantile; slower batches will exceed the SLO")
    elif asked is None:
        said.append(f"no quantile asked, the strictest on {gpu} is used: {quantile}")
    return said


def names(words: Iterable[str], most: int = 5) -> str:
    """Return a list in words, its tail counted: `a, b and 7 more`."""
    words = sorted(set(words))
    if len(words) > most:
        return f"{', '.join(words[: most - 1])} and {len(words) - most + 1} more"
    return ", ".join(words)
