"""How sizes and times that users write are read and shown."""

from __future__ import annotations

import pytest

from partita.cli.options import read_bytes, read_seconds, shown_bytes, shown_seconds
from partita.errors import InputError


def test_sizes_and_times_are_read_and_shown_as_people_write_them() -> None:
    assert read_bytes("12GiB", "") == read_bytes("12G", "") == 12 * 2**30
    assert read_bytes("1.5 GB", "") == 1_500_000_000
    assert read_seconds("1h30m", "") == 5400.0
    assert read_seconds("90", "") == 90.0
    assert [shown_seconds(each) for each in (None, 5.0, 65, 3700, 90_000)] == [
        "-",
        "5 s",
        "1:05",
        "1:01:40",
        "1 d 01:00",
    ]
    assert shown_bytes(12 * 2**30) == "12 GiB"
    for wrong in ("", "GiB", "-1G", "0", "1h "):
        with pytest.raises(InputError):
            read_bytes(wrong, "--memory")
