"""Specs of Workloads: a right one, and wrong ones with what the reader and the API server say of each."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

Spec = dict[str, Any]
POD: Spec = {"spec": {"containers": [{"name": "server", "image": "registry.example/server:1"}]}}
TABLE = """model,gpu,profile,batch,processes,throughput,latency_ms,quantile
resnet50,a100-40gb,1g.5gb,8,1,100,20,p99
resnet50,a100-40gb,2g.10gb,8,1,210,18,p99
resnet50,a100-40gb,3g.20gb,8,1,330,15,p99
resnet50,a100-40gb,7g.40gb,8,1,760,9,p99
"""


def good() -> Spec:
    """Return a spec that is right."""
    return copy.deepcopy(
        {
            "gpus": [{"model": "a100-40gb"}],
            "services": [{"name": "resnet50", "model": "resnet50", "rate": 300, "slo": {"latency_ms": 100}}],
            "performance": [{"csv": TABLE}],
            "pod": POD,
        }
    )


def _with(**fields: Any) -> Callable[[Spec], Spec]:
    return lambda spec: {**spec, **fields}


def _without(name: str) -> Callable[[Spec], Spec]:
    return lambda spec: {key: each for key, each in spec.items() if key != name}


def _service(**fields: Any) -> Callable[[Spec], Spec]:
    return lambda spec: {**spec, "services": [{**spec["services"][0], **fields}]}


def _twice(spec: Spec) -> Spec:
    return {**spec, "services": spec["services"] * 2}


POOL = {"model": "a100-40gb"}
CUT = {"cut": "search", "batches": {"median": 8}}
BAD = [  # what is changed, what the reader says, what the API server says (None: it takes it)
    pytest.param(_without("services"), "services is missing", "spec.services: Required value", id="no-services"),
    pytest.param(_with(services=[]), "must be a list, not empty", "should have at least 1 items", id="none"),
    pytest.param(_service(rate=0), "services.0..rate: must be above 0", "should be greater than 0", id="rate"),
    pytest.param(_service(name="Big_Name"), "must be text of the form", "should match", id="name"),
    pytest.param(_twice, "'resnet50' is there already", "Duplicate value", id="twice"),
    pytest.param(_service(survive="node"), "no loss is sure to be survived", None, id="survive"),
    pytest.param(_with(limits={"survive": "gpu"}), "no loss is sure to be survived", None, id="survive-all"),
    pytest.param(_with(gpus=[POOL | {"zone": "a"}]), "no loss is sure to be survived", None, id="zone"),
    pytest.param(
        _with(gpus=[POOL | {"count": 8, "nodes_per_rack": 2}]), "no loss is sure to be survived", None, id="rack"
    ),
    pytest.param(_with(gpus=[POOL | {"spot": True}]), "no loss is sure to be survived", None, id="spot"),
    pytest.param(_service(share=True), "each pod has one for itself; leave it out", None, id="share"),
    pytest.param(_with(limits={"share_below": 0.5}), "each pod has one for itself", None, id="share-below"),
    pytest.param(_service(cut="search"), "a cut needs batches; for", "a cut needs batches; for", id="cut"),
    pytest.param(
        _service(batches={"median": 8}),
        "batches without a cut have no meaning; write cut: search",
        "batches without a cut have no meaning; write cut: search",
        id="batches",
    ),
    pytest.param(
        _service(cut="search", batches={"max": 8}),
        "need a median or a histogram; for example",
        "need a median or a histogram; for example",
        id="median",
    ),
    pytest.param(
        _service(cut="search", batches={"median": 8, "histogram": {"1": 1}}),
        "median: is for log-normal batch sizes, not beside a histogram; keep one",
        "is for log-normal batch sizes, not beside a histogram; keep one",
        id="both",
    ),
    pytest.param(
        _service(cut="search", batches={"histogram": {"1": 0}}), "all shares are 0", "all shares are 0", id="zeros"
    ),
    pytest.param(
        _service(cut="search", batches={"histogram": {"x": 1}}),
        "histogram.x: must be a whole number",
        "batch sizes must be whole numbers",
        id="sizes",
    ),
    pytest.param(
        _with(gpus=[POOL, POOL]), "is there already; give each pool a name", "give each pool a name", id="pools"
    ),
    pytest.param(
        _with(objective="cost"), "objective cost needs cost_per_hour", "objective cost needs cost_per_hour", id="cost"
    ),
    pytest.param(
        lambda spec: {**_service(**CUT)(spec), "objective": "watts"},
        "objective watts is not for services with a cut",
        "objective watts is not for services with a cut",
        id="watts",
    ),
    pytest.param(
        _without("performance"),
        "no performance table and no models; name",
        "no performance table and no models; name",
        id="tables",
    ),
    pytest.param(
        _with(performance=[{"csv": "a", "configMap": {"name": "b"}}]),
        "a table is either configMap or csv; for",
        "a table is either configMap or csv; for",
        id="table",
    ),
    pytest.param(
        _with(rates={}), "rates come either from gateway or from prom", "rates come either from gateway or from prom",
        id="rates",
    ),
    pytest.param(_without("pod"), "pod is missing; give", "pod is missing; give", id="pod"),
    pytest.param(
        _with(approve="Maybe"), "approve: must be 'Automatic' or 'Manual'", "supported values", id="approve"
    ),
    pytest.param(_with(gpus=[{"model": "a1000"}]), "a1000", None, id="gpu"),
    pytest.param(_service(profiles=["9g"]), "has profile '9g'", None, id="profile"),
    pytest.param(_service(pools=["x"]), "there is no pool 'x'", None, id="pool"),
]  # fmt: skip
