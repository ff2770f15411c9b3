"""A plan as the config that NVIDIA's nvidia-mig-parted reads (github.com/NVIDIA/mig-parted, README)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from partita.errors import InputError

if TYPE_CHECKING:
    from partita.planning.plan import Plan, PlannedGpu
    from partita.transition.deployment import DeployedGpu, Layouts

_ID = re.compile(r"(?P<node>.+)/gpu-(?P<index>\d+)")

_Counts = tuple[tuple[str, int], ...]


def mig_parted_config(plan: Plan | Layouts) -> dict[str, Any]:
    """Return one named config per node, such as `partita-node-0`.

    `devices` are the GPUs' indices on their node, those with equal counts in one entry. GPUs that the plan
    does not use are not mentioned, and mig-parted leaves those as they are. It is given counts alone and
    chooses the starts itself, so instances may stand elsewhere than in the plan.

    Raises:
        InputError: a GPU's id does not say its node and index, as in `node-0/gpu-3`.
    """
    nodes: defaultdict[str, defaultdict[_Counts, list[int]]] = defaultdict(lambda: defaultdict(list))
    for gpu in plan.gpus:
        node, index = _place(gpu)
        nodes[node][_counts(gpu)].append(index)
    configs = {
        f"partita-{node}": [_entry(*each) for each in groups.items()] for node, groups in nodes.items()
    }
    return {"version": "v1", "mig-configs": configs}


def _place(gpu: PlannedGpu | DeployedGpu) -> tuple[str, int]:
    found = _ID.fullmatch(gpu.id)
    if not found:
        hint = "mig-parted needs the GPU's index on its node, as in node-0/gpu-3"
        raise InputError("the id does not say the node and the index", where=f"GPU {gpu.id}", hint=hint)
    return found["node"], int(found["index"])


def _counts(gpu: PlannedGpu | DeployedGpu) -> _Counts:
    return tuple(sorted(Counter(i.placement.profile for i in gpu.instances).items()))


def _entry(counts: _Counts, devices: list[int]) -> dict[str, Any]:
    return {"devices": sorted(devices), "mig-enabled": True, "mig-devices": dict(counts)}
