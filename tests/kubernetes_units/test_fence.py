"""Taint rules keep strangers off the devices of managed GPUs alone, on every version of the API that has them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from partita.drive.driver import RefusedError
from partita.kubernetes.api import Listed
from partita.kubernetes.fence import DeviceTaintRule, Fence
from partita.kubernetes.inventory import ClusterGpu
from partita.kubernetes.objects import ExistsError, Kind, NoKindError
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from partita.kubernetes.objects import Body


class Rules:
    """An API server that has device taint rules of one version, or none."""

    def __init__(self, version: str | None) -> None:
        self.version = version
        self.bodies: dict[str, Body] = {}

    def _known(self, kind: Kind[Any]) -> None:
        if kind.version != self.version:
            raise NoKindError(f"the API server does not know {kind.plural} of {kind.api_version}")

    def list_objects(self, kind: Kind[DeviceTaintRule], labels: str = "") -> Listed[DeviceTaintRule]:
        self._known(kind)
        key, _, value = labels.partition("=")
        found = [body for body in self.bodies.values() if body["metadata"]["labels"].get(key) == value]
        return Listed(tuple(msgspec.convert(each, DeviceTaintRule) for each in found), "1", {})

    def create(self, kind: Kind[DeviceTaintRule], body: Body) -> None:
        self._known(kind)
        name = body["metadata"]["name"]
        if name in self.bodies:
            raise ExistsError("it is there already")
        self.bodies[name] = {**body, "metadata": {**body["metadata"], "uid": name}}

    def delete(self, kind: Kind[DeviceTaintRule], name: str, uid: str) -> None:
        self._known(kind)
        assert uid == name
        del self.bodies[name]

    @property
    def selectors(self) -> list[tuple[str, str | None]]:
        found = (each["spec"]["deviceSelector"] for each in self.bodies.values())
        return sorted((each["pool"], each.get("device")) for each in found)


def gpu(node: str, minor: int) -> ClusterGpu:
    devices = MappingProxyType({Placement(0, "3g.20gb"): f"gpu-{minor}-mig-3g20gb-9-0"})
    return ClusterGpu(f"{node}/gpu-{minor}", node, "GPU-1", "A100", gpu_model("a100-40gb"), node, devices)


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1alpha3"])
def test_one_rule_does_for_a_node_that_is_managed_whole(version):
    api = Rules(version)
    fence = Fence(api, "ns.day")  # type: ignore[arg-type]
    gpus = [gpu("n0", 0), gpu("n0", 1), gpu("n1", 0)]
    assert fence.keep(gpus, {"n0": 2, "n1": 1}) == 2
    assert api.selectors == [("n0", None), ("n1", None)]
    assert fence.keep(gpus, {"n0": 2, "n1": 1}) == 0
    assert Fence(api, "ns.day").keep(gpus, {"n0": 2, "n1": 1}) == 0  # type: ignore[arg-type]
    taints = {each["spec"]["taint"]["key"]: each["spec"]["taint"]["effect"] for each in api.bodies.values()}
    assert taints == {"partita.dev/managed": "NoSchedule"}


def test_of_a_node_that_is_shared_only_the_managed_gpus_devices_are_tainted():
    api = Rules("v1")
    Fence(api, "ns.day").keep([gpu("n0", 1)], {"n0": 8})  # type: ignore[arg-type]
    assert api.selectors == [("n0", "gpu-1-mig-3g20gb-9-0")]


def test_rules_that_somebody_took_away_are_made_again():
    api = Rules("v1")
    fence = Fence(api, "ns.day")  # type: ignore[arg-type]
    fence.keep([gpu("n0", 0)], {"n0": 1})
    api.bodies.clear()
    fence.look_again()
    assert fence.keep([gpu("n0", 0)], {"n0": 1}) == 1


def test_only_its_own_rules_are_lifted():
    api = Rules("v1")
    day, night = Fence(api, "ns.day"), Fence(api, "ns.night")  # type: ignore[arg-type]
    day.keep([gpu("n0", 0)], {"n0": 1})
    night.keep([gpu("n1", 0)], {"n1": 1})
    day.lift()
    assert api.selectors == [("n1", None)]


def test_once_lifted_nobody_who_tidies_up_makes_rules_again():
    api = Rules("v1")
    fence = Fence(api, "ns.day")  # type: ignore[arg-type]
    fence.keep([gpu("n0", 0)], {"n0": 1})
    fence.lift()
    fence.look_again()
    assert fence.keep([gpu("n0", 0)], {"n0": 1}) == 0
    assert api.selectors == []


def test_a_cluster_without_rules_is_told_what_to_switch_on():
    with pytest.raises(RefusedError, match="no device taint rules") as caught:
        Fence(Rules(None), "ns.day").keep([gpu("n0", 0)], {"n0": 1})  # type: ignore[arg-type]
    hint = str(caught.value.hint)
    assert "1.37" in hint
    assert "--feature-gates=DRADeviceTaints=true,DRADeviceTaintRules=true" in hint
    assert "--keep-off None" in hint
