"""The device that is measured: which, with which of ONNX Runtime's providers, and under which names in a table."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from partita.errors import InputError
from partita.mig.catalogue import gpu_model
from partita.perf.measure.inputs import Input
from partita.perf.measure.model_process import OutOfMemoryError, ask_model_process

if TYPE_CHECKING:
    from collections.abc import Mapping


CPU = "cpu"
"""In the column `gpu`: no GPU of the catalogue has this name, so no plan takes the row for a GPU's."""
CUDA = "CUDAExecutionProvider"
_CPU_PROVIDER = "CPUExecutionProvider"
_DESCRIBE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Device:
    """What is measured.

    Attributes:
        gpu: for the table: the catalogue's name, or `cpu`.
        profile: for the table: the MIG profile, that of the whole GPU's size without MIG, or `host`.
        uuid: what CUDA_VISIBLE_DEVICES is set to; None on a CPU.
        title: the device in words.
        stand_in: whether `gpu` and `profile` were given by the user and are not what was measured.
    """

    kind: Literal["cpu", "gpu", "mig"]
    gpu: str
    profile: str
    title: str
    uuid: str | None = None
    stand_in: bool = False

    @property
    def note(self) -> str:
        """What a row of a table must say of where it was measured."""
        if self.stand_in:
            return f"measured on {self.title} as a stand-in for {self.gpu} {self.profile}, NOT on that GPU"
        return f"measured on {self.title}"

    def posing_as(self, text: str) -> Device:
        """Return the device under the names of another, `a100-80gb/3g.40gb`, as a stand-in that says so.

        Raises:
            InputError: no such GPU or profile.
        """
        name, slash, profile = text.partition("/")
        if not slash:
            raise InputError(
                f"{text!r} names no GPU and profile", where="--as", hint="write a100-80gb/3g.40gb"
            )
        try:
            gpu_model(name).profile(profile)
        except InputError as error:
            raise InputError(error.what, where="--as", hint=error.hint) from None
        return Device(self.kind, name, profile, self.title, self.uuid, stand_in=True)


def cpu_device(title: str, cores: int) -> Device:
    """Return this host's CPU, under names that no plan takes for a GPU."""
    return Device("cpu", CPU, "host", f"{title}, {cores} {'core' if cores == 1 else 'cores'}")


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """The ONNX Runtime there is: its version and the providers that it was built with."""

    version: str
    providers: tuple[str, ...]


def runtime() -> OnnxRuntime:
    """Return the ONNX Runtime there is, asked in a process of its own.

    Raises:
        InputError: there is none.
    """
    told = ask_model_process({"do": "describe"}, {}, _DESCRIBE_SECONDS)
    return OnnxRuntime(told["version"], tuple(told["providers"]))


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def device_to_measure(asked: str | None, environ: Mapping[str, str], has_cuda: bool) -> str:  # noqa: FBT001 -- one fact of three
    """Return `cpu`, or the GPU or MIG instance to measure: as asked for, else what CUDA would see."""
    if asked is not None:
        return asked.strip()
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return "0" if has_cuda else "cpu"
    first = visible.split(",")[0].strip()
    return "cpu" if first in {"", "-1"} else first


def choose_device(asked: str, found: OnnxRuntime, stand_in: str | None) -> Device:
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
    return (_CPU_PROVIDER,) if device.kind == "cpu" else (CUDA, _CPU_PROVIDER)


def declared_inputs(path: Path, device: Device) -> tuple[Input, ...]:
    """Return the inputs that a model declares.

    Raises:
        InputError: it is no model that ONNX Runtime can use.
    """
    spec = {"do": "describe", "path": str(path), "providers": providers(device), "threads": 1}
    try:
        told = ask_model_process(spec, {"CUDA_VISIBLE_DEVICES": device.uuid or ""}, _DESCRIBE_SECONDS)
    except OutOfMemoryError:
        raise InputError("the model does not fit into memory", where=str(path)) from None
    return tuple(Input(name, kind, tuple(dim or None for dim in dims)) for name, kind, dims in told["inputs"])


def _cpu_title() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
