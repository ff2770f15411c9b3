"""The GPUs Partita knows: those of the files beside this one, of a user's files, and those found on this host.

Each GPU is a TOML file: read with every field checked, and written the same way.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

from partita.documents.codec import FieldFault, Meta, Text, Value, check, convert
from partita.documents.text import parse_toml
from partita.errors import InputError, nearest
from partita.files import read_text
from partita.mig.gpu import Combination, GpuModel, Peak, Profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


# A process knows one set of GPUs, as it has one set of codecs: names in its documents mean these.
_added: dict[str, GpuModel] = {}


def add(models: Iterable[GpuModel]) -> None:
    """Add GPUs to those that this process knows; one of the same name is replaced.

    A user's file so replaces the catalogue's, and what NVML says of a GPU of this host replaces both.
    """
    for model in models:
        _added[model.name] = model


def reset() -> None:
    """Forget all GPUs but the catalogue's own."""
    _added.clear()


def gpu_names() -> tuple[str, ...]:
    """Return the names of all GPUs that are known, in alphabetical order."""
    return tuple(sorted({*_own_names(), *_added}))


def gpu_model(name: str) -> GpuModel:
    """Return the GPU of that name.

    Raises:
        InputError: there is none.
    """
    found = _added.get(name)
    if found is not None:
        return found
    if name in _own_names():
        return _own(name)
    close = nearest(name.lower(), list(gpu_names()))
    raise InputError(
        f"no GPU {name!r} in the catalogue",
        hint=f"did you mean {close}?"
        if close
        else "list them with `partita gpus`; name a file of your own with --gpus-file",
    )


def gpu_meant(text: str) -> GpuModel:
    """Return the GPU that a user names: by the catalogue's name in any case, or as other programs print it.

    Other programs are NVML, `nvidia-smi`, `nvidia-smi -L`, and the labels of Kubernetes (with `-MIG-1g.10gb` at their
    end where each GPU is cut alike). A family alone (`H100`) names no GPU: its members have different profiles.

    Raises:
        InputError: there is none.
    """
    name = _LABEL.sub("", _LISTED.sub("", " ".join(text.split())))
    found = None if _is_family(name) else gpu_called(name)
    return found or gpu_model(text)


_LISTED = re.compile(r"^GPU \d+:\s*|\s*\(UUID: .*$")
_LABEL = re.compile(r"-MIG-\d+g\.\d+gb.*$", re.IGNORECASE)


def _is_family(name: str) -> bool:
    names = gpu_names()
    return name.lower() not in names and any(each.startswith(name.lower() + "-") for each in names)


def gpu_called(name: str, memory_mib: float | None = None) -> GpuModel | None:
    """Return the GPU of a name as NVML, nvidia-smi or a Kubernetes label writes it, None if none is known.

    Args:
        name: as it is written there.
        memory_mib: of the whole GPU. Where several GPUs have the name, such as `NVIDIA H100`, the one with the
            nearest memory is returned; without it the smallest.
    """
    found = gpus_called(name)
    if not found:
        return None
    return min(found, key=lambda model: abs(_nominal_mib(model) - (memory_mib or 0.0)))


def gpus_called(name: str) -> tuple[GpuModel, ...]:
    """Return all GPUs of a name as NVML, nvidia-smi or a Kubernetes label writes it.

    Case, a leading `NVIDIA`, and the choice of blanks, hyphens or underscores do not matter.
    """
    wanted = _key(name)
    found = (
        model for model in map(gpu_model, gpu_names()) if wanted in map(_key, (model.name, *model.aliases))
    )
    # An exact match comes first.
    return tuple(sorted(found, key=lambda model: name not in (model.name, *model.aliases)))


def gpus_on_pci(number: str) -> tuple[GpuModel, ...]:
    """Return the GPUs with a PCI device number, written as `20B2`."""
    return tuple(model for model in map(gpu_model, gpu_names()) if number.upper() in model.pci)


def _nominal_mib(model: GpuModel) -> float:
    """Return the memory in the names of a GPU's profiles, in MiB: not all GPUs have another figure."""
    said = (re.search(r"\.(\d+)gb", profile.name) for profile in model.profiles)
    return max((int(each[1]) * 1024.0 for each in said if each), default=0.0)


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().lower()).removeprefix("nvidia-")


@cache
def _own_names() -> tuple[str, ...]:
    folder = resources.files(__name__)
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


@cache
def _own(name: str) -> GpuModel:
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return parse_gpu(text, f"{name}.toml", "catalogue")


# The files

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PROFILE = re.compile(r"(?P<compute>\d+)g\.\d+gb([+-][a-z0-9.]+)*")
_PCI = re.compile(r"[0-9A-F]{4}")
_MOST_SLICES = 16
"""No GPU has more than 12, and ways to cut one grow as a power of their number."""
_MOST = 10**9


def _gpu_name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise InputError("must be small letters, digits, '-', '_' and '.', as in a100-80gb")


def _profile_name(text: str) -> None:
    if not _PROFILE.fullmatch(text):
        raise InputError("must be of NVIDIA's form, as in 3g.40gb or 1g.10gb+me")


def _pci(text: str) -> None:
    if not _PCI.fullmatch(text):
        raise InputError("must be a PCI device number of four digits, as in 20B2")


_Slices = Annotated[int, Meta(ge=1, le=_MOST_SLICES)]
_Number = Annotated[int, Meta(ge=0, le=_MOST)]
_Size = Annotated[int, Meta(ge=1, le=_MOST)]
_Rate = Annotated[float, Meta(gt=0, lt=_MOST)]


class ProfileTable(Value):
    """A profile in a GPU's file."""

    name: Annotated[Text, check(_profile_name)]
    compute: _Slices
    memory: _Slices
    starts: Annotated[tuple[_Number, ...], Meta(min_length=1, examples=[[0]])]
    max_instances: _Size
    aliases: tuple[Text, ...] = ()
    gi_profile_id: _Number | None = None
    nvml_profile: _Number | None = None
    memory_mib: _Size | None = None
    sms: _Size | None = None
    copy_engines: _Number | None = None
    media: bool = False

    def faults(self) -> Iterator[FieldFault]:
        """Yield contradictions between the fields."""
        said = _PROFILE.fullmatch(self.name)
        if said is not None and int(said["compute"]) != self.compute:
            yield FieldFault(("compute",), f"{self.name} says {said['compute']} compute slices")
        if len(set(self.starts)) < len(self.starts):
            yield FieldFault(("starts",), "a start appears twice")
        if self.max_instances > len(self.starts):
            yield FieldFault(
                ("max_instances",), f"must be from 1 to {len(self.starts)}, as many as there are starts"
            )


class PeakTable(Value):
    """Peak rates in a GPU's file."""

    fp32_tflops: _Rate | None = None
    tf32_tflops: _Rate | None = None
    fp16_tflops: _Rate | None = None
    int8_tops: _Rate | None = None
    bandwidth_gbs: _Rate | None = None
    source: Any = None


class PowerTable(Value):
    """Power in a GPU's file."""

    limit_w: _Rate | None = None
    source: Any = None


class GpuTable(Value):
    """A GPU's file."""

    name: Annotated[Text, check(_gpu_name)]
    compute_slices: _Slices
    memory_slices: _Slices
    profile: Annotated[tuple[ProfileTable, ...], Meta(min_length=1)]
    title: Text | None = None
    architecture: Text = "unknown"
    memory_mib: _Size | None = None
    sms: _Size | None = None
    aliases: tuple[Text, ...] = ()
    pci: tuple[Annotated[str, check(_pci)], ...] = ()
    sources: tuple[Text, ...] = ()
    forbidden: tuple[Annotated[str, check(Combination.parse)], ...] = ()
    peak: PeakTable = PeakTable()
    power: PowerTable = PowerTable()

    def faults(self) -> Iterator[FieldFault]:
        """Yield contradictions between the GPU and its profiles."""
        seen: set[str] = set()
        for index, each in enumerate(self.profile):
            last = self.memory_slices - each.memory
            if each.name in seen:
                yield FieldFault(("profile", index, "name"), f"{each.name} is there already")
            seen.add(each.name)
            if each.compute > self.compute_slices:
                yield FieldFault(("profile", index, "compute"), f"must be at most {self.compute_slices}")
            if last < 0:
                yield FieldFault(("profile", index, "memory"), f"must be at most {self.memory_slices}")
            elif max(each.starts) > last:
                yield FieldFault(("profile", index, "starts"), f"must be memory slices from 0 to {last}")


def read_gpu(path: Path | str) -> GpuModel:
    """Read a GPU from a file; its `origin` is the file's name.

    Raises:
        InputError: the file cannot be read or is not TOML, or fields are missing, unknown or wrong; all faults are
            listed with their lines.
    """
    return parse_gpu(read_text(path), str(path))


def parse_gpu(text: str, name: str, origin: str | None = None) -> GpuModel:
    """Return the GPU that a text describes.

    Args:
        text: TOML.
        name: of the file, for errors.
        origin: of the GPU; `name` where left out.

    Raises:
        InputError: as `read_gpu`.
    """
    data, source = parse_toml(text, name, "see `partita gpus show a100-80gb --toml`")
    table = convert(data, GpuTable, source)
    return GpuModel(
        name=table.name,
        title=table.title or table.name,
        architecture=table.architecture,
        compute_slices=table.compute_slices,
        memory_slices=table.memory_slices,
        profiles=tuple(map(_profile, table.profile)),
        aliases=table.aliases,
        memory_mib=table.memory_mib,
        sms=table.sms,
        peak=Peak(**{key: getattr(table.peak, key) for key in _RATES}),
        power_limit_w=table.power.limit_w,
        sources=table.sources,
        forbidden=tuple(map(Combination.parse, table.forbidden)),
        pci=table.pci,
        origin=origin or name,
    )


def _profile(table: ProfileTable) -> Profile:
    fields = {key: getattr(table, key) for key in _PROFILE_KEYS}
    return Profile(**{**fields, "starts": tuple(sorted(table.starts))})


_RATES = ("fp32_tflops", "tf32_tflops", "fp16_tflops", "int8_tops", "bandwidth_gbs")
_PROFILE_KEYS = (
    "name", "aliases", "gi_profile_id", "nvml_profile", "compute", "memory", "starts", "memory_mib", "sms",
    "copy_engines", "max_instances", "media",
)  # fmt: skip


def gpu_text(gpu: GpuModel) -> str:
    """Return a GPU as TOML that `read_gpu` reads; what is not known is left out."""
    lines = [
        *_lines(
            gpu, ("name", "title", "architecture", "compute_slices", "memory_slices", "memory_mib", "sms")
        ),
        *_lines(gpu, ("aliases", "pci", "sources")),
    ]
    if gpu.forbidden:
        lines.append(f"forbidden = {_value([str(each) for each in gpu.forbidden])}")
    rates = _lines(gpu.peak, _RATES)
    if rates:
        lines += ["", "[peak]", *rates]
    if gpu.power_limit_w is not None:
        lines += ["", "[power]", f"limit_w = {_value(gpu.power_limit_w)}"]
    for profile in gpu.profiles:
        lines += ["", "[[profile]]", *_lines(profile, _PROFILE_KEYS)]
    return "\n".join(lines) + "\n"


def _lines(value: object, keys: Iterable[str]) -> list[str]:
    told = ((key, getattr(value, key)) for key in keys)
    return [f"{key} = {_value(each)}" for key, each in told if each is not None and each != ()]


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # A TOML basic string takes JSON's escapes.
    return json.dumps(value, ensure_ascii=False)
