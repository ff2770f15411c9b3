"""Partita on a real control plane, judged by a watcher that knows nothing of how it works."""

from __future__ import annotations

import copy
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.kubernetes.control_plane.installation import Installation
from tests.kubernetes.control_plane.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

Object = dict[str, Any]
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
    return {each["name"]: float(each["rate"]) for each in spec["services"]}


DAY, NIGHT = example("day.yaml"), example("night.yaml")


class Shop:
    """Partita on nodes of A100s, with a watcher beside it."""

    def __init__(
        self, nodes: SimulatedNodes, partita: Installation, watcher: Watcher, control_plane: ControlPlane
    ) -> None:
        self.nodes, self.partita, self.watcher, self.plane = nodes, partita, watcher, control_plane

    def floors(self, old: Object, new: Object) -> dict[str, float]:
        """Return what must be kept from one workload to the next: the lesser of both rates."""
        before, after = rates(old), rates(new)
        return {name: min(before[name], after[name]) for name in set(before) & set(after)}

    def go(self, old: Object, new: Object) -> float:
        """Have a workload follow another, and hold it to its floors until it is carried out; return the seconds."""
        self.watcher.require(self.floors(old, new))
        self.partita.apply(copy.deepcopy(new))
        return self.partita.wait_reached()

    def exact(self) -> None:
        """Hold what is ready, and what there is on the GPUs, to the target."""
        target = self.partita.target()
        assert self.watcher.deployed() == target
        prepared = {
            f"{node}/gpu-{minor}": 0
            for node, there in self.nodes.instances().items()
            for minor in range(8)
            if there
        }
        for node, there in self.nodes.instances().items():
            for device in there:
                prepared[f"{node}/gpu-{device.split('-')[1]}"] += 1
        assert {gpu: count for gpu, count in prepared.items() if count} == {
            gpu: len(placed) for gpu, placed in target.items()
        }


@pytest.fixture
def shop(
    control_plane: ControlPlane, nodes: SimulatedNodes, namespace: str, tmp_path: Path
) -> Iterator[Shop]:
    with (
        Installation(control_plane, namespace, tmp_path) as partita,
        Watcher(control_plane, namespace) as watcher,
    ):
        yield Shop(nodes, partita, watcher, control_plane)


def test_a_day_a_night_and_a_day_of_24_a100s(shop):
    shop.nodes.add_nodes(3, 8, "a100-80gb")
    shop.partita.start()
    shop.partita.apply(DAY)
    shop.partita.wait_reached()
    shop.exact()
    for old, new in ((DAY, NIGHT), (NIGHT, DAY)):
        shop.go(old, new)
        shop.exact()
    assert shop.watcher.violations() == [], shop.watcher.report()
    assert [each for each in shop.nodes.records if each.kind == "refuse"] == []
