"""Reads the work of models from CSV: what an estimate is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.errors import InputError, nearest
from partita.perf.estimate import KERNELS, PRECISION, ModelWork
from partita.perf.records import plain_name, read_records, refuse

if TYPE_CHECKING:
    from pathlib import Path

    from partita.perf.records import Record

REQUIRED = ("model", "gflop", "mbytes", "weights_mb")
OPTIONAL = ("precision", "kernels", "live_mb", "source")


def read_works(path: Path | str) -> tuple[ModelWork, ...]:
    """Read works from a CSV with columns `model, gflop, mbytes, weights_mb`.

    Optional columns are `precision`, `kernels`, `live_mb` and `source`; the last is for people.

    Raises:
        InputError: no such file, unknown or missing columns, a field that cannot be used, a model twice.
    """
    records = read_records(path)
    records.require(*REQUIRED)
    for name in records.header:
        if plain_name(name) not in REQUIRED + OPTIONAL:
            close = nearest(plain_name(name), [*REQUIRED, *OPTIONAL])
            known = ", ".join(REQUIRED + OPTIONAL)
            raise InputError(
                f"unknown column {name!r}",
                where=f"{records.path}:{records.header_line}",
                hint=f"did you mean {close}?" if close else f"the columns are {known}",
            )
    works: dict[str, ModelWork] = {}
    faults: list[InputError] = []
    for record in records:
        try:
            work = _work(record)
        except InputError as error:
            faults.append(error)
            continue
        if work.model in works:
            faults.append(InputError(f"model {work.model!r} is there twice", where=record.place))
        works[work.model] = work
    refuse(records.path, faults)
    if not works:
        raise InputError("a header and no rows", where=f"{records.path}:1")
    return tuple(works.values())


def _work(record: Record) -> ModelWork:
    try:
        return ModelWork(
            model=record.text("model"),
            gflop=record.number("gflop"),
            mbytes=record.number("mbytes"),
            weights_mb=record.number("weights_mb"),
            precision=record.text("precision") if record.has("precision") else PRECISION,
            kernels=record.count("kernels") if record.has("kernels") else KERNELS,
            live_mb=record.number("live_mb") if record.has("live_mb") else None,
        )
    except InputError as error:
        raise InputError(error.what, where=record.place, hint=error.hint) from None
