"""Cuts the empty GPUs of nodes without a DRA driver, through the GPU operator's mig-manager.

The node label `nvidia.com/mig.config` names a config in the ConfigMap that mig-manager mounts. mig-manager applies it
and reports in the label `nvidia.com/mig.config.state`: `pending`, `rebooting`, then `success` or `failed` (github
NVIDIA/mig-parted, cmd/nvidia-mig-manager/reconfigure_mig.go at 19b6772; the GPU operator's page on MIG). A config
gives counts, so mig-manager chooses where instances start, and a GPU whose counts change loses all its instances.
Therefore only nodes on which no pod holds a GPU are cut, and they are cordoned meanwhile.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from partita.errors import PartitaError
from partita.kubernetes.inventory import NODE, NVIDIA, RESOURCE_SLICE, node_inventory
from partita.kubernetes.objects import CONFIG_MAP, ConflictError, Kind, KubernetesObject, NotFoundError
from partita.kubernetes.pods import MANAGER, shortened
from partita.mig_parted import mig_parted_config
from partita.transition.deployment import Layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.inventory import Node
    from partita.kubernetes.objects import Body
    from partita.planning.plan import Plan
    from partita.transition.deployment import DeployedGpu

CONFIG = "nvidia.com/mig.config"
STATE = "nvidia.com/mig.config.state"
CORDONED = "partita.dev/cordoned"
"""Annotation of a node that is cordoned while it is cut."""
_KEY = "config.yaml"
_POLL_S = 1.0
_TRIES = 3


class UsedResources(msgspec.Struct, frozen=True, gc=False):
    """The resources that a container requests."""

    requests: dict[str, Any] = {}
    limits: dict[str, Any] = {}


class UsingContainer(msgspec.Struct, frozen=True, gc=False):
    """A container, with what says whether it holds a GPU."""

    resources: UsedResources = UsedResources()


class UsingSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A pod's spec, with what says whether it holds a GPU."""

    containers: tuple[UsingContainer, ...] = ()
    init_containers: tuple[UsingContainer, ...] = ()


class UsingStatus(msgspec.Struct, frozen=True, gc=False):
    """The phase of a pod."""

    phase: str = "Pending"


class UsingPod(KubernetesObject, frozen=True, gc=False):
    """A pod that may hold a GPU."""

    spec: UsingSpec = UsingSpec()
    status: UsingStatus = UsingStatus()

    @property
    def holds_gpu(self) -> bool:
        """Whether it has not ended and requests a GPU or a MIG device."""
        asked = (
            name
            for each in (*self.spec.containers, *self.spec.init_containers)
            for name in (*each.resources.requests, *each.resources.limits)
        )
        return self.status.phase not in {"Succeeded", "Failed"} and any(
            name.startswith("nvidia.com/") for name in asked
        )


USING_POD = Kind("Pod", "pods", UsingPod)


class NotEmptyError(PartitaError):
    """A node cannot be cut: pods hold its GPUs, or mig-manager does not manage them."""


class CutFailedError(PartitaError):
    """mig-manager did not apply a config."""


@dataclass(frozen=True, slots=True)
class CutNode:
    """A node that is cut: the name of its config, and the seconds that cutting took."""

    node: str
    config: str
    seconds: float


class MigManager:
    """Has mig-manager cut nodes.

    Args:
        api: the cluster's.
        namespace: of the GPU operator.
        config_map: the ConfigMap that mig-manager mounts: the operator's value `migManager.config.name`.
        timeout_s: seconds that a node may take, including a reboot.
        settle_s: seconds until a changed ConfigMap is in mig-manager's volume; before that, a new config fails.
    """

    def __init__(
        self,
        api: KubernetesApi,
        *,
        namespace: str = "gpu-operator",
        config_map: str = "partita-mig-parted-config",
        timeout_s: float = 900.0,
        settle_s: float = 90.0,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._config_map = config_map
        self._timeout_s = timeout_s
        self._settle_s = settle_s

    def cut(
        self, wanted: Plan | Layouts, tell: Callable[[str], None] = lambda _: None
    ) -> tuple[CutNode, ...]:
        """Cut all nodes of a plan, one after another; leave those alone that are cut as planned already.

        Args:
            wanted: layouts of GPUs with ids `NODE/gpu-N`.
            tell: called with each step, as a sentence for the log.

        Raises:
            NotEmptyError: one of the nodes cannot be cut; no node has been changed.
            CutFailedError: mig-manager failed or timed out; the nodes before that one are cut.
            KubernetesError: the cluster does not answer, or refuses.
        """
        by_node: defaultdict[str, list[Any]] = defaultdict(list)
        for gpu in wanted.gpus:
            by_node[gpu.id.rpartition("/")[0]].append(gpu)
        for node, gpus in by_node.items():
            self._require_fit(node, gpus)
            self._require_empty(node)
        return tuple(self._cut_node(node, gpus, tell) for node, gpus in by_node.items())

    def _require_fit(self, name: str, gpus: list[DeployedGpu]) -> Node:
        """Return a node, having checked that it has the plan's GPUs and that mig-manager can cut them.

        Raises:
            NotEmptyError: it has other GPUs, or mig-manager cannot cut them.
        """
        try:
            node = self._api.get(NODE, name)
        except NotFoundError:
            raise NotEmptyError("there is no such node", where=name, hint="kubectl get nodes") from None
        slices = self._api.list_objects(RESOURCE_SLICE, fields=f"spec.nodeName={name}").items
        if any(each.spec.driver == NVIDIA for each in slices):
            hint = "use the DRA driver there: it creates instances when pods start"
            raise NotEmptyError(
                "NVIDIA's DRA driver manages its GPUs, and a GPU can have only one manager",
                where=name,
                hint=hint,
            )
        if not node.ready:
            raise NotEmptyError("the node is not ready", where=name)
        if node.metadata.labels.get("nvidia.com/mig.capable") != "true":
            raise NotEmptyError("its GPUs cannot be cut: nvidia.com/mig.capable is not true", where=name)
        found = node_inventory(name, node, ())
        there = {gpu.id: gpu.model.name if gpu.model else gpu.product for gpu in found.gpus}
        for gpu in gpus:
            if there.get(gpu.id) != gpu.model:
                told = there.get(gpu.id) or f"not there; the node has {len(there)}"
                raise NotEmptyError(f"the plan has {gpu.model} here, and the GPU is {told}", where=gpu.id)
        return node

    def _require_empty(self, name: str) -> None:
        """Check that no pod holds a GPU of a node.

        Raises:
            NotEmptyError: a pod holds one.
        """
        pods = self._api.list_objects(USING_POD, fields=f"spec.nodeName={name}").items
        holding = [f"{each.metadata.namespace}/{each.metadata.name}" for each in pods if each.holds_gpu]
        if holding:
            raise NotEmptyError(
                f"{len(holding)} pods hold its GPUs: {', '.join(sorted(holding)[:3])}",
                where=name,
                hint="mig-manager destroys instances whose counts change; drain the node first",
            )

    def _cut_node(self, name: str, gpus: list[DeployedGpu], tell: Callable[[str], None]) -> CutNode:
        began = time.monotonic()
        (entries,) = mig_parted_config(Layouts(tuple(gpus)))["mig-configs"].values()
        text = yaml.safe_dump(entries, sort_keys=True)
        # mig-manager may miss a label that is removed and set again, so each retry uses the other name.
        base = shortened(f"partita-{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}", 60)
        names = [f"{base}-{letter}" for letter in "ab"]
        node = self._api.get(NODE, name)
        now, state = node.metadata.labels.get(CONFIG), node.metadata.labels.get(STATE)
        if now in names and state == "success":
            tell(f"{name}: the node is cut as planned already")
            return CutNode(name, now, time.monotonic() - began)
        if now == names[0]:
            names.reverse()
        self._write_configs(dict.fromkeys(names, entries))
        mine = not node.spec.unschedulable
        if mine:
            self._cordon(name, on=True)
        try:
            self._require_empty(name)  # again, for pods that came before the cordon
            config = self._apply(name, names, tell)
            self._verify(name, gpus)
        finally:
            if mine:
                self._cordon(name, on=False)
        return CutNode(name, config, time.monotonic() - began)

    def _write_configs(self, wanted: Mapping[str, list[Body]]) -> None:
        """Write configs into the ConfigMap, beside those of other nodes."""
        while True:
            try:
                found = self._api.get(CONFIG_MAP, self._config_map, self._namespace)
            except NotFoundError:
                found = None
            known = yaml.safe_load(found.data.get(_KEY, "")) if found is not None else None
            configs = {**((known or {}).get("mig-configs") or {}), **wanted}
            text = yaml.safe_dump({"version": "v1", "mig-configs": configs}, sort_keys=True)
            if found is not None and found.data.get(_KEY) == text:
                return
            metadata = {"name": self._config_map, "namespace": self._namespace}
            body: Body = {"metadata": metadata, "data": {_KEY: text}}
            try:
                if found is None:
                    self._api.create(CONFIG_MAP, {**body, "metadata": {**metadata, "labels": MANAGER}})
                else:
                    version = {"metadata": {"resourceVersion": found.metadata.resource_version}}
                    changes = {**version, "data": body["data"]}
                    self._api.patch(CONFIG_MAP, self._config_map, changes, self._namespace)
            except ConflictError:
                continue  # another client has changed it meanwhile
            return

    def _cordon(self, name: str, *, on: bool) -> None:
        annotation = {CORDONED: "true" if on else None}
        spec = {"unschedulable": True if on else None}
        self._api.patch(NODE, name, {"metadata": {"annotations": annotation}, "spec": spec})

    def _apply(self, name: str, configs: list[str], tell: Callable[[str], None]) -> str:
        """Have mig-manager apply one of two equal configs; return its name.

        Raises:
            CutFailedError: it failed at each try, or timed out.
        """
        until = time.monotonic() + self._timeout_s
        logs = f"kubectl logs -n {self._namespace} -l app=nvidia-mig-manager"
        for tried in range(_TRIES):
            config = configs[tried % len(configs)]
            # The old state is removed with the old config, so that it cannot be taken for the new config's.
            self._api.patch(NODE, name, {"metadata": {"labels": {CONFIG: config, STATE: None}}})
            tell(f"{name}: mig-manager is to apply {config}")
            state = self._settled(name, until)
            if state == "success":
                return config
            if state != "failed":
                raise CutFailedError(
                    f"mig-manager has not finished in {self._timeout_s:g} s; its state is {state or 'unknown'}",
                    where=name,
                    hint="check that it runs there and mounts the ConfigMap "
                    f"{self._config_map} (migManager.config.name): {logs}",
                )
            if tried + 1 < _TRIES:
                tell(f"{name}: mig-manager failed; the config may not be in its volume yet")
                time.sleep(self._settle_s)
        raise CutFailedError(
            f"mig-manager failed {_TRIES} times to apply {configs[0]}",
            where=name,
            hint=f"check that the operator's migManager.config.name is {self._config_map}: {logs}",
        )

    def _settled(self, name: str, until: float) -> str | None:
        """Return the state in which mig-manager ends, or its state when the time is over."""
        state = None
        while time.monotonic() < until:
            state = self._api.get(NODE, name).metadata.labels.get(STATE)
            if state in {"success", "failed"}:
                return state
            time.sleep(_POLL_S)
        return state

    def _verify(self, name: str, gpus: list[DeployedGpu]) -> None:
        """Compare the counts in the node's labels with the plan; only the MIG strategy `mixed` has such labels.

        Raises:
            CutFailedError: the labels did not reach the plan's counts in time.
        """
        wanted = Counter(each.placement.profile for gpu in gpus for each in gpu.instances)
        found: Mapping[str, int] = {}
        until = time.monotonic() + self._timeout_s
        while time.monotonic() < until:
            labels = self._api.get(NODE, name).metadata.labels
            if labels.get("nvidia.com/mig.strategy") != "mixed":
                return
            found = dict(_counts(labels))
            if found.items() >= wanted.items():
                return
            time.sleep(_POLL_S)
        raise CutFailedError(
            f"the node shows {_words(found)} instead of {_words(wanted)}",
            where=name,
            hint="kubectl describe node " + name,
        )


def _counts(labels: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield the number of instances of each profile, from gpu-feature-discovery's labels."""
    for key, value in labels.items():
        name = key.removeprefix("nvidia.com/mig-")
        if name != key and name.endswith(".count") and value.isdecimal():
            yield name.removesuffix(".count").replace(".me", "+me"), int(value)


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "no instance"
