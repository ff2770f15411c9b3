# ruff: noqa: ANN401 -- what NVML says has no types
"""`make device`: compares a real GPU with the catalogue and times NVML calls; it does not change the GPU.

Reads NVML (models, profiles, placements, MIG mode, power), times its calls, and, where MIG mode is off, has a child
process create a CUDA context and ask for more memory than there is, for the words of the failure and the power that
an idle context draws. Without a GPU it says so and ends with 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from benchmarks.report import stamp, table
from partita.drive.driver import DriveError
from partita.drive.nvml import devices, instances
from partita.drive.nvml.devices import NvmlDevice, discover, mig_mode
from partita.drive.nvml.instances import raising_driver_errors
from partita.drive.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_S = 420.0
"""No step begins after so many seconds: `make device` has eight minutes."""


@dataclass(frozen=True)
class Effort:
    """Number of calls of each kind, and seconds of each sample of power."""

    calls: int = 200
    power_s: float = 10.0


def run(effort: Effort | None = None, *, state: Path | None = None) -> dict[str, Any]:
    """Return all that was seen.

    Raises:
        DriveError: there is no GPU, or its driver does not answer.
    """
    asked = effort or Effort()
    end = time.monotonic() + MOST_S
    with raising_driver_errors():
        nvml.nvmlInit()
    try:
        devices, left_out = discover("node-0")
        return {
            "stamp": stamp(),
            "driver": _said(nvml.nvmlSystemGetDriverVersion),
            "nvml": _said(nvml.nvmlSystemGetNVMLVersion),
            "binding": getattr(nvml, "__version__", "?"),
            "left_out": [each.note for each in left_out],
            "findings": [_finding(each) for each in survey(state or Path("/nonexistent")).findings],
            "gpus": [_gpu(device, asked, end) for device in devices],
        }
    finally:
        nvml.nvmlShutdown()


def _finding(each: Any) -> dict[str, Any]:
    return {"level": each.level.value, "where": each.where, "what": each.what}


def _said(call: Callable[..., Any], *arguments: object) -> Any:
    """Return the result of a call, or its error as text."""
    try:
        return call(*arguments)
    except nvml.NVMLError as error:
        return f"error: {error}"


def _gpu(device: NvmlDevice, asked: Effort, end: float) -> dict[str, Any]:
    handle = device.handle()
    on, pending = mig_mode(handle)
    found = {
        "id": device.id,
        "name": device.name,
        "model": device.model.name,
        "origin": device.model.origin,
        "pci": _said(lambda: f"{nvml.nvmlDeviceGetPciInfo(handle).pciDeviceId:#010x}"),
        "memory_mib": _said(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20),
        "mig": on,
        "mig_after_reset": pending,
        "notes": list(device.notes),
        "profiles": _profiles(device, handle),
        "entry_points": _entry_points(handle),
        "instances": _instances(device, handle) if on else [],
        "calls_us": _times(device, handle, asked.calls, on=on),
        "power": _power(handle, asked.power_s),
    }
    if on:
        found["cuda"] = "left alone: MIG mode is on"
    elif time.monotonic() < end:
        found["cuda"] = _cuda(device, handle, asked.power_s)
    return found


def _profiles(device: NvmlDevice, handle: object) -> list[dict[str, Any]]:
    """Return each profile as NVML lists it beside the catalogue's figures."""
    known = {p.nvml_profile: p for p in device.known.profiles} if device.known else {}
    rows = []
    for each in devices.list_profiles(handle):
        own = known.get(each.number)
        rows.append(
            {
                "number": each.number,
                "id": each.id,
                "name": each.name,
                "known_as": own.name if own else None,
                "slices": each.slices,
                "count": each.count,
                "memory_mib": each.memory_mib,
                "catalogue_mib": own.memory_mib if own else None,
                "sms": each.sms,
                "catalogue_sms": own.sms if own else None,
                "copy_engines": each.copy_engines,
                "starts": each.starts,
                "catalogue_starts": own.starts if own else None,
                "size": each.size,
            }
        )
    return rows


def _entry_points(handle: object) -> dict[str, Any]:
    """Return how the calls answer that differ between drivers, for the first profile."""
    return {
        "profile info, version 1": _short(nvml.nvmlDeviceGetGpuInstanceProfileInfo, handle, 0, 1),
        "profile info, version 2": _short(nvml.nvmlDeviceGetGpuInstanceProfileInfo, handle, 0, 2),
        "remaining capacity": _said(nvml.nvmlDeviceGetGpuInstanceRemainingCapacity, handle, 0),
        "processes, version 3": _short(nvml.nvmlDeviceGetComputeRunningProcesses, handle),
        "GPU instance of id 31": _short(nvml.nvmlDeviceGetGpuInstanceById, handle, 31),
        "most MIG devices": _said(nvml.nvmlDeviceGetMaxMigDeviceCount, handle),
        "MIG device 0": _short(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, 0),
    }


def _short(call: Callable[..., Any], *arguments: object) -> str:
    said = _said(call, *arguments)
    return said if isinstance(said, str) else "answers"


def _instances(device: NvmlDevice, handle: object) -> Any:
    try:
        found = instances.list_instances(handle, device.offers)
    except nvml.NVMLError as error:
        return f"error: {error}"
    return [{"at": str(device.placed(each)[1]), "mig_uuid": each.identity.mig_uuid} for each in found]


def _times(device: NvmlDevice, handle: object, calls: int, *, on: bool) -> dict[str, Any]:
    asked: dict[str, Callable[[], Any]] = {
        "handle by UUID": device.handle,
        "MIG mode": lambda: nvml.nvmlDeviceGetMigMode(handle),
        "memory": lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
        "power": lambda: nvml.nvmlDeviceGetPowerUsage(handle),
        "energy": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle),
        "processes": lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle),
        "all profiles": lambda: devices.list_profiles(handle),
    }
    if on:
        asked["all instances"] = lambda: instances.list_instances(handle, device.offers)
    return {name: _timed(call, calls) for name, call in asked.items()}


def _timed(call: Callable[[], Any], calls: int) -> Any:
    taken = []
    for _ in range(calls):
        before = time.perf_counter_ns()
        try:
            call()
        except (nvml.NVMLError, DriveError) as error:
            return f"error: {error}"
        taken.append((time.perf_counter_ns() - before) / 1e3)
    taken.sort()
    return (
        {"median": round(median(taken), 1), "p99": round(taken[int(0.99 * (len(taken) - 1))], 1)}
        if taken
        else {}
    )


def _power(handle: object, seconds: float) -> dict[str, Any]:
    """Return the mean of the power readings in watts, the range, and the limit."""
    end = time.monotonic() + seconds
    watts: list[float] = []
    while not watts or time.monotonic() < end:
        said = _said(nvml.nvmlDeviceGetPowerUsage, handle)
        if isinstance(said, str):
            return {"watts": said}
        watts.append(said / 1e3)
        time.sleep(min(0.1, seconds / 10))
    limit = _said(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    return {
        "watts": round(sum(watts) / len(watts), 2),
        "least": min(watts),
        "most": max(watts),
        "limit": limit if isinstance(limit, str) else limit / 1e3,
    }


def _cuda(device: NvmlDevice, handle: object, seconds: float) -> Any:
    """Return what CUDA's driver says of a memory that is too small, and the power that an idle context draws."""
    words = [sys.executable, "-m", "benchmarks.device_cuda", device.uuid]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        try:
            said = json.loads(line)
        except ValueError:
            return f"error: the child said {line!r}"
        if "error" not in said:
            said["idle_context_power"] = _power(handle, seconds)
        return said
    finally:
        child.stdin.close()
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def as_markdown(found: dict[str, Any]) -> str:
    """Return the report in words and tables."""
    versions = f"Driver {found['driver']}, NVML {found['nvml']}, nvidia-ml-py {found['binding']}."
    parts = [f"# A real GPU\n\n{found['stamp']} {versions}\n"]
    parts += [f"- {each}\n" for each in found["left_out"]]
    for gpu in found["gpus"]:
        mode = "on" if gpu["mig"] else "off"
        parts.append(
            f"\n## {gpu['id']}: {gpu['name']}\n\nTaken for {gpu['model']} (from {gpu['origin']}), PCI {gpu['pci']}, "
            f"{gpu['memory_mib']} MiB, MIG mode {mode}. Power {gpu['power']}.\n\n"
        )
        parts += [f"- {note}\n" for note in gpu["notes"]]
        rows = [
            [
                p["id"], p["name"] or "-", p["known_as"] or "-", p["count"], p["memory_mib"],
                p["catalogue_mib"] or "-", p["sms"], p["catalogue_sms"] or "-",
                p["starts"] or "-", p["catalogue_starts"] or "-",
            ]
            for p in gpu["profiles"]
        ]  # fmt: skip
        header = ["id", "NVML", "here", "most", "MiB", "here", "SMs", "here", "starts", "here"]
        parts += ["\n", table(header, rows), "\n"]
        calls = [
            [name, *(said.values() if isinstance(said, dict) else [said, "-"])]
            for name, said in gpu["calls_us"].items()
        ]
        parts += [table(["call", "median us", "p99 us"], calls), "\n"]
        parts += [table(["entry point", "says"], [[k, v] for k, v in gpu["entry_points"].items()])]
        parts.append(f"\nCUDA: {json.dumps(gpu.get('cuda', 'no time left'))}\n")
    return "".join(parts)


def main(words: list[str] | None = None) -> int:
    """Write the report; return the exit code, which is 0 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("build/device"), help="folder of device.json and device.md"
    )
    parser.add_argument("--calls", type=int, default=Effort.calls, help="calls of each kind that are timed")
    parser.add_argument(
        "--power-seconds", type=float, default=Effort.power_s, help="seconds of a sample of power"
    )
    asked = parser.parse_args(words)
    try:
        found = run(Effort(asked.calls, asked.power_seconds))
    except DriveError as error:
        print(f"no NVIDIA GPU to look at: {error.what}; nothing was measured")
        return 0
    if not found["gpus"] and not found["left_out"]:
        print("NVIDIA's driver is here and sees no GPU; nothing was measured")
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "device.json").write_text(json.dumps(found, indent=1, default=str) + "\n")
    text = as_markdown(found)
    (asked.out / "device.md").write_text(text)
    print(text)
    print(f"written to {asked.out}/device.json and device.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
