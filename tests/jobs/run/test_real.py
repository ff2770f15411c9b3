"""Real processes with real watchers, and what goes wrong with them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.jobs.run.attempts import ME, Attempts, ended, says, until, watched

from partita.jobs.queue.folders import read_log
from partita.jobs.run import real
from partita.jobs.run.real import RealJobRunner
from partita.jobs.run.runner import AttemptPhase, JobUser
from partita.process import table

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_job_gets_its_device_and_names_and_its_exit_code_is_told(attempts: Attempts) -> None:
    found, log = attempts.run(
        "sh",
        "-c",
        "echo $CUDA_VISIBLE_DEVICES $PARTITA_JOB_ID $PARTITA_ARRAY_INDEX; pwd; exit 3",
        index=4,
    )
    assert (found.phase, found.code, found.out_of_memory, found.why) == (AttemptPhase.ENDED, 3, False, None)
    assert log.splitlines() == ["MIG-0 7 4", str(attempts.root)]
    assert found.began is not None
    assert found.ended is not None
    assert found.began <= found.ended


def test_starting_twice_starts_once(attempts: Attempts) -> None:
    runner = RealJobRunner()
    folder = attempts.start("sh", "-c", f"echo x >> {attempts.root}/runs; sleep 0.4", runner=runner)
    until((attempts.root / "runs").exists)
    attempts.folders.pop()
    attempts.start("sh", "-c", "echo never", runner=runner)
    assert ended(folder, runner).code == 0
    attempts.folders.pop()
    attempts.start("sh", "-c", "echo never", runner=runner)
    assert ended(folder, runner).code == 0
    assert (attempts.root / "runs").read_text() == "x\n"
    assert (folder / "log").read_text() == ""
    attempts.folders.append(folder)


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        ("no-such-command", 127, "no-such-command: no such command"),
        ("/etc/passwd", 126, "/etc/passwd: cannot be executed: Permission denied"),
        ("./script", 126, "./script: not a program; a script needs a first line such as #!/bin/sh"),
    ],
)
def test_what_cannot_be_started_says_why_as_a_shell_does(
    attempts: Attempts, command: str, code: int, why: str
) -> None:
    (attempts.root / "script").write_text("echo no first line\n")
    (attempts.root / "script").chmod(0o755)
    found, log = attempts.run(command)
    assert (found.phase, found.code, found.why) == (AttemptPhase.ENDED, code, why)
    assert log == f"partita: {why}\n"


def test_a_directory_that_is_gone_is_told(attempts: Attempts) -> None:
    found, _ = attempts.run("true", directory=attempts.root / "gone")
    assert found.code == 125
    assert found.why == f"its directory {attempts.root}/gone cannot be entered: No such file or directory"


@root_only
def test_a_user_who_is_gone_is_told(attempts: Attempts) -> None:
    found, _ = attempts.run("true", owner=JobUser(54321, 54321, (), "carol"))
    assert (found.code, found.why) == (125, "there is no longer a user carol with id 54321")


@root_only
def test_a_job_runs_as_its_owner_and_nothing_of_root_is_left_to_it(attempts: Attempts) -> None:
    found, log = attempts.run(
        "sh",
        "-c",
        "grep -E '^(Uid|Gid|Groups|CapEff)' /proc/self/status; ls /proc/self/fd",
        owner=JobUser(NOBODY, NOBODY, (100, 101), "nobody"),
        directory=Path("/"),
    )
    assert found.code == 0
    same = [str(NOBODY)] * 4
    # The fourth descriptor is that of the folder being listed.
    expected = [
        "Uid:",
        *same,
        "Gid:",
        *same,
        "Groups:",
        "100",
        "101",
        "CapEff:",
        "0" * 16,
        "0",
        "1",
        "2",
        "3",
    ]
    assert log.split() == expected


def test_a_job_leads_a_session_of_its_own_and_dumps_no_core(attempts: Attempts) -> None:
    code = (
        "import os, resource; print(os.getpid() == os.getsid(0), resource.getrlimit(resource.RLIMIT_CORE),"
        "open('/proc/self/oom_score_adj').read().strip())"
    )
    assert attempts.run(*python(code))[1] == "True (0, 0) 500\n"


def test_a_job_that_is_asked_to_end_checkpoints_within_its_grace(attempts: Attempts) -> None:
    folder = attempts.start(
        "sh", "-c", "trap 'sleep 0.2; echo checkpoint; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    )
    until(says(folder, "up"))
    runner = RealJobRunner()
    runner.stop(folder, grace_s=20.0)
    assert runner.look(folder).phase is AttemptPhase.STOPPING
    found = ended(folder)
    assert (found.phase, found.code) == (AttemptPhase.ENDED, 9)
    assert "checkpoint" in (folder / "log").read_text()


def test_a_job_that_ignores_sigterm_is_killed_after_its_grace(attempts: Attempts) -> None:
    folder = attempts.start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    until(says(folder, "up"))
    RealJobRunner().stop(folder, grace_s=0.5)
    found = ended(folder)
    assert (found.code, found.why) == (137, None)


def test_a_host_that_shuts_down_has_jobs_checkpoint(attempts: Attempts) -> None:
    folder = attempts.start("sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")
    until(says(folder, "up"))
    os.kill(watched(folder)["watcher"], signal.SIGTERM)
    assert ended(folder).code == 9
    assert (folder / "checkpoint").read_text() == "5.0"


def test_a_job_asked_again_with_less_grace_has_less(attempts: Attempts) -> None:
    folder = attempts.start("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    until(says(folder, "up"))
    RealJobRunner().stop(folder, grace_s=1000.0)
    RealJobRunner().stop(folder, grace_s=0.1)
    assert ended(folder).code == 137


def test_children_finish_their_checkpoint_though_their_shell_dies_of_sigterm(attempts: Attempts) -> None:
    (attempts.root / "train.py").write_text("""
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print("saved"), sys.exit()))
print("up")
while True:
    time.sleep(1)
""")
    folder = attempts.start("sh", "-c", f"{sys.executable} -S -u train.py; true")
    until(says(folder, "up"))
    RealJobRunner().stop(folder, grace_s=20.0)
    assert ended(folder).code == 143
    assert "saved" in (folder / "log").read_text()


def test_a_job_that_forks_and_leaves_is_ended_with_its_first_process(attempts: Attempts) -> None:
    daemonized = (
        "import os,time\nif os.fork()==0:\n os.setsid()\n if os.fork()==0:\n"
        "  os.closerange(0,9); os.environ.clear(); time.sleep(600)\n os._exit(0)\nos.wait(); time.sleep(.2)"
    )
    folder = attempts.start(*python(daemonized))
    until(lambda: len(watched(folder).get("processes", [])) > 1 or (folder / "exit.json").exists())
    found = ended(folder)
    assert (found.code, found.left) == (0, 1)
    assert all(table.started_at(pid) != began for pid, began in watched(folder)["processes"])


def test_what_is_left_and_ignores_sigterm_is_killed(attempts: Attempts) -> None:
    (attempts.root / "stays.py").write_text("""
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("up").touch()
time.sleep(600)
""")
    command = f"setsid {sys.executable} -S stays.py & until [ -e up ]; do sleep 0.05; done"
    found, _ = attempts.run("sh", "-c", command)
    assert (found.code, found.left) == (0, 1)


def test_gigabytes_of_log_neither_block_the_job_nor_fill_the_disk(attempts: Attempts) -> None:
    line = "x" * 99
    began = time.monotonic()
    folder = attempts.start("sh", "-c", f"echo first; yes {line} | head -c 200000000; echo; echo last")
    most = [0]

    def over() -> bool:
        most.append(sum(size(each) for each in folder.glob("log*")))
        return (folder / "exit.json").exists()

    until(over, 60.0)
    assert time.monotonic() - began < 60.0
    assert max(most) <= 1.25 * (1 << 20) + 200
    text = (folder / "log").read_text()
    assert text.startswith("first\n")
    assert text.endswith("last\n")
    assert "bytes of output are left out here]" in text


def test_a_follower_reads_all_that_is_kept_in_order_while_the_log_grows(attempts: Attempts) -> None:
    folder = attempts.start(*python("for n in range(200000): print(n)"), log_bytes=200_000)
    until((folder / "log").exists)
    found, at = b"", 0
    runner = RealJobRunner()
    while True:
        over = runner.look(folder).phase is AttemptPhase.ENDED
        data, following = read_log(folder, at, frozenset({ME.uid}))
        if following - len(data) > at:
            found += b"\n...\n"
        found, at = found + data, following
        if over and not data:
            break
    between = re.split(rb"\.\.\.|\[partita: [^]]*\]", found)
    runs = [[int(n) for n in run.split()[1:-1]] for run in between]
    assert all(list(range(run[0], run[-1] + 1)) == run for run in runs if run)
    assert at == sum(len(str(n)) + 1 for n in range(200000))


@root_only
def test_a_full_disk_fails_no_job_and_its_end_is_still_told(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        inside = Attempts(disk)
        folder = inside.start("sh", "-c", "yes | head -c 3000000; echo end >&2; exit 5", directory=tmp_path)
        found = ended(folder)
        assert (found.phase, found.code) == (AttemptPhase.ENDED, 5)
        assert json.loads((folder / "exit.json").read_text())["log"]["dropped"] > 2_000_000
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_killed_watcher_takes_its_job_along_and_the_attempt_is_lost(attempts: Attempts) -> None:
    runner = RealJobRunner()
    folder = attempts.start(
        "sh", "-c", "setsid sh -c 'setsid sleep 601 & sleep 602' & sleep 603", runner=runner
    )
    until(lambda: len(watched(folder).get("processes", [])) >= 3)
    job = watched(folder)["processes"]
    os.kill(watched(folder)["watcher"], signal.SIGKILL)
    found = ended(folder, runner)
    assert (found.phase, found.code, found.why) == (AttemptPhase.LOST, None, "its watcher was killed")
    assert all(table.started_at(pid) is None for pid, _ in job)
    assert RealJobRunner().look(folder).why == "its watcher was killed"


def test_the_reused_pid_of_a_lost_job_is_let_be(attempts: Attempts) -> None:
    folder = attempts.start("sleep", "604")
    until(lambda: watched(folder))
    other = subprocess.Popen(["sleep", "605"], start_new_session=True)
    try:
        os.kill(watched(folder)["watcher"], signal.SIGKILL)
        job = watched(folder)
        until(lambda: all(table.started_at(pid) is None for pid, _ in job["processes"]))
        job["processes"] = [[other.pid, 1]]
        (folder / "watch.json").write_text(json.dumps(job))
        assert ended(folder).phase is AttemptPhase.LOST
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_jobs_outlive_a_killed_daemon_and_are_found_by_the_next(attempts: Attempts) -> None:
    folder = attempts.root / "a"
    attempts.folders.append(folder)
    code = f"""
import os
from pathlib import Path
from partita.jobs.run.runner import Launch, JobUser
from partita.jobs.run import real
from partita.jobs.run.real import RealJobRunner
me = JobUser({ME.uid}, {ME.gid}, {ME.groups}, {ME.name!r})
command = ("sh", "-c", "sleep 1; exit 6")
folder = Path({str(folder)!r})
RealJobRunner().start(Launch("1", 1, folder, command, folder.parent, dict(os.environ), me, "x", 1, 1000, 1.0))
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    runner = RealJobRunner()
    assert runner.look(folder).phase is AttemptPhase.RUNNING
    assert ended(folder, runner).code == 6


def test_what_never_began_is_lost(tmp_path: Path, attempts: Attempts) -> None:
    found = RealJobRunner().look(tmp_path / "never")
    assert (found.phase, found.why) == (AttemptPhase.LOST, "it never began")
    folder = attempts.start("true")
    ended(folder)
    for name in ("exit.json", "watch.json"):
        (folder / name).unlink()
    assert RealJobRunner().look(folder).why == "its watcher ended before the job began"


def test_a_watcher_that_fails_itself_says_of_what(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "_WATCHER", "raise TypeError('no number')")
    found = ended(attempts.start("true"))
    assert found.phase is AttemptPhase.LOST
    assert str(found.why).startswith("its watcher failed: TypeError")


def test_what_a_crashed_host_has_left_of_a_launch_is_a_job_that_never_began(attempts: Attempts) -> None:
    folder = attempts.start("true")
    ended(folder)
    (folder / "exit.json").unlink()
    (folder / "launch.json").write_bytes(b"")
    for _ in range(2):
        found = RealJobRunner().look(folder)
        assert (found.phase, found.why) == (AttemptPhase.LOST, "it never began")


def test_a_job_of_before_a_reboot_is_lost_and_nothing_is_killed_for_it(attempts: Attempts) -> None:
    folder = attempts.start("true")
    ended(folder)
    (folder / "exit.json").unlink()
    launch = json.loads((folder / "launch.json").read_text())
    (folder / "launch.json").write_text(json.dumps({**launch, "boot": "another"}))
    job = watched(folder)
    (folder / "watch.json").write_text(
        json.dumps({**job, "processes": [[os.getpid(), table.started_at(os.getpid())]]})
    )
    found = RealJobRunner().look(folder)
    assert (found.phase, found.why) == (AttemptPhase.LOST, "the host was restarted while it ran")


def test_memory_beyond_a_simulated_instance_is_out_of_memory(attempts: Attempts) -> None:
    runner = RealJobRunner(scale=1 / 64)
    found, log = attempts.run(*python("b = bytearray(200 << 20)"), runner=runner)
    assert "MemoryError" in log
    assert (found.code, found.out_of_memory) == (1, True)


def test_numerical_libraries_start_on_the_smallest_simulated_instance(attempts: Attempts) -> None:
    found, log = attempts.run(
        sys.executable, "-c", "import numpy; print(1)", runner=RealJobRunner(scale=1 / 64)
    )
    assert (found.code, log) == (0, "1\n")


def test_a_failed_mmap_is_out_of_memory_on_a_simulated_instance_alone(attempts: Attempts) -> None:
    code = "import mmap; mmap.mmap(-1, 200 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)"
    assert attempts.run(*python(code), runner=RealJobRunner(scale=1 / 64))[0].out_of_memory
    assert not attempts.run(*python("raise MemoryError"))[0].out_of_memory


def test_processes_that_together_exceed_a_simulated_instance_are_out_of_memory(attempts: Attempts) -> None:
    grow = "b = b'x' * (40 << 20); time.sleep(600)"
    code = f"import os, time\nfor _ in range(5):\n if os.fork() == 0:\n  {grow}\ntime.sleep(600)"
    runner = RealJobRunner(scale=1 / 64)
    found, _ = attempts.run(*python(code), runner=runner)
    assert (found.code, found.out_of_memory) == (137, True)
    assert found.progress.peak_bytes is not None
    assert found.progress.peak_bytes > 5 << 30


@pytest.mark.parametrize(
    ("says_so", "code", "expected"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 1, True),
        ("CUDA out of memory", 0, False),
        ("CUDA out of memory\nXid 79: 1", 1, False),
        ("nothing", 1, False),
    ],
)
def test_out_of_memory_is_heard_in_the_log(
    attempts: Attempts, says_so: str, code: int, *, expected: bool
) -> None:
    found, _ = attempts.run(*python(f"import sys; print({says_so!r}, file=sys.stderr); sys.exit({code})"))
    assert found.out_of_memory is expected


def test_out_of_memory_that_a_job_survived_long_before_its_end_does_not_count(attempts: Attempts) -> None:
    code = "import sys; print('CUDA out of memory'); print('fine\\n' * 100000); sys.exit(1)"
    assert not attempts.run(*python(code))[0].out_of_memory


def test_the_peak_on_a_real_gpu_is_what_its_driver_saw_in_use(attempts: Attempts) -> None:
    asked: list[str] = []

    def used(device: str) -> int | None:
        asked.append(device)
        return 3 << 30 if len(asked) == 1 else None

    runner = RealJobRunner(used=used)
    folder = attempts.start("sleep", "0.3", runner=runner)
    until(lambda: runner.look(folder).progress.peak_bytes == 3 << 30)
    assert ended(folder, runner).progress.peak_bytes == 3 << 30
    assert set(asked) == {"MIG-0"}


def test_a_clock_that_jumps_changes_no_duration(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = RealJobRunner()
    folder = attempts.start("sleep", "0.3", runner=runner)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    found = ended(folder, runner)
    assert found.began is not None
    assert found.ended is not None
    assert 0.3 <= found.ended - found.began < 20.0


def test_a_stopped_watcher_is_no_dead_one(attempts: Attempts) -> None:
    folder = attempts.start("sleep", "0.2")
    until(lambda: watched(folder))
    watcher = watched(folder)["watcher"]
    os.kill(watcher, signal.SIGSTOP)
    try:
        assert RealJobRunner().look(folder).phase is AttemptPhase.RUNNING
    finally:
        os.kill(watcher, signal.SIGCONT)
    assert ended(folder).code == 0


def test_the_watcher_is_small(attempts: Attempts) -> None:
    folder = attempts.start("sleep", "1")
    until(lambda: watched(folder))
    status = Path(f"/proc/{watched(folder)['watcher']}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    assert int(resident.split()[1]) < 16 * 1024
    ended(folder)
