"""What the host's files and processes tell of its GPUs (Linux)."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.drive.survey.finding import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NVIDIA = "0x10de"
_DISPLAY = "0x03"
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
    "nv-hostengine": ("DCGM: watches GPUs; MIG mode cannot be turned on meanwhile", None),
    "dcgm-exporter": ("DCGM: watches GPUs; MIG mode cannot be turned on meanwhile", None),
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


@dataclass(frozen=True, slots=True)
class Manager:
    """A program that has a hand in the GPUs.

    Attributes:
        name: of the program.
        does: what it does to them.
        evidence: how we know: `process 123`, a file, a variable.
    """

    name: str
    does: str
    evidence: str


def pci_gpus(root: Path) -> int:
    """Return how many NVIDIA GPUs are on the PCI bus, with or without a driver."""
    found = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            found += vendor == NVIDIA and kind.startswith(_DISPLAY)
    return found


def managers(root: Path, environ: Mapping[str, str]) -> tuple[Manager, ...]:
    """Return who else has a hand in the GPUs: running programs, installed services, an orchestrator."""
    running = dict(_programs(root))
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
    """Return a note for each program that changes GPUs behind our back, with the way to keep it off."""
    for each in found:
        hint = _PROGRAMS.get(each.name, ("", None))[1]
        if hint is not None:
            yield Finding(
                Level.NOTE, f"{each.name} has a hand in GPUs here: {each.does}", each.evidence, hint
            )


def fabric_findings(root: Path) -> Iterator[Finding]:
    """Return a fault if there are NVSwitches and their fabric manager does not run: CUDA does not start then."""
    switches = list((root / "dev").glob("nvidia-nvswitch*")) if (root / "dev").is_dir() else []
    if switches and "nv-fabricmanager" not in _names(root).values():
        yield Finding(
            Level.MEND,
            "the fabric manager does not run, so CUDA does not start on GPUs behind NVSwitches",
            hint="`sudo systemctl enable --now nvidia-fabricmanager`, of the driver's own version",
        )


def permission_findings(root: Path, *, root_user: bool) -> Iterator[Finding]:
    """Return a fault if this user cannot cut GPUs.

    Access is by the capability `mig/config`: read access to its device file (NVIDIA MIG User Guide, "Device
    Nodes and Capabilities").
    """
    if root_user:
        return
    node = _capability(root)
    if node is None or not os.access(root / node, os.R_OK):
        allow = f", or once: `sudo setfacl -m u:$USER:r /{node}`" if node else ""
        yield Finding(
            Level.MEND, "this user may look at GPUs but not cut them", hint=f"run it with `sudo -E`{allow}"
        )


def _capability(root: Path) -> str | None:
    try:
        text = (root / "proc/driver/nvidia/capabilities/mig/config").read_text()
    except OSError:
        return None
    minor = dict(line.split(":", 1) for line in text.splitlines() if ":" in line).get("DeviceFileMinor")
    return f"dev/nvidia-caps/nvidia-cap{minor.strip()}" if minor else None


def _programs(root: Path) -> Iterator[tuple[str, int]]:
    for pid, name in _names(root).items():
        if name in _PROGRAMS:
            yield name, pid


def _names(root: Path) -> dict[int, str]:
    found = {}
    for folder in (root / "proc").glob("[0-9]*"):
        with suppress(OSError):
            first = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            found[int(folder.name)] = first.rpartition("/")[2]
    return found
