"""Promises through the real gateway: six planned workloads, emulated workers, arrivals drawn by MLPerf LoadGen."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.gateway_clients import MissingError
from benchmarks.gateway_processes import come_first
from benchmarks.promises_load import Asked, Noise, Seen, first, install, load, noise
from benchmarks.report import table
from benchmarks.scenarios import DATA
from benchmarks.served import serving

if TYPE_CHECKING:
    from collections.abc import Mapping

_TABLES = {"a100-80gb": "parvagpu_a100_80gb.csv", "a100-40gb": "mig_serving_a100.csv"}
_SECONDS = 60.0
_FULL = 0.99
_ROUNDS, _NEAR = 3, 0.02
"""Plans until the rates are as near to what the plan holds: other rates can give other instances."""
JITTER = 0.05


@dataclass(frozen=True, slots=True)
class Promise:
    """A service: its model, its rate in queries/s, and what is promised; `fields` are further fields of it."""

    model: str
    rate: float
    slo_ms: float
    quantile: float
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variation(self) -> float:
        """Coefficient of variation of the gaps between its queries."""
        arrivals = self.fields.get("arrivals")
        return float(arrivals["gamma"]["cv"]) if arrivals else 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A workload: services by name on GPUs of one model, by its public table."""

    name: str
    gpu: str
    services: Mapping[str, Promise]
    max_processes: int = 1

    def document(self, *, waiting: bool) -> dict[str, Any]:
        """Return it as a document; without waiting, arrivals are constant, as plans had it before."""
        return {
            "apiVersion": "partita/v1",
            "kind": "Workload",
            "performance": [str(DATA / "perf" / _TABLES[self.gpu])],
            "gpus": [{"model": self.gpu}],
            "limits": {"max_processes": self.max_processes},
            "services": [
                {
                    "name": name,
                    "model": each.model,
                    "rate": each.rate,
                    "slo": {"latency_ms": each.slo_ms, **({"quantile": each.quantile} if waiting else {})},
                    **{name: value for name, value in each.fields.items() if waiting or name != "arrivals"},
                }
                for name, each in self.services.items()
            ],
        }

    def at(self, rates: Mapping[str, float]) -> Case:
        """Return it with other rates."""
        return replace(
            self, services={name: replace(each, rate=rates[name]) for name, each in self.services.items()}
        )


CASES = (
    Case(
        "two language models",
        "a100-40gb",
        {
            "roberta": Promise("roberta-large-tensorflow", 200, 200, 0.95),
            "albert": Promise("albert-large-v2-tensorflow", 170, 250, 0.9),
        },
    ),
    Case(
        "tight",
        "a100-80gb",
        {
            "bert": Promise("bert", 130, 60, 0.95, {"profiles": ["1g", "2g"]}),
            "resnet152": Promise("resnet152", 200, 70, 0.95),
        },
    ),
    Case(
        "one in a hundred",
        "a100-40gb",
        {
            "roberta": Promise("roberta-large-pytorch", 180, 250, 0.99),
            "albert": Promise("albert-large-v2-pytorch", 120, 300, 0.99),
        },
    ),
    Case(
        "several processes",
        "a100-80gb",
        {
            "bert": Promise("bert", 230, 150, 0.99),
            "resnet152": Promise("resnet152", 200, 120, 0.95),
        },
        max_processes=4,
    ),
    Case(
        "unlike sizes",
        "a100-40gb",
        {"roberta": Promise("roberta-large-tensorflow", 560, 150, 0.95, {"profiles": ["1g", "2g", "3g"]})},
    ),
    Case(
        "in bursts",
        "a100-40gb",
        {
            "albert": Promise(
                "albert-large-v2-tensorflow", 150, 400, 0.95, {"arrivals": {"gamma": {"cv": 2}}}
            ),
            "roberta": Promise("roberta-large-tensorflow", 140, 250, 0.95),
        },
    ),
)


@dataclass(frozen=True, slots=True)
class Planned:
    """A workload with its plan, ready to be served.

    Attributes:
        case: the workload, at the rates that are planned and asked.
        plan: the document.
        waiting: whether waiting was planned for.
        jitter: log-normal spread of the emulated workers' seconds.
    """

    case: Case
    plan: dict[str, Any]
    waiting: bool
    jitter: float

    @property
    def instances(self) -> list[dict[str, Any]]:
        """The plan's instances."""
        return [each for gpu in self.plan["gpus"] for each in gpu["instances"]]

    @property
    def workers(self) -> int:
        """Instances, each with a worker."""
        return len(self.instances)

    def write(self, folder: Path) -> list[str]:
        """Write its files, and return the options that name them."""
        _write_workload(self.case, folder, waiting=self.waiting)
        (folder / "plan.json").write_text(json.dumps(self.plan))
        worker = {"emulated": {"jitter": self.jitter}}
        services = [{"name": name, "worker": worker} for name in self.case.services]
        (folder / "services.yaml").write_text(yaml.safe_dump({"services": services}))
        words = {"-f": "workload.yaml", "--plan": "plan.json", "--services": "services.yaml"}
        return [word for option, name in words.items() for word in (option, str(folder / name))]

    def load_of(self, name: str) -> float:
        """Return a service's rate as a share of what the plan says its instances hold."""
        return self.case.services[name].rate / self.capacity(name)

    def capacity(self, name: str) -> float:
        """Return what the plan says the instances of a service hold, in queries/s."""
        return float(next(each["capacity"] for each in self.plan["services"] if each["name"] == name))

    def sizes(self, name: str) -> str:
        """Return a service's instances in words."""
        found: dict[str, int] = {}
        for each in self.instances:
            if each["service"] == name:
                processes = f"x{each['processes']}" if each["processes"] > 1 else ""
                size = f"{each['profile'].split('.')[0]}{processes} b{each['batch']}"
                found[size] = found.get(size, 0) + 1
        return ", ".join(f"{count} {size}" if count > 1 else size for size, count in sorted(found.items()))


def _write_workload(case: Case, folder: Path, *, waiting: bool) -> None:
    (folder / "workload.yaml").write_text(yaml.safe_dump(case.document(waiting=waiting), sort_keys=False))


def planned(case: Case, *, waiting: bool, share: float, jitter: float) -> Planned:
    """Plan a workload, raise its rates to a share of what the plan says it holds, and plan it again."""
    found = Planned(case, _plan(case, waiting=waiting), waiting, jitter)
    for _ in range(_ROUNDS):
        if all(found.load_of(name) >= share - _NEAR for name in case.services):
            break
        case = case.at({name: share * found.capacity(name) for name in case.services})
        found = Planned(case, _plan(case, waiting=waiting), waiting, jitter)
    return found


def _plan(case: Case, *, waiting: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_workload(case, folder, waiting=waiting)
        words = ["-f", str(folder / "workload.yaml"), "--out", str(folder / "plan.json")]
        subprocess.run([sys.executable, "-m", "partita", "plan", *words], check=True, capture_output=True)
        return dict(json.loads((folder / "plan.json").read_text()))


@dataclass(frozen=True, slots=True)
class Run:
    """A workload served under load.

    Attributes:
        planned: what was served.
        seen: by service.
        inside: share of the queries in time, as the gateway counted it.
        noise: of the machine.
    """

    planned: Planned
    seen: Mapping[str, Seen]
    inside: Mapping[str, float]
    noise: Noise


def served(planned: Planned, seconds: float, seed: int) -> Run:
    """Serve a plan and load it for some seconds at its workload's rates."""
    with serving(planned, before=first()) as front, tempfile.TemporaryDirectory() as scratch:
        come_first(front.pid)
        asked = {
            name: Asked(
                front.infer_of(name), each.rate, each.slo_ms, each.quantile, seed + at, each.variation
            )
            for at, (name, each) in enumerate(planned.case.services.items())
        }
        with noise({"gateway": front.pid}) as heard:
            seen = load(asked, seconds, Path(scratch))
        inside = {
            labels.split('"')[1]: value for labels, value in front.samples("partita_slo_attainment").items()
        }
        return Run(planned, seen, inside, heard)


_HEADER = [
    "workload",
    "service",
    "instances",
    "SLO ms",
    "queries/s",
    "of planned capacity",
    "promised",
    "in time",
    "±",
    "without the client's lag",
    "as the gateway counts",
    "refused",
    "client lag p99 ms",
]


def _rows(run: Run) -> list[list[object]]:
    found: list[list[object]] = []
    for name, promise in run.planned.case.services.items():
        seen = run.seen[name]
        found.append(
            [
                run.planned.case.name,
                f"{name} ({promise.model})",
                run.planned.sizes(name),
                f"{promise.slo_ms:g}",
                f"{seen.rate:.0f}",
                f"{run.planned.load_of(name):.2f}",
                f"{promise.quantile:.0%}",
                f"{seen.attained:.2%}",
                f"{2 * seen.error():.2%}",
                f"{seen.attained_without_lag:.2%}",
                f"{run.inside[name]:.2%}",
                f"{seen.refused / len(seen.due):.2%}",
                f"{seen.lag(0.99):.2f}",
            ]
        )
    return found


def run(*, quick: bool) -> str:
    try:
        install()
    except MissingError as error:
        return f"## Promises through the gateway\n\nSkipped: {error}.\n"
    cases = CASES[:1] if quick else CASES
    found = []
    for at, case in enumerate(cases):
        made = planned(case, waiting=False, share=_FULL, jitter=0.0)
        found.append(served(made, 10.0 if quick else _SECONDS, seed=100 * at + 1))
        print(table(_HEADER, _rows(found[-1])), file=sys.stderr, flush=True)
    return table(_HEADER, [row for each in found for row in _rows(each)])
