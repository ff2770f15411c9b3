"""The rules are Prometheus's, and alert when they should: promtool says so."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

from partita.monitoring.rules import ALERTS, BURNS, operator_rules, prometheus_rules

if TYPE_CHECKING:
    from pathlib import Path

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")


def promtool(*words: str) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(prometheus_rules(), sort_keys=False))
    return path


@needs_promtool
def test_prometheus_takes_them(rules: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", str(rules))


def test_all_alerts_have_names_and_say_what_to_do() -> None:
    alerts = [each for group in prometheus_rules()["groups"] for each in group["rules"] if "alert" in each]
    assert len(alerts) == len(BURNS) + sum(map(len, ALERTS.values()))
    for each in alerts:
        assert each["labels"]["severity"] in {"page", "ticket"}
        assert each["annotations"].keys() == {"summary", "description"}
    assert operator_rules()["spec"] == prometheus_rules()
    assert operator_rules()["kind"] == "PrometheusRule"


BEFORE, AFTER = 59, 120
"""Minutes before and after the load changes."""
CHANGE = 60
SEVERITY = {each.long: each.severity for each in BURNS}


class Load(NamedTuple):
    """How many of a hundred queries a minute are missed, and over which windows that alerts: before, and after."""

    objective: float
    missed: tuple[float, float]
    alerts: tuple[set[str], set[str]]


SERVICES = {
    "quiet": Load(0.99, (0, 0), (set(), set())),
    "good": Load(0.99, (0, 0), (set(), set())),
    "within its budget": Load(0.99, (0.8, 0.8), (set(), set())),
    "a little beyond": Load(0.99, (1.2, 1.2), ({"3d"}, {"3d"})),
    "thrice": Load(0.99, (3.5, 3.5), ({"1d", "3d"}, {"1d", "3d"})),
    "seven times": Load(0.99, (7, 7), ({"6h", "1d", "3d"}, {"6h", "1d", "3d"})),
    "suddenly": Load(0.99, (0, 20), (set(), {"1h", "6h", "1d", "3d"})),
    # A tenth may miss, and 14.4 times as many cannot: nearly all of them alert. Over six hours it was half of them.
    "lenient": Load(0.9, (0, 100), (set(), {"1h", "1d", "3d"})),
    "mended": Load(0.99, (20, 0), ({"1h", "6h", "1d", "3d"}, {"1d", "3d"})),
}


def counter(before: float, after: float) -> str:
    """Return a counter's values, a minute each, as promtool writes them."""
    return f"0+{before:g}x{CHANGE} {before * CHANGE + after:g}+{after:g}x{AFTER}"


def input_series(service: str) -> list[dict[str, str]]:
    objective, (before, after), _ = SERVICES[service]
    asked = 0.0 if service == "quiet" else 100.0
    values = {
        "in_time": counter(asked - before, asked - after),
        "late": counter(before, after),
        "failed": counter(0, 0),
        "refused": counter(0, 0),
        # Neither faults of clients nor clients that left burn a budget.
        "invalid": counter(900, 900),
        "cancelled": counter(900, 900),
    }
    counted = [
        {"series": f'partita_requests_total{{service="{service}",outcome="{outcome}"}}', "values": each}
        for outcome, each in values.items()
    ]
    promised = f'partita_slo_objective{{service="{service}"}}'
    return [*counted, {"series": promised, "values": f"{objective}x{2 * AFTER}"}]


def firing(service: str, window: str) -> dict[str, object]:
    labels = {
        "alertname": "PartitaSloBurns",
        "alertstate": "firing",
        "service": service,
        "severity": SEVERITY[window],
        "window": window,
    }
    told = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return {"labels": f"ALERTS{{{told}}}", "value": 1}


@needs_promtool
def test_budgets_alert_when_they_burn(rules: Path, tmp_path: Path) -> None:
    asked = [
        {
            "expr": 'ALERTS{alertname="PartitaSloBurns",alertstate="firing"}',
            "eval_time": f"{minute}m",
            "exp_samples": [
                firing(name, window) for name, each in SERVICES.items() for window in each.alerts[column]
            ],
        }
        for minute, column in ((BEFORE, 0), (AFTER, 1))
    ]
    tests = {
        "interval": "1m",
        "input_series": [line for name in SERVICES for line in input_series(name)],
        "promql_expr_test": asked,
    }
    path = tmp_path / "test.yml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [tests]})
    )
    promtool("test", "rules", str(path))
