"""Load for `promises_gateway`: MLPerf LoadGen, one process a service, and how late the machine itself ran."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gateway_clients import CACHE, MissingError
from benchmarks.gateway_processes import may_come_first

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_CLIENT = Path(__file__).resolve().parent / "comparators" / "loadgen_client.py"
_PACKAGES = ("mlcommons-loadgen", "aiohttp", "uvloop")
_START_S = 4.0
_LOG = ":::MLLOG "


def first() -> list[str]:
    """Return words that let a command come before everything else on this machine, if that is allowed."""
    return ["chrt", "--rr", "1"] if may_come_first() else []


def loadgen() -> Path:
    """Return the Python of an environment with LoadGen, which is made on first use.

    Raises:
        MissingError: it cannot be.
    """
    folder = CACHE / "mlcommons-loadgen"
    python, marker = folder / "bin" / "python", folder / "complete"
    if not marker.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        ran = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *_PACKAGES],
            check=False,
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise MissingError(f"pip cannot install LoadGen: {ran.stderr.strip().splitlines()[-1:]}")
        marker.touch()
    return python


@dataclass(frozen=True, slots=True)
class Asked:
    """The load of one service.

    Attributes:
        url: of its inference.
        rate: queries/s, on average.
        slo_ms: seconds within which a query must be answered.
        quantile: the promised share.
        seed: of the arrivals.
    """

    url: str
    rate: float
    slo_ms: float
    quantile: float
    seed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What LoadGen saw of the N queries of a service.

    Attributes:
        slo_ms: that they had.
        late: queries that were late, or refused, by LoadGen's own count.
        due: seconds from the start at which each was due, shape (N,).
        latency_ms: from when each was due to its right answer, inf for others, shape (N,).
        lag_ms: of the client itself, from when each was due to when it was handed to the transport, shape (N,).
        refused: queries without a right answer.
    """

    slo_ms: float
    late: int
    due: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    lag_ms: NDArray[np.float64]
    refused: int

    @property
    def rate(self) -> float:
        """Queries/s that came."""
        return len(self.due) / float(self.due[-1])

    @property
    def attained(self) -> float:
        """Share of the queries in time, by LoadGen's own count."""
        return 1.0 - self.late / len(self.due)

    @property
    def attained_without_lag(self) -> float:
        """Share of the queries in time, had the client sent each when it was due."""
        return float(np.mean(self.latency_ms - self.lag_ms <= self.slo_ms))

    def lag(self, quantile: float) -> float:
        """Return a quantile of the client's own lag in milliseconds."""
        return float(np.quantile(self.lag_ms, quantile))

    def error(self, blocks: int = 20) -> float:
        """Return the standard error of the share in time, from the means of so many blocks of time."""
        of = np.minimum((self.due / self.due[-1] * blocks).astype(int), blocks - 1)
        good = self.latency_ms <= self.slo_ms
        means = [float(np.mean(good[of == at])) for at in range(blocks) if np.any(of == at)]
        return float(np.std(means, ddof=1) / len(means) ** 0.5)


def load(asked: Mapping[str, Asked], seconds: float, folder: Path) -> dict[str, Seen]:
    """Load services side by side for some seconds, and return what was seen of each."""
    python, start = loadgen(), time.monotonic() + _START_S
    clients = []
    for name, each in asked.items():
        out = folder / name
        out.mkdir(parents=True, exist_ok=True)
        spec = {
            "url": each.url,
            "rate": each.rate,
            "count": int(each.rate * seconds),
            "slo_ms": each.slo_ms,
            "quantile": each.quantile,
            "seed": each.seed,
            "start": start,
            "out": str(out),
        }
        (out / "spec.json").write_text(json.dumps(spec))
        clients.append(subprocess.Popen([*first(), python, _CLIENT, out / "spec.json"]))
    failed = [each for each in clients if each.wait(2 * seconds + 60)]
    assert not failed, "a client failed"
    return {name: _seen(folder / name, each.slo_ms) for name, each in asked.items()}


def _seen(folder: Path, slo_ms: float) -> Seen:
    log: dict[str, Any] = {}
    for line in (folder / "mlperf_log_detail.txt").read_text().splitlines():
        if line.startswith(_LOG):
            entry = json.loads(line[len(_LOG) :])
            log[entry["key"]] = entry["value"]
    samples = sorted(
        (
            json.loads(line.rstrip(","))
            for line in (folder / "mlperf_log_trace.json").read_text().splitlines()
            if '"name":"Sample"' in line and '"ph":"b"' in line
        ),
        key=lambda each: each["args"]["query_seq"],
    )
    sent = json.loads((folder / "sent.json").read_text())
    assert len(samples) == len(sent) == log["result_query_count"], "LoadGen lost queries"
    right = np.array([outcome == 200 for _, outcome in sent])
    latency = np.array([each["args"]["complete_ns"] for each in samples]) / 1e6
    lag = np.array([each["args"]["issue_start_ns"] for each in samples]) / 1e6
    return Seen(
        slo_ms,
        int(log["result_overlatency_query_count"]),
        (np.array([each["ts"] for each in samples]) - samples[0]["ts"]) / 1e6,
        np.where(right, latency, np.inf),
        lag + np.array([each for each, _ in sent]) * 1e3,
        int(np.sum(~right)),
    )


_PROBE = """
import json, sys, time
late = []
try:
    while True:
        due = time.perf_counter() + 0.002
        time.sleep(0.002)
        late.append(time.perf_counter() - due)
except KeyboardInterrupt:
    print(json.dumps(late))
"""


@dataclass(slots=True)
class Noise:
    """How late the machine ran, beside what was measured.

    Attributes:
        late_ms: by which each sleep of 2 ms of a process at the same priority took longer.
        waited: share of the time in which a process that could have run waited for a core.
    """

    late_ms: Sequence[float] = ()
    waited: dict[str, float] = field(default_factory=dict)

    def late(self, quantile: float) -> float:
        """Return a quantile of the lateness in milliseconds."""
        return float(np.quantile(self.late_ms, quantile))


@contextmanager
def noise(pids: Mapping[str, int]) -> Iterator[Noise]:
    """Measure during the block how late this machine runs, and how long some processes wait for a core."""
    found = Noise()
    probe = subprocess.Popen([*first(), sys.executable, "-c", _PROBE], stdout=subprocess.PIPE, text=True)
    before, began = {name: _waited(pid) for name, pid in pids.items()}, time.monotonic()
    try:
        yield found
        seconds = time.monotonic() - began
        found.waited = {name: (_waited(pid) - before[name]) / seconds for name, pid in pids.items()}
    finally:
        probe.send_signal(2)
        out, _ = probe.communicate(timeout=10)
    found.late_ms = [1e3 * each for each in json.loads(out)]


def _waited(pid: int) -> float:
    """Return the seconds for which a process's first thread has waited for a core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
