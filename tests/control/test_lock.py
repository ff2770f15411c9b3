"""One controller and one gateway at a time; their locks die with their processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from partita.control.journal import LOCK_FILE, LockedError, controlling, holder, serving

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from partita.control.journal import controlling
with controlling(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_controller_is_refused_with_the_first_ones_identity(tmp_path: Path, other) -> None:
    with pytest.raises(LockedError, match=f"process {other.pid} on ") as caught, controlling(tmp_path):
        pass
    assert f"kill -INT {other.pid}" in str(caught.value.hint)
    found = holder(tmp_path)
    assert found is not None
    assert (found.pid, found.host) == (other.pid, os.uname().nodename)
    assert abs(found.started - time.time()) < 60


def test_the_lock_of_a_killed_controller_is_free_and_its_identity_known(tmp_path: Path, other) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert holder(tmp_path) is None
    with controlling(tmp_path) as before:
        assert before is not None
        assert before.pid == other.pid


def test_after_an_orderly_end_nothing_is_said(tmp_path: Path) -> None:
    with controlling(tmp_path):
        assert holder(tmp_path) is not None
    with controlling(tmp_path) as before:
        assert before is None


def test_a_lock_file_cut_short_by_a_crash_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text('{"host": "a", "pi')
    with controlling(tmp_path) as before:
        assert before is None


def test_a_gateway_s_lock_is_its_own_and_dies_with_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD.replace("controlling", "serving"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(LockedError, match=f"another gateway.*process {process.pid} on "),
            serving(tmp_path),
        ):
            pass
        with controlling(tmp_path):
            pass
        process.kill()
        process.wait()
    with serving(tmp_path) as before:
        assert before is not None
        assert before.pid == process.pid
