"""A soak: load for half an hour while a worker is killed every 20 seconds; every answer is checked."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import table
from benchmarks.served import Emulation, children, serving
from benchmarks.soak_client import Client, Tally

if TYPE_CHECKING:
    from benchmarks.served import Served

_RATE = 300.0
_KILL_S = 20.0
_SAMPLE_S = 5.0
_EMULATION = Emulation(gpus=1, latency_ms=10.0, slo_ms=200.0)


@dataclass(slots=True)
class _Watch:
    """The gateway's process over time: seconds, KiB resident, open files."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    killed: int = 0

    def slope(self) -> float:
        """Return the KiB per minute by which memory grew in the second half, by least squares."""
        half = len(self.seconds) // 2
        return float(np.polyfit(self.seconds[half:], self.memory[half:], 1)[0]) * 60


def run(*, quick: bool) -> str:
    seconds = 60.0 if quick else 1800.0
    with serving(_EMULATION) as served:
        tally, watch = asyncio.run(_soak(served, seconds))
        counted = served.samples("partita_requests_total")
        retried = sum(served.samples("partita_retried_total").values())
        workers = len(children(served.pid))
    return _text(seconds, tally, watch) + _counted(tally, counted, retried, workers)


async def _soak(served: Served, seconds: float) -> tuple[Tally, _Watch]:
    watch = _Watch()
    async with Client(served, _EMULATION.slo_ms / 1000) as client:
        around = [
            asyncio.create_task(_kill(served.pid, watch)),
            asyncio.create_task(_look(served.pid, watch)),
        ]
        load = asyncio.create_task(client.load(_RATE, seconds))
        # Killing and looking have no end: only if the gateway itself is gone do they fail.
        await asyncio.wait([load, *around], return_when=asyncio.FIRST_COMPLETED)
        for task in around:
            task.cancel()
        failed = [each for each in await asyncio.gather(*around, return_exceptions=True) if each]
        if not load.done():
            load.cancel()
            raise RuntimeError(f"the gateway ended during the soak: {failed}")
        return client.tally, watch


async def _kill(pid: int, watch: _Watch) -> None:
    rng = random.Random(0)
    while True:
        await asyncio.sleep(_KILL_S)
        os.kill(rng.choice(children(pid)), signal.SIGKILL)
        watch.killed += 1


async def _look(pid: int, watch: _Watch) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    while True:
        status = Path(f"/proc/{pid}/status").read_text()  # noqa: ASYNC240 -- no disk behind it
        watch.memory.append(float(status.split("VmRSS:")[1].split()[0]))
        watch.files.append(len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 -- likewise
        watch.seconds.append(clock() - began)
        await asyncio.sleep(_SAMPLE_S)


def _text(seconds: float, tally: Tally, watch: _Watch) -> str:
    took = np.array(tally.latency) * 1000
    memory = [each / 1024 for each in watch.memory]
    half = len(memory) // 2
    rows: list[list[object]] = [
        ["requests sent", tally.sent],
        ["answered rightly, once", tally.right],
        ["refused with 503 within the deadline", tally.refused],
        ["refused with 503 after it, by the client's clock", tally.refused_late],
        ["answered wrongly (another request's answer, or damaged)", tally.wrong],
        ["failed otherwise", sum(tally.failed.values())],
        ["without any answer", tally.sent - tally.ended],
        ["workers killed", watch.killed],
        ["latency, ms: median / p99 / p99.9 / most", _quantiles(took)],
        [
            "gateway's memory, MiB: at first / in the middle / at the end",
            f"{memory[0]:.1f} / {memory[half]:.1f} / {memory[-1]:.1f}",
        ],
        ["its slope over the second half, KiB a minute", watch.slope()],
        [
            "its open files: at first / most / at the end",
            f"{watch.files[0]} / {max(watch.files)} / {watch.files[-1]}",
        ],
    ]
    failures = "".join(f"\nFailed: {count} x {what}.\n" for what, count in tally.failed.items())
    return (
        f"## Soak\n\n{seconds / 60:g} minutes of {_RATE:g} requests a second (exponential gaps, seed 0) on "
        f"{_EMULATION.workers} emulated workers of {_EMULATION.latency_ms:g} ms, deadline {_EMULATION.slo_ms:g} "
        f"ms; every {_KILL_S:g} s one of them is killed with SIGKILL. Half of the requests are JSON over HTTP, "
        "four in ten are binary tensors over HTTP (aiohttp, 100 connections), and one in ten is gRPC "
        "(tritonclient). Every request is unique and a worker returns its input, so each answer is checked from "
        "end to end.\n\n" + table(["what", "found"], rows) + failures
    )


def _quantiles(took: np.ndarray) -> str:
    return " / ".join(f"{np.quantile(took, q):.1f}" for q in (0.5, 0.99, 0.999, 1.0))


def _counted(tally: Tally, counted: dict[str, float], retried: float, workers: int) -> str:
    total = int(sum(counted.values()))
    same = "as many as were sent" if total == tally.sent else f"{total - tally.sent:+d} against those sent"
    return (
        f"\nThe gateway's own count is {total:,}, {same}; {retried:.0f} were tried again on another worker. "
        f"At the end {workers} workers ran.\n"
    )
