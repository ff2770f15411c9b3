"""The columns of a performance table: what each must hold, and what is wrong where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import TYPE_CHECKING

from partita.errors import InputError, nearest
from partita.mig.catalogue import gpu_model, gpu_names
from partita.perf.table import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REQUIRED = ("model", "gpu", "profile", "batch", "processes", "throughput", "latency_ms", "quantile")
OPTIONAL = ("memory_mb", "utilization", "power_w", "source", "estimated")
COLUMNS = (*REQUIRED, *OPTIONAL)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong in a row of a table: the row's position, and the error without its place."""

    row: int
    what: str
    hint: str | None = None


def header_faults(header: Sequence[str]) -> list[str]:
    """Return what is wrong with a table's column names."""
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        return ["the columns are not separated by commas"]
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in REQUIRED if name not in header]
    twice = sorted({name for name in header if header.count(name) > 1 and name in COLUMNS})
    faults = [f"column {name!r} is there twice" for name in twice]
    for name in unknown:
        close = nearest(name.strip().lower(), missing or list(COLUMNS))
        faults.append(f"unknown column {name!r}" + (f" (did you mean {close}?)" if close else ""))
    faults += [f"no column {name!r}" for name in missing]
    return faults


def measurements(columns: Mapping[str, Sequence[object]]) -> tuple[list[Measurement], list[Fault]]:
    """Turn columns into rows. Faulty tables give no rows, and all faults in the order of rows.

    Args:
        columns: the required columns and any of the optional ones, all of one length.
    """
    faults: list[Fault] = []
    fields: list[Sequence[object]] = []
    for name in COLUMNS:
        values = columns.get(name)
        if values is None:
            fields.append((_DEFAULTS[name],) * len(columns["model"]))
        else:
            fields.append(_parsed(values, name, faults))
    faults += _unknown_profiles(fields[1], fields[2])
    if faults:
        return [], sorted(faults, key=lambda fault: fault.row)
    return list(map(Measurement, *fields)), []


def _parsed(values: Sequence[object], name: str, faults: list[Fault]) -> list[object]:
    parse, known, out = _PARSERS[name], {}, []
    for row, value in enumerate(values):
        try:
            # Most columns repeat few values, so each is parsed once.
            if value not in known:
                known[value] = parse(value)
            out.append(known[value])
        except InputError as error:
            shown = "empty" if value is None or value == "" else repr(value)
            faults.append(Fault(row, f"{name} is {shown}: {error.what}", error.hint))
            out.append(None)
    return out


def _unknown_profiles(gpus: Sequence[object], profiles: Sequence[object]) -> list[Fault]:
    faults: dict[tuple[object, object], InputError | None] = {}
    found = []
    for row, pair in enumerate(zip(gpus, profiles, strict=True)):
        if pair not in faults:
            faults[pair] = _profile_error(*pair)
        error = faults[pair]
        if error:
            found.append(Fault(row, error.what, error.hint))
    return found


def _profile_error(gpu: object, profile: object) -> InputError | None:
    if isinstance(gpu, str) and isinstance(profile, str):
        try:
            gpu_model(gpu).profile(profile)
        except InputError as error:
            return error
    return None  # that one of them is empty, or the GPU unknown, is a fault of its own


def _text(value: object) -> str:
    text = "" if value is None else str(value).strip()
    if not text:
        raise InputError("a name is needed")
    return text


def _gpu(value: object) -> str:
    name = _text(value)
    if name not in gpu_names():
        alias = next((each for each in gpu_names() if name in gpu_model(each).aliases), None)
        if name == "cpu":
            raise InputError(
                "it was measured on a CPU, which no plan has",
                hint="measure with `--as GPU/PROFILE` to have a CPU's figures stand in for a GPU's",
            )
        close = alias or nearest(name.lower(), list(gpu_names()))
        hint = f"did you mean {close}?" if close else "`partita gpus` lists them"
        raise InputError("no GPU of that name is in the catalogue", hint=hint)
    return name


def _number(value: object) -> float:
    if value is None or value == "":
        raise InputError("a number is needed")
    try:
        number = float(value)  # type: ignore[arg-type]  # what cannot be turned is refused
    except (TypeError, ValueError):
        raise InputError("not a number") from None
    if not isfinite(number):
        raise InputError("not a finite number")
    return number


def _positive(value: object) -> float:
    number = _number(value)
    if number <= 0:
        raise InputError("it must be above zero")
    return number


def _count(value: object) -> int:
    number = _positive(value)
    if not number.is_integer():
        raise InputError("it must be a whole number")
    return int(number)


def _amount(value: object) -> float | None:
    if value is None or value == "":
        return None
    number = _number(value)
    if number < 0:
        raise InputError("it must not be negative")
    return number


def _share(value: object) -> float | None:
    number = _amount(value)
    if number is not None and number > 1:
        raise InputError("it must be a share from 0 to 1", hint="divide percent by 100")
    return number


def _note(value: object) -> str:
    return "" if value is None else str(value)


def _flag(value: object) -> bool:
    text = "" if value is None else str(value).strip().lower()
    if text not in _FLAGS:
        raise InputError("it must be true or false")
    return _FLAGS[text]


def quantile_text(value: object) -> str:
    """Return a quantile as tables keep it: `0.9` for `0.90`, `p90` and `P90`, and `mean`.

    Raises:
        InputError: neither `mean` nor a number between 0 and 1, both excluded.
    """
    text = "" if value is None else str(value).strip().lower()
    if text in {"mean", "avg", "average"}:
        return "mean"
    hint = "write 0.9 or p90 for the 90th percentile, or mean"
    try:
        number = Decimal(text[1:]) / 100 if text.startswith("p") else Decimal(text)
        within = 0 < number < 1
    except InvalidOperation:  # NaN is one, once it is compared
        raise InputError("not a quantile", hint=hint) from None
    if not within:
        raise InputError("it must lie between 0 and 1", hint=hint)
    return f"{number.normalize():f}"


_FLAGS = {"": False, "false": False, "0": False, "no": False, "true": True, "1": True, "yes": True}
_DEFAULTS: dict[str, object] = {
    "memory_mb": None,
    "utilization": None,
    "power_w": None,
    "source": "",
    "estimated": False,
}
_PARSERS: dict[str, Callable[[object], object]] = {
    "model": _text,
    "gpu": _gpu,
    "profile": _text,
    "batch": _count,
    "processes": _count,
    "throughput": _positive,
    "latency_ms": _positive,
    "quantile": quantile_text,
    "memory_mb": _amount,
    "utilization": _share,
    "power_w": _amount,
    "source": _note,
    "estimated": _flag,
}
