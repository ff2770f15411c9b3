"""mig-parted's configs as layouts: what is read, what is refused with its line, and what became of an export."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.cli.commands import Commands
from tests.control.world import deployment
from typer.testing import CliRunner

from partita.cli.main import app
from partita.errors import InputError
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Layout, Placement, legal_layouts
from partita.mig_parted import as_layouts, mig_parted_config, read_config
from partita.perf.operating_point import OperatingPoint
from partita.planning.document import read_plan
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, Solver
from partita.transition.deployment import DeployedGpu, DeployedInstance, Layouts
from partita.transition.document import parse_layouts

if TYPE_CHECKING:
    from collections.abc import Callable


CASE = Path(__file__).resolve().parents[1].parent / "shared" / "cases" / "33-mig-parted-config-not-read"
LAB = """version: v1
mig-configs:
  lab:
    - devices: [0]
      mig-enabled: false
    - devices: [1]
      mig-enabled: true
      mig-devices:
        "2g.20gb": 3
        "1g.10gb": 1
    - device-filter: ["0x233010DE"]
      devices: all
      mig-enabled: true
      mig-devices:
        "4g.40gb": 1
        "3g.40gb": 1
"""
BALANCED = """version: v1
mig-configs:
  all-balanced:
    - device-filter: ["0x20B210DE", "0x20b510de"]
      devices: all
      mig-enabled: true
      mig-devices: {"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1}
    - device-filter: "0x20B710DE"
      devices: all
      mig-enabled: true
      mig-devices: {"1g.6gb": 2, "2g.12gb": 1}
  all-1g.10gb.me:
    - {devices: all, mig-enabled: true, mig-devices: {"1g.10gb+me": 1}}
  all-enabled:
    - {devices: all, mig-enabled: true, mig-devices: {}}
  all-disabled:
    - {devices: all, mig-enabled: false}
"""


EIGHTY = {"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return written


def node(*models: str, standing: str = "") -> list[DeployedGpu]:
    """Return a node's GPUs, the first with these instances."""
    instances = tuple(DeployedInstance(Placement.parse(word), None) for word in standing.split())
    return [DeployedGpu(f"node-0/gpu-{n}", model, () if n else instances) for n, model in enumerate(models)]


def cuts(layouts: Layouts) -> dict[str, str]:
    return {gpu.id: " ".join(str(i.placement) for i in gpu.instances) for gpu in layouts.gpus}


def test_devices_by_index_by_filter_and_off(write: Callable[[str], Path]) -> None:
    found = as_layouts(read_config(write(LAB)), node("a100-80gb", "a100-80gb", "h100-80gb", "a100-80gb"))
    assert cuts(found.layouts) == {
        "node-0/gpu-0": "",
        "node-0/gpu-1": "2g.20gb@0 2g.20gb@2 2g.20gb@4 1g.10gb@6",
        "node-0/gpu-2": "4g.40gb@0 3g.40gb@4",
        "node-0/gpu-3": "",
    }
    told = "\n".join(found.notes)
    assert "node-0/gpu-0: mig-enabled is false" in told
    assert "does not mention node-0/gpu-3" in told


def test_the_case_s_config_is_read() -> None:
    if not CASE.is_dir():
        pytest.skip("the case is not there")
    found = as_layouts(read_config(CASE / "config.yaml"), node("h100-80gb", "h100-80gb"))
    assert set(cuts(found.layouts).values()) == {"4g.40gb@0 3g.40gb@4"}
    told = "\n".join(found.notes)
    assert "node-0/gpu-0: mig-configs.lab[2] overrides mig-configs.lab[0]" in told
    assert "mig-enabled is false" not in told


@pytest.mark.parametrize(
    ("name", "models", "wanted"),
    [
        ("all-balanced", ("a100-80gb", "a30-24gb"), [EIGHTY, {"1g.6gb": 2, "2g.12gb": 1}]),
        ("all-1g.10gb.me", ("h100-pcie-80gb",), [{"1g.10gb+me": 1}]),
        ("all-enabled", ("a100-80gb",), [{}]),
        ("all-disabled", ("a100-80gb",), [{}]),
    ],
)  # fmt: skip
def test_named_configs_of_the_default_file(
    write: Callable[[str], Path], name: str, models: tuple[str, ...], wanted: list[dict[str, int]]
) -> None:
    found = as_layouts(read_config(write(BALANCED)), node(*models), name)
    assert [dict(Counter(i.placement.profile for i in gpu.instances)) for gpu in found.layouts.gpus] == wanted


def test_a_filter_that_meets_no_gpu_is_noted(write: Callable[[str], Path]) -> None:
    found = as_layouts(read_config(write(BALANCED)), node("b200-180gb"), "all-balanced")
    assert "no GPU here has a PCI number" in "\n".join(found.notes)


def test_what_stands_stays_where_it_can(write: Callable[[str], Path]) -> None:
    text = LAB.replace("devices: [1]", "devices: [0]").replace('"2g.20gb": 3', '"2g.20gb": 1')
    found = as_layouts(read_config(write(text)), node("a100-80gb", standing="1g.10gb@3 2g.20gb@4"))
    assert cuts(found.layouts)["node-0/gpu-0"] == "1g.10gb@3 2g.20gb@4"


def test_any_counts_that_fit_get_starts(write: Callable[[str], Path]) -> None:
    gpu = gpu_model("a100-80gb").with_plain(())
    for layout in legal_layouts(gpu)[::17]:
        text = yaml.safe_dump(
            {
                "version": "v1",
                "mig-configs": {"x": [{"devices": [0], "mig-enabled": True, "mig-devices": layout.counts}]},
            }
        )
        made = as_layouts(read_config(write(text)), node("a100-80gb")).layouts.gpus[0]
        placed = Layout(gpu_model("a100-80gb"), tuple(i.placement for i in made.instances))
        assert placed.counts == layout.counts


def test_names_that_some_drivers_print_are_known(write: Callable[[str], Path]) -> None:
    text = LAB.replace('"2g.20gb": 3', '"3g.39gb": 1').replace("devices: [0]", "devices: [2]")
    found = as_layouts(read_config(write(text)), node("a100-80gb", "a100-80gb", "a100-80gb"))
    assert "3g.40gb@" in cuts(found.layouts)["node-0/gpu-1"]


def test_one_in_a_kubernetes_configmap_is_taken_out(write: Callable[[str], Path]) -> None:
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "data": {"config.yaml": LAB}})
    assert set(read_config(write(text)).configs) == {"lab"}


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("version: v1", "version: v2", 1, "version: must be 'v1', not 'v2'"),
        ("devices: [0]", "devices: some", 4, "devices: must be 'all' or a list, not 'some'"),
        ("devices: [0]", "devices: [-1]", 4, "must be at least 0"),
        ("      mig-enabled: false\n", "      mig-enabled: no\n", 5, "must be true or false"),
        ("      mig-enabled: false\n", "", 4, "mig-enabled is missing"),
        ("mig-enabled: false", "mig-enabled: false\n      mig-devices: {1g.10gb: 1}", 6, "mig-enabled is false"),
        ('"2g.20gb": 3', '"2g.20gb": three', 9, "must be a whole number, not 'three'"),
        ('"2g.20gb": 3', '"1c.2g.20gb": 3', 9, "compute instances smaller"),
        ('"0x233010DE"', "0x2330", 11, "a PCI number"),
        ("      devices: all\n", "      devices: all\n      device: 3\n", 13, "device: unknown key"),
        ('"2g.20gb": 3', '"2g.10gb": 3', 9, "which has no 2g.10gb"),
        ('"2g.20gb": 3', '"2g.20gb": 4', 8, "do not fit on node-0/gpu-1"),
        ("devices: [1]", "devices: [7]", 6, "there is no GPU 7"),
        ("mig-configs", "mig-config", 1, "not a mig-parted config"),
        (LAB, "version: v1\nmig-configs: {}\n", 2, "must be a mapping, not empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_with_its_line(
    write: Callable[[str], Path], old: str, new: str, line: int, said: str
) -> None:
    path = write(LAB.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        as_layouts(read_config(path), node("a100-80gb", "a100-80gb"))
    assert said in str(caught.value)
    assert f"{path}:{line}" in str(caught.value)


def test_which_config_is_meant_has_to_be_clear(write: Callable[[str], Path]) -> None:
    config = read_config(write(BALANCED))
    with pytest.raises(InputError, match="4 configs") as caught:
        as_layouts(config, node("a100-80gb"))
    assert "--config: all-balanced" in str(caught.value.hint)
    with pytest.raises(InputError, match="no config 'best'"):
        as_layouts(config, node("a100-80gb"), "best")


def test_an_export_comes_back_with_the_same_counts(write: Callable[[str], Path]) -> None:
    there = [DeployedGpu(f"rack/n{n}/gpu-{i}", "h100-80gb", ()) for n in range(2) for i in range(3)]
    cut = ("1g.10gb@6 2g.20gb@0", "3g.40gb@4", "7g.80gb@0", "1g.10gb+me@4 4g.40gb@0", "", "2g.20gb@2")
    before = Layouts(
        tuple(
            DeployedGpu(
                gpu.id,
                gpu.model,
                tuple(DeployedInstance(Placement.parse(word), None) for word in words.split()),
            )
            for gpu, words in zip(there, cut, strict=True)
        )
    )
    text = yaml.safe_dump(mig_parted_config(before))
    after = as_layouts(read_config(write(text)), there).layouts
    wanted = {gpu.id: Counter(i.placement.profile for i in gpu.instances) for gpu in before.gpus}
    assert {
        gpu.id: Counter(i.placement.profile for i in gpu.instances) for gpu in after.gpus if gpu.id in wanted
    } == wanted


# The document, and the commands.


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("partita/v1", "partita/v9", "apiVersion"),
        ('"a30-24gb"', '"a31"', "no GPU 'a31'"),
        ("2g.12gb", "3g.12gb", "gpus[0].instances[0]"),
        ('"start": 2', '"start": 1', "cannot start at 1"),
        ('"start": 2', '"start": 2, "service": "x"', "service"),
        ("gpu-1", "gpu-0", "appears twice"),
    ],
)
def test_layouts_that_cannot_be_used_are_refused(old: str, new: str, said: str) -> None:
    text = (
        '{"apiVersion": "partita/v1", "kind": "Layouts", "gpus": ['
        '{"id": "node-0/gpu-0", "model": "a30-24gb", "instances": [{"profile": "2g.12gb", "start": 2}]}, '
        '{"id": "node-0/gpu-1", "model": "a30-24gb", "instances": []}]}'
    )
    assert cuts(parse_layouts(text, "x.json")) == {"node-0/gpu-0": "2g.12gb@2", "node-0/gpu-1": ""}
    with pytest.raises(InputError) as caught:
        parse_layouts(text.replace(old, new, 1), "x.json")
    assert said in str(caught.value)


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    (tmp_path / "config.yaml").write_text(LAB)
    return Commands(tmp_path, monkeypatch, capsys)


def test_a_config_in_the_place_of_a_plan_is_named_with_the_way_in(partita: Commands, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for words in (("diff", path), ("apply", path), ("export", "mig-parted", path)):
        told = partita(*words)
        assert told.code == 2, words
        assert "this is a mig-parted config" in told.err
        assert f"partita import mig-parted {path} --out" in told.err
    wrapped = "kind: ConfigMap\ndata:\n  config.yaml: |\n" + indent(LAB, "    ")
    for text in (LAB, json.dumps(yaml.safe_load(LAB)), wrapped):
        path.write_text(text)
        with pytest.raises(InputError, match="this is a mig-parted config"):
            read_plan(path)  # as `plan --check`, `explain` and `serve` do
    path.write_text(LAB)
    told = partita("plan", "-f", path)
    assert told.code == 2
    assert "this is a mig-parted config, not a workload" in told.err


def test_what_is_imported_is_diffed_applied_and_exported(partita: Commands, tmp_path: Path) -> None:
    layouts, config = tmp_path / "layouts.json", tmp_path / "config.yaml"
    made = partita("import", "mig-parted", config, "--gpus", "a100-80gb:2", "--out", layouts)
    assert made.code == 0, made.err
    assert "note: node-0: lab" in made.err
    done = partita("apply", layouts, "--simulate", "a100-80gb:2", "--yes")
    assert done.code == 0, done.err
    shown = json.loads(partita("status", "-o", "json").out)["gpus"]
    assert [[f"{i['profile']}@{i['start']}" for i in gpu["instances"]] for gpu in shown] == [
        [],
        ["2g.20gb@0", "2g.20gb@2", "2g.20gb@4", "1g.10gb@6"],
    ]
    assert partita("diff", layouts).code == 0
    again = partita("import", "mig-parted", config)  # of the cluster, where all stands as it is asked
    assert again.code == 0, again.err
    assert json.loads(again.out) == json.loads(layouts.read_text())
    exported = yaml.safe_load(partita("export", "mig-parted", layouts).out)
    assert {"devices": [1], "mig-enabled": True, "mig-devices": {"1g.10gb": 1, "2g.20gb": 3}} in exported[
        "mig-configs"
    ]["partita-node-0"]


def test_applying_layouts_stops_what_runs_and_says_so_first(partita: Commands, tmp_path: Path) -> None:
    plan = partita.plan("day.json", deployment("7g.40gb@0=bert"))
    assert partita("apply", plan, "--yes").code == 0
    (tmp_path / "config.yaml").write_text(
        'version: v1\nmig-configs: {x: [{devices: [0], mig-enabled: true, mig-devices: {"3g.20gb": 2}}]}\n'
    )
    layouts = tmp_path / "layouts.json"
    assert partita("import", "mig-parted", tmp_path / "config.yaml", "--out", layouts).code == 0
    told = partita("diff", layouts)
    assert told.code == 3
    assert "bert" in told.out
    assert partita("apply", layouts, "--yes").code == 0
    assert json.loads(partita("status", "-o", "json").out)["services"] == []


def test_without_a_cluster_the_gpus_have_to_be_said(partita: Commands, tmp_path: Path) -> None:
    told = partita("import", "mig-parted", tmp_path / "config.yaml")
    assert told.code == 2
    assert "--gpus a100-80gb:8" in told.err


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
    with pytest.raises(InputError, match="does not give the node and the index"):
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
