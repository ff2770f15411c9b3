"""Partita installed on a control plane: its resources, an account with the rights that it needs, its controllers.

Controllers are processes of their own, `partita controller` with the token of a service account, behind a proxy that
counts and refuses what they write. They are killed and started like any program.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml
from tests.kubernetes.control_plane.client import ApiError, Object, path_of
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.proxy import Proxy

from partita.kubernetes.rights import CONTROLLER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kubernetes.control_plane.cluster import ControlPlane, Guard

CRDS = Path(__file__).parents[3] / "deploy" / "crds"
ACCOUNT = "partita-controller"


def install_resources(plane: ControlPlane) -> None:
    """Install Partita's resource definitions."""
    admin = plane.admin
    for path in sorted(CRDS.glob("*.yaml")):
        body = yaml.safe_load(path.read_text())
        name = body["metadata"]["name"]
        at = path_of("customresourcedefinitions", None, name)
        admin.call("PATCH", at, body, "application/apply-patch+yaml", fieldManager="test")
    served = ("workloads", "plans", "transitions")
    wait_until(
        lambda: all(admin.raw("GET", path_of(each))[0] == 200 for each in served), 30.0, "they are served"
    )


class Controller:
    """A running controller.

    Attributes:
        ended: whether the test ended it.
    """

    def __init__(self, guard: Guard, command: list[str], log: Path) -> None:
        self.log = log
        self.ended = False
        self._guard = guard
        with log.open("wb") as file:
            self.process = guard.start(command, file)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def kill(self) -> None:
        """Kill it, as a crash would; return when it is gone."""
        self.ended = True
        self._guard.end(self.process, signal.SIGKILL)

    def end(self) -> None:
        """Ask it to end, and wait."""
        self.ended = True
        self._guard.end(self.process, signal.SIGTERM, 120.0)


class Installation:
    """Partita in a namespace; a context manager that ends its controllers.

    Attributes:
        proxy: between the controllers and the API server.
    """

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        self.plane, self.namespace, self.folder = plane, namespace, folder
        self.admin = plane.admin
        self.proxy = Proxy(plane)
        self.lease = "partita"
        self.running: list[Controller] = []
        install_resources(plane)
        rules = [each.rule for each in CONTROLLER]
        account: Object = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
        self.admin.create("serviceaccounts", {"metadata": {"name": ACCOUNT}}, namespace)
        role = f"{ACCOUNT}-{namespace}"
        self.admin.create("clusterroles", {"metadata": {"name": role}, "rules": rules})
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        binding = {"metadata": {"name": role}, "subjects": [account], "roleRef": reference}
        self.admin.create("clusterrolebindings", binding)
        self._kubeconfig = self.proxy.kubeconfig_of(ACCOUNT, namespace)
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for controller in self.running:
            controller.kill()
        with self.proxy:
            pass
        for plural in ("workloads", "transitions", "plans"):
            for each in self.admin.objects(plural, self.namespace):
                name = each["metadata"]["name"]
                if each["metadata"].get("finalizers"):
                    self.admin.patch(plural, name, {"metadata": {"finalizers": None}}, self.namespace)
                self.admin.delete(plural, name, self.namespace)
        for each in self.admin.objects("devicetaintrules"):
            self.admin.delete("devicetaintrules", each["metadata"]["name"])
        role = f"{ACCOUNT}-{self.namespace}"
        self.admin.delete("clusterrolebindings", role)
        self.admin.delete("clusterroles", role)

    # --- controllers ---

    def start(self, *words: str) -> Controller:
        """Start a controller."""
        self._started += 1
        command = [sys.executable, "-m", "partita", *self.words(*words)]
        found = Controller(self.plane.guard, command, self.folder / f"controller-{self._started}.log")
        self.running.append(found)
        return found

    def words(self, *more: str) -> list[str]:
        """Return the words of a controller's command line."""
        return [
            "controller", "--kubeconfig", str(self._kubeconfig), "--namespace", self.namespace, "--lease", self.lease,
            "--poll", "0.5", "--port", "0", "--hold", "1", "--time-limit", "10", "--start-timeout", "60", *more,
        ]  # fmt: skip

    def leader(self) -> int | None:
        """Return the process id of the controller that holds the lease, None if nobody does."""
        lease = self.admin.find("leases", self.lease, self.namespace)
        found = re.search(r"_(\d+)_", ((lease or {}).get("spec") or {}).get("holderIdentity") or "")
        return int(found[1]) if found else None

    def free_lease(self) -> None:
        """Clear the lease's holder, so that nobody waits for its end."""
        lease = self.admin.find("leases", self.lease, self.namespace)
        if lease is not None:
            lease["spec"]["holderIdentity"] = ""
            try:
                self.admin.replace("leases", lease)
            except ApiError as error:
                if error.code != 409:
                    raise

    # --- workloads ---

    def apply(self, spec: Object, name: str = "shop") -> None:
        """Create or change a Workload."""
        if self.admin.find("workloads", name, self.namespace) is None:
            body = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": name}}
            self.admin.create("workloads", body | {"spec": spec}, self.namespace)
        else:
            self.admin.patch("workloads", name, {"spec": spec}, self.namespace)

    def status(self, name: str = "shop") -> Object:
        """Return a Workload's status."""
        found = self.admin.find("workloads", name, self.namespace) or {}
        return dict(found.get("status") or {})

    def condition(self, kind: str, name: str = "shop") -> Object:
        """Return a condition of a Workload; empty if there is none."""
        found = self.status(name).get("conditions") or ()
        return next((dict(each) for each in found if each["type"] == kind), {})

    def transitions(self) -> list[Object]:
        """Return all Transitions, the oldest first."""
        found = self.admin.objects("transitions", self.namespace)
        return sorted(found, key=lambda each: int(each["metadata"]["name"].rsplit("-", 1)[1]))

    def target(self) -> dict[str, dict[str, str]]:
        """Return what the newest Transition wants: services by GPU and placement, as `Watcher.deployed` has them."""
        found: dict[str, dict[str, str]] = {}
        for group in self.transitions()[-1]["spec"]["target"]:
            for gpu in group["gpus"]:
                placed = {each["at"]: each["service"] for each in group.get("instances") or ()}
                if placed:
                    found[gpu] = dict(sorted(placed.items()))
        return dict(sorted(found.items()))

    def reached(self, name: str = "shop") -> bool:
        """Say whether the Workload's current spec is carried out."""
        body = self.admin.get("workloads", name, self.namespace)
        status = body.get("status") or {}
        transitions = self.transitions()
        return (
            status.get("observedGeneration") == body["metadata"]["generation"]
            and status.get("state") == "Serving"
            and bool(transitions)
            and transitions[-1].get("status", {}).get("state") == "Reached"
        )

    def wait_reached(self, seconds: float = 180.0) -> float:
        """Wait until the Workload is carried out; return how long it took."""
        begin = time.monotonic()
        self.wait(self.reached, "the workload is carried out", seconds)
        return time.monotonic() - begin

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Wait for a condition; a failure shows the controllers' logs.

        Raises:
            AssertionError: it did not come true in time.
        """

        def come() -> bool:
            for each in self.running:
                if each.process.poll() is not None and not each.ended:
                    raise TimeoutError(f"a controller ended with {each.process.returncode} before {what}")
            return bool(condition())

        try:
            wait_until(come, seconds, what, every=0.2)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.status()}\n{self.said()}") from None

    def said(self) -> str:
        """Return the end of the controllers' logs."""
        return "\n".join(each.log.read_text(errors="replace")[-3000:] for each in self.running[-3:])
