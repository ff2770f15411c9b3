"""Generates the CustomResourceDefinitions of Partita's resources from their types.

Kubernetes accepts a subset of JSON Schema ("structural schemas", apiextensions v1), and rules between fields in CEL.
The rules repeat `WorkloadSpec.faults` in the same words. What CEL cannot check (which GPUs, profiles and pools exist)
is reported by the Workload's condition `Accepted`. The API server bounds the cost of each rule, so lists and texts
have a maximum length here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from partita.kubernetes.resources import (
    GROUP,
    PLANS,
    TRANSITIONS,
    VERSION,
    WORKLOADS,
    PlanSpec,
    PlanStatus,
    TransitionSpec,
    TransitionStatus,
    WorkloadSpec,
    WorkloadStatus,
)

if TYPE_CHECKING:
    from partita.kubernetes.objects import Kind

Schema = dict[str, Any]

_LONGEST_LIST = {  # by field, of the lists that users write
    "gpus": 16,
    "services": 1_000,
    "performance": 64,
    "models": 500,
    "profiles": 32,
    "pools": 64,
    "forbid": 64,
}
_WATTS = "objective watts is not for services with a cut: how busy a slice is decides its power"
_TABLES = "name tables, as in performance: [{configMap: {name: perf}}], or give models for an estimate"
_LABEL = "(has({0}.name) ? {0}.name : {0}.model)"
# By the path of a field: the rule, its message, and the field that the message is about.
_RULES: dict[str, list[tuple[str, str, str]]] = {
    "services[]": [
        (
            "!has(self.cut) || has(self.batches)",
            "a cut needs batches; for example batches: {median: 8, max: 32}",
            ".cut",
        ),
        (
            "!has(self.batches) || has(self.cut)",
            "batches without a cut have no meaning; write cut: search, or leave out batches",
            ".batches",
        ),
    ],
    "services[].batches": [
        (
            "has(self.histogram) || has(self.median)",
            "batches need a median or a histogram; for example batches: {median: 8, max: 32}",
            "",
        ),
        *(
            (
                f"!has(self.histogram) || !has(self.{name})",
                "is for log-normal batch sizes, not beside a histogram; keep one",
                f".{name}",
            )
            for name in ("median", "sigma", "max")
        ),
    ],
    "services[].batches.histogram": [
        (
            "self.exists(k, self[k] > 0.0)",
            "all shares are 0; for example histogram: {1: 0.5, 8: 0.5}",
            "",
        ),
        (
            "self.all(k, k.matches('^[1-9][0-9]*$'))",
            "batch sizes must be whole numbers from 1 on; for example histogram: {1: 0.5, 8: 0.5}",
            "",
        ),
    ],
    "performance[]": [
        (
            "has(self.configMap) != has(self.csv)",
            "a table is either configMap or csv; for example configMap: {name: perf, key: perf.csv}",
            "",
        )
    ],
    "rates": [
        (
            "has(self.gateway) != has(self.prometheus)",
            "rates come either from gateway or from prometheus; leave out rates to use those of the services",
            "",
        )
    ],
    "": [
        (
            f"self.gpus.all(p, self.gpus.exists_one(q, {_LABEL.format('q')} == {_LABEL.format('p')}))",
            "a pool is there already; give each pool a name",
            ".gpus",
        ),
        (
            "!has(self.objective) || self.objective != 'cost' || self.gpus.all(p, has(p.cost_per_hour))",
            "objective cost needs cost_per_hour; for example cost_per_hour: 2.5",
            ".gpus",
        ),
        (
            "!has(self.objective) || self.objective != 'watts' || self.services.all(s, !has(s.cut))",
            f"{_WATTS}; write objective: gpus, or leave out cut",
            ".services",
        ),
        (
            "(has(self.performance) && size(self.performance) > 0) || (has(self.models) && size(self.models) > 0)",
            f"no performance table and no models; {_TABLES}",
            "",
        ),
        (
            "has(self.pod) || self.services.all(s, has(s.pod))",
            "pod is missing; give each service a pod, or the workload one for all",
            ".services",
        ),
    ],
}
_IMMUTABLE = "self == oldSelf", "a plan never changes; change the Workload to get another plan", ""


def definitions() -> dict[str, str]:
    """Return each definition as YAML, by file name."""
    workload = _schema(WorkloadSpec)
    for name, most in _LONGEST_LIST.items():
        for at in _named(workload, name):
            at.setdefault("maxItems", most)
    _add_rules(workload, _RULES)
    workload["properties"]["gpus"]["items"]["properties"]["model"]["maxLength"] = 253
    batches = workload["properties"]["services"]["items"]["properties"]["batches"]["properties"]
    batches["histogram"]["maxProperties"] = 64
    workload["properties"]["services"] |= {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }
    plan = _schema(PlanSpec)
    _add_rules(plan, {"": [_IMMUTABLE]})
    made = (
        _definition(
            WORKLOADS,
            "pwl",
            workload,
            _schema(WorkloadStatus),
            [
                ("State", "string", ".status.state", 0),
                ("Services", "integer", ".status.services", 0),
                ("GPUs", "integer", ".status.gpus", 0),
                ("Nearest", "string", ".status.nearest", 0),
                ("Plan", "string", ".status.plan", 0),
                ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", 1),
            ],
        ),
        _definition(
            PLANS,
            "pplan",
            plan,
            _schema(PlanStatus),
            [
                ("Workload", "string", ".spec.workload.name", 0),
                ("State", "string", ".status.state", 0),
                ("GPUs", "integer", ".spec.used", 0),
                ("Bound", "number", ".spec.bound", 0),
                ("Gap", "string", ".spec.gap", 0),
                ("Proven", "boolean", ".spec.proven", 0),
                ("Why", "string", ".spec.why", 1),
            ],
        ),
        _definition(
            TRANSITIONS,
            "ptr",
            _schema(TransitionSpec),
            _schema(TransitionStatus),
            [
                ("Workload", "string", ".spec.workload.name", 0),
                ("State", "string", ".status.state", 0),
                ("Done", "string", ".status.progress", 0),
                ("Left", "string", ".status.left", 0),
                ("Nearest", "string", ".status.nearest", 0),
                ("Plan", "string", ".spec.plan", 1),
                ("Writes", "integer", ".status.writes", 1),
            ],
        ),
    )
    return {
        f"{each['spec']['names']['plural']}.yaml": yaml.safe_dump(each, sort_keys=False, width=110)
        for each in made
    }


def _definition(
    kind: Kind[Any], short: str, spec: Schema, status: Schema, columns: list[tuple[str, str, str, int]]
) -> Schema:
    printed = [
        {"name": name, "type": of, "jsonPath": path, **({"priority": priority} if priority else {})}
        for name, of, path, priority in columns
    ]
    printed.append({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [short],
                "categories": ["partita"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": printed,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "required": ["spec"],
                            "properties": {"spec": spec, "status": status},
                        }
                    },
                }
            ],
        },
    }


def _schema(kind: type) -> Schema:
    """Return the structural schema of a type."""
    whole = json.loads(msgspec.json.encode(msgspec.json.schema(kind)))
    parts = whole.pop("$defs", {})
    found = _structural(whole, parts)
    if "conditions" in found["properties"]:
        found["properties"]["conditions"] |= {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        }
    return found


def _structural(node: Schema, parts: Schema) -> Schema:
    """Return a JSON schema as Kubernetes accepts it: without references, unions with null, examples and defaults."""
    about = node.get("description")
    if "$ref" in node:
        node = {**parts[node["$ref"].rpartition("/")[2]], **({"description": about} if about else {})}
    if "anyOf" in node:
        return _structural(_one_of(node), parts)
    made: Schema = {key: node[key] for key in _KEPT if key in node}
    if "enum" in node:
        made["type"] = "string"
    for name in ("Minimum", "Maximum"):
        if f"exclusive{name}" in node:
            made |= {name.lower(): node[f"exclusive{name}"], f"exclusive{name}": True}
    for name in ("minimum", "maximum"):
        if abs(made.get(name, 0)) > 1e300:
            del made[name]  # `Amount` allows any finite number
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return made
    if "items" in node:
        made["items"] = _structural(node["items"], parts)
    if "properties" in node:
        made["properties"] = {name: _structural(each, parts) for name, each in node["properties"].items()}
        if node.get("required"):
            made["required"] = node["required"]
    elif isinstance(node.get("additionalProperties"), dict):
        made["additionalProperties"] = _structural(node["additionalProperties"], parts)
        made.setdefault("maxProperties", 2_000)
    return made


def _one_of(node: Schema) -> Schema:
    """Return the only kind that a value may have beside null; of several, one that the controller looks at alone."""
    about = {key: node[key] for key in ("description",) if key in node}
    kinds = [each for each in node["anyOf"] if each.get("type") != "null"]
    # A structural schema has one type for each field.
    return (
        {**kinds[0], **about} if len(kinds) == 1 else {**about, "x-kubernetes-preserve-unknown-fields": True}
    )


_KEPT = (
    "description", "type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems",
    "minProperties", "maxProperties", "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip


def _named(node: Any, name: str) -> list[Schema]:  # noqa: ANN401 -- a schema or a part of one
    """Return the schemas of all arrays of that name, at any depth."""
    found: list[Schema] = []
    if isinstance(node, dict):
        for key, each in node.items():
            if key == name and isinstance(each, dict) and each.get("type") == "array":
                found.append(each)
            found += _named(each, name)
    return found


def _add_rules(schema: Schema, rules: dict[str, list[tuple[str, str, str]]]) -> None:
    for path, added in rules.items():
        node = schema
        for step in filter(None, path.split(".")):
            node = node["properties"][step.removesuffix("[]")]
            node = node["items"] if step.endswith("[]") else node
        node["x-kubernetes-validations"] = [
            {"rule": rule, "message": message, **({"fieldPath": at} if at else {})}
            for rule, message, at in added
        ]
