"""NVML's energy counters and memory, through the binding and a simulated library."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pynvml
import pytest
from tests.drive.fake_nvml import CodeError, FakeNvml
from tests.drive.world import World

from partita.drive.driver import (
    ActionResult,
    DriveError,
    FailedError,
    GpuLostError,
    InUseError,
    NoRoomError,
    RefusedError,
    TimedOutError,
)
from partita.drive.nvml import NvmlDriver, instances
from partita.drive.nvml.devices import list_profiles, offers
from partita.drive.nvml.driver import NvmlEnergyMeter
from partita.drive.nvml.instances import used_bytes
from partita.drive.replicas import CommandReady, PortReady, ReplicaProcess, ReplicaRecords, UpstreamReplica
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement
from partita.process.table import started_at
from partita.serve.worker.spec import EmulatedSpec
from partita.serve.worker_specs import worker_process
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


HALF = Placement.parse("3g.20gb@4")
NAP = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""
SERVER = """
import pathlib, socket, sys, time
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.01)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
"""

SERVICES: dict[str, ReplicaProcess | UpstreamReplica] = {
    "bert": ReplicaProcess(NAP),
    "stubborn": ReplicaProcess((sys.executable, "-c", STUBBORN), grace_s=0.3),
    "broken": ReplicaProcess(
        (sys.executable, "-c", "raise SystemExit('no such model')"), readiness=CommandReady(("false",))
    ),
    "slow": ReplicaProcess(NAP, readiness=CommandReady(("false",)), start_timeout_s=0.3),
    "missing": ReplicaProcess(("/no/such/program",)),
    "typo": ReplicaProcess(("echo", "{prot}")),
}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml("a100-40gb", "a100-40gb")
    install(fake, monkeypatch)
    return fake


def install(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlLib", fake)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def opened(state: Path) -> Iterator[Callable[..., World]]:
    """Opens drivers on one state folder, as one controller after another does; ends what they left."""
    state.mkdir()
    log = state / "told.log"
    upstream = UpstreamReplica(
        ("sh", "-c", f"echo start $CUDA_VISIBLE_DEVICES >> {log}"), ("sh", "-c", f"echo stop >> {log}")
    )
    worlds: list[World] = []

    def open_(more: dict[str, ReplicaProcess | UpstreamReplica] | None = None, **options: object) -> World:
        services = {**SERVICES, "told": upstream, **(more or {})}
        worlds.append(World(NvmlDriver(state, services, **{"patience_s": 1.0, **options})))  # type: ignore[arg-type]
        return worlds[-1]

    yield open_
    records = ReplicaRecords(state / "replicas")
    for path in (state / "replicas").glob("*.json"):
        gpu_uuid, _, start = path.stem.partition("@")
        for profile in ("3g.20gb", "1g.5gb"):
            record = records.find(gpu_uuid, Placement(int(start), profile))
            if record is not None and record.alive() and not record.upstream:
                record.process.kill()


@pytest.fixture
def world(nvml: FakeNvml, opened: Callable[..., World]) -> World:
    del nvml
    return opened()


def test_gpus_are_found_with_their_models_and_all_their_placements(nvml: FakeNvml, world: World) -> None:
    seen = world.driver.observe()
    assert [(gpu.id, gpu.model, gpu.mig, gpu.lost) for gpu in seen.gpus] == [
        ("node-0/gpu-0", "a100-40gb", True, False),
        ("node-0/gpu-1", "a100-40gb", True, False),
    ]
    model = gpu_model("a100-40gb")
    device = pynvml.nvmlDeviceGetHandleByUUID(nvml.cards[0].uuid)
    for offer in offers(model, list_profiles(device)):
        assert offer.starts == offer.profile.starts
        assert offer.size == offer.profile.memory
        assert offer.memory_mib == offer.profile.memory_mib
        assert offer.id == offer.profile.gi_profile_id


def test_an_instance_is_made_at_exactly_its_placement_used_and_destroyed(
    nvml: FakeNvml, world: World
) -> None:
    assert world.create("3g.20gb@4") is None
    assert [str(each) for each in nvml.cards[0].placements] == ["3g.20gb@4"]
    (made,) = world.instances()
    (compute,) = nvml.cards[0].cuts[made.identity.instance_id].compute.values()
    assert (made.ours, made.identity.ci_id, made.identity.mig_uuid) == (True, compute.id, compute.uuid)
    assert world.start("3g.20gb@4") is None
    assert world.replica("3g.20gb@4").ready
    assert not world.instances()[0].busy
    assert world.stop("3g.20gb@4") is None
    assert world.destroy("3g.20gb@4") is None
    assert nvml.cards[0].placements == []


def test_changes_are_seen_on_gpus_touched_at_once_and_on_all_others_a_second_later(world: World) -> None:
    driver = world.driver
    assert isinstance(driver, NvmlDriver)
    first = driver.observe_changes(None, ())
    assert first.gpus == driver.observe().gpus
    assert isinstance(first.mark, float)
    soon = driver.clock.now()  # as if all had been looked at just now, however slow this machine is
    assert [each.id for each in driver.observe_changes(soon, [world.other]).gpus] == [world.other]
    assert driver.observe_changes(soon - 2.0, ()).gpus == driver.observe().gpus


def test_what_is_done_already_is_no_error(world: World) -> None:
    for act in (world.create, world.start, world.stop, world.destroy):
        assert act("3g.20gb@4") is None
        assert act("3g.20gb@4") is None


def test_a_whole_gpu_is_cut_with_gaps_and_every_instance_has_its_uuid(world: World) -> None:
    for start in range(7):
        assert world.create(f"1g.5gb@{start}") is None
    assert world.destroy("1g.5gb@3") is None
    assert world.layout() == " ".join(f"1g.5gb@{start}" for start in (0, 1, 2, 4, 5, 6))
    assert len({each.identity.mig_uuid for each in world.instances()}) == 6
    assert None not in {each.identity.mig_uuid for each in world.instances()}


@pytest.mark.parametrize("at", ["2g.10gb@1", "1g.5gb@5", "9g.90gb@0", "7g.40gb@0"])
def test_what_the_gpus_rules_forbid_finds_no_room(world: World, at: str) -> None:
    world.create("3g.20gb@4")
    assert isinstance(world.create(at), NoRoomError)
    assert world.layout() == "3g.20gb@4"


def test_a_process_reads_its_device_and_its_words(
    world: World, opened: Callable[..., World], state: Path
) -> None:
    world.create("3g.20gb@4")
    out = state / "words"
    script = f"import os, sys; open({str(out)!r}, 'w').write(os.environ['CUDA_VISIBLE_DEVICES'] + ' '.join(sys.argv))"
    tell = ReplicaProcess((sys.executable, "-c", script, "{service} {batch} {gpu}"))
    opened({"words": tell}).start("3g.20gb@4", service="words")
    for _ in range(500):
        if out.exists() and out.read_text():
            break
        time.sleep(0.01)
    assert out.read_text() == f"{world.instances()[0].identity.mig_uuid}-c words 8 node-0/gpu-0"


def test_a_replica_may_be_a_worker_on_its_device(
    world: World, opened: Callable[..., World], state: Path
) -> None:
    world.create("3g.20gb@4")
    served = opened({"bert": worker_process(EmulatedSpec(), state / "workers")})
    assert served.start("3g.20gb@4") is None
    seen = served.replica("3g.20gb@4")
    assert seen.ready
    device = f"CUDA_VISIBLE_DEVICES={served.instances()[0].identity.mig_uuid}".encode()
    assert device in Path(f"/proc/{seen.pid}/environ").read_bytes().split(b"\0")
    assert [path.name.startswith("node-0_gpu-0@4-") for path in (state / "workers").iterdir()] == [True]
    assert served.stop("3g.20gb@4") is None
    assert not list((state / "workers").iterdir())
    assert served.instances()[0].replica is None


def test_a_restarted_controller_finds_instances_and_replicas_again(
    world: World, opened: Callable[..., World]
) -> None:
    world.create("3g.20gb@4")
    world.start("3g.20gb@4")
    before = world.instances()
    later = opened()
    assert later.instances() == before
    assert later.start("3g.20gb@4") is None
    assert later.instances() == before
    assert later.stop("3g.20gb@4") is None
    assert later.destroy("3g.20gb@4") is None


def test_an_instance_with_a_replica_is_in_use(world: World) -> None:
    world.create("3g.20gb@4")
    world.start("3g.20gb@4")
    assert isinstance(world.destroy("3g.20gb@4"), InUseError)
    assert world.replica("3g.20gb@4").ready


def test_destroying_waits_out_a_moment_of_in_use_but_not_for_ever(
    nvml: FakeNvml, opened: Callable[..., World]
) -> None:
    patient = opened(patience_s=60.0)
    patient.create("3g.20gb@4")
    nvml.cards[0].lingering = 3
    assert patient.destroy("3g.20gb@4") is None
    world = opened(patience_s=0.2)
    world.create("3g.20gb@4")
    nvml.cards[0].lingering = 1000
    error = world.destroy("3g.20gb@4")
    assert isinstance(error, InUseError)
    assert "In use" in error.what
    nvml.cards[0].lingering = 0
    assert world.destroy("3g.20gb@4") is None


def test_a_strangers_process_makes_an_instance_busy_and_keeps_it(nvml: FakeNvml, world: World) -> None:
    world.create("3g.20gb@4")
    gi_id = world.instances()[0].identity.instance_id
    nvml.cards[0].foreign_pids[gi_id] = {1}
    assert world.instances()[0].busy
    assert isinstance(world.destroy("3g.20gb@4"), InUseError)
    assert isinstance(world.start("3g.20gb@4"), InUseError)


def test_a_process_that_ends_while_it_is_looked_at_is_no_strangers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create("3g.20gb@4")
    gi_id = world.instances()[0].identity.instance_id
    listed = iter([{gi_id: {2**22 + 1}}])
    monkeypatch.setattr(instances, "running_processes", lambda _: next(listed, {}))
    assert not world.instances()[0].busy


def test_an_instance_that_is_destroyed_while_it_is_looked_at_is_no_strangers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create("3g.20gb@4")
    listed = instances.running_processes

    def meanwhile(device: object) -> dict[int, set[int]]:
        monkeypatch.setattr(instances, "running_processes", listed)
        assert world.destroy("3g.20gb@4") is None
        return listed(device)

    monkeypatch.setattr(instances, "running_processes", meanwhile)
    assert [each.ours for each in world.instances()] == [True]
    assert not world.instances()


def test_foreign_instances_are_seen_and_left_alone_until_adopted(nvml: FakeNvml, world: World) -> None:
    nvml.foreign(0, "3g.20gb@4")
    assert not world.instances()[0].ours
    for act in (world.create, world.start, world.destroy):
        assert isinstance(act("3g.20gb@4"), RefusedError)
    assert isinstance(world.create("7g.40gb@0"), NoRoomError)
    assert len(nvml.cards[0].cuts) == 1
    world.driver.adopt(world.gpu, HALF)
    assert world.instances()[0].ours
    assert world.destroy("3g.20gb@4") is None
    with pytest.raises(NoRoomError):
        world.driver.adopt(world.gpu, HALF)


def test_what_others_put_in_the_place_of_ours_is_not_ours(nvml: FakeNvml, world: World) -> None:
    world.create("3g.20gb@4")
    mine = world.instances()[0].identity
    nvml.cards[0].cuts.clear()
    nvml.foreign(0, "3g.20gb@0")
    nvml.foreign(0, "3g.20gb@4")
    (_, theirs) = world.instances()
    assert theirs.identity.gi_id != mine.gi_id
    assert theirs.identity.mig_uuid != mine.mig_uuid
    assert not theirs.ours
    assert isinstance(world.destroy("3g.20gb@4"), RefusedError)


def test_a_creation_killed_half_way_is_known_as_ours_and_completed(
    nvml: FakeNvml, world: World, opened: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    died = threading.Event()

    def die(*_: object) -> None:
        died.set()
        threading.Event().wait()  # nothing after this happens, as if it had been killed

    for killed in (
        "partita.drive.nvml.instances.create_compute_instance",
        "partita.drive.nvml.gpu.OwnedInstances.record",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(killed, die)
            world.driver.begin(world.action(ActionKind.CREATE_INSTANCE, "3g.20gb@4"))
            assert died.wait(60.0)
            died.clear()
        assert nvml.cards[0].cuts
        world = opened()
        (half,) = world.instances()
        assert half.ours
        assert not half.complete
        assert isinstance(world.start("3g.20gb@4"), NoRoomError)
        assert world.create("3g.20gb@4") is None
        assert world.instances()[0].complete
        assert world.destroy("3g.20gb@4") is None


def test_a_creation_that_fails_half_way_leaves_nothing(nvml: FakeNvml, world: World) -> None:
    nvml.failing["nvmlGpuInstanceCreateComputeInstance"] = [pynvml.NVML_ERROR_UNKNOWN]
    error = world.create("3g.20gb@4")
    assert isinstance(error, FailedError)
    assert error.retry
    assert nvml.cards[0].cuts == {}
    assert world.create("3g.20gb@4") is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES, NoRoomError),
        (pynvml.NVML_ERROR_NO_PERMISSION, RefusedError),
        (pynvml.NVML_ERROR_GPU_IS_LOST, GpuLostError),
        (pynvml.NVML_ERROR_TIMEOUT, TimedOutError),
        (pynvml.NVML_ERROR_IN_USE, InUseError),
        (pynvml.NVML_ERROR_UNKNOWN, FailedError),
    ],
)
def test_error_codes_become_the_ports_errors(
    nvml: FakeNvml, world: World, code: int, kind: type[DriveError]
) -> None:
    nvml.failing["nvmlDeviceCreateGpuInstanceWithPlacement"] = [code]
    error = world.create("3g.20gb@4")
    assert type(error) is kind
    assert error.where == "node-0/gpu-0 3g.20gb@4"


def test_without_permission_nothing_is_cut_and_the_hint_says_what_helps(nvml: FakeNvml, world: World) -> None:
    nvml.permission = False
    error = world.create("3g.20gb@4")
    assert isinstance(error, RefusedError)
    assert "root" in str(error.hint)


def test_a_lost_gpu_is_seen_as_lost_and_the_others_go_on(nvml: FakeNvml, world: World) -> None:
    world.create("3g.20gb@4")
    nvml.cards[0].lost = True
    assert world.seen().lost
    assert world.instances() == ()
    for act in (world.create, world.start, world.stop, world.destroy):
        assert isinstance(act("3g.20gb@4"), GpuLostError)
    assert world.create("3g.20gb@4", world.other) is None


def test_an_instance_that_vanishes_while_it_is_looked_at_does_not_make_its_gpu_lost(
    nvml: FakeNvml, world: World
) -> None:
    world.create("3g.20gb@4")
    nvml.failing["nvmlGpuInstanceGetInfo"] = [pynvml.NVML_ERROR_NOT_FOUND]
    nvml.failing["nvmlDeviceGetGpuInstanceId"] = [pynvml.NVML_ERROR_INVALID_ARGUMENT]
    assert world.layout() == "3g.20gb@4"
    assert not world.seen().lost
    nvml.failing["nvmlGpuInstanceGetInfo"] = [pynvml.NVML_ERROR_NOT_FOUND] * 99
    with pytest.raises(FailedError, match="change while they are listed"):
        world.driver.observe()


def test_a_gpu_that_is_not_there_is_lost(world: World) -> None:
    assert isinstance(world.create("3g.20gb@4", "node-0/gpu-9"), GpuLostError)


def test_mig_mode_is_never_turned_on_unasked(
    monkeypatch: pytest.MonkeyPatch, opened: Callable[..., World]
) -> None:
    fake = FakeNvml("a100-40gb", mig=False)
    install(fake, monkeypatch)
    world = opened()
    assert not world.seen().mig
    error = world.create("3g.20gb@4")
    assert isinstance(error, RefusedError)
    assert "nvidia-smi -i 0 -mig 1" in str(error.hint)
    assert "nvmlDeviceSetMigMode" not in fake.calls
    assert not fake.cards[0].pending


def test_mig_mode_is_turned_on_when_asked_and_a_reset_that_it_needs_is_left_to_the_user(
    monkeypatch: pytest.MonkeyPatch, opened: Callable[..., World]
) -> None:
    fake = FakeNvml("a100-40gb", "h100-80gb", mig=False)
    fake.cards[1].needs_reset = False
    install(fake, monkeypatch)
    world = opened(allow_mig_mode=True)
    error = world.create("3g.20gb@4")
    assert isinstance(error, RefusedError)
    assert "reset" in str(error.hint)
    assert world.create("3g.40gb@4", world.other) is None


def test_gpus_without_mig_or_unknown_are_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch, opened: Callable[..., World]
) -> None:
    z9 = replace(gpu_model("a100-40gb"), pci=())
    fake = FakeNvml("a100-40gb", z9, "a30-24gb", "a30-24gb")
    fake.cards[0].mig_capable = False
    fake.cards[1].name = "NVIDIA Z9"
    fake.cards[1].mig = False
    fake.cards[2].lost = True
    install(fake, monkeypatch)
    driver = opened().driver
    assert isinstance(driver, NvmlDriver)
    assert [gpu.id for gpu in driver.observe().gpus] == ["node-0/gpu-3"]
    assert [(each.index, each.why) for each in driver.unusable] == [
        (0, "it has no MIG"),
        (1, "it is not in the catalogue, and NVML does not list its profiles while MIG mode is off"),
        (2, "NVML: GPU is lost"),
    ]


def test_without_a_driver_it_says_so(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    fake = FakeNvml()
    fake.failing["nvmlInitWithFlags"] = [pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
    install(fake, monkeypatch)
    state.mkdir()
    with pytest.raises(RefusedError, match="Driver Not Loaded"):
        NvmlDriver(state, {})


def test_a_replica_that_ignores_sigterm_is_killed_with_its_children(world: World, state: Path) -> None:
    world.create("3g.20gb@4")
    assert world.start("3g.20gb@4", service="stubborn") is None
    (log,) = (state / "replicas").glob("*.log")
    while not log.read_text().strip():
        time.sleep(0.01)
    child = int(log.read_text().split()[1])
    assert not world.instances()[0].busy
    assert world.stop("3g.20gb@4", service="stubborn") is None
    while started_at(child) is not None:
        time.sleep(0.01)
    assert world.destroy("3g.20gb@4") is None


def test_a_recycled_pid_is_never_killed(world: World, opened: Callable[..., World], state: Path) -> None:
    world.create("3g.20gb@4")
    world.start("3g.20gb@4")
    records = ReplicaRecords(state / "replicas")
    (gpu, _) = world.driver.observe().gpus
    record = records.find(gpu.uuid, HALF)
    assert record is not None
    real = record.pid
    assert real is not None
    assert record.began is not None
    records.write(record.replace(pid=os.getpid(), token="0" * 32))
    later = opened()
    assert later.instances()[0].replica is None
    assert later.stop("3g.20gb@4") is None  # that would have ended this very process
    records.write(record.replace(began=record.began - 1, token="0" * 32))
    assert opened().instances()[0].replica is None
    records.write(record.replace(boot="another"))
    assert opened().instances()[0].replica is None
    records.write(record)
    assert opened().stop("3g.20gb@4") is None


def test_a_replica_started_just_before_a_kill_is_found_by_its_token(
    world: World, opened: Callable[..., World], state: Path
) -> None:
    world.create("3g.20gb@4")
    world.start("3g.20gb@4")
    records = ReplicaRecords(state / "replicas")
    record = records.find(world.seen().uuid, HALF)
    assert record is not None
    records.write(record.replace(pid=None, began=None))
    later = opened()
    assert later.replica("3g.20gb@4").pid == record.pid
    assert later.stop("3g.20gb@4") is None
    assert record.process.leader() is None


@pytest.mark.usefixtures("nvml")
def test_cutting_does_not_ask_replicas_whether_they_are_ready(
    opened: Callable[..., World], state: Path
) -> None:
    asked = state / "asked"
    shy = ReplicaProcess(NAP, readiness=CommandReady(("sh", "-c", f"echo >> {asked}")))
    world = opened({"shy": shy})
    world.create("3g.20gb@4")
    assert world.start("3g.20gb@4", service="shy") is None
    before = asked.read_text()
    assert world.create("1g.5gb@0") is None
    assert asked.read_text() == before
    assert world.replica("3g.20gb@4").ready
    assert asked.read_text() != before


def test_a_replica_is_ready_when_its_port_answers(
    nvml: FakeNvml, opened: Callable[..., World], tmp_path: Path
) -> None:
    del nvml
    may_listen = tmp_path / "may-listen"
    command = (sys.executable, "-c", SERVER, "{port}", str(may_listen))
    world = opened({"server": ReplicaProcess(command, readiness=PortReady())})
    world.create("3g.20gb@4")
    world.driver.begin(world.action(ActionKind.START_REPLICA, "3g.20gb@4", service="server"))
    assert world.driver.wait(until=world.driver.clock.now() + 0.05) == ()
    while world.instances()[0].replica is None:
        time.sleep(0.01)
    assert not world.replica("3g.20gb@4").ready
    may_listen.touch()
    (ended,) = world.driver.wait()
    assert ended.error is None
    assert world.replica("3g.20gb@4").ready


def test_a_replica_that_ends_before_it_is_ready_has_failed_with_its_last_words(world: World) -> None:
    world.create("3g.20gb@4")
    error = world.start("3g.20gb@4", service="broken")
    assert isinstance(error, FailedError)
    assert "no such model" in error.what
    assert world.instances()[0].replica is None


def test_a_replica_that_is_not_ready_in_time_is_left_and_can_be_stopped(world: World) -> None:
    world.create("3g.20gb@4")
    assert isinstance(world.start("3g.20gb@4", service="slow"), TimedOutError)
    assert not world.replica("3g.20gb@4").ready
    assert world.stop("3g.20gb@4", service="slow") is None


@pytest.mark.parametrize(
    ("service", "kind"), [("missing", FailedError), ("typo", RefusedError), ("who", RefusedError)]
)
def test_a_command_that_cannot_be_run_says_why(world: World, service: str, kind: type[DriveError]) -> None:
    world.create("3g.20gb@4")
    assert type(world.start("3g.20gb@4", service=service)) is kind
    assert world.instances()[0].replica is None


def test_one_replica_is_not_taken_for_another(world: World) -> None:
    world.create("3g.20gb@4")
    world.start("3g.20gb@4")
    assert isinstance(world.start("3g.20gb@4", service="slow"), RefusedError)
    assert isinstance(world.stop("3g.20gb@4", service="slow"), RefusedError)
    assert world.replica("3g.20gb@4").replica.service == "bert"


def test_an_upstream_server_is_told(world: World, opened: Callable[..., World], state: Path) -> None:
    world.create("3g.20gb@4")
    assert world.start("3g.20gb@4", service="told") is None
    assert opened().replica("3g.20gb@4").ready
    assert isinstance(world.destroy("3g.20gb@4"), InUseError)
    uuid = world.instances()[0].identity.mig_uuid
    assert world.stop("3g.20gb@4", service="told") is None
    assert (state / "told.log").read_text() == f"start {uuid}\nstop\n"
    assert world.destroy("3g.20gb@4") is None


def test_actions_run_side_by_side(world: World) -> None:
    for gpu in (world.gpu, world.other):
        for start in range(7):
            world.driver.begin(world.action(ActionKind.CREATE_INSTANCE, f"1g.5gb@{start}", gpu))
    ended: list[ActionResult] = []
    while found := world.driver.wait():
        ended += found
    assert [each.error for each in ended] == [None] * 14
    assert world.driver.wait() == ()


def test_a_damaged_record_is_kept_and_named(world: World, state: Path) -> None:
    world.create("3g.20gb@4")
    path = state / "replicas" / f"{world.seen().uuid}@4.json"
    path.parent.mkdir()
    path.write_text("{", encoding="utf-8")
    error = world.start("3g.20gb@4")
    assert isinstance(error, FailedError)
    assert str(path) in str(error.where)
    assert path.read_text(encoding="utf-8") == "{"
    path.unlink()


class Counting(FakeNvml):
    """A library whose cards count energy, in millijoules."""

    millijoules: int | None = 1_234_567
    used = 5 << 30

    def _nvmlDeviceGetTotalEnergyConsumption(self, device: Any, result: Any) -> None:  # noqa: N802 -- NVML's name
        del device
        if self.millijoules is None:
            raise CodeError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        result._obj.value = self.millijoules

    def _nvmlDeviceGetMemoryInfo(self, device: Any, result: Any) -> None:  # noqa: N802 -- NVML's name
        assert ctypes.cast(device, ctypes.c_void_p).value == self.cards[0].address
        result._obj.used = self.used


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Counting:
    found = Counting("a100-80gb", "a100-80gb")
    monkeypatch.setattr(pynvml, "nvmlLib", found)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", lambda: None)
    return found


def test_counters_are_read_in_joules(library: Counting) -> None:
    with closing(NvmlEnergyMeter()) as meter:
        found = meter.energy()
    assert [(each.gpu, each.joules) for each in found] == [
        ("node-0/gpu-0", 1234.567),
        ("node-0/gpu-1", 1234.567),
    ]
    assert [each.uuid for each in found] == [card.uuid for card in library.cards]


def test_a_gpu_without_a_counter_or_off_the_bus_says_so(library: Counting) -> None:
    with closing(NvmlEnergyMeter()) as meter:
        library.cards[1].lost = True
        assert (meter.energy()[1].joules, bool(meter.energy()[1].why)) == (None, True)
        library.cards[1].lost = False
        library.millijoules = None
        assert (meter.energy()[0].joules, bool(meter.energy()[0].why)) == (None, True)


def test_no_driver_is_an_error(library: Counting) -> None:
    library.failing["nvmlInitWithFlags"] = [pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
    with pytest.raises(DriveError):
        NvmlEnergyMeter()


def test_memory_in_use_is_none_where_the_instance_is_gone(library: Counting) -> None:
    pynvml.nvmlInit()
    assert used_bytes(library.cards[0].uuid) == 5 << 30
    assert used_bytes("MIG-gone") is None
    pynvml.nvmlShutdown()
