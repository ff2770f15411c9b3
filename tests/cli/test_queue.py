"""`partita queue` and `cancel`: the lists of one's own jobs, `--all` and `--me`, against a queue in this process."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.jobs.queue.world import queue, served

from partita.cli.queue import shown_job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Commands]:
    found = Commands(tmp_path, monkeypatch, capsys)
    found.state.mkdir()
    with queue(found.state) as world, served(world):
        yield found


def submit(commands: Commands, *more: str) -> str:
    found = commands("submit", "--memory", "900GiB", *more, "--", "true")
    assert found.code == 0, found.err
    return found.out.strip()


def waiting(commands: Commands, *more: str) -> list[str]:
    return [job["id"] for job in json.loads(commands("queue", "-o", "json", *more).out)["jobs"]]


class Terminal(io.StringIO):
    """Somebody at a terminal who types."""

    def isatty(self) -> bool:
        return True


def test_all_of_ones_jobs_are_cancelled_when_it_is_agreed(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = ["--me"] if os.geteuid() == 0 else ["--all"]
    assert "has no jobs that wait or run" in commands("cancel", *every).err
    ids = [submit(commands) for _ in range(3)]
    asked = commands("cancel", *every)
    assert asked.code == 2
    assert "add --yes to cancel 3 jobs" in asked.err
    for typed, code in (("n\n", 1), ("", 130)):
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        asked = commands("cancel", *every)
        assert asked.code == code
        assert "Cancel 3 jobs of" in asked.err
    assert waiting(commands) == ids
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    asked = commands("cancel", *every)
    assert asked.code == 0
    assert [f"job {job}: cancelled" in asked.err for job in ids] == [True] * 3
    assert waiting(commands) == []
    submit(commands)
    assert commands("cancel", *every, "--yes", "--quiet").err == ""
    assert waiting(commands) == []
    shown = json.loads(commands("history", "--me", "-o", "json").out)["jobs"]
    assert [job["state"] for job in shown] == ["cancelled"] * 4


def test_another_users_jobs_are_named(commands: Commands) -> None:
    job = submit(commands)
    assert waiting(commands, "--me") == [job]
    me = json.loads(commands("queue", "-o", "json").out)["jobs"][0]["user"]
    assert (
        "there is no user nobody-of-that-name"
        in commands("cancel", "--all", "--user", "nobody-of-that-name").err
    )
    found = commands("cancel", "--all", "--user", me, "--yes")
    assert found.err == f"job {job}: cancelled\n"


def test_dependencies_and_limits_are_shown(commands: Commands) -> None:
    first = submit(commands, "--time", "2:30:00")
    second = submit(commands, "--after", f"ok:{first}")
    rows = {job["id"]: job for job in json.loads(commands("queue", "-o", "json").out)["jobs"]}
    assert rows[first]["time_limit_s"] == 9000
    assert rows[second]["after"] == [f"ok:{first}"]
    assert f"waits for job {first} to be done" in commands("queue").out
    commands("cancel", first)
    told = commands("wait", second)
    assert told.err == f"job {second} cancelled: dependency never satisfied: job {first} was cancelled\n"
    never = commands("submit", "--after", f"ok:{first}", "--", "true")
    assert f"note: it never starts: dependency never satisfied: job {first} was cancelled" in never.err
    assert commands("requeue", second).err == (
        f"job {second}: cancelled: dependency never satisfied: job {first} was cancelled\n"
    )
    assert commands("requeue", second, first).err == f"job {second}: waits again\njob {first}: waits again\n"


def test_a_long_queue_is_a_line_for_each_job(commands: Commands) -> None:
    submit(commands, "--array", "0-599", "--name", "a-name-that-is-too-long-for-its-column")
    lines = commands("queue", "-a").out.splitlines()
    assert len(lines) == 602
    assert lines[0].split() == [
        "id",
        "user",
        "state",
        "memory",
        "start",
        "job",
        "where,",
        "or",
        "why",
        "not",
        "yet",
    ]
    assert "a-name-that-is-too-long…" in lines[1]
    assert "larger than any slice of the GPUs here" in lines[-2]
    assert lines[-1] == "600 waiting; discipline lookahead"
    assert "560 more not shown: --all" in commands("queue").out


@pytest.mark.parametrize(
    ("name", "command", "shown"),
    [
        ("resnet", "/usr/bin/python train.py", "resnet"),
        ("", "/opt/env/bin/python train.py /data/x", "python train.py /data/x"),
        ("", "sh -c echo one\n  echo two", "sh -c echo one echo two"),
        (None, None, ""),
    ],
)
def test_a_job_is_called_by_its_name_or_its_command(
    name: str | None, command: str | None, shown: str
) -> None:
    assert shown_job(name, command) == shown
