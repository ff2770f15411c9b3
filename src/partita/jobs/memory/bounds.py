"""What every memory forecaster says, and the profiles that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from partita.errors import InputError

if TYPE_CHECKING:
    from partita.mig.gpu import GpuModel, Profile

MIB = 2**20

UNLIMITED = float("inf")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes of device memory that a job needs at its peak: surely more than `lower`, at most `upper`.

    Raises:
        InputError: they are negative or cross.
    """

    lower: float = 0.0
    upper: float = UNLIMITED

    def __post_init__(self) -> None:
        if not 0.0 <= self.lower <= self.upper:
            raise InputError(f"a job cannot need between {self.lower:.0f} and {self.upper:.0f} bytes")

    def tightened(self, other: Bounds) -> Bounds:
        """Return what both say; where they contradict, the other."""
        lower, upper = max(self.lower, other.lower), min(self.upper, other.upper)
        return Bounds(lower, upper) if lower <= upper else other


class Forecaster(Protocol):
    """Forecasts the peak of a job's device memory from what it was made with."""

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes, CUDA context included."""
        ...


def slices(gpu: GpuModel) -> tuple[Profile, ...]:
    """Return the profiles to climb: those whose memory is known, each larger than the one before."""
    climbed: list[Profile] = []
    for profile in sorted(gpu.profiles, key=lambda p: (p.memory_mib or 0, p.compute, p.media)):
        if profile.memory_mib and (not climbed or profile.memory_mib > (climbed[-1].memory_mib or 0)):
            climbed.append(profile)
    return tuple(climbed)


def holds(profile: Profile, need: float) -> bool:
    """Say whether a profile has so many bytes."""
    return (profile.memory_mib or 0) * MIB >= need


def smallest(gpu: GpuModel, need: float) -> Profile | None:
    """Return the smallest profile that has so many bytes; None if none has."""
    return next((profile for profile in slices(gpu) if holds(profile, need)), None)
