"""The state of a cluster's GPUs, from watches on nodes, ResourceSlices, claims and Partita's own pods.

Only an index by GPU is kept here. Objects are read from the caches on each call, so no answer is older than the
caches. Each change has a number, so that a later observation can return only what has changed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Protocol

from partita.drive.driver import Identity, ObservedGpu, ObservedInstance
from partita.errors import SHOWN, counted
from partita.kubernetes.api import CacheChange
from partita.kubernetes.claims import LENT, RESOURCE_CLAIM, gpu_of, placement_on, placement_said
from partita.kubernetes.inventory import (
    NODE,
    NVIDIA,
    RESOURCE_SLICE,
    GpuCondition,
    Inventory,
    Node,
    NodeInventory,
    ResourceSlice,
    labelled,
    node_inventory,
)
from partita.kubernetes.pods import (
    MANAGER,
    PLACEMENT,
    POD,
    WORKLOAD,
    instance_name,
    observed_replica,
    shortened,
)
from partita.kubernetes.silence import NODE_TIMEOUT_S, NodeSilence
from partita.mig.layout import fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.kubernetes.allocation_check import AllocatedDevice
    from partita.kubernetes.api import Cache, KubernetesApi
    from partita.kubernetes.claims import ResourceClaim
    from partita.kubernetes.inventory import ClusterGpu
    from partita.kubernetes.pods import Pod
    from partita.mig.layout import Placement

_REMEMBERED = 10_000  # uids of pods of ours that are gone: claims name them a little longer


class SharedCaches:
    """Caches that the drivers of one cluster share: its nodes, their GPUs, and all claims.

    The ResourceSlices of a thousand nodes are 170 MB of JSON, so they are listed only once.

    Args:
        api: the cluster's.
        node_timeout_s: seconds after which a node that is not ready, while most are, is lost.
    """

    def __init__(self, api: KubernetesApi, node_timeout_s: float = NODE_TIMEOUT_S) -> None:
        self._silence = NodeSilence(node_timeout_s)
        self._lock = threading.RLock()
        self._slices_of: defaultdict[str, set[str]] = defaultdict(set)  # by node
        self._on_node: dict[str, NodeInventory] = {}
        self._users: list[CacheUser] = []
        self._ready = False
        self.nodes: Cache[Node] = api.watch(NODE)
        self.slices: Cache[ResourceSlice] = api.watch(RESOURCE_SLICE, fields=f"spec.driver={NVIDIA}")
        self.claims: Cache[ResourceClaim] = api.watch(RESOURCE_CLAIM)
        self.nodes.listen(self._node_changed)
        self.slices.listen(self._slice_changed)
        self.claims.listen(self._claim_changed)

    def synced(self, timeout_s: float) -> None:
        """Wait until everything is listed for the first time.

        Raises:
            KubernetesError: that took too long, or failed.
        """
        for cache in (self.nodes, self.slices, self.claims):
            cache.synced(timeout_s)
        with self._lock:
            if self._ready:
                return
            # Objects that were listed before the listeners were there; others are only read twice.
            for each in self.slices.values():
                if each.spec.node_name is not None and self.slices.get(each.metadata.name) is not None:
                    self._slices_of[each.spec.node_name].add(each.metadata.name)
            self._ready = True
            self._hear()
            for name in {*self._slices_of, *(node.metadata.name for node in self.nodes.values())}:
                self._read_node(name)

    def join(self, user: CacheUser) -> None:
        """Notify a user of all nodes and claims, and from then on of changes."""
        with self._lock:
            self._users.append(user)
            for name in list(self._on_node):
                user.node_changed(name)
            for claim in self.claims.values():
                current = self.claims.get(*reversed(claim.key))
                if current is not None:
                    user.claim_changed(CacheChange(None, current))

    def leave(self, user: CacheUser) -> None:
        """Stop notifying a user."""
        with self._lock:
            if user in self._users:
                self._users.remove(user)

    def close(self) -> None:
        """End the watches."""
        for cache in (self.nodes, self.slices, self.claims):
            cache.close()

    def on_node(self, name: str) -> NodeInventory:
        """Return the GPUs of a node."""
        return self._on_node.get(name) or NodeInventory()

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the cluster's GPUs, one sentence each."""
        with self._lock:
            return tuple(note for name in sorted(self._on_node) for note in self._on_node[name].notes)

    def look_again(self) -> None:
        """See whose silence has lasted too long; to be called about every second."""
        with self._lock:
            if self._ready and self._silence.silent:
                self._hear()

    @property
    def silence(self) -> NodeSilence:
        """Which nodes with GPUs do not answer."""
        return self._silence

    def _hear(self) -> None:
        """Take all nodes with GPUs as they are now, and read those anew that are lost, or are not any more."""
        now = time.time()
        away = {
            node.metadata.name: node.away_s(now)
            for node in self.nodes.values()
            if self._slices_of.get(node.metadata.name) or labelled(node)
        }
        before = self._silence.lost
        self._silence.look(away, time.monotonic())
        for name in before ^ self._silence.lost:
            self._read_node(name)

    def _node_changed(self, change: CacheChange[Node]) -> None:
        if change.old is not None and change.new is not None and _same_node(change.old, change.new):
            return  # a heartbeat
        one = change.new or change.old
        if one is not None:
            with self._lock:
                if self._ready:
                    self._hear()
                self._read_node(one.metadata.name)

    def _slice_changed(self, change: CacheChange[ResourceSlice]) -> None:
        nodes, other = set(), False
        with self._lock:
            for each, there in ((change.old, False), (change.new, True)):
                if each is None or each.spec.node_name is None:
                    continue
                known = self._slices_of[each.spec.node_name]
                had = bool(known)
                (known.add if there else known.discard)(each.metadata.name)
                other = other or bool(known) is not had
                nodes.add(each.spec.node_name)
            if other and self._ready:
                self._hear()
        for node in nodes:
            self._read_node(node)

    def _claim_changed(self, change: CacheChange[ResourceClaim]) -> None:
        with self._lock:
            for each in self._users:
                each.claim_changed(change)

    def _read_node(self, name: str) -> None:
        with self._lock:
            if not self._ready:
                return  # `synced` reads all nodes once everything is listed
            known = (self.slices.get(key) for key in self._slices_of.get(name, ()))
            slices = [each for each in known if each is not None]
            before = self._on_node.get(name)
            silent = name in self._silence.silent
            found = node_inventory(name, self.nodes.get(name), slices, before, silent=silent)
            if found == before:
                return
            if found == NodeInventory():
                self._on_node.pop(name, None)
            else:
                self._on_node[name] = found
            if before is not None or name in self._on_node:
                for each in self._users:
                    each.node_changed(name)


class CacheUser(Protocol):
    """Is notified of changes in shared caches, in one of their threads. Methods must be fast and must not raise."""

    def node_changed(self, name: str) -> None:
        """Take note that the GPUs of a node have changed."""
        ...

    def claim_changed(self, change: CacheChange[ResourceClaim]) -> None:
        """Take note that a claim was created, changed or deleted."""
        ...


class ClusterState:
    """The state of the GPUs that one Workload may use. "Ours" are the claims and pods of that Workload.

    Args:
        api: the cluster's.
        shared: caches that drivers of this cluster share.
        workload: name of the Workload, in the API's namespace.
        chosen: says whether a GPU belongs to this state; other GPUs do not exist here.
        changed: called with the ids of GPUs that may have changed, in a cache's thread.
    """

    def __init__(
        self,
        api: KubernetesApi,
        shared: SharedCaches,
        workload: str,
        chosen: Callable[[ClusterGpu], bool],
        changed: Callable[[set[str]], None],
    ) -> None:
        self.namespace = api.namespace
        self._workload = shortened(workload)
        self._chosen = chosen
        self._told = changed
        self._lock = threading.RLock()
        self._shared = shared
        self._of_node: dict[str, tuple[ClusterGpu, ...]] = {}
        self._gpus: dict[str, ClusterGpu] = {}
        self._claims_on: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)  # by GPU
        self._pods_on: defaultdict[str, set[str]] = defaultdict(set)
        self._silent: set[str] = set()  # nodes of chosen GPUs
        self._gone_pods: OrderedDict[str, None] = OrderedDict()
        self._number = 0
        self._changed_at: OrderedDict[str, int] = OrderedDict()  # by GPU, the latest last
        selector = ",".join(f"{key}={value}" for key, value in {**MANAGER, WORKLOAD: self._workload}.items())
        self.nodes, self.claims = shared.nodes, shared.claims
        self.pods: Cache[Pod] = api.watch(POD, api.namespace, labels=selector)
        self.pods.listen(self._pod_changed)

    def synced(self, timeout_s: float) -> None:
        """Wait until everything is listed for the first time.

        Raises:
            KubernetesError: that took too long, or failed.
        """
        self._shared.synced(timeout_s)
        self.pods.synced(timeout_s)
        self._shared.join(self)
        # Pods that were listed before the listener was there; others are only read twice.
        for pod in self.pods.values():
            current = self.pods.get(pod.metadata.name, pod.metadata.namespace)
            if current is not None:
                self._pod_changed(CacheChange(None, current))

    def close(self) -> None:
        """End the watch on pods; shared caches stay open."""
        self._shared.leave(self)
        self.pods.close()

    # GPUs, claims and pods

    @property
    def inventory(self) -> Inventory:
        """The GPUs of this state, and warnings about all GPUs of the cluster."""
        notes = self._shared.notes  # before our lock, since notifications take the shared lock first
        with self._lock:
            return Inventory(dict(self._gpus), notes)

    def gpu(self, gpu_id: str) -> ClusterGpu | None:
        """Return the GPU of that id, None if it does not exist."""
        return self._gpus.get(gpu_id)

    def gpus_of_node(self, node: str) -> tuple[ClusterGpu, ...]:
        """Return all GPUs of a node, including those that are not of this state."""
        return self._shared.on_node(node).gpus

    def claims_on(self, gpu_id: str) -> tuple[ResourceClaim, ...]:
        """Return all users' claims that hold a device of a GPU, and our claims that are to hold one."""
        with self._lock:
            keys = sorted(self._claims_on.get(gpu_id, ()))
        found = (self.claims.get(name, namespace) for namespace, name in keys)
        return tuple(each for each in found if each is not None)

    def allocated_on(self, gpu: ClusterGpu) -> tuple[AllocatedDevice, ...]:
        """Return the devices of a GPU that are allocated to claims."""
        return tuple(
            device for claim in self.claims_on(gpu.id) for device in claim.devices if gpu_of(device) == gpu.id
        )

    def pods_on(self, gpu_id: str) -> tuple[Pod, ...]:
        """Return our pods on a GPU."""
        with self._lock:
            names = sorted(self._pods_on.get(gpu_id, ()))
        return tuple(pod for name in names if (pod := self.pods.get(name, self.namespace)) is not None)

    def pod_at(self, gpu_id: str, placement: Placement, uid: str | None = None) -> Pod | None:
        """Return our pod on an instance, with that uid if one is given; of several, one that is not draining."""
        name = instance_name(gpu_id, placement)
        found = [
            pod
            for pod in self.pods_on(gpu_id)
            if pod.claim == name and (uid is None or pod.metadata.uid == uid)
        ]
        return min(found, key=lambda pod: pod.leaving, default=None)

    def pod_of(self, claim: ResourceClaim) -> Pod | None:
        """Return our pod that uses a claim."""
        pods = (pod for gpu_id in self.gpus_of(claim) for pod in self.pods_on(gpu_id))
        return next((pod for pod in pods if pod.claim == claim.metadata.name), None)

    def lent(self) -> Iterator[tuple[str, Placement, ResourceClaim]]:
        """Yield the GPU, placement and claim of each device that a Job's pod holds."""
        for claim in self.claims.values():
            if LENT in claim.metadata.labels and claim.metadata.namespace == self.namespace:
                for device in claim.devices:
                    gpu = self._gpus.get(gpu_of(device) or "")
                    placement = placement_on(gpu, device) if gpu is not None else None
                    if gpu is not None and placement is not None:
                        yield gpu.id, placement, claim

    def ours(self, claim: ResourceClaim) -> bool:
        """Say whether a claim belongs to our Workload."""
        labels = claim.metadata.labels
        return (
            claim.metadata.namespace == self.namespace
            and labels.get(WORKLOAD) == self._workload
            and MANAGER.items() <= labels.items()
        )

    def strangers(self, claim: ResourceClaim) -> tuple[str, ...]:
        """Return the names of the pods that use a claim and are not ours.

        Pods of ours that the cache does not show yet, or that are gone, do not count.
        """
        if self.pods.version < int(claim.metadata.resource_version or 0):
            return ()
        mine = {
            pod.metadata.uid for name in self._names(claim) if (pod := self.pods.get(name, self.namespace))
        }
        return tuple(
            each.name for each in claim.users if each.uid not in mine and each.uid not in self._gone_pods
        )

    def gpus_of(self, claim: ResourceClaim) -> set[str]:
        """Return the ids of the GPUs of a claim's devices; for a claim of ours also the GPU in its annotation."""
        found = {gpu_id for device in claim.devices if (gpu_id := gpu_of(device)) is not None}
        said = placement_said(claim.metadata.annotations.get(PLACEMENT, "")) if self.ours(claim) else None
        return found | ({said[0]} if said else set())

    def nodes_of(self, claim: ResourceClaim) -> tuple[Node, ...]:
        """Return those nodes of a claim's GPUs that exist."""
        names = {gpu_id.rpartition("/")[0] for gpu_id in self.gpus_of(claim)}
        return tuple(node for name in sorted(names) if (node := self.nodes.get(name)) is not None)

    @property
    def silent(self) -> bool:
        """Whether a node with chosen GPUs is silent."""
        return bool(self._silent)

    def silence(self) -> str | None:
        """Return which nodes are silent and what is waited for; None if none is."""
        with self._lock:
            names = sorted(self._silent)
            count = sum(bool(gpus) for gpus in self._of_node.values())
        if not names:
            return None
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        text = f"{len(names)} of {counted(count, 'node')} are not ready: {', '.join(names[:SHOWN])}{more}"
        if self._shared.silence.most:
            return (
                f"{text}; most are silent at once, as after an outage of the API server: nothing is moved until they "
                "are ready; delete those that are gone for good: `kubectl delete node NAME`"
            )
        return (
            f"{text}; nothing begins until they are ready, or have been silent for so long that they are lost"
        )

    # As the driver's port reports it

    @property
    def number(self) -> int:
        """Number of the last change."""
        return self._number

    def changed_since(self, number: int) -> set[str]:
        """Return the ids of the GPUs that changed after the change of that number."""
        found = set()
        with self._lock:
            for gpu_id, at in reversed(self._changed_at.items()):
                if at <= number:
                    break
                found.add(gpu_id)
        return found

    def all_gpus(self) -> tuple[str, ...]:
        """Return the ids of all GPUs of known models."""
        with self._lock:
            return tuple(self._gpus)

    def observed(self, gpu_id: str) -> ObservedGpu | None:
        """Return a GPU as it is now, None if it does not exist.

        The result is always a legal layout. If another user's device overlaps one of ours, ours is returned if its
        pod is ready, since NVIDIA's driver cannot have created both; otherwise the other user's.
        """
        gpu = self._gpus.get(gpu_id)
        if gpu is None or gpu.model is None:
            return None
        instances: list[ObservedInstance] = []
        ranked = sorted(self._instances(gpu), key=lambda each: (each[0], each[1].placement))
        for _, each in ranked:
            if fault(gpu.model, (*(other.placement for other in instances), each.placement)) is None:
                instances.append(each)
        return ObservedGpu(
            gpu.id,
            gpu.uuid,
            gpu.model.name,
            mig=gpu.condition in {GpuCondition.READY, GpuCondition.LEAVING},
            lost=gpu.condition is GpuCondition.LOST,
            instances=tuple(sorted(instances, key=lambda each: each.placement)),
            leaving=gpu.condition is GpuCondition.LEAVING,
        )

    def _instances(self, gpu: ClusterGpu) -> Iterator[tuple[int, ObservedInstance]]:
        """Yield a GPU's instances, each with a rank: of overlapping instances, the lower rank certainly exists."""
        pods: dict[Placement, Pod] = {}
        for pod in self.pods_on(gpu.id):
            said = placement_said(pod.metadata.annotations.get(PLACEMENT, ""))
            if said is not None and (said[1] not in pods or not pod.leaving):
                pods[said[1]] = pod
        shown = set()
        for claim in self.claims_on(gpu.id):
            for placement, allocated in self._placements(gpu, claim):
                mine = self.ours(claim) and claim.metadata.name == instance_name(gpu.id, placement)
                held = pods.get(placement) if mine else None
                complete = allocated and not claim.leaving
                identity = Identity(gpu.uuid, None, None, claim.metadata.uid if complete else None)
                replica = observed_replica(held) if held is not None else None
                busy = bool(self.strangers(claim)) if mine else bool(claim.users)
                rank = 0 if replica and replica.ready else 1 if not mine else 2
                if mine:
                    shown.add(placement)
                yield rank, ObservedInstance(placement, identity, ours=mine, replica=replica, busy=busy)
        for placement, pod in pods.items():
            if placement not in shown:  # somebody removed its claim by force, and the pod goes on
                replica = observed_replica(pod)
                identity = Identity(gpu.uuid, None, None, None)
                yield 0, ObservedInstance(placement, identity, ours=True, replica=replica)

    def _placements(self, gpu: ClusterGpu, claim: ResourceClaim) -> Iterator[tuple[Placement, bool]]:
        """Yield a claim's placements on a GPU and whether they are allocated; unallocated ones only of our claims."""
        for device in claim.devices:
            placement = placement_on(gpu, device) if gpu_of(device) == gpu.id else None
            if placement is not None:
                yield placement, True
        if claim.status.allocation is None and self.ours(claim):
            said = placement_said(claim.metadata.annotations.get(PLACEMENT, ""))
            if said is not None and said[0] == gpu.id:
                yield said[1], False

    # Notifications of the caches

    def node_changed(self, name: str) -> None:
        """Read the GPUs of a node again."""
        with self._lock:
            found = tuple(
                gpu for gpu in self._shared.on_node(name).gpus if gpu.model is not None and self._chosen(gpu)
            )
            before = self._of_node.get(name, ())
            if found == before:
                return
            self._of_node[name] = found
            (self._silent.add if any(gpu.silent for gpu in found) else self._silent.discard)(name)
            for gpu in before:
                self._gpus.pop(gpu.id, None)
            self._gpus.update((gpu.id, gpu) for gpu in found)
        self._mark({gpu.id for gpu in (*before, *found)})

    def claim_changed(self, change: CacheChange[ResourceClaim]) -> None:
        """Index a claim by the GPUs that it is on now."""
        touched: set[str] = set()
        with self._lock:
            for each, there in ((change.old, False), (change.new, True)):
                if each is None:
                    continue
                for gpu_id in self.gpus_of(each):
                    known = self._claims_on[gpu_id]
                    (known.add if there else known.discard)(each.key)
                    touched.add(gpu_id)
        self._mark(touched)

    def _pod_changed(self, change: CacheChange[Pod]) -> None:
        one = change.new or change.old
        if one is None:
            return
        said = placement_said(one.metadata.annotations.get(PLACEMENT, ""))
        if change.new is None:
            self._gone_pods[one.metadata.uid] = None
            while len(self._gone_pods) > _REMEMBERED:
                self._gone_pods.popitem(last=False)
        if said is None:
            return
        with self._lock:
            known = self._pods_on[said[0]]
            (known.discard if change.new is None else known.add)(one.metadata.name)
        self._mark({said[0]})

    def _mark(self, gpus: set[str]) -> None:
        if not gpus:
            return
        with self._lock:
            self._number += 1
            for gpu_id in gpus:
                self._changed_at[gpu_id] = self._number
                self._changed_at.move_to_end(gpu_id)
        self._told(gpus)

    def _names(self, claim: ResourceClaim) -> set[str]:
        said = placement_said(claim.metadata.annotations.get(PLACEMENT, ""))
        with self._lock:
            return set(self._pods_on.get(said[0], ())) if said else set()


def _same_node(old: Node, new: Node) -> bool:
    return (old.ready, old.spec, old.metadata.labels, old.metadata.deletion_timestamp) == (
        new.ready,
        new.spec,
        new.metadata.labels,
        new.metadata.deletion_timestamp,
    )
