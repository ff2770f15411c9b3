"""Load from other projects' programs: oha over HTTP, ghz over gRPC; both open loop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "partita-benchmarks"
PROTO = Path(__file__).resolve().parents[1] / "src/partita/serve/gateway" / "open_inference.proto"
MOST_ADDED_MS = 5.0
_CONNECTIONS = 128
_INSTALL = {
    "oha": (["cargo", "install", "--locked", "--quiet", "oha", "--root", str(CACHE)], {}),
    "ghz": (["go", "install", "github.com/bojand/ghz/cmd/ghz@latest"], {"GOBIN": str(CACHE / "bin")}),
}


class MissingError(Exception):
    """A program is missing and cannot be installed."""


def tool(name: str) -> str:
    """Return the path of a client, which is built on first use.

    Raises:
        MissingError: it cannot be.
    """
    found = shutil.which(name) or shutil.which(name, path=str(CACHE / "bin"))
    if found is None:
        command, environment = _INSTALL[name]
        if shutil.which(command[0]) is None:
            raise MissingError(f"no {name} on the path, and no {command[0]} to build it with")
        ran = subprocess.run(
            command, env={**os.environ, **environment}, check=False, capture_output=True, text=True
        )
        if ran.returncode:
            raise MissingError(f"{' '.join(command)}: {ran.stderr.strip().splitlines()[-1:]}")
        found = str(CACHE / "bin" / name)
    return found


def version(name: str) -> str:
    """Return the version of a client."""
    said = subprocess.run([tool(name), "--version"], check=False, capture_output=True, text=True)
    return (said.stdout + said.stderr).split()[-1]


@dataclass(frozen=True, slots=True)
class Asked:
    """An address, and the request to send.

    Attributes:
        url: over HTTP; the address over gRPC.
        body: a file; over gRPC the message.
        headers: over HTTP.
        grpc: whether it is gRPC.
    """

    url: str
    body: Path
    headers: Mapping[str, str]
    grpc: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What a client measured.

    Attributes:
        rate: correct answers per second.
        p50: milliseconds, from the moment at which a request was due.
        p99: likewise.
        sent: requests.
        failed: requests without a correct answer.
    """

    rate: float
    p50: float
    p99: float
    sent: int
    failed: int

    def sustained(self, rate: float, work_ms: float) -> bool:
        """Return whether all were answered, at that rate, 99 % of them within 5 ms more than the work takes."""
        return not self.failed and self.rate >= 0.97 * rate and self.p99 - work_ms < MOST_ADDED_MS


def load(asked: Asked, rate: int, seconds: float, before: list[str]) -> Load:
    """Ask at a fixed rate, whatever becomes of earlier requests; `before` is put before the client's command."""
    count = max(1, int(rate * seconds))
    if asked.grpc:
        return _ghz(asked, ["--rps", str(rate), "--total", str(count), "--async", "-c", "200"], before)
    words = ["-q", str(rate), "-n", str(count), "-c", str(_CONNECTIONS), "--latency-correction"]
    return _oha(asked, words, before)


def most(asked: Asked, connections: int, seconds: float, before: list[str]) -> Load:
    """Send the next request after each answer, on so many connections (closed loop): the maximum throughput."""
    if asked.grpc:
        # Without --async each of ghz's callers waits for its answer.
        words = ["-c", str(connections), "-z", f"{seconds:g}s", "--duration-stop", "ignore"]
        return _ghz(asked, words, before)
    words = ["-z", f"{seconds:g}s", "-c", str(connections), "--wait-ongoing-requests-after-deadline"]
    return _oha(asked, words, before)


def _oha(asked: Asked, words: list[str], before: list[str]) -> Load:
    command = [*before, tool("oha"), "--no-tui", "--output-format", "json", "-m", "POST", *words]
    for name, value in asked.headers.items():
        command += ["-H", f"{name}: {value}"]
    found = _json([*command, "-D", str(asked.body), asked.url])
    right = found["statusCodeDistribution"].get("200", 0)
    sent = sum(found["statusCodeDistribution"].values()) + sum(found["errorDistribution"].values())
    took = found["latencyPercentiles"]
    p50, p99 = ((took[each] or 0.0) * 1000 for each in ("p50", "p99"))
    return Load(right / found["summary"]["total"], p50, p99, sent, sent - right)


def _ghz(asked: Asked, words: list[str], before: list[str]) -> Load:
    command = [*before, tool("ghz"), "--insecure", "--proto", str(PROTO), "--connections", "8", "-O", "json"]
    command += ["--call", "inference.GRPCInferenceService.ModelInfer", "-B", str(asked.body), *words]
    found = _json([*command, asked.url])
    right = found["statusCodeDistribution"].get("OK", 0)
    took = {each["percentage"]: each["latency"] / 1e6 for each in found["latencyDistribution"] or ()}
    seconds = found["total"] / 1e9
    return Load(right / seconds, took.get(50, 0.0), took.get(99, 0.0), found["count"], found["count"] - right)


def _json(command: list[str]) -> Any:  # noqa: ANN401 -- another program's document
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)
