"""A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok.

Its programs are those of `build.sh`. RBAC is on, TLS is verified, and every client has a user of its own. Whatever
happens to the tests' process, the programs end with it: a guard process kills them when the pipe to it closes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import yaml
from tests.kubernetes.control_plane.certificates import Authority, Pair
from tests.kubernetes.control_plane.client import BROKEN, ApiError, Client, path_of
from tests.process.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
PROGRAMS = ("etcd", "kwok", "kube-scheduler", "kube-controller-manager", "kube-apiserver")

GUARD = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    sign, group = line[0], int(line[1:])
    groups.add(group) if sign == "+" else groups.discard(group)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
"""Reads process groups that live, and kills them when its input ends: when the tests' process is gone, however."""


def folder_of_programs() -> Path | None:
    """Return where `build.sh` puts the programs, None if they are not there."""
    version = "1.37.2"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    default = cache / "partita" / "control-plane" / version
    folder = Path(os.environ.get("PARTITA_CONTROL_PLANE") or default) / "bin"
    return folder if all(os.access(folder / each, os.X_OK) for each in PROGRAMS) else None


def needed_programs() -> Path:
    """Return where `build.sh` puts the programs.

    Raises:
        FileNotFoundError: they are not there.
    """
    found = folder_of_programs()
    if found is None:
        raise FileNotFoundError("build the control plane first: tests/kubernetes/control_plane/build.sh")
    return found


PATIENCE = 4.0
"""How many times as long as on an idle machine is waited, since many tests share a machine with much else."""


def wait_until(condition: Callable[[], object], seconds: float, what: str, every: float = 0.05) -> None:
    """Wait for a condition.

    Args:
        condition: is asked again and again.
        seconds: within which it is due on an idle machine.
        what: is waited for, in words.
        every: so many seconds.

    Raises:
        TimeoutError: it did not come true in time.
    """
    until = time.monotonic() + PATIENCE * seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {PATIENCE * seconds:g} s: {what}")
        time.sleep(every)


class Guard:
    """Starts processes that end when this process ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def start(self, command: list[str], log: BinaryIO, **more: object) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own; `more` goes to `Popen`."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True, **more)  # type: ignore[call-overload]  # fmt: skip
        self.adopt(process.pid)
        return process  # type: ignore[no-any-return]

    def adopt(self, group: int) -> None:
        """Have a process group end with this process that was started by other means."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """Take it for ended."""
        self._tell(f"-{group}")

    def end(self, process: subprocess.Popen[bytes], sign: int = signal.SIGTERM, seconds: float = 5.0) -> None:
        """End a process and all of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.forget(process.pid)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Kill what still runs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class ControlPlane:
    """One control plane.

    Attributes:
        programs: folder of the programs.
        folder: for state, logs, keys and kubeconfigs; wiped at the start.
        node_seconds: how long a node may be silent until it counts as lost; kwok speaks four times as often.
        gates: feature gates, as `Name=true,Other=false`.
    """

    programs: Path
    folder: Path
    node_seconds: int = 24
    gates: str = ""
    guard: Guard = field(default_factory=Guard)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Start all programs; return when the API server is ready and nodes can be made."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "log").mkdir(parents=True)
        self.authority = Authority(self.folder / "pki")
        self._ports = dict(
            zip(("etcd", "peer", "api", "kcm", "scheduler", "kwok"), free_ports(6), strict=True)
        )
        self.url = f"https://127.0.0.1:{self._ports['api']}"
        self._server = self.authority.sign("server", "kube-apiserver", addresses=("127.0.0.1", "localhost"))
        self.kubelet_client = self.authority.sign(
            "kubelet-client", "kube-apiserver-kubelet-client", "system:masters"
        )
        self._tokens = self.authority.signing_key("service-accounts")
        for name, user, group in (
            ("admin", "admin", "system:masters"),
            ("nodes", "simulated-nodes", "system:masters"),
            ("watcher", "watcher", "system:masters"),
            ("kwok", "kwok", "system:masters"),
            ("kcm", "system:kube-controller-manager", ""),
            ("scheduler", "system:kube-scheduler", ""),
        ):
            self._write_kubeconfig(name, self.authority.sign(name, user, group))
        self._start_etcd()
        self.start_apiserver()
        self._start("kcm", "kube-controller-manager", *self._component("kcm"),
                    f"--service-account-private-key-file={self._tokens[0]}", "--use-service-account-credentials",
                    f"--root-ca-file={self.authority.own.certificate}",
                    f"--node-monitor-grace-period={self.node_seconds}s", "--node-monitor-period=1s",
                    "--kube-api-qps=200", "--kube-api-burst=400")  # fmt: skip
        self.start_scheduler()
        config = self.folder / "kwok.yaml"
        config.write_text((HERE / "kwok.yaml").read_text())
        self._start("kwok", "kwok", f"--kubeconfig={self.kubeconfig('kwok')}", f"--config={config}",
                    "--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                    f"--node-lease-duration-seconds={self.node_seconds}",
                    f"--server-address=127.0.0.1:{self._ports['kwok']}")  # fmt: skip
        self.admin = Client(self.kubeconfig("admin"))
        wait_until(
            lambda: self.admin.find("serviceaccounts", "default", "default"), 60.0, "a default account"
        )

    def stop(self) -> None:
        """End all programs, the API server before its store."""
        for name in ("kwok", "scheduler", "kcm", "apiserver", "etcd"):
            if name in self._running:
                self._end(name, signal.SIGKILL)
        self.guard.close()
        self.admin.close()

    def kubeconfig(self, name: str) -> Path:
        """Return the kubeconfig of one of the harness's own users."""
        return self.folder / f"{name}.kubeconfig"

    def kubeconfig_of(self, account: str, namespace: str, url: str | None = None) -> Path:
        """Return a kubeconfig with a service account's token: for a program that runs with its own rights.

        Args:
            url: another address than the API server's own, such as a proxy's.
        """
        answer = self.admin.call(
            "POST",
            path_of("serviceaccounts", namespace, account, "token"),
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 7200},
            },
        )
        user = {"token": answer["status"]["token"]}
        return self._write(f"{namespace}-{account}", user, url, namespace)

    def kubeconfig_as(self, name: str, user: str, group: str = "", url: str | None = None) -> Path:
        """Return a kubeconfig of a user with a certificate."""
        return self._write_kubeconfig(name, self.authority.sign(name, user, group), url)

    def _write_kubeconfig(self, name: str, pair: Pair, url: str | None = None) -> Path:
        return self._write(
            name, {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}, url
        )

    def _write(self, name: str, user: dict[str, str], url: str | None, namespace: str = "default") -> Path:
        cluster = {"server": url or self.url, "certificate-authority": str(self.authority.own.certificate)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": name, "namespace": namespace}}
            ],
            "current-context": "test",
        }
        path = self.kubeconfig(name)
        path.touch(0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    def _component(self, name: str) -> list[str]:
        at = self.kubeconfig(name)
        flags = [f"--kubeconfig={at}", f"--authentication-kubeconfig={at}", f"--authorization-kubeconfig={at}",
                 "--bind-address=127.0.0.1", f"--secure-port={self._ports[name]}",
                 f"--cert-dir={self.folder / 'pki'}", "--leader-elect=false"]  # fmt: skip
        return flags + ([f"--feature-gates={self.gates}"] if self.gates else [])

    def _start(self, name: str, program: str, *flags: str) -> None:
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            self._running[name] = self.guard.start([str(self.programs / program), *flags], log)

    def _end(self, name: str, sign: int) -> None:
        self.guard.end(self._running.pop(name), sign)

    def _start_etcd(self) -> None:
        here = f"http://127.0.0.1:{self._ports['etcd']}"
        peer = f"http://127.0.0.1:{self._ports['peer']}"
        self._start("etcd", "etcd", f"--data-dir={self.folder / 'etcd'}", f"--listen-client-urls={here}",
                    f"--advertise-client-urls={here}", f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
                    "--unsafe-no-fsync", "--log-level=warn")  # fmt: skip

    # --- faults ---

    def start_apiserver(self, seconds: float = 120.0) -> None:
        """Start the API server; return when it is ready.

        Raises:
            RuntimeError: it ended.
            TimeoutError: it is not ready in time.
        """
        private, public = self._tokens
        self._start(
            "apiserver", "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._ports['etcd']}", "--bind-address=127.0.0.1",
            f"--secure-port={self._ports['api']}", f"--tls-cert-file={self._server.certificate}",
            f"--tls-private-key-file={self._server.key}", f"--client-ca-file={self.authority.own.certificate}",
            "--authorization-mode=Node,RBAC", "--anonymous-auth=false", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}", "--endpoint-reconciler-type=none",
            f"--kubelet-client-certificate={self.kubelet_client.certificate}",
            f"--kubelet-client-key={self.kubelet_client.key}", "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={self.authority.own.certificate}",
            "--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000", "--shutdown-delay-duration=0s",
            *([f"--feature-gates={self.gates}"] if self.gates else []),
        )  # fmt: skip
        client = Client(self.kubeconfig("admin"), timeout=5.0)

        def ready() -> bool:
            process = self._running["apiserver"]
            if process.poll() is not None:
                raise RuntimeError(
                    f"kube-apiserver ended with {process.returncode}:\n{self.log('apiserver', 5)}"
                )
            try:
                return client.raw("GET", "/readyz")[0] == 200
            except BROKEN:
                return False

        try:
            wait_until(ready, seconds, "kube-apiserver is ready", every=0.2)
        finally:
            client.close()

    def kill_apiserver(self, seconds: float | None = None) -> None:
        """Kill the API server; with `seconds`, start it again after so long."""
        self._end("apiserver", signal.SIGKILL)
        if seconds is not None:
            time.sleep(seconds)
            self.start_apiserver()

    def restart_apiserver(self) -> None:
        """Kill the API server and start it again: all watches break."""
        self.kill_apiserver(0.0)

    @contextlib.contextmanager
    def apiserver_away(self) -> Iterator[None]:
        """Stop the API server while the block runs."""
        self.kill_apiserver()
        try:
            yield
        finally:
            self.start_apiserver()

    def start_scheduler(self) -> None:
        """Start the scheduler."""
        self._start("scheduler", "kube-scheduler", *self._component("scheduler"),
                    "--kube-api-qps=500", "--kube-api-burst=1000",
                    "--pod-max-in-unschedulable-pods-duration=20s")  # fmt: skip

    def kill_scheduler(self) -> None:
        """Kill the scheduler; `start_scheduler` starts another."""
        self._end("scheduler", signal.SIGKILL)

    def compact(self) -> None:
        """Forget past versions in the store: a watch from one of them is refused (410) after a restart."""
        here = f"http://127.0.0.1:{self._ports['etcd']}/v3/kv"
        key = base64.b64encode(b"\0").decode()
        revision = _post(f"{here}/range", {"key": key, "range_end": key, "limit": "1", "keys_only": True})
        _post(f"{here}/compaction", {"revision": revision["header"]["revision"], "physical": True})

    # --- state ---

    def pid(self, name: str) -> int:
        """Return the process id of `etcd`, `apiserver`, `kcm`, `scheduler` or `kwok`."""
        return self._running[name].pid

    def log(self, name: str, lines: int = 40) -> str:
        """Return the last lines of a program's log."""
        path = self.folder / "log" / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def logs(self) -> dict[str, str]:
        """Return the last lines of each program's log, warnings and errors alone where there are many."""
        found = {}
        for path in sorted((self.folder / "log").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            bad = [line for line in lines if not line.startswith("I") and '"level":"INFO"' not in line]
            found[path.stem] = "\n".join(bad[-20:])
        return found

    def metrics(self, name: str) -> dict[str, float]:
        """Return the API server's counters whose name begins so, by name and labels."""
        code, content = self.admin.raw("GET", "/metrics")
        if code != 200:
            raise ApiError(code, {"message": "no metrics"})
        lines = (line.rsplit(" ", 1) for line in content.decode().splitlines() if line.startswith(name))
        return {key: float(value) for key, value in lines}


def _post(url: str, body: object) -> dict[str, dict[str, str]]:
    request = urllib.request.Request(  # noqa: S310
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return dict(json.load(answer))
