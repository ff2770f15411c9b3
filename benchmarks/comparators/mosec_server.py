"""Mosec, whose front is in Rust: `python mosec_server.py --port PORT`, BENCH_WORKERS workers."""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker  # type: ignore[import-not-found]
from work import answer, to_core  # type: ignore[import-not-found]


class Emulated(Worker):  # type: ignore[misc]
    """Reads JSON, works and writes JSON."""

    def __init__(self) -> None:
        super().__init__()
        to_core()

    def forward(self, data: dict[str, Any]) -> dict[str, Any]:
        """Work."""
        return dict(answer(data))


if __name__ == "__main__":
    server = Server()
    server.append_worker(Emulated, num=int(os.environ["BENCH_WORKERS"]))
    server.run()
