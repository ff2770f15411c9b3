"""The chart and the kustomization, as helm, kubeconform, kubectl and the API server take them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.tools import DEPLOY, rendered, run, schemas

from partita.cli.main import command_line
from partita.kubernetes.rights import CONTROLLER, DASH, GATEWAY, MIG_MANAGER, Scope

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane

Object = dict[str, Any]
GATEWAY_ON = (
    "--set=gateway.enabled=true",
    "--set=gateway.workload=serving",
    "--set=gateway.token.secret=tokens",
)
PICKER_ON = ("--set=picker.enabled=true", "--set=picker.workload=serving")
DASH_ON = (
    "--set=controller.dash.service.enabled=true",
    "--set=controller.dash.tlsSecret=tls",
    "--set=controller.dash.readTokenSecret=read",
)
OTHERS_ON = (
    *PICKER_ON,
    "--set=migManager.enabled=true",
    "--set=migManager.plan.configMap=day",
    "--set=jobs.enabled=true",
)
ALL = (
    *GATEWAY_ON,
    *OTHERS_ON,
    "--set=picker.replicas=2",
    "--set=picker.tls.secret=tls",
    "--set=picker.tls.clientCa=ca",
    "--set=networkPolicy.egress.enabled=true",
    '--set-json=networkPolicy.egress.more=[{"to":[{"ipBlock":{"cidr":"10.0.0.0/8"}}],"ports":[{"port":9090}]}]',
    '--set-json=networkPolicy.proxies=[{"namespaceSelector":{"matchLabels":{"proxy":"envoy"}}}]',
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
    "--set=controller.dash.service.enabled=true",
    "--set=controller.dash.tlsSecret=dash-tls",
    "--set=controller.dash.tokenSecret=dash-write",
    "--set=controller.dash.readTokenSecret=dash-read",
    "--set=controller.dash.names={partita.example.com}",
    "--set=controller.dash.publicUrl=https://example.com/partita/",
    '--set-json=networkPolicy.dashboards=[{"namespaceSelector":{"matchLabels":{"people":"here"}}}]',
    '--set-json=imagePullSecrets=[{"name":"pull"}]',
    '--set-json=controller.tolerations=[{"key":"a","operator":"Exists"}]',
    "--set=controller.nodeSelector.pool=system",
    "--set=controller.priorityClassName=system-cluster-critical",
)  # fmt: skip
WAYS = pytest.mark.parametrize(
    "words", [(), GATEWAY_ON, OTHERS_ON, ALL], ids=["plain", "gateway", "others", "all"]
)
PARTS = ("gateway", "jobs", "mig-manager", "picker")


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


def test_with_all_components_kustomize_makes_what_the_chart_does(tmp_path: Path) -> None:
    """Each component is what its values add to the chart's objects; a plan of the user's gets into the Job."""
    files = [DEPLOY / "kustomize" / part / "values.yaml" for part in PARTS if part != "jobs"]
    wanted = rendered("--set=jobs.enabled=true", *(f"--values={each}" for each in files))
    (tmp_path / "plan.json").write_text("{}")
    base = os.path.relpath((DEPLOY / "kustomize").resolve(), tmp_path.resolve())
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [base],
        "components": [f"{base}/{part}" for part in PARTS],
        "configMapGenerator": [
            {"name": "partita-plan", "namespace": "partita-system", "files": ["plan.json"]}
        ],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    made = [each for each in yaml.safe_load_all(run("kubectl", "kustomize", tmp_path)) if each]
    (plan,) = of_kind(made, "ConfigMap").values()
    (job,) = of_kind(made, "Job").values()
    volume = job["spec"]["template"]["spec"]["volumes"][1]["configMap"]
    assert volume["name"] == plan["metadata"]["name"] != "partita-plan"
    volume["name"] = "partita-plan"
    made.remove(plan)
    made = [each for each in made if each["kind"] != "Namespace"]

    def key(each: Object) -> tuple[str, str, str]:
        return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]

    assert sorted(made, key=key) == sorted(wanted, key=key), "run `make deploy`"


def test_the_kustomize_patches_that_are_written_down_name_another_workload(tmp_path: Path) -> None:
    folder = DEPLOY / "kustomize" / "gateway"
    comment = [
        line.removeprefix("#").removeprefix(" ")
        for line in (folder / "kustomization.yaml").read_text().splitlines()
        if line.startswith("#")
    ]
    patches = "\n".join(comment[comment.index("patches:") :])
    base = os.path.relpath((DEPLOY / "kustomize").resolve(), tmp_path.resolve())
    text = f"resources: [{base}]\ncomponents: [{base}/gateway]\n{patches}\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    made = [each for each in yaml.safe_load_all(run("kubectl", "kustomize", tmp_path)) if each]
    words = (
        f"--values={folder / 'values.yaml'}",
        "--set=gateway.workload=shop",
        "--set=gateway.namespace=shop",
    )
    for kind in ("Deployment", "Role", "RoleBinding"):
        assert of_kind(made, kind)["partita-gateway"] == of_kind(rendered(*words), kind)["partita-gateway"]


@WAYS
def test_the_server_takes_all_of_it_and_knows_every_field(
    control_plane: ControlPlane, tmp_path: Path, words: tuple[str, ...]
) -> None:
    objects = [each for each in rendered(*words) if each["kind"] != "CustomResourceDefinition"]
    text = yaml.safe_dump_all(objects)
    where = schemas(control_plane, tmp_path)
    run("kubeconform", "-strict", "-summary", f"-schema-location={where}", "-", stdin=text)
    admin = control_plane.admin
    for namespace in ("partita-system", "serving", "gpu-operator"):
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
        "kubectl",
        config,
        "wait",
        "--for=condition=Established",
        "--timeout=240s",
        "crd/workloads.partita.dev",
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
    run("kubectl", config, "delete", "namespace", "partita-system", "--timeout=240s")


def test_helm_installs_and_uninstalls_it(control_plane: ControlPlane, namespace: str) -> None:
    config = f"--kubeconfig={control_plane.kubeconfig('admin')}"
    chart = str(DEPLOY / "chart")
    words = (
        "--namespace",
        namespace,
        "--set=crds.install=false",
        *ALL,
        "--set=namespace=" + namespace,
        "--set=migManager.operatorNamespace=" + namespace,
    )

    def kinds_there() -> dict[str, list[str]]:
        plurals = (
            "deployments,jobs,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,"
            "networkpolicies,poddisruptionbudgets,mutatingadmissionpolicies,mutatingadmissionpolicybindings"
        )
        chosen = "app.kubernetes.io/instance=try"
        told = run("kubectl", config, "get", plurals, "-n", namespace, "-l", chosen, "-o", "json")
        found: dict[str, list[str]] = {}
        for each in json.loads(told)["items"]:
            found.setdefault(each["kind"], []).append(each["metadata"]["name"])
        return found

    run("helm", config, "install", "try", chart, *words)
    try:
        before = kinds_there()
        assert set(before["Deployment"]) == {
            "try-partita-controller",
            "try-partita-gateway",
            "try-partita-picker",
        }
        assert before["MutatingAdmissionPolicy"] == ["try-partita-jobs"]
        (job,) = before["Job"]
        wanted = {each["kind"] for each in rendered(*ALL)} - {"CustomResourceDefinition"}
        assert set(before) == wanted
        run("helm", config, "upgrade", "try", chart, *words, "--set=controller.keepOff=None")
        told = run(
            "kubectl", config, "-n", namespace, "get", "deployment", "try-partita-controller", "-o", "yaml"
        )
        assert "--keep-off=None" in told
        assert kinds_there()["Job"] == [job]  # nothing is cut again
        run(
            "helm", config, "upgrade", "try", chart, *words, "--set=migManager.plan.configMap=night",
            "--set=picker.enabled=false",
        )  # fmt: skip
        after = kinds_there()
        assert len(after["Job"]) == 1
        assert after["Job"] != [job]  # another plan is another Job
        assert "try-partita-picker" not in after["Deployment"] + after["ServiceAccount"]
    finally:
        run("helm", config, "uninstall", "try", "--namespace", namespace)
    wait_until(lambda: kinds_there() == {}, 60.0, "nothing is left over")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set=gateway.enabled=true", "--set=gateway.workload=a"), "nothing says who may ask it"),
        (
            ("--set=gateway.enabled=true", "--set=gateway.token.secret=t"),
            "name a Workload in gateway.workload",
        ),
        ((*GATEWAY_ON, "--set=gateway.tls.clientCa=ca"), "clients' certificates need TLS"),
        (("--set=controller.keepOff=Maybe",), "keepOff"),
        (("--set=controller.replcas=2",), "replcas"),
        (("--set=picker.enabled=true",), "name a Workload in picker.workload"),
        ((*PICKER_ON, "--set=picker.tls.clientCa=ca"), "proxies' certificates need TLS"),
        (("--set=migManager.enabled=true",), "there is no plan; make a ConfigMap of one"),
        (
            ("--set=jobs.enabled=true", "--kube-version=1.35.4"),
            "is on from Kubernetes 1.36, and this cluster has",
        ),
        (("--set=controller.dash.service.enabled=true", "--set=controller.dash.tokenSecret=t"), "tlsSecret"),
        (("--set=controller.dash.service.enabled=true", "--set=controller.dash.tlsSecret=t"), "TokenSecret"),
        ((*DASH_ON, "--set=controller.dash.port=0"), "controller/dash/port"),
        (("--set=networkPolicy.workers=true",), "there is no gateway that may reach the replicas"),
        (("--set-json=networkPolicy.clients=[{}]",), "networkPolicy/clients/0"),
        (("--set=networkPolicy.egress.apiServerPorts={https}",), "apiServerPorts/0"),
        (("--set=controller.resources.limit.memory=1Gi",), "limit"),
    ],
)
def test_values_that_cannot_work_are_refused_with_a_reason(words: tuple[str, ...], said: str) -> None:
    told = run("helm", "template", "partita", DEPLOY / "chart", *words, code=1)
    assert said in told


def test_pods_are_restricted_and_have_probes_and_limits() -> None:
    objects = rendered(*ALL)
    deployments = of_kind(objects, "Deployment")
    assert set(deployments) == {"partita-controller", "partita-gateway", "partita-picker"}
    assert set(of_kind(objects, "PodDisruptionBudget")) == set(deployments)
    (job,) = of_kind(objects, "Job").values()
    for each in (*deployments.values(), job):
        ends = each is job  # a process that ends by itself is asked nothing
        assert each["spec"].get("replicas", 2) == 2
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert ends or {"livenessProbe", "readinessProbe", "startupProbe"} <= set(container)
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]


def test_the_dashboard_listens_on_the_pods_address_only_with_a_service_and_that_leads_to_who_leads() -> None:
    def arguments(*words: str) -> set[str]:
        deployment = of_kind(rendered(*words), "Deployment")["partita-controller"]
        return set(deployment["spec"]["template"]["spec"]["containers"][0]["args"])

    assert not [each for each in arguments() if each.startswith(("--dash-listen", "--mark-leader"))]
    served = arguments(*DASH_ON)
    assert {
        "--dash-listen=0.0.0.0",
        "--mark-leader=$(POD_NAME)",
        "--dash-tls-key=/secrets/dash-tls/tls.key",
    } <= served
    assert "--dash-name=partita-dash.partita-system.svc" in served
    objects = rendered(*DASH_ON)
    spec = of_kind(objects, "Service")["partita-dash"]["spec"]
    assert spec["selector"]["partita.dev/leads"] == "true"
    pod = of_kind(objects, "Deployment")["partita-controller"]["spec"]["template"]
    assert spec["selector"].items() <= {**pod["metadata"]["labels"], "partita.dev/leads": "true"}.items()
    assert of_kind(objects, "Role")["partita-dash"]["rules"] == [each.rule for each in DASH]
    ports = [
        each["ports"] for each in of_kind(objects, "NetworkPolicy")["partita-controller"]["spec"]["ingress"]
    ]
    assert ports[1:] == [[{"port": "dash", "protocol": "TCP"}]]
    assert "partita-dash" not in of_kind(rendered(), "Service")


def test_rights_in_one_namespace_are_bound_in_that_namespace_alone() -> None:
    objects = rendered("--set=namespace=serving")
    everywhere = of_kind(objects, "ClusterRoleBinding")
    assert set(everywhere) == {"partita-controller"}
    bound = of_kind(objects, "RoleBinding")["partita-controller-workloads"]
    assert bound["metadata"]["namespace"] == "serving"
    cluster = of_kind(objects, "ClusterRole")["partita-controller"]["rules"]
    assert cluster == [each.rule for each in CONTROLLER if each.scope is Scope.CLUSTER]


def test_of_one_picker_no_budget_hinders_a_drain() -> None:
    assert "partita-picker" not in of_kind(rendered(*PICKER_ON), "PodDisruptionBudget")


def test_rights_of_what_is_not_enabled_are_not_made() -> None:
    kinds = "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"
    names = {name for kind in kinds for name in of_kind(rendered(), kind)}
    assert not [each for each in names if "gateway" in each or "picker" in each or "mig-manager" in each]
    assert not [each for each in rendered(*ALL, "--set=rights.create=false") if each["kind"] in kinds]


def test_mig_manager_writes_configs_in_the_operators_namespace_alone() -> None:
    objects = rendered(*OTHERS_ON, "--set=migManager.operatorNamespace=nvidia")
    role = of_kind(objects, "Role")["partita-mig-manager"]
    assert role["metadata"]["namespace"] == "nvidia"
    assert role["rules"] == [each.rule for each in MIG_MANAGER if each.scope is Scope.OPERATOR]
    cluster = of_kind(objects, "ClusterRole")["partita-mig-manager"]["rules"]
    assert cluster == [each.rule for each in MIG_MANAGER if each.scope is Scope.CLUSTER]


def test_with_one_namespace_the_policy_for_jobs_holds_there_alone() -> None:
    def binding(*words: str) -> Object:
        (found,) = of_kind(rendered(*OTHERS_ON, *words), "MutatingAdmissionPolicyBinding").values()
        return dict(found["spec"])

    assert binding() == {"policyName": "partita-jobs"}
    assert binding("--set=namespace=serving")["matchResources"] == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "serving"}}
    }


@pytest.mark.parametrize(("part", "words"), [("gateway", GATEWAY_ON), ("picker", PICKER_ON)])
def test_what_serves_queries_may_read_one_workload(part: str, words: tuple[str, ...]) -> None:
    role = of_kind(rendered(*words), "Role")[f"partita-{part}"]
    assert role["rules"][0]["resourceNames"] == ["serving"]
    verbs = {(each["resources"][0], verb) for each in role["rules"] for verb in each["verbs"]}
    assert verbs == {(each.resource, verb) for each in GATEWAY for verb in each.verbs}


def test_the_arguments_are_those_of_the_commands() -> None:
    """An option that the command does not have would be told only in a cluster."""
    line = command_line()
    line.load_all()
    objects = rendered(*ALL)
    for each in (*of_kind(objects, "Deployment").values(), *of_kind(objects, "Job").values()):
        (container,) = each["spec"]["template"]["spec"]["containers"]
        command, *words = container["args"]
        known = {name for option in line.commands[command].params for name in option.opts}
        assert {word.split("=")[0] for word in words if not word.startswith("/plan/")} <= known
