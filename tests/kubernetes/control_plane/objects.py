"""Claims and pods for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.client import Object


def claim_object(name: str, expression: str | None = None, labels: dict[str, str] | None = None) -> Object:
    """Return a claim of one MIG device, any one or one that matches a CEL expression."""
    exactly: Object = {"deviceClassName": "mig.nvidia.com"}
    if expression is not None:
        exactly["selectors"] = [{"cel": {"expression": expression}}]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
    }


def pod_object(
    name: str,
    claim: str,
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    grace: int = 30,
    restart: str = "Always",
    command: list[str] | None = None,
) -> Object:
    """Return a pod of one container that holds a claim."""
    container: Object = {"name": "main", "image": "test", "resources": {"claims": [{"name": "gpu"}]}}
    if command is not None:
        container["command"] = command
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}, "annotations": annotations or {}},
        "spec": {
            "terminationGracePeriodSeconds": grace,
            "restartPolicy": restart,
            "containers": [container],
            "resourceClaims": [{"name": "gpu", "resourceClaimName": claim}],
        },
    }
