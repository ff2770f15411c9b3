"""The rights are written in one place, and what is installed is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

import partita
from partita.kubernetes.rights import ROLES, roles_document

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "chart"


def test_the_chart_has_the_rights_that_are_written() -> None:
    assert (CHART / "files" / "rights.yaml").read_text() == roles_document()


def test_no_right_is_written_twice_or_without_a_reason() -> None:
    for rights in ROLES.values():
        seen = [(each.group, each.resource, verb) for each in rights for verb in each.verbs]
        assert len(seen) == len(set(seen))
        assert all(each.reason for each in rights)


def test_no_right_is_a_wildcard_or_reads_secrets() -> None:
    for rights in ROLES.values():
        for each in rights:
            assert "*" not in (each.group, each.resource, *each.verbs)
            assert not each.resource.startswith("secrets")
            assert not {"bind", "escalate", "impersonate"} & set(each.verbs)


def test_advice_changes_nothing() -> None:
    assert all(set(each.verbs) <= {"get", "list", "watch"} for each in ROLES["advice"])


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == partita.__version__


def test_the_kustomization_has_all_resources_and_names_files_that_there_are() -> None:
    for path in (DEPLOY / "kustomize").glob("**/kustomization.yaml"):
        assert all((path.parent / each).exists() for each in yaml.safe_load(path.read_text())["resources"])
    rendered = list(yaml.safe_load_all((DEPLOY / "kustomize" / "partita.yaml").read_text()))
    by_name = {each["metadata"]["name"]: each for each in rendered if each}
    for path in sorted((DEPLOY / "crds").glob("*.yaml")):
        written = yaml.safe_load(path.read_text())
        assert by_name[written["metadata"]["name"]]["spec"] == written["spec"], "run `make deploy`"


def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def faults(given: dict[str, Any]) -> list[str]:
    schema = json.loads((CHART / "values.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return [each.message for each in Draft202012Validator(schema).iter_errors(given)]


def test_the_schema_takes_the_charts_own_values_and_knows_each_of_them() -> None:
    assert faults(values()) == []
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(values())
    for name, part in values().items():
        if isinstance(part, dict):
            assert set(schema["properties"][name]["properties"]) == set(part)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("controller", "keepOff", "Never"),
        ("controller", "replicas", 0),
        ("controller", "replica", 2),
        ("controller", "dash", {"port": 8081, "service": {"enabled": True}, "tokenSecret": "t"}),
        ("controller", "dash", {"port": 8081, "service": {"enabled": True}, "tlsSecret": "t"}),
        ("gateway", "workload", "Not A Name"),
        ("image", "digest", "1234"),
        ("image", "pullPolicy", "Sometimes"),
        ("picker", "replicas", 0),
        ("picker", "resources", {"request": {"cpu": 1}}),
        ("migManager", "retries", -1),
        ("migManager", "operatorNamespace", ""),
        ("jobs", "enabled", "yes"),
        ("networkPolicy", "clients", [{"pods": {}}]),
        ("networkPolicy", "egress", {"apiServerPorts": []}),
        ("controller", "tolerations", [{"effect": "Never"}]),
    ],
)
def test_the_schema_refuses_what_would_not_work(part: str, key: str, value: object) -> None:
    given = values()
    given[part][key] = value
    assert faults(given)
