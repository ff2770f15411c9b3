"""Boards for Grafana, as its dashboards' JSON (schema version 39)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from partita.monitoring.rules import BUDGET, missed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class BoardName(StrEnum):
    """The boards that there are."""

    SERVICES = "services"
    GPUS = "gpus"
    JOBS = "jobs"


class Query(NamedTuple):
    """A query, and the legend of its series."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """A panel: title, queries, unit as Grafana names it, what it says, its kind, and how wide it is, of 24."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    text: str = ""
    kind: str = "timeseries"
    width: int = 12
    stacked: bool = False


class Variable(NamedTuple):
    """A choice at the head of a board: the values that a label has."""

    name: str
    query: str


_SERVICE = '{service=~"$service"}'
_RATE = "[$__rate_interval]"


def _quantile(share: float) -> str:
    inner = f"sum by (service, le) (rate(partita_request_seconds_bucket{_SERVICE}{_RATE}))"
    return f"histogram_quantile({share:g}, {inner})"


def _of_service(name: str) -> str:
    return f"max by (service) ({name}{_SERVICE})"


_OUTCOMES = 'outcome=~"late|failed|refused"'

_SERVICES = (
    Panel(
        "In time, last 5 minutes",
        (Query(f"min by (service) (partita_slo_attainment{_SERVICE})", "{{service}}"),),
        "percentunit",
        "Share of the queries answered within the SLO, at the gateway where it is lowest.",
        "stat",
        8,
    ),
    Panel(
        "Objective",
        (Query(_of_service("partita_slo_objective"), "{{service}}"),),
        "percentunit",
        "The share that the SLO promises.",
        "stat",
        8,
    ),
    Panel(
        "Budget burnt, times what may be",
        (
            Query(
                f"{missed('1h')}{_SERVICE} / on (service) {BUDGET}{_SERVICE}",
                "{{service}}",
            ),
        ),
        "short",
        "Over the last hour; above 1 the SLO is missed if it goes on. It needs the rules of "
        "`partita export prometheus-rules`.",
        "stat",
        8,
    ),
    Panel(
        "Queries in time",
        (
            Query(
                f'sum by (service) (rate(partita_requests_total{{service=~"$service",outcome="in_time"}}{_RATE})) / '
                f'sum by (service) (rate(partita_requests_total{{service=~"$service",'
                f'outcome=~"in_time|late|failed|refused"}}{_RATE}))',
                "{{service}}",
            ),
            Query(_of_service("partita_slo_objective"), "{{service}} objective"),
        ),
        "percentunit",
    ),
    Panel(
        "Missed queries by how",
        (
            Query(
                f'sum by (service, outcome) (rate(partita_requests_total{{service=~"$service",{_OUTCOMES}}}{_RATE}))',
                "{{service}} {{outcome}}",
            ),
        ),
        "reqps",
        stacked=True,
    ),
    Panel(
        "Latency",
        (
            Query(_quantile(0.5), "{{service}} p50"),
            Query(_quantile(0.99), "{{service}} p99"),
            Query(_of_service("partita_slo_seconds"), "{{service}} SLO"),
        ),
        "s",
        "From arrival to answer, at the gateway.",
    ),
    Panel(
        "Rate and capacity",
        (
            Query(
                f"sum by (service) (rate(partita_offered_items_total{_SERVICE}{_RATE}))",
                "{{service}} offered",
            ),
            Query(_of_service("partita_required_rate"), "{{service}} required"),
            Query(_of_service("partita_ready_capacity"), "{{service}} ready"),
            Query(_of_service("partita_planned_capacity"), "{{service}} planned"),
            Query(_of_service("partita_capacity_floor"), "{{service}} floor"),
        ),
        "short",
        "Items/s.",
    ),
    Panel(
        "Queries that wait and that run",
        (
            Query(f"sum by (service) (partita_queue_length{_SERVICE})", "{{service}} waiting"),
            Query(f"sum by (service) (partita_in_flight{_SERVICE})", "{{service}} running"),
        ),
    ),
    Panel(
        "Refusals by reason",
        (
            Query(
                f"sum by (service, reason) (rate(partita_refused_total{_SERVICE}{_RATE}))",
                "{{service}} {{reason}}",
            ),
        ),
        "reqps",
        stacked=True,
    ),
    Panel(
        "Work by profile",
        (
            Query(
                f"sum by (service, GPU_I_PROFILE) (rate(partita_busy_seconds_total{_SERVICE}{_RATE}))",
                "{{service}} {{GPU_I_PROFILE}}",
            ),
        ),
        "short",
        "Busy instances. It goes on when GPUs are cut anew.",
        stacked=True,
    ),
    Panel(
        "Mean batch",
        (
            Query(
                f"sum by (service) (rate(partita_items_total{_SERVICE}{_RATE})) / "
                f"sum by (service) (rate(partita_batches_total{_SERVICE}{_RATE}))",
                "{{service}}",
            ),
        ),
    ),
    Panel(
        "Errors that clients got",
        (
            Query(
                f"sum by (transport, status, reason) (rate(partita_errors_total{_RATE})) > 0",
                "{{transport}} {{status}} {{reason}}",
            ),
        ),
        "reqps",
        stacked=True,
    ),
    Panel(
        "Routing decisions, p99",
        (
            Query(
                f"histogram_quantile(0.99, sum by (service, le) "
                f"(rate(partita_decision_seconds_bucket{_SERVICE}{_RATE})))",
                "{{service}}",
            ),
        ),
        "s",
    ),
)

_ON = "on (UUID, GPU_I_ID) group_left ()"


def _dcgm(name: str) -> str:
    """Return a metric of DCGM's exporter by instance, once each, whatever pods it also names."""
    return f'max by (UUID, GPU_I_ID) ({name}{{GPU_I_ID!=""}})'


def _by_service(name: str) -> str:
    """Return a metric of DCGM's exporter with the services of each instance.

    On Kubernetes only the workers know the ids of their instances, and tell them to their gateways.
    """
    known = (
        'partita_instance_info{service!="",GPU_I_ID!=""} or partita_instance_running{GPU_I_ID!=""} * 0 + 1'
    )
    return f"max by (UUID, GPU_I_ID, service) ({known}) * {_ON} {_dcgm(name)}"


_GPUS = (
    Panel(
        "GPUs",
        (Query('sum by (state) (partita_gpus{model=~"$model"})', "{{state}}"),),
        "short",
        kind="stat",
        width=8,
    ),
    Panel(
        "Fragmentation",
        (Query("max(partita_fragmentation)", "of free memory"),),
        "percentunit",
        "Share of the free memory slices that the largest instance that fits on each GPU does not use.",
        "stat",
        8,
    ),
    Panel(
        "Transition",
        (
            Query("max by (state) (partita_transition) == 1", "{{state}}"),
            Query("max(partita_transition_actions_done)", "actions done"),
            Query("max(partita_transition_actions)", "actions"),
        ),
        "short",
        "State and actions of the newest one.",
        "stat",
        8,
    ),
    Panel(
        "GPUs by state",
        (Query('sum by (state) (partita_gpus{model=~"$model"})', "{{state}}"),),
        "short",
        stacked=True,
    ),
    Panel(
        "Instances by what they do",
        (Query("sum by (state) (partita_instances)", "{{state}}"),),
        "short",
        stacked=True,
    ),
    Panel(
        "Held and working",
        (
            Query("avg(max by (UUID) (partita_gpu_held))", "held"),
            Query(
                f'sum(max by (UUID, GPU_I_ID) (partita_instance_share{{GPU_I_ID!=""}}) '
                f"* {_ON} {_dcgm('DCGM_FI_PROF_GR_ENGINE_ACTIVE')}) / count(max by (UUID) (partita_gpu_held))",
                "working, by DCGM",
            ),
        ),
        "percentunit",
        "Held: compute slices whose instances have work. Working: what their engines do, as NVIDIA's DCGM exporter "
        "says it.",
    ),
    Panel(
        "Engines by service",
        (
            Query(
                f"avg by (service) ({_by_service('DCGM_FI_PROF_GR_ENGINE_ACTIVE')})",
                "{{service}}",
            ),
        ),
        "percentunit",
        "DCGM's activity of the instances of each service.",
    ),
    Panel(
        "Memory in use by service",
        (
            Query(
                f"sum by (service) ({_by_service('DCGM_FI_DEV_FB_USED')})",
                "{{service}}",
            ),
        ),
        "mbytes",
        "DCGM's memory of the instances of each service.",
    ),
    Panel(
        "Utilisation of instances",
        (
            Query(
                f"sum by (gpu_instance) (rate(partita_instance_busy_seconds_total{_RATE}))",
                "{{gpu_instance}}",
            ),
        ),
        "percentunit",
        "Share of the time for which workers run batches, as the gateway sees it.",
    ),
    Panel(
        "Fragmented GPUs",
        (Query("topk(20, max by (gpu) (partita_gpu_fragmentation)) > 0", "{{gpu}}"),),
        "percentunit",
        kind="table",
    ),
    Panel(
        "Transition over time",
        (
            Query("max(partita_transition_actions)", "actions"),
            Query("max(partita_transition_actions_done)", "done"),
        ),
    ),
    Panel(
        "Versions",
        (Query("count by (version) (partita_build_info)", "{{version}}"),),
        kind="table",
    ),
)

_JOBS = (
    Panel("Jobs", (Query("sum by (state) (partita_jobs)", "{{state}}"),), kind="stat"),
    Panel(
        "Longest wait",
        (Query("max(partita_jobs_longest_wait_seconds)", "oldest waiting job"),),
        "s",
        kind="stat",
    ),
    Panel("Jobs by state", (Query("sum by (state) (partita_jobs)", "{{state}}"),), stacked=True),
    Panel(
        "Jobs that ended",
        (Query("sum by (state) (increase(partita_jobs_ended_total[1h]))", "{{state}}"),),
        text="In the hour before.",
        stacked=True,
    ),
    Panel(
        "Attempts by how they ended",
        (Query("sum by (verdict) (increase(partita_job_attempts_total[1h]))", "{{verdict}}"),),
        text="Of jobs that ended in the hour before.",
        stacked=True,
    ),
    Panel(
        "Power by consumer",
        (
            Query(
                f"sum by (kind, name) (rate(partita_energy_joules_total{_RATE}))",
                "{{kind}} {{name}}",
            ),
        ),
        "watt",
        "Idle instances are a row of their own: unallocated.",
        stacked=True,
    ),
    Panel(
        "Power of the GPUs",
        (
            Query(f"sum(rate(partita_gpu_energy_joules_total{_RATE}))", "counted"),
            Query("sum(max by (UUID) (DCGM_FI_DEV_POWER_USAGE))", "DCGM"),
        ),
        "watt",
        "DCGM repeats a GPU's power for each of its instances; it is counted once.",
    ),
    Panel(
        "Energy not measured",
        (
            Query(
                f"sum by (kind, name) (rate(partita_energy_missing_seconds_total{_RATE})) > 0",
                "{{kind}} {{name}}",
            ),
        ),
        "short",
        "Instances whose counter could not be read.",
    ),
    Panel(
        "Energy in the range shown",
        (
            Query(
                "sum by (kind, name, part) (increase(partita_energy_joules_total[$__range])) / 3.6e6",
                "{{kind}} {{name}} {{part}}",
            ),
        ),
        "kwatth",
        kind="table",
        width=24,
    ),
)

BOARDS: dict[BoardName, tuple[str, tuple[Variable, ...], tuple[Panel, ...]]] = {
    BoardName.SERVICES: (
        "Partita: services",
        (Variable("service", "label_values(partita_requests_total, service)"),),
        _SERVICES,
    ),
    BoardName.GPUS: ("Partita: GPUs", (Variable("model", "label_values(partita_gpus, model)"),), _GPUS),
    BoardName.JOBS: ("Partita: jobs and energy", (), _JOBS),
}
"""Title, variables and panels of each board."""

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_HEIGHT, _STAT_HEIGHT, _WIDTH = 8, 5, 24


def grafana_board(name: BoardName) -> dict[str, Any]:
    """Return a board for Grafana's import or provisioning; it asks which Prometheus to read."""
    title, variables, panels = BOARDS[name]
    chosen = [
        {"name": "datasource", "type": "datasource", "label": "Prometheus", "query": "prometheus"},
        *(_variable(each) for each in variables),
    ]
    return {
        "uid": f"partita-{name}",
        "title": title,
        "tags": ["partita"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": chosen},
        "links": [
            {
                "title": "Partita",
                "type": "dashboards",
                "tags": ["partita"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
                "icon": "external link",
                "tooltip": "",
                "url": "",
                "targetBlank": False,
            }
        ],
        "panels": list(_placed(panels)),
    }


def _variable(each: Variable) -> dict[str, Any]:
    return {
        "name": each.name,
        "type": "query",
        "label": each.name.capitalize(),
        "datasource": _SOURCE,
        "query": each.query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "sort": 1,
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    x = y = height = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > _WIDTH:
            x, y, height = 0, y + height, 0
        tall = _STAT_HEIGHT if panel.kind == "stat" else _HEIGHT
        yield _panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": tall})
        x, height = x + panel.width, max(height, tall)


def _panel(number: int, panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind in {"table", "stat"}
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "expr": each.expression,
            "legendFormat": each.legend,
            "instant": instant,
            "range": not instant,
        }
        for index, each in enumerate(panel.queries)
    ]
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": at,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
    }
    if panel.text:
        made["description"] = panel.text
    if panel.kind == "timeseries":
        stacking = {"group": "A", "mode": "normal" if panel.stacked else "none"}
        made["fieldConfig"]["defaults"]["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": stacking,
        }
        made["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        made["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "none",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
        }
    return made
