"""Logs of processes."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from partita.process.logs import BoundedLog, keep_short, last_line


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


@example(pieces=[bytes(62)], most=62)
@given(
    pieces=st.lists(st.binary(max_size=60), max_size=30),
    most=st.integers(4, 200),
)
def test_a_bounded_log_has_the_head_and_the_tail_and_says_what_is_left_out(
    pieces: list[bytes], most: int
) -> None:
    whole = b"".join(pieces)
    with TemporaryDirectory() as path:
        folder = os.open(path, os.O_RDONLY)
        try:
            log = BoundedLog(folder, "log", most, None)
            for piece in pieces:
                log.write(piece)
                assert sum(each.stat().st_size for each in Path(path).iterdir()) <= most
            told = log.finish()
        finally:
            os.close(folder)
        (only,) = Path(path).iterdir()
        kept = only.read_bytes()
    assert told["total"] == len(whole)
    head, tail = kept[: told["head"]], kept[told["tail_at"] :]
    assert whole.startswith(head)
    assert whole[told["tail"] :] == tail
    assert told["dropped"] == len(whole) - len(head) - len(tail)
    assert (b"bytes of output are left out here" in kept) == (told["dropped"] > 0)
    assert len(whole) > most or kept == whole
