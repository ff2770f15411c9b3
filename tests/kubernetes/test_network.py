"""The chart's NetworkPolicies allow each connection that the parts need, and no other.

No network plugin runs here. `allowed` decides as the API's reference says (networking.k8s.io/v1 NetworkPolicy): a pod
that no policy of a direction selects is free in it; else some rule of one such policy must match peer and port; both
ends must allow a connection; and a node may always reach its own pods, by which kubelets probe them.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.control_plane.tools import rendered

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]


@dataclass(frozen=True)
class End:
    """A pod, or, without a namespace, a host.

    Attributes:
        ports: its named ports.
        spaces: labels of its namespace.
    """

    name: str
    address: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    spaces: dict[str, str] = field(default_factory=dict)


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Say whether a label selector takes something with these labels; an empty one takes everything."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for each in selector.get("matchExpressions") or ():
        there, value = each["key"] in labels, labels.get(each["key"])
        holds = {
            "In": there and value in each.get("values", ()),
            "NotIn": not there or value not in each.get("values", ()),
            "Exists": there,
            "DoesNotExist": not there,
        }
        if not holds[each["operator"]]:
            return False
    return True


def peer_matches(peer: Object, other: End, policy: Object) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        address = ipaddress.ip_address(other.address)
        outside = any(address in ipaddress.ip_network(each) for each in block.get("except") or ())
        return address in ipaddress.ip_network(block["cidr"]) and not outside
    if not other.namespace:
        return False  # selectors select pods alone
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], other.spaces):
            return False
    elif other.namespace != policy["metadata"]["namespace"]:
        return False
    return selects(peer.get("podSelector") or {}, other.labels)


def port_matches(rule: Object, target: End, port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    if not ports:
        return True
    for each in ports:
        if each.get("protocol", "TCP") != protocol:
            continue
        wanted = each.get("port")
        if isinstance(wanted, str):
            if target.ports.get(wanted) == port:
                return True
        elif wanted is None or wanted <= port <= each.get("endPort", wanted):
            return True
    return False


def types_of(policy: Object) -> set[str]:
    """Return a policy's directions; where it names none, Ingress, and Egress if it has rules of it."""
    named = policy["spec"].get("policyTypes")
    return set(named) if named else {"Ingress"} | ({"Egress"} if policy["spec"].get("egress") else set())


def passes(policies: list[Object], way: str, ends: tuple[End, End], at: tuple[int, str]) -> bool:
    """Say whether one end's policies of a direction let a connection pass."""
    source, target = ends
    own, other = (target, source) if way == "Ingress" else (source, target)
    if not own.namespace:
        return True
    on_it = [
        each
        for each in policies
        if each["metadata"]["namespace"] == own.namespace
        and way in types_of(each)
        and selects(each["spec"]["podSelector"], own.labels)
    ]
    peers = "from" if way == "Ingress" else "to"
    return not on_it or any(
        port_matches(rule, target, *at)
        and (not rule.get(peers) or any(peer_matches(peer, other, policy) for peer in rule[peers]))
        for policy in on_it
        for rule in policy["spec"].get(way.lower()) or ()
    )


def allowed(policies: list[Object], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Say whether a connection may be opened."""
    if source.name == "node":
        return True  # of the node on which the pod is
    at = port, protocol
    ends = source, target
    return passes(policies, "Egress", ends, at) and passes(policies, "Ingress", ends, at)


# What there is in a cluster

HOME, PLACE = "partita-system", "serving"
WORDS = (
    "--set=gateway.enabled=true",
    "--set=gateway.workload=shop",
    "--set=gateway.namespace=serving",
    "--set=gateway.token.secret=tokens",
    "--set=picker.enabled=true",
    "--set=picker.workload=shop",
    "--set=picker.namespace=serving",
    "--set=migManager.enabled=true",
    "--set=migManager.plan.configMap=day",
)
MONITORING = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
PROXY = {
    "namespaceSelector": {"matchLabels": {"team": "edge"}},
    "podSelector": {"matchLabels": {"app": "envoy"}},
}
CLOSED = (
    *WORDS,
    "--set=networkPolicy.egress.enabled=true",
    "--set=networkPolicy.workers=true",
    '--set-json=networkPolicy.clients=[{"namespaceSelector":{"matchLabels":{"team":"shop"}}}]',
    f"--set-json=networkPolicy.metricsFrom=[{json.dumps(MONITORING)}]",
    f"--set-json=networkPolicy.proxies=[{json.dumps(PROXY)}]",
    f"--set-json=networkPolicy.egress.more=[{json.dumps({'to': [MONITORING], 'ports': [{'port': 9090}]})}]",
)


def pod(name: str, namespace: str, labels: dict[str, str], ports: dict[str, int], **spaces: str) -> End:
    number = sum(map(ord, f"{namespace}/{name}")) % 250
    return End(
        name,
        f"10.1.{len(name)}.{number}",
        namespace,
        labels,
        ports,
        {"kubernetes.io/metadata.name": namespace, **spaces},
    )


def parts(objects: list[Object]) -> Iterator[End]:
    """Yield a pod of each part of Partita, as its Deployment or Job makes it."""
    for each in objects:
        if each["kind"] not in {"Deployment", "Job"}:
            continue
        template = each["spec"]["template"]
        labels = template["metadata"]["labels"]
        ports = {
            port["name"]: port["containerPort"]
            for port in template["spec"]["containers"][0].get("ports") or ()
        }
        yield pod(labels["app.kubernetes.io/component"], HOME, labels, ports)


@dataclass
class Cluster:
    """The chart's policies and pods, with others around them."""

    policies: list[Object]
    ends: dict[str, End]

    def may(self, source: str, target: str, port: int, protocol: str = "TCP") -> bool:
        return allowed(self.policies, self.ends[source], self.ends[target], port, protocol)


def cluster(*words: str) -> Cluster:
    objects = rendered(*words)
    replica = {"partita.dev/workload": "shop", "partita.dev/service": "search"}
    ends = [
        *parts(objects),
        pod("worker", PLACE, replica, {"partita": 9000}),
        pod("worker-of-another", PLACE, {**replica, "partita.dev/workload": "other"}, {"partita": 9000}),
        pod("worker-elsewhere", "elsewhere", replica, {"partita": 9000}),
        pod("dns", "kube-system", {"k8s-app": "kube-dns"}, {"dns": 53}),
        pod("prometheus", "monitoring", {"app": "prometheus"}, {"web": 9090}, team="monitoring"),
        pod("client", "web", {"app": "web"}, {}, team="shop"),
        pod("envoy", "edge", {"app": "envoy"}, {}, team="edge"),
        pod("stranger", "other", {"app": "stranger"}, {"http": 80}),
        pod("stranger-at-home", HOME, {"app": "stranger"}, {"http": 80}),
        pod("stranger-beside", PLACE, {"app": "stranger"}, {"http": 80}),
        End("node", "192.168.0.10"),
        End("apiserver", "192.168.0.2"),
        End("internet", "203.0.113.7"),
    ]
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    return Cluster(policies, {each.name: each for each in ends})


OURS = ("controller", "gateway", "picker", "mig-manager")
NEEDED = {
    **{("node", part, port): f"a kubelet probes {part}" for part, port in
       (("controller", 8080), ("gateway", 8000), ("picker", 9090))},
    **{(part, "apiserver", port): f"{part} asks the API server" for part in OURS for port in (443, 6443)},
    ("gateway", "worker", 9000): "queries",
    ("client", "gateway", 8000): "queries over HTTP",
    ("client", "gateway", 8001): "queries over gRPC",
    ("envoy", "picker", 9002): "which endpoint a request is for",
    ("controller", "gateway", 8000): "rates that the gateway counts",
    ("prometheus", "controller", 8080): "metrics are scraped",
    ("prometheus", "gateway", 8000): "metrics are scraped",
    ("prometheus", "picker", 9090): "metrics are scraped",
}  # fmt: skip
PORTS = (22, 53, 80, 443, 6443, 8000, 8001, 8080, 9000, 9001, 9002, 9090)


@pytest.mark.parametrize("words", [WORDS, CLOSED], ids=["defaults", "closed"])
def test_each_connection_that_the_parts_need_is_allowed(words: tuple[str, ...]) -> None:
    there = cluster(*words)
    refused = [why for (source, target, port), why in NEEDED.items() if not there.may(source, target, port)]
    assert refused == []
    for part in OURS:
        assert there.may(part, "dns", 53, "UDP")
        assert there.may(part, "dns", 53, "TCP")


def test_closed_policies_allow_nothing_else() -> None:
    """Of all pairs of ends with a part of Partita's, at all ports, what nobody needs is refused."""
    there = cluster(*CLOSED)
    # Names and the API server have no selector, so these ports are open to wherever they are.
    anywhere = {(part, port) for part in OURS for port in (53, 443, 6443)}
    found = []
    for source in there.ends:
        for target in there.ends:
            if source in {target, "node"} or not {source, target} & {*OURS, "worker"}:
                continue
            for port in PORTS:
                if (source, target, port) in NEEDED or not there.may(source, target, port):
                    continue
                if (source, port) in anywhere and target not in {*OURS, "worker"}:
                    continue
                found.append((source, target, port))
    more = {(part, "prometheus", 9090) for part in OURS}  # what `egress.more` says
    to_workers = {("gateway", "worker", port) for port in PORTS}  # whatever port a template has
    from_workers = {
        each for each in found if each[0] == "worker" and each[1] not in OURS
    }  # they are not Partita's
    assert set(found) - more - to_workers - from_workers == set()
    assert not there.may("gateway", "worker-of-another", 9000)
    assert not there.may("gateway", "worker-elsewhere", 9000)
    assert not there.may("stranger-beside", "worker", 9000)
    assert not there.may("controller", "dns", 53, "SCTP")


def test_without_clients_named_everybody_may_ask_and_only_at_the_ports_there_are() -> None:
    there = cluster(*WORDS)
    assert there.may("stranger", "gateway", 8000)
    assert there.may("stranger", "picker", 9002)
    assert there.may("stranger", "controller", 8080)
    assert not there.may("stranger", "gateway", 9002)
    assert not there.may("stranger", "controller", 22)
    assert not any(
        there.may(source, "mig-manager", port) for source in ("stranger", "client") for port in PORTS
    )
    assert there.may("stranger", "worker", 9000)  # networkPolicy.workers is off


@pytest.mark.parametrize(
    ("without", "lost"),
    [
        ("podSelector", ("gateway", "worker", 9000)),
        ("ports", ("gateway", "apiserver", 6443)),
        ("from", ("client", "gateway", 8000)),
    ],
)
def test_the_evaluator_notices_a_rule_that_is_wrong(without: str, lost: tuple[str, str, int]) -> None:
    """A policy that selects other pods, opens another port, or asks for another peer refuses what is needed."""
    there = cluster(*CLOSED)
    text = json.dumps(there.policies)
    wrong = {
        "podSelector": text.replace('"partita.dev/workload": "shop"', '"partita.dev/workload": "shpo"'),
        "ports": text.replace("6443", "6444"),
        "from": text.replace('"team": "shop"', '"team": "store"'),
    }[without]
    assert wrong != text
    assert there.may(*lost)
    assert not replace(there, policies=json.loads(wrong)).may(*lost)


def test_the_evaluator_follows_the_published_rules() -> None:
    """The examples of the API's reference and of the page on NetworkPolicies of kubernetes.io."""
    a = pod("a", "one", {"app": "a"}, {"web": 80}, team="x")
    b = pod("b", "one", {"app": "b"}, {})
    far = pod("far", "two", {"app": "b"}, {}, team="x")
    host = End("outside", "172.17.1.9")

    def policy(**spec: Any) -> list[Object]:
        return [
            {"metadata": {"namespace": "one"}, "spec": {"podSelector": {"matchLabels": {"app": "a"}}, **spec}}
        ]

    assert allowed([], b, a, 80)
    assert not allowed(policy(policyTypes=["Ingress"]), b, a, 80)  # isolated, and no rule
    assert allowed(policy(policyTypes=["Ingress"]), a, b, 80)  # of the other direction nothing is said
    assert not allowed(policy(policyTypes=["Egress"]), a, b, 80)
    assert allowed(policy(ingress=[{}]), far, a, 80)  # an empty rule is for everybody
    assert not allowed(policy(ingress=[{}], egress=[{"ports": [{"port": 1}]}]), a, b, 80)
    pods = {"podSelector": {"matchLabels": {"app": "b"}}}
    spaces = {"namespaceSelector": {"matchLabels": {"team": "x"}}}
    assert allowed(policy(ingress=[{"from": [pods]}]), b, a, 80)
    assert not allowed(policy(ingress=[{"from": [pods]}]), far, a, 80)  # pods of its own namespace
    assert allowed(policy(ingress=[{"from": [{**pods, **spaces}]}]), far, a, 80)
    assert not allowed(policy(ingress=[{"from": [{**pods, **spaces}]}]), b, a, 80)  # both must hold
    assert allowed(policy(ingress=[{"from": [pods, spaces]}]), b, a, 80)  # one of the two
    block = {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}}
    assert not allowed(policy(ingress=[{"from": [block]}]), host, a, 80)
    assert allowed(policy(ingress=[{"from": [block]}]), replace(host, address="172.17.2.9"), a, 80)
    assert allowed(policy(ingress=[{"ports": [{"port": "web"}]}]), b, a, 80)
    assert not allowed(policy(ingress=[{"ports": [{"port": "web", "protocol": "UDP"}]}]), b, a, 80)
    assert allowed(policy(ingress=[{"ports": [{"port": 70, "endPort": 90}]}]), b, a, 80)
    only = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["b"]}]}}
    assert not allowed(policy(ingress=[{"from": [only]}]), b, a, 80)
    assert allowed(policy(policyTypes=["Ingress"]), End("node", "192.168.0.10"), a, 80)  # its kubelet
