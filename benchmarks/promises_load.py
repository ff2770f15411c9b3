"""Load for `promises_gateway` from other projects' clients, and how late the machine itself ran.

MLPerf LoadGen draws Poisson arrivals and takes latencies from the moment when a query was due. NVIDIA's AIPerf draws
gamma arrivals, which LoadGen has not.
"""

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
_LOADGEN = ("mlcommons-loadgen", "aiohttp", "uvloop")
_AIPERF = ("aiperf",)
_START_S = 4.0
_LOG = ":::MLLOG "
_TENSOR = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 16], "data": [0.5 * at for at in range(16)]}
_TOKENIZER = {
    "tokenizer.json": {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
    },
    "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"},
    "config.json": {"model_type": "bert"},
}
"""What AIPerf reads as a tokenizer, which it wants for any model."""


def first() -> list[str]:
    """Return words that let a command come before everything else on this machine, if that is allowed."""
    return ["chrt", "--rr", "1"] if may_come_first() else []


def install() -> None:
    """Make the clients' environments on first use.

    Raises:
        MissingError: that cannot be.
    """
    for packages in (_LOADGEN, _AIPERF):
        _environment(packages)


def _environment(packages: tuple[str, ...]) -> Path:
    """Return the `bin` of an environment with some packages."""
    folder = CACHE / packages[0]
    marker = folder / "complete"
    if not marker.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        ran = subprocess.run(
            [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages],
            check=False,
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise MissingError(f"pip cannot install {packages[0]}: {ran.stderr.strip().splitlines()[-1:]}")
        marker.touch()
    return folder / "bin"


@dataclass(frozen=True, slots=True)
class Asked:
    """The load of one service.

    Attributes:
        url: of its inference.
        rate: queries/s, on average.
        slo_ms: seconds within which a query must be answered.
        quantile: the promised share.
        seed: of the arrivals.
        variation: coefficient of variation of the gaps between them; 1 is Poisson.
    """

    url: str
    rate: float
    slo_ms: float
    quantile: float
    seed: int
    variation: float = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw of the N queries of a service.

    Attributes:
        slo_ms: that they had.
        late: queries that were late, or had no right answer; by LoadGen's own count where it was the client.
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
        """Share of the queries in time."""
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
    start = time.monotonic() + _START_S
    clients = []
    for name, each in asked.items():
        out = folder / name
        out.mkdir(parents=True, exist_ok=True)
        words = (
            _by_loadgen(each, seconds, out, start)
            if each.variation == 1.0
            else _by_aiperf(each, seconds, out)
        )
        with (out / "log").open("wb") as log:
            clients.append(subprocess.Popen([*first(), *words], stdout=log, stderr=log))
    codes = [each.wait(2 * seconds + 60) for each in clients]
    for name, code in zip(asked, codes, strict=True):
        assert not code, f"the client of {name} failed: {(folder / name / 'log').read_text()[-2000:]}"
    return {
        name: (_seen if each.variation == 1.0 else _seen_by_aiperf)(folder / name, each.slo_ms)
        for name, each in asked.items()
    }


def _by_loadgen(asked: Asked, seconds: float, out: Path, start: float) -> list[str]:
    spec = {
        "url": asked.url,
        "rate": asked.rate,
        "count": int(asked.rate * seconds),
        "slo_ms": asked.slo_ms,
        "quantile": asked.quantile,
        "seed": asked.seed,
        "start": start,
        "out": str(out),
    }
    (out / "spec.json").write_text(json.dumps(spec))
    return [str(_environment(_LOADGEN) / "python"), str(_CLIENT), str(out / "spec.json")]


def _by_aiperf(asked: Asked, seconds: float, out: Path) -> list[str]:
    (out / "tokenizer").mkdir()
    for name, content in _TOKENIZER.items():
        (out / "tokenizer" / name).write_text(json.dumps(content))
    (out / "texts.jsonl").write_text('{"text": "a"}\n' * 16)
    body = {"payload_template": json.dumps({"inputs": [_TENSOR]}), "response_field": "outputs[0].data"}
    options = {
        "model": "emulated",
        "url": asked.url,
        "endpoint-type": "template",
        "extra-inputs": json.dumps(body),
        "custom-dataset-type": "single_turn",
        "input-file": out / "texts.jsonl",
        "tokenizer": out / "tokenizer",
        "arrival-pattern": "gamma",
        "arrival-smoothness": asked.variation**-2,
        "request-rate": asked.rate,
        "request-count": int(asked.rate * seconds),
        "warmup-request-count": 40,
        "random-seed": asked.seed,
        "workers-max": 1,
        "export-level": "records",
        "output-artifact-dir": out,
        "ui-type": "none",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [str(_environment(_AIPERF) / "aiperf"), "profile", *words]


def _seen_by_aiperf(folder: Path, slo_ms: float) -> Seen:
    """Return what AIPerf saw; a query counts as due when AIPerf's timer let it go."""
    records = [json.loads(line) for line in (folder / "profile_export.jsonl").read_text().splitlines()]
    records = [each for each in records if each["metadata"]["benchmark_phase"] == "profiling"]
    records.sort(key=lambda each: each["metadata"]["credit_issued_ns"])
    due, sent, end = (
        np.array([each["metadata"][name] for each in records]) / 1e6
        for name in ("credit_issued_ns", "request_start_ns", "request_end_ns")
    )
    right = np.array([each.get("error") is None for each in records])
    latency = np.where(right, end - due, np.inf)
    late, refused = int(np.sum(latency > slo_ms)), int(np.sum(~right))
    return Seen(slo_ms, late, (due - due[0]) / 1e3, latency, sent - due, refused)


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
