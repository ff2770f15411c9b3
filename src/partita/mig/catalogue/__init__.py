"""The GPUs Partita knows: those of the files beside this one, of a user's files, and those found on this host."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from partita.errors import InputError, nearest
from partita.mig.gpu_file import parse_gpu

if TYPE_CHECKING:
    from collections.abc import Iterable

    from partita.mig.gpu import GpuModel

# A process knows one set of GPUs, as it has one set of codecs: names in its documents mean these.
_added: dict[str, GpuModel] = {}


def add(models: Iterable[GpuModel]) -> None:
    """Have this process know these GPUs too; one of the same name is replaced.

    So a user's file comes before the catalogue, and what NVML says of a GPU of this host before both.
    """
    for model in models:
        _added[model.name] = model


def reset() -> None:
    """Have this process know the catalogue's own GPUs alone."""
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
    """Return the GPU that a user means: by the catalogue's name in any case, or as other programs print it.

    Those are NVML and `nvidia-smi`, a line of `nvidia-smi -L`, and the labels of Kubernetes (with `-MIG-1g.10gb` at
    their end where each GPU is cut alike). A family alone (`H100`) is none: its members have unlike profiles.

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
    """Return the GPU that NVML, nvidia-smi or a Kubernetes label calls so, None if none is known.

    Args:
        name: as it is written there.
        memory_mib: of the whole GPU. Where several are called so, as by `NVIDIA H100`, the one that has most nearly
            as much is meant; without it the smallest.
    """
    found = gpus_called(name)
    if not found:
        return None
    return min(found, key=lambda model: abs(_nominal_mib(model) - (memory_mib or 0.0)))


def gpus_called(name: str) -> tuple[GpuModel, ...]:
    """Return all GPUs that NVML, nvidia-smi or a Kubernetes label calls so.

    Letters' case, the maker's name in front, and blanks, hyphens and underscores do not count.
    """
    wanted = _key(name)
    found = (
        model for model in map(gpu_model, gpu_names()) if wanted in map(_key, (model.name, *model.aliases))
    )
    # A name that is spelt out comes before one that is alike.
    return tuple(sorted(found, key=lambda model: name not in (model.name, *model.aliases)))


def gpus_on_pci(number: str) -> tuple[GpuModel, ...]:
    """Return the GPUs with a PCI device number, written as `20B2`."""
    return tuple(model for model in map(gpu_model, gpu_names()) if number.upper() in model.pci)


def _nominal_mib(model: GpuModel) -> float:
    """Return the memory that the names of a GPU's profiles say, in MiB: most parts have no other figure."""
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
