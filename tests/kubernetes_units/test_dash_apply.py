"""Changes of Workloads that are applied by the API: what the spec says then, and what would not be planned."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kubernetes_units.specs import good

from partita.dash.model import PoolWhatIf, ServiceWhatIf, WorkloadChange
from partita.dash.refusal import RequestFault
from partita.kubernetes.dash_apply import changed_spec
from partita.kubernetes.resources import read_spec

GATEWAY = {"rates": {"gateway": {"service": "partita-gateway"}}}


def service(**fields: Any) -> WorkloadChange:
    return WorkloadChange(services={"resnet50": ServiceWhatIf(**fields)})


def test_a_change_is_in_the_spec_and_nothing_else_is() -> None:
    before = good()
    made = changed_spec(before, service(rate=700.0, quantile=0.9))
    assert before == good()
    assert read_spec(made, "w").services[0].rate == 700.0
    assert read_spec(made, "w").services[0].slo.quantile == 0.9
    made["services"][0]["rate"] = before["services"][0]["rate"]
    del made["services"][0]["slo"]["quantile"]
    assert made == before
    priced = changed_spec(before, WorkloadChange(pools={"a100-40gb": PoolWhatIf(price=3.0)}))
    assert priced["gpus"] == [{**before["gpus"][0], "cost_per_hour": 3.0}]
    measured = changed_spec(good() | GATEWAY, service(latency_ms=50.0))
    assert measured["services"][0]["slo"]["latency_ms"] == 50.0


@pytest.mark.parametrize(
    ("more", "change", "status", "where"),
    [
        ({}, WorkloadChange(), 422, "change"),
        ({}, service(rate=0.0), 422, "change.services.resnet50.rate"),
        ({}, WorkloadChange(services={"resnet5": ServiceWhatIf(rate=1.0)}), 422, "change.services"),
        ({}, WorkloadChange(pools={"a100": PoolWhatIf(price=1.0)}), 422, "change.pools"),
        ({}, WorkloadChange(pools={"a100-40gb": PoolWhatIf(count=1)}), 409, "change.pools.a100-40gb.count"),
        (GATEWAY, service(rate=9.0), 409, "change.services.resnet50.rate"),
    ],
)
def test_what_the_controller_would_not_plan_is_refused(
    more: dict[str, Any], change: WorkloadChange, status: int, where: str
) -> None:
    with pytest.raises(RequestFault) as found:
        changed_spec(good() | more, change)
    assert (found.value.status, found.value.fault.where) == (status, where)
    assert found.value.fault.hint
