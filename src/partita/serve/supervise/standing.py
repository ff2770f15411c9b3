"""Where on a host that is cut already the workers of a plan run: each is pinned to a MIG device of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from partita.errors import InputError
from partita.planning.plan import PlannedGpu

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from partita.drive.driver import Observation, ObservedGpu, ObservedInstance
    from partita.planning.plan import Instance, Plan


@dataclass(frozen=True, slots=True)
class Standing:
    """A plan on the instances that stand.

    Attributes:
        plan: the plan, its instances named as they are found.
        devices: value of `CUDA_VISIBLE_DEVICES` (a MIG UUID) by GPU id and placement.
    """

    plan: Plan
    devices: Mapping[tuple[str, str], str]


class _Place(NamedTuple):
    gpu: ObservedGpu
    found: ObservedInstance

    @property
    def at(self) -> tuple[str, str]:
        return self.gpu.id, str(self.found.placement)


class _Wanted(NamedTuple):
    gpu: PlannedGpu
    instance: Instance

    @property
    def at(self) -> tuple[str, str]:
        return self.gpu.id, str(self.instance.placement)

    @property
    def size(self) -> tuple[str, str]:
        return self.gpu.model, self.instance.placement.profile


def standing(plan: Plan, seen: Observation, *, plan_file: str = "PLAN") -> Standing:
    """Return a plan on the instances that stand, each where it is planned or on one of the same size.

    A plan's GPUs are alike up to their names, and so are instances of one profile on GPUs of one model: a transition
    leaves instances where they are if it can, so what stands need not have the plan's names.

    Args:
        plan: what is to run.
        seen: the host's GPUs and instances.
        plan_file: told in hints.

    Raises:
        InputError: too few instances stand that are Partita's and free.
    """
    places = [_Place(gpu, each) for gpu in seen.gpus if not gpu.lost for each in gpu.instances]
    free = {place.at: place for place in places if _why_not(place.found) is None}
    found: list[tuple[_Wanted, _Place]] = []
    elsewhere: list[_Wanted] = []
    for wanted in (_Wanted(gpu, each) for gpu in plan.gpus for each in gpu.instances):
        same = free.get(wanted.at)
        if same is not None and _size(same) == wanted.size:
            found.append((wanted, free.pop(wanted.at)))
        else:
            elsewhere.append(wanted)
    for wanted in elsewhere:
        like = next((place for place in free.values() if _size(place) == wanted.size), None)
        if like is None:
            raise _missing(wanted, plan, places, plan_file)
        found.append((wanted, free.pop(like.at)))
    devices = {place.at: str(place.found.identity.mig_uuid) for _, place in found}
    return Standing(replace(plan, gpus=_named(found)), devices)


def _named(found: Iterable[tuple[_Wanted, _Place]]) -> tuple[PlannedGpu, ...]:
    ordered = sorted(found, key=lambda pair: (pair[1].gpu.id, pair[1].found.placement))
    return tuple(
        PlannedGpu(
            name,
            model,
            tuple(replace(each.instance, placement=place.found.placement) for each, place in members),
        )
        for (name, model), members in groupby(ordered, key=lambda pair: (pair[1].gpu.id, pair[1].gpu.model))
    )


def _size(place: _Place) -> tuple[str, str]:
    return place.gpu.model, place.found.placement.profile


def _why_not(found: ObservedInstance) -> str | None:
    """Say why an instance cannot be taken, None if it can."""
    if not found.ours:
        return "not Partita's"
    if found.replica is not None:
        return "served already"
    if found.busy:
        return "in use by another process"
    return None if found.identity.mig_uuid is not None else "half made"


_HINTS = {
    "served already": "use the workers that run there: partita serve --attach",
    "not Partita's": "if nobody else counts on it: partita adopt {gpu} {placement} --driver nvml",
    "in use by another process": "see which with nvidia-smi, and end it",
}


def _missing(wanted: _Wanted, plan: Plan, places: list[_Place], plan_file: str) -> InputError:
    model, profile = wanted.size
    asked = sum(
        each.placement.profile == profile for g in plan.gpus if g.model == model for each in g.instances
    )
    alike = [place for place in places if _size(place) == wanted.size]
    reasons = {place.at: why for place in alike if (why := _why_not(place.found)) is not None}
    told = "".join(f"; {' '.join(at)} is {why}" for at, why in list(reasons.items())[:_MOST_TOLD])
    hint = (
        f"partita apply {plan_file} --driver nvml --services FILE cuts them and starts their workers; "
        "then serve with --attach"
    )
    for why, text in _HINTS.items():
        at = next((at for at, each in reasons.items() if each == why), None)
        if at is not None:
            hint = text.format(gpu=at[0], placement=at[1])
            break
    return InputError(
        f"the plan has {asked} {profile} on {model}, and {len(alike) - len(reasons)} of this host are free{told}",
        where=" ".join(wanted.at),
        hint=hint,
    )


_MOST_TOLD = 3
