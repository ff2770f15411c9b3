"""`partita dash --demo`: the demo's day, live, and what it leaves behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from tests.cli.commands import Commands
from tests.cli.test_demo import environment
from tests.jobs.run.attempts import until

from partita.cli.demo_queries import Promised, SimulatedQueries
from partita.cli.live_demo import DAY_S, Demand
from partita.dash.gateway import GatewayPage, together
from partita.drive.driver import Identity, Observation, ObservedGpu, ObservedInstance, ObservedReplica
from partita.mig.layout import Placement
from partita.serve.gateway.metrics import Metrics
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    from collections.abc import Callable

SLO_S = 0.1


def one_gpu(throughput: float) -> Observation:
    replica = ObservedReplica(Replica("search", "resnet50", 8, 1, throughput, 20.0), ready=True)
    instance = ObservedInstance(
        Placement.parse("7g.80gb@0"), Identity("GPU-1", 0, 0, "MIG-1"), ours=True, replica=replica
    )
    return Observation(
        (ObservedGpu("node-0/gpu-0", "GPU-1", "a100-80gb", mig=True, lost=False, instances=(instance,)),)
    )


@pytest.mark.parametrize(("rate", "refused"), [(600.0, 0.0), (1250.0, 0.2)])
def test_simulated_queries_are_read_as_those_of_a_gateway(rate: float, refused: float) -> None:
    queries = SimulatedQueries([Promised("search", SLO_S, 0.95)])
    page = GatewayPage("http://localhost:1")
    for second in range(0, 60, 2):
        queries.pass_by(2.0, {"search": rate}, one_gpu(1000.0))
        page.take(float(second), Metrics(queries.snapshot).page()[0].decode())
    found = together([page])
    now = found.services["search"]
    assert now.rate == pytest.approx(rate, rel=1e-3)
    assert now.slo_ms == pytest.approx(1000 * SLO_S)
    assert now.quantile == 0.95
    assert now.attainment == pytest.approx(1 - refused, abs=0.01)
    assert sum(now.refused.values()) == pytest.approx(refused * rate * 58, rel=0.02)
    assert now.p50_ms is not None
    assert now.p99_ms is not None
    assert 0 < now.p50_ms < now.p99_ms < 2000 * SLO_S
    busy = found.load["node-0/gpu-0", 0].busy
    assert busy is not None
    assert 0.5 * min(1.0, rate / 1000) < busy <= 1.0


def test_capacity_is_there_before_demand_rises_and_until_it_has_fallen() -> None:
    day, night = {"search": 100.0, "chat": 50.0}, {"search": 30.0, "chat": 20.0}
    demand = Demand(day, night)
    by_day: list[bool] = []
    levels: list[float] = []
    for now in range(2 * int(DAY_S)):
        wanted = demand.planned(by_day=by_day[-1] if by_day else True)
        rates, asked = demand.pass_by(float(now), 1.0, wanted)  # capacity as was wanted a second ago
        by_day.append(asked)
        levels.append(rates["chat"])
        assert rates["chat"] <= wanted["chat"]
    assert sum(a != b for a, b in pairwise(by_day)) == 4
    assert min(levels) < night["chat"]
    assert max(levels) > 0.9 * day["chat"]


def test_demand_rises_in_the_end_without_the_capacity() -> None:
    demand = Demand({"search": 100.0}, {"search": 30.0})
    rates = [demand.pass_by(float(now), 1.0, {})[0]["search"] for now in range(int(DAY_S))]
    assert rates[150] < 35
    assert rates[-1] > 90


def asked(address: str, path: str, enough: Callable[[Any], bool]) -> Any:
    """Ask again and again until the answer is enough."""
    for _ in range(600):
        try:
            with urlopen(f"{address}api/v1{path}", timeout=30) as answer:  # noqa: S310 -- of our own
                found = json.load(answer)
        except HTTPError as error:  # that part is not there yet
            found = str(error)
        else:
            if enough(found):
                return found
        time.sleep(0.1)
    raise AssertionError(found)


def test_the_day_runs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "partita", "dash", "--demo", "--port", "0"]
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            asked(
                found[0],
                "/services",
                lambda page: (
                    page["total"] == 5
                    and all(
                        each["capacity"] >= each["required"] > 0 and each["rate"] for each in page["services"]
                    )
                ),
            )
            asked(found[0], "/jobs", lambda page: page["counts"].get("running"))
            asked(found[0], "/energy", lambda page: any(row["kind"] == "idle" for row in page["rows"]))
            (folder,) = tmp_path.iterdir()
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    assert not _named(folder)


def _named(folder: Path) -> list[Path]:
    return [each for each in Path("/proc").glob("[0-9]*/cmdline") if _has(each, str(folder))]


_SECONDS = 120.0
_SHOWN = """
from partita.cli.live_demo import live_demo
with live_demo() as demo:
    print(demo.folder, flush=True)
    input()
"""


def test_the_day_ends_with_whoever_showed_it_however_that_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SHOWN]
    with subprocess.Popen(
        command, env=environment(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        try:
            until(lambda: any((folder / "jobs").glob("attempts/*/*/log")), _SECONDS)
        finally:
            process.kill()
    until(lambda: not folder.exists(), _SECONDS)
    until(lambda: not _named(folder), _SECONDS)


def test_nothing_stays_of_a_day_that_is_killed_before_it_has_begun(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SHOWN],
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        process.kill()
    until(lambda: not folder.exists() and not _named(folder), _SECONDS)


def _has(path: Path, text: str) -> bool:
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False  # it has ended


def test_the_demo_has_a_cluster_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Commands(tmp_path, monkeypatch, capsys)("dash", "--demo", "--gateway", "localhost:8000")
    assert found.code == 2
    assert "--gateway" in found.err
