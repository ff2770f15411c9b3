"""`partita submit`: what it refuses before any daemon is asked, and how it reads times and sizes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands

from partita.cli.options import read_bytes, read_limit
from partita.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    monkeypatch.chdir(tmp_path)
    return Commands(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("words", "told", "hint"),
    [
        (
            ("python train.py --x",),
            "one word",
            (
                "partita submit -- python train.py --x; or have a shell read it: "
                "partita submit -- sh -c 'python train.py --x'"
            ),
        ),
        (("--", "sleep 5 && echo done"), "one word", "sh -c 'sleep 5 && echo done'"),
        (("--", "SEED=1", "python", "x.py"), "assignment", "env SEED=1 python x.py"),
        (("--", "cd", "/data"), "shell's own command", "sh -c 'cd /data'"),
        (("--", "source", "env/bin/activate"), "shell's own", "sh -c 'source env/bin/activate'"),
    ],
)
def test_what_only_a_shell_reads_is_refused_with_a_way(
    commands: Commands, words: tuple[str, ...], told: str, hint: str
) -> None:
    found = commands("submit", *words)
    assert found.code == 2
    assert told in found.err
    assert hint in found.err


def test_a_program_whose_name_has_blanks_is_no_line_for_a_shell(commands: Commands) -> None:
    program = commands.folder / "my program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert "no daemon answers" in commands("submit", "--", "./my program").err
    assert "no daemon answers" in commands("submit", "--", "no-such-program-here").err  # may be there later


@pytest.mark.parametrize("size", ["12", "1.5", "12 "])
@pytest.mark.parametrize("more", [(), ("--array", "0-3")])
def test_a_size_without_a_unit_is_refused(commands: Commands, size: str, more: tuple[str, ...]) -> None:
    found = commands("submit", *more, "--memory", size, "--", "true")
    assert found.code == 2
    number = size.strip()
    assert f"error: --memory: {number} has no unit\nhint: write {number}GiB or {number}MiB\n" == found.err


def test_the_daemons_sizes_have_units_too(commands: Commands) -> None:
    for option in ("--log-size", "--keep-logs"):
        assert f"{option}: 64 has no unit" in commands("daemon", option, "64").err
    assert "longer than --max-time" in commands("daemon", "--default-time", "2h", "--max-time", "90").err


@pytest.mark.parametrize(
    ("text", "size"),
    [("12GiB", 12 * 2**30), ("12g", 12 * 2**30), ("12GB", 12 * 10**9), ("512B", 512), ("1.5 MiB", 3 << 19)],
)
def test_sizes_with_units_are_read(text: str, size: int) -> None:
    assert read_bytes(text, "") == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:30:00", 9000),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("1-12:30:15", 131_415),
        ("90m", 5400),
        ("2h", 7200),
        ("1h30m", 5400),
        ("45s", 45),
        ("unlimited", 0),
    ],
)
def test_time_limits_are_read_as_slurm_has_them_and_as_people_write_them(text: str, seconds: float) -> None:
    assert read_limit(text, "--time") == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "1-", "-5", "0", "0:00", "1.5:00", "2 hours"])
def test_what_is_no_time_limit_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_limit(text, "--time")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "no job is named"),
        (("12", "--all"), "ids together with --all"),
        (("12", "--me"), "ids together with --all"),
        (("12", "--user", "ann"), "--user needs --all"),
        (("--me", "--user", "ann"), "--user needs --all"),
    ],
)
def test_what_is_cancelled_has_to_be_clear(commands: Commands, words: tuple[str, ...], told: str) -> None:
    found = commands("cancel", *words)
    assert found.code == 2
    assert told in found.err


def test_root_says_whose_jobs_all_are(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = commands("cancel", "--all", "--yes")
    assert found.code == 2
    assert "whose jobs?" in found.err
    assert "--me" in found.err
