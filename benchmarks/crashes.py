"""Kills a controller with SIGKILL at every step of a transition; each time the next one must reach the target."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from benchmarks.killing import GPUS, NIGHT, Aftermath, Bomb, aftermath, by_day, go, killed
from benchmarks.report import table


def run(*, quick: bool) -> str:
    """Return the table."""
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "day"
        base.mkdir()
        by_day(base)
        plain = shutil.copytree(base, Path(scratch) / "plain")
        bomb = Bomb(None)
        driver = go(plain, NIGHT, bomb)
        actions = driver.began
        once = [_crash(base, Path(scratch), [at]) for at in range(1, bomb.steps + 1, 9 if quick else 1)]
        rng = random.Random(0)
        many = [
            _crash(base, Path(scratch), [rng.randint(1, 40) for _ in range(6)])
            for _ in range(3 if quick else 50)
        ]
    rows = [_row("once, at every step" if not quick else "once, at every ninth step", once)]
    rows.append(_row("six times, at random steps", many))
    return (
        f"## Killed controllers\n\nA transition of {actions} actions over {GPUS} simulated A100s with six "
        "services. The controller is killed with SIGKILL before and after each write to the journal and after "
        f"the beginning of each action: {bomb.steps} steps. Then a new controller continues. Floors are checked "
        "whenever anything may change.\n\n"
        + table(
            [
                "killed",
                "runs",
                "reached the target, nothing left over",
                "no ready replica touched again",
                "moments under a floor",
                "actions of the one that went on, at most",
            ],
            rows,
        )
    )


def _crash(base: Path, scratch: Path, steps: list[int]) -> Aftermath:
    folder = Path(shutil.copytree(base, scratch / "crashed"))
    for at in steps:
        killed(folder, NIGHT, at)
    found = aftermath(folder, NIGHT)
    shutil.rmtree(folder)
    return found


def _row(name: str, found: list[Aftermath]) -> list[object]:
    return [
        name,
        len(found),
        sum(each.reached for each in found),
        sum(each.kept for each in found),
        sum(each.broken for each in found),
        max(each.actions for each in found),
    ]
