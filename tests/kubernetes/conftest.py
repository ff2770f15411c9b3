"""A real control plane for the tests of this folder, which run when the folder or one of them is named.

`make test-kubernetes` builds its programs and runs them; `make test` leaves them alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from tests.kubernetes.control_plane.client import ApiError, Client, path_of
from tests.kubernetes.control_plane.cluster import ControlPlane, folder_of_programs, wait_until
from tests.kubernetes.control_plane.installation import Installation
from tests.kubernetes.control_plane.nodes import SimulatedNodes
from tests.kubernetes.control_plane.shop import Shop
from tests.kubernetes.control_plane.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PLANE = pytest.StashKey[ControlPlane]()


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave this folder out unless it, or something in it, is asked for."""
    named = [Path(argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path == HERE or HERE in path.parents for path in named) else True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what the control plane said, under a test that failed."""
    report = cast("pytest.TestReport", (yield))
    plane = item.config.stash.get(PLANE, None)
    if report.failed and plane is not None:
        report.sections += [(f"log of {name}", text) for name, text in plane.logs().items() if text]
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def control_plane(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """A control plane of this session, from nothing."""
    programs = folder_of_programs()
    if programs is None:
        pytest.skip(
            "there are no programs of a control plane: tests/kubernetes/control_plane/build.sh builds them"
        )
    plane = ControlPlane(programs, tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        request.config.stash[PLANE] = plane
        yield plane
    finally:
        request.config.stash[PLANE] = plane
        plane.stop()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own, with the account that pods need."""
    admin = control_plane.admin
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "test-"}}
    name = str(admin.call("POST", "/api/v1/namespaces", body)["metadata"]["name"])
    wait_until(lambda: admin.find("serviceaccounts", "default", name), 30.0, "the namespace's account")
    yield name
    # What holds devices, and what waits for a controller, goes for good; the rest of the namespace in its own time.
    for plural in ("workloads", "pods", "resourceclaims"):
        remove_all(admin, plural, name)
    admin.delete("namespaces", name)


def remove_all(admin: Client, plural: str, namespace: str | None = None) -> None:
    """Delete all objects of a kind, if there is such a kind, whatever they wait for."""
    if admin.raw("GET", path_of(plural, namespace))[0] == 404:
        return
    for each in admin.objects(plural, namespace):
        meta = each["metadata"]
        if meta.get("finalizers"):
            try:
                admin.patch(plural, meta["name"], {"metadata": {"finalizers": None}}, meta.get("namespace"))
            except ApiError as error:
                if error.code != 404:  # a claim that Kubernetes made for a pod goes with it
                    raise
        admin.delete(plural, meta["name"], meta.get("namespace"), grace=0)


@pytest.fixture
def nodes(control_plane: ControlPlane) -> Iterator[SimulatedNodes]:
    """A node side without nodes yet; those that a test adds go with it."""
    with SimulatedNodes(control_plane) as side:
        yield side


@pytest.fixture
def shop(
    control_plane: ControlPlane, nodes: SimulatedNodes, namespace: str, tmp_path: Path
) -> Iterator[Shop]:
    """Partita on a control plane, with a watcher beside it; nodes and controllers are the test's to add."""
    with (
        Installation(control_plane, namespace, tmp_path) as partita,
        Watcher(control_plane, namespace) as watcher,
    ):
        yield Shop(nodes, partita, watcher, control_plane)
