"""GPUs are read from ResourceSlices and labels in the shapes that NVIDIA's programs publish."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from partita.kubernetes.inventory import (
    GpuCondition,
    Node,
    ResourceSlice,
    mebibytes,
    node_inventory,
    read_inventory,
)
from partita.mig.layout import Placement

Object = dict[str, Any]


COMMON: Object = {
    "addressingMode": {"string": "None"},
    "architecture": {"string": "Ampere"},
    "brand": {"string": "Nvidia"},
    "cudaComputeCapability": {"version": "8.0.0"},
    "cudaDriverVersion": {"version": "13.2.0"},
    "driverVersion": {"version": "595.58.3"},
    "resource.kubernetes.io/pciBusID": {"string": "0000:3b:00.0"},
    "resource.kubernetes.io/pcieRoot": {"string": "pci0000:3a"},
}
"""What an A30's devices say beside what tells them apart: dra-driver-nvidia-gpu, pull request 1018."""
UUID = "GPU-ddf64803-f421-0e5b-883e-cd752de16db7"


def mig(name: str, profile: str, memory: str, product: str = "NVIDIA A30", **more: Any) -> Object:
    """Return a MIG device as dynamic MIG publishes it."""
    start = int(name.rsplit("-", 1)[1])
    return {
        "name": name,
        "attributes": {
            **COMMON,
            "type": {"string": "mig"},
            "profile": {"string": profile},
            "productName": {"string": product},
            "parentUUID": {"string": UUID},
        },
        "capacity": {"memory": {"value": memory}, "multiprocessors": {"value": "14"}},
        "consumesCounters": [
            {"counterSet": "gpu-0-counter-set", "counters": {f"memory-slice-{start}": {"value": "1"}}}
        ],
        **more,
    }


def whole(name: str, product: str, memory: str = "80Gi", uuid: str = UUID, **more: Any) -> Object:
    """Return a whole GPU."""
    attributes = {
        **COMMON,
        "type": {"string": "gpu"},
        "productName": {"string": product},
        "uuid": {"string": uuid},
    }
    return {"name": name, "attributes": attributes, "capacity": {"memory": {"value": memory}}, **more}


A30_DEVICES = [
    mig("gpu-0-mig-1g6gb-14-0", "1g.6gb", "5952Mi"),
    mig("gpu-0-mig-1g6gb-14-1", "1g.6gb", "5952Mi"),
    mig("gpu-0-mig-1g6gb-14-2", "1g.6gb", "5952Mi"),
    mig("gpu-0-mig-1g6gb-14-3", "1g.6gb", "5952Mi"),
    mig("gpu-0-mig-1g6gb-me-21-0", "1g.6gb+me", "5952Mi"),
    mig("gpu-0-mig-2g12gb-5-0", "2g.12gb", "11968Mi"),
    mig("gpu-0-mig-2g12gb-5-2", "2g.12gb", "11968Mi"),
    mig("gpu-0-mig-4g24gb-0-0", "4g.24gb", "23936Mi"),
]


def slice_of(
    devices: list[Object],
    *,
    node: str = "n0",
    generation: int = 1,
    count: int = 1,
    index: int = 0,
    driver: str = "gpu.nvidia.com",
) -> ResourceSlice:
    body = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-{generation}-{index}", "resourceVersion": "7"},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": node, "generation": generation, "resourceSliceCount": count},
            "devices": devices,
        },
    }
    return msgspec.convert(body, ResourceSlice)


def node_called(
    name: str = "n0", labels: dict[str, str] | None = None, *, ready: str = "True", cordoned: bool = False
) -> Node:
    named = {f"nvidia.com/{key.replace('_', '.', 1)}": value for key, value in (labels or {}).items()}
    body = {
        "metadata": {"name": name, "labels": named},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]
        },
    }
    return msgspec.convert(body, Node)


def test_a_gpu_with_dynamic_mig_has_a_device_for_each_placement():
    (gpu,) = node_inventory("n0", node_called(), [slice_of(A30_DEVICES)]).gpus
    assert (gpu.id, gpu.uuid, gpu.product, gpu.pool) == ("n0/gpu-0", UUID, "NVIDIA A30", "n0")
    assert gpu.model is not None
    assert gpu.model.name == "a30-24gb"
    assert gpu.condition is GpuCondition.READY
    assert gpu.devices[Placement(2, "2g.12gb")] == "gpu-0-mig-2g12gb-5-2"
    assert gpu.devices[Placement(0, "1g.6gb+me")] == "gpu-0-mig-1g6gb-me-21-0"
    assert len(gpu.devices) == len(A30_DEVICES)


def test_the_counters_slice_has_no_devices_and_counts_all_the_same():
    counters = slice_of([], count=2)
    assert node_inventory("n0", node_called(), [counters]).notes == (
        "n0: its ResourceSlices are not complete yet",
    )
    found = node_inventory("n0", node_called(), [counters, slice_of(A30_DEVICES, count=2, index=1)])
    assert [gpu.id for gpu in found.gpus] == ["n0/gpu-0"]
    assert found.notes == ()


def test_only_the_newest_complete_generation_counts():
    old = slice_of(A30_DEVICES)
    half = slice_of([whole("gpu-0", "NVIDIA A30", "24Gi")], generation=2, count=2)
    before = node_inventory("n0", node_called(), [old])
    assert node_inventory("n0", node_called(), [old, half]).gpus == before.gpus
    assert node_inventory("n0", node_called(), [half]).gpus == ()
    assert (
        node_inventory("n0", node_called(), [half], before).gpus == before.gpus
    )  # until the other half comes
    other = slice_of([whole("gpu-1", "NVIDIA A30", "24Gi")], generation=2, count=2, index=1)
    found = node_inventory("n0", node_called(), [old, half, other])
    assert [(gpu.id, gpu.condition) for gpu in found.gpus] == [
        ("n0/gpu-0", GpuCondition.WHOLE),
        ("n0/gpu-1", GpuCondition.WHOLE),
    ]


def test_a_gpu_that_is_not_cut_says_why():
    (gpu,) = node_inventory("n0", node_called(), [slice_of([whole("gpu-3", "NVIDIA A100-SXM4-80GB")])]).gpus
    assert (gpu.id, gpu.condition, dict(gpu.devices), gpu.whole) == (
        "n0/gpu-3",
        GpuCondition.WHOLE,
        {},
        "gpu-3",
    )
    assert "MIG mode is off" in str(gpu.why)


def test_instances_of_static_mig_stand_for_good():
    # dra-driver-nvidia-gpu, issue 719: without DynamicMIG those that stand are published, each with its own UUID.
    name = "gpu-0-mig-2g12gb-5-2"
    standing = mig(name, "2g.12gb", "11968Mi")
    standing["attributes"]["uuid"] = {"string": "MIG-4cf84bd1-3f6a-5d8e-9a3d-0d5b5d3c1f0a"}
    (gpu,) = node_inventory("n0", node_called(), [slice_of([standing])]).gpus
    assert (gpu.standing, dict(gpu.devices), gpu.condition) == (
        (Placement(2, "2g.12gb"),),
        {},
        GpuCondition.WHOLE,
    )
    assert "DynamicMIG" in str(gpu.why)


@pytest.mark.parametrize(
    ("product", "memory", "model"),
    [
        ("NVIDIA A100-SXM4-40GB", "40Gi", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "80Gi", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "81559Mi", "h100-80gb"),
        ("NVIDIA H200", "143771Mi", "h200-141gb"),
    ],
)
def test_models_are_known_by_product_and_memory(product, memory, model):
    (gpu,) = node_inventory("n0", node_called(), [slice_of([whole("gpu-0", product, memory)])]).gpus
    assert gpu.model is not None
    assert gpu.model.name == model


def test_a_product_that_no_model_knows_is_told():
    found = node_inventory(
        "n0", node_called(), [slice_of([whole("gpu-0", "NVIDIA Quux 9000"), *A30_DEVICES[1:2]])]
    )
    assert found.gpus[0].model is None
    assert "the GPU product 'NVIDIA Quux 9000' is of no known model" in found.notes[0]
    assert "--gpus-file" in found.notes[0]


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (mig("gpu-0-mig-1g6gb-14-9", "1g.6gb", "5952Mi"), "cannot start at 9"),
        (mig("gpu-0-mig-1g6gb-19-0", "1g.6gb", "5952Mi"), "its name says profile 19"),
        (mig("gpu-0-mig-3g12gb-9-0", "3g.12gb", "5952Mi"), "has no profile '3g.12gb'"),
    ],
)
def test_a_device_that_contradicts_itself_is_left_out_and_told(device, why):
    found = node_inventory("n0", node_called(), [slice_of([*A30_DEVICES[:2], device])])
    assert len(found.gpus[0].devices) == 2
    assert why in found.notes[0]


def test_devices_that_are_no_gpus_are_passed_over():
    vfio = {"name": "gpu-vfio-0", "attributes": {"type": {"string": "vfio"}}}
    nameless = {"name": "card7", "attributes": {"type": {"string": "gpu"}}}
    found = node_inventory("n0", node_called(), [slice_of([vfio, nameless, *A30_DEVICES])])
    assert [gpu.id for gpu in found.gpus] == ["n0/gpu-0"]
    assert found.notes == ("n0: device card7 is left out: its name does not name a GPU",)
    other = slice_of(A30_DEVICES, driver="dra.example.com")
    assert read_inventory([other], [node_called()]).gpus == {}


LOST = {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"}
XID = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"}
HARMLESS = {"key": "gpu.nvidia.com/unmonitored", "effect": "None"}


@pytest.mark.parametrize(
    ("taint", "condition", "why"),
    [
        (LOST, GpuCondition.LOST, "lost"),
        (XID, GpuCondition.LEAVING, "xid=79"),
        (HARMLESS, GpuCondition.READY, None),
    ],
)
def test_taints_of_the_driver_say_how_a_gpu_is(taint, condition, why):
    (gpu,) = node_inventory(
        "n0", node_called(), [slice_of([each | {"taints": [taint]} for each in A30_DEVICES])]
    ).gpus
    assert gpu.condition is condition
    assert gpu.why is None if why is None else why in str(gpu.why)


def test_a_taint_of_one_mig_device_is_that_devices_own():
    devices = [A30_DEVICES[0] | {"taints": [XID]}, *A30_DEVICES[1:]]
    (gpu,) = node_inventory("n0", node_called(), [slice_of(devices)]).gpus
    assert gpu.condition is GpuCondition.READY


@pytest.mark.parametrize(
    ("node", "condition", "why"),
    [
        (node_called(cordoned=True), GpuCondition.LEAVING, "cordoned"),
        (node_called(ready="False"), GpuCondition.LOST, "not ready"),
        (node_called(ready="Unknown", cordoned=True), GpuCondition.LOST, "not ready"),
        (None, GpuCondition.LOST, "gone"),
    ],
)
def test_a_nodes_condition_is_its_gpus(node, condition, why):
    (gpu,) = node_inventory("n0", node, [slice_of(A30_DEVICES)]).gpus
    assert gpu.condition is condition
    assert why in str(gpu.why)


@pytest.mark.parametrize(
    ("node", "condition", "silent"),
    [
        (node_called(ready="Unknown"), GpuCondition.READY, True),
        (node_called(ready="False", cordoned=True), GpuCondition.LEAVING, True),
        (node_called(), GpuCondition.READY, False),
        (None, GpuCondition.LOST, False),
    ],
)
def test_the_gpus_of_a_node_that_is_silent_are_as_they_were(node, condition, silent):
    (gpu,) = node_inventory("n0", node, [slice_of(A30_DEVICES)], silent=True).gpus
    assert (gpu.condition, gpu.silent) == (condition, silent)


def test_a_node_says_since_when_it_is_not_ready():
    def node(*conditions: Object) -> Node:
        return msgspec.convert({"metadata": {"name": "n0"}, "status": {"conditions": conditions}}, Node)

    since = {"type": "Ready", "status": "Unknown", "lastTransitionTime": "1970-01-01T00:01:40Z"}
    assert node(since).away_s(160.0) == 60.0
    assert node(since).away_s(40.0) == 0.0  # by another clock
    assert node(since | {"status": "True"}).away_s(160.0) is None
    assert node().away_s(160.0) == node({"type": "Ready", "status": "False"}).away_s(160.0) == 0.0


def test_labels_tell_gpus_where_there_is_no_dra_driver():
    labels = {
        "gpu_product": "NVIDIA-A100-SXM4-40GB",
        "gpu_count": "8",
        "gpu_memory": "40960",
        "mig_capable": "true",
    }
    found = read_inventory([], [node_called("n1", labels), node_called("cpu")])
    assert list(found.gpus) == [f"n1/gpu-{i}" for i in range(8)]
    gpu = found.gpus["n1/gpu-7"]
    assert gpu.model is not None
    assert (gpu.model.name, gpu.pool, gpu.condition) == ("a100-40gb", None, GpuCondition.WHOLE)
    assert "no DRA driver" in str(gpu.why)


def test_labels_of_nodes_that_are_cut_alike_count_mig_devices():
    labels = {"gpu_product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "gpu_count": "14", "gpu_memory": "4864"}
    assert list(read_inventory([], [node_called("n1", labels)]).gpus) == ["n1/gpu-0", "n1/gpu-1"]


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({"gpu_product": "NVIDIA-A100-SXM4-40GB-MIG-INVALID", "gpu_count": "0"}, "MIG-INVALID"),
        ({"gpu_product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "gpu_count": "10"}, "10 devices of 1g.5gb"),
        ({"gpu_product": "NVIDIA-Quux", "gpu_count": "2"}, "is of no known model"),
    ],
)
def test_labels_that_do_not_tell_the_gpus_are_told(labels, why):
    found = read_inventory([], [node_called("n1", labels)])
    assert found.gpus == {}
    assert why in found.notes[0]


def test_slices_come_before_labels():
    labels = {"gpu_product": "NVIDIA-A30", "gpu_count": "4", "gpu_memory": "24576", "mig_capable": "true"}
    found = read_inventory([slice_of(A30_DEVICES)], [node_called("n0", labels)])
    assert list(found.gpus) == ["n0/gpu-0"]
    assert found.gpus["n0/gpu-0"].condition is GpuCondition.READY


def test_gpus_of_one_kind_share_their_table_of_devices():
    first = node_inventory("n0", node_called(), [slice_of(A30_DEVICES)]).gpus[0]
    second = node_inventory("n1", node_called("n1"), [slice_of(A30_DEVICES, node="n1")]).gpus[0]
    assert first.devices is second.devices


@pytest.mark.parametrize(
    ("quantity", "mib"),
    [("80Gi", 81920.0), ("85899345920", 81920.0), ("4864Mi", 4864.0), ("1G", 953.7), ("much", 0.0)],
)
def test_quantities_of_memory(quantity, mib):
    assert mebibytes(quantity) == pytest.approx(mib, abs=0.05)
