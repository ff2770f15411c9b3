"""NVML as it behaves in the field: each test names the public report of what it holds the driver to."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.drive.fake_nvml import FakeNvml
from tests.drive.world import World

from partita.drive.driver import FailedError, GpuLostError, InUseError, NoRoomError, RefusedError
from partita.drive.nvml import NvmlDriver, holders
from partita.drive.nvml.devices import ListedProfile, models_here, with_nvml_figures
from partita.jobs.memory.bounds import holds
from partita.jobs.queue.gpus import hosts
from partita.mig import catalogue
from partita.mig.catalogue import gpu_model, gpu_text, parse_gpu
from partita.mig.layout import Placement, fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from partita.mig.gpu import GpuModel


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeNvml], FakeNvml]:
    def put(fake: FakeNvml) -> FakeNvml:
        monkeypatch.setattr(pynvml, "nvmlLib", fake)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return fake

    return put


@pytest.fixture
def nvml(install: Callable[[FakeNvml], FakeNvml]) -> FakeNvml:
    return install(FakeNvml("a100-40gb", "a100-40gb"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has the host's files be a folder of the test's."""
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.setattr(holders, "ROOT", folder)
    return folder


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., World]:
    (tmp_path / "state").mkdir()

    def open_(**options: object) -> World:
        return World(NvmlDriver(tmp_path / "state", {}, **{"patience_s": 60.0, **options}))  # type: ignore[arg-type]

    return open_


@pytest.fixture
def world(nvml: FakeNvml, root: Path, opened: Callable[..., World]) -> World:
    del nvml, root
    return opened()


@pytest.fixture
def impatient(nvml: FakeNvml, root: Path, opened: Callable[..., World]) -> World:
    """A driver that takes the first "in use" for one that lasts."""
    del nvml, root
    return opened(patience_s=0.0)


def opens(root: Path, pid: int, command: str, *files: str) -> None:
    """Put a process that has files open on the host."""
    folder = root / f"proc/{pid}"
    (folder / "fd").mkdir(parents=True)
    (folder / "cmdline").write_text(command.replace(" ", "\0"))
    (folder / "comm").write_text(command.split(maxsplit=1)[0].rpartition("/")[2][:15] + "\n")
    for number, name in enumerate(files):
        (folder / f"fd/{number}").symlink_to(name)


def capability(root: Path, gi_id: int, minor: int, part: str = "") -> None:
    path = root / f"proc/driver/nvidia/capabilities/gpu0/mig/gi{gi_id}{part}/access"
    path.parent.mkdir(parents=True)
    path.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")


# What is destroyed.


def test_a_destroy_that_leaves_a_remnant_is_tried_again_until_it_is_gone(
    nvml: FakeNvml, world: World
) -> None:
    """The destroy is called a success, and the GPU instance stands without its compute instance: go-nvml 146."""
    world.create("3g.20gb@4")
    nvml.cards[0].remnants = 2
    assert world.destroy("3g.20gb@4") is None
    assert nvml.cards[0].cuts == {}
    assert nvml.calls.count("nvmlGpuInstanceDestroy") == 3


def test_a_remnant_that_stays_is_told_and_stays_ours(
    nvml: FakeNvml, impatient: World, opened: Callable[..., World]
) -> None:
    """As above, and dra-driver-nvidia-gpu 1452: a retry has to find the GPU instance that has no compute instance."""
    impatient.create("3g.20gb@4")
    nvml.cards[0].remnants = 10**6
    error = impatient.destroy("3g.20gb@4")
    assert isinstance(error, FailedError)
    assert error.retry
    assert "NVML reports success" in error.what
    (remnant,) = opened().instances()
    assert (remnant.ours, remnant.complete) == (True, False)
    nvml.cards[0].remnants = 0
    assert opened().destroy("3g.20gb@4") is None
    assert opened().instances() == ()


def test_a_remnant_is_made_whole_where_its_placement_is_wanted_again(
    nvml: FakeNvml, impatient: World
) -> None:
    impatient.create("3g.20gb@4")
    nvml.cards[0].remnants = 10**6
    impatient.destroy("3g.20gb@4")
    assert impatient.create("3g.20gb@4") is None
    assert impatient.instances()[0].complete


def test_another_s_instance_with_the_id_of_ours_is_not_destroyed_in_its_place(
    nvml: FakeNvml, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids of GPU instances are used again; between two tries someone else may have got ours."""
    world.create("3g.20gb@4")
    nvml.cards[0].lingering = 1

    def meanwhile(_seconds: float) -> None:
        nvml.cards[0].cuts.clear()
        nvml.foreign(0, "3g.20gb@0")  # with the id that ours had

    monkeypatch.setattr("partita.drive.nvml.gpu.time.sleep", meanwhile)
    assert world.destroy("3g.20gb@4") is None
    assert [str(each) for each in nvml.cards[0].placements] == ["3g.20gb@0"]
    assert not world.instances()[0].ours


def test_compute_instances_go_before_their_gpu_instance_and_the_last_first(
    nvml: FakeNvml, world: World
) -> None:
    """ "In use" is also a GPU instance with compute instances: nvml.h, nvmlGpuInstanceDestroy."""
    cut = nvml._make_cut(nvml.cards[0], Placement.parse("3g.20gb@4"))
    for _ in range(3):
        nvml._make_compute(cut, 1)
    world.driver.adopt(world.gpu, Placement.parse("3g.20gb@4"))
    nvml.calls.clear()
    assert world.destroy("3g.20gb@4") is None
    order = [name for name in nvml.calls if name.endswith("InstanceDestroy")]
    assert order == ["nvmlComputeInstanceDestroy"] * 3 + ["nvmlGpuInstanceDestroy"]


# Who holds what is in use.


def test_dcgm_is_named_first_with_what_makes_it_let_go(nvml: FakeNvml, impatient: World, root: Path) -> None:
    """In use with no process in any list, until DCGM restarts: DCGM 276 and 95; `nvsm_core, nvidia-pe,
    nv-hostengine` among those who hold GPUs: NVIDIA/dgx-spark-playbooks; the device plugin: HAMi 1088.
    """
    impatient.create("3g.20gb@4")
    gi_id = impatient.instances()[0].identity.instance_id
    capability(root, gi_id, 21)
    capability(root, gi_id, 22, "/ci0")
    opens(root, 70, "/usr/bin/nvidia-device-plugin --mig-strategy=mixed", "/dev/nvidia0", "/dev/null")
    opens(root, 50, "/usr/bin/dcgm-exporter -f x.csv", "/dev/nvidia-caps/nvidia-cap22")
    opens(root, 60, "/usr/bin/nv-hostengine -n", "/dev/nvidia-caps/nvidia-cap21", "/dev/nvidia0")
    opens(root, 80, "/usr/bin/vim", "/dev/nvidia1", "/dev/nvidia-caps/nvidia-cap99")
    nvml.cards[0].held = True
    error = impatient.destroy("3g.20gb@4")
    assert isinstance(error, InUseError)
    told = "In use by another client: nv-hostengine (process 60) has /dev/nvidia-caps/nvidia-cap21 open, "
    assert told + "dcgm-exporter (process 50)" in error.what
    assert "nvidia-device-plugin (process 70) has /dev/nvidia0 open" in error.what
    assert "vim" not in error.what
    assert str(error.hint).startswith("DCGM: `sudo systemctl restart nvidia-dcgm`")
    nvml.cards[0].held = False
    assert impatient.destroy("3g.20gb@4") is None


def test_whoever_computes_is_named_before_monitors(nvml: FakeNvml, impatient: World, root: Path) -> None:
    impatient.create("3g.20gb@4")
    gi_id = impatient.instances()[0].identity.instance_id
    opens(root, 60, "/usr/bin/nv-hostengine -n", "/dev/nvidia0")
    opens(root, 90, "/usr/bin/python train.py", "/dev/nvidia0")
    nvml.cards[0].foreign_pids[gi_id] = {90}
    error = impatient.destroy("3g.20gb@4")
    assert isinstance(error, InUseError)
    assert error.what.index("python (process 90) computes on it") < error.what.index("nv-hostengine")
    assert str(error.hint).startswith("end process 90; DCGM")


def test_where_nobody_is_seen_the_hint_says_where_to_look(nvml: FakeNvml, impatient: World) -> None:
    impatient.create("3g.20gb@4")
    nvml.cards[0].held = True
    error = impatient.destroy("3g.20gb@4")
    assert error is not None
    assert "no process is seen to hold it" in error.what
    assert "fuser -v /dev/nvidia*" in str(error.hint)


def test_names_of_processes_are_known_by_their_first_fifteen_letters_and_never_steer_a_terminal(
    nvml: FakeNvml, impatient: World, root: Path
) -> None:
    """The kernel keeps fifteen bytes of a name (proc(5), comm); a daemon's command line may be empty."""
    impatient.create("3g.20gb@4")
    opens(root, 40, "nvidia-persistenced", "/dev/nvidia0")
    (root / "proc/40/cmdline").write_text("")
    opens(root, 41, "evil\x1b[31m", "/dev/nvidia0")
    nvml.cards[0].held = True
    error = impatient.destroy("3g.20gb@4")
    assert error is not None
    assert "nvidia-persistenced (process 40)" in error.what
    assert "systemctl stop nvidia-persistenced" in str(error.hint)
    assert "\x1b" not in error.what


def test_processes_are_listed_by_drivers_that_lack_the_newest_call(nvml: FakeNvml, world: World) -> None:
    """Older libraries lack nvmlDeviceGetComputeRunningProcesses_v3: "function not found" from the binding."""
    world.create("3g.20gb@4")
    nvml.cards[0].foreign_pids[world.instances()[0].identity.instance_id] = {1}
    nvml.missing = {"nvmlDeviceGetComputeRunningProcesses_v3"}
    assert world.instances()[0].busy


# What return codes mean.


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT])
def test_an_instance_that_went_meanwhile_is_neither_a_lost_gpu_nor_a_lack_of_room(
    nvml: FakeNvml, world: World, code: int
) -> None:
    """nvml.h: NOT_FOUND of an instance's id, INVALID_ARGUMENT of a stale handle; no room is
    INSUFFICIENT_RESOURCES alone.
    """
    nvml.failing["nvmlGpuInstanceCreateComputeInstance"] = [code]
    error = world.create("3g.20gb@4")
    assert type(error) is FailedError
    assert error.retry
    assert world.instances() == ()
    assert world.create("3g.20gb@4") is None
    nvml.failing["nvmlDeviceCreateGpuInstanceWithPlacement"] = [code]
    assert type(world.create("1g.5gb@0")) is FailedError


def test_a_gpu_that_is_not_found_by_its_uuid_is_lost(nvml: FakeNvml, world: World) -> None:
    world.create("3g.20gb@4")
    nvml.failing["nvmlDeviceGetHandleByUUID"] = [pynvml.NVML_ERROR_NOT_FOUND]
    assert isinstance(world.destroy("3g.20gb@4"), GpuLostError)
    nvml.failing["nvmlDeviceGetHandleByUUID"] = [pynvml.NVML_ERROR_NOT_FOUND]
    assert world.seen().lost
    assert not world.seen().lost


def test_an_unknown_error_that_passes_is_not_noticed_and_one_that_lasts_hides_no_other_gpu(
    nvml: FakeNvml, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown error (999) and timeouts come and go; "GPU is lost" (Xid 79) does not."""
    monkeypatch.setattr("partita.drive.nvml.gpu.FIRST_PAUSE_S", 0.001)
    world.create("3g.20gb@4")
    nvml.cards[0].silent = 2
    assert [str(each.placement) for each in world.instances()] == ["3g.20gb@4"]
    nvml.cards[0].silent = 10**6
    assert world.seen().lost
    assert not world.seen(world.other).lost
    assert type(world.create("1g.5gb@0")) is not GpuLostError


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
        (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, "update the older"),
        (pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH, "update the older"),
        (pynvml.NVML_ERROR_OPERATING_SYSTEM, "device files"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "MIG capability"),
    ],
)
def test_what_no_retry_mends_is_refused_with_what_does(
    nvml: FakeNvml, world: World, code: int, hint: str
) -> None:
    nvml.failing["nvmlDeviceCreateGpuInstanceWithPlacement"] = [code]
    error = world.create("3g.20gb@4")
    assert isinstance(error, RefusedError)
    assert hint in str(error.hint)


def test_what_has_a_place_is_never_asked_of_the_remaining_capacity(nvml: FakeNvml, world: World) -> None:
    """It counts compute slices and overrates what has a place: NVIDIA/dgx-spark-playbooks, MIG on DGX Station."""
    world.create("3g.20gb@0")
    device = pynvml.nvmlDeviceGetHandleByUUID(nvml.cards[0].uuid)
    assert (
        pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(device, 14) == 2
    )  # 2g.10gb, which has one place left
    nvml.calls.clear()
    assert world.create("2g.10gb@4") is None
    assert isinstance(world.create("2g.10gb@2"), NoRoomError)
    assert "nvmlDeviceGetGpuInstanceRemainingCapacity" not in nvml.calls


# Creations that fail half-way.


def test_a_creation_whose_compute_instance_fails_is_taken_back_though_it_lingers(
    nvml: FakeNvml, world: World
) -> None:
    """Half an instance that nobody takes back blocks its slices: dra-driver-nvidia-gpu 1452, mig-parted 485."""
    nvml.failing["nvmlGpuInstanceCreateComputeInstance"] = [pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES]
    nvml.cards[0].lingering = 2
    assert isinstance(world.create("3g.20gb@4"), NoRoomError)
    assert nvml.cards[0].cuts == {}


def test_one_that_cannot_be_taken_back_stays_ours_and_the_first_error_is_told(
    nvml: FakeNvml, impatient: World
) -> None:
    nvml.failing["nvmlGpuInstanceCreateComputeInstance"] = [pynvml.NVML_ERROR_UNKNOWN]
    nvml.cards[0].held = True
    error = impatient.create("3g.20gb@4")
    assert error is not None
    assert "Unknown Error" in error.what
    nvml.cards[0].held = False
    (half,) = impatient.instances()
    assert (half.ours, half.complete) == (True, False)
    assert impatient.destroy("3g.20gb@4") is None


# MIG mode.


def test_handle_and_profiles_are_asked_anew_after_the_mode_changed(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    """It may unbind or reset the device, and attributes are to be queried again: nvml.h, nvmlDeviceSetMigMode."""
    fake = install(FakeNvml("h100-80gb", mig=False))
    fake.cards[0].needs_reset = False
    fake.elsewhere["3g.40gb"] = (4,)
    before = fake.cards[0].address
    world = opened(allow_mig_mode=True)
    assert gpu_model("h100-80gb").profile("3g.40gb").starts == (0, 4)
    assert world.create("3g.40gb@4") is None
    assert fake.cards[0].address != before
    assert gpu_model("h100-80gb").profile("3g.40gb").starts == (4,)
    assert isinstance(world.create("3g.40gb@0"), NoRoomError)


def test_a_mode_that_is_pending_is_not_set_again_and_waits_for_its_reset(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    """Current disabled, pending enabled: on Ampere until a reset, which a VM may be refused: dra-driver 883."""
    fake = install(FakeNvml("a100-40gb", mig=False))
    world = opened(allow_mig_mode=True)
    for _ in range(2):
        error = world.create("3g.20gb@4")
        assert isinstance(error, RefusedError)
        assert "a VM that cannot do so must be rebooted" in str(error.hint)
    assert fake.calls.count("nvmlDeviceSetMigMode") == 1
    fake.reset(0)
    assert world.create("3g.20gb@4") is None


def test_a_mode_that_cannot_be_turned_on_says_who_has_the_gpu(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World], root: Path
) -> None:
    """The activation's status is IN_USE then, and the caller is to idle the device: nvml.h; nvsm and dcgm: the MIG
    User Guide, "Enable MIG Mode"; nvidia-persistenced: gpu-operator 118.
    """
    fake = install(FakeNvml("h100-80gb", mig=False))
    fake.cards[0].held = True
    opens(root, 60, "/usr/bin/nv-hostengine -n", "/dev/nvidia0")
    error = opened(allow_mig_mode=True).create("3g.40gb@4")
    assert isinstance(error, InUseError)
    assert "nv-hostengine (process 60)" in error.what
    assert not fake.cards[0].pending


def test_instances_do_not_outlive_a_reboot_and_what_stands_then_is_not_ours(
    nvml: FakeNvml, world: World, opened: Callable[..., World], tmp_path: Path
) -> None:
    """The mode persists on Ampere, instances never: k8s-device-plugin 225; on an H100 not even the mode:
    gpu-admin-tools 2.
    """
    world.create("3g.20gb@4")
    uuid = world.instances()[0].identity.mig_uuid
    nvml.reset(0)
    assert opened().instances() == ()
    with sqlite3.connect(tmp_path / "state/owned.sqlite3") as db:
        db.execute("UPDATE owned SET boot = 'an earlier one'")
    db.close()
    nvml.foreign(0, "3g.20gb@4")  # with the same ids, and so the same UUID
    (theirs,) = opened().instances()
    assert theirs.identity.mig_uuid == uuid
    assert not theirs.ours


@pytest.mark.parametrize("boot", [False, True])
def test_a_record_of_an_older_partita_is_read(
    nvml: FakeNvml, world: World, tmp_path: Path, *, boot: bool
) -> None:
    del nvml
    world.create("3g.20gb@4")
    path = tmp_path / "state/owned.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 0")
        if not boot:
            db.execute("ALTER TABLE owned DROP COLUMN boot")
    db.close()
    assert World(NvmlDriver(tmp_path / "state", {})).instances()[0].ours


# What is shown of MIG devices.


def test_the_dead_are_not_taken_for_the_living(
    nvml: FakeNvml, world: World, opened: Callable[..., World]
) -> None:
    """nvmlDeviceGetMigDeviceHandleByIndex returns deleted devices with success (libcudacxx 224), and handles are
    used again (nvml.h).
    """
    for _ in range(3):
        assert world.create("3g.20gb@4") is None
        (one,) = world.instances()
        live = [each for cut in nvml.cards[0].cuts.values() for each in cut.compute.values()]
        assert [one.identity.mig_uuid] == [each.uuid for each in live]
        assert world.destroy("3g.20gb@4") is None
    assert sum(each.dead for each in nvml.cards[0].shown.values()) == 3
    world.create("3g.20gb@4")
    # Another process did not see those go.
    assert opened().instances() == world.instances()


def test_a_uuid_comes_again_with_the_ids_and_is_not_taken_for_ownership(nvml: FakeNvml, world: World) -> None:
    """MIG UUIDs are of version 5 in every public listing, so they are made of names: go-dcgm 30, go-nvml 57."""
    world.create("3g.20gb@4")
    (before,) = world.instances()
    world.destroy("3g.20gb@4")
    nvml.foreign(0, "3g.20gb@4")
    assert world.instances()[0].identity == before.identity
    assert not world.instances()[0].ours
    assert isinstance(world.destroy("3g.20gb@4"), RefusedError)


def test_what_others_destroyed_is_not_ours_when_it_comes_again(nvml: FakeNvml, world: World) -> None:
    world.create("3g.20gb@4")
    nvml.cards[0].cuts.clear()  # by another tool
    assert world.create("1g.5gb@0") is None  # we act on this GPU, and see that it is gone
    nvml.foreign(0, "3g.20gb@4")
    theirs = next(each for each in world.instances() if each.placement.start == 4)
    assert not theirs.ours


def test_instances_of_profiles_that_nobody_lists_are_someone_elses_and_their_slices_taken(
    nvml: FakeNvml, opened: Callable[..., World]
) -> None:
    """NVML lists instances by profile: one of a profile that it does not tell is found by its id alone."""
    nvml.foreign(0, "2g.10gb@2")
    nvml.cards[0].hidden = {"2g.10gb"}
    world = opened()
    (theirs,) = world.instances()
    assert (theirs.ours, theirs.placement) == (False, Placement(2, "2g.2slices+profile14"))
    model = gpu_model("a100-40gb")
    assert model.profile("2g.2slices+profile14").memory == 2
    assert not model.profile("2g.2slices+profile14").plain
    assert fault(model, [theirs.placement, Placement.parse("3g.20gb@0")]) is not None
    assert isinstance(world.create("3g.20gb@0"), NoRoomError)
    assert isinstance(world.destroy("2g.2slices+profile14@2"), RefusedError)
    assert world.create("3g.20gb@4") is None


def test_two_gpus_with_unlisted_instances_have_one_model(
    nvml: FakeNvml, opened: Callable[..., World]
) -> None:
    for card, at in enumerate(("2g.10gb@2", "1g.10gb@4")):
        nvml.foreign(card, at)
        nvml.cards[card].hidden = {"2g.10gb", "1g.10gb"}
    world = opened()
    for _ in range(2):
        seen = world.driver.observe()
        model = gpu_model("a100-40gb")
        assert all(model.has(each.placement.profile) for gpu in seen.gpus for each in gpu.instances)
        assert [len(gpu.instances) for gpu in seen.gpus] == [1, 1]


def test_profiles_that_the_binding_has_no_name_for_are_offered_and_found(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    """A driver is often newer than nvidia-ml-py: 13.615 has names for 0x0 to 0x11."""
    own = gpu_model("a100-40gb")
    more = replace(own.profile("2g.10gb"), name="2g.10gb+x", nvml_profile=19, gi_profile_id=77)
    fake = install(FakeNvml(replace(own, profiles=(*own.profiles, more))))
    fake.foreign(0, "2g.10gb+x@2")
    world = opened()
    (theirs,) = world.instances()
    assert (str(theirs.placement), theirs.ours) == ("2g.10gb+x@2", False)
    assert fault(gpu_model("a100-40gb"), [theirs.placement, Placement.parse("3g.20gb@0")]) is not None
    assert isinstance(world.create("3g.20gb@0"), NoRoomError)
    assert world.create("2g.10gb+x@0") is None


# GPUs that the catalogue lacks, and drivers of all ages.


def unlisted() -> GpuModel:
    own = gpu_model("rtx-pro-6000-96gb")
    halved = {"1g.24gb": "1g.12gb", "2g.48gb": "2g.24gb", "4g.96gb": "4g.48gb"}
    profiles = tuple(
        replace(
            p,
            name=p.name.replace(old, new),
            memory_mib=(p.memory_mib or 0) // 2,
            gi_profile_id=100 + (p.gi_profile_id or 0),
        )
        for p in own.profiles
        for old, new in halved.items()
        if p.name.startswith(old)
    )
    return replace(
        own,
        name="rtx-pro-5000-48gb",
        title="NVIDIA RTX PRO 5000",
        aliases=("NVIDIA RTX PRO 5000",),
        pci=(),
        memory_mib=48943,
        profiles=profiles,
    )


def test_a_gpu_that_the_catalogue_lacks_is_read_whole(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    hardware = unlisted()
    install(FakeNvml(hardware))
    world = opened()
    assert world.seen().model == "rtx-pro-5000-48gb"
    read = gpu_model("rtx-pro-5000-48gb")
    assert read.origin == "NVML"
    for truth in hardware.profiles:
        seen = read.profile(truth.name)
        for key in ("compute", "memory", "starts", "max_instances", "media", "memory_mib", "sms"):
            assert getattr(seen, key) == getattr(truth, key), (truth.name, key)
        assert seen.copy_engines == truth.compute
    assert world.create("1g.12gb+me.all@3") is None
    assert world.create("2g.24gb@6") is None
    assert world.destroy("2g.24gb@6") is None


def test_what_is_read_is_the_same_where_the_driver_tells_no_names(
    install: Callable[[FakeNvml], FakeNvml],
) -> None:
    """Old drivers lack nvmlDeviceGetGpuInstanceProfileInfoV: names are made as NVIDIA's own tools make them."""
    fake = install(FakeNvml(unlisted()))
    (named,), _ = models_here()
    catalogue.reset()
    pynvml._nvmlGetFunctionPointer_cache.clear()
    fake.missing = {"nvmlDeviceGetGpuInstanceProfileInfoV"}
    (unnamed,), _ = models_here()
    assert [p.name for p in unnamed.profiles] == [p.name for p in named.profiles]
    assert unnamed == named


def test_a_driver_that_dropped_the_deprecated_call_is_read_by_the_new_one(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    fake = install(FakeNvml("a100-40gb"))
    fake.missing = {"nvmlDeviceGetGpuInstanceProfileInfo"}
    world = opened()
    assert world.create("3g.20gb@4") is None
    assert world.seen().model == "a100-40gb"


def test_a_driver_that_lacks_both_is_left_out_with_what_helps(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    fake = install(FakeNvml("a100-40gb"))
    fake.missing = {"nvmlDeviceGetGpuInstanceProfileInfo", "nvmlDeviceGetGpuInstanceProfileInfoV"}
    driver = opened().driver
    assert isinstance(driver, NvmlDriver)
    (left_out,) = driver.unusable
    assert "update the older" in str(left_out.mend)


@pytest.mark.parametrize("name", catalogue.gpu_names())
def test_every_gpu_of_the_catalogue_is_taken_for_itself(
    install: Callable[[FakeNvml], FakeNvml], name: str
) -> None:
    own = gpu_model(name)
    install(FakeNvml(name))
    (found,), left_out = models_here()
    assert (found.name, left_out) == (name, ())
    assert [(p.name, p.starts, p.max_instances) for p in found.profiles] == [
        (p.name, p.starts, p.max_instances) for p in own.profiles
    ]
    assert all(p.memory_mib for p in found.profiles)


@given(
    name=st.sampled_from(catalogue.gpu_names()),
    change=st.integers(-4, 9),
    hidden=st.sets(st.integers(0, 10), max_size=3),
)
def test_what_is_held_never_promises_more_than_either_says(name: str, change: int, hidden: set[int]) -> None:
    own = gpu_model(name)
    told = tuple(
        ListedProfile(
            number=p.nvml_profile or 0,
            id=p.gi_profile_id or 0,
            slices=p.compute,
            count=p.max_instances,
            memory_mib=int((p.memory_mib or 900 * p.memory) * (100 + change) / 100),
            sms=p.sms or 0,
            copy_engines=1,
            name=None,
            starts=p.starts[-1:],
            size=p.memory,
        )
        for n, p in enumerate(own.profiles)
        if n not in hidden
    )
    model = with_nvml_figures(own, told)
    if model is None:  # a name says more memory than is there: another GPU
        assert any(p.memory_mib is None for p in own.profiles)
        return
    by_number = {each.number: each for each in told}
    assert {p.nvml_profile for p in model.profiles} == set(by_number)
    for p in model.profiles:
        assert p.memory_mib is not None
        assert p.memory_mib <= by_number[p.nvml_profile or 0].memory_mib
        assert p.memory_mib <= (own.profile(p.name).memory_mib or p.memory_mib)
        assert p.starts == by_number[p.nvml_profile or 0].starts


def test_a_profile_that_the_driver_does_not_offer_is_not_planned_for(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    """Drivers before 525 lack the 1g with twice the memory: MIG User Guide, Supported MIG Profiles."""
    own = gpu_model("a100-40gb")
    old = replace(own, profiles=tuple(p for p in own.profiles if p.name != "1g.10gb"))
    install(FakeNvml(old))
    opened()
    assert not gpu_model("a100-40gb").has("1g.10gb")


def test_names_that_a_driver_gives_to_profiles_do_not_matter(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    """An A100's 3g is 3g.39gb under 535 and 545: mig-parted 31. The numbers are the same."""
    own = gpu_model("a100-80gb")
    named = tuple(replace(p, name="3g.39gb") if p.name == "3g.40gb" else p for p in own.profiles)
    install(FakeNvml(replace(own, profiles=named)))
    world = opened()
    assert world.create("3g.40gb@4") is None
    assert world.layout() == "3g.40gb@4"


def test_a_name_that_another_gpu_of_less_memory_bears_is_not_believed(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    """A custom part of 80GB that NVML calls as it does the one of 94GB."""
    fake = install(FakeNvml("h100-80gb"))
    fake.cards[0].name = "NVIDIA H100"
    world = opened()
    (host,) = hosts(world.driver.observe(), ())
    memory = {profile.name: profile.memory_mib for profile in host.model.profiles}
    assert memory["1g.10gb"] == 9984
    assert "1g.12gb" not in memory
    # A job that needs 10.5 GiB does not go onto the smallest slice.
    assert not holds(host.model.profile("1g.10gb"), int(10.5 * 2**30))


def test_a_user_s_file_without_numbers_is_matched_by_names(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    hardware = unlisted()
    own = tuple(replace(p, nvml_profile=None, gi_profile_id=None) for p in hardware.profiles if p.plain)
    catalogue.add([replace(hardware, name="ours", profiles=own, origin="ours.toml")])
    install(FakeNvml(hardware))
    world = opened()
    assert world.seen().model == "ours"
    assert gpu_model("ours").profile("2g.24gb").nvml_profile == 1
    assert world.create("2g.24gb@6") is None
    assert world.layout() == "2g.24gb@6"


def test_gpus_of_one_name_are_taken_for_what_all_of_them_are(
    install: Callable[[FakeNvml], FakeNvml], opened: Callable[..., World]
) -> None:
    own = gpu_model("a100-40gb")
    less = tuple(replace(p, memory_mib=(p.memory_mib or 0) - 64) for p in own.profiles)
    install(FakeNvml(own, replace(own, profiles=less)))
    world = opened()
    assert world.seen().model == world.seen(world.other).model == "a100-40gb"
    assert gpu_model("a100-40gb").profile("7g.40gb").memory_mib == 40192 - 64


def test_what_is_read_can_be_written_and_read(install: Callable[[FakeNvml], FakeNvml]) -> None:
    install(FakeNvml(unlisted()))
    (model,), _ = models_here()
    assert parse_gpu(gpu_text(model), "x.toml") == model
