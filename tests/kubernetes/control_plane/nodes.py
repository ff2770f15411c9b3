"""A simulated node side, as strict as a kubelet with NVIDIA's DRA driver.

kwok keeps the nodes Ready and runs pods without claims. A pod that holds claims is run here: once it is bound, each
claim must be allocated, reserved for the pod, and name a device of its node's slices that overlaps nothing that is
prepared; then it is prepared, one at a time on a node, in the measured seconds. The pod gets its address and becomes
Running and Ready. When it is deleted it drains within its grace, its claims are unprepared, and only then it goes.

The driver keeps a checkpoint of prepared claims. At its restart it destroys every instance that is in none of them.
What happened is recorded with times, so that tests can hold it to a plan.

One thread decides, a few write; a pod is a value in a table. It scales to a thousand nodes.
"""

from __future__ import annotations

import heapq
import itertools
import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, cast

from tests.kubernetes.control_plane.client import BROKEN, ApiError, Client, Object, Stop, path_of
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.kubelet import LogServer
from tests.kubernetes.control_plane.slices import DRIVER, Device, Gpu, Pool, device_classes, node_object

from partita.mig.layout import Placement, fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kubernetes.control_plane.cluster import ControlPlane

T = TypeVar("T")
STRATEGIC = "application/strategic-merge-patch+json"
FAILS = "test.partita.dev/fails"
"""Annotation of a pod: `prepare`, `prepare-once`, `unprepare-once`, `ready` (never) or `term` (ignores it)."""
ENDS = "test.partita.dev/ends"
"""Annotation of a pod: how its container ends, as `{"after": 1.5, "code": 137, "reason": "OOMKilled", "log": ""}`."""

VANISHED = "test.partita.dev/vanished"
"""Annotation of a node that kwok leaves alone."""


@dataclass(frozen=True)
class Timing:
    """Seconds, each times `scale`; a pod's grace is its own and is not scaled.

    Creating and destroying an instance: github spcl/gpuless-thesis at c2434d8. A pod's start (together 5.4 s) and its
    drain: Jormungandr (SYSTOR'24). Retry and crash: a kubelet's back-off.
    """

    prepare: float = 0.13
    unprepare: float = 0.17
    start: float = 1.0
    ready: float = 4.4
    drain: float = 32.3
    retry: float = 10.0
    crash: float = 10.0
    lock: float = 10.0
    scale: float = 1.0


@dataclass(frozen=True)
class Record:
    """An action of the node side.

    Attributes:
        kind: `prepare`, `unprepare`, `refuse` (a claim that cannot be prepared) or `destroy`; of a container `ready`,
            `unready`, `drain` (asked to end) or `exit`.
        begin: by `time.monotonic`.
        why: of a refusal.
        uid: of the pod, where it is about its container.
    """

    kind: str
    node: str
    pod: str
    claim: str
    device: str
    begin: float
    end: float
    why: str = ""
    uid: str = ""


class Container(Protocol):
    """A real process instead of a pod's containers."""

    @property
    def ip(self) -> str:
        """Address of the pod."""
        ...

    def ready(self) -> bool:
        """Say whether its readiness probe passes now."""
        ...

    def poll(self) -> int | None:
        """Return how it ended, None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def close(self) -> None:
        """Kill it and let go of its address."""
        ...

    def log(self) -> str:
        """Return what it printed."""
        ...


class Runtime(Protocol):
    """Starts real processes for pods."""

    def start(self, node: str, pod: Object) -> Container | None:
        """Start a pod's process; None to have it simulated."""
        ...


@dataclass
class _Fault:
    kind: str
    labels: dict[str, str]
    times: int | None


@dataclass
class _Claim:
    """An entry of the driver's checkpoint."""

    name: str
    devices: tuple[Device, ...]
    completed: bool = False
    users: set[str] = field(default_factory=set)


@dataclass
class _Node:
    name: str
    uid: str
    gpus: dict[int, Gpu]
    checkpoint: dict[str, _Claim] = field(default_factory=dict)
    instances: dict[str, Device] = field(default_factory=dict)
    free_at: float = 0.0
    done_at: float = 0.0
    epoch: int = 0
    generation: int = 1
    driver: bool = True
    lost: bool = False
    held: list[Callable[[], None]] = field(default_factory=list)

    def device(self, name: str) -> Device | None:
        for gpu in self.gpus.values():
            if name in gpu.devices:
                return gpu.devices[name]
        return None


@dataclass
class _Pod:
    uid: str
    namespace: str
    name: str
    node: _Node
    object: Object
    stage: str = "waiting"
    claims: list[str] = field(default_factory=list)
    ip: str = ""
    seen: str = ""  # when its node told of it first
    started: str = ""
    ready: bool = False
    restarts: int = 0
    ended: Object | None = None
    waiting: str = "ContainerCreating"
    phase: str = "Pending"
    turn: int = 0
    grace: float | None = None
    gone: bool = False
    told: str = ""
    log: str = ""
    container: Container | None = None
    times: dict[str, tuple[str, str]] = field(default_factory=dict)
    dirty: bool = False
    writing: bool = False
    after: Callable[[], None] | None = None

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.object["metadata"].get("annotations") or {})

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def fails(self) -> set[str]:
        return set(self.annotations.get(FAILS, "").split(","))


class _Loop:
    """Runs functions one after another in one thread, now or at a time."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._open = True
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nodes", daemon=True)
        self._thread.start()

    def at(self, when: float, function: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._queue, (when, next(self._order), function))
            self._changed.notify()

    def soon(self, function: Callable[[], None]) -> None:
        self.at(0.0, function)

    def call(self, function: Callable[[], T]) -> T:
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:  # noqa: BLE001
                done.set_exception(error)

        self.soon(run)
        return done.result(timeout=240.0)

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and (not self._queue or self._queue[0][0] > time.monotonic()):
                    self._changed.wait(self._queue[0][0] - time.monotonic() if self._queue else None)
                if not self._open:
                    return
                function = heapq.heappop(self._queue)[2]
            try:
                function()
            except BaseException as error:  # noqa: BLE001
                self.error = self.error or error


class SimulatedNodes:
    """The node side of a control plane; a context manager that takes its nodes with it.

    Attributes:
        timing: may be replaced at any time, for what begins later.
        runtime: starts real processes for pods, where there is one.
    """

    def __init__(
        self,
        plane: ControlPlane,
        timing: Timing | None = None,
        runtime: Runtime | None = None,
        writers: int = 12,
    ) -> None:
        self.plane = plane
        self.timing = timing or Timing(scale=0.1)
        self.runtime = runtime
        self._client = Client(plane.kubeconfig("nodes"))
        self._nodes: dict[str, _Node] = {}
        self._pods: dict[str, _Pod] = {}
        self._faults: list[_Fault] = []
        self._records: list[Record] = []
        self._addresses = itertools.count(2)
        self._loop = _Loop()
        self._pool = ThreadPoolExecutor(writers, thread_name_prefix="nodes-write")
        self._stop = Stop()
        self._synced = threading.Event()
        self._logs = LogServer(plane, self.log_of)
        self._watcher = threading.Thread(target=self._watch, name="nodes-watch", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        if not self._synced.wait(120.0):
            raise TimeoutError("the node side cannot list pods")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the nodes away and end everything.

        Raises:
            BaseException: what went wrong in the simulation itself.
        """
        self._stop.set()
        self._watcher.join()
        self._loop.close()
        self._pool.shutdown(cancel_futures=True)
        for pod in self._pods.values():
            if pod.container is not None:
                pod.container.close()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._erase, self._nodes.values()))
        self._client.close()
        self._logs.close()
        if self._loop.error is not None:
            raise self._loop.error

    def _erase(self, node: _Node) -> None:
        for pod in list(self._pods.values()):
            if pod.node is node:
                self._client.delete("pods", pod.name, pod.namespace, grace=0)
        self._client.call(
            "DELETE", path_of("resourceslices"), None, fieldSelector=f"spec.nodeName={node.name}"
        )
        # What a controller that was killed leaves of a node would taint the next one of that name.
        for rule in self._client.objects("devicetaintrules"):
            if rule["spec"].get("deviceSelector", {}).get("pool") == node.name:
                self._client.delete("devicetaintrules", rule["metadata"]["name"])
        self._client.delete("nodes", node.name)

    # --- nodes ---

    def add_nodes(
        self, count: int, gpus: int, model: str = "a100-40gb", prefix: str = "node", seconds: float = 60.0
    ) -> list[str]:
        """Add nodes named `PREFIX-0` onwards, each with GPUs of one model; return when all are Ready."""
        taken = len(self._nodes)
        names = [f"{prefix}-{taken + index}" for index in range(count)]
        list(self._pool.map(lambda name: self._add(name, gpus, model), names))
        wanted = set(names)

        def ready() -> bool:
            return wanted <= {
                each["metadata"]["name"]
                for each in self._client.objects("nodes")
                if any(
                    c["type"] == "Ready" and c["status"] == "True"
                    for c in each["status"].get("conditions", ())
                )
                and not each["spec"].get("taints")
            }

        wait_until(ready, seconds + count / 10, "all nodes are Ready", every=0.2)
        return names

    def _add(self, name: str, gpus: int, model: str) -> None:
        for device_class in device_classes():
            if self._client.find("deviceclasses", device_class["metadata"]["name"]) is None:
                try:
                    self._client.create("deviceclasses", device_class)
                except ApiError as error:
                    if error.code != 409:
                        raise
        found = tuple(Gpu.of(name, minor, model) for minor in range(gpus))
        made = self._client.create("nodes", node_object(name, found, self._logs.port))
        node = _Node(name, made["metadata"]["uid"], {gpu.minor: gpu for gpu in found})
        for each in Pool(name, node.uid, found).slices():
            self._client.create("resourceslices", each)
        self._loop.call(lambda: self._nodes.__setitem__(name, node))

    def remove_node(self, name: str) -> None:
        """End a node at once, with everything on it, and delete it from the cluster."""

        def end() -> None:
            node = self._nodes.pop(name)
            node.lost = True
            for pod in [pod for pod in self._pods.values() if pod.node is node]:
                del self._pods[pod.uid]
                if pod.container is not None:
                    pod.container.close()

        self._loop.call(end)
        self._client.delete("nodes", name)

    def vanish(self, name: str) -> None:
        """Cut a node off: it becomes silent, which the cluster notices after `node_seconds`."""
        self._loop.call(lambda: setattr(self._nodes[name], "lost", True))
        self._client.patch("nodes", name, {"metadata": {"annotations": {VANISHED: "true"}}})

        def silenced() -> bool:
            # kwok renews no lease that another holds; it may be renewing it at this moment. A lease that changed
            # without being renewed makes the controller manager (1.37.2) distrust its cache, and mark no node.
            lease = self._client.get("leases", name, "kube-node-lease")
            renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            other = {"holderIdentity": "vanished", "leaseDurationSeconds": 86400, "renewTime": renewed}
            lease["spec"] |= other
            try:
                self._client.replace("leases", lease)
            except ApiError as error:
                if error.code != 409:
                    raise
                return False
            return True

        wait_until(silenced, 30.0, f"{name} is silent")

    def come_back(self, name: str) -> None:
        """Bring back a node that vanished, in the state that it had."""

        def go_on() -> None:
            node = self._nodes[name]
            node.lost = False
            held, node.held = node.held, []
            for function in held:
                function()

        spec = {"holderIdentity": None, "leaseDurationSeconds": self.plane.node_seconds}
        self._client.patch("leases", name, {"spec": spec}, "kube-node-lease")
        self._client.patch("nodes", name, {"metadata": {"annotations": {VANISHED: None}}})
        self._loop.call(go_on)

    def lose_gpu(self, name: str, minor: int) -> None:
        """Have a GPU fall off the bus: its slice goes, and what runs on it crashes."""

        def lose() -> Pool:
            node = self._nodes[name]
            del node.gpus[minor]
            node.generation += 1
            for device in [device for device in node.instances.values() if device.gpu == minor]:
                self._lose_instance(node, device)
            return Pool(name, node.uid, tuple(node.gpus.values()))

        pool = self._loop.call(lose)
        generation = self._nodes[name].generation
        old = self._client.objects("resourceslices", fieldSelector=f"spec.nodeName={name}")
        for each in pool.slices(generation):
            self._client.create("resourceslices", each)
        for each in old:
            self._client.delete("resourceslices", each["metadata"]["name"])

    # --- faults ---

    def fail(self, kind: str, times: int | None = None, **labels: str) -> None:
        """Have pods with these labels fail: at `prepare` or `unprepare`, never get `ready`, ignore `term`.

        Args:
            times: how often, for any of them; None for always, until `mend`.
            labels: by name, with `_` for `/` after the first part: `service="bert"` is `partita.dev/service`.
        """
        named = {f"partita.dev/{key}": value for key, value in labels.items()}
        self._loop.call(lambda: self._faults.append(_Fault(kind, named, times)))

    def mend(self) -> None:
        """Remove all faults except those in annotations."""
        self._loop.call(self._faults.clear)

    def end_container(
        self, namespace: str, name: str, code: int, reason: str = "Error", log: str = ""
    ) -> None:
        """End a pod's container with an exit code; it is restarted if its policy says so."""
        self._loop.call(lambda: self._container_ended(self._called(namespace, name), code, reason, log))

    def lose_readiness(self, namespace: str, name: str) -> None:
        """Let a pod's readiness probe fail from now on."""

        def lose() -> None:
            pod = self._called(namespace, name)
            pod.ready = False
            pod.turn += 1
            self._note("unready", pod)
            self._tell(pod)

        self._loop.call(lose)

    def create_outside(self, name: str, device: str) -> None:
        """Make an instance behind the driver's back, as `nvidia-smi mig -cgi` does."""

        def make() -> None:
            node = self._nodes[name]
            found = node.device(device)
            assert found is not None, device
            node.instances[device] = found

        self._loop.call(make)

    def restart_driver(self, name: str, seconds: float = 0.0, *, lose_checkpoint: bool = False) -> list[str]:
        """Restart a node's driver: it destroys every instance that is in no prepared claim of its checkpoint.

        Args:
            seconds: while it is away, nothing can be prepared or unprepared.
            lose_checkpoint: the node's disk was wiped.

        Returns:
            The devices destroyed.
        """

        def restart() -> list[str]:
            node = self._nodes[name]
            node.epoch += 1
            if lose_checkpoint:
                node.checkpoint.clear()
            kept = {
                device.name
                for claim in node.checkpoint.values()
                if claim.completed
                for device in claim.devices
            }
            gone = [device for device in node.instances.values() if device.name not in kept]
            for device in gone:
                self._lose_instance(node, device)
            if seconds:
                node.driver = False
                self._later(seconds, lambda: setattr(node, "driver", True))
            return [device.name for device in gone]

        return self._loop.call(restart)

    # --- state ---

    @property
    def records(self) -> list[Record]:
        """All actions so far, in order."""
        return self._loop.call(lambda: list(self._records))

    def instances(self) -> dict[str, set[str]]:
        """Return the existing devices of each node, whoever created them."""
        return self._loop.call(lambda: {node.name: set(node.instances) for node in self._nodes.values()})

    def prepared(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Return the devices of each claim (`NAMESPACE/NAME`) that is prepared, by node."""
        return self._loop.call(
            lambda: {
                node.name: {
                    claim.name: tuple(device.name for device in claim.devices)
                    for claim in node.checkpoint.values()
                    if claim.completed
                }
                for node in self._nodes.values()
            }
        )

    def preparing(self) -> set[str]:
        """Return the claims (`NAMESPACE/NAME`) whose devices are being prepared."""
        return self._loop.call(
            lambda: {
                claim.name
                for node in self._nodes.values()
                for claim in node.checkpoint.values()
                if not claim.completed
            }
        )

    def gpu(self, name: str, minor: int) -> Gpu:
        """Return a GPU of a node."""
        return self._nodes[name].gpus[minor]

    def log_of(self, namespace: str, name: str) -> str | None:
        """Return a pod's output, None if the pod is not here."""
        return self._loop.call(
            lambda: next(
                (
                    pod.log + (pod.container.log() if pod.container else "")
                    for pod in self._pods.values()
                    if (pod.namespace, pod.name) == (namespace, name)
                ),
                None,
            )
        )

    def _called(self, namespace: str, name: str) -> _Pod:
        return next(p for p in self._pods.values() if (p.namespace, p.name) == (namespace, name))

    # --- pods ---

    def _watch(self) -> None:
        for event in self._client.watch("pods", self._stop, fieldSelector="spec.nodeName!="):
            if event.kind == "SYNCED":
                self._synced.set()
            else:
                self._loop.soon(lambda event=event: self._on_pod(event.kind, event.object))  # type: ignore[misc]

    def _on_pod(self, kind: str, body: Object) -> None:
        uid = body["metadata"]["uid"]
        pod = self._pods.get(uid)
        if kind == "DELETED":
            if pod is not None:
                self._removed(pod)
            return
        if pod is None:
            node = self._nodes.get(body["spec"]["nodeName"])
            if node is None or not body["spec"].get("resourceClaims"):
                return
            meta = body["metadata"]
            pod = _Pod(uid, meta["namespace"], meta["name"], node, body)
            self._pods[uid] = pod
            if body["status"].get("phase") in {"Succeeded", "Failed"}:
                pod.stage, pod.phase = "ended", body["status"]["phase"]
            else:
                self._attempt(pod)
        pod.object = body
        # A kubelet writes anew what is not so: readiness gates that opened, or the word of the node controller, which
        # takes the pods of a silent node for not ready and leaves it to the kubelet to say otherwise. Either may come
        # while it writes.
        if pod.stage == "running" and _said_ready(body) != (pod.ready and _gates(body)):
            self._tell(pod)
        if body["metadata"].get("deletionTimestamp"):
            grace = float(body["metadata"].get("deletionGracePeriodSeconds") or 0)
            if pod.grace is None or grace < pod.grace:
                self._terminate(pod, grace)

    def _removed(self, pod: _Pod) -> None:
        """A pod that is deleted without its node's consent still holds its devices until its container is killed."""
        pod.gone = True
        if pod.stage in {"starting", "running"}:
            self._terminate(pod, 0.0)
        elif pod.stage in {"waiting", "ended"}:
            self._release(pod)

    # --- prepare ---

    def _attempt(self, pod: _Pod) -> None:
        """Read the pod's claims from the server, as a kubelet does, and go on with them."""
        if pod.gone or pod.stage != "waiting" or pod.grace is not None:
            return
        pod.stage = "reading"

        def read() -> None:
            found, why = [], ""
            try:
                for name in _claim_names(pod.object):
                    claim = self._client.find("resourceclaims", name, pod.namespace)
                    if claim is None:
                        why = f'fetch ResourceClaim {name}: resourceclaims.resource.k8s.io "{name}" not found'
                        break
                    found.append(claim)
            except (ApiError, *BROKEN) as error:
                why = f"fetch ResourceClaim: {error}"
            self._loop.soon(lambda: self._with_claims(pod, found, why))

        self._pool.submit(read)

    def _with_claims(self, pod: _Pod, claims: list[Object], why: str) -> None:
        pod.stage = "waiting"
        if pod.gone or pod.grace is not None:
            self._release(pod)
            return
        for claim in claims:
            about, status = claim["metadata"], claim.get("status") or {}
            reserved = {each["uid"] for each in status.get("reservedFor") or ()}
            if pod.uid not in reserved:
                why = why or (
                    f"pod {pod.name} ({pod.uid}) is not allowed to use ResourceClaim {about['name']} ({about['uid']})"
                )
            elif not status.get("allocation"):
                why = why or f"ResourceClaim {about['name']}: claim is not allocated"
            elif about["uid"] not in pod.node.checkpoint and any(
                other.name == f"{pod.namespace}/{about['name']}" for other in pod.node.checkpoint.values()
            ):
                why = why or (
                    f"old ResourceClaim with same name {about['name']} and different UID still exists "
                    "(previous pod force-deleted?!)"
                )
        if why:
            self._refuse(pod, "", "", why)
            return
        pod.stage = "preparing"
        self._prepare_next(pod, claims)

    def _prepare_next(self, pod: _Pod, claims: list[Object]) -> None:
        if not claims or pod.gone or pod.grace is not None:
            self._prepared(pod)
            return
        claim, rest = claims[0], claims[1:]
        uid, node = claim["metadata"]["uid"], pod.node
        known = node.checkpoint.get(uid)
        if known is not None and known.completed:
            known.users.add(pod.uid)
            pod.claims.append(uid)
            self._prepare_next(pod, rest)
            return
        now = time.monotonic()
        begin = max(now, node.free_at)
        if begin - now > self._seconds(self.timing.lock):
            self._cannot(pod, claim, "error acquiring prep/unprep lock: timeout")
            return
        end = begin + self._seconds(self.timing.prepare)
        node.free_at = end
        self._on_node(node, begin, lambda: self._begin_prepare(pod, claim, rest, begin, end))

    def _begin_prepare(self, pod: _Pod, claim: Object, rest: list[Object], begin: float, end: float) -> None:
        node, about = pod.node, claim["metadata"]
        name = f"{about['namespace']}/{about['name']}"
        if not node.driver:
            self._refuse(pod, name, "", f"DRA driver {DRIVER} is not registered")
            return
        devices, why = self._devices(node, claim)
        if not why and (self._hit(pod, "prepare") or "prepare" in pod.fails()):
            why = f"error creating MIG device: error creating GPU instance for '{devices[0].name}': Unknown Error"
        if not why and "prepare-once" in pod.fails() and not pod.told:
            why = "error creating MIG device: In use by another client"
        if why:
            self._cannot(pod, claim, why)
            return
        node.checkpoint[about["uid"]] = _Claim(name, devices, users={pod.uid})
        epoch = node.epoch
        self._on_node(node, end, lambda: self._end_prepare(pod, claim, rest, begin, epoch))

    def _devices(self, node: _Node, claim: Object) -> tuple[tuple[Device, ...], str]:
        """Return the devices of a claim, and why they cannot be prepared."""
        found: list[Device] = []
        for result in claim["status"]["allocation"]["devices"]["results"]:
            if result["driver"] != DRIVER:
                continue
            name = result["device"]
            device = node.device(name) if result["pool"] == node.name else None
            if device is None:
                return (), f'allocatable not found for device "{name}"'
            for other in node.checkpoint.values():
                if any(name == each.name for each in other.devices):
                    return (), f'device "{name}" is already prepared for claim {other.name}'
            found.append(device)
        for device in found:
            gpu = node.gpus[device.gpu].model
            there = [each for each in (*node.instances.values(), *found) if each.gpu == device.gpu]
            parts = [Placement(each.start, each.profile) for each in there if each.profile]
            whole = any(not each.profile for each in there) and len(there) > 1
            if whole or fault(gpu, parts) is not None:
                why = f"error creating GPU instance for '{device.name}': Insufficient Resources"
                return tuple(found), f"error creating MIG device: {why}"
        return tuple(found), ""

    def _end_prepare(self, pod: _Pod, claim: Object, rest: list[Object], begin: float, epoch: int) -> None:
        node, uid = pod.node, claim["metadata"]["uid"]
        entry = node.checkpoint.get(uid)
        if entry is None or epoch != node.epoch:
            node.checkpoint.pop(uid, None)
            self._cannot(pod, claim, "the driver was restarted")
            return
        entry.completed = True
        pod.claims.append(uid)
        begin, now = max(begin, node.done_at), time.monotonic()
        node.done_at = now
        for device in entry.devices:
            node.instances[device.name] = device
            self._records.append(Record("prepare", node.name, pod.key, entry.name, device.name, begin, now))
        self._prepare_next(pod, rest)

    def _cannot(self, pod: _Pod, claim: Object, why: str) -> None:
        about = claim["metadata"]
        name = f"{about['namespace']}/{about['name']}"
        results = ((claim.get("status") or {}).get("allocation") or {}).get("devices", {}).get("results", [])
        device = results[0]["device"] if results else ""
        words = f"error preparing devices for claim {name}:{about['uid']}: prepare devices failed: {why}"
        self._refuse(
            pod, name, device, f"NodePrepareResources failed for ResourceClaim {about['name']}: {words}"
        )

    def _refuse(self, pod: _Pod, claim: str, device: str, why: str) -> None:
        now = time.monotonic()
        self._records.append(Record("refuse", pod.node.name, pod.key, claim, device, now, now, why))
        pod.stage = "waiting"
        if pod.gone or pod.grace is not None:
            self._release(pod)
            return
        if pod.told != why:
            pod.told = why
            message = f"Failed to prepare dynamic resources: prepare dynamic resources: {why}"
            self._event(pod, "FailedPrepareDynamicResources", message)
            self._tell(pod)
        self._later(self._seconds(self.timing.retry), lambda: self._attempt(pod), pod.node)

    # --- containers ---

    def _prepared(self, pod: _Pod) -> None:
        if pod.gone or pod.grace is not None:
            pod.stage = "waiting"
            self._release(pod)
            return
        self._start_container(pod)

    def _start_container(self, pod: _Pod) -> None:
        pod.stage = "starting"
        pod.turn += 1
        turn = pod.turn
        if self.runtime is not None:
            pod.container = self.runtime.start(pod.node.name, pod.object)
        self._later(self._seconds(self.timing.start), lambda: self._running(pod, turn), pod.node)

    def _running(self, pod: _Pod, turn: int) -> None:
        if pod.turn != turn:
            return
        number = next(self._addresses)
        pod.ip = pod.ip or (
            pod.container.ip
            if pod.container
            else f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        )
        pod.stage, pod.phase, pod.waiting, pod.ended = "running", "Running", "", None
        pod.started = _now()
        wanted = self.timing.ready
        if wanted > 0 or pod.container is not None:
            self._tell(pod)
        if pod.container is not None:
            self._probe(pod, turn)
            return
        if ENDS in pod.annotations:
            end = json.loads(pod.annotations[ENDS])
            self._later(
                float(end.get("after", 0.0)),
                lambda: self._container_ended(
                    pod, int(end.get("code", 0)), end.get("reason", ""), end.get("log", ""), turn
                ),
                pod.node,
            )
        if not (self._hit(pod, "ready") or "ready" in pod.fails()):
            self._later(self._seconds(wanted), lambda: self._is_ready(pod, turn), pod.node)

    def _is_ready(self, pod: _Pod, turn: int) -> None:
        if pod.turn != turn or pod.stage != "running":
            return
        pod.ready = True
        self._note("ready", pod)
        self._tell(pod)

    def _note(self, kind: str, pod: _Pod, why: str = "") -> None:
        """Record what became of a pod's container."""
        now = time.monotonic()
        self._records.append(Record(kind, pod.node.name, pod.key, "", "", now, now, why, pod.uid))

    def _probe(self, pod: _Pod, turn: int) -> None:
        """Check whether a real process has ended or is ready."""
        if pod.turn != turn or pod.container is None:
            return
        container = pod.container
        code = container.poll()
        if code is not None:
            self._container_ended(pod, code, "Error" if code else "Completed", "", turn)
            return

        def look() -> None:
            ready = container.ready()
            self._loop.soon(lambda: seen(ready=ready))

        def seen(*, ready: bool) -> None:
            if pod.turn == turn and pod.stage == "running":
                if ready and not pod.ready:
                    self._is_ready(pod, turn)
                elif pod.ready and not ready:
                    pod.ready = False
                    self._note("unready", pod)
                    self._tell(pod)
                self._later(0.5 if pod.ready else 0.1, lambda: self._probe(pod, turn), pod.node)

        self._pool.submit(look)

    def _container_ended(self, pod: _Pod, code: int, reason: str, log: str, turn: int | None = None) -> None:
        if pod.stage not in {"running", "starting"} or (turn is not None and turn != pod.turn):
            return
        self._note_end(pod, code, reason or ("Error" if code else "Completed"), log)
        policy = pod.object["spec"].get("restartPolicy", "Always")
        if policy == "Always" or (policy == "OnFailure" and code):
            pod.restarts += 1
            pod.waiting = "CrashLoopBackOff"
            pod.stage = "starting"
            self._tell(pod)
            delay = self._seconds(self.timing.crash) * 2 ** min(pod.restarts - 1, 5)
            turn = pod.turn
            self._later(delay, lambda: self._start_container(pod) if pod.turn == turn else None, pod.node)
            return
        pod.phase = "Failed" if code else "Succeeded"
        self._release(pod)

    def _note_end(self, pod: _Pod, code: int, reason: str, log: str) -> None:
        if pod.container is not None:
            pod.log += pod.container.log()
            pod.container.close()
            pod.container = None
        pod.log += log
        pod.turn += 1
        pod.ready = False
        policies = {c.get("terminationMessagePolicy") for c in pod.object["spec"]["containers"]}
        tail = pod.log[-2048:] if code and "FallbackToLogsOnError" in policies else ""
        begun = pod.started or _now()
        pod.ended = {
            "exitCode": code,
            "reason": reason,
            "startedAt": begun,
            "finishedAt": _now(),
            "message": tail,
        }
        self._note("exit", pod, f"{code} {reason}")

    # --- the end of a pod ---

    def _terminate(self, pod: _Pod, grace: float) -> None:
        pod.grace = grace
        if pod.stage in {"waiting", "ended"}:
            self._release(pod)
            return
        if pod.stage not in {"starting", "running"}:
            return  # running work sees the grace period when it ends
        pod.turn += 1
        turn = pod.turn
        self._note("drain", pod)
        if pod.container is not None:
            pod.container.terminate()
            self._await_exit(pod, turn, time.monotonic() + grace)
            return
        drain = grace if self._hit(pod, "term") or "term" in pod.fails() else self._seconds(self.timing.drain)
        self._later(
            min(drain, grace), lambda: self._exited(pod, turn, 137 if drain >= grace else 0), pod.node
        )

    def _await_exit(self, pod: _Pod, turn: int, deadline: float) -> None:
        if pod.turn != turn or pod.container is None:
            return
        code = pod.container.poll()
        if code is None and time.monotonic() < deadline:
            self._later(0.05, lambda: self._await_exit(pod, turn, deadline), pod.node)
        else:
            self._exited(pod, turn, 137 if code is None else code)

    def _exited(self, pod: _Pod, turn: int, code: int) -> None:
        if pod.turn != turn:
            return
        self._note_end(pod, code, "Error" if code else "Completed", "")
        pod.phase = "Failed" if code else "Succeeded"
        self._release(pod)

    def _release(self, pod: _Pod) -> None:
        """Unprepare claims that no other pod uses, then report the pod's end, then remove a deleted pod."""
        if pod.stage == "ended":
            self._finish(pod)
            return
        if pod.stage == "unpreparing":
            return
        pod.stage = "unpreparing"
        self._unprepare_next(pod)

    def _unprepare_next(self, pod: _Pod) -> None:
        node = pod.node
        if not pod.claims:
            pod.stage = "ended"
            self._finish(pod)
            return
        uid = pod.claims[0]
        entry = node.checkpoint.get(uid)
        if entry is None or entry.users - {pod.uid}:
            if entry is not None:
                entry.users.discard(pod.uid)
            pod.claims.pop(0)
            self._unprepare_next(pod)
            return
        begin = max(time.monotonic(), node.free_at)
        node.free_at = begin + self._seconds(self.timing.unprepare)
        self._on_node(node, node.free_at, lambda: self._end_unprepare(pod, uid, begin))

    def _end_unprepare(self, pod: _Pod, uid: str, begin: float) -> None:
        node = pod.node
        once = "unprepare-once" in pod.fails() and pod.told != "unprepare"
        if not node.driver or once or self._hit(pod, "unprepare"):
            pod.told = "unprepare" if once else pod.told
            self._later(self._seconds(self.timing.retry), lambda: self._unprepare_next(pod), node)
            return
        entry = node.checkpoint.pop(uid, None)
        pod.claims.remove(uid)
        if entry is not None:
            begin, now = max(begin, node.done_at), time.monotonic()
            node.done_at = now
            for device in entry.devices:
                node.instances.pop(device.name, None)
                self._records.append(
                    Record("unprepare", node.name, pod.key, entry.name, device.name, begin, now)
                )
        self._unprepare_next(pod)

    def _finish(self, pod: _Pod) -> None:
        if pod.gone:
            self._pods.pop(pod.uid, None)
            return
        if pod.grace is None:
            self._tell(pod)
            return
        if pod.phase == "Pending":
            pod.phase = "Failed"
        self._tell(pod, after=lambda: self._remove(pod))

    def _remove(self, pod: _Pod) -> None:
        self._write(
            pod.node,
            lambda: self._client.delete("pods", pod.name, pod.namespace, grace=0, uid=pod.uid),
            lambda: None,
        )

    def _lose_instance(self, node: _Node, device: Device) -> None:
        node.instances.pop(device.name, None)
        now = time.monotonic()
        self._records.append(Record("destroy", node.name, "", "", device.name, now, now))
        for pod in list(self._pods.values()):
            entries = [node.checkpoint[uid] for uid in pod.claims if uid in node.checkpoint]
            lost = pod.claims and not entries
            if pod.node is node and (lost or any(device in entry.devices for entry in entries)):
                self._container_ended(pod, 1, "Error", "CUDA error: no CUDA-capable device is detected\n")

    # --- reports to the API server ---

    def _tell(self, pod: _Pod, after: Callable[[], None] | None = None) -> None:
        """Write the pod's status; changes during a write are written together afterwards."""
        pod.dirty = True
        pod.after = after or pod.after
        if not pod.writing:
            self._flush(pod)

    def _flush(self, pod: _Pod) -> None:
        pod.dirty, pod.writing = False, True
        body = {"metadata": {"uid": pod.uid}, "status": _status(pod)}

        def write() -> None:
            self._client.patch("pods", pod.name, body, pod.namespace, "status", kind=STRATEGIC)

        def done() -> None:
            pod.writing = False
            if pod.dirty:
                self._flush(pod)
            elif pod.after is not None:
                after, pod.after = pod.after, None
                after()

        self._write(pod.node, write, done)

    def _event(self, pod: _Pod, reason: str, message: str) -> None:
        now = _now()
        about = {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        }
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{pod.name}.", "namespace": pod.namespace},
            "involvedObject": about,
            "reason": reason,
            "message": message[:1000],
            "type": "Warning",
            "source": {"component": "kubelet", "host": pod.node.name},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._write(
            pod.node, lambda: self._client.call("POST", path_of("events", pod.namespace), body), lambda: None
        )

    def _write(self, node: _Node, write: Callable[[], object], done: Callable[[], None]) -> None:
        """Retry a write until the server accepts it or the object is gone; then go on."""

        def attempt() -> None:
            again = False
            try:
                write()
            except ApiError as error:
                again = error.code in {429, 500, 502, 503, 504}
            except BROKEN:
                again = True
            if again:
                self._later(0.5, begin, node)
            else:
                self._loop.soon(done)

        def begin() -> None:
            if node.lost:
                node.held.append(begin)
            elif not self._stop.is_set():
                self._pool.submit(attempt)

        begin()

    # --- time ---

    def _seconds(self, seconds: float) -> float:
        return seconds * self.timing.scale

    def _later(self, seconds: float, function: Callable[[], None], node: _Node | None = None) -> None:
        if node is None:
            self._loop.at(time.monotonic() + seconds, function)
        else:
            self._on_node(node, time.monotonic() + seconds, function)

    def _on_node(self, node: _Node, when: float, function: Callable[[], None]) -> None:
        """Run a function at a time, or when the node is back."""
        self._loop.at(when, lambda: node.held.append(function) if node.lost else function())

    def _hit(self, pod: _Pod, kind: str) -> bool:
        labels = pod.object["metadata"].get("labels") or {}
        for each in self._faults:
            if (
                each.kind == kind
                and all(labels.get(k) == v for k, v in each.labels.items())
                and each.times != 0
            ):
                each.times = None if each.times is None else each.times - 1
                return True
        return False


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _claim_names(pod: Object) -> list[str]:
    """Return the claims that a pod holds, its own and those made of its templates."""
    made = {
        each["name"]: each.get("resourceClaimName")
        for each in pod["status"].get("resourceClaimStatuses") or ()
    }
    names = (
        each.get("resourceClaimName") or made.get(each["name"]) for each in pod["spec"]["resourceClaims"]
    )
    return [cast("str", name) for name in names if name]


def _gates(pod: Object) -> bool:
    """Say whether all readiness gates of a pod are open."""
    wanted = {each["conditionType"] for each in pod["spec"].get("readinessGates") or ()}
    true = {c["type"] for c in pod["status"].get("conditions") or () if c["status"] == "True"}
    return wanted <= true


def _said_ready(pod: Object) -> bool:
    """Say whether a pod is ready in the API."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or ())


def _status(pod: _Pod) -> Object:
    """Return a pod's status as a kubelet writes it."""
    alive = pod.phase == "Running"
    ready = alive and pod.ready
    values = {
        "PodReadyToStartContainers": alive,
        "Initialized": pod.phase != "Pending" or pod.ended is not None,
        "ContainersReady": ready,
        "Ready": ready and _gates(pod.object),
    }
    conditions = []
    for name, value in values.items():
        said = str(value)
        before = pod.times.get(name)
        if before is None or before[0] != said:
            pod.times[name] = (said, _now())
        conditions.append({"type": name, "status": said, "lastTransitionTime": pod.times[name][1]})
    if pod.ended is not None and (not alive or pod.waiting):
        state = {"waiting": {"reason": pod.waiting}} if alive else {"terminated": pod.ended}
        last = {"terminated": pod.ended} if alive else {}
    else:
        state = {"running": {"startedAt": pod.started}} if alive else {"waiting": {"reason": pod.waiting}}
        last = {}
    pod.seen = pod.seen or pod.object["status"].get("startTime") or _now()
    found: Object = {
        "phase": pod.phase,
        "conditions": conditions,
        "hostIP": "127.0.0.1",
        "startTime": pod.seen,
        "containerStatuses": [
            {
                "name": each["name"],
                "image": each.get("image", ""),
                "imageID": "",
                "containerID": f"containerd://{pod.uid}" if alive or pod.ended else "",
                "ready": ready,
                "started": alive and not pod.waiting,
                "restartCount": pod.restarts,
                "state": state,
                "lastState": last,
            }
            for each in pod.object["spec"]["containers"]
        ],
    }
    if pod.ip:
        found |= {"podIP": pod.ip, "podIPs": [{"ip": pod.ip}]}
    return found
