"""Which device is measured where the user does not say, and with which of ONNX Runtime's providers."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.perf.measure.device import Device, cpu_device
from partita.perf.measure.inputs import Input
from partita.perf.measure.processes import OutOfMemoryError, ask

if TYPE_CHECKING:
    from collections.abc import Mapping

CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_DESCRIBE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """The ONNX Runtime there is: its version and the providers that it was built with."""

    version: str
    providers: tuple[str, ...]


def runtime() -> Runtime:
    """Return the ONNX Runtime there is, asked in a process of its own.

    Raises:
        InputError: there is none.
    """
    told = ask({"do": "describe"}, {}, _DESCRIBE_SECONDS)
    return Runtime(told["version"], tuple(told["providers"]))


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def wanted(asked: str | None, environ: Mapping[str, str], has_cuda: bool) -> str:  # noqa: FBT001 -- one fact of three
    """Return `cpu`, or the GPU or MIG instance to measure: as asked for, else what CUDA would see."""
    if asked is not None:
        return asked.strip()
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return "0" if has_cuda else "cpu"
    first = visible.split(",")[0].strip()
    return "cpu" if first in {"", "-1"} else first


def choose(asked: str, found: Runtime, stand_in: str | None) -> Device:
    """Return the device of that name. NVML must be open, unless it is `cpu`.

    Raises:
        InputError: there is none, or ONNX Runtime cannot use it.
    """
    if asked.lower() == "cpu":
        device = cpu_device(_cpu_title(), cores())
        return device if stand_in is None else device.posing_as(stand_in)
    from partita.perf.measure.nvml import gpu_device  # noqa: PLC0415 -- eight thousand lines, for real GPUs alone

    device = gpu_device(asked, stand_in)
    if CUDA not in found.providers:
        raise InputError(
            f"ONNX Runtime {found.version} was built without CUDA and cannot use {device.title}",
            where="--device",
            hint="pip install onnxruntime-gpu in place of onnxruntime, or measure with --device cpu",
        )
    return device


def providers(device: Device) -> tuple[str, ...]:
    """Return the providers to run with; what CUDA lacks runs on the CPU, as in a server."""
    return (_CPU,) if device.kind == "cpu" else (CUDA, _CPU)


def declared(path: Path, device: Device) -> tuple[Input, ...]:
    """Return the inputs that a model declares.

    Raises:
        InputError: it is no model that ONNX Runtime can use.
    """
    spec = {"do": "describe", "path": str(path), "providers": providers(device), "threads": 1}
    try:
        told = ask(spec, {"CUDA_VISIBLE_DEVICES": device.uuid or ""}, _DESCRIBE_SECONDS)
    except OutOfMemoryError:
        raise InputError("the model does not fit into memory", where=str(path)) from None
    return tuple(Input(name, kind, tuple(dim or None for dim in dims)) for name, kind, dims in told["inputs"])


def _cpu_title() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
