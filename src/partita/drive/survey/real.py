"""The real GPUs of this host as NVML tells of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.drive.survey.finding import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from partita.drive.nvml.devices import Device, Unusable
    from partita.drive.port import DriveError, ObservedInstance

DRIVER_FOR_ALL_PROFILES = 525


@dataclass(frozen=True, slots=True)
class RealGpu:
    """A GPU on this host.

    Attributes:
        name: as NVML says.
        model: the model's name; None if it cannot be driven.
        origin: where the model is from: the catalogue, a file, or NVML.
        left_out: why it cannot be driven; None if it can.
        mig: whether MIG mode is on.
        pending: whether it will be after the next reset.
        instances: what is cut, ours and others'; None if this user may not see it.
    """

    index: int
    name: str
    model: str | None = None
    uuid: str | None = None
    mig: bool = False
    pending: bool = False
    instances: tuple[ObservedInstance, ...] | None = ()
    origin: str | None = None
    left_out: str | None = None


@dataclass(frozen=True, slots=True)
class RealHost:
    """The driver's version, the GPUs, and what was found about them."""

    driver: str
    gpus: tuple[RealGpu, ...]
    findings: tuple[Finding, ...]


def real_host(state: Path) -> RealHost:
    """Return what NVML tells.

    Args:
        state: the state folder, for which instances are ours; need not be there.

    Raises:
        DriveError: there is no driver, or it does not answer.
    """
    import pynvml as nvml  # noqa: PLC0415 -- eight thousand lines, for real GPUs alone

    from partita.drive.nvml.devices import discover  # noqa: PLC0415
    from partita.drive.nvml.errors import told  # noqa: PLC0415

    with told():
        nvml.nvmlInit()
        try:
            version = nvml.nvmlSystemGetDriverVersion()
            devices, unusable = discover("node-0")
            gpus = [_gpu(device, state) for device in devices]
            held = [
                finding for gpu, device in zip(gpus, devices, strict=True) for finding in _held(gpu, device)
            ]
        finally:
            nvml.nvmlShutdown()
    rest = [RealGpu(each.index, each.name, left_out=each.why) for each in unusable]
    notes = [_unusable(each, alone=not devices) for each in unusable]
    geometry = [finding for device in devices for finding in _model_findings(device)]
    every = tuple(sorted([*gpus, *rest], key=lambda gpu: gpu.index))
    return RealHost(
        version, every, (*_driver_findings(version), *notes, *_mig_findings(gpus), *held, *geometry)
    )


def absent(error: DriveError) -> bool:
    """Say whether there is no driver at all, as on a host without GPUs."""
    import pynvml as nvml  # noqa: PLC0415

    codes = {nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED}
    return getattr(error.__cause__, "value", None) in codes


def _gpu(device: Device, state: Path) -> RealGpu:
    import pynvml as nvml  # noqa: PLC0415

    from partita.drive.nvml import cuts  # noqa: PLC0415
    from partita.drive.nvml.devices import mig_mode  # noqa: PLC0415
    from partita.drive.nvml.owned import Owned  # noqa: PLC0415
    from partita.drive.port import ObservedInstance  # noqa: PLC0415

    handle = device.handle()
    on, pending = mig_mode(handle)
    told = RealGpu(
        device.index, device.name, device.model.name, device.uuid, on, pending, None, device.model.origin
    )
    try:
        found = cuts.instances(handle, device.offers) if on else ()
    except nvml.NVMLError_NoPermission:
        return told
    placed = [(device.placed(each)[1], each.identity) for each in found]
    record = state / "owned.sqlite3"
    ours = Owned(record).ours(placed) if record.is_file() else set()
    busy = cuts.processes(handle)
    instances = tuple(
        ObservedInstance(placement, identity, ours=identity in ours, busy=bool(busy.get(identity.gi_id)))
        for placement, identity in placed
    )
    return replace(told, instances=instances)


def _unusable(gpu: Unusable, *, alone: bool) -> Finding:
    """Return why a GPU is left out: to be mended where something helps, or where no other is left to cut."""
    level = Level.MEND if gpu.mend or alone else Level.NOTE
    hint = gpu.mend or "nothing makes it one that can be cut: Partita uses GPUs with MIG alone"
    return Finding(level, f"it is left out: {gpu.why}", f"GPU {gpu.index} ({gpu.name})", hint)


def _driver_findings(version: str) -> Iterator[Finding]:
    major = version.partition(".")[0]
    old = major.isdecimal() and int(major) < DRIVER_FOR_ALL_PROFILES
    yield Finding(
        Level.NOTE if old else Level.OK,
        f"NVIDIA driver {version}" + (", too old for some profiles" if old else ""),
        hint=f"update it to {DRIVER_FOR_ALL_PROFILES} or newer" if old else None,
    )


def _model_findings(device: Device) -> Iterator[Finding]:
    """Return what NVML and the catalogue do not agree on."""
    where = f"GPU {device.index} ({device.name})"
    if device.known is None:
        yield Finding(
            Level.NOTE,
            f"it is not in the catalogue: its profiles are read from NVML, as {device.model.name}",
            where,
            "to plan for it, keep them: `partita gpus --from-nvml --out FILE`, and name the file with --gpus-file",
        )
    for note in device.notes:
        yield Finding(
            Level.NOTE,
            note,
            where,
            "plans that were made elsewhere may not know it: `partita gpus --from-nvml --out FILE` writes what the "
            "driver tells, `nvidia-smi mig -lgip` and `-lgipp` show it",
        )


def _held(gpu: RealGpu, device: Device) -> Iterator[Finding]:
    """Return who keeps MIG mode from being turned on: it needs a GPU that nobody has open."""
    from partita.drive.nvml.holders import holders, words  # noqa: PLC0415

    found = () if gpu.mig else holders(device.handle(), None)
    if found:
        who, mend = words(found)
        yield Finding(
            Level.NOTE,
            f"MIG mode cannot be turned on meanwhile: {who}",
            f"GPU {gpu.index} ({gpu.name})",
            mend,
        )


def _mig_findings(gpus: list[RealGpu]) -> Iterator[Finding]:
    # Some GPUs without MIG beside some with it is a choice; none with it leaves nothing to cut.
    level = Level.NOTE if any(gpu.mig for gpu in gpus) else Level.MEND
    for gpu in gpus:
        where = f"GPU {gpu.index} ({gpu.name})"
        if gpu.mig:
            cut = (
                "what is cut is for root to see"
                if gpu.instances is None
                else f"{len(gpu.instances)} instances"
            )
            foreign = sum(not each.ours for each in gpu.instances or ())
            yield Finding(Level.OK, f"{gpu.model}, MIG mode is on, {cut}", where)
            if foreign:
                yield Finding(Level.NOTE, f"{foreign} of its instances are not ours, and left alone", where)
        elif gpu.pending:
            reset = f"with nothing running on it: `sudo nvidia-smi -i {gpu.index} --gpu-reset`"
            yield Finding(level, "MIG mode is turned on by the next reset", where, reset)
        else:
            turn_on = f"`sudo nvidia-smi -i {gpu.index} -mig 1`; an A100 or A30 then needs a reset"
            yield Finding(level, "MIG mode is off", where, turn_on)
