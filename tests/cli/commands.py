"""The command line, run in this process as in a process of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from partita.perf.operating_point import OperatingPoint
from partita.planning.document import write_plan
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from partita.transition.deployment import DeployedInstance, Deployment


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


@dataclass
class Commands:
    """Runs commands whose state is in a folder of the test's own."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    columns: int = 120

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def __call__(self, *words: object) -> Result:
        self.monkeypatch.setenv("PARTITA_STATE", str(self.state))
        self.monkeypatch.setenv("COLUMNS", str(self.columns))
        self.monkeypatch.setattr(sys, "argv", ["partita", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            import_module("partita.cli.main").main()  # of now: `installed` has others
        found = self.capsys.readouterr()
        code = end.value.code
        return Result(code if isinstance(code, int) else 0, found.out, found.err)

    def plan(self, name: str, wanted: Deployment, rates: Mapping[str, float] | None = None) -> Path:
        """Write a plan that wants a deployment, and requires the rates, or all that it gives."""
        path = self.folder / name
        given = wanted.capacity()
        required = given if rates is None else rates
        used = [gpu for gpu in wanted.gpus if gpu.instances]
        made = Plan(
            Objective("gpus", len(used), len(used)),
            Solver("exact", 0, 0.0),
            tuple(ServiceCapacity(each, required[each], given[each], 100.0) for each in sorted(given)),
            tuple(PlannedGpu(gpu.id, gpu.model, tuple(map(_instance, gpu.instances))) for gpu in used),
        )
        with path.open("w") as stream:
            write_plan(made, stream)
        return path


def _instance(each: DeployedInstance) -> Instance:
    replica = each.replica
    assert replica is not None
    point = OperatingPoint(
        each.placement.profile, replica.batch, replica.processes, replica.throughput, replica.latency_ms, ""
    )
    return Instance(each.placement, replica.service, replica.model, point)
