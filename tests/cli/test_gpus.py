"""`partita gpus` and `doctor`, and GPUs of the user's own in every command."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pynvml
import pytest
import yaml
from tests.cli.commands import Commands
from tests.drive.fake_nvml import FakeNvml
from typer.testing import CliRunner, Result

from partita.cli.main import app
from partita.cli.options import hoisted
from partita.drive.simulated import SimulatedCluster
from partita.errors import InputError
from partita.mig.catalogue import gpu_model, gpu_names, gpu_text, read_gpu

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str, width: int = 100, encoding: str = "utf-8") -> str:
    runner = CliRunner(charset=encoding, env={"COLUMNS": str(width)})
    result = runner.invoke(app, ["gpus", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_gpu_of_the_catalogue_is_listed() -> None:
    text = run(width=160)
    for name in gpu_names():
        assert any(line.startswith(f"{name} ") for line in text.splitlines())


def test_the_list_is_data_too() -> None:
    found = json.loads(run("-o", "json"))
    assert [each["name"] for each in found] == list(gpu_names())
    assert yaml.safe_load(run("-o", "yaml")) == found


def test_the_paper_s_profiles_and_rule_give_the_counts_of_the_paper() -> None:
    chosen = ("--profiles", "1g.5gb,2g,3g,4g,7g")
    facts = json.loads(run("show", "a100-40gb", *chosen, "-o", "json"))
    assert (facts["legal_layouts"], len(facts["maximal_layouts"]), facts["multisets"]) == (298, 19, 14)
    facts = json.loads(run("show", "a100-40gb", *chosen, "--forbid", "4g+3g", "-o", "json"))
    assert (len(facts["maximal_layouts"]), facts["multisets"]) == (18, 13)
    assert facts["forbidden"] == ["3g+4g"]


def test_variants_are_cut_only_when_named() -> None:
    assert "+me" not in "".join(json.loads(run("show", "a100-40gb", "-o", "json"))["maximal_layouts"])
    named = json.loads(run("show", "a100-40gb", "--profiles", "1g.5gb+me,3g", "-o", "json"))
    assert any("1g.5gb+me" in layout for layout in named["maximal_layouts"])


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("name", ["a100-40gb", "a30-24gb", "rtx-pro-6000-96gb"])
def test_cuts_are_drawn_as_rows_of_one_width_within_the_terminal(name: str, width: int) -> None:
    lines = run("show", name, width=width).splitlines()
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == json.loads(run("show", name, "-o", "json"))["multisets"]
    assert len({row.rindex("│") for row in rows}) == 1
    assert max(map(len, rows)) <= width


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = run("show", "a100-40gb", width=80, encoding="ascii")
    assert text.isascii()
    assert "|3g.20gb " in text


def test_facts_that_nobody_published_are_shown_as_unknown_not_guessed() -> None:
    for name in gpu_names():
        facts = json.loads(run("show", name, "-o", "json"))
        unknown = sum(profile["sms"] is None for profile in facts["profiles"])
        assert unknown == 0 or "?" in run("show", name)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("show", "a100"), "no GPU 'a100'"),
        (("show", "a100-40gb", "--profiles", "5g"), "no profile '5g'"),
        (("show", "a100-40gb", "--forbid", "4g"), "not a combination"),
    ],
)
def test_a_name_that_is_not_known_is_refused_with_a_hint(arguments: tuple[str, ...], what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        run(*arguments)
    assert caught.value.hint


# GPUs of one's own.

OWN = replace(gpu_model("a30-24gb"), name="a30-mine", title="A30 of ours", aliases=("NVIDIA Mine",), pci=())
WORKLOAD = """
apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus: [{model: a30-mine}]
services: [{name: s, model: m, rate: 10, slo: {latency_ms: 50}}]
"""
PERF = "model,gpu,profile,batch,processes,throughput,latency_ms,quantile\nm,a30-mine,1g.6gb,1,1,20,10,p99\n"


@pytest.fixture
def partita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    (tmp_path / "mine.toml").write_text(gpu_text(OWN))
    (tmp_path / "w.yaml").write_text(WORKLOAD)
    (tmp_path / "perf.csv").write_text(PERF)
    return Commands(tmp_path, monkeypatch, capsys)


def test_a_file_of_ones_own_is_known_to_every_command(
    partita: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, plan = tmp_path / "mine.toml", tmp_path / "plan.json"
    made = partita("plan", "-f", tmp_path / "w.yaml", "--gpus-file", mine, "--out", plan)
    assert made.code == 0, made.err
    assert partita("diff", plan, plan).code == 2
    assert partita(f"--gpus-file={mine}", "diff", plan, plan).code == 0
    monkeypatch.setenv("PARTITA_GPUS_FILE", str(mine))
    assert partita("plan", "-f", tmp_path / "w.yaml", "--check", plan).code == 0
    assert partita("apply", plan, "--yes").code == 0
    assert "a30-mine" in partita("status").out
    assert "A30 of ours, Ampere, from" in partita("gpus", "show", "a30-mine").out


def test_files_in_the_configuration_folder_are_known_and_shown_with_their_place(
    partita: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITA_CONFIG", str(tmp_path / "config"))
    folder = tmp_path / "config/gpus"
    folder.mkdir(parents=True)
    (tmp_path / "mine.toml").rename(folder / "mine.toml")
    found = {each["name"]: each["origin"] for each in json.loads(partita("gpus", "-o", "json").out)}
    assert found["a30-mine"] == str(folder / "mine.toml")
    assert found["a30-24gb"] == "catalogue"
    (folder / "twice.toml").write_text(gpu_text(OWN))
    twice = partita("gpus")
    assert twice.code == 2
    assert "a30-mine is in" in twice.err


def test_a_file_with_a_fault_is_told_with_its_line(partita: Commands, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(path.read_text().replace("compute_slices = 4", "compute_slices = four"))
    told = partita("gpus", "--gpus-file", path)
    assert told.code == 2
    assert f"error: {path}:4:" in told.err
    assert partita("gpus", "--gpus-file", tmp_path / "none.toml").code == 2


def test_a_gpu_as_toml_is_a_file_for_gpus_file(partita: Commands, tmp_path: Path) -> None:
    text = partita("gpus", "show", "h100-pcie-80gb", "--toml").out
    (tmp_path / "again.toml").write_text(text)
    assert read_gpu(tmp_path / "again.toml") == gpu_model("h100-pcie-80gb")


def test_the_option_may_stand_anywhere_but_behind_two_dashes() -> None:
    assert hoisted(["plan", "--gpus-file", "a", "-f", "w", "--gpus-file=b"]) == [
        "--gpus-file",
        "a",
        "--gpus-file=b",
        "plan",
        "-f",
        "w",
    ]
    assert hoisted(["submit", "--", "x", "--gpus-file", "y"]) == ["submit", "--", "x", "--gpus-file", "y"]
    assert hoisted(["submit", "train", "--gpus-file", "y"]) == ["submit", "train", "--gpus-file", "y"]
    assert hoisted(["plan", "--gpus-file"]) == ["--gpus-file", "plan"]


def test_what_nvml_tells_is_listed_and_kept(
    partita: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeNvml(OWN, "a100-40gb", OWN, OWN)
    fake.cards[3].mig_capable = False
    monkeypatch.setattr(pynvml, "nvmlLib", fake)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    listed = partita("gpus", "--from-nvml", "-o", "json")
    names = {each["name"]: each["origin"] for each in json.loads(listed.out)}
    assert names == {"mine-24gb": "NVML", "a100-40gb": "NVML"}
    assert "GPU 3 (NVIDIA Mine) is left out: it has no MIG" in listed.err
    one = partita("gpus", "--from-nvml", "--out", tmp_path / "one.toml")
    assert one.code == 2
    assert "name a folder" in one.err
    assert partita("gpus", "--from-nvml", "--out", f"{tmp_path}/kept/").code == 0
    kept = read_gpu(tmp_path / "kept/mine-24gb.toml")
    assert [p.memory_mib for p in kept.profiles] == [p.memory_mib for p in OWN.profiles]
    assert partita("gpus", "show", "mine-24gb", "--gpus-file", tmp_path / "kept/mine-24gb.toml").code == 0
    assert partita("gpus", "--out", tmp_path / "x").code == 2


@pytest.fixture(autouse=True)
def nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    fake = FakeNvml("a100-40gb")
    monkeypatch.setattr(pynvml, "nvmlLib", fake)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setenv("PARTITA_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return fake


def doctor(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words])


def test_a_well_host_ends_with_0_and_shows_what_is_cut(nvml: FakeNvml) -> None:
    nvml.foreign(0, "3g.20gb@4")
    done = doctor()
    assert done.exit_code == 0
    assert "NVIDIA driver 550.54.15" in done.stdout
    assert "GPU 0 a100-40gb: 3g.20gb@4 (not ours)" in done.stdout
    assert "mend" not in done.stdout


def test_what_must_be_mended_ends_with_1_and_a_command(nvml: FakeNvml) -> None:
    nvml.cards[0].mig = nvml.cards[0].pending = False
    done = doctor()
    assert done.exit_code == 1
    assert "sudo nvidia-smi -i 0 -mig 1" in done.stdout


def test_without_a_gpu_it_says_so_and_ends_with_0(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.failing["nvmlInitWithFlags"] = [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND]
    monkeypatch.setattr("partita.drive.survey.pci_gpus", lambda _root: 0)
    done = doctor()
    assert done.exit_code == 0
    assert "no NVIDIA GPU on this host" in done.stdout


def test_json_and_yaml_say_the_same(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.foreign(0, "3g.20gb@4")
    (tmp_path / "state").mkdir()
    SimulatedCluster.create(tmp_path / "state/cluster.sqlite3", [("node-0/gpu-0", "a30-24gb")]).close()
    as_json = json.loads(doctor("-o", "json").stdout)
    assert as_json == yaml.safe_load(doctor("-o", "yaml").stdout)
    assert as_json["ok"] is True
    assert as_json["gpus"][0]["instances"][0]["profile"] == "3g.20gb"
    assert as_json["gpus"][0]["instances"][0]["ours"] is False
    assert as_json["simulated"] == [
        {"id": "node-0/gpu-0", "model": "a30-24gb", "mig": True, "lost": False, "instances": []}
    ]
    assert {"level": "ok", "what": "NVIDIA driver 550.54.15", "where": None, "hint": None} in as_json[
        "findings"
    ]
