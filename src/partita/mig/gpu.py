"""What is known of one GPU model: its slices, its profiles and the combinations that are forbidden."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from partita.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_PART = re.compile(r"\d+g(\.\d+gb([+-][a-z.]+)?)?")


@dataclass(frozen=True, slots=True)
class Profile:
    """A MIG profile, such as `3g.20gb`.

    Attributes:
        name: NVIDIA's name.
        compute: compute slices it takes.
        memory: memory slices it takes, the size of its placement.
        starts: memory slices at which it may start.
        max_instances: most instances of it on one GPU.
        media: whether it owns the media engines (`+me`), which only one instance of a GPU can.
        memory_mib: usable memory in MiB; None where no source says.
        sms: streaming multiprocessors; None where no source says.
        gi_profile_id: number that `nvidia-smi mig -lgip` prints.
        nvml_profile: value of NVML's `NVML_GPU_INSTANCE_PROFILE_*`, which is another number.
        copy_engines: copy engines it has; None where no source says.
        aliases: other names that some drivers print for it; its numbers do not differ between drivers.
    """

    name: str
    compute: int
    memory: int
    starts: tuple[int, ...]
    max_instances: int
    media: bool = False
    memory_mib: int | None = None
    sms: int | None = None
    gi_profile_id: int | None = None
    nvml_profile: int | None = None
    copy_engines: int | None = None
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """The part of the name that says the compute slices: `3g` of `3g.20gb`."""
        return self.name.split(".")[0]

    @property
    def plain(self) -> bool:
        """Whether it is no variant of another profile: neither `+me` nor `+gfx` nor `-me`."""
        return not set("+-") & set(self.name)

    def mask(self, start: int) -> int:
        """Return the memory slices taken when placed at `start`, as a bit set."""
        return ((1 << self.memory) - 1) << start


@dataclass(frozen=True, slots=True)
class Peak:
    """A whole GPU's peak rates from its data sheet, dense; None where the sheet does not say."""

    fp32_tflops: float | None = None
    tf32_tflops: float | None = None
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    bandwidth_gbs: float | None = None


@dataclass(frozen=True, slots=True)
class Combination:
    """Instances that must not stand together on one GPU, by size (`4g`) or by profile (`4g.20gb`).

    The paper's driver 450 forbids `4g+3g` (MIG-Serving, section 2); today's drivers allow it.
    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Combination:
        """Read `4g+3g`. A `+me` or `+gfx` after a profile's name belongs to that name.

        Raises:
            InputError: not at least two sizes or profiles.
        """
        parts = re.split(r"\+(?=\d)", text.strip())
        if len(parts) < 2 or not all(_PART.fullmatch(part) for part in parts):
            raise InputError(
                f"{text!r} is not a combination of instances", hint="write sizes or profiles, as in '4g+3g'"
            )
        return cls(tuple(sorted(parts)))

    def __str__(self) -> str:
        return "+".join(self.parts)

    def within(self, counts: Mapping[Profile, int]) -> bool:
        """Say whether instances in these counts include the combination."""
        wanted = Counter(self.parts)
        present = {
            part: sum(n for profile, n in counts.items() if part in (profile.name, profile.size))
            for part in wanted
        }
        return all(present[part] >= n for part, n in wanted.items())


@dataclass(frozen=True)
class GpuModel:
    """One model of GPU, with all that decides which instances fit on it.

    Attributes:
        name: the catalogue's name, such as `a100-80gb`.
        compute_slices: compute slices there are (7, or 4 on A30).
        memory_slices: memory slices there are (8, or 4 on A30).
        profiles: from small to large.
        forbidden: combinations that this GPU's driver or its owner does not allow.
        pci: PCI device numbers of the products, such as `20B2`.
        origin: where this is from: the catalogue, a file, or NVML.
    """

    name: str
    title: str
    architecture: str
    compute_slices: int
    memory_slices: int
    profiles: tuple[Profile, ...]
    aliases: tuple[str, ...] = ()
    memory_mib: int | None = None
    sms: int | None = None
    peak: Peak = Peak()
    power_limit_w: float | None = None
    sources: tuple[str, ...] = ()
    forbidden: tuple[Combination, ...] = ()
    pci: tuple[str, ...] = ()
    origin: str = field(default="catalogue", compare=False)

    def __hash__(self) -> int:
        return hash((self.name, len(self.profiles), self.forbidden))  # it is a key of many caches: be quick

    @cached_property
    def _by_name(self) -> dict[str, Profile]:
        return {profile.name: profile for profile in self.profiles}

    def profile(self, name: str) -> Profile:
        """Return the profile of that name.

        Raises:
            InputError: this GPU has no such profile.
        """
        found = self._by_name.get(name)
        if found is None:
            known = list(self._by_name)
            close = nearest(name, known)
            raise InputError(
                f"{self.name} has no profile {name!r}",
                hint=f"did you mean {close}?" if close else f"it has {', '.join(known)}",
            )
        return found

    def has(self, name: str) -> bool:
        """Say whether this GPU has a profile of that name."""
        return name in self._by_name

    def profile_called(self, name: str) -> Profile | None:
        """Return the profile of a driver's name, with or without `MIG ` before it; None if there is none."""
        word = name.strip().removeprefix("MIG ")
        return self._by_name.get(word) or next((p for p in self.profiles if word in p.aliases), None)

    def forbidding(self, combinations: Iterable[str]) -> GpuModel:
        """Return this GPU with these combinations forbidden as well.

        Raises:
            InputError: a combination that cannot be read.
        """
        more = {Combination.parse(text) for text in combinations}
        return replace(self, forbidden=tuple(sorted({*self.forbidden, *more}, key=str)))

    def restricted(self, names: Iterable[str]) -> GpuModel:
        """Return this GPU with only the profiles of these names."""
        keep = set(names)
        return replace(self, profiles=tuple(p for p in self.profiles if p.name in keep))

    def with_plain(self, names: Iterable[str]) -> GpuModel:
        """Return this GPU with its plain profiles and those of these names."""
        return self.restricted([*(p.name for p in self.profiles if p.plain), *names])


IDLE_W = 36.12
"""What an A100 draws without work, in watts: MISO's measurement of a process that computes nothing (github
boringlee24/socc22-miso at 39b1ee6)."""

CONTEXT_W = 26.0
"""What a CUDA context alone adds, once for a GPU and whatever it holds: the least of 26 to 50 W that were measured on
A100 and H100 (arXiv 2605.23918)."""

LIMIT_W = 400.0
"""The power limit of an A100 SXM4 (NVIDIA A100 data sheet)."""
