"""Checks the allocations of a cluster against the plan, since the API server does not check them.

It shares no code with what writes allocations: it reads them from the claims, knows devices by their names alone, and
counts memory slices, compute slices and media engines itself.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.mig.gpu import GpuModel

_NAME = re.compile(r"gpu-(\d+)(?:-mig-.+-(\d+)-(\d+))?")


@dataclass(frozen=True, slots=True)
class AllocatedDevice:
    """A device in a claim's status.

    Attributes:
        claim: the claim's namespace and name.
        pool: of the device.
        name: of the device.
    """

    claim: str
    driver: str
    pool: str
    name: str


@dataclass(frozen=True, slots=True)
class WantedDevice:
    """The only device that a claim may hold; `minor` is the GPU's number on its node."""

    claim: str
    driver: str
    pool: str
    minor: int
    profile: str
    start: int


def allocation_faults(
    wanted: WantedDevice, found: Iterable[AllocatedDevice], on_gpu: Iterable[AllocatedDevice], model: GpuModel
) -> list[str]:
    """Return the faults of a claim's allocation; none if it is exactly what the plan wants.

    Args:
        wanted: by the plan.
        found: devices in the claim.
        on_gpu: devices of the same GPU in all claims, of any user.
        model: the GPU's.
    """
    mine = tuple(found)
    if len(mine) != 1:
        return [f"it holds {len(mine)} devices instead of one"]
    only = mine[0]
    faults = []
    if (only.driver, only.pool) != (wanted.driver, wanted.pool):
        faults.append(
            f"it holds a device of {only.driver} {only.pool} instead of {wanted.driver} {wanted.pool}"
        )
    read = _read(only.name)
    profile = next((each for each in model.profiles if each.name == wanted.profile), None)
    if profile is None or read is None or read != (wanted.minor, profile.gi_profile_id, wanted.start):
        faults.append(
            f"it holds {only.name} instead of {wanted.profile} at {wanted.start} of gpu-{wanted.minor}"
        )
    return faults or together_faults([*on_gpu, only], model)


def together_faults(devices: Iterable[AllocatedDevice], model: GpuModel) -> list[str]:
    """Return why a GPU cannot hold all the devices that are allocated on it; empty if it can."""
    by_id = {each.gi_profile_id: each for each in model.profiles}
    owners: dict[int, AllocatedDevice] = {}
    sizes: Counter[str] = Counter()
    media: list[AllocatedDevice] = []
    compute = 0
    faults = []
    for device in dict.fromkeys(devices):
        read = _read(device.name)
        whole = read is not None and read[1] is None
        profile = by_id.get(read[1]) if read is not None and not whole else None
        if read is None or (profile is None and not whole):
            faults.append(f"{device.claim} holds {device.name}, which is no device of a {model.name}")
            continue
        start, length = (read[2] or 0, profile.memory) if profile else (0, model.memory_slices)
        compute += profile.compute if profile else model.compute_slices
        for slot in range(start, start + length):
            other = owners.setdefault(slot, device)
            if other != device:
                faults.append(f"{device.claim} holds {device.name}, and {other.claim} holds {other.name}")
                break
        if profile is not None:
            sizes[profile.name] += 1
            if profile.media:
                media.append(device)
            if sizes[profile.name] > profile.max_instances:
                faults.append(f"{sizes[profile.name]} instances of {profile.name} are allocated")
    if compute > model.compute_slices and not faults:
        faults.append(f"{compute} compute slices of {model.compute_slices} are allocated")
    if len(media) > 1:
        faults.append(f"{len(media)} instances with the media engines are allocated")
    return faults


def _read(name: str) -> tuple[int, int | None, int | None] | None:
    """Return the GPU's number, the profile's id and the start in a device's name; a whole GPU has only the number."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    minor, profile, start = found.groups()
    return int(minor), None if profile is None else int(profile), None if start is None else int(start)
