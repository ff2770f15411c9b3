"""ResourceClaims: what is read of them, and how one is made that holds an exact device.

A claim of Partita's is allocated by Partita, not by the scheduler, which takes the first device that fits
(docs/benchmarks.md compares the ways). Its name follows from the GPU and the placement, so that two writers cannot
make two for one instance, and its finalizer has it outlast the pod that uses it, whoever deletes it. It does not have
Kubernetes' own finalizer: a claim with that loses its allocation with its last pod (pkg/controller/resourceclaim at
1.37.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from partita.kubernetes.allocation_check import AllocatedDevice
from partita.kubernetes.inventory import NVIDIA
from partita.kubernetes.objects import Body, Kind, KubernetesObject, timestamp
from partita.kubernetes.pods import INSTANCE, MANAGER, PLACEMENT, WORKLOAD, instance_name, shortened
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from partita.kubernetes.inventory import ClusterGpu

FINALIZER = "partita.dev/in-use"
"""Has a claim stay while its pod runs, whoever deletes it."""
PROTECTION = "resource.kubernetes.io/delete-protection"
"""Kubernetes' own finalizer: a claim that was made for a pod goes when that pod has ended, and not before."""
LENT = "partita.dev/lent"
"""Label of claims that Kubernetes makes for the pods of jobs, and that Partita allocates."""
REQUEST = "mig"
DEVICE_CLASS = "mig.nvidia.com"


class Consumer(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Who a claim is reserved for."""

    resource: str
    name: str
    uid: str


class AllocatedResult(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A device that a claim holds. With admin access it only looks on."""

    driver: str
    pool: str
    device: str
    admin_access: bool | None = None


class AllocatedDevices(msgspec.Struct, frozen=True, gc=False):
    """All devices that a claim holds."""

    results: tuple[AllocatedResult, ...] = ()


class ClaimAllocation(msgspec.Struct, frozen=True, gc=False):
    """What a claim was given."""

    devices: AllocatedDevices = AllocatedDevices()


class ClaimStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """How a claim is."""

    allocation: ClaimAllocation | None = None
    reserved_for: tuple[Consumer, ...] = ()


class ResourceClaim(KubernetesObject, frozen=True, gc=False):
    """A claim on devices."""

    status: ClaimStatus = ClaimStatus()

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.metadata.namespace, self.metadata.name

    @property
    def users(self) -> tuple[Consumer, ...]:
        """The pods that it is reserved for."""
        return tuple(each for each in self.status.reserved_for if each.resource == "pods")

    @property
    def leaving(self) -> bool:
        """Whether it was asked to go."""
        return self.metadata.deletion_timestamp is not None

    @property
    def devices(self) -> tuple[AllocatedDevice, ...]:
        """The devices of GPUs that it holds for itself."""
        if self.status.allocation is None:
            return ()
        called = "/".join(self.key)
        return tuple(
            AllocatedDevice(called, each.driver, each.pool, each.device)
            for each in self.status.allocation.devices.results
            if each.driver == NVIDIA and not each.admin_access
        )


RESOURCE_CLAIM = Kind("ResourceClaim", "resourceclaims", ResourceClaim, group="resource.k8s.io")


@dataclass(frozen=True, slots=True)
class ClaimedInstance:
    """The instance that a claim is to hold: a placement on a GPU, by the name of its device."""

    gpu: ClusterGpu
    placement: Placement
    device: str

    @property
    def name(self) -> str:
        """Of the claim, and of the instance as labels have it."""
        return instance_name(self.gpu.id, self.placement)


def claim_body(instance: ClaimedInstance, workload: str, owners: list[Body]) -> Body:
    """Return the claim of an instance, not allocated yet.

    Its selectors say what it holds, for who reads it. They are of no other use: the claim does not tolerate Partita's
    taint, so the scheduler cannot allocate it on these GPUs, and no other GPU fits the selectors.
    """
    domain = f"device.attributes['{NVIDIA}']"
    chosen = (
        f"{domain}.parentUUID == '{instance.gpu.uuid}' && {domain}.profile == '{instance.placement.profile}'"
    )
    exactly = {"deviceClassName": DEVICE_CLASS, "selectors": [{"cel": {"expression": chosen}}]}
    return {
        "metadata": {
            "name": instance.name,
            "labels": {**MANAGER, WORKLOAD: shortened(workload), INSTANCE: instance.name},
            "annotations": {PLACEMENT: f"{instance.gpu.id} {instance.placement}"},
            "finalizers": [FINALIZER],
            "ownerReferences": owners,
        },
        "spec": {"devices": {"requests": [{"name": REQUEST, "exactly": exactly}]}},
    }


def allocated_body(claim: ResourceClaim, body: Body, instance: ClaimedInstance, workload: str | None) -> Body:
    """Return a claim with the allocation of exactly the instance's device, to be written to its status.

    Without the time of the allocation the scheduler would add one when it binds the pod, which the API server then
    refuses, since an allocation cannot be changed. And the claim is reserved for Partita: from one that nobody has,
    or one pod alone, the scheduler takes the allocation away when a pod that names it fits nowhere. A claim that is
    lent is for its pod alone (`workload` is None): Kubernetes takes it away with that pod, and not if it is reserved.
    """
    node = {"key": "metadata.name", "operator": "In", "values": [instance.gpu.node]}
    result = {"request": REQUEST, "driver": NVIDIA, "pool": instance.gpu.pool, "device": instance.device}
    allocation = {
        "allocationTimestamp": timestamp(),
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [node]}]},
    }
    metadata = {
        "name": claim.metadata.name,
        "namespace": claim.metadata.namespace,
        "uid": claim.metadata.uid,
        "resourceVersion": claim.metadata.resource_version,
    }
    status: Body = {"allocation": allocation}
    if workload is not None:
        owner = {
            "apiGroup": "partita.dev",
            "resource": "workloads",
            "name": workload,
            "uid": claim.metadata.uid,
        }
        status["reservedFor"] = [owner]
    return {"metadata": metadata, "spec": body["spec"], "status": status}


_DEVICE = re.compile(r"gpu-(\d+)(-mig-.+)?")


def gpu_of(device: AllocatedDevice) -> str | None:
    """Return the id of the GPU that a device is of, None if its name does not say."""
    found = _DEVICE.fullmatch(device.name)
    return f"{device.pool}/gpu-{found[1]}" if found else None


def placement_on(gpu: ClusterGpu, device: AllocatedDevice) -> Placement | None:
    """Return the placement that a device takes on its GPU, None if unknown; the largest for the whole GPU."""
    if gpu.model is None:
        return None
    found = next((placement for placement, name in gpu.devices.items() if name == device.name), None)
    if found is not None:
        return found
    read = re.fullmatch(r"gpu-\d+(?:-mig-.+-(\d+)-(\d+))?", device.name)
    if read is None:
        return None
    if read[1] is None:
        whole = max(gpu.model.profiles, key=lambda each: (each.memory, each.plain))
        return Placement(0, whole.name)
    profile = next((each for each in gpu.model.profiles if each.gi_profile_id == int(read[1])), None)
    return None if profile is None else Placement(int(read[2]), profile.name)


def placement_said(words: str) -> tuple[str, Placement] | None:
    """Return the GPU and the placement that the annotation of a claim or a pod says, None if it is no such text."""
    gpu, _, placement = words.rpartition(" ")
    profile, at, start = placement.partition("@")
    return (gpu, Placement(int(start), profile)) if gpu and profile and at and start.isdecimal() else None
