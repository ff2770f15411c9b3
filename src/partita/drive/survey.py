"""What this host can do with GPUs, which other programs manage them, and what is missing; it changes nothing."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml as nvml

from partita.drive.driver import DriveError, ObservedInstance
from partita.drive.nvml.devices import discover, mig_mode
from partita.drive.nvml.gpu import OwnedInstances
from partita.drive.nvml.holders import describe_holders, find_holders
from partita.drive.nvml.instances import list_instances, raising_driver_errors, running_processes
from partita.drive.simulated import SimulatedDriver
from partita.drive.state import CLUSTER, require_readable
from partita.errors import InputError, counted
from partita.sim.clock import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from partita.drive.driver import Observation
    from partita.drive.nvml.devices import NvmlDevice, UnusableGpu


NVIDIA = "0x10de"
_DISPLAY = "0x03"
DRIVER_FOR_ALL_PROFILES = 525


class Severity(StrEnum):
    """How much a finding matters: nothing to do, good to know, or keeps the host's GPUs from being used."""

    OK = "ok"
    NOTE = "note"
    MEND = "mend"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found.

    Attributes:
        where: the GPU, file or program it concerns; None for the host.
        hint: what helps, if possible a command.
    """

    level: Severity
    what: str
    where: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Manager:
    """A program that uses or changes the GPUs.

    Attributes:
        name: of the program.
        does: what it does to them.
        evidence: where it was found: `process 123`, a file, a variable.
    """

    name: str
    does: str
    evidence: str


@dataclass(frozen=True, slots=True)
class RealGpu:
    """A GPU on this host.

    Attributes:
        name: NVML's name.
        model: the model's name; None if it cannot be driven.
        origin: where the model is from: the catalogue, a file, or NVML.
        left_out: why it cannot be driven; None if it can.
        mig: whether MIG mode is on.
        pending: whether it will be after the next reset.
        instances: its instances, ours and others'; None if this user may not see them.
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
class Report:
    """What this host can do with GPUs.

    Attributes:
        driver: version of NVIDIA's driver; None without one.
        state: the state folder.
        simulated: the simulated cluster; None if there is none, or it cannot be read.
    """

    driver: str | None
    gpus: tuple[RealGpu, ...]
    managers: tuple[Manager, ...]
    state: Path
    simulated: Observation | None
    findings: tuple[Finding, ...]

    @property
    def mend(self) -> bool:
        """Whether something keeps the host's GPUs from being used."""
        return any(each.level is Severity.MEND for each in self.findings)


def survey(state: Path, *, root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> Report:
    """Return what this host can do with GPUs; change nothing.

    Args:
        state: the state folder, which need not exist.
        root: where the host's files are.
        environ: environment variables; by default the process's own.
    """
    real, missing = _real(state, root)
    others = managers(root, os.environ if environ is None else environ)
    simulated, cluster_findings = _simulated(state)
    findings: list[Finding] = [*missing]
    if real is not None:
        findings += [*real.findings, *fabric_findings(root)]
        if any(gpu.model for gpu in real.gpus):
            findings += permission_findings(root, root_user=os.geteuid() == 0)
    findings += [*manager_findings(others), *_state_findings(state), *cluster_findings]
    driver, gpus = (real.driver, real.gpus) if real else (None, ())
    return Report(driver, gpus, others, state, simulated, tuple(findings))


def _real(state: Path, root: Path) -> tuple[RealHost | None, list[Finding]]:
    try:
        found = real_host(state)
    except DriveError as error:
        present = pci_gpus(root)
        if present:
            what = f"{present} NVIDIA GPUs are here and cannot be used: {error.what}"
            return None, [Finding(Severity.MEND, what, hint=error.hint)]
        if not absent(error):
            # The driver is here, as in a container that shows no PCI devices.
            return None, [
                Finding(Severity.MEND, f"NVIDIA's driver does not answer: {error.what}", hint=error.hint)
            ]
        note = "no NVIDIA GPU on this host; planning and the simulated cluster need none"
        return None, [Finding(Severity.NOTE, note)]
    if not found.gpus:
        return found, [
            Finding(Severity.NOTE, "NVIDIA's driver is here and sees no GPU", hint="`lspci -d 10de:`")
        ]
    return found, list(_unseen(pci_gpus(root), len(found.gpus)))


def _unseen(on_bus: int, seen: int) -> Iterator[Finding]:
    if on_bus > seen:
        yield Finding(
            Severity.NOTE,
            f"{on_bus} NVIDIA GPUs are on the PCI bus, and the driver shows {seen}",
            hint="normal in a container that is given some of them; elsewhere look for Xid errors with "
            "`dmesg | grep -i xid`, and for GPUs bound to another driver with `lspci -k -d 10de:`",
        )


def _simulated(state: Path) -> tuple[Observation | None, list[Finding]]:
    path = state / CLUSTER
    try:
        require_readable(state)
    except InputError as error:
        return None, [Finding(Severity.MEND, error.what, error.where, error.hint)]
    if not path.exists():
        return None, [Finding(Severity.NOTE, "there is no simulated cluster", str(path))]
    try:
        driver = SimulatedDriver(path, SimulatedClock(), read_only=True)
        seen = driver.observe()
        driver.close()
    except DriveError as error:
        return None, [
            Finding(Severity.MEND, error.what, str(path), f"move it away: `mv {path} {path}.broken`")
        ]
    lost = sum(gpu.lost for gpu in seen.gpus)
    what = f"the simulated cluster has {counted(len(seen.gpus), 'GPU')}" + (
        f", {lost} of them lost" if lost else ""
    )
    return seen, [Finding(Severity.OK, what, str(path))]


def _state_findings(state: Path) -> Iterator[Finding]:
    if state.exists() and not (state.is_dir() and os.access(state, os.W_OK | os.X_OK)):
        yield Finding(
            Severity.MEND,
            "the state folder cannot be written to",
            str(state),
            "set PARTITA_STATE to a folder of yours",
        )


@dataclass(frozen=True, slots=True)
class RealHost:
    """The driver's version, the GPUs, and what was found about them."""

    driver: str
    gpus: tuple[RealGpu, ...]
    findings: tuple[Finding, ...]


def real_host(state: Path) -> RealHost:
    """Return what NVML shows.

    Args:
        state: the state folder, which says which instances are ours; it need not exist.

    Raises:
        DriveError: there is no driver, or it does not answer.
    """
    with raising_driver_errors():
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
    """Return whether there is no driver at all, as on a host without GPUs."""
    codes = {nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED}
    return getattr(error.__cause__, "value", None) in codes


def _gpu(device: NvmlDevice, state: Path) -> RealGpu:
    handle = device.handle()
    on, pending = mig_mode(handle)
    gpu = RealGpu(
        device.index, device.name, device.model.name, device.uuid, on, pending, None, device.model.origin
    )
    try:
        found = list_instances(handle, device.offers) if on else ()
    except nvml.NVMLError_NoPermission:
        return gpu
    placed = [(device.placed(each)[1], each.identity) for each in found]
    record = state / "owned.sqlite3"
    ours = OwnedInstances(record, read_only=True).known().ours(placed)
    busy = running_processes(handle)
    instances = tuple(
        ObservedInstance(
            placement, identity, ours=identity in ours, busy=bool(busy.get(identity.instance_id))
        )
        for placement, identity in placed
    )
    return replace(gpu, instances=instances)


def _unusable(gpu: UnusableGpu, *, alone: bool) -> Finding:
    """Return why a GPU is left out: as MEND where something helps, or where no other GPU can be cut."""
    level = Severity.MEND if gpu.mend or alone else Severity.NOTE
    hint = gpu.mend or "nothing can be done: Partita uses only GPUs with MIG"
    return Finding(level, f"it is left out: {gpu.why}", f"GPU {gpu.index} ({gpu.name})", hint)


def _driver_findings(version: str) -> Iterator[Finding]:
    major = version.partition(".")[0]
    old = major.isdecimal() and int(major) < DRIVER_FOR_ALL_PROFILES
    yield Finding(
        Severity.NOTE if old else Severity.OK,
        f"NVIDIA driver {version}" + (", too old for some profiles" if old else ""),
        hint=f"update it to {DRIVER_FOR_ALL_PROFILES} or newer" if old else None,
    )


def _model_findings(device: NvmlDevice) -> Iterator[Finding]:
    """Return where NVML and the catalogue differ."""
    where = f"GPU {device.index} ({device.name})"
    if device.known is None:
        yield Finding(
            Severity.NOTE,
            f"it is not in the catalogue: its profiles are read from NVML, as {device.model.name}",
            where,
            "to plan for it, keep them: `partita gpus --from-nvml --out FILE`, and name the file with --gpus-file",
        )
    for note in device.notes:
        yield Finding(
            Severity.NOTE,
            note,
            where,
            "plans made elsewhere may not know it: `partita gpus --from-nvml --out FILE` writes the driver's "
            "figures, `nvidia-smi mig -lgip` and `-lgipp` show them",
        )


def _held(gpu: RealGpu, device: NvmlDevice) -> Iterator[Finding]:
    """Return who keeps MIG mode from being turned on: that needs a GPU that no process has open."""
    found = () if gpu.mig else find_holders(device.handle(), None)
    if found:
        who, mend = describe_holders(found)
        yield Finding(
            Severity.NOTE,
            f"MIG mode cannot be turned on now: {who}",
            f"GPU {gpu.index} ({gpu.name})",
            mend,
        )


def _mig_findings(gpus: list[RealGpu]) -> Iterator[Finding]:
    # Some GPUs in MIG mode and some not may be intended; with none in MIG mode nothing can be cut.
    level = Severity.NOTE if any(gpu.mig for gpu in gpus) else Severity.MEND
    for gpu in gpus:
        where = f"GPU {gpu.index} ({gpu.name})"
        if gpu.mig:
            cut = (
                "only root sees its instances"
                if gpu.instances is None
                else counted(len(gpu.instances), "instance")
            )
            foreign = sum(not each.ours for each in gpu.instances or ())
            yield Finding(Severity.OK, f"{gpu.model}, MIG mode is on, {cut}", where)
            if foreign:
                yield Finding(
                    Severity.NOTE, f"{foreign} of its instances are not ours and stay as they are", where
                )
        elif gpu.pending:
            reset = f"with nothing running on it: `sudo nvidia-smi -i {gpu.index} --gpu-reset`"
            yield Finding(level, "MIG mode is turned on by the next reset", where, reset)
        else:
            turn_on = f"`sudo nvidia-smi -i {gpu.index} -mig 1`; an A100 or A30 then needs a reset"
            yield Finding(level, "MIG mode is off", where, turn_on)


_STOP_PLUGIN = "keep it off this node: `kubectl label node NODE nvidia.com/gpu.deploy.device-plugin=false`"
# Programs that cut GPUs, or hold them so that they cannot be cut, by the name of their executable.
_PROGRAMS: dict[str, tuple[str, str | None]] = {
    "nvidia-mig-manager": (
        "cuts GPUs as a node's label says",
        "`sudo systemctl disable --now nvidia-mig-manager`",
    ),
    "nvidia-mig-parted": ("cuts GPUs to a config", "let it end, and do not run it on GPUs that Partita has"),
    "nvidia-device-plugin": ("hands MIG devices to pods, and reads them only at its start", _STOP_PLUGIN),
    "gpu-kubelet-plugin": (
        "cuts GPUs for Kubernetes' resource claims",
        "keep its claims off this node's GPUs",
    ),
    "gpu-feature-discovery": ("labels the node by its MIG devices", None),
    "nv-hostengine": ("DCGM: watches GPUs; MIG mode cannot be turned on while it runs", None),
    "dcgm-exporter": ("DCGM: watches GPUs; MIG mode cannot be turned on while it runs", None),
    "nvidia-cuda-mps-control": ("MPS: shares GPUs between processes", None),
    "kubelet": ("Kubernetes' agent: its pods may use the GPUs", None),
    "slurmd": ("Slurm's agent: its jobs may use the GPUs", None),
}
_FILES = {
    "etc/nvidia-mig-manager": "nvidia-mig-manager",
    "etc/systemd/system/nvidia-mig-manager.service": "nvidia-mig-manager",
    "usr/lib/systemd/system/nvidia-mig-manager.service": "nvidia-mig-manager",
    "lib/systemd/system/nvidia-mig-manager.service": "nvidia-mig-manager",
}


def pci_gpus(root: Path) -> int:
    """Return how many NVIDIA GPUs are on the PCI bus, with or without a driver."""
    found = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            found += vendor == NVIDIA and kind.startswith(_DISPLAY)
    return found


def managers(root: Path, environ: Mapping[str, str]) -> tuple[Manager, ...]:
    """Return what else uses or changes the GPUs: running programs, installed services, an orchestrator."""
    running = {name: pid for pid, name in _names(root).items() if name in _PROGRAMS}
    found = [Manager(name, _PROGRAMS[name][0], f"process {pid}") for name, pid in sorted(running.items())]
    for path, name in _FILES.items():
        if name not in running and (root / path).exists():
            found.append(
                Manager(name, f"installed, not running; when it runs it {_PROGRAMS[name][0]}", f"/{path}")
            )
    if "KUBERNETES_SERVICE_HOST" in environ:
        found.append(
            Manager("kubernetes", "this is a pod; others on the node may cut GPUs", "KUBERNETES_SERVICE_HOST")
        )
    return tuple(found)


def manager_findings(found: tuple[Manager, ...]) -> Iterator[Finding]:
    """Return a note for each program that may interfere with the GPUs, with how to keep it off."""
    for each in found:
        hint = _PROGRAMS.get(each.name, ("", None))[1]
        if hint is not None:
            yield Finding(
                Severity.NOTE, f"{each.name} uses or changes GPUs here: {each.does}", each.evidence, hint
            )


def fabric_findings(root: Path) -> Iterator[Finding]:
    """Return a finding if there are NVSwitches but no fabric manager runs, as CUDA then does not start."""
    switches = list((root / "dev").glob("nvidia-nvswitch*")) if (root / "dev").is_dir() else []
    if switches and "nv-fabricmanager" not in _names(root).values():
        yield Finding(
            Severity.MEND,
            "the fabric manager does not run, so CUDA does not start on GPUs behind NVSwitches",
            hint="`sudo systemctl enable --now nvidia-fabricmanager`, of the driver's own version",
        )


def permission_findings(root: Path, *, root_user: bool) -> Iterator[Finding]:
    """Return a finding if this user cannot cut GPUs.

    Access is by the capability `mig/config`: read access to its device file (NVIDIA MIG User Guide, "Device
    Nodes and Capabilities").
    """
    if root_user:
        return
    node = _capability(root)
    if node is None or not os.access(root / node, os.R_OK):
        allow = f", or once: `sudo setfacl -m u:$USER:r /{node}`" if node else ""
        yield Finding(
            Severity.MEND, "this user may look at GPUs but not cut them", hint=f"run it with `sudo -E`{allow}"
        )


def _capability(root: Path) -> str | None:
    try:
        text = (root / "proc/driver/nvidia/capabilities/mig/config").read_text()
    except OSError:
        return None
    minor = dict(line.split(":", 1) for line in text.splitlines() if ":" in line).get("DeviceFileMinor")
    return f"dev/nvidia-caps/nvidia-cap{minor.strip()}" if minor else None


def _names(root: Path) -> dict[int, str]:
    found = {}
    for folder in (root / "proc").glob("[0-9]*"):
        with suppress(OSError):
            first = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            found[int(folder.name)] = first.rpartition("/")[2]
    return found
