"""A node that is cordoned is emptied without a floor broken, so that it can be drained."""

from __future__ import annotations

from collections import Counter

from tests.kubernetes.control_plane.installation import Installation
from tests.kubernetes.control_plane.shop import NIGHT, rates
from tests.kubernetes.control_plane.watcher import Watcher


def test_what_runs_on_a_cordoned_node_goes_elsewhere(control_plane, nodes, namespace, tmp_path):
    nodes.add_nodes(3, 8, "a100-80gb")
    with (
        Installation(control_plane, namespace, tmp_path) as partita,
        Watcher(control_plane, namespace) as watcher,
    ):
        partita.start()
        partita.apply(NIGHT)
        partita.wait_reached()
        watcher.require(rates(NIGHT))
        used = Counter(gpu.rpartition("/")[0] for gpu in watcher.deployed())
        node = used.most_common()[-1][0]
        control_plane.admin.patch("nodes", node, {"spec": {"unschedulable": True}})

        def emptied() -> bool:
            return not any(gpu.startswith(f"{node}/") for gpu in watcher.deployed())

        partita.wait(emptied, f"{node} is emptied", 180.0)
        partita.wait(lambda: not nodes.instances()[node], f"nothing is cut on {node}", 60.0)
        partita.wait(partita.reached, "the workload is carried out elsewhere", 60.0)
        assert watcher.deployed() == partita.target()
        assert watcher.violations() == [], watcher.report()
        control_plane.admin.patch("nodes", node, {"spec": {"unschedulable": None}})
