"""Attempts that end with their test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.jobs.run.attempts import Attempts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    """Real attempts, none of whose processes is left after the test."""
    found = Attempts(tmp_path)
    try:
        yield found
    finally:
        found.end_all()
