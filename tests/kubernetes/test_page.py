"""docs/kubernetes.md, from top to bottom: its commands are run, with real workers behind a real gateway.

Nothing runs the pods of Partita itself, since there is no image: the controller and the gateway are started here with
the arguments of their Deployments and the rights of their accounts.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.kubernetes.conftest import remove_all
from tests.kubernetes.control_plane.client import ApiError
from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.hosts import LiveRuntime, Network
from tests.kubernetes.control_plane.nodes import SimulatedNodes, Timing
from tests.kubernetes.control_plane.tools import program, run
from tests.process.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kubernetes.control_plane.cluster import ControlPlane

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "kubernetes.md"
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n)?```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
NOT_RUN_S = 400.0


def blocks() -> Iterator[tuple[str, str | None]]:
    """Yield each block of commands, and why it is not run."""
    for found in _BLOCK.finditer(PAGE.read_text()):
        yield found["text"], found["why"]


class Reader:
    """Somebody who types what the page says, in a cluster in which the Deployments' programs run here."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.folder = plane, folder
        self.admin = plane.admin
        self.gateway_port = free_ports(1)[0]
        self._started: list[subprocess.Popen[bytes]] = []
        path = os.pathsep.join({str(Path(sys.executable).parent): 1, str(program("helm").parent): 1})
        self._environment = os.environ | {
            "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
            "KUBECONFIG": str(plane.kubeconfig("admin")),
            "GATEWAY": f"http://127.0.0.1:{self.gateway_port}",
            "HOME": str(folder),
            "NO_COLOR": "1",
        }
        for name in ("deploy", "examples"):
            (folder / name).symlink_to((ROOT / name).resolve())

    def type(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=self._environment, capture_output=True,
            text=True, timeout=NOT_RUN_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout + done.stderr

    def run_deployment(self, name: str, **replaced: str) -> None:
        """Run the program of a Deployment as its account, with its Secrets in files."""
        spec = self.admin.get("deployments", name, "partita-system")["spec"]["template"]["spec"]
        words = [_replaced(each, replaced) for each in spec["containers"][0]["args"]]
        kubeconfig = self.plane.kubeconfig_of(spec["serviceAccountName"], "partita-system")
        command = [sys.executable, "-m", "partita", *words, "--kubeconfig", str(kubeconfig)]
        with (self.folder / f"{name}.log").open("wb") as log:
            self._started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder))

    def published(self, plural: str) -> bool:
        """Say whether clients can find a kind of Partita's by its plural name."""
        try:
            found = self.admin.call("GET", "/apis/partita.dev/v1alpha1")["resources"]
        except ApiError:
            return False
        return any(each["name"] == plural for each in found)

    def gateway_listens(self) -> bool:
        """Say whether a connection to the gateway is accepted; a person would have waited for its Deployment."""
        try:
            socket.create_connection(("127.0.0.1", self.gateway_port), 5.0).close()
        except OSError:
            return False
        return True

    def secret(self, name: str, namespace: str) -> Path:
        text = self.type(
            f"kubectl get secret {name} -n {namespace} -o jsonpath='{{.data.token}}' | base64 --decode"
        )
        path = self.folder / f"{namespace}-{name}"
        path.write_text(text)
        return path

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for each in self._started:
            each.kill()
            each.wait()


def _replaced(word: str, replaced: dict[str, str]) -> str:
    name, _, value = word.partition("=")
    found = replaced.get(name.lstrip("-").replace("-", "_"))
    return word if found is None else f"{name}={found or value}"


def test_the_page_says_why_what_is_not_run_is_not() -> None:
    found = list(blocks())
    assert len(found) >= 10
    assert sum(why is None for _, why in found) >= 8


def test_the_page_leads_from_an_empty_cluster_to_a_served_query(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    program("kubectl")
    reader = Reader(control_plane, tmp_path)
    tokens: dict[str, Path] = {}

    def worker(pod: dict[str, Any]) -> list[str]:
        """Return what the image would run for a pod of the Workload, with its Secret in a file."""
        arguments = pod["spec"]["containers"][0].get("args", ())
        path = tokens.setdefault("workers", reader.secret("workers", "shop"))
        told = [str(path) if each == "/secrets/token" else each for each in arguments]
        return [sys.executable, "-m", "partita", *told]

    with (
        Network(3) as network,
        LiveRuntime(control_plane.guard, worker) as runtime,
        SimulatedNodes(control_plane, Timing(scale=0.05), runtime) as side,
    ):
        names = side.add_nodes(3, 8, "a100-80gb")
        runtime.hosts = dict(zip(names, network.hosts, strict=True))
        said: dict[str, str] = {}
        logs = ""
        try:
            for text, why in blocks():
                if why is None:
                    if "helm install" in text:
                        install, listing, text_after = text.partition("kubectl get workloads")
                        said[text] = reader.type(install)
                        # Servers publish new kinds some moments after they accept them; a person types no faster.
                        wait_until(lambda: reader.published("transitions"), 60.0, "the kinds are published")
                        said[text] += reader.type(listing + text_after)
                        reader.run_deployment(
                            "partita-controller", port="0", dash_port="0", hold="1", poll="0.5"
                        )
                        continue
                    first, release, rest = text.partition("helm uninstall")
                    said[text] = reader.type(first)
                    if release:
                        # With the release go the roles of its programs, which go on here.
                        logs = reader.logs()
                        said[text] += reader.type(release + rest)
                if "helm upgrade" in text:
                    reader.run_deployment(
                        "partita-gateway", listen="127.0.0.1", port=str(reader.gateway_port), grpc_port="0",
                        token_file=str(reader.secret("clients", "partita-system")),
                        worker_token_file=str(reader.secret("workers", "partita-system")),
                    )  # fmt: skip
                    wait_until(reader.gateway_listens, 60.0, "the gateway listens")
        finally:
            reader.close()
        whole = "\n".join(said.values())
        assert logs
        assert "no right to" not in logs
        assert re.search(r"GPUs of the cluster that are free: 24 of a100-80gb", whole)
        assert re.search(r"shop +Serving", whole)
        assert re.search(r'"outputs":', whole)
        assert re.search(r"shop-\d+ is approved: \d+ GPUs for shop", whole)
        wait_until(lambda: not control_plane.admin.objects("workloads"), 30.0, "the Workload is gone")


@pytest.fixture(autouse=True)
def empty_cluster(control_plane: ControlPlane) -> Iterator[None]:
    """A cluster that has never heard of Partita, and has no release of it in the end."""
    admin = control_plane.admin
    remove_all(admin, "workloads")
    for each in admin.objects("customresourcedefinitions"):
        admin.delete("customresourcedefinitions", each["metadata"]["name"])
    wait_until(lambda: not admin.objects("customresourcedefinitions"), 60.0, "Partita's resources are gone")
    yield
    config = f"--kubeconfig={control_plane.kubeconfig('admin')}"
    run("helm", config, "uninstall", "partita", "--namespace", "partita-system", "--ignore-not-found")
    for plural in ("workloads", "pods", "resourceclaims"):
        remove_all(admin, plural)
    for name in ("shop", "partita-system"):
        admin.delete("namespaces", name)
    wait_until(
        lambda: not (admin.find("namespaces", "shop") or admin.find("namespaces", "partita-system")),
        60.0,
        "the namespaces are gone",
    )
    for each in control_plane.admin.objects("devicetaintrules"):
        control_plane.admin.delete("devicetaintrules", each["metadata"]["name"])
