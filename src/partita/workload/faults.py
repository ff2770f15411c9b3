"""What is wrong in a workload, in the user's words: each field's faults, and those between fields."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from partita.errors import nearest
from partita.mig.catalogue import gpu_model
from partita.workload.model import Batches, LimitsSpec, ModelSpec, PoolSpec, ServiceSpec, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails, ValidationError

    from partita.workload.lines import FieldPath


class Fault(NamedTuple):
    """Where in the document, what, and how to mend it; `first` is where a repeated name stood first."""

    path: FieldPath
    what: str
    hint: str | None = None
    first: FieldPath | None = None


def field_faults(error: ValidationError, most: int) -> tuple[list[Fault], int]:
    """Return the first `most` faults that pydantic found, and how many there are.

    Where the document's version or kind is wrong, that alone counts: other fields may rightly be unlike ours.
    """
    details = error.errors(include_url=False)
    # A list whose items are all at fault counts as empty to pydantic.
    details = [each for each in details if not (each["type"] == "too_short" and each["input"])]
    details = [each for each in details if each["loc"] in (("apiVersion",), ("kind",))] or details
    return [_field_fault(each) for each in details[:most]], len(details)


_MODELS: dict[tuple[str, ...], type] = {
    (): Workload,
    ("gpus",): PoolSpec,
    ("services",): ServiceSpec,
    ("services", "slo"): Slo,
    ("services", "batches"): Batches,
    ("limits",): LimitsSpec,
    ("models",): ModelSpec,
}

_MUST_BE = {
    "dataclass_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text without control characters",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "text, not empty",
    "string_type": "text",
    "string_unicode": "text without halves of surrogate pairs",
    "too_short": "a list, not empty",
    "tuple_type": "a list",
}


def _field_fault(error: ErrorDetails) -> Fault:
    path, kind, given = error["loc"], error["type"], error["input"]
    name = str(path[-1]) if path else ""
    context: dict[str, Any] = error.get("ctx", {})
    if kind == "fault":
        return Fault(path, context["what"], context["hint"])
    if kind == "missing":
        return Fault(path[:-1], f"{name} is missing", _example(path))
    if kind == "unexpected_keyword_argument":
        known = _known(path)
        close = nearest(name, known)
        hint = f"did you mean {close}?" if close else f"the keys here are {', '.join(known)}"
        return Fault(path, "unknown key", hint)
    if kind not in _MUST_BE:
        return Fault(path, error["msg"], _example(path))
    what = f"must be {_MUST_BE[kind].format(**context)}, not {_shown(given)}"
    if kind in ("float_type", "int_type") and isinstance(given, str) and _is_number(given):
        return Fault(path, what, "write the number without quotes")
    return Fault(
        path, what, "put it in quotes" if kind == "string_type" and _is_plain(given) else _example(path)
    )


def _keys(path: FieldPath) -> tuple[str, ...]:
    return tuple(step for step in path if isinstance(step, str))


def _known(path: FieldPath) -> list[str]:
    return [field.name for field in fields(_MODELS[_keys(path[:-1])])]


def _example(path: FieldPath) -> str | None:
    """Return a value that the field takes, from the field's own examples."""
    keys = _keys(path)
    if not keys:
        return None
    info = get_type_hints(_MODELS[keys[:-1]], include_extras=True)[keys[-1]].__metadata__[-1]
    return f"for example {keys[-1]}: {_flow(info.examples[0])}" if info.examples else None


def _flow(value: object) -> str:
    """Return a value as YAML writes it on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(each) for each in value) + "]"
    return str(value)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else f"{value:.15g}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | bool)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def cross_faults(workload: Workload, folder: Path) -> list[Fault]:
    """Return what is wrong between fields that are each right by themselves, and tables not to be found."""
    return [
        *_repeated(("services",), [service.name for service in workload.services], "service"),
        *_repeated(("models",), [model.name for model in workload.models], "model"),
        *_repeated(("gpus",), [pool.label for pool in workload.gpus], "pool"),
        *_unknown_profiles(workload),
        *_unknown_pools(workload),
        *_without_cost(workload),
        *_cut_faults(workload),
        *_without_performance(workload),
        *_absent_tables(workload, folder),
    ]


def _repeated(path: FieldPath, names: list[str], kind: str) -> Iterator[Fault]:
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        earlier = first.setdefault(name, index)
        if earlier != index:
            hint = "give each pool a name" if kind == "pool" else f"give each {kind} a name of its own"
            yield Fault((*path, index), f"{kind} {name!r} is there already", hint, (*path, earlier))


def _unknown_profiles(workload: Workload) -> Iterator[Fault]:
    profiles = [profile for pool in workload.gpus for profile in gpu_model(pool.model).profiles]
    known = {profile.name: None for profile in profiles} | {profile.size: None for profile in profiles}
    for index, service in enumerate(workload.services):
        for at, name in enumerate(service.profiles or ()):
            if name not in known:
                close = nearest(name, list(known))
                hint = f"did you mean {close}?" if close else f"there are {', '.join(known)}"
                yield Fault(
                    ("services", index, "profiles", at), f"no GPU of this workload has profile {name!r}", hint
                )


def _unknown_pools(workload: Workload) -> Iterator[Fault]:
    known = [pool.label for pool in workload.gpus]
    for index, service in enumerate(workload.services):
        for at, name in enumerate(service.pools or ()):
            if name not in known:
                close = nearest(name, known)
                named = [pool.label for pool in workload.gpus if pool.model == name]
                hint = f"did you mean {close}?" if close else f"`gpus` has {', '.join(known)}"
                hint = f"the pools of {name} are named {', '.join(named)}" if named else hint
                yield Fault(("services", index, "pools", at), f"there is no pool {name!r}", hint)


def _without_cost(workload: Workload) -> Iterator[Fault]:
    for index, pool in enumerate(workload.gpus):
        if workload.objective == "cost" and pool.cost_per_hour is None:
            yield Fault(
                ("gpus", index), "objective cost needs cost_per_hour", "for example cost_per_hour: 2.5"
            )


def _cut_faults(workload: Workload) -> Iterator[Fault]:
    for index, service in enumerate(workload.services):
        path = ("services", index)
        if service.cut is not None and workload.objective == "watts":
            what = "objective watts is not for services with a cut: how busy a slice is decides its power"
            yield Fault((*path, "cut"), what, "write objective: gpus, or leave out cut")
        if service.cut is not None and service.batches is None:
            yield Fault((*path, "cut"), "a cut needs batches", "for example batches: {median: 8, max: 32}")
        if service.batches is not None:
            yield from _batches_faults(service.batches, (*path, "batches"))
            if service.cut is None:
                what = "batches without a cut have no meaning"
                yield Fault((*path, "batches"), what, "write cut: search, or leave out batches")


def _batches_faults(batches: Batches, path: FieldPath) -> Iterator[Fault]:
    if batches.histogram is None and batches.median is None:
        yield Fault(path, "batches need a median or a histogram", "for example batches: {median: 8, max: 32}")
    if batches.histogram is not None:
        for name in ("median", "sigma", "max"):
            if getattr(batches, name) is not None:
                yield Fault(
                    (*path, name), "is for log-normal batch sizes, not beside a histogram", "keep one"
                )


def _without_performance(workload: Workload) -> Iterator[Fault]:
    if not workload.performance and not workload.models:
        yield Fault(
            (),
            "no performance table and no models",
            "name tables, as in performance: [perf.csv], or give models for an estimate",
        )


def _absent_tables(workload: Workload, folder: Path) -> Iterator[Fault]:
    for index, name in enumerate(workload.performance):
        path = folder / name
        if not path.is_file():
            what = f"{path} is a directory, not a file" if path.is_dir() else f"there is no file {path}"
            yield Fault(("performance", index), what, "tables are named relative to the workload's folder")
