"""How a claim gets the exact device of a plan, on a real control plane: by Partita's allocation, or by taints."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kubernetes.control_plane.cluster import ControlPlane, needed_programs
from tests.kubernetes.control_plane.slices import Gpu, Pool, device_classes, node_object

from benchmarks.report import table
from partita.kubernetes.allocation_check import together_faults
from partita.kubernetes.claims import (
    RESOURCE_CLAIM,
    ClaimedInstance,
    ResourceClaim,
    allocated_body,
    claim_body,
    gpu_of,
)
from partita.kubernetes.connecting import open_api
from partita.kubernetes.fence import TAINT_RULES, Fence
from partita.kubernetes.inventory import NODE, NVIDIA, RESOURCE_SLICE, Inventory, read_inventory
from partita.kubernetes.pods import INSTANCE, POD, PodPlace, pod_body
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.objects import Body

MODEL = "a100-80gb"
LAYOUTS = (
    "1g.10gb@0 1g.10gb@3 2g.20gb@4 1g.10gb@6",
    "1g.10gb@1 2g.20gb@2 3g.40gb@4",
    "4g.40gb@0 3g.40gb@4",
    "2g.20gb@0 1g.10gb@2 2g.20gb@4 1g.20gb@6",
)
"""Layouts with holes, at starts that a first fit would not choose."""
TEMPLATE = {
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {"name": "server", "image": "server:1", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
        ],
    }
}
REPLICA = Replica("resnet50", "resnet50", 8, 1, 900.0, 12.0)
NAMESPACE = "default"
GPUS = 8
WRITERS = 16
CROWDED = 5
STRANGERS = 40


@dataclass
class Cluster:
    """A control plane with fake nodes, and its GPUs."""

    plane: ControlPlane
    api: KubernetesApi
    pool: ThreadPoolExecutor
    inventory: Inventory = field(default_factory=lambda: Inventory({}, ()))

    def add_nodes(self, count: int) -> None:
        """Add nodes of eight A100s each."""
        admin = self.plane.admin
        for each in device_classes():
            admin.create("deviceclasses", each)

        def add(index: int) -> None:
            name = f"node-{index}"
            gpus = tuple(Gpu.of(name, minor, MODEL) for minor in range(GPUS))
            made = admin.create("nodes", node_object(name, gpus, 0))
            for each in Pool(name, made["metadata"]["uid"], gpus).slices():
                admin.create("resourceslices", each)

        list(self.pool.map(add, range(count)))
        until(lambda: all(node.ready for node in self.api.list_objects(NODE).items), 60)
        self.inventory = read_inventory(
            self.api.list_objects(RESOURCE_SLICE).items, self.api.list_objects(NODE).items
        )
        time.sleep(3)  # the scheduler reads the slices

    def wanted(self, count: int, seed: int) -> list[ClaimedInstance]:
        """Return instances on GPUs drawn by chance, in an order drawn by chance."""
        rng = random.Random(seed)
        gpus = list(self.inventory.gpus.values())
        rng.shuffle(gpus)
        found = [
            ClaimedInstance(gpu, place, gpu.devices[place])
            for gpu in gpus
            for place in map(Placement.parse, rng.choice(LAYOUTS).split())
        ][:count]
        rng.shuffle(found)
        return found

    def claims(self) -> dict[str, ResourceClaim]:
        """Return ours by name."""
        found = self.api.list_objects(RESOURCE_CLAIM, NAMESPACE, labels=INSTANCE)
        return {each.metadata.name: each for each in found.items}

    def clear(self) -> None:
        """Delete all pods and claims."""
        admin = self.plane.admin
        for kind in ("pods", "resourceclaims"):
            for name in [each["metadata"]["name"] for each in admin.objects(kind, NAMESPACE)]:
                if kind == "resourceclaims":
                    admin.patch(kind, name, {"metadata": {"finalizers": None}}, NAMESPACE)
                admin.delete(kind, name, NAMESPACE, grace=0)
        until(lambda: not admin.objects("pods", NAMESPACE), 120)

    def seconds(self) -> dict[str, float]:
        """Return the CPU seconds of the programs until now."""
        return {name: cpu_seconds(self.plane.pid(name)) for name in ("apiserver", "scheduler", "kcm")}

    def writes(self) -> Counter[str]:
        """Return all writes that the server has accepted, by resource."""
        found: Counter[str] = Counter()
        for key, value in self.plane.metrics("apiserver_request_total").items():
            told = dict(
                each.split("=", 1) for each in key.partition("{")[2].rstrip("}").replace('"', "").split(",")
            )
            written = told["verb"] in {"POST", "PUT", "PATCH", "APPLY", "DELETE"} and told["code"].startswith(
                "2"
            )
            if (
                written
                and told["resource"] in {"pods", "resourceclaims"}
                and told["subresource"] != "eviction"
            ):
                found["/".join(filter(None, (told["resource"], told["subresource"])))] += int(value)
        return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait for a condition; say whether it came true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.25)
    return True


@contextmanager
def cluster(programs: Path, nodes: int) -> Iterator[Cluster]:
    """Return a control plane of its own."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(WRITERS) as pool:
        plane = ControlPlane(programs, Path(scratch) / "plane")
        try:
            plane.start()
            kubeconfig = str(plane.kubeconfig("admin"))
            api = open_api(kubeconfig, namespace=NAMESPACE, requests_per_s=2000.0, burst=2000)
            found = Cluster(plane, api, pool)
            found.add_nodes(nodes)
            yield found
        finally:
            plane.stop()


Way = Callable[[Cluster, ClaimedInstance], None]


def by_partita(cluster: Cluster, instance: ClaimedInstance) -> None:
    """Allocate a claim, then make its pod, which the scheduler binds."""
    made(cluster, instance)
    cluster.api.create(POD, pod(instance))


def by_partita_unpinned(cluster: Cluster, instance: ClaimedInstance) -> None:
    """Allocate a claim, then make its pod, for which the scheduler must find the node itself."""
    made(cluster, instance)
    body = pod(instance)
    del body["spec"]["affinity"]
    cluster.api.create(POD, body)


def by_partita_on_node(cluster: Cluster, instance: ClaimedInstance) -> None:
    """Allocate a claim, then make its pod with the node's name, so that the scheduler is not involved."""
    made(cluster, instance)
    body = pod(instance)
    del body["spec"]["affinity"]
    body["spec"]["nodeName"] = instance.gpu.node
    cluster.api.create(POD, body)


def by_taints(cluster: Cluster, instance: ClaimedInstance) -> None:
    """Let the scheduler allocate a claim that tolerates only the taint of one device name."""
    claim = claim_body(instance, "day", [])
    exactly = claim["spec"]["devices"]["requests"][0]["exactly"]
    exactly["tolerations"] = [
        {"key": f"partita.dev/{instance.device}", "operator": "Exists", "effect": "NoSchedule"}
    ]
    cluster.api.create(RESOURCE_CLAIM, claim)
    body = pod(instance)
    del body["spec"]["affinity"]
    cluster.api.create(POD, body)


def made(cluster: Cluster, instance: ClaimedInstance) -> None:
    """Make and allocate a claim."""
    body = claim_body(instance, "day", [])
    claim = cluster.api.create(RESOURCE_CLAIM, body)
    cluster.api.replace(RESOURCE_CLAIM, allocated_body(claim, body, instance, "day"), subresource="status")


def pod(instance: ClaimedInstance) -> Body:
    """Return the pod of a replica on an instance."""
    words = f"{instance.gpu.id} {instance.placement}"
    return pod_body(
        TEMPLATE, REPLICA, PodPlace(instance.name, words, instance.gpu.node, instance.name), "day", []
    )


def taint_names(cluster: Cluster) -> None:
    """Taint each device name on all nodes, and wait until the scheduler has nothing to do any more."""
    gpus = [gpu for gpu in cluster.inventory.gpus.values() if gpu.node == "node-0"]

    def taint(name: str) -> None:
        taint = {"key": f"partita.dev/{name}", "effect": "NoSchedule"}
        spec = {"deviceSelector": {"driver": NVIDIA, "device": name}, "taint": taint}
        cluster.api.create(TAINT_RULES[0], {"metadata": {"name": f"only-{name}"}, "spec": spec})

    list(cluster.pool.map(taint, [name for gpu in gpus for name in gpu.names]))
    time.sleep(5)
    pid = cluster.plane.pid("scheduler")

    def idle() -> bool:
        before = cpu_seconds(pid)
        time.sleep(5)
        return cpu_seconds(pid) - before < 0.1

    until(idle, 300)


def carry_out(
    cluster: Cluster,
    way: Way,
    wanted: list[ClaimedInstance],
    limit_s: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> list[object]:
    """Create instances and their pods; return the results as columns."""
    cpu, writes, began = cluster.seconds(), cluster.writes(), time.monotonic()
    half = len(wanted) // 2
    list(cluster.pool.map(lambda each: way(cluster, each), wanted[:half]))
    meanwhile()
    list(cluster.pool.map(lambda each: way(cluster, each), wanted[half:]))
    bound = 0

    def all_bound() -> bool:
        nonlocal bound
        pods = cluster.api.list_objects(POD, NAMESPACE, labels=INSTANCE).items
        placed = {each.metadata.uid for each in pods if each.spec.node_name}
        users = [user for claim in cluster.claims().values() for user in claim.status.reserved_for]
        bound = sum(user.uid in placed for user in users)
        return bound == len(wanted)

    until(all_bound, limit_s - (time.monotonic() - began))
    took = time.monotonic() - began
    spent = cluster.seconds()
    used = {name: spent[name] - min(cpu[name], spent[name]) for name in cpu}
    more = cluster.writes() - writes
    claims = cluster.claims()
    exact = sum(
        [(d.pool, d.name) for d in claims[each.name].devices] == [(each.gpu.pool, each.device)]
        for each in wanted
    )
    return [
        f"{exact} of {len(wanted)}",
        f"{bound} of {len(wanted)}",
        took,
        (sum(more.values()) - more["pods/status"]) / len(wanted),
        used["apiserver"],
        used["scheduler"],
    ]


def strangers(cluster: Cluster, count: int) -> None:
    """Create pods of other users that request any MIG device."""

    def ask(index: int) -> None:
        admin = cluster.plane.admin
        name = f"stranger-{index}"
        profile = ("1g.10gb", "2g.20gb", "3g.40gb")[index % 3]
        chosen = f"device.attributes['gpu.nvidia.com'].profile == '{profile}'"
        exactly = {"deviceClassName": "mig.nvidia.com", "selectors": [{"cel": {"expression": chosen}}]}
        spec: Body = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
        head = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name}}
        admin.create("resourceclaims", {**head, "spec": spec}, NAMESPACE)
        container = {"name": "c", "image": "c", "resources": {"claims": [{"name": "gpu"}]}}
        claims = [{"name": "gpu", "resourceClaimName": name}]
        body = {"containers": [container], "resourceClaims": claims}
        admin.create(
            "pods", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}, NAMESPACE
        )

    list(cluster.pool.map(ask, range(count)))


def overlaps(cluster: Cluster) -> tuple[int, int]:
    """Return how many strangers' claims hold devices, and on how many GPUs devices overlap."""
    claims = cluster.api.list_objects(RESOURCE_CLAIM, NAMESPACE).items
    by_gpu: dict[str | None, list[Any]] = {}
    for claim in claims:
        for device in claim.devices:
            by_gpu.setdefault(gpu_of(device), []).append(device)
    model = gpu_model(MODEL)
    taken = sum(bool(each.devices) for each in claims if each.metadata.name.startswith("stranger-"))
    return taken, sum(bool(together_faults(devices, model)) for devices in by_gpu.values())


def run(*, quick: bool) -> str:
    """Return the tables.

    Raises:
        FileNotFoundError: the programs of the control plane are not built.
    """
    programs = needed_programs()
    sizes = [(25, 100)] if quick else [(25, 100), (250, 1000)]
    limit = 60.0 if quick else 300.0
    rows: list[list[object]] = []
    for nodes, count in sizes:
        with cluster(programs, nodes) as one:
            wanted = one.wanted(count, 7)
            for name, way in (
                ("Partita allocates, the scheduler binds to the node named", by_partita),
                ("Partita allocates, the scheduler finds the node", by_partita_unpinned),
                ("Partita allocates and names the node", by_partita_on_node),
            ):
                rows.append([name, nodes, *carry_out(one, way, wanted, limit)])
                one.clear()
            taint_names(one)
            rows.append(
                [
                    "a taint a device name, the scheduler allocates",
                    nodes,
                    *carry_out(one, by_taints, wanted, limit),
                ]
            )
    beside: list[list[object]] = []
    with cluster(programs, CROWDED) as one:
        wanted = one.wanted(4 * CROWDED * GPUS, 9)

        def restart() -> None:
            one.plane.kill_scheduler()
            one.plane.start_scheduler()

        found = carry_out(one, by_partita, wanted, limit, restart)
        beside.append(["the scheduler is killed and comes back", found[0], found[1], found[2], 0, 0])
        one.clear()
        for fenced in (False, True):
            if fenced:
                counts = {f"node-{index}": GPUS for index in range(CROWDED)}
                Fence(one.api, "day").keep(one.inventory.gpus.values(), counts)
            found = carry_out(one, by_partita, wanted, limit, lambda: strangers(one, STRANGERS))
            time.sleep(5)
            taints = "a taint rule a pool made just before" if fenced else "no taints"
            name = f"{STRANGERS} strangers' pods come, {taints}"
            beside.append([name, found[0], found[1], found[2], *overlaps(one)])
            one.clear()
    return (
        "## Exact devices on Kubernetes\n\nClaims and their pods on a real control plane (1.37.2) whose nodes, of "
        "eight A100-80GB each, are fake, until each pod is bound to its node and its claim is reserved for it; "
        "after that it is the kubelet's turn. Placements are random, at starts that a first fit would not "
        f"choose. There are {WRITERS} writers, and a case ends after {limit:g} s. Writes are those of all "
        "clients to claims and pods, without the status of pods.\n\n"
        + table(
            [
                "way",
                "nodes",
                "on the planned device",
                "bound",
                "seconds",
                "writes a replica",
                "CPU s of the API server",
                "CPU s of the scheduler",
            ],
            rows,
        )
        + "\nIf the scheduler must find the node itself and a pod fits nowhere for a moment, the scheduler "
        "removes the claim's allocation to try another node. So Partita names the node in each pod's affinity, "
        "and leaves binding to the scheduler, which accounts for the node's other resources.\n"
        + f"\nPartita allocates claims on all GPUs of {CROWDED} nodes, and half-way one of these events "
        "happens:\n\n"
        + table(
            [
                "what",
                "on the planned device",
                "bound",
                "seconds",
                "strangers' claims that got a device",
                "GPUs with two owners of a slice",
            ],
            beside,
        )
    )
