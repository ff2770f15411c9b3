"""The GPUs Partita knows, each in a readable file of its own beside this one."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

from partita.errors import InputError, nearest
from partita.mig.gpu import Combination, GpuModel, Peak, Profile


@cache
def gpu_names() -> tuple[str, ...]:
    """Return the names of all GPUs in the catalogue, in alphabetical order."""
    folder = resources.files(__name__)
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


@cache
def gpu_model(name: str) -> GpuModel:
    """Return the GPU of that name.

    Raises:
        InputError: the catalogue has no such GPU.
    """
    if name not in gpu_names():
        close = nearest(name.lower(), list(gpu_names()))
        raise InputError(
            f"no GPU {name!r} in the catalogue",
            hint=f"did you mean {close}?" if close else "list them with `partita gpus`",
        )
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return _gpu(tomllib.loads(text))


def gpu_called(name: str) -> GpuModel | None:
    """Return the GPU that NVML calls so, None if the catalogue has none."""
    return next((m for m in map(gpu_model, gpu_names()) if name == m.name or name in m.aliases), None)


def _gpu(data: dict[str, Any]) -> GpuModel:
    peak = {key: value for key, value in data.get("peak", {}).items() if key != "source"}
    return GpuModel(
        name=data["name"],
        title=data["title"],
        architecture=data["architecture"],
        compute_slices=data["compute_slices"],
        memory_slices=data["memory_slices"],
        profiles=tuple(_profile(each) for each in data["profile"]),
        aliases=tuple(data.get("aliases", ())),
        memory_mib=data.get("memory_mib"),
        sms=data.get("sms"),
        peak=Peak(**peak),
        power_limit_w=data.get("power", {}).get("limit_w"),
        sources=tuple(data["sources"]),
        forbidden=tuple(Combination.parse(text) for text in data.get("forbidden", ())),
    )


def _profile(data: dict[str, Any]) -> Profile:
    return Profile(**{**data, "starts": tuple(data["starts"])})
