from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pynvml
import pytest
from tests.drive.fake_nvml import FakeNvml
from tests.drive.world import World

from partita.drive.nvml import NvmlDriver
from partita.drive.simulated import SimulatedCluster
from partita.drive.survey import Severity, survey
from partita.mig import catalogue
from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from pathlib import Path

    from partita.drive.survey import Finding, Report
    from partita.mig.gpu import GpuModel


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a host that has GPUs pass these tests too."""
    fake = FakeNvml()
    fake.failing["nvmlInitWithFlags"] = [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND] * 9
    install(fake, monkeypatch)


def install(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    monkeypatch.setattr(pynvml, "nvmlLib", fake)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return fake


def look(tmp_path: Path, **environ: str) -> Report:
    return survey(tmp_path / "state", root=tmp_path / "root", environ=environ)


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def process(tmp_path: Path, pid: int, command: str) -> None:
    write(tmp_path / f"root/proc/{pid}/cmdline", command.replace(" ", "\0"))


def found(report: Report, words: str) -> Finding:
    (one,) = [each for each in report.findings if words in each.what]
    return one


def test_a_host_without_gpus_has_nothing_to_mend(tmp_path: Path) -> None:
    report = look(tmp_path)
    assert not report.mend
    assert report.driver is None
    assert found(report, "no NVIDIA GPU").level is Severity.NOTE
    assert not (tmp_path / "state").exists()


def test_gpus_on_the_bus_without_a_driver_are_to_be_mended(tmp_path: Path) -> None:
    for slot, vendor, kind in (
        ("a", "0x10de", "0x030200"),
        ("b", "0x10de", "0x068000"),
        ("c", "0x8086", "0x030000"),
    ):
        write(tmp_path / f"root/sys/bus/pci/devices/{slot}/vendor", vendor + "\n")
        write(tmp_path / f"root/sys/bus/pci/devices/{slot}/class", kind + "\n")
    report = look(tmp_path)
    assert report.mend
    fault = found(report, "1 NVIDIA GPUs are here")
    assert "install NVIDIA's driver" in str(fault.hint)


def test_gpus_in_mig_mode_are_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(FakeNvml("a100-40gb", "h100-80gb"), monkeypatch)
    (tmp_path / "state").mkdir()
    world = World(NvmlDriver(tmp_path / "state", {}))
    world.create("3g.20gb@4")
    cut = fake.foreign(0, "3g.20gb@0")
    fake.cards[0].foreign_pids[cut.id] = {1}
    report = look(tmp_path)
    assert not report.mend
    assert report.driver == "550.54.15"
    seen = report.gpus[0].instances or ()
    assert [(str(i.placement), i.ours, i.busy) for i in seen] == [
        ("3g.20gb@0", False, True),
        ("3g.20gb@4", True, False),
    ]
    assert found(report, "not ours").level is Severity.NOTE
    assert not any(name.startswith("nvmlDeviceSet") for name in fake.calls)


def test_mig_off_everywhere_is_to_be_mended_and_beside_others_only_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeNvml("a100-40gb", "a100-40gb", mig=False), monkeypatch)
    fake.cards[1].pending = True
    report = look(tmp_path)
    assert report.mend
    assert "nvidia-smi -i 0 -mig 1" in str(found(report, "is off").hint)
    assert "nvidia-smi -i 1 --gpu-reset" in str(found(report, "next reset").hint)
    fake.cards[0].mig = True
    report = look(tmp_path)
    assert not report.mend


def test_lost_gpus_are_to_be_mended_and_those_without_mig_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeNvml("a100-40gb", "a30-24gb"), monkeypatch)
    fake.cards[1].mig_capable = False
    assert not look(tmp_path).mend
    fake.cards[0].lost = True
    report = look(tmp_path)
    assert report.mend
    assert "dmesg" in str(found(report, "lost").hint)


def test_a_driver_that_does_not_answer_is_to_be_mended_though_no_gpu_is_on_the_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeNvml("a100-40gb"), monkeypatch)
    fake.failing["nvmlInitWithFlags"] = [pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH]
    report = look(tmp_path)
    assert report.mend
    assert "reboot" in str(found(report, "does not answer").hint)


def test_gpus_that_the_driver_does_not_show_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(FakeNvml("a100-40gb"), monkeypatch)
    for slot in "ab":
        write(tmp_path / f"root/sys/bus/pci/devices/{slot}/vendor", "0x10de\n")
        write(tmp_path / f"root/sys/bus/pci/devices/{slot}/class", "0x030200\n")
    assert "dmesg" in str(
        found(look(tmp_path), "2 NVIDIA GPUs are on the PCI bus, and the driver shows 1").hint
    )


def test_who_keeps_mig_mode_from_being_turned_on_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(FakeNvml("a100-40gb", mig=False), monkeypatch)
    monkeypatch.setattr("partita.drive.nvml.holders.ROOT", tmp_path / "root")
    process(tmp_path, 60, "/usr/bin/nv-hostengine -n")
    (tmp_path / "root/proc/60/fd").mkdir()
    (tmp_path / "root/proc/60/fd/5").symlink_to("/dev/nvidia0")
    told = found(look(tmp_path), "cannot be turned on now: nv-hostengine (process 60)")
    assert "nvidia-dcgm" in str(told.hint)


def test_a_driver_without_gpus_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(FakeNvml(), monkeypatch)
    report = look(tmp_path)
    assert not report.mend
    assert found(report, "sees no GPU").level is Severity.NOTE


def test_a_user_who_may_not_cut_is_told_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(FakeNvml("a100-40gb"), monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sudo -E" in str(found(look(tmp_path), "not cut them").hint)
    write(
        tmp_path / "root/proc/driver/nvidia/capabilities/mig/config",
        "DeviceFileMinor: 1\nDeviceFileMode: 256\n",
    )
    assert "/dev/nvidia-caps/nvidia-cap1" in str(found(look(tmp_path), "not cut them").hint)
    write(tmp_path / "root/dev/nvidia-caps/nvidia-cap1")
    assert not look(tmp_path).mend


def test_a_user_who_may_not_see_what_is_cut_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeNvml("a100-40gb"), monkeypatch)
    fake.permission = False
    report = look(tmp_path)
    assert report.gpus[0].instances is None
    assert found(report, "only root sees").level is Severity.OK


def test_switches_without_their_fabric_manager_are_to_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(FakeNvml("a100-40gb"), monkeypatch)
    write(tmp_path / "root/dev/nvidia-nvswitchctl")
    assert "nvidia-fabricmanager" in str(found(look(tmp_path), "fabric manager").hint)
    process(tmp_path, 77, "/usr/bin/nv-fabricmanager -c /usr/share/nvidia/nvswitch/fabricmanager.cfg")
    assert not look(tmp_path).mend


def test_others_who_manage_gpus_are_named_with_the_way_to_keep_them_off(tmp_path: Path) -> None:
    process(tmp_path, 11, "/usr/bin/nvidia-device-plugin --mig-strategy=mixed")
    process(tmp_path, 12, "/usr/bin/nv-hostengine -n")
    process(tmp_path, 13, "/usr/bin/vim nvidia-mig-manager")
    write(tmp_path / "root/etc/nvidia-mig-manager/config.yaml")
    report = look(tmp_path, KUBERNETES_SERVICE_HOST="10.0.0.1")
    assert [(each.name, each.evidence) for each in report.managers] == [
        ("nv-hostengine", "process 12"),
        ("nvidia-device-plugin", "process 11"),
        ("nvidia-mig-manager", "/etc/nvidia-mig-manager"),
        ("kubernetes", "KUBERNETES_SERVICE_HOST"),
    ]
    assert "systemctl disable --now nvidia-mig-manager" in str(found(report, "nvidia-mig-manager uses").hint)
    assert not report.mend


def test_the_simulated_cluster_is_reported(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    cluster = SimulatedCluster.create(
        tmp_path / "state/cluster.sqlite3", [("g0", "a100-40gb"), ("g1", "a30-24gb")]
    )
    cluster.lose("g1")
    cluster.close()
    report = look(tmp_path)
    assert report.simulated is not None
    assert [gpu.model for gpu in report.simulated.gpus] == ["a100-40gb", "a30-24gb"]
    assert found(report, "2 GPUs, 1 of them lost").level is Severity.OK


def test_a_simulated_cluster_that_cannot_be_read_is_to_be_mended_and_kept(tmp_path: Path) -> None:
    write(tmp_path / "state/cluster.sqlite3", "nonsense" * 999)
    report = look(tmp_path)
    assert report.mend
    assert found(report, "is damaged").hint == (
        f"move it away: `mv {tmp_path}/state/cluster.sqlite3 {tmp_path}/state/cluster.sqlite3.broken`"
    )
    assert (tmp_path / "state/cluster.sqlite3").read_text() == "nonsense" * 999


def test_a_state_folder_that_is_a_file_is_to_be_mended(tmp_path: Path) -> None:
    write(tmp_path / "state")
    assert "PARTITA_STATE" in str(found(look(tmp_path), "cannot be written to").hint)


def test_looking_leaves_no_lock_behind(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    SimulatedCluster.create(tmp_path / "state/cluster.sqlite3", [("g", "a100-40gb")]).close()
    look(tmp_path)
    with sqlite3.connect(tmp_path / "state/cluster.sqlite3", timeout=0) as db:
        db.execute("BEGIN EXCLUSIVE")
    db.close()


def test_a_driver_that_places_profiles_elsewhere_than_the_catalogue_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeNvml("a100-40gb"), monkeypatch)
    assert not [each for each in look(tmp_path).findings if "the catalogue at" in each.what]
    catalogue.reset()
    fake.elsewhere["3g.20gb"] = (0,)
    noted = found(look(tmp_path), "places 3g.20gb at (0,)")
    assert noted.level is Severity.NOTE
    assert "--from-nvml" in str(noted.hint)


def test_a_gpu_that_the_catalogue_lacks_is_read_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(FakeNvml(unlisted()), monkeypatch)
    report = look(tmp_path)
    assert not report.mend
    assert (report.gpus[0].model, report.gpus[0].origin) == ("x7-48gb", "NVML")
    assert "partita gpus --from-nvml --out" in str(found(report, "read from NVML, as x7-48gb").hint)


def test_a_gpu_that_cannot_be_read_is_left_out_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(FakeNvml("a100-40gb", replace(unlisted(), pci=())), monkeypatch).cards[1].mig = False
    report = look(tmp_path)
    assert report.mend
    assert report.gpus[1].model is None
    assert "NVML does not list its profiles" in str(report.gpus[1].left_out)
    assert "sudo nvidia-smi -i 1 -mig 1" in str(found(report, "left out").hint)


def test_a_host_with_no_gpu_that_can_be_cut_is_not_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeNvml("a100-40gb"), monkeypatch)
    fake.cards[0].mig_capable = False
    report = look(tmp_path)
    assert report.mend
    assert found(report, "it has no MIG").hint


@pytest.mark.parametrize("name", ["NVIDIA H100", "NVIDIA Graphics Device"])
def test_memory_tells_which_gpu_a_name_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`NVIDIA H100` is what NVML calls the SXM5 parts of 64GB and 94GB, and as a test has it, one of 80GB."""
    fake = install(FakeNvml(replace(gpu_model("h100-80gb"), pci=())), monkeypatch)
    fake.cards[0].name = name
    report = look(tmp_path)
    (gpu,) = report.gpus
    assert gpu.model in ("h100-80gb", "graphics-device-80gb")
    if name == "NVIDIA H100":
        assert found(report, "memory is that of h100-80gb").level is Severity.NOTE
    seen = gpu_model(str(gpu.model)).profile("1g.10gb")
    assert (seen.memory_mib, seen.starts) == (9984, (0, 1, 2, 3, 4, 5, 6))


def test_the_smaller_of_two_memories_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtualisation host gives an H100 NVL 10.62 GiB for a 1g (OpenNebula's manual), others 10.75."""
    own = gpu_model("h100-94gb")
    less = tuple(
        replace(p, memory_mib=10875)
        if p.name == "1g.12gb"
        else replace(p, memory_mib=(p.memory_mib or 0) + 64)
        for p in own.profiles
    )
    install(FakeNvml(replace(own, profiles=less)), monkeypatch)
    assert found(look(tmp_path), "gives 1g.12gb 10875 MiB").level is Severity.NOTE
    held = gpu_model("h100-94gb")
    assert held.profile("1g.12gb").memory_mib == 10875
    assert held.profile("7g.94gb").memory_mib == own.profile("7g.94gb").memory_mib


def test_a_name_from_the_driver_cannot_steer_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeNvml("a100-40gb"), monkeypatch)
    fake.cards[0].name = "NVIDIA \x1b[31mA100"
    fake.cards[0].lost = False
    assert "\x1b" not in look(tmp_path).gpus[0].name


def unlisted() -> GpuModel:
    """A GPU of four slices that no list has."""
    a30 = gpu_model("a30-24gb")
    names = {"1g.6gb": "1g.12gb", "2g.12gb": "2g.24gb", "4g.24gb": "4g.48gb"}
    profiles = tuple(
        replace(p, name=p.name.replace(old, new), memory_mib=2 * (p.memory_mib or 0))
        for p in a30.profiles
        for old, new in names.items()
        if p.name.startswith(old)
    )
    return replace(
        a30, name="x7", title="NVIDIA X7", aliases=("NVIDIA X7",), memory_mib=49152, profiles=profiles, pci=()
    )
