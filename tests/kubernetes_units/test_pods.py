"""Replicas become pods of the service's template, and are read back from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from partita.errors import InputError
from partita.kubernetes.pods import (
    Pod,
    PodPlace,
    instance_name,
    observed_replica,
    pod_body,
    pod_name,
    shortened,
    why_not_ready,
)
from partita.mig.layout import Placement
from partita.transition.deployment import Replica

Object = dict[str, Any]
BERT = Replica("bert", "bert-large", 4, 2, 123.45, 40.5)
PLACE = PodPlace("n0-gpu-1-2g10gb-2", "n0/gpu-1 2g.10gb@2", "n0", "n0-gpu-1-2g10gb-2")


def template(**spec: Any) -> Object:
    return {"spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}], **spec}}


def made(body: Object) -> Object:
    return pod_body(body, BERT, PLACE, "day", [])


def as_pod(body: Object, **status: Any) -> Pod:
    return msgspec.convert({**body, "status": status}, Pod)


def test_what_a_pod_says_is_read_back():
    body = made(template())
    found = observed_replica(as_pod(body, conditions=[{"type": "Ready", "status": "True"}]))
    assert found is not None
    assert (found.replica, found.ready, found.draining) == (BERT, True, False)
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    found = observed_replica(as_pod(body, conditions=[{"type": "Ready", "status": "True"}]))
    assert found is not None
    assert (found.ready, found.draining) == (False, True)


@pytest.mark.parametrize("text", ["", "{}", '{"model": 3}'])
def test_a_pod_whose_annotation_was_edited_tells_no_replica(text):
    body = made(template())
    body["metadata"]["annotations"]["partita.dev/replica"] = text
    assert observed_replica(as_pod(body)) is None


def test_the_first_container_gets_the_slice_unless_another_asks_for_it():
    first, second = made(template())["spec"]["containers"]
    assert first["resources"]["claims"] == [{"name": "partita"}]
    assert "resources" not in second
    asks = template()
    asks["spec"]["containers"][1]["resources"] = {"claims": [{"name": "partita"}], "limits": {"cpu": "2"}}
    first, second = made(asks)["spec"]["containers"]
    assert "resources" not in first
    assert second["resources"] == {"claims": [{"name": "partita"}], "limits": {"cpu": "2"}}
    assert {"name": "PARTITA_BATCH", "value": "4"} in second["env"]


def test_the_documented_sidecar_has_the_slice_and_the_worker_is_told_of_it():
    page = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
    (text,) = (each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "initContainers" in each)
    spec = made(yaml.safe_load(text)["pod"])["spec"]
    (server,), (worker,) = spec["initContainers"], spec["containers"]
    assert server["resources"]["claims"] == worker["resources"]["claims"] == [{"name": "partita"}]
    assert {"name": "PARTITA_SERVICE", "value": "bert"} in worker["env"]
    port = re.search(r"--http-port=(\d+)", " ".join(server["args"]))
    assert port is not None
    assert f"http://127.0.0.1:{port[1]}" in worker["args"]


def test_a_template_keeps_what_it_says():
    body = template(
        affinity={
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, {}]
                }
            }
        },
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        resourceClaims=[{"name": "net", "resourceClaimTemplateName": "nic"}],
        terminationGracePeriodSeconds=120,
    )
    body["metadata"] = {"labels": {"team": "a", "partita.dev/service": "other"}, "annotations": {"note": "b"}}
    body["spec"]["containers"][0]["env"] = [
        {"name": "PARTITA_BATCH", "value": "99"},
        {"name": "MORE", "value": "1"},
    ]
    pod = made(body)
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"]["partita.dev/service"] == "bert"
    assert pod["metadata"]["annotations"]["note"] == "b"
    spec = pod["spec"]
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["terminationGracePeriodSeconds"] == 120
    assert [each["name"] for each in spec["resourceClaims"]] == ["net", "partita"]
    told = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
    assert (told["PARTITA_BATCH"], told["PARTITA_PROCESSES"], told["MORE"]) == ("4", "2", "1")
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    here = {"key": "metadata.name", "operator": "In", "values": ["n0"]}
    assert [each["matchFields"] for each in terms] == [[here], [here]]
    assert terms[0]["matchExpressions"] == [{"key": "zone", "operator": "Exists"}]
    assert body["spec"]["resourceClaims"] == [
        {"name": "net", "resourceClaimTemplateName": "nic"}
    ]  # not changed


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "spec.containers"),
        ({"spec": {"containers": []}}, "spec.containers"),
        (template(nodeName="n1"), "spec.nodeName"),
        (template(resourceClaims=[{"name": "partita", "resourceClaimName": "x"}]), "spec.resourceClaims"),
        (template(terminationGracePeriodSeconds=0), "spec.terminationGracePeriodSeconds"),
        (template(restartPolicy="Never"), "spec.restartPolicy"),
        (
            {"spec": {"containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}},
            "spec.containers[0].resources",
        ),
        (
            template(initContainers=[{"name": "a", "resources": {"limits": {"nvidia.com/gpu": 1}}}]),
            "spec.initContainers[0].resources",
        ),
    ],
)
def test_a_template_that_asks_for_what_partita_decides_is_refused(body, where):
    with pytest.raises(InputError) as caught:
        made(body)
    assert caught.value.where == f"the pod template of bert: {where}"
    assert caught.value.hint


def test_names_are_short_stable_and_of_one_thing_each():
    assert instance_name("n0/gpu-1", Placement(2, "2g.10gb")) == "n0-gpu-1-2g10gb-2"
    assert instance_name("n0/gpu-1", Placement(0, "1g.10gb+me")) == "n0-gpu-1-1g10gb-me-0"
    long = "ip-10-0-128-255.us-west-2.compute.internal.a-rather-long-domain.example.com"
    names = {instance_name(f"{long}/gpu-{i}", Placement(s, "1g.10gb")) for i in range(8) for s in range(7)}
    assert len(names) == 56
    assert all(len(each) <= 63 for each in names)
    assert pod_name("Ünïcode Service", "n0-gpu-1-2g10gb-2") == pod_name(
        "Ünïcode Service", "n0-gpu-1-2g10gb-2"
    )
    assert shortened("a_b") != shortened("a-b")
    assert "." not in pod_name("bert.v2", "n0.example-gpu-1-2g10gb-2")


def said(**conditions: str) -> list[Object]:
    return [{"type": name, "status": status} for name, status in conditions.items()]


def test_a_pod_is_ready_by_its_kubelets_word_alone():
    """The node controller takes Ready from the pods of a node that is silent, and nothing else."""
    body = made(template())
    assert as_pod(body, conditions=said(Ready="True", ContainersReady="True")).ready
    assert as_pod(body, conditions=said(Ready="False", ContainersReady="True")).ready
    assert not as_pod(body, conditions=said(Ready="False", ContainersReady="False")).ready
    assert not as_pod(body, conditions=said(PodScheduled="True")).ready
    leaving = {**body, "metadata": {**body["metadata"], "deletionTimestamp": "2026-11-27T00:00:00Z"}}
    assert not as_pod(leaving, conditions=said(Ready="False", ContainersReady="True")).ready


def test_a_pod_with_readiness_gates_is_ready_once_they_are_open():
    body = made(template(readinessGates=[{"conditionType": "Open"}]))
    assert not as_pod(body, conditions=said(Ready="False", ContainersReady="True")).ready
    assert not as_pod(body, conditions=said(Ready="False", ContainersReady="True", Open="False")).ready
    assert as_pod(body, conditions=said(Ready="False", ContainersReady="True", Open="True")).ready


def test_what_keeps_a_pod_from_being_ready_is_told_in_the_clusters_words():
    body = made(template())
    waits = {"name": "a", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    crashed = {"name": "b", "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes",
    }
    pod = as_pod(body, containerStatuses=[waits, crashed], conditions=[unscheduled])
    assert why_not_ready(pod) == (
        "it is not scheduled: 0/3 nodes; container a: ImagePullBackOff no such image; "
        "container b ended with 137 (OOMKilled)"
    )
    assert why_not_ready(as_pod(body)) == "its readiness probe has not succeeded"
    assert "Evicted" in why_not_ready(as_pod(body, phase="Failed", reason="Evicted", message="disk"))
