"""The dashboard's API: from the command to the first answer, and what ten thousand GPUs with fifty viewers cost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.report import table
from partita.drive.simulated import SimulatedCluster
from partita.drive.state import CLUSTER
from partita.mig.catalogue import gpu_model
from partita.mig.layout import maximal_layouts

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "a100-40gb"
GPUS, VIEWERS, SERVICES, SECONDS = 10_000, 50, 40, 60.0
SHARE = 0.01
"""Of the slices, that change each second."""

FILLED = 0.62
"""Share of a GPU's instances that are there, so that ten thousand have 31,000 slices."""

STARTS = 10


def run(*, quick: bool) -> str:
    """Return the tables."""
    gpus, seconds, starts = (500, 10.0, 2) if quick else (GPUS, SECONDS, STARTS)
    with tempfile.TemporaryDirectory() as named:
        small, large = Path(named) / "small", Path(named) / "large"
        fill(small, 24, seed=0)
        slices = fill(large, gpus, seed=0)
        began = [first_answer(small) for _ in range(starts)]
        rows = [
            measured(large, viewers, round(slices * share), seconds)
            for viewers, share in ((0, 0.0), (0, SHARE), (VIEWERS, 0.0), (VIEWERS, SHARE))
        ]
    return report(gpus, slices, began, rows)


def fill(folder: Path, gpus: int, *, seed: int) -> int:
    """Make a cluster whose GPUs are cut and used at random in a folder; return how many slices it has."""
    rng = random.Random(seed)
    folder.mkdir()
    names = [(f"node-{i // 8}/gpu-{i % 8}", MODEL) for i in range(gpus)]
    SimulatedCluster.create(folder / CLUSTER, names).close()
    layouts = maximal_layouts(gpu_model(MODEL))
    instances, replicas = [], []
    for name, _ in names:
        for number, each in enumerate(rng.choice(layouts)):
            if rng.random() > FILLED:
                continue
            instances.append((name, each.start, each.profile, number + 1, 0, f"MIG-{name}-{number}", 1))
            if rng.random() < 0.9:
                service = f"service-{rng.randrange(SERVICES)}"
                replicas.append((name, each.start, service, service, 8, 1, 100.0, 20.0, 0.0))
    with closing(sqlite3.connect(folder / CLUSTER)) as db, db:
        db.execute("UPDATE meta SET wall = 1, now = ?", (time.time(),))
        db.executemany(
            "INSERT INTO instances (gpu, start, profile, gi_id, ci_id, mig_uuid, ours)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            instances,
        )
        db.executemany(
            "INSERT INTO replicas (gpu, start, service, model, batch, processes, throughput, latency_ms, ready_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            replicas,
        )
    return len(instances)


@contextmanager
def dash(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `partita dash` on a state folder; yield the process and its address."""
    command = [sys.executable, "-m", "partita", "dash", "--port", "0"]
    environment = {**os.environ, "PARTITA_STATE": str(folder)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, line.split()[-1].replace("localhost", "127.0.0.1")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def first_answer(folder: Path) -> tuple[float, float]:
    """Return the seconds from the command to the first picture's documents (page, index, fleet, load), and of CPU."""
    began = time.perf_counter()
    with dash(folder) as (process, url):
        for path in ("", "api/v1", "api/v1/fleet", "api/v1/fleet/load"):
            with urllib.request.urlopen(url + path) as answer:  # noqa: S310 -- our own
                answer.read()
        return time.perf_counter() - began, _cpu_s(process.pid)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took.

    Attributes:
        changes: slices that changed each second.
        cores: CPU seconds of the process, of one second.
        memory: MiB it had at most.
        events: that each viewer got each second.
        kilobytes: that each viewer got each second.
        least: share of the changed GPUs that the viewer with the fewest events was told of.
    """

    viewers: int
    changes: int
    cores: float
    memory: float
    events: float
    kilobytes: float
    least: float


@dataclass(slots=True)
class _Viewer:
    """An open stream, and how many events and bytes came."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter  # without one who holds it, it would be closed
    events: int = 0
    size: int = 0

    async def read(self) -> None:
        while got := await self.reader.read(1 << 20):
            self.events += got.count(b"event: gpu\n")
            self.size += len(got)


def measured(folder: Path, viewers: int, changes: int, seconds: float) -> Cost:
    """Return what a run costs once all viewers are there."""
    with dash(folder) as (process, url):
        return asyncio.run(_measured(folder, process.pid, url, (viewers, changes), seconds))


async def _measured(folder: Path, pid: int, url: str, size: tuple[int, int], seconds: float) -> Cost:
    port, (viewers, changes) = int(url.rstrip("/").rpartition(":")[2]), size
    watching = [await _view(port) for _ in range(viewers)]
    reading = [asyncio.create_task(each.read()) for each in watching]
    await asyncio.sleep(3)
    before, at = _cpu_s(pid), time.monotonic()
    for each in watching:
        each.events = each.size = 0
    changed = await asyncio.to_thread(change, folder, changes, seconds, seed=viewers)
    cpu, took = _cpu_s(pid) - before, time.monotonic() - at
    await asyncio.sleep(3)
    memory = _memory_mib(pid)
    for task in reading:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    told = [each.events for each in watching]
    return Cost(
        viewers,
        changes,
        cpu / took,
        memory,
        median(told) / took if told else 0.0,
        median(each.size for each in watching) / took / 1000 if told else 0.0,
        min(told) / changed if told and changed else 1.0,
    )


async def _view(port: int) -> _Viewer:
    """Load what a page loads, and open a stream as it does."""
    for path in ("", "/fleet", "/fleet/load"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        writer.write(_request(f"/api/v1{path}", port, "Accept-Encoding: gzip\r\nConnection: close\r\n"))
        await reader.read()
        writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(_request("/api/v1/stream", port, ""))
    return _Viewer(reader, writer)


def _request(path: str, port: int, more: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{more}\r\n".encode()


def change(folder: Path, changes: int, seconds: float, *, seed: int) -> int:
    """Change the service on so many slices each second; return on how many GPUs, counted anew each second."""
    rng, count = random.Random(seed), 0
    with closing(sqlite3.connect(folder / CLUSTER, isolation_level=None, timeout=30)) as db:
        rows = db.execute("SELECT gpu, start, service FROM replicas").fetchall()
        following = time.monotonic()
        for _ in range(round(seconds)):
            chosen = rng.sample(rows, changes)
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "UPDATE replicas SET service = ? WHERE gpu = ? AND start = ?",
                [(f"service-{rng.randrange(SERVICES)}", gpu, start) for gpu, start, _ in chosen],
            )
            db.execute("COMMIT")
            count += len({gpu for gpu, *_ in chosen})
            following += 1.0
            time.sleep(max(0.0, following - time.monotonic()))
    return count


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def report(gpus: int, slices: int, began: list[tuple[float, float]], rows: list[Cost]) -> str:
    """Return the section."""
    starts, cpu = zip(*began, strict=True)
    header = ["viewers", "changed slices/s", "cores", "MiB", "events/s each", "kB/s each", "told, least"]
    cells: list[list[object]] = [
        [
            each.viewers,
            each.changes,
            f"{each.cores:.3f}",
            f"{each.memory:.0f}",
            f"{each.events:.0f}",
            f"{each.kilobytes:.1f}",
            f"{each.least:.1%}",
        ]
        for each in rows
    ]
    return (
        "## The dashboard's API\n\n"
        f"`partita dash` on a simulated cluster of 24 GPUs, from the command to the last byte of the page, the "
        f"index, the fleet and its load: median of {len(starts)} starts {median(starts):.2f} s, slowest "
        f"{max(starts):.2f} s, {median(cpu):.2f} s of CPU (asked: 2 s to the first picture).\n\n"
        f"On a simulated cluster of {gpus:,} GPUs with {slices:,} slices of seed 0, of which another process gives "
        "some another service each second: CPU seconds of `partita dash` in a second, and the most memory it had "
        "(asked: half a core and 300 MiB with 50 viewers and 1 % of the slices). Each viewer loads what a page loads "
        "and reads the stream to its end; the last column is the share of the changed GPUs that the one with the "
        "fewest events was told of, where a GPU that is given the service it has is not told, and two changes "
        f"between two looks are told as one.\n\n{table(header, cells)}"
    )
