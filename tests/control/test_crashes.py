"""Killed with SIGKILL at steps all along the way, the next controller goes on: the benchmark tries every step."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from benchmarks.killing import NIGHT, Bomb, aftermath, by_day, go, killed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("day")
    by_day(folder)
    return folder


@pytest.mark.parametrize("steps", [[1], [2], [3], [5], [8], [20], [61], [150], [4, 9, 30], [12, 12, 12, 12]])
def test_a_killed_controller_is_followed_to_the_target(day: Path, tmp_path: Path, steps: list[int]) -> None:
    folder = shutil.copytree(day, tmp_path / "state")
    for at in steps:
        assert killed(folder, NIGHT, at)
    found = aftermath(folder, NIGHT)
    assert found.reached
    assert found.kept, "a replica that was ready and is wanted was touched again"
    assert found.broken == 0


def test_the_transition_without_a_kill_has_fifty_actions(day: Path, tmp_path: Path) -> None:
    driver = go(shutil.copytree(day, tmp_path / "state"), NIGHT, Bomb(None))
    assert driver.began >= 50
    assert driver.broken == 0
