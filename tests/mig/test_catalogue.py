"""GPUs as files: what is written is read, and what is wrong is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from partita.errors import InputError
from partita.mig import catalogue
from partita.mig.catalogue import (
    gpu_called,
    gpu_model,
    gpu_names,
    gpu_text,
    gpus_called,
    gpus_on_pci,
    parse_gpu,
    read_gpu,
)
from partita.mig.layout import Layout, fault

CASE = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "30-gpu-names" / "names.txt"
SMALL = """
# A GPU of three slices.
name = "x1-12gb"
compute_slices = 3
memory_slices = 4
aliases = ["NVIDIA X1"]

[[profile]]
name = "1g.3gb"
compute = 1
memory = 1
starts = [0, 1, 2]
max_instances = 3

[[profile]]
name = "3g.12gb"
compute = 3
memory = 4
starts = [0]
memory_mib = 12000
max_instances = 1
"""


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_is_read_as_it_was_written(name: str) -> None:
    gpu = gpu_model(name)
    again = parse_gpu(gpu_text(gpu), "x.toml")
    assert again == gpu
    assert again.origin == "x.toml"


def test_a_gpu_of_ones_own_needs_little_and_is_known_by_its_names(tmp_path: Path) -> None:
    path = tmp_path / "x1.toml"
    path.write_text(SMALL)
    gpu = read_gpu(path)
    assert (gpu.title, gpu.architecture, gpu.memory_mib, gpu.origin) == (
        "x1-12gb",
        "unknown",
        None,
        str(path),
    )
    assert gpu.profile("1g.3gb").memory_mib is None
    catalogue.add([gpu])
    assert gpu_model("x1-12gb") is gpu
    assert gpu_called("nvidia-x1") is gpu
    assert "x1-12gb" in gpu_names()
    assert str(Layout.parse(gpu, "1g.3gb@0 1g.3gb@2")) == "1g.3gb@0 1g.3gb@2"
    catalogue.reset()
    assert gpu_called("NVIDIA X1") is None


def test_a_file_comes_before_the_catalogue() -> None:
    mine = parse_gpu(SMALL.replace("x1-12gb", "a30-24gb"), "mine.toml")
    catalogue.add([mine])
    assert gpu_model("a30-24gb").origin == "mine.toml"
    assert gpu_names().count("a30-24gb") == 1


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('name = "x1-12gb"', 'name = "X1 12GB"', 3, "small letters"),
        ('name = "x1-12gb"', "name = 7", 3, "name: must be text, not 7"),
        ('name = "x1-12gb"', 'name = "x\\u001b[31m"', 3, "name: must be text without control characters"),
        ("compute_slices = 3", "", 1, "compute_slices is missing"),
        (
            "compute_slices = 3",
            "compute_slices = true",
            4,
            "compute_slices: must be a whole number, not true",
        ),
        ("memory_slices = 4", "memory_slicez = 4", 5, "did you mean memory_slices?"),
        ('aliases = ["NVIDIA X1"]', 'aliases = "NVIDIA X1"', 6, "aliases: must be a list"),
        ('aliases = ["NVIDIA X1"]', 'pci = ["0x20B2"]', 6, "as in 20B2"),
        ('aliases = ["NVIDIA X1"]', 'forbidden = ["4g"]', 6, "not a combination"),
        ('aliases = ["NVIDIA X1"]', "peak = 3", 6, "peak: must be a mapping, not 3"),
        (
            'aliases = ["NVIDIA X1"]',
            "[peak]\nfp32_tflops = -1",
            7,
            "peak.fp32_tflops: must be above 0, not -1",
        ),
        ('name = "1g.3gb"', 'name = "1g"', 9, "NVIDIA's form"),
        ('name = "1g.3gb"', 'name = "2g.3gb"', 10, "says 2 compute slices"),
        ('name = "1g.3gb"', 'name = "3g.12gb"', 10, "says 3 compute slices"),
        ("starts = [0, 1, 2]", "starts = [0, 4]", 12, "from 0 to 3"),
        ("starts = [0, 1, 2]", "starts = []", 12, "must be a list, not empty"),
        ("starts = [0, 1, 2]", "starts = [0, 0]", 12, "a start appears twice"),
        ("starts = [0]", "starts = [1]", 19, "from 0 to 0"),
        ("max_instances = 3", "max_instances = 4", 13, "from 1 to 3"),
        ("max_instances = 3", "max_instances = 3\nmedia = 1", 14, "true or false"),
        ("memory_mib = 12000", "memory_mib = 0", 20, "memory_mib: must be at least 1, not 0"),
        ('name = "3g.12gb"\ncompute = 3', 'name = "1g.3gb"\ncompute = 1', 16, "there already"),
    ],
)
def test_a_field_that_cannot_be_used_is_told_with_its_line(old: str, new: str, line: int, said: str) -> None:
    assert SMALL.count(old) == 1
    with pytest.raises(InputError) as caught:
        parse_gpu(SMALL.replace(old, new), "x1.toml")
    told = f"{caught.value} {caught.value.hint}"
    assert said in told
    assert f"x1.toml:{line}:" in told


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputError, match="3 faults"):
        parse_gpu(
            SMALL.replace("memory = 1", "memory = 99").replace("max_instances = 1", "bogus = 1"), "x.toml"
        )


@pytest.mark.parametrize(
    ("text", "where"), [("name = ", "x.toml"), ("", "x.toml"), ("[[profile]\n", "x.toml:1:10")]
)
def test_what_is_no_toml_is_told_with_its_place(text: str, where: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_gpu(text, "x.toml")
    assert str(caught.value.where).startswith(where)
    assert caught.value.hint


def test_names_of_the_field_resolve() -> None:
    """The names of NVIDIA's list of compatible GPUs (open-gpu-kernel-modules, README), and as labels have them."""
    wanted = {
        "NVIDIA H100 PCIe": "h100-pcie-80gb",
        "NVIDIA A800-SXM4-80GB": "a800-80gb",
        "NVIDIA A800 80GB PCIe": "a800-80gb",
        "NVIDIA A800-SXM4-40GB": "a800-40gb",
        "NVIDIA H800": "h800-80gb",
        "NVIDIA H800 PCIe": "h800-pcie-80gb",
        "NVIDIA H20": "h20-96gb",
        "NVIDIA H20-3e": "h20-141gb",
        "NVIDIA GB200": "gb200-186gb",
        "NVIDIA GB300": "gb300-278gb",
        "NVIDIA B300 SXM6 AC": "b300-269gb",
        "NVIDIA GH200 144G HBM3e": "gh200-144gb",
        "A100-SXM-80GB": "a100-80gb",
        "NVIDIA-A100-SXM4-80GB": "a100-80gb",
        "nvidia h100 nvl": "h100-94gb",
        "PG506-232": "pg506-96gb",
        "a30-24gb": "a30-24gb",
    }
    found = {name: gpu_called(name) for name in wanted}
    assert {name: gpu and gpu.name for name, gpu in found.items()} == wanted
    assert gpu_called("NVIDIA Graphics Device") is None
    assert gpu_called("NVIDIA A10") is None


def test_every_name_of_the_case_resolves() -> None:
    if not CASE.is_file():
        pytest.skip("the case is not there")
    assert all(gpu_called(name) for name in CASE.read_text().splitlines())


def test_one_name_of_several_gpus_means_the_one_with_that_memory() -> None:
    assert {gpu.name for gpu in gpus_called("NVIDIA H100")} == {"h100-64gb", "h100-94gb"}
    for memory, name in ((95830, "h100-94gb"), (65247, "h100-64gb"), (None, "h100-64gb")):
        assert (found := gpu_called("NVIDIA H100", memory)) is not None
        assert found.name == name


def test_pci_numbers_tell_gpus_and_no_two_share_one() -> None:
    assert [gpu.name for gpu in gpus_on_pci("20b5")] == ["a100-80gb"]
    assert gpus_on_pci("1EB8") == ()
    numbers = [number for name in gpu_names() for number in gpu_model(name).pci]
    assert len(numbers) == len(set(numbers))


def test_the_catalogue_holds_together() -> None:
    for name in gpu_names():
        gpu = gpu_model(name)
        assert gpu.sources, name
        assert all(fault(gpu, [placement]) is None for placement in Layout(gpu).free())
        largest = max(gpu.profiles, key=lambda p: (p.compute, p.memory))
        assert (largest.compute, largest.memory) == (gpu.compute_slices, gpu.memory_slices)
        for profile in gpu.profiles:
            assert gpu.profile_called(f"MIG {profile.name}") is profile
            assert None in (gpu.memory_mib, profile.memory_mib) or profile.memory_mib <= gpu.memory_mib  # type: ignore[operator]
            assert None in (gpu.sms, profile.sms) or profile.sms <= gpu.sms  # type: ignore[operator]


def test_a_profile_is_found_by_the_name_that_some_drivers_print() -> None:
    """Drivers 535 and 545 on the A100 (mig-parted issue 31), 61x on the GB300 (dgx-spark-playbooks)."""
    assert (found := gpu_model("a100-80gb").profile_called("3g.39gb")) is not None
    assert found.name == "3g.40gb"
    assert (found := gpu_model("gb300-278gb").profile_called("MIG 1g.31gb+me")) is not None
    assert found.name == "1g.35gb+me"
    assert gpu_model("a100-80gb").profile_called("9g.90gb") is None


@pytest.mark.parametrize("text", ["a=" + "[" * 9_000 + "]" * 9_000, "a=" + "{b=" * 9_000 + "1" + "}" * 9_000])
def test_a_file_that_is_nested_without_end_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="nested too deep"):
        parse_gpu(text, "deep.toml")
