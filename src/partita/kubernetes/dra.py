"""The driver for GPUs under Dynamic Resource Allocation: an instance is a claim, a replica is a pod.

- An instance is a ResourceClaim that Partita allocates on the exact device of the plan. NVIDIA's DRA driver creates
  the MIG instance when a pod with the claim starts, and destroys it when that pod is gone. So creating an instance
  takes two writes, and the GPU is cut while the replica starts.
- Each allocation is read back and compared with the plan before anything relies on it (`allocation_check`).
- A replica is a pod from the service's template. It serves when it is Ready, and drains when it is deleted, for at
  most its grace period.
- Taints keep other users' claims off the GPUs (`fence`); PodDisruptionBudgets prevent evictions (`evictions`).

A pool of threads makes the writes. An action ends when the caches show its effect, so `observe` is never older than
an action that has ended. While the API server is unreachable, writes are retried until the action's time limit.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from partita.drive.driver import (
    ActionResult,
    Changes,
    DriveError,
    FailedError,
    GpuLostError,
    InUseError,
    NoRoomError,
    Observation,
    RefusedError,
    TimedOutError,
    as_drive_error,
    foreign_error,
    place,
    replica_of,
    require_same,
)
from partita.errors import InputError, PartitaError
from partita.kubernetes.allocation_check import WantedDevice, allocation_faults
from partita.kubernetes.claims import (
    LENT,
    PROTECTION,
    RESOURCE_CLAIM,
    ClaimedInstance,
    allocated_body,
    claim_body,
    remove_claim,
    remove_finalizer,
)
from partita.kubernetes.cluster_state import ClusterState, SharedCaches
from partita.kubernetes.evictions import EvictionGuard
from partita.kubernetes.fence import Fence
from partita.kubernetes.inventory import NVIDIA, GpuCondition
from partita.kubernetes.objects import (
    EVENT,
    ConflictError,
    ExistsError,
    KubernetesError,
    NotFoundError,
    ThrottledError,
    UnreachableError,
)
from partita.kubernetes.pods import (
    GRACE_S,
    POD,
    SERVICE,
    WORKLOAD,
    PodPlace,
    instance_name,
    observed_replica,
    pod_body,
    pod_name,
    shortened,
    template_faults,
    why_not_ready,
)
from partita.kubernetes.silence import NODE_TIMEOUT_S
from partita.mig.layout import fault
from partita.sim.clock import WallClock
from partita.transition.transition import Action, ActionKind, Durations

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.claims import ResourceClaim
    from partita.kubernetes.inventory import ClusterGpu, Inventory
    from partita.kubernetes.objects import Body
    from partita.mig.layout import Placement
    from partita.sim.clock import Clock

T = TypeVar("T")

DURATIONS = Durations(create_instance=0.1, destroy_instance=0.1, start_replica=5.7, stop_replica=32.3)
"""Default predicted durations. A claim takes two writes. A start includes cutting (0.13 s, `MEASURED`), and some
tenths of a second of the scheduler and the kubelet."""

_TICK_S = 1.0
_TIDY_S = 1.0  # between two checks for what has to be tidied up
_LOOK_AGAIN_S = 60.0  # between two restorations of taint rules and disruption budgets
_WRITE_S = 120.0  # limit of an action that only writes, and of a stop after its grace period


@dataclass(frozen=True, slots=True)
class DraSettings:
    """Settings of the driver.

    Attributes:
        start_timeout_s: seconds after which a pod that is not ready is given up.
        keep_off: what keeps other users' claims off the GPUs: `DeviceTaints`, or `None` if not Partita's concern.
        writers: limit of concurrent writes.
    """

    start_timeout_s: float = 600.0
    keep_off: Literal["DeviceTaints", "None"] = "DeviceTaints"
    node_timeout_s: float = NODE_TIMEOUT_S
    writers: int = 16


@dataclass(slots=True)
class _Running:
    """An action under way.

    Attributes:
        until: when the action is given up, on the monotonic clock.
        uid: of the claim or pod that decides how the action ends.
        version: resource version that the cache must have reached before a missing object counts as deleted.
        written: whether all its writes are done.
        ending: whether a thread is already ending it.
    """

    action: Action
    until: float
    uid: str = ""
    version: int = 0
    written: bool = False
    ending: bool = False


class DraDriver:
    """A driver of the GPUs of a Kubernetes cluster whose nodes run NVIDIA's DRA driver with dynamic MIG.

    Args:
        api: the cluster's; claims and pods are created in its namespace.
        workload: name of the Workload, which labels its claims and pods. Objects with another label are not touched.
        template: returns a service's pod template, and raises `InputError` if the service has none.
        shared: caches that drivers of the cluster share; None for caches of its own.
        owners: owner references of the claims and pods.
        chosen: says whether the driver manages a GPU.
        settings: of the driver; None for the defaults.
        clock: for `wait`; None for the wall clock.
        patience_s: seconds to wait for the first observation.

    Raises:
        DriveError: the cluster cannot be observed.
    """

    def __init__(
        self,
        api: KubernetesApi,
        workload: str,
        template: Callable[[str], Mapping[str, Any]],
        *,
        shared: SharedCaches | None = None,
        owners: list[Body] | None = None,
        chosen: Callable[[ClusterGpu], bool] = lambda _: True,
        settings: DraSettings | None = None,
        clock: Clock | None = None,
        patience_s: float = 60.0,
    ) -> None:
        self._api = api
        self._workload = workload
        self._template = template
        self._owners = owners or []
        self._settings = settings or DraSettings()
        self._clock = clock or WallClock()
        self._fence = Fence(api, f"{api.namespace}.{workload}")
        self._evictions = EvictionGuard(api, workload, self._owners)
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._running: dict[str, _Running] = {}
        self._on_gpu: defaultdict[str, set[str]] = defaultdict(set)  # ids of actions, by GPU
        self._dirty: set[str] = set()
        self._ended: list[ActionResult] = []
        self._making: defaultdict[str, dict[Placement, str]] = defaultdict(
            dict
        )  # actions, by GPU and placement
        self._closed = threading.Event()
        self._writers = ThreadPoolExecutor(self._settings.writers, thread_name_prefix="dra")
        self._judged = time.monotonic()
        self._shared = shared or SharedCaches(api, self._settings.node_timeout_s)
        self._own_caches = self._shared if shared is None else None
        self._untidy = threading.Event()
        self._tidier = threading.Thread(target=self._tidy, name=f"tidy {workload}", daemon=True)
        self._state = ClusterState(api, self._shared, workload, chosen, self._changed)
        try:
            self._state.synced(patience_s)
        except KubernetesError as error:
            self.close()
            raise _drive_error(error, "the cluster") from None
        self._tidier.start()

    @property
    def clock(self) -> Clock:
        """The clock of `wait`."""
        return self._clock

    @property
    def writes(self) -> Mapping[tuple[str, str], int]:
        """Writes sent so far, by verb and resource."""
        return self._api.writes

    @property
    def inventory(self) -> Inventory:
        """All GPUs, including those that cannot be used, and warnings about them."""
        return self._state.inventory

    def observe(self) -> Observation:
        """Return the cluster as the caches show it."""
        found = (self._state.observed(gpu_id) for gpu_id in self._state.all_gpus())
        return Observation(tuple(sorted((gpu for gpu in found if gpu is not None), key=lambda gpu: gpu.id)))

    def observe_changes(self, mark: object | None, touched: Collection[str]) -> Changes:
        """Return the GPUs that may have changed since the observation that gave the mark, and those touched."""
        number = self._state.number
        if not isinstance(mark, int):
            return Changes(number, self.observe().gpus)
        ids = self._state.changed_since(mark).union(touched)
        found = {gpu_id: self._state.observed(gpu_id) for gpu_id in sorted(ids)}
        gone = tuple(gpu_id for gpu_id, gpu in found.items() if gpu is None)
        return Changes(number, tuple(gpu for gpu in found.values() if gpu is not None), gone)

    def begin(self, action: Action) -> None:
        """Start an action; `wait` returns its result."""
        running = _Running(action, time.monotonic() + self._allowed_s(action))
        with self._lock:
            self._running[action.id] = running
            self._on_gpu[action.gpu].add(action.id)
        self._writers.submit(self._perform, running)

    def wait(self, until: float | None = None) -> tuple[ActionResult, ...]:
        """Return the actions that have ended; block until there are any, or until that time of the clock."""
        with self._news:
            self._dirty |= self._running.keys()
            while True:
                self._judge()
                if self._ended:
                    over, self._ended = tuple(self._ended), []
                    return over
                left = None if until is None else until - self._clock.now()
                if (left is not None and left <= 0) or (left is None and not self._running):
                    return ()
                ticked = not self._news.wait(_TICK_S if left is None else min(left, _TICK_S))
                if ticked:
                    self._dirty |= self._running.keys()

    def adopt(self, gpu: str, placement: Placement) -> None:
        """Refuse: a claim belongs to whoever created it.

        Raises:
            RefusedError: always.
        """
        hint = "delete the claim and the pods that use it, or leave this GPU out"
        raise RefusedError("somebody else's claim cannot be adopted", where=f"{gpu} {placement}", hint=hint)

    def silence(self) -> str | None:
        """Return which nodes are silent and what is waited for; None if none is."""
        return self._state.silence()

    def deleted_claims(self) -> tuple[tuple[str, str], ...]:
        """Return the claims that somebody deleted while a pod of ours uses them, each with the pod's name."""
        leaving = (each for each in self._state.claims.values() if each.leaving and self._state.ours(each))
        found = ((claim.metadata.name, self._state.pod_of(claim)) for claim in leaving)
        return tuple(
            sorted((name, pod.metadata.name) for name, pod in found if pod is not None and not pod.leaving)
        )

    @property
    def start_timeout_s(self) -> float:
        """Seconds after which a pod that is not ready is given up."""
        return self._settings.start_timeout_s

    def lent(self) -> tuple[tuple[str, Placement, ResourceClaim], ...]:
        """Return the GPU, placement and claim of each instance that a Job's pod holds."""
        return tuple(self._state.lent())

    def unlent(self) -> tuple[ResourceClaim, ...]:
        """Return the claims of Jobs' pods in this namespace that are not allocated yet."""
        return tuple(
            claim
            for claim in self._state.claims.values()
            if LENT in claim.metadata.labels
            and claim.metadata.namespace == self._api.namespace
            and claim.status.allocation is None
            and not claim.leaving
        )

    def lend(self, claim: ResourceClaim, spec: Body, gpu_id: str, placement: Placement) -> None:
        """Allocate the claim of a Job's pod on an exact instance; return when the caches show it.

        Such a claim gets Kubernetes' finalizer, and is removed with its pod.

        Args:
            claim: not allocated yet.
            spec: of the claim, with one request called `REQUEST`.
            gpu_id: of the instance.
            placement: of the instance.

        Raises:
            DriveError: the claim cannot be allocated there.
        """
        action = Action(
            f"lend {claim.metadata.uid}", ActionKind.CREATE_INSTANCE, gpu_id, placement, None, (), 0.1
        )
        running = _Running(action, time.monotonic() + _WRITE_S)
        gpu = self._usable(action)
        device = gpu.devices.get(placement)
        if gpu.condition is not GpuCondition.READY or device is None:
            raise NoRoomError(gpu.why or "the GPU has no such device", where=place(action))
        name, protected = claim.metadata.name, [*claim.metadata.finalizers, PROTECTION]
        meta = {"uid": claim.metadata.uid, "finalizers": list(dict.fromkeys(protected))}
        try:
            self._fenced(running, gpu)
            with self._holding(running, gpu):
                kept = self._send(running, lambda: self._api.patch(RESOURCE_CLAIM, name, {"metadata": meta}))
                whole = allocated_body(kept, {"spec": spec}, ClaimedInstance(gpu, placement, device), None)
                written = self._send(
                    running, lambda: self._api.replace(RESOURCE_CLAIM, whole, subresource="status")
                )
                version = int(written.metadata.resource_version)
                self._await(running, lambda: self._state.claims.version >= version)
        except KubernetesError as error:
            raise _drive_error(error, place(action)) from None
        try:
            self._hold_against_plan(action, written)
        except DriveError:
            now = {**whole["metadata"], "resourceVersion": written.metadata.resource_version}
            body = {**whole, "metadata": now, "status": {}}
            # If its pod uses the claim already, it keeps the allocation: the node creates no overlapping instance.
            with suppress(KubernetesError):
                self._api.replace(RESOURCE_CLAIM, body, subresource="status")
            raise

    def release(self) -> None:
        """Delete the taint rules and the disruption budgets.

        Raises:
            KubernetesError: they cannot be deleted.
        """
        if self._settings.keep_off == "DeviceTaints":
            self._fence.lift()
        self._evictions.lift()

    def close(self) -> None:
        """End the threads and watches; what runs in the cluster goes on."""
        self._closed.set()
        self._writers.shutdown(wait=True, cancel_futures=True)
        if self._tidier.is_alive():
            self._untidy.set()
            self._tidier.join()
        self._state.close()
        if self._own_caches is not None:
            self._own_caches.close()

    # Tidying up

    def _tidy(self) -> None:
        """Restore fences and budgets and remove useless claims, in a thread of its own."""
        looked = time.monotonic()
        while not self._closed.wait(_TIDY_S):
            self._shared.look_again()
            again = time.monotonic() > looked + _LOOK_AGAIN_S
            if not again and not self._untidy.is_set():
                continue
            self._untidy.clear()
            try:
                if again:
                    looked = time.monotonic()
                    self._fence.look_again()
                    self._evictions.keep(self._services)
                self._keep_off()
                for claim in self._useless():
                    remove_claim(self._api, claim)
            except PartitaError:  # the server is unreachable, or the lease is lost: try again next time
                self._untidy.set()

    def _keep_off(self) -> None:
        """Fence all nodes with instances of ours, in case somebody deleted the rules."""
        if self._settings.keep_off != "DeviceTaints":
            return
        ours = (claim for claim in self._state.claims.values() if self._state.ours(claim))
        nodes = {gpu_id.rpartition("/")[0] for claim in ours for gpu_id in self._state.gpus_of(claim)}
        nodes |= {gpu_id.rpartition("/")[0] for gpu_id, _, _ in self._state.lent()}
        there = {node: self._state.gpus_of_node(node) for node in nodes}
        chosen = [gpu for found in there.values() for gpu in found if self._state.gpu(gpu.id) is not None]
        self._fence.keep(chosen, {node: len(found) for node, found in there.items()})

    def _services(self) -> set[str]:
        """Return the services that have pods or are about to have one, as their pods' labels name them."""
        with self._lock:  # first, since the caches show the pod of an action that has ended
            begun = [each.action for each in self._running.values()]
        starting = {
            shortened(replica_of(each).service) for each in begun if each.kind is ActionKind.START_REPLICA
        }
        return starting | {pod.metadata.labels.get(SERVICE, "") for pod in self._state.pods.values()}

    def _useless(self) -> list[ResourceClaim]:
        """Return our claims that no pod uses and that were deleted, or whose nodes no longer exist.

        Kubernetes removes the pods of a deleted node, but not its claims. A claim that an action is about to create
        or to remove is the action's.
        """
        found = []
        with self._lock:  # no action ends meanwhile: what it has deleted is known to be its own
            acted = {instance_name(each.action.gpu, each.action.placement) for each in self._running.values()}
            for claim in self._state.claims.values():
                if claim.metadata.name in acted or not self._state.ours(claim):
                    continue
                if claim.users or self._state.pod_of(claim) is not None:
                    continue
                lost = all(self._state.gpu(each) is None for each in self._state.gpus_of(claim))
                if claim.leaving or (lost and not self._state.nodes_of(claim)):
                    found.append(claim)
        return found

    # Performing

    def _allowed_s(self, action: Action) -> float:
        match action.kind:
            case ActionKind.START_REPLICA:
                return self._settings.start_timeout_s
            case ActionKind.STOP_REPLICA:
                pod = self._state.pod_at(action.gpu, action.placement)
                grace = pod.spec.termination_grace_period_seconds if pod else None
                return (GRACE_S if grace is None else grace) + _WRITE_S
            case ActionKind.CREATE_INSTANCE | ActionKind.DESTROY_INSTANCE:
                return _WRITE_S

    def _perform(self, running: _Running) -> None:
        """Make an action's writes, in a thread of the pool."""
        action = running.action
        try:
            match action.kind:
                case ActionKind.CREATE_INSTANCE:
                    self._create(running)
                case ActionKind.DESTROY_INSTANCE:
                    self._destroy(running)
                case ActionKind.START_REPLICA:
                    self._start(running)
                case ActionKind.STOP_REPLICA:
                    self._stop(running)
        except KubernetesError as error:
            self._end(running, _drive_error(error, place(action)))
        except InputError as error:
            where = f"{place(action)}: {error.where}" if error.where else place(action)
            self._end(running, RefusedError(error.what, where=where, hint=error.hint))
        except Exception as error:  # noqa: BLE001 -- otherwise the controller would wait for the action for ever
            self._end(running, as_drive_error(error, place(action)))
        else:
            with self._news:
                running.written = True
                self._dirty.add(action.id)
                self._news.notify_all()

    def _send(self, running: _Running, write: Callable[[], T]) -> T:
        """Return the result of a write, which is retried while the server does not answer.

        Raises:
            KubernetesError: the server refuses the write.
            TimedOutError: the action's time limit is over.
        """
        pause = 0.2
        while True:
            try:
                return write()
            except (UnreachableError, ThrottledError) as error:
                if time.monotonic() + pause > running.until or self._closed.wait(pause):
                    raise TimedOutError(error.what, where=place(running.action), hint=error.hint) from None
                pause = min(2 * pause, 5.0)

    def _usable(self, action: Action) -> ClusterGpu:
        """Return an action's GPU.

        Raises:
            GpuLostError: it does not exist, or does not answer.
            FailedError: its node is not ready, but not lost.
        """
        gpu = self._state.gpu(action.gpu)
        if gpu is None:
            raise GpuLostError("there is no such GPU", where=action.gpu)
        if gpu.condition is GpuCondition.LOST:
            raise GpuLostError(gpu.why or "the GPU does not answer", where=action.gpu)
        if gpu.silent:
            raise FailedError("its node is not ready", where=action.gpu)
        return gpu

    # Instances

    def _create(self, running: _Running) -> None:
        action = running.action
        gpu = self._usable(action)
        if gpu.condition is not GpuCondition.READY:
            raise RefusedError(gpu.why or "the GPU cannot be cut", where=action.gpu)
        device = gpu.devices.get(action.placement)
        if device is None:
            raise NoRoomError("the GPU has no such device", where=place(action))
        instance = ClaimedInstance(gpu, action.placement, device)
        self._fenced(running, gpu)
        with self._holding(running, gpu):
            claim = self._claimed(running, instance)
            running.uid, running.version = claim.metadata.uid, int(claim.metadata.resource_version)
            # The placement stays reserved until the caches show the claim, so that the next action sees it.
            self._await(running, lambda: self._state.claims.version >= running.version)

    @contextmanager
    def _holding(self, running: _Running, gpu: ClusterGpu) -> Iterator[None]:
        """Reserve a placement among the actions of this process while it is being written.

        Raises:
            NoRoomError: existing instances, or those being created, overlap it.
            RefusedError: the model of the GPU is unknown, or the instance is not ours.
        """
        action = running.action
        if gpu.model is None:
            raise RefusedError(f"the product {gpu.product!r} is of no known model", where=action.gpu)
        with self._lock:
            seen = self._state.observed(gpu.id)
            standing = {each.placement: each for each in seen.instances} if seen else {}
            mine = standing.get(action.placement)
            if mine is not None and not mine.ours:
                raise foreign_error(place(action))
            others = {*standing, *self._making[gpu.id]} - {action.placement}
            why = fault(gpu.model, (*others, action.placement))
            if why:
                raise NoRoomError(why, where=place(action))
            self._making[gpu.id][action.placement] = action.id
        try:
            yield
        finally:
            with self._lock:
                self._making[gpu.id].pop(action.placement, None)

    def _claimed(self, running: _Running, instance: ClaimedInstance) -> ResourceClaim:
        """Return the claim of an instance; create and allocate it if it is not there.

        Raises:
            KubernetesError: it cannot be created or allocated.
            RefusedError: a claim of that name is not ours.
            InUseError: a claim of that name was deleted, and a pod still uses it.
        """
        body = claim_body(instance, self._workload, self._owners)
        known = self._state.claims.get(instance.name)
        if known is not None and self._state.ours(known) and known.status.allocation and not known.leaving:
            return known
        while True:
            try:
                claim = self._send(running, lambda: self._api.create(RESOURCE_CLAIM, body))
            except ExistsError:
                try:
                    claim = self._send(running, lambda: self._api.get(RESOURCE_CLAIM, instance.name))
                except NotFoundError:
                    continue
            if not self._state.ours(claim):
                hint = f"kubectl get resourceclaim {instance.name} -n {self._api.namespace} -o yaml"
                raise RefusedError("a claim of that name is someone else's", where=instance.name, hint=hint)
            if claim.leaving:
                self._remove_leaving(running, claim)
                continue
            if claim.status.allocation is not None:
                return claim
            allocated = self._allocate(running, allocated_body(claim, body, instance, self._workload))
            if allocated is not None:
                return allocated

    def _allocate(self, running: _Running, whole: Body) -> ResourceClaim | None:
        """Return the allocated claim; None if another client has changed it, so that it must be read again."""
        try:
            return self._send(running, lambda: self._api.replace(RESOURCE_CLAIM, whole, subresource="status"))
        except (ConflictError, NotFoundError):
            return None

    def _remove_leaving(self, running: _Running, claim: ResourceClaim) -> None:
        """Finish the deletion of a claim that somebody deleted.

        Raises:
            InUseError: a pod still uses it.
        """
        if self._state.pod_of(claim) is not None:
            raise InUseError("its claim was deleted, and its pod still runs", where=claim.metadata.name)
        self._send(running, lambda: remove_finalizer(self._api, claim))
        self._await(running, lambda: self._is_gone(claim))

    def _fenced(self, running: _Running, gpu: ClusterGpu) -> None:
        if self._settings.keep_off != "DeviceTaints":
            return
        there = self._state.gpus_of_node(gpu.node)
        chosen = [each for each in there if self._state.gpu(each.id) is not None]
        made = self._send(running, lambda: self._fence.keep(chosen, {gpu.node: len(there)}))
        if made:
            # Afterwards the claims' cache has whatever the scheduler allocated before it saw the rule.
            self._closed.wait(1.0)

    def _destroy(self, running: _Running) -> None:
        action = running.action
        claim = self._state.claims.get(instance_name(action.gpu, action.placement))
        if claim is None:
            return
        if not self._state.ours(claim):
            raise foreign_error(place(action))
        if self._state.pod_of(claim) is not None or self._state.strangers(claim):
            raise InUseError("a pod uses its claim", where=place(action))
        running.uid = claim.metadata.uid
        self._send(running, lambda: remove_claim(self._api, claim))

    # Replicas

    def _start(self, running: _Running) -> None:
        action = running.action
        replica = replica_of(action)
        gpu = self._usable(action)
        name = instance_name(action.gpu, action.placement)
        claim = self._state.claims.get(name)
        if claim is None or claim.status.allocation is None or claim.leaving:
            raise NoRoomError("the instance has no allocated claim", where=place(action))
        if not self._state.ours(claim):
            raise foreign_error(place(action))
        self._hold_against_plan(action, claim)
        if self._state.strangers(claim):
            raise InUseError("another pod uses its claim", where=place(action))
        there = PodPlace(name, f"{action.gpu} {action.placement}", gpu.node, name)
        body = pod_body(self._template(replica.service), replica, there, self._workload, self._owners)
        label = shortened(replica.service)
        self._send(running, lambda: self._evictions.guard(label))
        pod = self._state.pod_at(action.gpu, action.placement)
        if pod is None:
            if gpu.condition is not GpuCondition.READY:
                raise RefusedError(gpu.why or "the GPU takes no new replicas", where=action.gpu)
            try:
                pod = self._send(running, lambda: self._api.create(POD, body))
            except ExistsError:
                pod = self._send(running, lambda: self._api.get(POD, body["metadata"]["name"]))
        if pod.metadata.labels.get(WORKLOAD) != shortened(self._workload) or pod.claim != name:
            raise RefusedError("a pod of that name is someone else's", where=pod.metadata.name)
        if pod.leaving:
            raise InUseError("the replica there is draining", where=place(action))
        found = observed_replica(pod)
        if found is None:
            raise RefusedError("a pod without its annotations runs there", where=pod.metadata.name)
        require_same(found.replica, replica, place(action))
        running.uid, running.version = pod.metadata.uid, int(pod.metadata.resource_version)

    def _stop(self, running: _Running) -> None:
        action = running.action
        pod = self._state.pod_at(action.gpu, action.placement)
        if pod is None:
            self._stop_unknown(running)
            return
        found = observed_replica(pod)
        if found is not None and not pod.ended:
            require_same(found.replica, replica_of(action), place(action))
        running.uid = pod.metadata.uid
        if pod.leaving:
            return
        try:
            self._send(
                running,
                lambda: self._api.delete(POD, pod.metadata.name, pod.metadata.namespace, uid=running.uid),
            )
        except ConflictError:
            return  # it is gone, and another pod has replaced it

    def _stop_unknown(self, running: _Running) -> None:
        """Stop a pod that was just created, and that the cache may not show yet."""
        action = running.action
        name = pod_name(replica_of(action).service, instance_name(action.gpu, action.placement))
        try:
            pod = self._send(running, lambda: self._api.get(POD, name))
        except NotFoundError:
            return
        if pod.metadata.labels.get(WORKLOAD) == shortened(self._workload):
            running.uid, running.version = pod.metadata.uid, int(pod.metadata.resource_version)
            self._send(running, lambda: self._api.delete(POD, name, uid=running.uid))

    # How actions end

    def _judge(self) -> None:
        """End the actions whose effect the caches show or can no longer show, or whose time limit is over."""
        dirty, self._dirty = self._dirty, set()
        now, fresh = time.monotonic(), self._fresh()
        passed, self._judged = min(now - self._judged, 2 * _TICK_S), now
        if not fresh:
            for each in self._running.values():
                each.until += passed
        for name in dirty:
            running = self._running.get(name)
            if running is None or running.ending:
                continue
            over, error = self._verdict(running) if running.written else (False, None)
            late = now > running.until and fresh
            if over and error is None:
                self._finish(running, None)
            elif running.action.kind is ActionKind.CREATE_INSTANCE and isinstance(error, NoRoomError):
                running.ending = True
                self._writers.submit(self._withdraw, running, error)
            elif (over or late) and running.action.kind is ActionKind.START_REPLICA and running.written:
                running.ending = True
                self._writers.submit(self._explain, running, error)
            elif over or (late and running.written):
                self._finish(
                    running,
                    error or TimedOutError("its effect did not show in time", where=place(running.action)),
                )

    def _verdict(self, running: _Running) -> tuple[bool, DriveError | None]:
        """Say whether an action has ended, and how."""
        match running.action.kind:
            case ActionKind.CREATE_INSTANCE:
                return self._created(running)
            case ActionKind.DESTROY_INSTANCE:
                claim = self._state.claims.get(instance_name(running.action.gpu, running.action.placement))
                return claim is None or claim.metadata.uid != running.uid, None
            case ActionKind.START_REPLICA:
                return self._started(running)
            case ActionKind.STOP_REPLICA:
                return self._stopped(running)

    def _created(self, running: _Running) -> tuple[bool, DriveError | None]:
        action = running.action
        claim = self._state.claims.get(instance_name(action.gpu, action.placement))
        if claim is None or claim.metadata.uid != running.uid:
            gone = self._state.claims.version >= running.version
            return gone, FailedError(
                "its claim was deleted by someone else", where=place(action)
            ) if gone else None
        if claim.status.allocation is None:
            return False, None
        try:
            self._hold_against_plan(action, claim)
        except DriveError as error:
            return True, error
        return True, None

    def _hold_against_plan(self, action: Action, claim: ResourceClaim) -> None:
        """Compare a claim's allocation with the plan.

        Raises:
            GpuLostError: the GPU no longer exists.
            NoRoomError: the claim holds another device, or another claim holds an overlapping one.
        """
        gpu = self._state.gpu(action.gpu)
        if gpu is None or gpu.model is None or gpu.pool is None:
            raise GpuLostError("there is no such GPU", where=action.gpu)
        minor = int(gpu.id.rpartition("-")[2])
        called = "/".join(claim.key)
        wanted = WantedDevice(
            called, NVIDIA, gpu.pool, minor, action.placement.profile, action.placement.start
        )
        faults = allocation_faults(wanted, claim.devices, self._state.allocated_on(gpu), gpu.model)
        if faults:
            hint = "`kubectl get resourceclaims -A` shows all claims; delete the one that should not be there"
            raise NoRoomError(
                f"the allocation is not what was planned: {faults[0]}", where=place(action), hint=hint
            )

    def _started(self, running: _Running) -> tuple[bool, DriveError | None]:
        action = running.action
        if (lost := self._lost(action)) is not None:
            return True, lost
        pod = self._state.pod_at(action.gpu, action.placement)
        if pod is None or pod.metadata.uid != running.uid:
            gone = self._state.pods.version >= running.version
            return gone, FailedError(
                "its pod was deleted by someone else", where=place(action)
            ) if gone else None
        if pod.leaving:
            return True, FailedError("someone else is deleting its pod", where=pod.metadata.name)
        if pod.ended:
            return True, FailedError(why_not_ready(pod), where=pod.metadata.name)
        return pod.ready, None

    def _stopped(self, running: _Running) -> tuple[bool, DriveError | None]:
        action = running.action
        pod = self._state.pod_at(action.gpu, action.placement, running.uid)
        if pod is None:
            return self._state.pods.version >= running.version, None
        lost = self._lost(action)
        return lost is not None, lost

    def _lost(self, action: Action) -> GpuLostError | None:
        gpu = self._state.gpu(action.gpu)
        if gpu is not None and gpu.condition is not GpuCondition.LOST:
            return None
        return GpuLostError((gpu.why if gpu else None) or "its node is gone", where=action.gpu)

    def _withdraw(self, running: _Running, error: DriveError) -> None:
        """End the creation of an instance whose claim holds a wrong allocation, and remove the claim."""
        name = instance_name(running.action.gpu, running.action.placement)
        claim = self._state.claims.get(name)
        if claim is not None and claim.metadata.uid == running.uid and self._state.pod_of(claim) is None:
            try:
                self._send(running, lambda: remove_claim(self._api, claim))
            except (KubernetesError, DriveError) as kept:
                error = type(error)(
                    f"{error.what}; its claim cannot be removed: {kept.what}",
                    where=error.where,
                    hint=error.hint,
                )
        self._end(running, error)

    def _explain(self, running: _Running, error: DriveError | None) -> None:
        """End the failed start of a replica, with the pod's own events in the error."""
        action = running.action
        pod = self._state.pod_at(action.gpu, action.placement, running.uid)
        said = []
        if running.uid:
            chosen = f"involvedObject.uid={running.uid}"
            with suppress(KubernetesError):  # without events the error is reported all the same
                found = self._api.list_objects(EVENT, self._api.namespace, fields=chosen)
                said = [f"{each.reason}: {each.message}" for each in found.items if each.type == "Warning"]
        if error is None:
            waited = f"the replica is not ready after {self._settings.start_timeout_s:g} s"
            why = why_not_ready(pod) if pod is not None else "its pod is not there"
            hint = f"kubectl describe pod {pod.metadata.name} -n {self._api.namespace}" if pod else None
            error = TimedOutError(f"{waited}: {why}", where=place(action), hint=hint)
        if said:
            more = "; ".join(list(dict.fromkeys(said))[-3:])
            error = type(error)(f"{error.what} ({more})", where=error.where, hint=error.hint)
        self._end(running, error)

    def _end(self, running: _Running, error: DriveError | None) -> None:
        with self._news:
            self._finish(running, error)
            self._news.notify_all()

    def _finish(self, running: _Running, error: DriveError | None) -> None:
        action = running.action
        if self._running.pop(action.id, None) is None:
            return
        self._on_gpu[action.gpu].discard(action.id)
        self._ended.append(ActionResult(action, error))
        self._untidy.set()  # it may have left a claim that was its own until now

    def _fresh(self) -> bool:
        """Whether the caches are up to date and no node is silent; otherwise no action times out."""
        caches = (self._state.pods, self._state.claims, self._state.nodes)
        return not self._state.silent and all(cache.error is None for cache in caches)

    # Reading the caches

    def _changed(self, gpus: set[str]) -> None:
        with self._news:
            for gpu_id in gpus:
                self._dirty |= self._on_gpu.get(gpu_id, set())
            self._news.notify_all()
        self._untidy.set()

    def _await(self, running: _Running, condition: Callable[[], bool]) -> None:
        """Wait in a writer's thread until a condition on the caches holds.

        Raises:
            TimedOutError: the action's time limit is over.
        """
        while not condition():
            if time.monotonic() > running.until or self._closed.is_set():
                raise TimedOutError("its effect did not show in time", where=place(running.action))
            self._state.claims.wait_until(condition, min(_TICK_S, max(0.0, running.until - time.monotonic())))

    def _is_gone(self, claim: ResourceClaim) -> bool:
        found = self._state.claims.get(claim.metadata.name)
        return found is None or found.metadata.uid != claim.metadata.uid


class DraDrivers:
    """Makes the drivers of one cluster, one for each Workload, with shared caches.

    Args:
        settings: of all drivers; None for the defaults.
    """

    def __init__(self, settings: DraSettings | None = None) -> None:
        self._settings = settings or DraSettings()
        self._shared: SharedCaches | None = None

    @property
    def durations(self) -> Durations:
        """How long actions are predicted to take."""
        return DURATIONS

    def open(
        self,
        api: KubernetesApi,
        workload: str,
        template: Callable[[str], Mapping[str, Any]],
        chosen: Callable[[str, str], bool],
    ) -> DraDriver:
        """Return a driver; arguments as of the controller's `ClusterDrivers`.

        Raises:
            DriveError: the cluster cannot be observed.
        """

        def ours(gpu: ClusterGpu) -> bool:
            return gpu.model is not None and chosen(gpu.node, gpu.model.name)

        self._shared = self._shared or SharedCaches(api, self._settings.node_timeout_s)
        return DraDriver(api, workload, template, shared=self._shared, chosen=ours, settings=self._settings)

    def refusals(self, template: Mapping[str, Any]) -> Iterable[InputError]:
        """Yield the faults of a pod template."""
        return template_faults(template)

    def close(self) -> None:
        """Close the shared caches; all drivers must be closed before."""
        if self._shared is not None:
            self._shared.close()


def _drive_error(error: KubernetesError, where: str) -> DriveError:
    """Return an error of the API server as a driver's error."""
    if isinstance(error, UnreachableError | ThrottledError):
        return FailedError(error.what, where=where, hint=error.hint)
    hint = error.hint
    if "resourceclaims/binding" in error.what:
        hint = (
            "grant the verb update on resourceclaims/binding in a ClusterRole: it is needed in all namespaces"
        )
    return RefusedError(error.what, where=f"{where}: {error.where}" if error.where else where, hint=hint)
