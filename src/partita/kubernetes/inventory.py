"""A cluster's GPUs: from the ResourceSlices of NVIDIA's DRA driver, or from the GPU operator's labels on nodes.

Sources of the formats:

- ResourceSlices: github kubernetes-sigs/dra-driver-nvidia-gpu, cmd/gpu-kubelet-plugin at 0545e9e. A whole GPU is a
  device `gpu-MINOR` with `type` gpu, `uuid` and `productName` (`deviceinfo.go`). With dynamic MIG, each profile at
  each start is a device `gpu-MINOR-mig-PROFILE-ID-START` with `type` mig, `parentUUID`, `profile` and `productName`,
  where ID is the GPU instance profile id that `nvidia-smi mig -lgip` prints. Without dynamic MIG, only existing MIG
  instances are devices, and they also have a `uuid` (`mig.go`). On Ampere only MIG instances are devices while MIG
  mode is on, and only the whole GPU while it is off (`driver.go`). Taints: `device_health.go`. Each node has one pool
  of its name.
- Pools: KEP 4381. Only the newest generation of a pool counts, once all of its slices are there.
- Labels: github NVIDIA/k8s-device-plugin, internal/lm at 062f090 (`resource.go`, `mig-strategy.go`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from partita.kubernetes.objects import Kind, KubernetesObject, bytes_of
from partita.mig.catalogue import gpu_called, gpu_model, gpu_names
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from partita.mig.gpu import GpuModel

NVIDIA = "gpu.nvidia.com"
"""Name of NVIDIA's DRA driver for GPUs, and the domain of its attributes and taints."""
OWN_TAINT = "partita.dev/managed"
"""Key of the taint that keeps other users' claims off the GPUs that Partita manages."""


class Attribute(msgspec.Struct, frozen=True, gc=False):
    """The value of a device's attribute; only strings are read."""

    string: str | None = None


class Attributes(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The attributes that are read of a device of NVIDIA's driver."""

    type: Attribute = Attribute()
    uuid: Attribute = Attribute()
    product_name: Attribute = Attribute()
    profile: Attribute = Attribute()
    parent_uuid: Attribute = msgspec.field(name="parentUUID", default=Attribute())


class Capacity(msgspec.Struct, frozen=True, gc=False):
    """A capacity of a device, as a Kubernetes quantity."""

    value: str


class Capacities(msgspec.Struct, frozen=True, gc=False):
    """The capacities that are read of a device."""

    memory: Capacity | None = None


class Taint(msgspec.Struct, frozen=True, gc=False):
    """A taint of a device or a node."""

    key: str
    effect: str = ""
    value: str = ""


class SliceDevice(msgspec.Struct, frozen=True, gc=False):
    """A device of a ResourceSlice."""

    name: str
    attributes: Attributes = Attributes()
    capacity: Capacities = Capacities()
    taints: tuple[Taint, ...] = ()


class SlicePool(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The pool and generation of a ResourceSlice, and the number of slices in that generation."""

    name: str
    generation: int
    resource_slice_count: int


class SliceSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The spec of a ResourceSlice. `node_name` is None for devices that several nodes can reach."""

    driver: str
    pool: SlicePool
    node_name: str | None = None
    devices: tuple[SliceDevice, ...] = ()


class ResourceSlice(KubernetesObject, frozen=True, gc=False):
    """Some of the devices that a DRA driver publishes."""

    spec: SliceSpec


class NodeCondition(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A condition of a node; only `Ready` is used."""

    type: str
    status: str
    last_transition_time: str | None = None


class NodeSpec(msgspec.Struct, frozen=True, gc=False):
    """The spec of a node; `unschedulable` if it is cordoned."""

    unschedulable: bool = False


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    """The status of a node."""

    conditions: tuple[NodeCondition, ...] = ()


class Node(KubernetesObject, frozen=True, gc=False):
    """A node."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        """Whether its kubelet reports that it is ready."""
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)

    def has_labels(self, labels: Mapping[str, str]) -> bool:
        """Say whether it has all these labels with these values."""
        return labels.items() <= self.metadata.labels.items()

    def away_s(self, now: float) -> float | None:
        """Return for how many seconds it has not been ready; None if it is.

        Args:
            now: seconds since 1970. The node's time is the API server's, so clocks may differ.
        """
        if self.ready:
            return None
        found = next((each for each in self.status.conditions if each.type == "Ready"), None)
        if found is None or found.last_transition_time is None:
            return 0.0
        return max(0.0, now - datetime.fromisoformat(found.last_transition_time).timestamp())


RESOURCE_SLICE = Kind(
    "ResourceSlice", "resourceslices", ResourceSlice, group="resource.k8s.io", namespaced=False
)
NODE = Kind("Node", "nodes", Node, namespaced=False)


class GpuCondition(StrEnum):
    """Whether a GPU can be used.

    READY: instances can be created. LEAVING: running replicas go on serving, but nothing new may start. WHOLE: it
    cannot be cut through DRA. LOST: it does not answer.
    """

    READY = "ready"
    LEAVING = "leaving"
    WHOLE = "whole"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class ClusterGpu:
    """A GPU of a node.

    Attributes:
        id: the node's name and the GPU's minor number: `node-0/gpu-3`.
        product: the product name in NVML.
        model: of the catalogue; None if the catalogue does not have it.
        pool: of its devices; None if it is known from the node's labels alone.
        devices: names of its MIG devices, by placement.
        whole: name of the device that is the whole GPU; None if there is none.
        standing: placements of static MIG devices, which exist whether used or not because dynamic MIG is off.
        why: it is not ready.
        silent: its node is not ready, but not lost: its instances and pods may be running, and nothing new begins.
    """

    id: str
    node: str
    uuid: str
    product: str
    model: GpuModel | None
    pool: str | None
    devices: Mapping[Placement, str]
    whole: str | None = None
    standing: tuple[Placement, ...] = ()
    condition: GpuCondition = GpuCondition.READY
    why: str | None = None
    silent: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all its devices."""
        return (*self.devices.values(), *((self.whole,) if self.whole else ()))


@dataclass(frozen=True, slots=True)
class NodeInventory:
    """The GPUs of one node, and warnings about them."""

    gpus: tuple[ClusterGpu, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """All GPUs of a cluster by id, and warnings about them."""

    gpus: Mapping[str, ClusterGpu]
    notes: tuple[str, ...]


def read_inventory(slices: Iterable[ResourceSlice], nodes: Iterable[Node]) -> Inventory:
    """Return all GPUs of a cluster, from each node's ResourceSlices, or from its labels if it has no slices."""
    by_node: defaultdict[str, list[ResourceSlice]] = defaultdict(list)
    for each in slices:
        if each.spec.driver == NVIDIA and each.spec.node_name:
            by_node[each.spec.node_name].append(each)
    known = {node.metadata.name: node for node in nodes}
    found = [
        node_inventory(name, known.get(name), by_node.get(name, ())) for name in sorted({*known, *by_node})
    ]
    return Inventory(
        {gpu.id: gpu for each in found for gpu in each.gpus},
        tuple(note for each in found for note in each.notes),
    )


def node_inventory(
    name: str,
    node: Node | None,
    slices: Sequence[ResourceSlice],
    before: NodeInventory | None = None,
    *,
    silent: bool = False,
) -> NodeInventory:
    """Return the GPUs of one node.

    Args:
        name: the node's.
        node: None if it is gone, though its slices still exist.
        slices: of NVIDIA's driver on this node, of all generations.
        before: the previous result, which holds while no generation is complete.
        silent: if the node is not ready, it is silent, not lost.
    """
    if not slices:
        return _from_labels(node, silent=silent) if node is not None else NodeInventory()
    devices = _newest(slices)
    if devices is None:
        partial = f"{name}: its ResourceSlices are not complete yet"
        return NodeInventory(before.gpus if before else (), (partial,))
    by_minor: defaultdict[int, list[SliceDevice]] = defaultdict(list)
    notes = []
    for device in devices:
        minor = _minor(device.name)
        if minor is None:
            if device.attributes.type.string in {"gpu", "mig"}:
                notes.append(f"{name}: device {device.name} is left out: its name does not name a GPU")
            continue
        by_minor[minor].append(device)
    pool = slices[0].spec.pool.name
    found = [_gpu(name, pool, minor, by_minor[minor], notes) for minor in sorted(by_minor)]
    return NodeInventory(tuple(_on_node(gpu, node, silent=silent) for gpu in found), tuple(notes))


def _newest(slices: Sequence[ResourceSlice]) -> list[SliceDevice] | None:
    """Return the devices of the newest complete generation, None if none is complete."""
    by_generation: defaultdict[int, list[ResourceSlice]] = defaultdict(list)
    for each in slices:
        by_generation[each.spec.pool.generation].append(each)
    for generation in sorted(by_generation, reverse=True):
        parts = by_generation[generation]
        if len(parts) == parts[0].spec.pool.resource_slice_count:
            return [device for part in parts for device in part.spec.devices]
    return None


_MIG_NAME = re.compile(r"gpu-(?P<minor>\d+)-mig-(?P<profile>.+)-(?P<id>\d+)-(?P<start>\d+)")
_GPU_NAME = re.compile(r"gpu-(?P<minor>\d+)")


def _minor(name: str) -> int | None:
    found = _MIG_NAME.fullmatch(name) or _GPU_NAME.fullmatch(name)
    return int(found["minor"]) if found else None


def _gpu(node: str, pool: str, minor: int, devices: Sequence[SliceDevice], notes: list[str]) -> ClusterGpu:
    """Return a GPU from its devices; warnings are appended to `notes`."""
    gpu_id = f"{node}/gpu-{minor}"
    cut = [each for each in devices if each.attributes.type.string == "mig"]
    whole = next((each for each in devices if each.attributes.type.string == "gpu"), None)
    one = whole or devices[0]
    product = one.attributes.product_name.string or ""
    uuid = (whole.attributes.uuid if whole else one.attributes.parent_uuid).string or ""
    memory = max(
        (mebibytes(each.capacity.memory.value) for each in devices if each.capacity.memory), default=None
    )
    model = _model(product, memory, gpu_names())
    if model is None:
        notes.append(_unknown(gpu_id, product))
        return ClusterGpu(
            gpu_id,
            node,
            uuid,
            product,
            None,
            pool,
            _NO_DEVICES,
            condition=GpuCondition.WHOLE,
            why="its model is unknown",
        )
    said = tuple((each.name, each.attributes.profile.string or "") for each in cut)
    table, wrong = _table(model.name, said, gpu_names())
    notes += (f"{gpu_id}: {each}" for each in wrong)
    condition, why = _health(cut, whole)
    stand = {each.name for each in cut if each.attributes.uuid.string}
    static = tuple(sorted(placement for placement, name in table.items() if name in stand))
    if static:
        why = "its MIG devices are static: NVIDIA's driver runs without the feature gate DynamicMIG"
        condition = condition if condition is GpuCondition.LOST else GpuCondition.WHOLE
        table = _NO_DEVICES
    elif not table and condition is GpuCondition.READY:
        condition = GpuCondition.WHOLE
        why = "MIG mode is off, or NVIDIA's driver runs without the feature gate DynamicMIG"
    return ClusterGpu(
        gpu_id,
        node,
        uuid,
        product,
        model,
        pool,
        table,
        whole.name if whole else None,
        static,
        condition,
        why,
    )


_NO_DEVICES: Mapping[Placement, str] = MappingProxyType({})


def _unknown(where: str, product: str) -> str:
    return f"{where}: the GPU product {product!r} is of no known model; describe it with --gpus-file"


@cache
def _model(product: str, memory_mib: float | None, _known: tuple[str, ...]) -> GpuModel | None:
    """Return the model of a product; cached, since a cluster has many GPUs of few products."""
    return gpu_called(product, memory_mib)


@lru_cache(maxsize=512)
def _table(
    model: str, said: tuple[tuple[str, str], ...], _known: tuple[str, ...]
) -> tuple[Mapping[Placement, str], tuple[str, ...]]:
    """Return the devices by placement, and the faults of the others; GPUs with equal devices share one table.

    Args:
        model: name in the catalogue.
        said: name and profile of each device.
    """
    found: dict[Placement, str] = {}
    wrong = []
    for name, profile in said:
        placement = _placement(gpu_model(model), name, profile)
        if isinstance(placement, str):
            wrong.append(f"device {name} is left out: {placement}")
        else:
            found[placement] = name
    return MappingProxyType(dict(sorted(found.items()))), tuple(wrong)


def _placement(model: GpuModel, name: str, called: str) -> Placement | str:
    """Return the placement of a MIG device, or why it is unknown."""
    found = _MIG_NAME.fullmatch(name)
    profile = model.profile_called(called)
    if profile is None:
        return f"{model.name} has no profile {called!r}"
    if found is None:
        return "its name does not say the start"
    if profile.gi_profile_id is not None and int(found["id"]) != profile.gi_profile_id:
        return f"its name says profile {found['id']}, and {called} is {profile.gi_profile_id}"
    start = int(found["start"])
    if start not in profile.starts:
        return f"{called} cannot start at {start} on {model.name}"
    return Placement(start, profile.name)


def _health(cut: Sequence[SliceDevice], whole: SliceDevice | None) -> tuple[GpuCondition, str | None]:
    """Return a GPU's condition by the driver's own taints; a taint counts if all devices of the GPU have it."""
    everywhere = [set(each.taints) for each in ([whole] if whole else cut)]
    for taint in sorted(set.intersection(*everywhere) if everywhere else (), key=lambda each: each.key):
        if taint.key == f"{NVIDIA}/gpu-lost":
            return GpuCondition.LOST, "NVIDIA's driver has lost it"
        if taint.effect in {"NoSchedule", "NoExecute"} and taint.key != OWN_TAINT:
            return GpuCondition.LEAVING, f"it has the taint {taint.key}={taint.value}:{taint.effect}"
    return GpuCondition.READY, None


def _on_node(gpu: ClusterGpu, node: Node | None, *, silent: bool) -> ClusterGpu:
    """Return a GPU with its condition adjusted to that of its node."""
    if node is None or node.metadata.deletion_timestamp is not None:
        return replace(gpu, condition=GpuCondition.LOST, why="its node is gone")
    if not node.ready and not silent:
        return replace(gpu, condition=GpuCondition.LOST, why="its node is not ready")
    gpu = replace(gpu, silent=not node.ready)
    if node.spec.unschedulable and gpu.condition is GpuCondition.READY:
        return replace(gpu, condition=GpuCondition.LEAVING, why="its node is cordoned")
    return gpu


def mebibytes(quantity: str) -> float:
    """Return a Kubernetes quantity of bytes in MiB; 0 if it is no such quantity."""
    return (bytes_of(quantity) or 0.0) / 2**20


# By labels

_PRODUCT = "nvidia.com/gpu.product"
_CUT_PRODUCT = re.compile(r"-MIG-(?P<profile>\d+g\.\d+gb.*)$")


def labelled(node: Node) -> bool:
    """Say whether a node has gpu-feature-discovery's labels."""
    return _PRODUCT in node.metadata.labels


def _from_labels(node: Node, *, silent: bool) -> NodeInventory:
    """Return the GPUs of a node by gpu-feature-discovery's labels."""
    name, labels = node.metadata.name, node.metadata.labels
    product, said = labels.get(_PRODUCT), labels.get("nvidia.com/gpu.count", "")
    if product is None:
        return NodeInventory()
    if product.endswith("-MIG-INVALID") or not said.isdecimal():
        note = f"{name}: its labels do not say its GPUs (nvidia.com/gpu.product is {product}): it is left out"
        return NodeInventory((), (note,))
    cut = _CUT_PRODUCT.search(product)
    product = _CUT_PRODUCT.sub("", product)
    memory = labels.get("nvidia.com/gpu.memory", "")
    model = gpu_called(product, float(memory) if memory.isdecimal() and cut is None else None)
    if model is None:
        return NodeInventory((), (_unknown(name, product),))
    count = int(said)
    if cut is not None:
        # With the strategy `single`, MIG devices are counted, and each GPU has the same number of them.
        profile = model.profile_called(cut["profile"])
        if profile is None or count % profile.max_instances:
            note = f"{name}: {count} devices of {cut['profile']} do not fill whole GPUs: it is left out"
            return NodeInventory((), (note,))
        count //= profile.max_instances
    capable = labels.get("nvidia.com/mig.capable") == "true"
    why = "there is no DRA driver on its node" if capable else "it cannot be cut"
    found = [
        ClusterGpu(
            f"{name}/gpu-{i}",
            name,
            "",
            product,
            model,
            None,
            _NO_DEVICES,
            condition=GpuCondition.WHOLE,
            why=why,
        )
        for i in range(count)
    ]
    return NodeInventory(tuple(_on_node(gpu, node, silent=silent) for gpu in found))
