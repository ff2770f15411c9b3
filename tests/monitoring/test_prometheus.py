"""A real Prometheus reads a gateway, a cluster, a queue and DCGM's exporter; every query finds series."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.cli.test_serve import TABLE, WORKLOAD, serve
from tests.process.ports import free_ports

from partita.control.journal import State
from partita.control.metrics import ClusterFacts, Promise, ServiceNumbers, cluster_metrics
from partita.drive.driver import Identity, Observation, ObservedGpu, ObservedInstance, ObservedReplica
from partita.jobs.energy import (
    Counter,
    Energy,
    EnergyLedger,
    EnergyOwner,
    LedgerEntry,
    OwnerKind,
    energy_metrics,
)
from partita.jobs.queue.job_store import JobStore
from partita.jobs.queue.metrics import queue_metrics
from partita.jobs.queue.table import JobTable
from partita.metrics import MetricsPage, ServedPages, serving_pages
from partita.mig.layout import Placement
from partita.monitoring.boards import BOARDS
from partita.monitoring.rules import BUDGET, prometheus_rules
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.test_serve import Served

PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed (Debian: prometheus)")
PATIENCE_S = 60.0
INSTANCES = {1: ("3g.40gb@4", ("search", "mail")), 2: ("1g.10gb@0", ("search",)), 7: ("1g.10gb@2", ())}
UUID = "GPU-5fd4f087-86f3-7a43-b711-4771313afc50"


def replica(names: tuple[str, ...]) -> ObservedReplica | None:
    return ObservedReplica(Replica(names[0], "net", 8, 1, 100.0, 5.0), ready=True) if names else None


def cluster() -> ClusterFacts:
    instances = tuple(
        ObservedInstance(
            Placement.parse(text),
            Identity(UUID, number, 0, f"MIG-{number}"),
            ours=True,
            replica=replica(names),
        )
        for number, (text, names) in INSTANCES.items()
    )
    gpu = ObservedGpu("node-0/gpu-0", UUID, "a100-80gb", mig=True, lost=False, instances=instances)
    numbers = {"search": ServiceNumbers(90.0, 200.0, 200.0, 90.0)}
    promises = {"search": Promise(0.1, 0.95)}
    return ClusterFacts(Observation((gpu,)), time.time(), numbers, promises, State.RUNNING, 3, 8, 0, 60.0)


def dcgm() -> str:
    """Return a page as NVIDIA's DCGM exporter 4 writes it: one series for the GPU, and one for each instance."""
    whole = (
        f'gpu="0",UUID="{UUID}",pci_bus_id="00000000:07:00.0",device="nvidia0",modelName="A100",Hostname="n0"'
    )
    lines = []
    for name, values in (
        ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", {1: 0.5, 2: 0.25, 7: 0.0}),
        ("DCGM_FI_DEV_FB_USED", {1: 3000, 2: 2000, 7: 1}),
        ("DCGM_FI_DEV_POWER_USAGE", dict.fromkeys(INSTANCES, 250.0)),
    ):
        lines += [f"# HELP {name} of DCGM", f"# TYPE {name} gauge"]
        for number, value in values.items():
            profile = INSTANCES[number][0].partition("@")[0]
            lines.append(f'{name}{{{whole},GPU_I_PROFILE="{profile}",GPU_I_ID="{number}"}} {value}')
    return "\n".join(lines) + "\n"


OF_A_POD = """# TYPE partita_instance_running gauge
partita_instance_running{service="pod",UUID="GPU-9",GPU_I_ID="3",gpu_instance="n9/gpu-0/1g.10gb@6"} 2
# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge
DCGM_FI_PROF_GR_ENGINE_ACTIVE{UUID="GPU-9",GPU_I_ID="3",pod="a",container="b"} 0.9
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{UUID="GPU-9",GPU_I_ID="3",pod="a",container="b"} 700
"""
"""What a gateway on Kubernetes and DCGM say of an instance whose id the controller does not know."""


@contextmanager
def served_text(text: str) -> Iterator[int]:
    with serving_pages(
        ServedPages(lambda _: (text.encode(), "text/plain; version=0.0.4")), "127.0.0.1", 0
    ) as port:
        yield port


@contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[str]:
    """Run Prometheus on targets by job until the block ends; yield its address."""
    (port,) = free_ports(1)
    (folder / "rules.yml").write_text(yaml.safe_dump(prometheus_rules()))
    config = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [target]}]} for name, target in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    assert PROMETHEUS is not None
    words = (
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with (folder / "log").open("w") as log, subprocess.Popen([PROMETHEUS, *words], stderr=log) as process:
        try:
            end = time.monotonic() + PATIENCE_S
            while not is_ready(f"http://127.0.0.1:{port}/-/ready"):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def is_ready(url: str) -> bool:
    try:
        urllib.request.urlopen(url).close()  # noqa: S310 -- our own
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
    return True


def got(url: str, **fields: str) -> Any:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(fields)}") as answer:  # noqa: S310 -- our own
        found = json.load(answer)
    assert found["status"] == "success"
    return found["data"]


def ask(served: Served) -> None:
    """Send queries, of which some are late and some at fault."""
    body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 16], "data": [0.0] * 16}]}
    for deadline, sent in (("10000", body), ("10000", body), ("0.001", body), ("10000", {"inputs": []})):
        request = urllib.request.Request(
            f"http://{served.http}/v2/models/search/infer",
            json.dumps(sent).encode(),
            {"partita-deadline-ms": deadline},
        )
        try:
            urllib.request.urlopen(request).close()  # noqa: S310 -- our own
        except urllib.error.HTTPError as error:
            error.close()


MAY_BE_EMPTY = ("jobs: Energy not measured: {{kind}} {{name}}",)  # it is measured
SELECTOR = re.compile(r"partita[_:][a-zA-Z0-9_:]+(?:\{[^}]*\})?")
OF_THE_CONTROLLER = ("partita_controller_leads", "partita_workload")
"""Metrics that a controller on Kubernetes has, of which there is none here."""


def queries() -> dict[str, str]:
    """Return all queries of boards and recording rules; of alerts, which do not hold here, what they look at."""
    found: dict[str, str] = {}
    for name, (_, _, panels) in BOARDS.items():
        for panel in panels:
            for query in panel.queries:
                found[f"{name}: {panel.title}: {query.legend}"] = query.expression
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = rule["expr"]
        else:
            found |= {each: each for each in SELECTOR.findall(rule["expr"])}
    filled = {"$service": ".*", "$model": ".*", "$__rate_interval": "10s", "$__range": "1m"}
    return {
        name: _filled(each, filled)
        for name, each in found.items()
        if not name.startswith(OF_THE_CONTROLLER) and name not in MAY_BE_EMPTY
    }


def rules() -> Iterator[dict[str, Any]]:
    for group in prometheus_rules()["groups"]:
        yield from group["rules"]


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def test_every_query_finds_series_and_no_label_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "perf.csv").write_text(TABLE)
    workload = tmp_path / "workload.yaml"
    workload.write_text(WORKLOAD)
    ledger = EnergyLedger(tmp_path / "energy.sqlite3")
    owner = EnergyOwner(OwnerKind.SERVICE, "search", 0)
    table = JobTable(JobStore(tmp_path / "jobs.sqlite3"), lambda _: None, now=0.0)
    joules = 0.0

    def energy() -> Any:
        nonlocal joules
        joules += 100.0
        counter = Counter("node-0/gpu-0", UUID, time.time(), joules, None, 50.0)
        ledger.add(time.time(), [counter], [LedgerEntry("node-0/gpu-0", owner, Energy(10.0, 90.0, 1.0, 0.0))])
        return energy_metrics(ledger)

    page = MetricsPage(
        lambda: cluster_metrics([({}, cluster())]), energy, lambda: queue_metrics(table, time.time())
    )
    with ExitStack() as stack:
        served = stack.enter_context(serve(workload))
        served.event("ready")
        host = stack.enter_context(serving_pages(ServedPages(page.read), "127.0.0.1", 0))
        other = stack.enter_context(served_text(dcgm()))
        pod = stack.enter_context(served_text(OF_A_POD))
        targets = {"gateway": served.http, "host": f"127.0.0.1:{host}"}
        targets |= {"dcgm": f"127.0.0.1:{other}", "pod": f"127.0.0.1:{pod}"}
        url = stack.enter_context(prometheus(tmp_path, targets))
        end, empty = time.monotonic() + PATIENCE_S, queries()
        while empty:
            assert time.monotonic() < end, (empty, (tmp_path / "log").read_text())
            ask(served)
            answers = {name: got(f"{url}/api/v1/query", query=each)["result"] for name, each in empty.items()}
            empty = {name: each for name, each in empty.items() if not answers[name]}
            time.sleep(0.2)
        for rule in rules():
            got(f"{url}/api/v1/query", query=rule["expr"])

        def value(query: str) -> dict[str, float]:
            found = got(f"{url}/api/v1/query", query=query)["result"]
            return {",".join(sorted(each["metric"].values())): float(each["value"][1]) for each in found}

        assert set(value("up").values()) == {1.0}
        labels = set(got(f"{url}/api/v1/labels"))
        assert not {each for each in labels if each.startswith("exported_")}
        assert {"UUID", "GPU_I_ID", "GPU_I_PROFILE", "service"} <= labels
        # What DCGM says of an instance is told of each service on it, and of the instance without any of none.
        boards = {panel.title: panel for _, _, panels in BOARDS.values() for panel in panels}
        assert value(boards["Engines by service"].queries[0].expression) == {"search": 0.375, "pod": 0.9}
        assert value(boards["Memory in use by service"].queries[0].expression) == {
            "search": 5000.0,
            "pod": 700.0,
        }
        held, working = (value(each.expression) for each in boards["Held and working"].queries)
        assert held == {"": pytest.approx(4 / 7)}
        assert working == {"": pytest.approx((0.5 * 3 + 0.25) / 7)}
        assert value(boards["Power of the GPUs"].queries[1].expression) == {"": 250.0}
        # The gateway counts what was asked.
        assert 0 < value('min(partita_slo_attainment{service="search"})')[""] < 1
        assert value(f"{BUDGET}") == {"partita:slo_budget:ratio,search": pytest.approx(0.05)}
    table.store.close()
    ledger.close()
