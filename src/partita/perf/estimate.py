"""An estimate for models that nobody measured: a roofline of each slice.

A batch takes as long as the slower of two things: launching its kernels, one after the other, on the
CPU, and running them on the slice. The slice runs them at its share of the GPU's peak compute and memory
rates times an efficiency (Williams, Waterman and Patterson, "Roofline", CACM 2009, with the sharp corner
rounded). Processes on one instance launch side by side and share the slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, isfinite
from typing import TYPE_CHECKING

from partita.errors import InputError, nearest, refuse
from partita.perf.records import plain_name, read_records
from partita.perf.table import Measurement, PerfTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from partita.mig.gpu import GpuModel, Profile
    from partita.perf.records import Record


BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
PRECISIONS = ("fp32", "tf32", "fp16", "int8")
PRECISION = "tf32"
KERNELS = 174


@dataclass(frozen=True, slots=True)
class ModelWork:
    """The work of one inference of a model.

    Attributes:
        model: the model's name, as services name it.
        gflop: floating-point operations per item, in 1e9; a multiply-add is two.
        mbytes: activations read and written per item, in 1e6 bytes at the precision.
        weights_mb: weights, in 1e6 bytes at the precision.
        precision: `fp32`, `tf32`, `fp16` or `int8`.
        kernels: kernels launched per batch, about one per operator; a ResNet-50 has 174 in eager PyTorch.
        live_mb: most activations alive at once per item, in 1e6 bytes; None takes a twentieth of `mbytes`.
    """

    model: str
    gflop: float
    mbytes: float
    weights_mb: float
    precision: str = PRECISION
    kernels: int = KERNELS
    live_mb: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            close = nearest(self.precision, list(PRECISIONS))
            raise InputError(
                f"unknown precision {self.precision!r}",
                where=self.model,
                hint=f"did you mean {close}?" if close else f"it is one of {', '.join(PRECISIONS)}",
            )
        for name in ("gflop", "mbytes", "weights_mb", "kernels", "live_mb"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise InputError(
                    f"{name} is {value}", where=self.model, hint="it must be a number above zero"
                )


@dataclass(frozen=True, slots=True)
class Constants:
    """What the formula takes from measurements.

    Attributes:
        compute: share of a slice's peak compute rate that kernels reach.
        memory: share of a slice's peak bandwidth that kernels reach.
        launch_ms: CPU time to launch one kernel.
        kernel_ms: time that even the smallest kernel takes on the GPU.
    """

    compute: float
    memory: float
    launch_ms: float
    kernel_ms: float


# Least mean |log(estimate / measured)| of throughput over the 2067 rows of the public tables of ParvaGPU
# (SC'24, at 5f3de1e, A100-80GB) and MIG-Serving (arXiv 2109.11067, figures 16 and 18, A100-40GB): eager
# PyTorch and TensorFlow. `python -m benchmarks.estimate_error` fits them again and says how far
# estimates are off.
FITTED = Constants(compute=0.4562, memory=0.4884, launch_ms=0.030, kernel_ms=0.0019)

# CUDA context, cuDNN and cuBLAS of one process. In ParvaGPU's table BERT-large (1.3 GB of weights) ran on
# 1g.10gb with four processes and not with five, which brackets it between 700 and 1200 MB.
CONTEXT_MB = 900.0
LIVE_SHARE = 0.05


def estimate_table(
    work: ModelWork,
    gpu: GpuModel,
    *,
    batches: Sequence[int] = BATCHES,
    max_processes: int = 1,
) -> PerfTable:
    """Return the estimated rows of a model on all profiles of a GPU that hold it.

    Profiles that differ only in media engines or graphics get one estimate, under the plain profile's name.

    Args:
        work: what one inference costs.
        gpu: the GPU, with its peak rates.
        batches: batch sizes to estimate.
        max_processes: most processes on one instance.

    Raises:
        InputError: the catalogue has no peak rate of this precision, no bandwidth, or no memory of any profile for
            this GPU.
    """
    profiles = plain_profiles(gpu)
    if all(profile.memory_mib is None for profile in profiles):
        raise InputError(
            f"the memory of the profiles of {gpu.name} is not known",
            where=work.model,
            hint="read it from the GPU: `partita gpus --from-nvml --out FILE`, then name the file with --gpus-file",
        )
    return PerfTable(
        row
        for profile in profiles
        for batch in batches
        for processes in range(1, max_processes + 1)
        for row in _row(work, gpu, profile, batch, processes)
    )


def plain_profiles(gpu: GpuModel) -> tuple[Profile, ...]:
    """Return one profile for each pair of compute and memory slices, the one with the shortest name."""
    plain: dict[tuple[int, int], Profile] = {}
    for profile in gpu.profiles:
        key = (profile.compute, profile.memory)
        if key not in plain or len(profile.name) < len(plain[key].name):
            plain[key] = profile
    return tuple(plain.values())


def batch_ms(
    work: ModelWork,
    gpu: GpuModel,
    profile: Profile,
    batch: int,
    *,
    processes: int = 1,
    constants: Constants = FITTED,
) -> float:
    """Return the milliseconds that a batch takes while `processes` of them run on the slice at once.

    Raises:
        InputError: the catalogue has no peak rate of this precision, or no bandwidth, for this GPU.
    """
    tflops, gbs = _peaks(work, gpu, profile)
    compute = work.gflop * batch / (tflops * constants.compute)
    memory = (work.mbytes * batch + work.weights_mb) / (gbs * constants.memory)
    on_gpu = hypot(compute, memory) + work.kernels * constants.kernel_ms
    return max(work.kernels * constants.launch_ms, processes * on_gpu)


def memory_mb(work: ModelWork, batch: int, processes: int) -> float:
    """Return the memory in 1e6 bytes that processes with a batch each need."""
    live = work.mbytes * LIVE_SHARE if work.live_mb is None else work.live_mb
    return processes * (CONTEXT_MB + work.weights_mb + batch * live)


def _peaks(work: ModelWork, gpu: GpuModel, profile: Profile) -> tuple[float, float]:
    """TFLOPS by the slice's share of SMs (of compute slices where unknown), GB/s by that of memory slices."""
    field = "int8_tops" if work.precision == "int8" else f"{work.precision}_tflops"
    rate: float | None = getattr(gpu.peak, field)
    bandwidth = gpu.peak.bandwidth_gbs
    if rate is None or bandwidth is None:
        missing = work.precision if rate is None else "bandwidth"
        raise InputError(
            f"the peak {missing} rate of {gpu.name} is not known",
            where=work.model,
            hint="choose another precision, or measure the model",
        )
    known = profile.sms is not None and gpu.sms is not None
    share = (profile.sms or 0) / (gpu.sms or 1) if known else profile.compute / gpu.compute_slices
    return rate * share, bandwidth * profile.memory / gpu.memory_slices


def _row(
    work: ModelWork, gpu: GpuModel, profile: Profile, batch: int, processes: int
) -> Iterator[Measurement]:
    need = memory_mb(work, batch, processes)
    if profile.memory_mib is None or need > profile.memory_mib * 1.048576:
        return
    latency = batch_ms(work, gpu, profile, batch, processes=processes)
    yield Measurement(
        model=work.model,
        gpu=gpu.name,
        profile=profile.name,
        batch=batch,
        processes=processes,
        throughput=round(1000 * batch * processes / latency, 3),
        latency_ms=round(latency, 3),
        quantile="mean",
        memory_mb=round(need, 1),
        source=f"estimate: roofline, {work.precision}",
        estimated=True,
    )


WORK_COLUMNS = ("model", "gflop", "mbytes", "weights_mb")
OPTIONAL_WORK_COLUMNS = ("precision", "kernels", "live_mb", "source")


def read_works(path: Path | str) -> tuple[ModelWork, ...]:
    """Read works from a CSV with columns `model, gflop, mbytes, weights_mb`.

    Optional columns are `precision`, `kernels`, `live_mb` and `source`; the last is for people.

    Raises:
        InputError: no such file, unknown or missing columns, a field that cannot be used, or the same model twice.
    """
    records = read_records(path)
    records.require(*WORK_COLUMNS)
    for name in records.header:
        if plain_name(name) not in WORK_COLUMNS + OPTIONAL_WORK_COLUMNS:
            close = nearest(plain_name(name), [*WORK_COLUMNS, *OPTIONAL_WORK_COLUMNS])
            known = ", ".join(WORK_COLUMNS + OPTIONAL_WORK_COLUMNS)
            raise InputError(
                f"unknown column {name!r}",
                where=f"{records.path}:{records.header_line}",
                hint=f"did you mean {close}?" if close else f"the columns are {known}",
            )
    works: dict[str, ModelWork] = {}
    faults: list[InputError] = []
    for record in records:
        try:
            work = _work(record)
        except InputError as error:
            faults.append(error)
            continue
        if work.model in works:
            faults.append(InputError(f"model {work.model!r} appears twice", where=record.place))
        works[work.model] = work
    refuse(records.path, faults)
    if not works:
        raise InputError("a header and no rows", where=f"{records.path}:1")
    return tuple(works.values())


def _work(record: Record) -> ModelWork:
    try:
        return ModelWork(
            model=record.text("model"),
            gflop=record.number("gflop"),
            mbytes=record.number("mbytes"),
            weights_mb=record.number("weights_mb"),
            precision=record.text("precision") if record.has("precision") else PRECISION,
            kernels=record.count("kernels") if record.has("kernels") else KERNELS,
            live_mb=record.number("live_mb") if record.has("live_mb") else None,
        )
    except InputError as error:
        raise InputError(error.what, where=record.place, hint=error.hint) from None
