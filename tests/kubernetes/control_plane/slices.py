"""ResourceSlices as NVIDIA's DRA driver publishes them with dynamic MIG, for nodes of GPUs of the catalogue.

A pool is a node. Its first slice has the shared counters of all its GPUs, then each GPU has a slice of its devices:
every profile at every start, and the whole GPU where MIG can be turned on without a reset (from Hopper on). Names,
attributes and counters are the driver's (github kubernetes-sigs/dra-driver-nvidia-gpu at 0545e9e, in
cmd/gpu-kubelet-plugin: `mig.go`, `deviceinfo.go`, `partitions.go`, `driver.go`). Engines that the catalogue does not
know are left out.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.client import Object

    from partita.mig.gpu import GpuModel, Profile

DRIVER = "gpu.nvidia.com"

CAPABILITY = {"Ampere": "8.0.0", "Hopper": "9.0.0", "Blackwell": "10.0.0"}
"""CUDA's, by architecture."""


@dataclass(frozen=True)
class Device:
    """One device of a slice.

    Attributes:
        gpu: minor number of its GPU.
        mask: memory slices that it takes, as a bit set.
        compute: compute slices that it takes.
    """

    name: str
    gpu: int
    profile: str
    start: int
    mask: int
    compute: int
    media: bool = False

    def overlaps(self, other: Device) -> bool:
        """Say whether two devices exclude each other, by their memory slices or media engines."""
        return self.gpu == other.gpu and bool(self.mask & other.mask or (self.media and other.media))


@dataclass(frozen=True)
class Gpu:
    """A GPU of a node."""

    node: str
    minor: int
    model: GpuModel

    @classmethod
    def of(cls, node: str, minor: int, model: str) -> Gpu:
        """Return a GPU of the catalogue's model."""
        return cls(node, minor, gpu_model(model))

    @cached_property
    def uuid(self) -> str:
        """Its UUID, which never changes."""
        return f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{self.node}/{self.minor}')}"

    @property
    def product(self) -> str:
        """Its product name in NVML."""
        return self.model.aliases[0] if self.model.aliases else self.model.title

    @property
    def counter_set(self) -> str:
        """Name of its shared counters."""
        return f"gpu-{self.minor}-counter-set"

    @cached_property
    def devices(self) -> dict[str, Device]:
        """All devices by name."""
        found = [self.device(profile, start) for profile in self.model.profiles for start in profile.starts]
        if self.model.architecture != "Ampere":
            whole = (1 << self.model.memory_slices) - 1
            found.append(Device(f"gpu-{self.minor}", self.minor, "", 0, whole, self.model.compute_slices))
        return {each.name: each for each in sorted(found, key=lambda each: each.name)}

    def device(self, profile: Profile, start: int) -> Device:
        """Return the device of a profile at a start."""
        name = profile.name.replace(".", "").replace("+", "-")
        return Device(
            f"gpu-{self.minor}-mig-{name}-{profile.gi_profile_id}-{start}",
            self.minor,
            profile.name,
            start,
            profile.mask(start),
            profile.compute,
            profile.media,
        )

    def counters(self) -> Object:
        """Return its shared counters: the maximum of each over all profiles, and one per memory slice."""
        largest = {
            key: max(values[key] for values in map(self._takes, self.model.profiles))
            for key in ("memory", "multiprocessors")
        }
        return {"name": self.counter_set, "counters": _counters(largest, range(self.model.memory_slices))}

    def device_objects(self) -> list[Object]:
        """Return the devices as in its slice."""
        return [self._object(device) for device in self.devices.values()]

    def _takes(self, profile: Profile) -> dict[str, int]:
        return {"memory": (profile.memory_mib or 0) << 20, "multiprocessors": profile.sms or 0}

    def _object(self, device: Device) -> Object:
        attributes: Object = {
            "productName": {"string": self.product},
            "brand": {"string": "Nvidia"},
            "architecture": {"string": self.model.architecture},
            "cudaComputeCapability": {"version": CAPABILITY.get(self.model.architecture, "9.0.0")},
            "driverVersion": {"version": "590.48.1"},
            "cudaDriverVersion": {"version": "13.1.0"},
            "resource.kubernetes.io/pciBusID": {"string": f"0000:{0x10 + self.minor:02x}:00.0"},
            "resource.kubernetes.io/pcieRoot": {"string": f"pci0000:{0x10 + self.minor:02x}"},
        }
        if device.profile:
            takes = self._takes(self.model.profile(device.profile))
            attributes |= {
                "type": {"string": "mig"},
                "parentUUID": {"string": self.uuid},
                "profile": {"string": device.profile},
            }
        else:
            takes = {"memory": (self.model.memory_mib or 0) << 20, "multiprocessors": self.model.sms or 0}
            attributes |= {"type": {"string": "gpu"}, "uuid": {"string": self.uuid}}
        memory_slices = [index for index in range(self.model.memory_slices) if device.mask >> index & 1]
        consumed = _counters(takes, memory_slices) if device.profile else self.counters()["counters"]
        return {
            "name": device.name,
            "attributes": attributes,
            "capacity": {key: {"value": str(value)} for key, value in takes.items()},
            "consumesCounters": [{"counterSet": self.counter_set, "counters": consumed}],
        }


def _counters(takes: dict[str, int], memory_slices: range | list[int]) -> Object:
    found = {key: {"value": str(value)} for key, value in takes.items()}
    return found | {f"memory-slice-{index}": {"value": "1"} for index in memory_slices}


@dataclass(frozen=True)
class Pool:
    """The slices of one node.

    Attributes:
        owner: uid of the node, which owns the slices.
    """

    node: str
    owner: str
    gpus: tuple[Gpu, ...] = field(default=())

    def slices(self, generation: int = 1) -> list[Object]:
        """Return all slices of the pool, the one of the counters first."""
        parts: list[Object] = [{"sharedCounters": [gpu.counters() for gpu in self.gpus]}] if self.gpus else []
        parts += [{"devices": gpu.device_objects()} for gpu in self.gpus]
        pool = {"name": self.node, "generation": generation, "resourceSliceCount": len(parts)}
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": self.owner, "controller": True}
        return [
            {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceSlice",
                "metadata": {
                    "name": f"{self.node}-{DRIVER}-{index}-{generation}",
                    "ownerReferences": [owner],
                },
                "spec": {"driver": DRIVER, "nodeName": self.node, "pool": pool} | part,
            }
            for index, part in enumerate(parts)
        ]


def device_classes() -> list[Object]:
    """Return the classes that NVIDIA's chart installs."""
    found = []
    for name, kind in (("gpu.nvidia.com", "gpu"), ("mig.nvidia.com", "mig")):
        expression = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == '{kind}'"
        found.append(
            {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "DeviceClass",
                "metadata": {"name": name},
                "spec": {"selectors": [{"cel": {"expression": expression}}]},
            }
        )
    return found


def node_object(name: str, gpus: tuple[Gpu, ...], kubelet_port: int) -> Object:
    """Return a node with the labels that NVIDIA's GPU operator gives it, Ready by kwok."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "type": "kwok",
    }
    if gpus:
        labels |= {
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.count": str(len(gpus)),
            "nvidia.com/gpu.product": gpus[0].product.replace(" ", "-"),
            "nvidia.com/gpu.memory": str(gpus[0].model.memory_mib),
            "nvidia.com/gpu.family": gpus[0].model.architecture.lower(),
            "nvidia.com/mig.capable": "true",
        }
    amounts = {"cpu": "128", "memory": "1Ti", "pods": "500"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [
                {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "Hostname", "address": name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kubeletVersion": "v1.37.2",
                "containerRuntimeVersion": "containerd://2.2.0",
                "kernelVersion": "6.8.0",
                "osImage": "test",
                "machineID": name,
                "systemUUID": name,
                "bootID": name,
                "kubeProxyVersion": "",
            },
        },
    }
