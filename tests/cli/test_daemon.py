"""`partita daemon` as a process of its own, and the commands of the job queue against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.commands import Commands
from tests.control.world import deployment

from partita.jobs.queue.client import NoDaemonError, QueueClient
from partita.jobs.run.real import RealJobRunner
from partita.jobs.run.runner import AttemptPhase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


PATIENCE_S = 40.0
WAIT = "n=0; while [ ! -e go ] && [ $n -lt 4000 ]; do sleep 0.05; n=$((n + 1)); done"


@dataclass
class Lab:
    """A daemon on a simulated cluster, and the command line."""

    commands: Commands
    process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        command = [sys.executable, "-m", "partita", "daemon", "--simulate", "a100-40gb:1", *more]
        environment = {**os.environ, "PARTITA_STATE": str(self.commands.state)}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        end = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with QueueClient(self.commands.state / "jobs") as client:
                return bool(client.ask("queue"))
        except NoDaemonError:
            return False

    def end(self, number: int = signal.SIGTERM) -> str:
        assert self.process is not None
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=PATIENCE_S)
        self.process = None
        return err.decode()

    def end_all(self) -> None:
        """End the daemon and then all processes of jobs, whatever state the test has left them in."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=PATIENCE_S)
        runner = RealJobRunner(1 / 64)
        running = list((self.commands.state / "jobs" / "attempts").glob("*/*"))
        for attempt in running:
            runner.stop(attempt, grace_s=0.0)
        end = time.monotonic() + PATIENCE_S
        while any(runner.look(each).phase not in (AttemptPhase.ENDED, AttemptPhase.LOST) for each in running):
            assert time.monotonic() < end
            time.sleep(0.02)

    def submit(self, *words: str) -> str:
        found = self.commands("submit", *words)
        assert found.code == 0, found.err
        assert found.out.strip().isdecimal()
        return found.out.strip()

    def shown(self, command: str, width: str) -> str:
        environment = {**os.environ, "PARTITA_STATE": str(self.commands.state), "COLUMNS": width}
        words = [sys.executable, "-m", "partita", command]
        return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout

    def queue(self) -> dict[str, Any]:
        asked = self.commands("queue", "-o", "json")
        assert asked.code == 0, asked.err
        found: dict[str, Any] = json.loads(asked.out)
        return found


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    monkeypatch.chdir(tmp_path)
    found = Lab(Commands(tmp_path, monkeypatch, capsys))
    try:
        found.start()
        yield found
    finally:
        found.end_all()


def test_a_job_is_submitted_waited_for_read_and_remembered(lab: Lab) -> None:
    job = lab.submit("--name", "greeting", "--", "sh", "-c", "echo hello; echo there >&2; exit 3")
    waited = lab.commands("wait", job)
    assert waited.code == 1
    assert waited.err == f"job {job} failed: exit code 3\n"
    assert lab.commands("logs", job).out == "hello\nthere\n"
    assert lab.commands("logs", "-f", job).out == "hello\nthere\n"
    table = lab.commands("history").out
    assert "greeting" in table
    assert "failed: exit code 3" in table
    (told,) = json.loads(lab.commands("history", job, "-o", "json").out)["jobs"]
    assert told["attempts"][0]["exit_code"] == 3
    assert told["command"] == ["sh", "-c", "echo hello; echo there >&2; exit 3"]
    lab.commands("requeue", job)
    lab.commands("wait", job)
    (told,) = json.loads(lab.commands("history", job, "-o", "json").out)["jobs"]
    assert len(told["attempts"]) == 2


def test_a_killed_daemon_loses_nothing_and_an_ended_one_leaves_jobs_running(lab: Lab) -> None:
    running = lab.submit("--", "sh", "-c", f"echo begun; {WAIT}; echo ended")
    end = time.monotonic() + PATIENCE_S
    while lab.commands("logs", running).out != "begun\n":
        assert time.monotonic() < end
    lab.end(signal.SIGKILL)
    assert "no daemon answers" in lab.commands("queue").err
    lab.start()
    assert lab.commands("logs", running).out == "begun\n"
    assert "stopping" in lab.end()
    (lab.commands.folder / "go").touch()
    lab.start()
    assert lab.commands("wait", running).code == 0
    (told,) = json.loads(lab.commands("history", running, "-o", "json").out)["jobs"]
    assert len(told["attempts"]) == 1


def test_a_second_daemon_is_refused(lab: Lab) -> None:
    found = lab.commands("daemon")
    assert found.code == 1
    assert "another controller acts on this cluster" in found.err
    assert lab.queue()["total"] == 0


def test_the_status_shows_jobs_in_their_instances(lab: Lab) -> None:
    job = lab.submit("--memory", "30GiB", "--", "sh", "-c", WAIT)
    end = time.monotonic() + PATIENCE_S
    while [each["state"] for each in lab.queue()["jobs"]] != ["running"]:
        assert time.monotonic() < end
    assert f"job {job}" in lab.commands("status").out
    (gpu,) = json.loads(lab.commands("status", "-o", "json").out)["gpus"]
    assert [(each["job"], each["state"]) for each in gpu["instances"]] == [(job, "busy")]
    lab.end()
    (gpu,) = json.loads(lab.commands("status", "-o", "json").out)["gpus"]
    assert [(each["job"], each["state"]) for each in gpu["instances"]] == [(None, "idle")]


def test_an_array_and_its_tasks_are_named(lab: Lab) -> None:
    job = lab.submit("--array", "0-2", "--", "sh", "-c", "test {index} != 1")
    waited = lab.commands("wait", job)
    assert waited.code == 1
    assert f"job {job}_1 failed" in waited.err
    assert lab.commands("wait", f"{job}_0", f"{job}_2").code == 0
    assert "3 tasks have a log each" in lab.commands("logs", job).err


def test_the_queue_says_why_and_when(lab: Lab) -> None:
    first = lab.submit("--memory", "30GiB", "--gpu-time", "10m", "--", "sleep", "600")
    second = lab.submit("--memory", "30GiB", "--gpu-time", "10m", "--", "sleep", "600")
    never = lab.submit("--memory", "300GiB", "--", "sleep", "600")
    end = time.monotonic() + PATIENCE_S
    while {job["id"]: job["state"] for job in lab.queue()["jobs"]}.get(first) != "running":
        assert time.monotonic() < end
    for width in ("80", "160"):
        table = lab.shown("queue", width)
        assert [line for line in table.splitlines() if len(line) > int(width)] == []
        assert "1 running, 2 waiting" in table
    rows: dict[str, Any] = {}
    while second not in rows or rows[second]["start"] is None:
        assert time.monotonic() < end
        rows = {job["id"]: job for job in lab.queue()["jobs"]}
    assert "needs 7g.40gb" in rows[second]["reason"]
    assert rows[second]["start"] > time.time() + 300
    assert rows[never]["start"] is None
    assert "not over yet: 1 of 1" in lab.commands("wait", second, "--timeout", "1s").err
    cancelled = lab.commands("cancel", never, second)
    assert f"job {never}: cancelled" in cancelled.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("submit", "--memory", "much", "--", "true"), "'much' is not a size"),
        (("submit", "--gpu-time", "soon", "--", "true"), "'soon' is not a time"),
        (
            ("submit", "--gpu-time", "2h,1g.5gb=1h", "--", "true"),
            "a time for every slice together with times for some",
        ),
        (("submit", "--like", "m.onnx", "--memory", "1GiB", "--", "true"), "both say what it needs"),
        (("submit", "--like-with", "batch=1", "--", "true"), "--like-with needs --like"),
        (("submit", "--like", "missing.onnx", "--", "true"), "missing.onnx"),
        (("submit", "--array", "9-1", "--", "true"), "not a range"),
        (("submit", "--user", "no-such-user", "--", "true"), "user"),
        (("cancel", "twelve"), "not a job id"),
        (("logs", "99"), "there is no job 99"),
        (("history", "99"), "there is no job 99"),
        (("daemon", "--discipline", "fare"), "did you mean fair?"),
        (("daemon", "--admin", "@no-such-group"), "there is no group"),
    ],
)
def test_bad_input_is_told(lab_once: Lab, words: tuple[str, ...], told: str) -> None:
    found = lab_once.commands(*words)
    assert found.code != 0
    assert told in found.err
    assert "Traceback" not in found.err


@pytest.fixture(scope="module")
def daemon_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        found = Lab(Commands(folder, patch, None))  # type: ignore[arg-type]
        try:
            found.start()
            yield folder
        finally:
            found.end_all()


@pytest.fixture
def lab_once(daemon_once: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    return Lab(Commands(daemon_once, monkeypatch, capsys))


def test_apply_leaves_the_slices_of_jobs_that_outlive_their_daemon(lab: Lab) -> None:
    job = lab.submit("--", "sh", "-c", WAIT)
    with QueueClient(lab.commands.state / "jobs") as client:
        end = time.monotonic() + PATIENCE_S
        while not (
            running := [each for each in client.ask("instances")["jobs"] if each["state"] == "running"]
        ):
            assert time.monotonic() < end
            time.sleep(0.02)
    (held,) = {(each["gpu"], each["instance"]) for each in running}
    lab.end()
    plan = lab.commands.plan("plan.json", deployment("3g.20gb@4=bert"))
    differs = lab.commands("diff", plan, "-o", "json")
    shown = lab.commands("apply", plan, "--dry-run", "-o", "json")
    assert differs.code == 3
    assert f"1 job ({job}) on 1 GPU: their slices stay as they are" in differs.err
    would = {each["kind"] for each in json.loads(differs.out)["actions"]}
    assert would == set(json.loads(shown.out)["actions"]) == {"create_instance", "start_replica"}
    state = json.loads(shown.out)["state"]
    assert json.loads(lab.commands("status", "-o", "json").out)["state"] == state
    applied = lab.commands("apply", plan, "--yes", "--expect", state)
    assert applied.code == 0, applied.err
    assert lab.commands("diff", plan).code == 0
    (gpu,) = json.loads(lab.commands("status", "-o", "json").out)["gpus"]
    there = {(gpu["id"], f"{each['profile']}@{each['start']}"): each["service"] for each in gpu["instances"]}
    assert there.pop(held) is None
    assert list(there.values()) == ["bert"]
    lab.start()
    (lab.commands.folder / "go").touch()
    assert lab.commands("wait", job).code == 0
