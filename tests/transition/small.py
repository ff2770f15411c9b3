"""Small deployments on A30s, made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.mig.layout import Placement
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica
from partita.transition.transition import Durations

if TYPE_CHECKING:
    from collections.abc import Mapping

A30 = "a30-24gb"
ONE, TWO, THREE = "node-0/gpu-0", "node-0/gpu-1", "node-0/gpu-2"
SECONDS = Durations(create_instance=1.0, destroy_instance=2.0, start_replica=4.0, stop_replica=8.0)
WEB = Replica("web", "net", 8, 1, 10.0, 10.0)


def at(text: str) -> Placement:
    return Placement.parse(text)


def deployed(*gpus: Mapping[str, Replica | None]) -> Deployment:
    return Deployment(
        tuple(
            DeployedGpu(
                f"node-0/gpu-{n}", A30, tuple(DeployedInstance(at(text), each) for text, each in here.items())
            )
            for n, here in enumerate(gpus)
        )
    )
