"""An observer that checks Partita by the state in the API server alone, written from the definitions.

It records every event of pods, claims and slices, and replays them in the order of their versions, which are the
store's and so the same for all kinds. After each event it checks that

- no service's throughput is under its floor: the sum over its pods that serve and are not asked to go. A pod serves
  while its kubelet says so: from the pods of a node that it does not hear Kubernetes takes the condition Ready, and
  leaves ContainersReady as the kubelet wrote it;
- no two claims hold devices that take the same memory slice, or more of a counter than a GPU has;
- a claim of Partita's holds exactly the device that it says it is for;
- a claim is there for as long as a pod that names it has not ended;
- nobody else's claim changes or is deleted, unless the test announced it.

It knows of Partita only the labels and annotations that docs/kubernetes.md names.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from tests.kubernetes.control_plane.client import Client, Event, Object, Stop
from tests.kubernetes.control_plane.cluster import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import Record

SERVICE = "partita.dev/service"
REPLICA = "partita.dev/replica"
PLACEMENT = "partita.dev/placement"
MANAGED = ("app.kubernetes.io/managed-by", "partita")
KINDS = ("resourceslices", "resourceclaims", "pods")


@dataclass(frozen=True)
class Violation:
    """A violation of one of these rules.

    Attributes:
        kind: `floor`, `overlap`, `placement`, `orphan` or `stranger`.
        version: of the store.
        time: at which it was seen.
    """

    kind: str
    version: int
    time: str
    words: str


@dataclass(frozen=True)
class Service:
    """The observed throughput of a service.

    Attributes:
        least: least throughput since its floor was set, in items/s.
    """

    least: float
    now: float


@dataclass
class _Heard:
    version: int
    order: int
    plural: str
    event: Event
    time: str


@dataclass
class _Device:
    """A device of a slice, by what it takes of its GPU's counters."""

    gpu: str
    profile: str
    takes: dict[str, int]

    @property
    def start(self) -> int:
        slices = [int(key.rsplit("-", 1)[1]) for key in self.takes if key.startswith("memory-slice-")]
        return min(slices, default=0)


@dataclass
class _State:
    pods: dict[str, Object] = field(default_factory=dict)
    claims: dict[str, Object] = field(default_factory=dict)
    devices: dict[tuple[str, str], _Device] = field(default_factory=dict)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)


class Watcher:
    """Observes one namespace's pods and all claims and slices; a context manager."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.namespace = namespace
        self._client = Client(plane.kubeconfig("watcher"))
        self._stop = Stop()
        self._lock = threading.Lock()
        self._heard: list[_Heard] = []
        self._order = itertools.count()
        self._known: dict[str, dict[str, str]] = {plural: {} for plural in KINDS}
        self._floors: list[tuple[int, str, float]] = []
        self._promised: list[tuple[float, str, float]] = []  # the same by time
        self._expected: set[str] = set()
        self.gaps = 0
        self._synced = {plural: threading.Event() for plural in KINDS}
        self._threads = [
            threading.Thread(target=self._watch, args=(plural,), name=f"watch-{plural}", daemon=True)
            for plural in KINDS
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        for plural, event in self._synced.items():
            if not event.wait(120.0):
                raise TimeoutError(f"the watcher cannot list {plural}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _watch(self, plural: str) -> None:
        for event in self._client.watch(plural, self._stop):
            if event.kind == "SYNCED":
                self.gaps += self._synced[plural].is_set()
                self._synced[plural].set()
                continue
            now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
            about = event.object["metadata"]
            with self._lock:
                self._heard.append(_Heard(event.version, next(self._order), plural, event, now))
                if event.kind == "DELETED":
                    self._known[plural].pop(about["uid"], None)
                else:
                    self._known[plural][about["uid"]] = about["resourceVersion"]

    # --- calls of tests ---

    def require(self, floors: dict[str, float]) -> None:
        """Check these floors from now on, instead of earlier ones."""
        version = self._client.version()
        with self._lock:
            ended = {name: 0.0 for _, name, _ in self._floors if name not in floors}
            for name, rate in {**ended, **floors}.items():
                self._floors.append((version, name, rate))
                self._promised.append((time.monotonic(), name, rate))

    def expect(self, claim: str) -> None:
        """Announce that somebody else's claim (`NAMESPACE/NAME`) will change or be deleted."""
        self._expected.add(claim)

    # --- results ---

    def settle(self, seconds: float = 30.0) -> None:
        """Wait until all events up to the server's current version are seen."""

        def heard() -> bool:
            for plural in ("resourceclaims", "pods"):
                there = {
                    each["metadata"]["uid"]: each["metadata"]["resourceVersion"]
                    for each in self._client.objects(plural)
                }
                with self._lock:
                    if there != self._known[plural]:
                        return False
            return True

        wait_until(heard, seconds, "the watcher heard of everything", every=0.1)

    def violations(self) -> list[Violation]:
        """Return all violations so far, in order."""
        self.settle()
        return [found for _, found in self._replay() if found is not None]

    def unserved(self, records: Iterable[Record]) -> list[str]:
        """Return where services fell under their floors by the node side's own word, while nobody heard it, too.

        A pod serves from the moment at which its node found it ready until it is asked to go there, or ends.
        """
        self.settle()
        serves: dict[str, tuple[str, float]] = {}
        with self._lock:
            for each in self._heard:
                body = each.event.object
                runs = (body["metadata"].get("annotations") or {}).get(REPLICA)
                if each.plural == "pods" and runs and body["metadata"]["namespace"] == self.namespace:
                    serves[body["metadata"]["uid"]] = _labels(body)[SERVICE], json.loads(runs)["throughput"]
            steps = [(at, "floor", name, rate) for at, name, rate in self._promised]
        steps += [(each.end, each.kind, each.uid, 0.0) for each in records if each.uid in serves]
        floors: dict[str, float] = {}
        ready: set[str] = set()
        found = []
        for at, kind, name, rate in sorted(steps):
            if kind == "floor":
                floors[name] = rate
            else:
                (ready.add if kind == "ready" else ready.discard)(name)
            now: dict[str, float] = defaultdict(float)
            for uid in ready:
                now[serves[uid][0]] += serves[uid][1]
            found += [
                f"{at:.1f} {kind} {name}: {service} serves {now[service]:g} of {floor:g} items/s"
                for service, floor in floors.items()
                if now[service] < floor * (1 - 1e-9)
            ]
        return found

    def services(self) -> dict[str, Service]:
        """Return the observed throughput of each service."""
        self.settle()
        least: dict[str, float] = {}
        serving: dict[str, float] = {}
        for state, _ in self._replay():
            serving = _throughput(state.pods, self.namespace)
            for name in self._floors_at(self._version):
                least[name] = min(serving.get(name, 0.0), least.get(name, math.inf))
        return {
            name: Service(least.get(name, serving.get(name, 0.0)), serving.get(name, 0.0))
            for name in {*least, *serving}
        }

    def deployed(self) -> dict[str, dict[str, str]]:
        """Return the services that are ready, by GPU and placement: `{"node-0/gpu-1": {"3g.20gb@4": "bert"}}`."""
        self.settle()
        state = [state for state, _ in self._replay()][-1]
        found: dict[str, dict[str, str]] = defaultdict(dict)
        claims = {_key(claim): claim for claim in state.claims.values()}
        for pod in state.pods.values():
            if not _ready(pod) or SERVICE not in _labels(pod):
                continue
            for name in _claim_names(pod):
                claim = claims.get(f"{pod['metadata']['namespace']}/{name}")
                for pool, device in _devices(claim) if claim else ():
                    at = state.devices.get((pool, device))
                    where = f"{at.profile}@{at.start}" if at else device
                    found[at.gpu if at else pool][where] = _labels(pod)[SERVICE]
        return {gpu: dict(sorted(placed.items())) for gpu, placed in sorted(found.items())}

    def report(self) -> str:
        """Return the violations as lines."""
        return "\n".join(
            f"{each.time} {each.version} {each.kind}: {each.words}" for each in self.violations()
        )

    # --- checks ---

    def _replay(self) -> Iterator[tuple[_State, Violation | None]]:
        """Yield the state after each event, and its violations, each once."""
        with self._lock:
            events = sorted(self._heard, key=lambda each: (each.version, each.order))
        state = _State()
        for each in (
            events
        ):  # a slice also counts for earlier events, since the lists of two kinds are of different moments
            if each.plural == "resourceslices" and each.event.kind != "DELETED":
                _learn(state, each.event.object["spec"])
        standing: set[str] = set()
        for each in events:
            self._version = each.version
            words = list(self._stranger(state, each))
            _apply(state, each)
            if each.plural == "pods":
                words += list(self._floor_faults(state, each.version))
                words += list(self._orphans(state, each))
            elif each.plural == "resourceclaims":
                words += list(_claim_faults(state))
                words += list(self._orphans(state, each))
            yield state, None
            for kind, text in words:
                if text not in standing:
                    yield state, Violation(kind, each.version, each.time, text)
            standing = {text for _, text in words} | {
                text for text in standing if text.split(":")[0] != _area(each.plural)
            }

    def _floors_at(self, version: int) -> dict[str, float]:
        return {name: rate for since, name, rate in self._floors if since < version}

    def _floor_faults(self, state: _State, version: int) -> Iterator[tuple[str, str]]:
        floors = self._floors_at(version)
        if not any(floors.values()):
            return
        now = _throughput(state.pods, self.namespace)
        for name, rate in floors.items():
            if now.get(name, 0.0) < rate * (1 - 1e-9):
                yield "floor", f"pods: {name} serves {now.get(name, 0.0):g} of {rate:g} items/s"

    def _orphans(self, state: _State, heard: _Heard) -> Iterator[tuple[str, str]]:
        if heard.plural != "resourceclaims" or heard.event.kind != "DELETED":
            return
        key = _key(heard.event.object)
        for pod in state.pods.values():
            named = {f"{pod['metadata']['namespace']}/{name}" for name in _claim_names(pod)}
            if key in named and pod["status"].get("phase") not in {"Succeeded", "Failed"}:
                yield "orphan", f"claims: {key} went while pod {pod['metadata']['name']} was there"

    def _stranger(self, state: _State, heard: _Heard) -> Iterator[tuple[str, str]]:
        if heard.plural != "resourceclaims":
            return
        before = state.claims.get(heard.event.object["metadata"]["uid"])
        if before is None or _ours(before) or _key(before) in self._expected:
            return
        if heard.event.kind == "DELETED":
            yield "stranger", f"claims: {_key(before)} was deleted"
        elif _devices(before) and _devices(heard.event.object) != _devices(before):
            yield "stranger", f"claims: {_key(before)} holds other devices than before"
        managers = {each.get("manager") for each in heard.event.object["metadata"].get("managedFields") or ()}
        if "partita" in managers:
            yield "stranger", f"claims: {_key(before)} was written by Partita"


def _area(plural: str) -> str:
    return "claims" if plural == "resourceclaims" else plural


def _apply(state: _State, heard: _Heard) -> None:
    body, gone = heard.event.object, heard.event.kind == "DELETED"
    uid = body["metadata"]["uid"]
    if heard.plural == "resourceslices":
        return
    table = state.pods if heard.plural == "pods" else state.claims
    if gone:
        table.pop(uid, None)
    else:
        table[uid] = body


def _learn(state: _State, spec: Object) -> None:
    node = spec["pool"]["name"]

    def gpu(counter_set: str) -> str:
        return f"{node}/{counter_set.removesuffix('-counter-set')}"

    for each in spec.get("sharedCounters") or ():
        state.counters[gpu(each["name"])] = _numbers(each["counters"])
    for each in spec.get("devices") or ():
        for taken in each.get("consumesCounters") or ():
            profile = each["attributes"].get("profile", {}).get("string", "")
            state.devices[node, each["name"]] = _Device(
                gpu(taken["counterSet"]), profile, _numbers(taken["counters"])
            )


def _numbers(counters: Object) -> dict[str, int]:
    scale = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    found = {}
    for key, each in counters.items():
        read = re.fullmatch(r"(\d+)(Ki|Mi|Gi)?", str(each["value"]))
        assert read is not None, each
        found[key] = int(read[1]) * scale.get(read[2], 1)
    return found


def _claim_faults(state: _State) -> Iterator[tuple[str, str]]:
    holders: dict[str, list[tuple[str, _Device]]] = defaultdict(list)
    for claim in state.claims.values():
        for pool, name in _devices(claim):
            device = state.devices.get((pool, name))
            if device is None:
                yield "placement", f"claims: {_key(claim)} holds {pool}/{name}, which there is not"
                continue
            holders[device.gpu].append((_key(claim), device))
            wanted = (claim["metadata"].get("annotations") or {}).get(PLACEMENT)
            there = f"{device.gpu} {device.profile}@{device.start}"
            if _ours(claim) and wanted is not None and wanted != there:
                yield "placement", f"claims: {_key(claim)} is for {wanted} and holds {there}"
    for gpu, held in holders.items():
        used: dict[str, int] = defaultdict(int)
        for _, device in held:
            for key, value in device.takes.items():
                used[key] += value
        over = [key for key, value in used.items() if value > state.counters.get(gpu, {}).get(key, value)]
        if over:
            names = ", ".join(sorted(name for name, _ in held))
            yield "overlap", f"claims: {names} hold more of {gpu} than it has: {', '.join(sorted(over))}"


def _throughput(pods: dict[str, Object], namespace: str) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for pod in pods.values():
        runs = (pod["metadata"].get("annotations") or {}).get(REPLICA)
        if pod["metadata"]["namespace"] == namespace and runs and _ready(pod):
            found[_labels(pod)[SERVICE]] += float(json.loads(runs)["throughput"])
    return dict(found)


def _ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    true = {each["type"] for each in conditions if each["status"] == "True"}
    gated = bool(pod["spec"].get("readinessGates"))
    serves = "Ready" in true or ("ContainersReady" in true and not gated)
    return serves and not pod["metadata"].get("deletionTimestamp")


def _labels(body: Object) -> dict[str, str]:
    return dict(body["metadata"].get("labels") or {})


def _ours(claim: Object) -> bool:
    return _labels(claim).get(MANAGED[0]) == MANAGED[1]


def _key(body: Object) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"


def _claim_names(pod: Object) -> list[str]:
    named = pod["spec"].get("resourceClaims") or ()
    return [each["resourceClaimName"] for each in named if each.get("resourceClaimName")]


def _devices(claim: Object) -> list[tuple[str, str]]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or ()
    return [(each["pool"], each["device"]) for each in results if not each.get("adminAccess")]
