"""What services with a cut run on now: a cut that is as good as another stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partita.perf.operating_point import OperatingPoint
from partita.serve.cut import ServingCut
from partita.transition.deployment import Deployment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.serve.reserving.asked import CutService
    from partita.serve.reserving.fewest import Held
    from partita.transition.deployment import DeployedGpu, Replica


_NOISE = 1.01
"""By this factor a figure may exceed what was measured anew: that is as exact as it is."""


@dataclass(frozen=True, slots=True)
class Running:
    """GPUs on which nothing but replicas of one service runs."""

    gpus: tuple[DeployedGpu, ...]

    def cut(self, model: str, profiles: Sequence[str]) -> ServingCut | None:
        """Return how they are cut; None where they are of another model or have other profiles."""
        counts = [Counter(each.placement.profile for each in gpu.instances) for gpu in self.gpus]
        if any(gpu.model != model for gpu in self.gpus) or any(
            each.keys() - set(profiles) for each in counts
        ):
            return None
        return ServingCut.of(tuple(each[name] for name in profiles) for each in counts)

    def points(self, service: CutService, held: Held) -> dict[str, OperatingPoint] | None:
        """Return how the instances are run now, if that is right still: so nothing is started anew for a figure.

        None if the instances of one profile are not run alike, or their throughputs do not lie between what is asked
        and what the cut holds now.
        """
        by_profile: dict[str, set[Replica]] = {}
        for replica, profile in self._replicas():
            by_profile.setdefault(profile, set()).add(replica)
        total = sum(replica.throughput for replica, _ in self._replicas()) / service.items
        if (
            any(len(each) > 1 for each in by_profile.values())
            or not service.rate <= total <= held.rate * _NOISE
        ):
            return None
        return {profile: _point(profile, next(iter(each))) for profile, each in by_profile.items()}

    def _replicas(self) -> list[tuple[Replica, str]]:
        return [
            (each.replica, each.placement.profile)
            for gpu in self.gpus
            for each in gpu.instances
            if each.replica is not None
        ]


def _point(profile: str, replica: Replica) -> OperatingPoint:
    return OperatingPoint(
        profile, replica.batch, replica.processes, replica.throughput, replica.latency_ms, quantile=""
    )


def running(current: Deployment, services: Iterable[CutService]) -> dict[str, Running]:
    """Return the GPUs that each of these services has for itself now; services without any are left out."""
    found: dict[str, list[DeployedGpu]] = {service.spec.name: [] for service in services}
    for gpu in current.gpus:
        if (name := _owner(gpu)) in found:
            found[name].append(gpu)
    return {name: Running(tuple(gpus)) for name, gpus in found.items() if gpus}


def shared_part(current: Deployment, services: Iterable[CutService]) -> Deployment:
    """Return the deployment without the GPUs that one of these services has for itself."""
    names = {service.spec.name for service in services}
    return Deployment(tuple(gpu for gpu in current.gpus if _owner(gpu) not in names))


def _owner(gpu: DeployedGpu) -> str:
    """Return the one service that a GPU runs, empty if there is no such one."""
    names = {each.replica.service if each.replica else "" for each in gpu.instances}
    return names.pop() if len(names) == 1 else ""
