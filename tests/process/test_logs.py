"""Logs of processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from partita.process.logs import keep_short, last_line

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("written", "last"),
    [
        ("", ""),
        ("loading\nout of luck\n", "out of luck"),
        (
            "loading\nerror: m: it is no batch\nhint: write none\n",
            "error: m: it is no batch (hint: write none)",
        ),
        ("hint: alone\n", "hint: alone"),
    ],
)
def test_the_last_line_of_a_log_says_what_is_wrong_before_what_mends_it(
    tmp_path: Path, written: str, last: str
) -> None:
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text(written)
    assert last_line(log) == last


def test_a_log_keeps_its_end(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(number, b"".join(b"line %d\n" % i for i in range(1000)))
        keep_short(number, most=100, kept=50)
        os.write(number, b"and on\n")
    finally:
        os.close(number)
    assert path.read_bytes().splitlines()[0] == b"[...]"
    assert path.read_bytes().endswith(b"line 998\nline 999\nand on\n")
    assert path.stat().st_size < 100
