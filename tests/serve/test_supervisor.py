"""Workers under a supervisor: real processes, killed for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from tests.serve.worker.client import gateway, numbered, spec_of, until

from partita.errors import InputError
from partita.mig.layout import Placement
from partita.perf.operating_point import OperatingPoint
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, Solver
from partita.serve import supervisor as module
from partita.serve.supervisor import StartOptions, Supervisor
from partita.serve.worker.spec import EmulatedSpec, OnnxSpec, UpstreamSpec
from partita.serve.worker.wire import FrameKind
from partita.serve.worker_specs import worker_specs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from partita.serve.supervisor import SupervisedWorker
    from partita.serve.worker.spec import WorkerSpec


@contextmanager
def supervised(specs: tuple[WorkerSpec, ...], **options: object) -> Iterator[Supervisor]:
    made = Supervisor(specs, **options)  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        made.stop(0.0 if sys.exc_info()[0] else None)


def listens(worker: SupervisedWorker) -> bool:
    return (Path(worker.spec.folder) / worker.spec.socket_name).exists()


def ready(supervisor: Supervisor) -> bool:
    return all(map(listens, supervisor.workers()))


def replaced(supervisor: Supervisor, pid: int) -> None:
    until(lambda: supervisor.workers()[0].pid not in (None, pid) and ready(supervisor))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def two(folder: Path) -> tuple[WorkerSpec, ...]:
    one = spec_of(folder).replace(supervised=True)
    return one, one.replace(placement="3g.20gb@0")


def test_a_worker_that_is_killed_is_replaced_and_that_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    with supervised(two(tmp_path), tell=told.append) as keeper:
        until(lambda: ready(keeper))
        for _ in range(2):
            victim, other = keeper.workers()
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            replaced(keeper, victim.pid)
            assert keeper.workers()[1] == other
        now = keeper.workers()[0]
        assert now.restarts == 2
        with gateway(now.spec) as one:
            assert one.hello.pid == now.pid
            assert one.ask(numbered(1))[0].error is None
        assert (
            sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 2 + [".log"] * 2 + [".sock"] * 2
        )
    assert len(told) == 1
    assert "was killed by signal 9" in told[0]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".log"] * 2


def test_a_worker_that_cannot_start_is_tried_ever_more_rarely(tmp_path: Path) -> None:
    told: list[str] = []
    broken = spec_of(tmp_path, OnnxSpec(str(tmp_path / "missing.onnx"))).replace(supervised=True)
    with supervised((broken,), tell=told.append) as keeper:
        until(lambda: keeper.workers()[0].restarts >= 2)
    (text,) = told
    assert "ended with 2" in text
    assert "missing.onnx" in (tmp_path / "node-0_gpu-0@4.log").read_text()


def test_a_worker_that_is_not_ready_in_time_is_tried_anew(tmp_path: Path) -> None:
    told: list[str] = []
    silent = UpstreamSpec("http://127.0.0.1:9", load_timeout_s=600.0)
    spec = spec_of(tmp_path, silent).replace(supervised=True)
    starts = {spec.service: StartOptions(timeout_s=1.0)}
    with supervised((spec,), starts=starts, tell=told.append) as keeper:
        until(lambda: keeper.workers()[0].restarts >= 1)
    (text,) = told
    assert "was not ready within 1 s" in text


def test_a_worker_that_was_ready_in_time_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path).replace(supervised=True)
    silent = UpstreamSpec("http://127.0.0.1:9", load_timeout_s=600.0)
    other = spec_of(tmp_path, silent).replace(supervised=True, placement="3g.20gb@0")
    clock = SimpleNamespace(monotonic=time.monotonic)
    monkeypatch.setattr(module, "time", clock)
    with supervised((spec, other), starts={spec.service: StartOptions({"MARK": "here"}, 300.0)}) as keeper:
        until(lambda: listens(keeper.workers()[0]))
        before = keeper.workers()[0]
        assert b"MARK=here" in Path(f"/proc/{before.pid}/environ").read_bytes().split(b"\0")
        clock.monotonic = lambda: time.monotonic() + 301.0
        keeper.drain("no-node/gpu-0", "7g.40gb@0")  # so that it looks now
        until(lambda: keeper.workers()[1].restarts >= 1)
        assert keeper.workers()[0] == before


def test_drained_instances_finish_their_work_and_are_not_replaced(tmp_path: Path) -> None:
    specs = tuple(each.replace(seconds={1: 0.2}) for each in two(tmp_path))
    with supervised(specs) as keeper:
        until(lambda: ready(keeper))
        first = keeper.workers()[0].spec
        with gateway(first) as one:
            number = one.send(numbered(1))
            keeper.drain(first.gpu, first.placement)
            kinds = {one.next().kind, one.next().kind}
            assert kinds == {FrameKind.DRAINING, FrameKind.DONE}
            one.drained()
            assert one.left()
        assert number == 1
        until(lambda: len(keeper.workers()) == 1)
        assert keeper.workers()[0].spec.placement == "3g.20gb@0"


def test_what_does_not_drain_in_time_is_killed(tmp_path: Path) -> None:
    specs = (spec_of(tmp_path, seconds={1: 600.0}, grace_s=600.0).replace(supervised=True),)
    keeper = Supervisor(specs)
    keeper.start()
    until(lambda: ready(keeper))
    (worker,) = keeper.workers()
    with gateway(worker.spec) as one:
        one.send(numbered(1))
        began = time.monotonic()
        keeper.stop(0.1)
        assert time.monotonic() - began < 20
    assert worker.pid is not None
    assert gone(worker.pid)
    assert keeper.workers() == ()


def test_one_that_cannot_hear_sigterm_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    (spec,) = two(tmp_path)[:1]
    keeper = Supervisor((spec,))
    keeper.start()
    until(lambda: ready(keeper))
    (worker,) = keeper.workers()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    keeper.stop(0.1)
    assert gone(worker.pid)


def test_when_the_next_worker_will_be_started_is_known(tmp_path: Path) -> None:
    spec = two(tmp_path)[0]
    keeper = Supervisor((spec,))
    now = time.monotonic()
    assert keeper.starts("other", now, 0.0) == ()
    assert keeper.starts(spec.service, now, 0.0) == ((now, 8),)
    keeper.start()
    try:
        until(lambda: keeper.workers()[0].pid is not None)
        (begun,) = keeper.starts(spec.service, time.monotonic(), 0.0)
        assert now <= begun[0] <= time.monotonic()
        until(lambda: ready(keeper))
        now = time.monotonic()
        (found,) = keeper.starts(spec.service, now, 8.0)  # whoever asks has lost it, or finds that it hangs
        assert now + 8.0 <= found[0] <= now + 9.0
    finally:
        keeper.stop(0.0)


ORPHANS = """
import sys, time
from pathlib import Path
from partita.serve.supervisor import Supervisor
from partita.serve.worker.spec import read_spec
keeper = Supervisor([read_spec(sys.argv[1])])
keeper.start()
while keeper.workers()[0].pid is None:
    time.sleep(0.01)
print(keeper.workers()[0].pid, flush=True)
time.sleep(600)
"""


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    spec = spec_of(tmp_path).replace(supervised=True)
    path = tmp_path / "given"
    path.write_text(spec.text())
    with subprocess.Popen([sys.executable, "-c", ORPHANS, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        until(lambda: list(tmp_path.glob("*.sock")))
        process.kill()
    until(lambda: gone(pid))
    assert not list(tmp_path.glob("*.sock"))


def test_each_worker_sees_its_device_alone(tmp_path: Path) -> None:
    specs = two(tmp_path)
    with supervised(specs, devices={("node-0/gpu-0", "3g.20gb@4"): "MIG-1"}) as keeper:
        until(lambda: ready(keeper))
        seen = [
            dict(
                pair.split(b"=", 1)
                for pair in Path(f"/proc/{each.pid}/environ").read_bytes().split(b"\0")
                if b"=" in pair
            ).get(b"CUDA_VISIBLE_DEVICES")
            for each in keeper.workers()
        ]
    assert seen[0] == b"MIG-1"
    assert seen[1] != b"MIG-1"


def plan_of(*instances: Instance) -> Plan:
    return Plan(
        Objective("gpus", 1, 1),
        Solver("exact", 0, 0.0),
        (),
        (PlannedGpu("node-0/gpu-3", "a100-40gb", instances),),
    )


POINT = OperatingPoint("3g.20gb", 8, 2, 400.0, 40.0, "0.9")
HERE = Instance(Placement(4, "3g.20gb"), "bert", "bert-large", POINT)


def test_a_plan_says_which_workers_there_are(tmp_path: Path) -> None:
    table = {("a100-40gb", "3g.20gb", 2): {1: 0.01, 8: 0.03}}
    (guessed,) = worker_specs(plan_of(HERE), {"bert": EmulatedSpec()}, tmp_path)
    (known,) = worker_specs(plan_of(HERE), {"bert": EmulatedSpec()}, tmp_path, tables={"bert": table})
    assert guessed.seconds == {8: 0.04}
    assert known == guessed.replace(seconds={1: 0.01, 8: 0.03})
    assert (known.service, known.model, known.gpu, known.placement) == (
        "bert",
        "bert-large",
        "node-0/gpu-3",
        "3g.20gb@4",
    )
    assert (known.batch, known.processes, known.supervised) == (8, 2, True)


def test_the_url_of_an_upstream_server_may_name_the_instance(tmp_path: Path) -> None:
    url = UpstreamSpec("http://127.0.0.1:80{start}/{service}")
    (spec,) = worker_specs(plan_of(HERE), {"bert": url}, tmp_path)
    assert spec.backend == UpstreamSpec("http://127.0.0.1:804/bert")
    started = UpstreamSpec("http://127.0.0.1:{port}", command=("serve", "{model}", "{port}"))
    (spec,) = worker_specs(plan_of(HERE), {"bert": started}, tmp_path)
    assert spec.backend == started.replace(command=("serve", "bert-large", "{port}"))
    with pytest.raises(InputError, match="cannot be filled in"):
        worker_specs(plan_of(HERE), {"bert": UpstreamSpec("http://{prot}")}, tmp_path)
    with pytest.raises(InputError, match="service bert has no back-end"):
        worker_specs(plan_of(HERE), {}, tmp_path)
