"""`partita demo`: a day on simulated GPUs, as a user sees it, and held against the checker."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from partita.cli.cluster import named
from partita.cli.demo import DemoStep, demo_cluster
from partita.planner import plan, read_prepared
from partita.transition.check import check_transition

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = Path(__file__).resolve().parents[2] / "src/partita/examples"
COMMAND = [sys.executable, "-m", "partita", "demo"]
SECONDS = re.compile(r"\d+\.\d\d s\b")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment(folder: Path) -> dict[str, str]:
    """Temporary files in a folder, 80 columns, no UTF-8."""
    return {
        **os.environ,
        "COLUMNS": "80",
        "PYTHONIOENCODING": "ascii",
        "TERM": "xterm",
        "TMPDIR": str(folder),
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the command prints, without seconds that it took; it leaves nothing behind."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        COMMAND, cwd=folder, env=environment(folder), capture_output=True, timeout=300, check=True, text=True
    )
    assert list(folder.iterdir()) == []
    return SECONDS.sub("", done.stdout)


@pytest.fixture(scope="module")
def acts() -> Mapping[str, DemoStep]:
    """The day's transitions, carried out."""
    plans = {name: plan(read_prepared(EXAMPLES / f"{name}.yaml")).plan for name in ("day", "night")}
    with demo_cluster(named(["a100-80gb"] * 24), seed=0) as demo:
        return {
            name: demo.reach(plans[plan], lambda _asked, _way: lambda _observation: None)
            for name, plan in (("set up", "day"), ("evening", "night"), ("morning", "day"))
        }


def test_the_day_is_planned_compared_applied_and_changed_twice(told: str) -> None:
    assert "16 GPUs, proven optimal (bound 16)" in told
    assert "   20 GPUs  whole GPUs, no MIG" in told
    assert "5 GPUs, proven optimal (bound 5)" in told
    assert "16 GPUs in use, 5 at the end" in told
    assert "5 GPUs in use, 16 at the end" in told
    assert told.count("no floor broken") == 2
    assert told.count("node-0 ") == 3


def test_it_fits_eighty_columns_and_needs_no_utf_8(told: str) -> None:
    story, _, rest = told.partition("\nThe day:")
    assert rest
    assert max(map(len, story.splitlines())) <= 80
    assert "\\u" not in story


def test_the_day_is_the_same_again_and_a_terminal_shows_the_cluster_while_it_changes(
    told: str, tmp_path: Path
) -> None:
    master, slave = pty.openpty()
    command = [*COMMAND, "--html", "day.html"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=slave, stderr=slave, close_fds=True
    )
    os.close(slave)
    seen = b""
    try:
        while part := os.read(master, 65536):
            seen += part
    except OSError:
        pass  # the other end of a terminal is closed so
    os.close(master)
    assert process.wait(timeout=10) == 0
    text = CONTROL.sub("", seen.decode())
    assert text.count("GPUs in use\r\n") > 50
    assert "floor 3,800" in text
    assert "2- 4g" in text

    lines = iter(SECONDS.sub("", text).splitlines())
    story = told.replace("partita demo --html demo.html", "day.html").splitlines()
    missing = [
        line for line in story if not any(line.rstrip() == each.strip("\r").rstrip() for each in lines)
    ]
    assert missing == []

    assert [path.name for path in tmp_path.iterdir()] == ["day.html"]
    assert "A day on 16 GPUs, a night on 5" in (tmp_path / "day.html").read_text()


def test_the_days_transitions_are_right_and_keep_their_floors_as_they_went(
    acts: Mapping[str, DemoStep],
) -> None:
    assert [act.transition.target.used for act in acts.values()] == [16, 5, 16]
    for act in acts.values():
        assert check_transition(act.request, act.transition) == []
        assert len(act.course.bars) == len(act.transition.actions)
        for service, floor in act.transition.floors.items():
            assert act.least(service) >= floor
    assert len(acts["evening"].transition.floors) == 5
    assert not any(acts["set up"].transition.floors.values())


def test_durations_vary_so_that_the_course_is_not_what_was_predicted(acts: Mapping[str, DemoStep]) -> None:
    for act in acts.values():
        assert act.seconds != pytest.approx(act.transition.makespan, rel=1e-3)
        assert act.seconds < 2 * act.transition.makespan
