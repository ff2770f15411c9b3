"""The five services of the package's example on a control plane, for tests of Partita's guarantees."""

from __future__ import annotations

import copy
from collections import Counter
from importlib import resources
from typing import TYPE_CHECKING

import yaml
from tests.kubernetes.control_plane.watcher import PLACEMENT, SERVICE

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.client import Object
    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.installation import Installation
    from tests.kubernetes.control_plane.nodes import SimulatedNodes
    from tests.kubernetes.control_plane.watcher import Watcher

EXAMPLES = resources.files("partita.examples")


def example(name: str) -> Object:
    """Return a Workload's spec from the package's examples, with its table as text and a pod template."""
    document = yaml.safe_load((EXAMPLES / name).read_text())
    return {
        "gpus": [{"model": each["model"]} for each in document["gpus"]],
        "services": document["services"],
        "limits": document["limits"],
        "performance": [{"csv": (EXAMPLES / "perf.csv").read_text()}],
        "pod": {
            "spec": {
                "terminationGracePeriodSeconds": 30,
                "containers": [{"name": "server", "image": "registry.example/server:1"}],
            }
        },
    }


def rates(spec: Object) -> dict[str, float]:
    """Return the required rate of each service."""
    return {each["name"]: float(each["rate"]) for each in spec["services"]}


def scaled(spec: Object, factor: float) -> Object:
    """Return a workload with all rates multiplied by a factor."""
    found = copy.deepcopy(spec)
    for each in found["services"]:
        each["rate"] = each["rate"] * factor
    return found


DAY, NIGHT = example("day.yaml"), example("night.yaml")


class Shop:
    """Partita on nodes of A100s, with a watcher beside it."""

    def __init__(
        self, nodes: SimulatedNodes, partita: Installation, watcher: Watcher, plane: ControlPlane
    ) -> None:
        self.nodes, self.partita, self.watcher, self.plane = nodes, partita, watcher, plane

    def floors(self, old: Object, new: Object) -> dict[str, float]:
        """Return the floors between two workloads: the smaller of both rates."""
        before, after = rates(old), rates(new)
        return {name: min(before[name], after[name]) for name in set(before) & set(after)}

    def go(self, old: Object, new: Object) -> float:
        """Replace a workload by another and check the floors until it is carried out; return the seconds."""
        self.watcher.require(self.floors(old, new))
        self.partita.apply(copy.deepcopy(new))
        return self.partita.wait_reached()

    def exact(self) -> None:
        """Check that ready replicas and instances on the GPUs are exactly those of the target."""
        target = self.partita.target()
        assert self.watcher.deployed() == target
        assert self.cut() == {gpu: len(placed) for gpu, placed in target.items()}

    def cut(self) -> dict[str, int]:
        """Return how many instances there are on each GPU that has any."""
        found = Counter(
            f"{node}/gpu-{device.split('-')[1]}"
            for node, there in self.nodes.instances().items()
            for device in there
        )
        return dict(found)

    def serve(self, spec: Object, nodes: int, gpus: int, *words: str) -> list[str]:
        """Let one controller with these options carry out a workload on new nodes; return the nodes' names."""
        names = self.nodes.add_nodes(nodes, gpus, "a100-80gb")
        self.partita.start(*words)
        self.partita.apply(copy.deepcopy(spec))
        self.partita.wait_reached()
        return names

    def begin(self, old: Object, new: Object, writes: int = 4) -> None:
        """Replace a workload by another; return after a number of writes of pods and claims."""
        self.watcher.require(self.floors(old, new))
        before = self.driven()
        self.partita.apply(copy.deepcopy(new))
        self.partita.wait(lambda: self.driven() >= before + writes, f"{writes} writes")

    def driven(self) -> int:
        """Return the number of writes of pods and claims."""
        return sum(each.plural.startswith(("pods", "resourceclaims")) for each in self.partita.proxy.writes())

    def deletions(self) -> int:
        """Return how often the controllers deleted a pod or a claim."""
        return sum(
            each.verb == "DELETE" and each.plural in {"pods", "resourceclaims"}
            for each in self.partita.proxy.writes()
        )

    def degraded(self, reason: str, text: str = "") -> Object:
        """Wait until the Workload is degraded for a reason, in words with a text; return that condition."""
        found: Object = {}

        def told() -> bool:
            found.clear()
            found.update(self.partita.condition("Degraded"))
            known = found.get("status") == "True" and reason in {"", found["reason"]}
            return known and text in found["message"]

        self.partita.wait(told, f"it is degraded: {reason} {text}", 120.0)
        return found

    def pods(self) -> dict[tuple[str, str], str]:
        """Return the uid of each replica's pod, by its placement as its annotation says it and its service."""
        return {
            (each["metadata"]["annotations"][PLACEMENT], each["metadata"]["labels"][SERVICE]): each[
                "metadata"
            ]["uid"]
            for each in self.plane.admin.objects("pods", self.partita.namespace)
        }

    def plans(self) -> list[str]:
        """Return the names of all Plans."""
        return sorted(
            each["metadata"]["name"] for each in self.plane.admin.objects("plans", self.partita.namespace)
        )

    def silence(self, *names: str) -> None:
        """Cut nodes off, and have the cluster find out at once; as the node controller says it."""
        for name in names:
            self.nodes.vanish(name)
        for name in names:
            said = [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]
            self.plane.admin.patch("nodes", name, {"status": {"conditions": said}}, sub="status")

    def faults(self, *but: str) -> list[str]:
        """Return the watcher's violations, without some kinds."""
        return [
            f"{each.time} {each.kind}: {each.words}"
            for each in self.watcher.violations()
            if each.kind not in but
        ]
