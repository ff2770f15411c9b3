"""ResourceClaims: how they are read, and how a claim on an exact device is made, allocated and removed.

Partita allocates its own claims, since the scheduler would take the first device that fits (docs/benchmarks.md
compares both). A claim's name follows from the GPU and the placement, so two writers cannot create two claims for one
instance. Its finalizer keeps it until the pod that uses it has ended, whoever deletes it. It does not have
Kubernetes' own finalizer: a claim with that one loses its allocation with its last pod (pkg/controller/resourceclaim
at 1.37.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from partita.kubernetes.allocation_check import AllocatedDevice
from partita.kubernetes.inventory import NVIDIA
from partita.kubernetes.objects import (
    Body,
    ConflictError,
    Kind,
    KubernetesObject,
    NotFoundError,
    timestamp,
)
from partita.kubernetes.pods import INSTANCE, MANAGER, PLACEMENT, WORKLOAD, instance_name, shortened
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.inventory import ClusterGpu

FINALIZER = "partita.dev/in-use"
"""Keeps a claim while its pod runs, whoever deletes the claim."""
PROTECTION = "resource.kubernetes.io/delete-protection"
"""Kubernetes' own finalizer: keeps a claim that was made for a pod until that pod has ended."""
LENT = "partita.dev/lent"
"""Label of claims that Kubernetes makes for the pods of jobs, and that Partita allocates."""
REQUEST = "mig"
DEVICE_CLASS = "mig.nvidia.com"


class Consumer(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A consumer that a claim is reserved for."""

    resource: str
    name: str
    uid: str


class AllocatedResult(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A device that a claim holds. With admin access the claim does not occupy the device."""

    driver: str
    pool: str
    device: str
    admin_access: bool | None = None


class AllocatedDevices(msgspec.Struct, frozen=True, gc=False):
    """All devices that a claim holds."""

    results: tuple[AllocatedResult, ...] = ()


class ClaimAllocation(msgspec.Struct, frozen=True, gc=False):
    """The allocation of a claim."""

    devices: AllocatedDevices = AllocatedDevices()


class ClaimStatus(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The status of a claim."""

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
        """The pods that the claim is reserved for."""
        return tuple(each for each in self.status.reserved_for if each.resource == "pods")

    @property
    def leaving(self) -> bool:
        """Whether the claim is being deleted."""
        return self.metadata.deletion_timestamp is not None

    @property
    def devices(self) -> tuple[AllocatedDevice, ...]:
        """The devices of NVIDIA's driver that the claim occupies."""
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
    """The instance that a claim is to hold: a placement on a GPU, and the name of its device."""

    gpu: ClusterGpu
    placement: Placement
    device: str

    @property
    def name(self) -> str:
        """Name of the claim, and of the instance in labels."""
        return instance_name(self.gpu.id, self.placement)


def claim_body(instance: ClaimedInstance, workload: str, owners: list[Body]) -> Body:
    """Return the claim of an instance, not allocated yet.

    Its selectors only show people what it holds. The scheduler can never allocate it: the claim does not tolerate
    Partita's taint on these GPUs, and no other GPU matches the selectors.
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

    The allocation has a timestamp: otherwise the scheduler adds one when it binds the pod, and the API server refuses
    that change of an allocation. The claim is reserved for its Workload: from a claim that is reserved for nobody, or
    for one pod only, the scheduler removes the allocation when a pod that names the claim fits nowhere.

    Args:
        claim: as read.
        body: of which the spec is used.
        instance: to be allocated.
        workload: to reserve the claim for. None for a claim that is lent to a Job's pod: Kubernetes removes it with
            that pod, which a reservation would prevent.
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


def remove_claim(api: KubernetesApi, claim: ResourceClaim) -> None:
    """Delete a claim of Partita's and remove its finalizer.

    Raises:
        KubernetesError: it cannot be removed.
    """
    if not claim.leaving:
        api.delete(RESOURCE_CLAIM, claim.metadata.name, claim.metadata.namespace, uid=claim.metadata.uid)
    remove_finalizer(api, claim)


def remove_finalizer(api: KubernetesApi, claim: ResourceClaim) -> None:
    """Remove Partita's finalizer from a claim that is being deleted; do nothing if the claim is gone.

    Raises:
        KubernetesError: it cannot be removed.
    """
    others = [each for each in claim.metadata.finalizers if each != FINALIZER]
    if len(others) == len(claim.metadata.finalizers):
        return
    changes = {"metadata": {"uid": claim.metadata.uid, "finalizers": others}}
    try:
        api.patch(RESOURCE_CLAIM, claim.metadata.name, changes, claim.metadata.namespace)
    except (NotFoundError, ConflictError):
        return  # the claim is gone, or another one has replaced it


_DEVICE = re.compile(r"gpu-(\d+)(-mig-.+)?")


def gpu_of(device: AllocatedDevice) -> str | None:
    """Return the id of a device's GPU, None if the device's name does not say."""
    found = _DEVICE.fullmatch(device.name)
    return f"{device.pool}/gpu-{found[1]}" if found else None


def placement_on(gpu: ClusterGpu, device: AllocatedDevice) -> Placement | None:
    """Return the placement of a device on its GPU, None if unknown; for a whole GPU that of its largest profile."""
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
    """Return the GPU and the placement in an annotation `PLACEMENT`; None for any other text."""
    gpu, _, placement = words.rpartition(" ")
    profile, at, start = placement.partition("@")
    return (gpu, Placement(int(start), profile)) if gpu and profile and at and start.isdecimal() else None
