"""The programs helm, kubeconform and kubectl, as `build.sh` builds them; and RBAC for tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.kubernetes.control_plane.cluster import folder_of_programs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.kubernetes.control_plane.cluster import ControlPlane

    from partita.kubernetes.rights import Right

Object = dict[str, Any]
_REFERENCE = re.compile(r'"#/definitions/([^"]+)"')
DEPLOY = Path(__file__).parents[3] / "deploy"


def program(name: str) -> Path:
    """Return a program, built or the system's; the test is skipped where there is neither."""
    folder = folder_of_programs()
    found = shutil.which(name, path=f"{folder or ''}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"there is no {name}: tests/kubernetes/control_plane/build.sh builds it")
    return Path(found)


def run(name: str, *words: str | Path, stdin: str | None = None, code: int | None = 0) -> str:
    """Run a program, and return its output.

    Raises:
        AssertionError: it ends with another exit code.
    """
    command = [program(name), *words]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=480, check=False)
    assert code is None or done.returncode == code, (
        f"{name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done.stdout + (done.stderr if code != 0 else "")


def rendered(*words: str, namespace: str = "partita-system", release: str = "partita") -> list[Object]:
    """Return the objects of the chart."""
    text = run("helm", "template", release, DEPLOY / "chart", "--namespace", namespace, *words)
    return [each for each in yaml.safe_load_all(text) if each]


def schemas(plane: ControlPlane, folder: Path) -> str:
    """Write the schemas of the server's own kinds, and return their location in kubeconform's format."""
    code, content = plane.admin.raw("GET", "/openapi/v2")
    assert code == 200
    definitions: Object = json.loads(content)["definitions"]
    for each in definitions.values():
        _strict(each)
    for name, each in definitions.items():
        for kind in each.get("x-kubernetes-group-version-kind", ()):
            group = kind["group"].split(".")[0]
            parts = [kind["kind"].lower(), *([group] if group else []), kind["version"].lower()]
            needed = {other: definitions[other] for other in _needed(name, definitions)}
            document = {"definitions": needed, "$ref": f"#/definitions/{name}"}
            (folder / f"{'-'.join(parts)}.json").write_text(json.dumps(document))
    return f"{folder}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"


def _needed(name: str, definitions: Object) -> set[str]:
    """Return a definition's name with those of all that it refers to: all of them are 4 MB."""
    found, new = set(), {name}
    while new:
        found |= new
        refers = {other for each in new for other in _REFERENCE.findall(json.dumps(definitions[each]))}
        new = refers - found
    return found


def _strict(schema: Object) -> None:
    if schema.get("format") == "int-or-string":
        del schema["format"], schema["type"]
        schema["type"] = ["string", "integer"]
    if schema.get("type") == "object" and "properties" in schema:
        schema["additionalProperties"] = False


def grant(plane: ControlPlane, account: str, namespace: str, rights: Iterable[Right]) -> Path:
    """Create an account with exactly these rights in the whole cluster; return its kubeconfig."""
    admin, role = plane.admin, f"{account}-{namespace}"
    if admin.find("serviceaccounts", account, namespace) is None:
        admin.create("serviceaccounts", {"metadata": {"name": account}}, namespace)
    body = {"metadata": {"name": role}, "rules": [each.rule for each in rights]}
    if admin.find("clusterroles", role) is None:
        admin.create("clusterroles", body)
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
        admin.create(
            "clusterrolebindings", {"metadata": {"name": role}, "subjects": [subject], "roleRef": reference}
        )
    else:
        admin.patch("clusterroles", role, {"rules": body["rules"]})
    return plane.kubeconfig_of(account, namespace)


def revoke(plane: ControlPlane, account: str, namespace: str) -> None:
    """Remove the role of an account."""
    for plural in ("clusterrolebindings", "clusterroles"):
        plane.admin.delete(plural, f"{account}-{namespace}")
