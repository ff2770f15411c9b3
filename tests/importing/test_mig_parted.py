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

from partita.errors import InputError
from partita.export.mig_parted import mig_parted_config
from partita.importing.mig_parted import as_layouts, read_config
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Layout, Placement, legal_layouts
from partita.planning.document import read_plan
from partita.transition.deployment import DeployedGpu, DeployedInstance, Layouts
from partita.transition.document import parse_layouts

if TYPE_CHECKING:
    from collections.abc import Callable

CASE = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "33-mig-parted-config-not-read"
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
    assert "node-0/gpu-0: of mig-configs.lab[0] and mig-configs.lab[2] the later holds" in told
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
    assert set(read_config(write(text)).entries) == {"lab"}


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("version: v1", "version: v2", 1, "v1 is read"),
        ("devices: [0]", "devices: some", 4, "a list of indices"),
        ("devices: [0]", "devices: [-1]", 4, "a list of indices"),
        ("      mig-enabled: false\n", "      mig-enabled: no\n", 5, "true or false"),
        ("      mig-enabled: false\n", "", 4, "true or false"),
        ("mig-enabled: false", "mig-enabled: false\n      mig-devices: {1g.10gb: 1}", 6, "mig-enabled is false"),
        ('"2g.20gb": 3', '"2g.20gb": three', 8, "profiles to counts"),
        ('"2g.20gb": 3', '"1c.2g.20gb": 3', 9, "compute instances of a part"),
        ('"0x233010DE"', "0x2330", 11, "PCI numbers"),
        ("      devices: all\n", "      devices: all\n      device: 3\n", 13, "no such field"),
        ('"2g.20gb": 3', '"2g.10gb": 3', 9, "which has no 2g.10gb"),
        ('"2g.20gb": 3', '"2g.20gb": 4', 8, "do not fit on node-0/gpu-1"),
        ("devices: [1]", "devices: [7]", 6, "there is no GPU 7"),
        ("mig-configs", "mig-config", 1, "no mig-parted config"),
        (LAB, "version: v1\nmig-configs: {}\n", 2, "at least one config"),
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
        ("gpu-1", "gpu-0", "there twice"),
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
