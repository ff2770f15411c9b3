"""Bounds of a job's device memory, the profiles that hold it, and constants of all forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from partita.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.mig.gpu import GpuModel, Profile


MIB, GIB = 2**20, 2**30
UNLIMITED = float("inf")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes of device memory that a job needs at its peak: at least `lower`, at most `upper`.

    Raises:
        InputError: they are negative or cross.
    """

    lower: float = 0.0
    upper: float = UNLIMITED

    def __post_init__(self) -> None:
        if not 0.0 <= self.lower <= self.upper:
            raise InputError(f"a job cannot need between {self.lower:.0f} and {self.upper:.0f} bytes")

    def tightened(self, other: Bounds) -> Bounds:
        """Return the intersection with other bounds; if it is empty, the other bounds."""
        lower, upper = max(self.lower, other.lower), min(self.upper, other.upper)
        return Bounds(lower, upper) if lower <= upper else other


def slices(gpu: GpuModel) -> tuple[Profile, ...]:
    """Return the profiles of known memory, each with more than the one before."""
    climbed: list[Profile] = []
    for profile in sorted(gpu.profiles, key=lambda p: (p.memory_mib or 0, p.compute, p.media)):
        if profile.memory_mib and (not climbed or profile.memory_mib > (climbed[-1].memory_mib or 0)):
            climbed.append(profile)
    return tuple(climbed)


def holds(profile: Profile, need: float) -> bool:
    """Return whether a profile has `need` bytes of memory."""
    return (profile.memory_mib or 0) * MIB >= need


def smallest(gpu: GpuModel, need: float) -> Profile | None:
    """Return the smallest profile that has `need` bytes of memory; None if none has."""
    return next((profile for profile in slices(gpu) if holds(profile, need)), None)


CONTEXT = 0.3 * GIB
"""The least that a CUDA context takes."""

WORKSPACES = 3.0 * GIB
"""The most by which estimates from tensors alone were seen to be too low: context, workspaces, fragmentation."""


def with_allowance(lower: float, upper: float) -> Bounds:
    """Return bounds of the device memory from bounds of the tensors, in bytes."""
    return Bounds(lower + CONTEXT, upper + WORKSPACES)


@dataclass(frozen=True, slots=True)
class ModelForecast:
    """What a model is expected to need.

    Attributes:
        parts: bytes, by what they are for. The bounds are their sums.
        notes: what was assumed.
        facts: of the model, to explain the forecast; plain data.
    """

    parts: Mapping[str, Bounds]
    notes: tuple[str, ...]
    facts: Mapping[str, Any]

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes, CUDA context included."""
        parts = self.parts.values()
        return Bounds(sum(part.lower for part in parts), sum(part.upper for part in parts))


_BYTES = {
    "float64": 8.0,
    "double": 8.0,
    "float32": 4.0,
    "float": 4.0,
    "fp32": 4.0,
    "float16": 2.0,
    "half": 2.0,
    "fp16": 2.0,
    "bfloat16": 2.0,
    "bf16": 2.0,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "int8": 1.0,
    "int4": 0.5,
    "nvfp4": 0.5,
}


def value_bytes(name: object, where: str) -> float:
    """Return the bytes of a value of this type, as `bfloat16`.

    Raises:
        InputError: the type is unknown.
    """
    word = str(name).removeprefix("torch.")
    if word not in _BYTES:
        close = nearest(word, list(_BYTES))
        raise InputError(
            f"no dtype {word!r}",
            where=where,
            hint=f"did you mean {close}?" if close else f"one of {', '.join(_BYTES)}",
        )
    return _BYTES[word]


Optimiser = Literal["none", "sgd", "momentum", "adam"]

_STATES = {"sgd": 0, "momentum": 1, "adam": 2}


def training_bytes(parameters: int, weight_bytes: int, optimiser: Optimiser) -> int:
    """Return the bytes of weights, gradients and optimiser state.

    The optimiser keeps its states in 4 bytes each, and a copy of the weights in 4 bytes if they have fewer (mixed
    precision; ZeRO, arXiv 1910.02054, section 3.1). `none` is inference: only the weights.

    Raises:
        InputError: the optimiser is unknown.
    """
    if optimiser == "none":
        return weight_bytes
    if optimiser not in _STATES:
        known = ", ".join(("none", *_STATES))
        raise InputError(f"no optimiser {optimiser!r}", hint=f"one of {known}")
    copy = 4 * parameters if weight_bytes < 4 * parameters else 0
    return 2 * weight_bytes + copy + 4 * parameters * _STATES[optimiser]
