"""What cannot be: a condition with its reason and a hint, in full, and nothing else disturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.test_controller import (  # noqa: F401 -- fixtures
    Cluster,
    cluster,
    config_map,
    crds,
    on_larger_gpus,
    spec,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]


@pytest.fixture
def running(cluster: Cluster) -> Iterator[Cluster]:  # noqa: F811
    """A cluster in which one Workload serves, and in the end still does, untouched."""
    cluster.controller()
    cluster.create(spec())
    cluster.wait(lambda: cluster.state() == "Serving", "it serves")
    pods = [each["metadata"]["uid"] for each in cluster.admin.objects("pods", cluster.namespace)]
    yield cluster
    now = [
        each["metadata"]["uid"]
        for each in cluster.admin.objects("pods", cluster.namespace)
        if each["metadata"]["labels"]["partita.dev/workload"] == "serving"
    ]
    assert now == pods
    assert cluster.state() == "Serving"
    assert cluster.condition("Accepted")["status"] == "True"
    named = [each["spec"]["workload"]["name"] for each in cluster.objects("transitions")]
    assert named.count("serving") == 1


def told(cluster: Cluster, kind: str, reason: str, status: str = "False") -> str:  # noqa: F811
    """Return the message of another Workload's condition once it has that reason; an event says the same."""
    name, condition = "other", {}

    def has_reason() -> bool:
        condition.update(cluster.condition(kind, name))
        return condition.get("reason") == reason

    cluster.wait(has_reason, f"{kind}: {reason}")
    assert condition["status"] == status
    message = str(condition["message"])
    cluster.wait(
        lambda: any(
            each["involvedObject"]["name"] == name and each["message"] == message[:1024]
            for each in cluster.objects("events")
        ),
        "an event says the same",
    )
    return message


ELSEWHERE: Object = {"nodes": {"no": "node"}}


def test_a_model_that_no_table_has(running: Cluster) -> None:
    other = spec(**ELSEWHERE)
    other["services"][0]["model"] = "resnet51"
    running.create(other, "other")
    assert told(running, "Accepted", "InvalidSpec") == (
        "services[0].model: no measurements of 'resnet51' on a100-40gb; did you mean resnet50?"
    )
    running.change("other", services=spec()["services"])
    running.wait(lambda: running.condition("Accepted", "other")["status"] == "True", "it is accepted")


def test_a_table_that_is_missing(running: Cluster) -> None:
    running.create(spec(performance=[{"configMap": {"name": "perf"}}], **ELSEWHERE), "other")
    assert told(running, "Accepted", "TableMissing") == (
        "performance[0].configMap: there is no ConfigMap 'perf'; make it: "
        "`kubectl create configmap perf --from-file=perf.csv`"
    )
    table = spec()["performance"][0]["csv"]
    running.admin.create("configmaps", config_map({"other.csv": table}), running.namespace)
    running.wait(lambda: "no key" in running.condition("Accepted", "other")["message"], "the key is missing")
    assert told(running, "Accepted", "TableMissing") == (
        "performance[0].configMap: ConfigMap 'perf' has no key 'perf.csv'; its keys are other.csv"
    )
    running.admin.patch("configmaps", "perf", {"data": {"perf.csv": table}}, running.namespace)
    running.wait(lambda: running.condition("Accepted", "other")["status"] == "True", "it is accepted")


def test_two_workloads_that_want_one_pool(running: Cluster) -> None:
    running.create(spec(), "other")
    message = told(running, "Accepted", "PoolTaken")
    node = next(each["metadata"]["name"] for each in running.admin.objects("nodes"))
    assert message == (
        f"nodes: Workload {running.namespace}/serving has the GPUs of model a100-40gb on node {node} already; "
        "give each Workload nodes of its own with `nodes`, or put the services into one Workload"
    )
    assert running.state("other") == "Refused"


def test_a_plan_for_gpus_that_are_gone_by_the_time_it_is_approved(running: Cluster) -> None:
    (node,) = running.nodes.add_nodes(1, 1, "a100-80gb")
    other = on_larger_gpus(approve="Manual")
    running.create(other, "other")
    running.wait(lambda: running.state("other") == "Waiting", "it waits")
    (plan,) = (each for each in running.objects("plans") if each["spec"]["workload"]["name"] == "other")
    running.nodes.remove_node(node)
    running.approve("other-1", plan["metadata"]["uid"])
    assert told(running, "Degraded", "NoWay", status="True") == (
        "gpus: no node that it may use has a free GPU of a100-80gb; `kubectl get nodes` and `kubectl get "
        "resourceslices` show which nodes there are and their GPUs; GPUs with others' claims are not free"
    )
    running.wait(lambda: running.state("other") == "Degraded", "its state says so")
    running.wait(lambda: len(running.objects("pods")) == 1, "nothing of it runs")
    running.nodes.add_nodes(1, 1, "a100-80gb")
    running.wait(lambda: running.state("other") in {"Waiting", "Serving"}, "with GPUs it goes on by itself")


def test_a_workload_that_is_deleted_while_it_runs_says_that_it_drains(running: Cluster) -> None:
    running.nodes.add_nodes(1, 1, "a100-80gb")
    other = on_larger_gpus()
    other["pod"]["spec"]["terminationGracePeriodSeconds"] = 60
    running.nodes.fail("term", times=1, workload="other")
    running.create(other, "other")
    running.wait(lambda: running.state("other") == "Serving", "it serves")
    running.admin.delete("workloads", "other", running.namespace)
    running.wait(lambda: running.state("other") == "Draining", "it drains")
    condition = running.condition("Accepted", "other")
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "False",
        "Deleted",
        "it is deleted",
    )
    running.wait(lambda: not running.workload("other"), "it is gone")
    running.wait(lambda: len(running.objects("pods")) == 1, "so are its pods")
    assert len(running.objects("resourceclaims")) == 1
