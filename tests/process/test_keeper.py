"""Processes that are started, reaped, known again and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from partita.process import keeper, table
from partita.process.keeper import ProcessIdentity, how_it_ended

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "PARTITA_TEST_KEEPER"


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def in_table(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def shell(script: str, log: Path, **more: str) -> keeper.Child:
    return keeper.start(["sh", "-c", script], {"PATH": os.environ["PATH"], **more}, output=log)


def identity(child: keeper.Child, token: str) -> ProcessIdentity:
    return ProcessIdentity(table.boot_id(), f"{MARK}={token}", child.pid, table.started_at(child.pid))


def test_what_ends_leaves_no_zombie_though_nobody_asks(tmp_path: Path) -> None:
    pids = [shell("exit 3", tmp_path / "log").pid for _ in range(20)]
    until(lambda: not any(map(in_table, pids)))


def test_a_child_tells_how_it_ended_to_whoever_waits_and_to_whoever_is_to_be_told(tmp_path: Path) -> None:
    told = threading.Event()
    found = []

    def ended(child: keeper.Child) -> None:
        found.append((child.pid, child.returncode))
        told.set()

    child = keeper.start(["sh", "-c", "exit 7"], {"PATH": os.defpath}, output=tmp_path / "log", ended=ended)
    assert child.wait(20.0) == 7
    assert told.wait(20.0)
    assert found == [(child.pid, 7)]
    child.signal(signal.SIGTERM)  # to nobody: the number may be another's by now
    child.kill()


def test_a_process_leads_a_session_has_no_stdin_and_no_file_of_ours_but_what_it_inherits(
    tmp_path: Path,
) -> None:
    first, second = os.pipe()
    os.set_inheritable(first, True)
    try:
        child = keeper.start(
            ["sh", "-c", "read x; echo $?; ls /proc/self/fd; cat /proc/self/stat"],
            {"PATH": os.defpath},
            output=tmp_path / "log",
            inherited=(second,),
        )
        assert child.wait(20.0) == 0
    finally:
        os.close(first)
        os.close(second)
    status, *numbers, stat = (tmp_path / "log").read_text().splitlines()
    assert status == "1"
    assert str(second) in numbers
    assert str(first) not in numbers
    assert int(stat.split()[5]) == child.pid


def test_pipes_lead_to_the_process_and_back(tmp_path: Path) -> None:
    errors = (tmp_path / "errors").open("w+b")
    child = keeper.start(
        ["sh", "-c", "cat; echo wrong >&2"],
        {"PATH": os.defpath},
        stdin=keeper.PIPE,
        output=keeper.PIPE,
        errors=errors,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"hello")
    child.stdin.close()
    assert child.stdout.read() == b"hello"
    assert child.wait(20.0) == 0
    child.close()
    errors.close()
    assert (tmp_path / "errors").read_bytes() == b"wrong\n"


def test_what_cannot_be_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-program"):
        keeper.start(["no-such-program"], {"PATH": os.defpath}, output=tmp_path / "log")


def test_a_log_that_has_grown_long_is_cut_down_before_it_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"old line\n" * 1_000_000)
    assert shell("echo new", tmp_path / "log").wait(20.0) == 0
    kept = (tmp_path / "log").read_bytes()
    assert kept.endswith(b"old line\nnew\n")
    assert len(kept) < 1 << 19


def test_what_does_not_end_when_asked_is_ended_by_force(tmp_path: Path) -> None:
    child = shell("trap '' TERM; echo ready; while :; do sleep 0.01; done", tmp_path / "log")
    until(lambda: (tmp_path / "log").read_text() == "ready\n")
    assert child.end(0.05) == -signal.SIGKILL


def test_another_process_knows_it_again_and_ends_it_with_what_it_began(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"""
import os
from pathlib import Path
from partita.process import keeper, table
command = ["sh", "-c", "env -i setsid sleep 60 & env -i sleep 61 & setsid sleep 62 & echo $!; wait"]
child = keeper.start(command, {{"PATH": os.environ["PATH"], "{MARK}": "again"}}, output=Path({str(log)!r}))
print(child.pid, table.started_at(child.pid), flush=True)
os._exit(0)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    pid, started = map(int, said.split())
    known = ProcessIdentity(table.boot_id(), f"{MARK}=again", pid, started)

    def strays() -> list[int]:
        """Those that have neither its mark nor its session."""
        below = table.descendants(pid)
        return [x for x in below if not table.carries(x, known.mark) and os.getsid(x) != pid]

    until(lambda: len(known.members()) >= 3 and len(strays()) == 1)
    (strayed,) = strays()
    known = replace(known, seen=((strayed, table.started_at(strayed) or 0),))
    assert known.leader() == pid
    assert replace(known, pid=None, started=None).leader() == pid
    assert all(map(known.owns, table.carrying(known.mark)))
    members = known.members()
    assert strayed in members
    assert known.end(0.2)
    assert not known.members()
    assert all(table.started_at(each) is None for each in members)


def test_a_pid_that_is_used_again_or_of_another_boot_names_nobody(tmp_path: Path) -> None:
    child = shell("sleep 60", tmp_path / "log")
    known = identity(child, "none")
    assert known.leader() == child.pid
    for other in (replace(known, started=1), replace(known, started=None), replace(known, boot="another")):
        assert other.leader() is None
        assert other.members() == set()
        assert other.end(0.0)
    assert child.returncode is None
    assert child.end(5.0) == -signal.SIGTERM
    assert known.leader() is None


def test_how_a_process_ended_is_told_in_words() -> None:
    assert how_it_ended(3) == "ended with 3"
    assert how_it_ended(-9) == "was killed by signal 9"


def test_a_fork_has_a_keeper_of_its_own(tmp_path: Path) -> None:
    assert shell("exit 0", tmp_path / "log").wait(20.0) == 0
    code = f"""
import os
from pathlib import Path
from partita.process import keeper
log = Path({str(log := tmp_path / "forked")!r})
start = lambda: keeper.start(["sh", "-c", "exit 4"], {{"PATH": os.defpath}}, output=log).wait(20.0)
assert start() == 4
pid = os.fork()
if pid == 0:
    os._exit(start() or 0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 4
    assert log.exists()


def test_processes_of_a_pool_end_when_the_one_they_work_for_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "pool.py"
    program.write_text("""
import os, signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from partita.process.keeper import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
""")
    said = tmp_path / "said"
    with said.open("w") as stream:
        subprocess.run([sys.executable, str(program)], check=False, stdout=stream)
    pid = int(said.read_text())
    until(lambda: table.started_at(pid) is None)


@pytest.mark.parametrize("begun_with_nohup", [False, True])
def test_a_hang_up_asks_to_end_unless_the_program_was_begun_with_nohup(*, begun_with_nohup: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if begun_with_nohup else signal.SIG_DFL)
    try:
        assert (signal.SIGHUP in keeper.ending_signals()) is not begun_with_nohup
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_of_our_group_dies_with_the_thread_that_started_it(tmp_path: Path) -> None:
    code = """
import os, signal
from partita.process import keeper
child = keeper.start(["sleep", "60"], os.environ, output=None, apart=False, orphaned=signal.SIGKILL)
print(child.pid, os.getpgid(child.pid) == os.getpgid(0), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    log = tmp_path / "said"
    with log.open("w") as said:
        subprocess.run([sys.executable, "-c", code], check=False, stdout=said)
    pid, ours = log.read_text().split()
    assert ours == "True"
    until(lambda: table.started_at(int(pid)) is None)


TOLD = """
import signal, time
from partita.process.keeper import SignalEvent
events = [SignalEvent()]
def tell(*_):
    events[-1].set()
    events.append(SignalEvent())
signal.signal(signal.SIGALRM, tell)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0001)
while len(events) <= 3000:
    events[-1].wait(0.0)
signal.setitimer(signal.ITIMER_REAL, 0.0)
waited = SignalEvent()
assert not waited.wait(0.001)
signal.signal(signal.SIGALRM, lambda *_: waited.set())
signal.setitimer(signal.ITIMER_REAL, 0.01)
assert waited.wait(60.0)
assert waited.is_set() and waited.wait()
"""


def test_a_handler_may_tell_whoever_it_interrupts_while_that_one_waits() -> None:
    """With `threading.Event` the handler would wait for a lock that its own thread holds."""
    subprocess.run([sys.executable, "-c", TOLD], check=True, timeout=240)
