"""Test hosts: network namespaces on a bridge, with addresses of 10.x that reach each other and this process.

A host has a bridge of its own behind one link, and each pod on it a namespace with the pod's address: `cut` takes the
link down and with it all that runs there, as when a cable is pulled. `LiveRuntime` runs pods' commands as processes
there, for `nodes.SimulatedNodes`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.kubernetes.control_plane.client import Object
    from tests.kubernetes.control_plane.cluster import Guard

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21


def _ip(*words: object) -> None:
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(map(str, words))}: {done.stderr.strip()}")


def _octets() -> set[int]:
    """Return the networks that others have here, each by the second number of its addresses."""
    told = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    return {int(found) for found in re.findall(r" 10\.(\d+)\.", told)}


def _sweep() -> None:
    """Remove the leftovers of killed tests: names contain the process id of the test."""
    for folder, kept, words in (
        ("/run/netns", r"pt([0-9a-f]+)h\d+p\d+", ("netns", "del")),
        ("/sys/class/net", r"pt([0-9a-f]+)(?:br|h\d+[bu])", ("link", "del")),
    ):
        for each in Path(folder).iterdir() if Path(folder).is_dir() else ():
            found = re.fullmatch(kept, each.name)
            if found and not Path(f"/proc/{int(found[1], 16)}").exists():
                with contextlib.suppress(RuntimeError):  # another test was faster
                    _ip(*words, each.name)


def why_no_hosts() -> str | None:
    """Return why test hosts are impossible on this machine, None if they are possible."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    found = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")
    )
    capabilities = int(found.split()[1], 16)
    if not (capabilities >> CAP_NET_ADMIN & 1 and capabilities >> CAP_SYS_ADMIN & 1):
        return "network namespaces need CAP_NET_ADMIN and CAP_SYS_ADMIN"
    return None


class Host:
    """A host: its link to other hosts, and the network namespaces of its pods."""

    def __init__(self, network: Network, index: int) -> None:
        self.network, self.index = network, index
        self.name = f"{network.tag}h{index}"
        self.subnet = f"10.{network.octet}.{index}"
        self._next = 2
        self._spaces: list[str] = []
        # `up` is the network's end of the link; pods join the bridge at the other end.
        _ip("link", "add", f"{self.name}u", "type", "veth", "peer", "name", f"{self.name}d")
        _ip("link", "add", f"{self.name}b", "type", "bridge")
        _ip("link", "set", f"{self.name}u", "master", network.bridge)
        _ip("link", "set", f"{self.name}d", "master", f"{self.name}b")
        for end in "dbu":
            _ip("link", "set", f"{self.name}{end}", "up")

    def space(self) -> tuple[str, str]:
        """Add a network namespace with an address; return its name and the address."""
        name, address = f"{self.name}p{self._next}", f"{self.subnet}.{self._next}"
        self._next += 1
        _ip("netns", "add", name)
        self._spaces.append(name)
        _ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", f"{name}v", "master", f"{self.name}b", "up")
        _ip("-n", name, "addr", "add", f"{address}/16", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "route", "add", "default", "via", self.network.address)
        return name, address

    def leave(self, space: str) -> None:
        """Delete a namespace and its link."""
        if space in self._spaces:
            self._spaces.remove(space)
            _ip("netns", "del", space)

    def cut(self) -> None:
        """Disconnect the host: packets to and from it are dropped silently."""
        _ip("link", "set", f"{self.name}u", "down")

    def join(self) -> None:
        """Connect the host again."""
        _ip("link", "set", f"{self.name}u", "up")

    def close(self) -> None:
        """Delete the host."""
        for space in list(self._spaces):
            self.leave(space)
        for end in "bu":
            _ip("link", "del", f"{self.name}{end}")


class Network:
    """A bridge with hosts on it; a context manager. This process is at `address`."""

    def __init__(self, hosts: int) -> None:
        why = why_no_hosts()
        if why is not None:
            pytest.skip(f"no test hosts: {why}")
        _sweep()
        self.tag = f"pt{os.getpid():x}"
        self.octet = secrets.choice(sorted(set(range(100, 200)) - _octets()))
        self.bridge = f"{self.tag}br"
        self.address = f"10.{self.octet}.0.1"
        self.hosts: list[Host] = []
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/16", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        try:
            for index in range(1, hosts + 1):
                self.hosts.append(Host(self, index))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete everything."""
        for host in self.hosts:
            host.close()
        _ip("link", "del", self.bridge)


class LiveContainer:
    """The process of a pod's container in a network namespace of a host, and those of its sidecars.

    Sidecars are started before it, and end after it.
    """

    def __init__(
        self,
        guard: Guard,
        host: Host,
        command: list[str],
        container: Object,
        log: Path,
        *,
        sidecars: Sequence[list[str]] = (),
    ) -> None:
        self._guard, self._host, self._log = guard, host, log
        self._probe: Object = container.get("readinessProbe") or {}
        self._space, self._address = host.space()
        env = {each["name"]: each.get("value", "") for each in container.get("env") or ()}
        told = os.environ | env | {"POD_IP": self._address}
        inside = ["ip", "netns", "exec", self._space]
        with log.open("wb") as file:
            self._sidecars = [guard.start([*inside, *each], file, env=told) for each in sidecars]
            self.process = guard.start([*inside, *command], file, env=told)

    @property
    def ip(self) -> str:
        """Its address."""
        return self._address

    def ready(self) -> bool:
        """Run its readiness probe from this process; without a probe it is always ready."""
        probe = self._probe
        if "httpGet" in probe:
            at = probe["httpGet"]
            connection = http.client.HTTPConnection(self._address, int(at["port"]), timeout=1.0)
            try:
                connection.request("GET", at.get("path", "/"))
                return 200 <= connection.getresponse().status < 400
            except (OSError, http.client.HTTPException):
                return False
            finally:
                connection.close()
        if "tcpSocket" in probe:
            try:
                socket.create_connection((self._address, int(probe["tcpSocket"]["port"])), 1.0).close()
            except OSError:
                return False
        return True

    def poll(self) -> int | None:
        """Return its exit code as a shell reports it; None while it runs."""
        code = self.process.poll()
        return None if code is None else (128 - code if code < 0 else code)

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill it and its sidecars, and delete its namespace."""
        for process in (self.process, *self._sidecars):
            self._guard.end(process, signal.SIGKILL)
        self._host.leave(self._space)

    def log(self) -> str:
        """Return its output."""
        return self._log.read_text(errors="replace")

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def _command_of(container: Object) -> list[str]:
    return [*container.get("command", ()), *container.get("args", ())]


class LiveRuntime:
    """Runs a pod's first container and its sidecars on the host of its node; a context manager around the node side.

    Args:
        guard: ends the processes with this one.
        command: what to run for a pod in place of its own command.

    Attributes:
        hosts: by the node's name; pods of other nodes are simulated.
    """

    def __init__(self, guard: Guard, command: Callable[[Object], list[str]] | None = None) -> None:
        self.guard = guard
        self.hosts: dict[str, Host] = {}
        self.containers: dict[str, LiveContainer] = {}
        self._command = command
        self._folder = Path(tempfile.mkdtemp(prefix="partita-pods-"))

    def start(self, node: str, pod: Object) -> LiveContainer | None:
        """Start a pod's process."""
        host = self.hosts.get(node)
        container = pod["spec"]["containers"][0]
        command = self._command(pod) if self._command else _command_of(container)
        beside = pod["spec"].get("initContainers") or ()
        sidecars = [_command_of(each) for each in beside if each.get("restartPolicy") == "Always"]
        if host is None or not command:
            return None
        log = self._folder / f"{pod['metadata']['uid']}-{len(self.containers)}.log"
        found = LiveContainer(self.guard, host, command, container, log, sidecars=sidecars)
        self.containers[f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"] = found
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
