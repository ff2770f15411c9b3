"""Recording and alerting rules for Prometheus.

SLOs alert on the rate at which their budget of missed queries burns, over a long and a short window each: the first
says that it matters, the second that it goes on (Google, The Site Reliability Workbook, chapter 5, "Multiwindow,
Multi-Burn-Rate Alerts").
"""

from __future__ import annotations

from typing import Any, NamedTuple

PAGE, TICKET = "page", "ticket"
_MISSED, _JUDGED = "late|failed|refused", "in_time|late|failed|refused"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
_MOST = 0.9
"""A burn of so many missed queries always alerts: a budget of 10 % cannot burn 14.4 times as fast."""


class Burn(NamedTuple):
    """How fast a budget may burn: this many times as fast as lasts for 30 days, over both windows."""

    factor: float
    long: str
    short: str
    severity: str


BURNS = (
    Burn(14.4, "1h", "5m", PAGE),
    Burn(6.0, "6h", "30m", PAGE),
    Burn(3.0, "1d", "2h", TICKET),
    Burn(1.0, "3d", "6h", TICKET),
)
"""The workbook's, table 5-6: 2, 5, 10 and 10 % of the budget of 30 days."""


class Alert(NamedTuple):
    """An alert: when it holds, for how long, and what it says of one of its series."""

    name: str
    expression: str
    lasting: str
    severity: str
    summary: str
    description: str


_PER_SERVICE = "max by (service)"

ALERTS: dict[str, tuple[Alert, ...]] = {
    "partita-services": (
        Alert(
            "PartitaServiceBelowFloor",
            f"{_PER_SERVICE} (partita_ready_capacity) < 0.999 * {_PER_SERVICE} (partita_capacity_floor)",
            "2m",
            PAGE,
            "{{ $labels.service }} is below its floor",
            "Its replicas answer {{ $value | humanize }} items/s, less than is promised now.",
        ),
        Alert(
            "PartitaServiceBelowRate",
            f"{_PER_SERVICE} (partita_ready_capacity) < 0.999 * {_PER_SERVICE} (partita_required_rate)",
            "15m",
            TICKET,
            "{{ $labels.service }} has less capacity than its rate",
            "Its replicas answer {{ $value | humanize }} items/s. GPUs are missing, or a transition stands still.",
        ),
        Alert(
            "PartitaServiceRefusesQueries",
            'sum by (service) (rate(partita_refused_total{reason=~"no_worker|worker_lost"}[5m])) > 0',
            "5m",
            PAGE,
            "{{ $labels.service }} has no worker for some queries",
            "{{ $value | humanize }} queries/s are refused, since no worker takes them.",
        ),
        Alert(
            "PartitaWorkersHang",
            "sum by (service) (increase(partita_workers_hung_total[1h])) > 0",
            "0m",
            TICKET,
            "Workers of {{ $labels.service }} hung",
            "{{ $value | humanize }} workers were killed in the last hour, since they gave no sign of life.",
        ),
        Alert(
            "PartitaInstanceSuspected",
            'max by (service, gpu_instance) (partita_instance_state{state="suspected"}) == 1',
            "5m",
            TICKET,
            "A worker of {{ $labels.service }} cannot answer",
            "It is on {{ $labels.gpu_instance }}, and gets no queries.",
        ),
        Alert(
            "PartitaInstanceSlow",
            "max by (service, gpu_instance) (partita_instance_slowdown) > 1.5",
            "15m",
            TICKET,
            "A worker of {{ $labels.service }} is slow",
            "On {{ $labels.gpu_instance }} batches take {{ $value | humanize }} times as long as elsewhere.",
        ),
        Alert(
            "PartitaGatewayFaults",
            'sum by (transport) (increase(partita_errors_total{reason="internal"}[15m])) > 0',
            "0m",
            TICKET,
            "The gateway has a fault",
            "{{ $value | humanize }} requests over {{ $labels.transport }} met it. The gateway's log says more.",
        ),
    ),
    "partita-gpus": (
        Alert(
            "PartitaGpuLost",
            'sum by (model) (partita_gpus{state="lost"}) > 0',
            "5m",
            PAGE,
            "{{ $value }} GPUs of model {{ $labels.model }} are lost",
            "They fell off the bus, or do not answer. `partita status` names them.",
        ),
        Alert(
            "PartitaTransitionStopped",
            'max without (state) (partita_transition{state="stopped"}) == 1',
            "5m",
            TICKET,
            "A transition stopped before its end",
            "What runs is safe, but is not what is wanted. `partita status` says why.",
        ),
        Alert(
            "PartitaTransitionTakesLong",
            'max without (state) (partita_transition{state="running"}) == 1',
            "2h",
            TICKET,
            "A transition has been under way for two hours",
            "`partita status` says what it waits for.",
        ),
        Alert(
            "PartitaDoesNotLook",
            "time() - partita_observed_timestamp_seconds > 600",
            "5m",
            PAGE,
            "GPUs have not been observed for {{ $value | humanizeDuration }}",
            "Nobody repairs what breaks: see the log of `partita run`, or of the controller.",
        ),
        Alert(
            "PartitaNobodyLeads",
            "sum(partita_controller_leads) == 0",
            "2m",
            PAGE,
            "No controller leads",
            "No Workload is planned or repaired: see the logs of the controllers.",
        ),
        Alert(
            "PartitaWorkloadNotServed",
            'max by (workload_namespace, workload, state) (partita_workload{state=~"Refused|Degraded"}) == 1',
            "15m",
            TICKET,
            "Workload {{ $labels.workload_namespace }}/{{ $labels.workload }} is {{ $labels.state }}",
            "`kubectl describe workload {{ $labels.workload }}` says why.",
        ),
    ),
    "partita-jobs": (
        Alert(
            "PartitaJobsWait",
            "max(partita_jobs_longest_wait_seconds) > 86400",
            "5m",
            TICKET,
            "A job has waited for {{ $value | humanizeDuration }}",
            "`partita queue` says why it does not start.",
        ),
        Alert(
            "PartitaJobsRunOutOfMemory",
            'sum(increase(partita_job_attempts_total{verdict="out of memory"}[1h])) > 5',
            "0m",
            TICKET,
            "{{ $value | humanize }} attempts of jobs ran out of memory in the last hour",
            "They are started again on larger slices; `partita history` names the jobs.",
        ),
        Alert(
            "PartitaEnergyNotMeasured",
            "max by (gpu) (partita_gpu_energy_counter_up) == 0",
            "1h",
            TICKET,
            "The energy of {{ $labels.gpu }} is not measured",
            "Its counter cannot be read; what it takes is in no sum.",
        ),
    ),
}


def missed(window: str) -> str:
    """Return the name of the recorded share of missed queries over a window."""
    return f"partita:slo_missed:ratio_rate{window}"


BUDGET = "partita:slo_budget:ratio"
"""Name of the recorded share of the queries that may be missed."""


def prometheus_rules() -> dict[str, Any]:
    """Return all rules, as Prometheus reads them from a file."""
    recorded = [
        {
            "record": BUDGET,
            "expr": f"1 - {_PER_SERVICE} (partita_slo_objective)",
        },
        *({"record": missed(window), "expr": _missed(window)} for window in WINDOWS),
    ]
    burns = [
        _rule(
            Alert(
                "PartitaSloBurns",
                f"{_burning(each, each.long)} and {_burning(each, each.short)}",
                "2m" if each.severity == PAGE else "15m",
                each.severity,
                "{{ $labels.service }} misses its SLO",
                f"Over {each.long}, {{{{ $value | humanizePercentage }}}} of its queries were late, failed or "
                f"refused. Its budget burns {each.factor:g} times as fast as it may, or faster.",
            ),
            window=each.long,
        )
        for each in BURNS
    ]
    groups = [{"name": "partita-slo", "rules": [*recorded, *burns]}]
    groups += [{"name": name, "rules": [_rule(each) for each in alerts]} for name, alerts in ALERTS.items()]
    return {"groups": groups}


def operator_rules() -> dict[str, Any]:
    """Return the same as the resource that the Prometheus Operator reads."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "partita", "labels": {"app.kubernetes.io/name": "partita"}},
        "spec": prometheus_rules(),
    }


def _missed(window: str) -> str:
    def rate(outcomes: str) -> str:
        return f'sum by (service) (rate(partita_requests_total{{outcome=~"{outcomes}"}}[{window}]))'

    return f"{rate(_MISSED)} / {rate(_JUDGED)}"


def _burning(burn: Burn, window: str) -> str:
    return f"{missed(window)} > on (service) clamp_max({burn.factor:g} * {BUDGET}, {_MOST:g})"


def _rule(alert: Alert, **labels: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": alert.expression}
    if alert.lasting != "0m":
        rule["for"] = alert.lasting
    return {
        **rule,
        "labels": {"severity": alert.severity, **labels},
        "annotations": {"summary": alert.summary, "description": alert.description},
    }
