"""Logs of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from partita.process.logs import last_line

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
