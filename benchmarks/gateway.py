"""The gateway with 56 emulated workers of 5 ms under load from outside, beside an echo and other servers."""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway_bodies import IMAGE, binary_body, grpc_body, image_body, json_body
from benchmarks.gateway_clients import Asked, Load, MissingError, load, most, tool
from benchmarks.gateway_comparators import COMPARATORS, HERE, Comparator
from benchmarks.gateway_processes import OTHERS, Pinning, come_first, front_seconds, running, to_core
from benchmarks.gateway_text import Found, Measured, text
from benchmarks.served import Emulation, Served, children, free_port, serving

_EMULATION = Emulation(gpus=8, latency_ms=5.0, slo_ms=100.0)
_RATES = (500, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 6000)
_ECHO_RATES = (250, 500, 1000, 2500, 4000, 10_000)
_IMAGES = Emulation(gpus=8, latency_ms=5.0, slo_ms=100.0, shape=IMAGE)
_IMAGE_RATES = (100, 250, 500, 750, 1000)
_HEADLINE, _HEADLINE_S = 2500, 10.0
_CLOSED = 112
_MISSES = 2
_APART, _ANYWHERE = Pinning(apart=True), Pinning(apart=False)


def run(*, quick: bool) -> str:
    try:
        tool("oha")
        tool("ghz")
    except MissingError as error:
        return f"## The gateway under load\n\nSkipped: {error}.\n"
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(Path(scratch), 2.0, (500, 2500), 1) if quick else _Bench(Path(scratch), 2.0, _RATES, 3)
        return text(bench.everything())


@dataclass(slots=True)
class _Bench:
    """Settings of the measurement.

    Attributes:
        scratch: a folder.
        seconds: of each try at a rate.
        rates: to try, ascending, until two in a row are not sustained.
        repeats: tries at each; the one with the median p99 counts.
    """

    scratch: Path
    seconds: float
    rates: tuple[int, ...]
    repeats: int
    found: Found = field(default_factory=Found)

    def everything(self) -> Found:
        """Measure all servers, one after the other."""
        json, binary, image = (each(self.scratch) for each in (json_body, binary_body, image_body))
        self._echo("echo, JSON", *json)
        self._echo("echo, binary", *binary)
        self._echo("echo, binary, 602 KB", *image, rates=self._images)
        with serving(_EMULATION, before=_APART.front) as served:
            to_core(children(served.pid), OTHERS)
            self._measure("Partita, JSON", _APART, served.pid, Asked(served.infer, *json))
            self._measure("Partita, binary", _APART, served.pid, Asked(served.infer, *binary))
            message = Asked(served.grpc, grpc_body(self.scratch), {}, grpc=True)
            self._measure("Partita, gRPC", _APART, served.pid, message)
            self._decide(served, Asked(served.infer, *json))
        with serving(_IMAGES, before=_APART.front) as served:
            to_core(children(served.pid), OTHERS)
            asked = Asked(served.infer, *image)
            self._measure("Partita, binary, 602 KB", _APART, served.pid, asked, self._images)
        with serving(_EMULATION) as served:
            self._measure("Partita, JSON", _ANYWHERE, served.pid, Asked(served.infer, *json))
        for each in COMPARATORS:
            self._other(each, json[0])
        return self.found

    @property
    def _images(self) -> tuple[int, ...]:
        return _IMAGE_RATES if self.repeats > 1 else _IMAGE_RATES[:2]

    def _echo(
        self, name: str, body: Path, headers: dict[str, str], rates: tuple[int, ...] = _ECHO_RATES
    ) -> None:
        port = free_port()
        command = [*_APART.front, sys.executable, str(HERE / "echo_server.py"), str(port)]
        asked = Asked(f"http://127.0.0.1:{port}/", body, headers)
        with running(command, asked, {}, self.scratch, 60) as pid:
            self._measure(name, _APART, pid, asked, rates)

    def _other(self, each: Comparator, body: Path) -> None:
        try:
            name = f"{each.name} {each.install()}"
            for pinning in (_APART, _ANYWHERE):
                with each.serving(body, pinning, self.scratch) as (pid, asked):
                    load(asked, 100, each.warm_s, pinning.client)
                    self._measure(name, pinning, pid, asked)
            self.found.how[name] = each.how
        except (MissingError, RuntimeError) as error:
            self.found.skipped[each.name] = str(error)

    def _measure(
        self, name: str, pinning: Pinning, pid: int, asked: Asked, rates: tuple[int, ...] = ()
    ) -> None:
        """Try ascending rates until two in a row are not sustained, then the closed loop."""
        come_first(pid)
        load(asked, (rates or self.rates)[0], 2.0, pinning.client)
        steps: dict[int, Load] = {}
        costs: dict[int, float] = {}
        missed = 0
        for rate in rates or self.rates:
            before = front_seconds(pid)
            tries = [load(asked, rate, self.seconds, pinning.client) for _ in range(self.repeats)]
            steps[rate] = sorted(tries, key=lambda each: each.p99)[len(tries) // 2]
            if steps[rate].sustained(rate, self._work_ms(name)):
                missed = 0
                if pinning.apart:
                    costs[rate] = (front_seconds(pid) - before) / sum(each.sent for each in tries)
            elif (missed := missed + 1) == _MISSES:
                break
        closed = [most(asked, _CLOSED, self.seconds, pinning.client) for _ in range(self.repeats)]
        through = statistics.median(each.rate for each in closed)
        measured = Measured(name, pinning, self._work_ms(name), steps, through, costs)
        print(measured, file=sys.stderr, flush=True)
        self.found.measured.append(measured)

    @staticmethod
    def _work_ms(name: str) -> float:
        return 0.0 if name.startswith("echo") else _EMULATION.latency_ms

    def _decide(self, served: Served, asked: Asked) -> None:
        """Measure the headline's rate for longer, with the seconds of routing decisions."""
        before = served.samples("partita_decision_seconds_bucket")
        self.found.headline = load(asked, _HEADLINE, _HEADLINE_S, _APART.client)
        after = served.samples("partita_decision_seconds_bucket")
        for labels, count in after.items():
            limit = float(labels.split('le="')[1].split('"')[0])
            self.found.decisions[limit] = count - before.get(labels, 0.0)
