from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from typer.testing import CliRunner

from partita.cli.main import app
from partita.errors import InputError
from partita.export.mig_parted import mig_parted_config
from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, Solver

if TYPE_CHECKING:
    from pathlib import Path


def gpu(gpu_id: str, *profiles: str) -> PlannedGpu:
    made = (
        Instance(Placement(n, p), "s", "m", OperatingPoint(p, 1, 1, 1.0, 1.0, ""))
        for n, p in enumerate(profiles)
    )
    return PlannedGpu(gpu_id, "a100-80gb", tuple(made))


def plan(*gpus: PlannedGpu) -> Plan:
    return Plan(Objective("gpus", len(gpus), len(gpus)), Solver("exact", 0, 0.1), (), gpus)


def test_each_node_has_a_config_in_which_gpus_with_equal_counts_share_an_entry() -> None:
    config = mig_parted_config(
        plan(
            gpu("node-0/gpu-3", "1g.10gb", "3g.40gb", "1g.10gb"),
            gpu("node-0/gpu-1", "3g.40gb", "1g.10gb", "1g.10gb"),
            gpu("node-0/gpu-2", "7g.80gb"),
            gpu("node-1/gpu-10", "1g.10gb+me"),
        )
    )
    assert config == {
        "version": "v1",
        "mig-configs": {
            "partita-node-0": [
                {"devices": [1, 3], "mig-enabled": True, "mig-devices": {"1g.10gb": 2, "3g.40gb": 1}},
                {"devices": [2], "mig-enabled": True, "mig-devices": {"7g.80gb": 1}},
            ],
            "partita-node-1": [{"devices": [10], "mig-enabled": True, "mig-devices": {"1g.10gb+me": 1}}],
        },
    }


def test_node_names_of_a_cluster_are_kept() -> None:
    config = mig_parted_config(plan(gpu("rack/host.example.org/gpu-0", "7g.80gb")))
    assert list(config["mig-configs"]) == ["partita-rack/host.example.org"]


@pytest.mark.parametrize("name", ["gpu-0", "node-0/3", "/gpu-1", "node-0/gpu-x"])
def test_a_gpu_without_node_or_index_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="does not say the node and the index"):
        mig_parted_config(plan(gpu(name, "7g.80gb")))


DOCUMENT = {
    "apiVersion": "partita/v1",
    "kind": "Plan",
    "objective": {"name": "gpus", "value": 1, "lower_bound": 1, "gap": 0.0, "proven": True},
    "solver": {"name": "exact", "seed": 0, "seconds": 0.05},
    "services": [],
    "gpus": [
        {
            "id": "node-0/gpu-0",
            "model": "a100-80gb",
            "instances": [
                {
                    "profile": "3g.40gb",
                    "start": 4,
                    "service": "s",
                    "model": "m",
                    "batch": 1,
                    "processes": 1,
                    "throughput": 1,
                    "latency_ms": 1,
                }
            ],
        }
    ],
}


def test_the_command_writes_yaml_with_devices_and_counts_on_one_line(tmp_path: Path) -> None:
    path, out = tmp_path / "plan.json", tmp_path / "mig.yaml"
    path.write_text(json.dumps(DOCUMENT))
    result = CliRunner().invoke(app, ["export", "mig-parted", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "devices: [0]" in result.stdout
    assert "mig-devices: {3g.40gb: 1}" in result.stdout
    assert yaml.safe_load(result.stdout)["mig-configs"]["partita-node-0"][0]["mig-enabled"] is True
    result = CliRunner().invoke(
        app, ["export", "mig-parted", str(path), "--out", str(out)], catch_exceptions=False
    )
    assert result.stdout == ""
    assert yaml.safe_load(out.read_text())["version"] == "v1"
