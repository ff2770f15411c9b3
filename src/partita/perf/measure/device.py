"""The device that is measured: which, with which of ONNX Runtime's providers, and under which names in a table."""

from __future__ import annotations

import os
import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pynvml as nvml

from partita.errors import InputError
from partita.mig.catalogue import gpu_called, gpu_model
from partita.perf.measure.inputs import Input
from partita.perf.measure.model_process import OutOfMemoryError, ask_model_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from partita.mig.gpu import GpuModel, Profile


CPU = "cpu"
"""In the column `gpu`: no GPU of the catalogue has this name, so no plan takes the row for a GPU's."""
CUDA = "CUDAExecutionProvider"
_CPU_PROVIDER = "CPUExecutionProvider"
_DESCRIBE_SECONDS = 600.0
MB = 1e6
MIB = 1024 * 1024


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
        """Where it was measured, for a row of the table."""
        if self.stand_in:
            return f"measured on {self.title} as a stand-in for {self.gpu} {self.profile}, NOT on that GPU"
        return f"measured on {self.title}"

    def as_stand_in_for(self, text: str) -> Device:
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


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """The ONNX Runtime there is: its version and the providers that it was built with."""

    version: str
    providers: tuple[str, ...]


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
        return device if stand_in is None else device.as_stand_in_for(stand_in)

    device = gpu_device(asked, stand_in)
    if CUDA not in found.providers:
        raise InputError(
            f"ONNX Runtime {found.version} was built without CUDA and cannot use {device.title}",
            where="--device",
            hint="pip install onnxruntime-gpu in place of onnxruntime, or measure with --device cpu",
        )
    return device


def cpu_device(title: str, cores: int) -> Device:
    """Return this host's CPU, under names that no plan takes for a GPU."""
    return Device("cpu", CPU, "host", f"{title}, {cores} {'core' if cores == 1 else 'cores'}")


def gpu_device(asked: str, stand_in: str | None = None) -> Device:
    """Return the GPU or MIG instance of an index, a UUID, or an unambiguous start of a UUID.

    Args:
        asked: as CUDA_VISIBLE_DEVICES takes it; indices are NVML's, in the order of PCI addresses.
        stand_in: names for a GPU that the catalogue does not have, as `Device.as_stand_in_for` takes them.

    Raises:
        InputError: there is none, it is not in the catalogue, or its MIG mode asks for an instance.
    """
    try:
        handle = _handle(asked)
        mig = bool(_is_mig(handle))
        whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if mig else handle
        title, uuid = nvml.nvmlDeviceGetName(whole), nvml.nvmlDeviceGetUUID(handle)
        if not mig and _mig_mode(handle):
            raise InputError(
                f"MIG mode is on: only the instances of {title} can run a model",
                where="--device",
                hint="name an instance: --device MIG-..., as `nvidia-smi -L` lists them",
            )
        attributes = nvml.nvmlDeviceGetAttributes(handle) if mig else None
        total = _ask_nvml(nvml.nvmlDeviceGetMemoryInfo, whole)
        memory = total.total / MIB if total is not None else None
    except nvml.NVMLError as error:
        raise InputError(f"NVML: {error}", where=f"--device {asked}", hint="see `nvidia-smi -L`") from None
    kind = f"one instance of {title}" if mig else f"the whole {title}, MIG off"
    model = gpu_called(title, memory)
    if model is None:
        unnamed = Device("mig" if mig else "gpu", title, "whole", kind, uuid)
        if stand_in is None:
            raise InputError(
                f"{title} is not in the catalogue",
                where="--device",
                hint="name a file that describes it: `partita gpus --from-nvml --out my-gpu.toml`, then --gpus-file "
                "my-gpu.toml; or give --as GPU/PROFILE to use its figures, marked as such, in place of another's",
            )
        return unnamed.as_stand_in_for(stand_in)
    if stand_in is not None:
        raise InputError(
            f"{title} has a name of its own in the catalogue, {model.name}", where="--as", hint="leave it out"
        )
    profile = whole_profile(model) if attributes is None else _profile_of(model, attributes)
    return Device("mig" if mig else "gpu", model.name, profile.name, kind, uuid)


def runtime() -> OnnxRuntime:
    """Return the ONNX Runtime that is installed, found in a process of its own.

    Raises:
        InputError: there is none.
    """
    told = ask_model_process({"do": "describe"}, {}, _DESCRIBE_SECONDS)
    return OnnxRuntime(told["version"], tuple(told["providers"]))


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def providers(device: Device) -> tuple[str, ...]:
    """Return the providers to run with; operators that CUDA lacks run on the CPU, as in a server."""
    return (_CPU_PROVIDER,) if device.kind == "cpu" else (CUDA, _CPU_PROVIDER)


def declared_inputs(path: Path, device: Device) -> tuple[Input, ...]:
    """Return the inputs that a model declares.

    Raises:
        InputError: ONNX Runtime cannot use the model.
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


@contextmanager
def nvml_library() -> Iterator[None]:
    """Keep NVML open.

    Raises:
        InputError: there is no NVIDIA driver, or it does not answer.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise InputError(
            f"NVML: {error}", where="--device", hint="see `partita doctor`, or measure with --device cpu"
        ) from None
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def whole_profile(model: GpuModel) -> Profile:
    """Return the profile that takes a whole GPU; tables list a GPU without MIG under it."""
    return max((p for p in model.profiles if p.plain), key=lambda p: (p.compute, p.memory))


def _handle(asked: str) -> Any:  # noqa: ANN401 -- ctypes
    if asked.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(asked))
    return nvml.nvmlDeviceGetHandleByUUID(asked)


def _is_mig(handle: object) -> bool:
    return bool(nvml.nvmlDeviceIsMigDeviceHandle(handle).value)


def _mig_mode(handle: object) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _profile_of(model: GpuModel, attributes: Any) -> Profile:  # noqa: ANN401 -- ctypes
    """Return the plain profile of so many compute slices whose memory is nearest to the instance's."""
    slices, memory = attributes.gpuInstanceSliceCount, attributes.memorySizeMB
    if attributes.computeInstanceSliceCount != slices:
        raise InputError(
            f"this compute instance has {attributes.computeInstanceSliceCount} of its GPU instance's {slices} slices",
            where="--device",
            hint="performance tables have whole GPU instances: create one compute instance that takes all of it",
        )
    fitting = [p for p in model.profiles if p.plain and p.compute == slices and p.memory_mib]
    if not fitting:
        raise InputError(f"{model.name} has no profile of {slices} slices", where="--device")
    return min(fitting, key=lambda p: abs((p.memory_mib or 0) - memory))


@dataclass(frozen=True, slots=True)
class MeterReading:
    """The device's readings over the window; None where it gave none.

    Attributes:
        memory_mb: of the measured processes at their peak, in MB of 1e6 bytes.
        memory_source: how that was read, in words.
        utilization: share of the time in which a kernel ran, 0 to 1.
    """

    memory_mb: float | None = None
    memory_source: str = ""
    utilization: float | None = None
    power_w: float | None = None


class Meter(Protocol):
    """Reads a device from the begin of a window to its end."""

    def prepare(self) -> None:
        """Note what is in use before the processes start."""
        ...

    def begin(self, pids: Sequence[int]) -> None:
        """Note where the counters stand."""
        ...

    def sample(self) -> None:
        """Look at what has no counter; called several times a second."""
        ...

    def end(self) -> MeterReading:
        """Return what was read since `begin`."""
        ...


class NoMeter:
    """For a CPU: its processes report their own memory, and power is not measured."""

    def prepare(self) -> None:
        """Do nothing."""

    def begin(self, pids: Sequence[int]) -> None:
        """Do nothing."""

    def sample(self) -> None:
        """Do nothing."""

    def end(self) -> MeterReading:
        """Return that nothing was read."""
        return MeterReading()


@dataclass
class NvmlMeter:
    """Memory per process, energy and utilization of a GPU, by NVML.

    On a MIG instance NVML has energy and utilization only of the whole GPU with all that runs there, so they are left
    out. Where NVML does not list our processes (another namespace of process numbers), memory is the device's use
    minus its use before they started.
    """

    device: Device
    _before: float | None = None
    _pids: frozenset[int] = frozenset()
    _memory: list[float] = field(default_factory=list)
    _source: str = ""
    _watts: list[float] = field(default_factory=list)
    _busy: list[float] = field(default_factory=list)
    _energy: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self._handle = nvml.nvmlDeviceGetHandleByUUID(self.device.uuid or "")

    def prepare(self) -> None:
        """Note the memory in use before any of our processes is there."""
        used = _ask_nvml(nvml.nvmlDeviceGetMemoryInfo, self._handle)
        self._before = None if used is None else used.used / MB

    def begin(self, pids: Sequence[int]) -> None:
        """Note where the counters stand."""
        self._pids = frozenset(pids)
        self._memory, self._watts, self._busy = [], [], []
        self._energy = self._joules()

    def sample(self) -> None:
        """Look at memory, power and utilization."""
        memory = self._own_memory()
        self._memory += [] if memory is None else [memory]
        if self.device.kind == "gpu":
            power = _ask_nvml(nvml.nvmlDeviceGetPowerUsage, self._handle)
            self._watts += [] if power is None else [power / 1e3]
            busy = _ask_nvml(nvml.nvmlDeviceGetUtilizationRates, self._handle)
            self._busy += [] if busy is None else [busy.gpu / 100.0]

    def end(self) -> MeterReading:
        """Return what was read since `begin`."""
        self.sample()
        return MeterReading(
            memory_mb=max(self._memory, default=None),
            memory_source=self._source,
            utilization=mean(self._busy) if self._busy else None,
            power_w=self._power(),
        )

    def _power(self) -> float | None:
        after = self._joules()
        if self._energy and after and after[0] > self._energy[0] and after[1] > self._energy[1]:
            return (after[1] - self._energy[1]) / (after[0] - self._energy[0])
        return mean(self._watts) if self._watts else None

    def _joules(self) -> tuple[float, float] | None:
        """Return the time in seconds and the energy counter in joules; None where it is not this device's alone."""
        if self.device.kind != "gpu":
            return None
        counter = _ask_nvml(nvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        return None if counter is None else (time.monotonic(), counter / 1e3)

    def _own_memory(self) -> float | None:
        listed = _ask_nvml(nvml.nvmlDeviceGetComputeRunningProcesses, self._handle) or []
        own = [each.usedGpuMemory for each in listed if each.pid in self._pids]
        if len(own) == len(self._pids) and None not in own:
            self._source = "by NVML per process"
            return float(sum(own)) / MB
        used = _ask_nvml(nvml.nvmlDeviceGetMemoryInfo, self._handle)
        if used is None or self._before is None:
            return None
        self._source = "by NVML, the device's use beyond that before the processes started"
        return float(used.used) / MB - self._before


def _ask_nvml(ask: Callable[[Any], Any], handle: object) -> Any:  # noqa: ANN401 -- ctypes
    """Return NVML's answer, None where it has none for this device or this user."""
    try:
        return ask(handle)
    except nvml.NVMLError:
        return None
