"""The chart and the kustomization, as helm, kubeconform, kubectl and the API server take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.kubernetes.control_plane.tools import DEPLOY, rendered, run, schemas

from partita.cli.main import command_line
from partita.kubernetes.rights import CONTROLLER, GATEWAY, Scope

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane

Object = dict[str, Any]
GATEWAY_ON = (
    "--set=gateway.enabled=true",
    "--set=gateway.workload=serving",
    "--set=gateway.token.secret=tokens",
)
ALL = (
    *GATEWAY_ON,
    "--set=namespace=serving",
    "--set=gateway.tls.secret=tls",
    "--set=gateway.tls.clientCa=ca",
    "--set=gateway.workers.tokenSecret=workers",
    "--set=gateway.workers.caSecret=workers-ca",
    "--set=gateway.workers.name=worker",
    "--set=controller.gateways.tokenSecret=tokens",
    "--set=controller.gateways.caSecret=ca",
    "--set=networkPolicy.workers=true",
    '--set-json=networkPolicy.clients=[{"podSelector":{"matchLabels":{"app":"shop"}}}]',
    '--set-json=networkPolicy.metricsFrom=[{"podSelector":{}}]',
    '--set-json=imagePullSecrets=[{"name":"pull"}]',
    '--set-json=controller.tolerations=[{"key":"a","operator":"Exists"}]',
    "--set=controller.nodeSelector.pool=system",
    "--set=controller.priorityClassName=system-cluster-critical",
)  # fmt: skip
WAYS = pytest.mark.parametrize("words", [(), GATEWAY_ON, ALL], ids=["plain", "gateway", "all"])


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


@WAYS
def test_helm_finds_no_fault(words: tuple[str, ...]) -> None:
    told = run("helm", "lint", "--strict", DEPLOY / "chart", *words)
    assert "0 chart(s) failed" in told


def test_the_kustomization_is_what_the_chart_renders() -> None:
    written = [
        each for each in yaml.safe_load_all((DEPLOY / "kustomize" / "partita.yaml").read_text()) if each
    ]
    assert written == rendered(), "run `make deploy`"


@WAYS
def test_the_server_takes_all_of_it_and_knows_every_field(
    control_plane: ControlPlane, tmp_path: Path, words: tuple[str, ...]
) -> None:
    objects = [each for each in rendered(*words) if each["kind"] != "CustomResourceDefinition"]
    text = yaml.safe_dump_all(objects)
    where = schemas(control_plane, tmp_path)
    run("kubeconform", "-strict", "-summary", f"-schema-location={where}", "-", stdin=text)
    admin = control_plane.admin
    for namespace in ("partita-system", "serving"):
        if admin.find("namespaces", namespace) is None:
            labels = dict.fromkeys(
                ("pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/warn"), "restricted"
            )
            admin.create("namespaces", {"metadata": {"name": namespace, "labels": labels}})
    config = f"--kubeconfig={control_plane.kubeconfig('admin')}"
    strictly = "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"
    told = run("kubectl", config, "apply", *strictly, "-f", "-", stdin=text)
    assert told.count("(server dry run)") == len(objects)
    assert "Warning" not in told


def test_kubectl_applies_the_kustomization(control_plane: ControlPlane) -> None:
    config = f"--kubeconfig={control_plane.kubeconfig('admin')}"
    run("kubectl", config, "apply", "--server-side", "-f", DEPLOY / "kustomize" / "namespace.yaml")
    run("kubectl", config, "apply", "--server-side", "--force-conflicts", "-k", DEPLOY / "kustomize")
    run(
        "kubectl", config, "wait", "--for=condition=Established", "--timeout=60s", "crd/workloads.partita.dev"
    )
    for account in control_plane.admin.objects("serviceaccounts", "partita-system"):
        assert account["metadata"]["name"] in ("default", "partita-controller")
    run("kubectl", config, "auth", "can-i", "list", "nodes",
        "--as=system:serviceaccount:partita-system:partita-controller")  # fmt: skip
    refused = run("kubectl", config, "auth", "can-i", "get", "secrets", "-n", "partita-system",
                  "--as=system:serviceaccount:partita-system:partita-controller", code=None)  # fmt: skip
    assert "no" in refused.split()
    # It goes again, but for the resources' definitions, which other tests use.
    kinds = "clusterroles,clusterrolebindings"
    run("kubectl", config, "delete", kinds, "-l", "app.kubernetes.io/part-of=partita")
    run("kubectl", config, "delete", "namespace", "partita-system", "--timeout=90s")


def test_helm_installs_and_uninstalls_it(control_plane: ControlPlane, namespace: str) -> None:
    config = f"--kubeconfig={control_plane.kubeconfig('admin')}"
    chart = str(DEPLOY / "chart")
    words = (
        "--namespace",
        namespace,
        "--set=crds.install=false",
        *GATEWAY_ON,
        "--set=namespace=" + namespace,
    )
    run("helm", config, "install", "try", chart, *words)
    try:
        deployments = control_plane.admin.objects("deployments", namespace)
        assert {each["metadata"]["name"] for each in deployments} == {
            "try-partita-controller",
            "try-partita-gateway",
        }
        run("helm", config, "upgrade", "try", chart, *words, "--set=controller.keepOff=None")
        told = run(
            "kubectl", config, "-n", namespace, "get", "deployment", "try-partita-controller", "-o", "yaml"
        )
        assert "--keep-off=None" in told
    finally:
        run("helm", config, "uninstall", "try", "--namespace", namespace)
    assert control_plane.admin.find("clusterroles", "try-partita-controller") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set=gateway.enabled=true", "--set=gateway.workload=a"), "nothing says who may ask it"),
        (("--set=gateway.enabled=true", "--set=gateway.token.secret=t"), "minLength"),
        ((*GATEWAY_ON, "--set=gateway.tls.clientCa=ca"), "clients' certificates need TLS"),
        (("--set=controller.keepOff=Maybe",), "keepOff"),
        (("--set=controller.replcas=2",), "replcas"),
    ],
)
def test_values_that_cannot_work_are_refused_with_a_reason(words: tuple[str, ...], said: str) -> None:
    told = run("helm", "template", "partita", DEPLOY / "chart", *words, code=1)
    assert said in told


def test_pods_are_restricted_and_have_probes_and_limits() -> None:
    deployments = of_kind(rendered(*ALL), "Deployment")
    assert set(deployments) == {"partita-controller", "partita-gateway"}
    for each in deployments.values():
        assert each["spec"]["replicas"] == 2
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"livenessProbe", "readinessProbe", "startupProbe"} <= set(container)
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]


def test_rights_in_one_namespace_are_bound_in_that_namespace_alone() -> None:
    objects = rendered("--set=namespace=serving")
    everywhere = of_kind(objects, "ClusterRoleBinding")
    assert set(everywhere) == {"partita-controller"}
    bound = of_kind(objects, "RoleBinding")["partita-controller-workloads"]
    assert bound["metadata"]["namespace"] == "serving"
    cluster = of_kind(objects, "ClusterRole")["partita-controller"]["rules"]
    assert cluster == [each.rule for each in CONTROLLER if each.scope is Scope.CLUSTER]


def test_a_gateway_may_read_one_workload() -> None:
    role = of_kind(rendered(*GATEWAY_ON), "Role")["partita-gateway"]
    assert role["rules"][0]["resourceNames"] == ["serving"]
    verbs = {(each["resources"][0], verb) for each in role["rules"] for verb in each["verbs"]}
    assert verbs == {(each.resource, verb) for each in GATEWAY for verb in each.verbs}


def test_the_arguments_are_those_of_the_commands() -> None:
    """An option that the command does not have would be told only in a cluster."""
    line = command_line()
    line.load_all()
    for each in of_kind(rendered(*ALL), "Deployment").values():
        (container,) = each["spec"]["template"]["spec"]["containers"]
        command, *words = container["args"]
        known = {name for option in line.commands[command].params for name in option.opts}
        assert {word.split("=")[0] for word in words} <= known
