"""The columns of a performance table: what each holds, what is wrong in a row, and what is hard to believe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import TYPE_CHECKING

from partita.errors import InputError, nearest
from partita.mig.catalogue import gpu_meant, gpu_model, gpu_names
from partita.perf.records import MISSING, number_hint, plain_name
from partita.perf.table import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


REQUIRED = ("model", "gpu", "profile", "batch", "processes", "throughput", "latency_ms", "quantile")
OPTIONAL = ("memory_mb", "utilization", "power_w", "source", "estimated")
COLUMNS = (*REQUIRED, *OPTIONAL)
NUMBERS = (
    "batch",
    "processes",
    "throughput",
    "latency_ms",
    "quantile",
    "memory_mb",
    "utilization",
    "power_w",
)


@dataclass(frozen=True, slots=True)
class RowFault:
    """What is wrong in a row of a table: the row's position, and the error without its place."""

    row: int
    what: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """A table's column names, compared.

    Attributes:
        names: the column of each known name, as the file writes it.
        faults: what is wrong with them.
        extra: the columns that are no part of a performance table, and are passed over.
    """

    names: Mapping[str, str]
    faults: tuple[str, ...]
    extra: tuple[str, ...]


def read_header(header: Sequence[str]) -> Header:
    """Compare a table's column names with those there are; case, spaces and hyphens do not matter."""
    names: dict[str, str] = {}
    extra, faults = [], []
    for written in header:
        name = plain_name(written)
        if name not in COLUMNS:
            extra.append(written)
        elif name in names:
            faults.append(f"column {name!r} is there twice")
        else:
            names[name] = written
    missing = [name for name in REQUIRED if name not in names]
    unused = dict.fromkeys(extra)
    for name in missing:
        close = nearest(name, [plain_name(each) for each in unused])
        meant = next((each for each in unused if close and plain_name(each) == close), None)
        faults.append(f"no column {name!r}" + (f" (is {meant!r} meant?)" if meant else ""))
    return Header(names, tuple(faults), tuple(extra))


def measurements(columns: Mapping[str, Sequence[object]]) -> tuple[list[Measurement], list[RowFault]]:
    """Turn columns into rows. Faulty tables give no rows, and all faults in the order of rows.

    Args:
        columns: required and optional columns, all of one length. Without one that is required there are no rows,
            and the faults of the others are told all the same.
    """
    faults: list[RowFault] = []
    fields: dict[str, Sequence[object]] = {}
    length = len(next(iter(columns.values()), ()))
    for name in COLUMNS:
        values = columns.get(name)
        fields[name] = (_DEFAULTS.get(name),) * length if values is None else _parsed(values, name, faults)
    faults += _unknown_profiles(fields["gpu"], fields["profile"])
    if faults or not set(REQUIRED) <= set(columns):
        return [], sorted(faults, key=lambda fault: fault.row)
    return list(map(Measurement, *fields.values())), []


def _parsed(values: Sequence[object], name: str, faults: list[RowFault]) -> list[object]:
    parse, known, out = _PARSERS[name], {}, []
    for row, value in enumerate(values):
        try:
            # Most columns repeat few values, so each is parsed once.
            if value not in known:
                known[value] = parse(value)
            out.append(known[value])
        except InputError as error:
            shown = "empty" if value is None or value == "" else repr(value)
            faults.append(RowFault(row, f"{name} is {shown}: {error.what}", error.hint))
            out.append(None)
    return out


def _unknown_profiles(gpus: Sequence[object], profiles: Sequence[object]) -> list[RowFault]:
    faults: dict[tuple[object, object], InputError | None] = {}
    found = []
    for row, pair in enumerate(zip(gpus, profiles, strict=True)):
        if pair not in faults:
            faults[pair] = _profile_error(*pair)
        error = faults[pair]
        if error:
            found.append(RowFault(row, error.what, error.hint))
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
    """Return the catalogue's name of a GPU, which nvidia-smi and people write otherwise."""
    text = _text(value)
    try:
        return gpu_meant(text).name
    except InputError:
        if text == "cpu":
            raise InputError(
                "it was measured on a CPU, which no plan has",
                hint="measure with `--as GPU/PROFILE` to have a CPU's figures stand in for a GPU's",
            ) from None
        close = nearest(text.lower(), list(gpu_names()))
        hint = f"did you mean {close}?" if close else "`partita gpus` lists them"
        raise InputError("no GPU of that name is in the catalogue", hint=hint) from None


def _profile(value: object) -> str:
    """Return a profile's name: `MIG 1g.10gb` of nvidia-smi and `mig-1g.10gb` of Kubernetes are `1g.10gb`."""
    return profile_name(_text(value))


def profile_name(text: str) -> str:
    """Return the profile that is written as nvidia-smi (`MIG 1g.10gb`) or Kubernetes (`mig-1g.10gb.me`) do."""
    bare = _DEVICE.sub("", _MIG.sub("", text.strip())).lower()
    return _VARIANT.sub("+", bare)


_MIG = re.compile(r"(?:nvidia\.com/)?mig[-\s]+", re.IGNORECASE)
_DEVICE = re.compile(r"\s+Device\s+\d+:.*", re.IGNORECASE)
_VARIANT = re.compile(r"(?<=gb)\.(?=[a-z])")


def _is_missing(value: object) -> bool:
    return value is None or str(value).strip().casefold() in MISSING


def _number(value: object) -> float:
    if value is None or value == "":
        raise InputError("a number is needed")
    try:
        number = float(value)  # type: ignore[arg-type]  # what cannot be turned is refused
    except (TypeError, ValueError):
        raise InputError("not a number", hint=number_hint(str(value))) from None
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
    if _is_missing(value):
        return None
    number = _number(value)
    if number < 0:
        raise InputError("it must not be negative")
    return number


def _share(value: object) -> float | None:
    if isinstance(value, str) and value.strip().endswith("%"):
        percent = _amount(value.strip().removesuffix("%").strip())
        number = None if percent is None else percent / 100
    else:
        number = _amount(value)
    if number is not None and number > 1:
        raise InputError("it must be a share from 0 to 1", hint="divide percent by 100")
    return number


def _note(value: object) -> str:
    return "" if value is None or value != value else str(value)  # noqa: PLR0124 -- NaN of a column without text


def _flag(value: object) -> bool:
    text = "" if _is_missing(value) else str(value).strip().lower()
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
    if text.endswith("%"):
        text = "p" + text.removesuffix("%").strip()
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
    "profile": _profile,
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


FASTER = 10.0
"""A smaller slice is not so many times as fast as a larger one."""
APART = 10.0
"""Throughput, latency and batch do not differ by such a factor from what they say of each other."""
_PLACES = 4


def implausible(rows: Sequence[Measurement], place: Callable[[int], str]) -> list[str]:
    """Return what is hard to believe of rows, one sentence for each kind, with its first places.

    Two things are held against each other. On a slice whose processes always work, throughput x latency is what is
    under way: batch x processes (Little's law); a factor of ten is a unit mistaken, as in seconds for milliseconds.
    And a slice is not ten times as fast as one with more of everything.

    Args:
        rows: measurements.
        place: where the row at a position stands.
    """
    told = [
        (
            "throughput x latency is {ratio:,.3g} times batch x processes (seconds, or one process alone?)",
            _against_little(rows),
        ),
        (
            "{ratio:,.3g} times as fast as a larger slice, on {other} (rows swapped, or other units?)",
            _against_larger(rows, place),
        ),
    ]
    notes = []
    for text, found in told:
        cases = list(found)
        if cases:
            row, ratio, other = cases[0]
            more = ", ".join(place(each).rpartition("/")[2] for each, _, _ in cases[1:_PLACES])
            others = f"; {len(cases) - 1:,} more like it, as at {more}" if more else ""
            notes.append(f"{place(row)}: hard to believe: " + text.format(ratio=ratio, other=other) + others)
    return notes


def _against_little(rows: Sequence[Measurement]) -> Iterator[tuple[int, float, str]]:
    for index, row in enumerate(rows):
        ratio = row.throughput * row.latency_ms / 1000 / (row.batch * row.processes)
        if not 1 / APART <= ratio <= APART and not row.estimated:
            yield index, ratio, ""


def _against_larger(
    rows: Sequence[Measurement], place: Callable[[int], str]
) -> Iterator[tuple[int, float, str]]:
    groups: dict[tuple[str, str, int, int, str], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.model, row.gpu, row.batch, row.processes, row.quantile), []).append(index)
    for (_, gpu, *_), group in groups.items():
        if len(group) > 1:
            yield from _faster_than_larger(rows, group, gpu, place)


def _faster_than_larger(
    rows: Sequence[Measurement], group: Sequence[int], gpu: str, place: Callable[[int], str]
) -> Iterator[tuple[int, float, str]]:
    sizes = {profile.name: (profile.compute, profile.memory) for profile in gpu_model(gpu).profiles}
    slowest: tuple[float, int] | None = None
    for index in sorted(group, key=lambda each: sizes[rows[each].profile], reverse=True):
        throughput = rows[index].throughput
        if slowest is not None and throughput >= FASTER * slowest[0]:
            larger = slowest[1]
            if sizes[rows[index].profile] < sizes[rows[larger].profile]:
                yield index, throughput / slowest[0], place(larger).rpartition("/")[2]
        if slowest is None or throughput < slowest[0]:
            slowest = throughput, index
