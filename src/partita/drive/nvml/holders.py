"""Which processes hold an instance that NVML calls "in use", as far as this host's files and NVML show (Linux).

NVML lists only the processes that compute. A monitor that has an instance's device file open keeps it from being
destroyed but is in no list. DCGM does so at times without need (github.com/NVIDIA/DCGM issues 95 and 276), a device
plugin always has the GPU open (github.com/Project-HAMi/HAMi issue 1088), and nvidia-persistenced keeps a GPU from
being reset (github.com/NVIDIA/gpu-operator issue 118). `/proc/PID/fd` shows who has a device file open;
`/proc/driver/nvidia/capabilities` shows which file is an instance's (NVIDIA MIG User Guide, "Device Nodes and
Capabilities"). Only root sees other users' processes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml as nvml

from partita.drive.nvml import instances

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = Path("/")
"""Where the host's files are."""
# Programs whose work is to have GPUs open, the likeliest first, and what makes each release them.
_KNOWN_PROGRAMS: dict[str, str] = {
    "nv-hostengine": "DCGM: `sudo systemctl restart nvidia-dcgm`, or stop it while you cut",
    "dcgm-exporter": "DCGM's exporter: restart it, or stop it while you cut",
    "nvsm_core": "NVSM: `sudo systemctl stop nvsm`, and start it afterwards",
    "nvidia-device-plugin": "Kubernetes' device plugin: keep it off this node, or restart it",
    "gpu-kubelet-plugin": "the DRA driver: keep its claims off this GPU",
    "gpu-feature-discovery": "restart it",
    "nvidia-mig-manager": "`sudo systemctl stop nvidia-mig-manager`",
    "nvidia-persistenced": "`sudo systemctl stop nvidia-persistenced` if the GPU is to be reset",
    "nvidia-cuda-mps-server": "MPS: `echo quit | nvidia-cuda-mps-control`",
    "nvidia-cuda-mps-control": "MPS: `echo quit | nvidia-cuda-mps-control`",
    "Xorg": "a desktop: run it on another GPU",
    "Xwayland": "a desktop: run it on another GPU",
    "nvtop": "a monitor: end it",
    "nvidia-smi": "a monitor: end it",
}
_ORDER = {name: n for n, name in enumerate(_KNOWN_PROGRAMS)}
_NAME_BYTES = 15
"""The kernel cuts names of processes to this length."""
_SHOWN = 4
_NOBODY = (
    "a monitor may have it open: restart DCGM (`sudo systemctl restart nvidia-dcgm`) and its exporter; "
    "`sudo fuser -v /dev/nvidia* /dev/nvidia-caps/*` shows all that have"
)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds an instance, or the GPU it is on.

    Attributes:
        name: of its program.
        how: how it holds it.
        advice: what makes it release it; None for a program that computes.
    """

    pid: int
    name: str
    how: str
    advice: str | None = None


def find_holders(device: object, gi_id: int | None) -> tuple[Holder, ...]:
    """Return who holds a GPU instance, or a whole GPU: computing processes first, then DCGM, then others.

    Args:
        device: NVML's handle of the GPU.
        gi_id: the GPU instance; None for the GPU as a whole.
    """
    root = ROOT
    computing = instances.running_processes(device)
    pids = computing.get(gi_id, set()) if gi_id is not None else set().union(*computing.values())
    found = {pid: _holder(root, pid, "computes on it") for pid in pids}
    minor = _minor(device)
    files = _instance_files(root, minor, gi_id) | ({f"nvidia{minor}"} if minor is not None else set())
    for pid, name in _opened(root, files):
        # Computing processes have these open too, and are listed already.
        found.setdefault(pid, _holder(root, pid, f"has /dev/{name} open"))
    computes = {pid for pid, each in found.items() if each.advice is None and pid in pids}
    return tuple(
        sorted(
            found.values(), key=lambda each: (each.pid not in computes, _ORDER.get(each.name, 99), each.pid)
        )
    )


def describe_holders(found: tuple[Holder, ...]) -> tuple[str, str]:
    """Return who holds it as a sentence, and what to do as a hint; where to look if no holder is seen."""
    if not found:
        return (
            "no process is seen to hold it",
            _NOBODY,
        )
    shown = found[:_SHOWN]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    told = ", ".join(f"{each.name} (process {each.pid}) {each.how}" for each in shown)
    mend = dict.fromkeys(each.advice or f"end process {each.pid}" for each in shown)
    return told + more, "; ".join(mend)


def _holder(root: Path, pid: int, how: str) -> Holder:
    name = _program(root, pid)
    return Holder(pid, name, how, _KNOWN_PROGRAMS.get(name))


def _program(root: Path, pid: int) -> str:
    """Return the name of a process's program, `?` if the pid is not known here, as of another container."""
    name = "?"
    with suppress(OSError):
        name = (root / f"proc/{pid}/comm").read_text(errors="replace").strip()
    with suppress(OSError):
        first = (root / f"proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        name = first.rpartition("/")[2] or name
    cut = next((each for each in _KNOWN_PROGRAMS if len(name) == _NAME_BYTES and each.startswith(name)), name)
    return "".join(each if each.isprintable() else "?" for each in cut)


def _minor(device: object) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetMinorNumber(device))
    except nvml.NVMLError:
        return None


def _instance_files(root: Path, minor: int | None, gi_id: int | None) -> set[str]:
    """Return the device files of an instance's capabilities, such as `nvidia-cap21`."""
    if minor is None or gi_id is None:
        return set()
    folder = root / f"proc/driver/nvidia/capabilities/gpu{minor}/mig/gi{gi_id}"
    found = set()
    for path in [folder / "access", *folder.glob("ci*/access")]:
        with suppress(OSError):
            for line in path.read_text().splitlines():
                key, _, value = line.partition(":")
                if key == "DeviceFileMinor":
                    found.add(f"nvidia-cap{value.strip()}")
    return found


def _opened(root: Path, names: set[str]) -> Iterator[tuple[int, str]]:
    """Yield the processes that have one of these device files open, and which; an instance's own before the GPU's."""
    for folder in (root / "proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        opened = set()
        with suppress(OSError):
            for link in (folder / "fd").iterdir():
                with suppress(OSError):
                    opened.add(link.readlink().name)
        if mine := sorted(names & opened, key=lambda name: "cap" not in name):
            yield int(folder.name), mine[0] if "cap" not in mine[0] else f"nvidia-caps/{mine[0]}"
