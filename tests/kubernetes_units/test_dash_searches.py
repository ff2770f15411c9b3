"""What-ifs and explanations of Workloads, without a cluster: what their keepers know is given."""

from __future__ import annotations

import shlex
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.kubernetes_units.specs import good

from partita.control.metrics import ClusterFacts, ServiceNumbers
from partita.dash.model import PoolWhatIf, ServiceWhatIf, WhatIf
from partita.dash.refusal import RequestFault
from partita.drive.driver import Identity, Observation, ObservedGpu, ObservedInstance
from partita.kubernetes.dash_searches import ControllerSearches
from partita.kubernetes.resources import read_spec
from partita.kubernetes.tables import WorkloadTables
from partita.mig.layout import Placement
from partita.planner import prepare

if TYPE_CHECKING:
    from partita.kubernetes.controller import ClusterController

TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
resnet50,a100-40gb,1g.5gb,8,1,100,20,p99
resnet50,a100-40gb,3g.20gb,8,1,330,15,p99
"""


def keeper(rate: float, gpus: int, *, service: str = "resnet50", held: bool = False, **more: Any) -> Any:
    """Return a keeper of a Workload of one service; its last GPU has somebody's instance, of a Job if it is held."""
    spec = good()
    spec["services"][0] |= {"rate": rate, "name": service}
    spec |= {"performance": [{"csv": TABLE}], **more}
    read = read_spec(spec, "test")
    table, _ = WorkloadTables(cast("Any", None)).read(read)
    place = Placement(0, "3g.20gb")
    other = ObservedInstance(place, Identity("GPU", None, None, "uid"), ours=False)
    found = [
        ObservedGpu(
            f"{service}-0/gpu-{n}", f"GPU-{n}", "a100-40gb", True, False, (other,) if n == gpus - 1 else ()
        )
        for n in range(gpus)
    ]
    facts = ClusterFacts(Observation(tuple(found)), 0.0, {service: ServiceNumbers(required=2 * rate)})
    holds = [(found[-1].id, place)] if held else []
    return SimpleNamespace(
        loaded=SimpleNamespace(spec=read, document=service, prepared=prepare(read, table)),
        facts=facts,
        jobs=SimpleNamespace(holds=lambda: holds),
    )


def asking(**keepers: Any) -> closing[ControllerSearches]:
    found = SimpleNamespace(keepers={("shop", name): each for name, each in keepers.items()}, caches=())
    return closing(ControllerSearches(cast("ClusterController", found)))


def test_it_plans_on_the_gpus_that_are_free_and_says_the_command() -> None:
    with asking(serving=keeper(300, 3)) as searches:
        found = searches.inputs("")
        assert (found.workload, found.workloads) == ("shop/serving", ("shop/serving",))
        assert [each.count for each in found.pools] == [2]  # somebody else has the third
        label = found.pools[0].name
        assert searches.what_if(WhatIf()).plan is not None
        more = searches.what_if(WhatIf(services={"resnet50": ServiceWhatIf(rate=1e6)}))
        assert not more.feasible
        assert more.why is not None
        assert "too few GPUs" in more.why
        enough = WhatIf(services={"resnet50": ServiceWhatIf(rate=2000)}, pools={label: PoolWhatIf(count=9)})
        answer = searches.what_if(enough)
        assert answer.plan is not None
        assert 2 < answer.plan.gpus <= 9
        words = shlex.split(answer.command)
        assert words[:6] == ["kubectl", "partita", "plan", "serving", "--namespace", "shop"]
        assert f"{label}.count=9" in words
        none = searches.what_if(WhatIf(pools={label: PoolWhatIf(count=0)}))
        assert not none.feasible


def test_what_jobs_hold_is_free_for_services_and_without_gpus_nothing_is_feasible() -> None:
    with asking(jobs=keeper(300, 1, held=True), none=keeper(300, 1)) as searches:
        assert [each.count for each in searches.inputs("shop/jobs").pools] == [1]
        assert searches.what_if(WhatIf(workload="shop/jobs")).feasible
        assert [each.count for each in searches.inputs("shop/none").pools] == [0]
        assert not searches.what_if(WhatIf(workload="shop/none")).feasible


def test_one_of_several_is_named_and_measured_rates_count() -> None:
    measured = keeper(300, 2, service="bert", rates={"gateway": {"service": "gateway"}})
    with asking(a=keeper(300, 2), b=measured) as searches:
        assert searches.inputs("").workloads == ("shop/a", "shop/b")
        assert searches.inputs("shop/b").services[0].rate == 600.0
        with pytest.raises(RequestFault, match="several Workloads") as told:
            searches.what_if(WhatIf())
        assert told.value.fault.hint == "name one: shop/a, shop/b"
        first = searches.what_if(WhatIf(workload="shop/a", services={"resnet50": ServiceWhatIf(rate=100)}))
        second = searches.what_if(WhatIf(workload="shop/b", services={"bert": ServiceWhatIf(rate=100)}))
        assert first.plan is not None
        assert second.plan is not None
        with pytest.raises(RequestFault, match="no Workload 'shop/c'"):
            searches.inputs("shop/c")
        with pytest.raises(RequestFault, match="has no Plan yet"):
            searches.explain("bert")
        with pytest.raises(RequestFault, match="no Workload has a service 'bart'"):
            searches.explain("bart")


def test_one_that_is_not_accepted_is_said_to_be_not() -> None:
    refused = SimpleNamespace(loaded=None, facts=None, jobs=None)
    with asking(serving=refused) as searches, pytest.raises(RequestFault, match="not accepted") as told:
        searches.inputs("")
    assert told.value.status == 409
