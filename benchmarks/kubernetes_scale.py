"""The controller at scale: a thousand nodes of eight GPUs, three hundred services, a replan that moves hundreds."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kubernetes.control_plane.cluster import ControlPlane, needed_programs
from tests.kubernetes.control_plane.installation import Installation
from tests.kubernetes.control_plane.nodes import SimulatedNodes, Timing

from benchmarks.kubernetes_allocation import cpu_seconds
from benchmarks.report import table
from benchmarks.scale import LIMITS, TABLE, services

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.installation import Controller

MODEL = "a100-80gb"
GPUS = 8
FACTOR = 0.1
"""On the rates of `benchmarks.scale`, for about a thousand replicas."""
SWINGS = (0.4, 1.6)
"""What a replan makes of the rates: of every other service less, of the rest more."""
SEED = 1
NAMESPACE = "default"
NODE_S = 160
"""Nodes' leases are renewed every quarter of it: a thousand nodes that do so every 4 s fill a core by themselves."""
PATIENCE_S = 900.0


@dataclass
class Moment:
    """Resources used and writes made by the programs up to one moment."""

    controller: float
    apiserver: float
    others: float
    writes: Counter[str] = field(default_factory=Counter)
    at: float = field(default_factory=time.monotonic)


@dataclass
class Stage:
    """The durations of a change of the Workload.

    Attributes:
        planned: seconds until the Plan was there.
        ordered: until the first action was ordered.
        reached: until all of it was carried out.
    """

    name: str
    actions: int
    began: Moment
    ordered_at: Moment
    ended: Moment
    planned: float
    ordered: float
    reached: float
    moved: tuple[int, int]

    @property
    def writes(self) -> Counter[str]:
        """The controller's, by resource and verb."""
        return self.ended.writes - self.began.writes


class Scene:
    """A control plane with fake nodes and a controller on it."""

    def __init__(self, plane: ControlPlane, partita: Installation, controller: Controller) -> None:
        self.plane, self.partita, self.controller = plane, partita, controller

    def moment(self) -> Moment:
        """Return what was used until now."""
        writes: Counter[str] = Counter()
        for each in self.partita.proxy.writes():
            writes[f"{each.verb} {each.plural}"] += 1
        cpu = {name: cpu_seconds(self.plane.pid(name)) for name in ("apiserver", "etcd", "scheduler", "kcm")}
        return Moment(
            cpu_seconds(self.controller.pid), cpu["apiserver"], sum(cpu.values()) - cpu["apiserver"], writes
        )

    def change(self, name: str, spec: dict[str, Any]) -> Stage:
        """Change the Workload, and wait until it is carried out."""
        partita = self.partita
        before = {each["metadata"]["name"] for each in partita.transitions()}
        pods = self.pods()
        began = self.moment()
        partita.apply(spec)
        seen: dict[str, Moment] = {}
        plans = len(partita.admin.objects("plans", NAMESPACE))

        def ordered() -> bool:
            if "planned" not in seen and len(partita.admin.objects("plans", NAMESPACE)) > plans:
                seen["planned"] = self.moment()
            newest = [each for each in partita.transitions() if each["metadata"]["name"] not in before]
            return bool(newest) and bool(newest[-1].get("status", {}).get("actions"))

        partita.wait(ordered, "the actions are ordered", PATIENCE_S)
        first = self.moment()
        partita.wait_reached(PATIENCE_S)
        ended = self.moment()
        after = self.pods()
        status = partita.transitions()[-1]["status"]
        return Stage(
            name,
            int(status["actions"]),
            began,
            first,
            ended,
            seen.get("planned", first).at - began.at,
            first.at - began.at,
            ended.at - began.at,
            (len(pods - after), len(after - pods)),
        )

    def pods(self) -> set[str]:
        """Return the uids of all replicas' pods."""
        return {each["metadata"]["uid"] for each in self.partita.admin.objects("pods", NAMESPACE)}


def memory_mib(pid: int) -> float:
    """Return the most memory that a process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise ProcessLookupError(pid)
    return int(found[1]) / 1024


def workload(count: int, swing: tuple[float, float] = (1.0, 1.0)) -> dict[str, Any]:
    """Return a Workload's spec; its table is in a ConfigMap."""
    return {
        "gpus": [{"model": MODEL}],
        "limits": LIMITS,
        "performance": [{"configMap": {"name": "perf", "key": "perf.csv"}}],
        "services": [
            {
                "name": name,
                "model": model,
                "rate": round(rate * swing[index % 2], 3),
                "slo": {"latency_ms": slo},
            }
            for index, (name, model, rate, slo) in enumerate(services(count, SEED, FACTOR))
        ],
        "pod": {
            "spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [{"name": "server", "image": "registry.example/server:1"}],
            }
        },
    }


class Busiest:
    """Samples how many cores a process keeps busy at most, over ten seconds."""

    def __init__(self, pid: int) -> None:
        self.cores = 0.0
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        used, at = cpu_seconds(self._pid), time.monotonic()
        while not self._stop.wait(10.0):
            now, then = cpu_seconds(self._pid), time.monotonic()
            self.cores = max(self.cores, (now - used) / (then - at))
            used, at = now, then

    def end(self) -> float:
        """Stop; return the most."""
        self._stop.set()
        self._thread.join()
        return self.cores


def run(*, quick: bool) -> str:
    """Return the tables.

    Raises:
        FileNotFoundError: the programs of the control plane are not built.
    """
    programs = needed_programs()
    nodes, count = (20, 20) if quick else (1000, 300)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        plane = ControlPlane(programs, home / "plane", node_seconds=NODE_S)
        try:
            plane.start()
            with (
                SimulatedNodes(plane, Timing(scale=0.1)) as side,
                Installation(plane, NAMESPACE, home) as partita,
            ):
                side.add_nodes(nodes, GPUS, MODEL, seconds=PATIENCE_S)
                perf = {"metadata": {"name": "perf"}, "data": {"perf.csv": TABLE.read_text()}}
                partita.admin.create("configmaps", perf, NAMESPACE)
                controller = partita.start("--start-timeout", "600", "--time-limit", "30")
                scene = Scene(plane, partita, controller)
                busiest = Busiest(controller.pid)
                stages = [
                    scene.change("from nothing", workload(count)),
                    scene.change("replan", workload(count, SWINGS)),
                ]
                cores, memory = busiest.end(), memory_mib(controller.pid)
                still = scene.moment()
                time.sleep(30)
                rest = scene.moment()
                idle = (rest.controller - still.controller) / (rest.at - still.at)
                server = memory_mib(plane.pid("apiserver"))
                refused = [each for each in side.records if each.kind == "refuse"]
        finally:
            plane.stop()
    return report(nodes, count, stages, (memory, cores, idle, server, len(refused)))


def report(nodes: int, count: int, stages: list[Stage], used: tuple[float, float, float, float, int]) -> str:
    """Return the tables' text."""
    memory, cores, idle, server, refused = used
    rows: list[list[object]] = []
    kinds: list[list[object]] = []
    for stage in stages:
        began, first, ended = stage.began, stage.ordered_at, stage.ended
        rows.append(
            [
                stage.name,
                f"{stage.moved[0]} / {stage.moved[1]}",
                stage.actions,
                stage.planned,
                stage.ordered,
                stage.reached,
                first.controller - began.controller,
                ended.controller - began.controller,
                ended.apiserver - began.apiserver,
                ended.others - began.others,
                stage.writes.total() / stage.actions,
            ]
        )
        kinds += [
            [stage.name, kind, number, number / stage.actions]
            for kind, number in sorted(stage.writes.items(), key=lambda each: -each[1])
        ]
    header = [
        "change",
        "replicas stopped / started",
        "actions",
        "planned after, s",
        "ordered after, s",
        "carried out after, s",
        "controller's CPU s until ordered",
        "until carried out",
        "API server's CPU s",
        "etcd's, scheduler's and controller manager's",
        "writes an action",
    ]
    low, high = SWINGS
    return (
        f"## The controller at scale\n\nA real control plane (1.37.2) with {nodes:,} fake nodes of {GPUS} A100-80GB. "
        "Its node side prepares claims and starts pods in a tenth of the measured seconds. One Workload of "
        f"{count} services (those of *Planning at scale*, seed {SEED}, rates times {FACTOR:g}) is executed on "
        f"the empty cluster; then half of the rates are multiplied by {low:g} and half by {high:g}. Writes are "
        "all writes of the controller, status and Plans included, without leases and events. Control plane, "
        "node side, controller and the counting proxy share the machine with other programs, so seconds of CPU "
        "say more than seconds.\n\n"
        + table(header, rows)
        + f"\nThe controller used at most {memory:,.0f} MiB, and {cores:.2f} cores over ten seconds; with "
        f"nothing to do it used {idle:.3f} cores. The API server used at most {server:,.0f} MiB. The node side "
        f"refused {refused} claims.\n\n" + table(["change", "write", "number", "an action"], kinds)
    )
