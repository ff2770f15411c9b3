"""A job whose memory grows: it says how far it is, writes a checkpoint when it is asked to, and goes on from it.

Try it on a simulated cluster: partita submit --checkpoint-grace 2s -- python examples/train.py
"""
# ruff: noqa: T201 -- what a job prints is its log

from __future__ import annotations

import time
from pathlib import Path

import partita.job

STEPS = 120
GROWTH = 2 << 20
CHECKPOINT = Path("train.checkpoint")


def main() -> None:
    """Train for `STEPS` steps, each of which takes a tenth of a second and `GROWTH` bytes more."""
    start = int(CHECKPOINT.read_text()) if CHECKPOINT.exists() else 0
    print(f"from step {start}")
    held = [b"x" * GROWTH for _ in range(start)]
    for n in range(start, STEPS):
        held.append(b"x" * GROWTH)
        time.sleep(0.1)
        if partita.job.step(n + 1, of=STEPS):
            CHECKPOINT.write_text(str(n + 1))
            print(f"checkpoint after step {n + 1}")
            return
    CHECKPOINT.unlink(missing_ok=True)
    print("trained")


if __name__ == "__main__":
    main()
