"""A transition: a dependency graph of actions from one deployment to another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.mig.layout import Placement
    from partita.transition.deployment import Deployment, Replica


class ActionKind(StrEnum):
    """What an action does."""

    CREATE_INSTANCE = "create_instance"
    DESTROY_INSTANCE = "destroy_instance"
    START_REPLICA = "start_replica"
    STOP_REPLICA = "stop_replica"


@dataclass(frozen=True, slots=True)
class Action:
    """One step on one instance.

    Starting a replica ends when it is ready; stopping one begins by draining it, so it counts towards its
    service's capacity only until the action begins.

    Attributes:
        gpu: id of the GPU.
        placement: the exact placement of the instance.
        replica: what is started or stopped; None for instances.
        after: ids of the actions that must have ended before this one begins.
        seconds: predicted duration.
    """

    id: str
    kind: ActionKind
    gpu: str
    placement: Placement
    replica: Replica | None
    after: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Durations:
    """Predicted seconds per kind of action (`MEASURED` and `PAPER` below give sources)."""

    create_instance: float
    destroy_instance: float
    start_replica: float
    stop_replica: float

    def of(self, kind: ActionKind) -> float:
        """Return the seconds of one action of this kind."""
        return float(getattr(self, kind.value))


@dataclass(frozen=True, slots=True)
class Request:
    """The transition that is asked for.

    Attributes:
        current: what runs, on all GPUs there are.
        target: what is wanted; an algorithm may map its GPUs onto others of the same model.
        old_rates: required items/s of each service until now.
        new_rates: required items/s of each service from now on.
        extra_gpus: GPUs in use at once beyond max(used now, used by the target); None for any number. A GPU is
            in use from the first instance it is given until the last one it loses.
        forbid: combinations of instances that must not share a GPU, such as `4g+3g`.
        in_place: the target's GPUs go onto those of their own names, where they can: where it survives the loss of
            nodes, it matters which GPUs share one.
    """

    current: Deployment
    target: Deployment
    old_rates: Mapping[str, float]
    new_rates: Mapping[str, float]
    durations: Durations
    extra_gpus: int | None = None
    forbid: tuple[str, ...] = ()
    in_place: bool = False

    @property
    def floors(self) -> dict[str, float]:
        """Items/s below which no service may fall: min(old, new required rate), 0 for one that comes or goes.

        Where a service has less already, because a GPU was lost, or gets less from the target, because it is a
        best-effort plan, the floor is that.
        """
        now, then = self.current.capacity(), self.target.capacity()
        both = sorted(set(self.old_rates) & set(self.new_rates))
        return {
            name: min(self.old_rates[name], self.new_rates[name], now.get(name, 0.0), then.get(name, 0.0))
            for name in both
        }

    @property
    def gpu_budget(self) -> int:
        """Most GPUs that may be in use at once."""
        if self.extra_gpus is None:
            return len(self.current.gpus)
        return max(self.current.used, self.target.used) + self.extra_gpus


@dataclass(frozen=True, slots=True)
class Transition:
    """The actions, the floor of each service, and what is predicted.

    Attributes:
        target: what runs at the end: the wanted deployment on physical GPUs.
        makespan: predicted seconds if every action begins as soon as it may.
        peak_gpus: most GPUs in use at once then; a GPU is in use from its first instance to its last.
        moved: replicas of the current deployment that do not stay where they are.
    """

    algorithm: str
    actions: tuple[Action, ...]
    floors: Mapping[str, float]
    target: Deployment
    makespan: float
    peak_gpus: int
    moved: int


class Transitioner(Protocol):
    """An algorithm that makes the transition from one deployment to another."""

    def transition(self, request: Request) -> Transition:
        """Return a transition that keeps the floors in every order its graph allows.

        Raises:
            InfeasibleError: the extra GPUs are too few; the error says the smallest number that is enough.
        """
        ...


MEASURED = Durations(create_instance=0.13, destroy_instance=0.17, start_replica=5.4, stop_replica=32.3)
"""Driver and pods, measured.

Instances: medians of the means of 300 runs on each of 18 layouts of an A100 (github spcl/gpuless-thesis at
c2434d8: creating takes 0.06-0.14 s, destroying 0.12-0.18 s). Replicas: Jormungandr (SYSTOR'24,
doi 10.1145/3688351.3689156): a day's 738 s of starting pods (figure 9) over its 137 starts (figure 10), and
32.3 s for a pod's graceful deletion (figure 11), nearly all of it draining.
"""

PAPER = Durations(create_instance=24.9, destroy_instance=24.9, start_replica=47.4, stop_replica=37.9)
"""MIG-Serving (arXiv 2109.11067, figure 13c), mapped onto our four kinds.

Its creation (47.4 s) starts a service on an existing instance, its deletion (37.9 s) stops one. Its repartition
(49.8 s) destroys a GPU's old instances and creates the new ones: half for each, as the instances of one GPU are
destroyed side by side, then created side by side. Its migrations (47.9 s to another node, 30.4 s within one) end when
the new replica is ready, before the old one stops; here they are a start and a stop.
"""
