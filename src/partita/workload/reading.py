"""Reads a workload, and says of all that is wrong in it on which line it stands."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from partita.errors import InputError, PartitaError, together
from partita.files import read_text
from partita.workload.document import parse
from partita.workload.faults import Fault, cross_faults, field_faults
from partita.workload.lines import FieldPath, lines_of, path_of, written
from partita.workload.model import API_VERSION, KIND, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORKLOAD = TypeAdapter(Workload)
_MOST_FAULTS = 1_000
"""Faults whose places are looked up; the rest are counted."""


def read_workload(path: Path | str) -> Workload:
    """Read a workload from YAML or JSON; `-` reads stdin.

    Paths of performance tables come back relative to where the command runs, not to the workload's folder.

    Raises:
        InputError: all that is wrong, up to ten faults with `file:line`, the field's path and a hint.
    """
    text, name = read_text(path), _name(path)
    data = parse(text, name)
    if not isinstance(data, dict):
        kind = (
            "empty"
            if data is None
            else "a list, not a mapping"
            if isinstance(data, list)
            else "not a mapping"
        )
        raise InputError(
            f"this document is {kind}",
            where=f"{name}:1",
            hint=f"start with apiVersion: {API_VERSION} and kind: {KIND}; `partita schema` prints all fields",
        )
    if "mig-configs" in data:
        raise InputError(
            "this is a mig-parted config, not a workload",
            where=f"{name}:1",
            hint=f"it says how GPUs are cut: `partita import mig-parted {name} --out layouts.json`",
        )
    folder = Path() if str(path) == "-" else Path(path).parent
    workload = _validated(data, text, name, folder)
    return replace(workload, performance=tuple(str(folder / table) for table in workload.performance))


def workload_schema() -> dict[str, Any]:
    """Return the JSON schema of a workload."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_WORKLOAD.json_schema(),
        "title": f"Partita workload, {API_VERSION}",
    }


@contextmanager
def locating(path: Path | str) -> Iterator[None]:
    """Turn a field's path in an error of the block, such as `services[3].slo`, into `file:line`."""
    try:
        yield
    except PartitaError as error:
        field = path_of(error.where or "")
        if field and field[0] in {each.name for each in fields(Workload)}:
            line = "" if str(path) == "-" else f":{lines_of(read_text(path), [field])[field]}"
            error.what = f"{error.where}: {error.what}"
            error.where = f"{_name(path)}{line}"
        raise


def _name(path: Path | str) -> str:
    return "<stdin>" if str(path) == "-" else str(path)


def _validated(data: dict[str, Any], text: str, name: str, folder: Path) -> Workload:
    try:
        workload = _WORKLOAD.validate_python(data)
    except ValidationError as error:
        faults, total = field_faults(error, _MOST_FAULTS)
    else:
        faults = cross_faults(workload, folder)
        if not faults:
            return workload
        total = len(faults)
    shown = faults[:_MOST_FAULTS]
    lines = lines_of(
        text, [path for fault in shown for path in (fault.path, fault.first) if path is not None]
    )
    raise together(name, [_located(fault, lines, name) for fault in shown], total)


def _located(fault: Fault, lines: dict[FieldPath, int], name: str) -> InputError:
    field = f"{written(fault.path)}: " if fault.path else ""
    first = f", on line {lines[fault.first]}" if fault.first else ""
    return InputError(f"{field}{fault.what}{first}", where=f"{name}:{lines[fault.path]}", hint=fault.hint)
