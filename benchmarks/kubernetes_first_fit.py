"""A day of claims placed by the scheduler's first fit and by Partita: GPUs used, claims refused."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tests.kubernetes.control_plane.cluster import ControlPlane, needed_programs, wait_until
from tests.kubernetes.control_plane.slices import Gpu, Pool, device_classes, node_object

from benchmarks.report import table
from partita.control.controller import ordered
from partita.errors import InfeasibleError
from partita.jobs.disciplines.discipline import Allocation, QueueState
from partita.jobs.partition import empty
from partita.kubernetes.dra import DURATIONS
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, fault
from partita.perf.operating_point import OperatingPoint
from partita.planning.exact import ExactPlanner
from partita.planning.problem import Pool as PlanningPool
from partita.planning.problem import Problem, Service, Size
from partita.sim.traffic import day_curve
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment, Replica, deployment_of
from partita.transition.shortest import Shortest
from partita.transition.transition import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from partita.jobs.partition import Partition
    from partita.mig.gpu import GpuModel
    from partita.transition.transition import Transition

DAY_S = 86_400.0
NAMESPACE = "default"
MODELS = ("a100-80gb", "h100-80gb")
MIXES: dict[str, dict[str, float]] = {
    "small": {"1": 0.55, "1+": 0.1, "2": 0.25, "3": 0.1},
    "even": {"1": 0.25, "1+": 0.1, "2": 0.25, "3": 0.2, "4": 0.1, "7": 0.1},
    "large": {"1": 0.3, "2": 0.1, "3": 0.3, "4": 0.15, "7": 0.15},
}
"""Share of the claims by profile; `1+` is one compute slice with twice the memory."""
PROFILES = {"1": "1g.10gb", "1+": "1g.20gb", "2": "2g.20gb", "3": "3g.40gb", "4": "4g.40gb", "7": "7g.80gb"}
POOLS = {"plenty": 72, "as many as noon needs": 44, "too few": 32}
"""GPUs there are. Only the first has room for all; in the second the demand at noon is what the slices add up to."""
SLICES = 32 * 7
"""Compute slices to which the load is held."""
SWING = 0.7
LOAD = 0.8
"""Compute slices asked on average, of those of the smallest pool; at noon 1 + SWING times that."""
SEEDS = (1, 2, 3)
CONSOLIDATE_S = 3600.0
"""Seconds between two looks at whether moving services frees GPUs."""


def model_of(name: str) -> GpuModel:
    """Return a model with the profiles that claims name; those with media engines nobody asks for."""
    found = gpu_model(name)
    return found.restricted([each.name for each in found.profiles if each.plain])


@dataclass(frozen=True)
class Claim:
    """A claim with the times, in seconds, at which it begins and ends."""

    number: int
    profile: str
    came: float
    goes: float


def day(mix: str, seed: int, model: GpuModel, slices: int = SLICES) -> list[Claim]:
    """Return a day's claims: a night at both ends, most at noon; half stay for minutes and half for hours."""
    rng = np.random.default_rng([seed, sorted(MIXES).index(mix), MODELS.index(model.name)])
    shares = MIXES[mix]
    compute = sum(share * model.profile(PROFILES[key]).compute for key, share in shares.items())
    stay = 0.5 * (1200.0 + 3.0 * 3600.0)
    rate = LOAD * slices / compute / stay
    came = day_curve(rate, DAY_S, rng, swing=SWING)
    drawn = rng.choice(list(shares), size=len(came), p=list(shares.values()))
    short = rng.random(len(came)) < 0.5
    stays = rng.exponential(np.where(short, 1200.0, 3.0 * 3600.0))
    return [
        Claim(number, PROFILES[str(key)], float(at), float(at + length))
        for number, (key, at, length) in enumerate(zip(drawn, came, stays, strict=True))
    ]


class Placer(Protocol):
    """Places claims on a pool of GPUs."""

    def come(self, claim: Claim) -> bool:
        """Place a claim; say whether there was room."""
        ...

    def go(self, claim: Claim) -> None:
        """Remove a placed claim."""
        ...

    def tidy(self) -> None:
        """Do periodic work."""
        ...

    @property
    def used(self) -> int:
        """GPUs that hold anything."""
        ...


class FirstFit:
    """The scheduler's allocator: the first device that fits, in the order of slices and of devices in them.

    A GPU is a slice, and its devices are sorted by name, so that one profile's go from the lowest start up. On
    several nodes the first that has room is taken, which favours it: the scheduler prefers the emptiest.
    """

    def __init__(self, model: GpuModel, gpus: int) -> None:
        self.model = model
        self.held: list[frozenset[Placement]] = [frozenset()] * gpus
        self.where: dict[int, tuple[int, Placement]] = {}

    def come(self, claim: Claim) -> bool:
        """Place a claim."""
        for index, there in enumerate(self.held):
            place = _first(self.model, there, claim.profile)
            if place is not None:
                self.held[index] = there | {place}
                self.where[claim.number] = index, place
                return True
        return False

    def go(self, claim: Claim) -> None:
        """Let a claim go."""
        index, place = self.where.pop(claim.number)
        self.held[index] -= {place}

    def tidy(self) -> None:
        """Do nothing: the scheduler never moves what runs."""

    @property
    def used(self) -> int:
        """GPUs that hold anything."""
        return sum(map(bool, self.held))


@cache
def _first(model: GpuModel, there: frozenset[Placement], profile: str) -> Placement | None:
    places = (Placement(start, profile) for start in model.profile(profile).starts)
    return next((each for each in places if fault(model, (*there, each)) is None), None)


class Kept:
    """Partita's placement of one more instance on what is free: nothing that runs is ever moved."""

    def __init__(self, model: GpuModel, gpus: int) -> None:
        self.model = model
        self.gpus: list[Partition] = [empty(model)] * gpus
        self.where: dict[int, tuple[int, Placement]] = {}

    def come(self, claim: Claim) -> bool:
        """Place a claim."""
        found = Allocation(QueueState(claim.came, (), tuple(self.gpus))).find(claim.profile)
        if found is None:
            return False
        index, change = found
        self.gpus[index] = self.gpus[index].start(change)
        self.where[claim.number] = index, change.placement
        return True

    def go(self, claim: Claim) -> None:
        """Remove a claim and its instance."""
        index, place = self.where.pop(claim.number)
        self._hold(index, self.gpus[index].busy - {place})

    def _hold(self, index: int, places: frozenset[Placement]) -> None:
        self.gpus[index] = self.gpus[index].at(places, places)

    def tidy(self) -> None:
        """Do nothing."""

    @property
    def used(self) -> int:
        """GPUs that hold anything."""
        return sum(bool(each.busy) for each in self.gpus)


class Moved(Kept):
    """Partita where all claims are services' replicas, which may be moved.

    Where there is no room, or now and then fewer GPUs would do, all is planned anew and carried out by a transition:
    no profile has fewer instances than before at any moment of it, and the checker holds that.
    """

    def __init__(self, model: GpuModel, gpus: int) -> None:
        super().__init__(model, gpus)
        self.moves = 0
        self._named = {f"gpu-{index}": index for index in range(gpus)}

    def come(self, claim: Claim) -> bool:
        """Place a claim, if need be by moving others."""
        if super().come(claim):
            return True
        free = len(self.gpus) * self.model.compute_slices - sum(each.used for each in self.gpus)
        if free < self.model.profile(claim.profile).compute:
            return False
        wanted = Counter(place.profile for _, place in self.where.values())
        found = self._replan(wanted + Counter([claim.profile]))
        if found is None:
            return False
        self._carry_out(found, claim)
        return True

    def tidy(self) -> None:
        """Free GPUs, if that can be."""
        wanted = Counter(place.profile for _, place in self.where.values())
        compute = sum(self.model.profile(name).compute * count for name, count in wanted.items())
        if self.used <= -(-compute // self.model.compute_slices):
            return
        found = self._replan(wanted, below=self.used)
        if found is not None:
            self._carry_out(found, None)

    def _replan(self, wanted: Counter[str], below: int | None = None) -> Transition | None:
        """Return a transition to a plan for so many instances, None if there is none, or not on fewer GPUs."""
        names = sorted(wanted)
        pool = PlanningPool("pool", self.model, len(self.gpus))
        sizes = tuple(Size(0, each.name) for each in self.model.profiles)
        services = tuple(
            Service(
                name,
                name,
                float(wanted[name]),
                float(wanted[name]),
                1000.0,
                tuple(_point(name) if size.profile == name else None for size in sizes),
            )
            for name in names
        )
        try:
            plan = ExactPlanner().plan(Problem((pool,), services, sizes))
            if below is not None and len(plan.gpus) >= below:
                return None
            current = self._deployment()
            before = Counter(place.profile for _, place in self.where.values())
            rates = {name: float(count) for name, count in before.items()}
            new = {name: float(count) for name, count in wanted.items()}
            return ordered(Shortest(tries=4), Request(current, deployment_of(plan), rates, new, DURATIONS))
        except InfeasibleError:
            return None

    def _deployment(self) -> Deployment:
        return Deployment(
            tuple(
                DeployedGpu(
                    name,
                    self.model.name,
                    tuple(
                        DeployedInstance(place, _replica(place.profile))
                        for place in sorted(self.gpus[index].busy)
                    ),
                )
                for name, index in self._named.items()
            )
        )

    def _carry_out(self, found: Transition, claim: Claim | None) -> None:
        target = {
            self._named[gpu.id]: frozenset(e.placement for e in gpu.instances) for gpu in found.target.gpus
        }
        free = {(index, place) for index, places in target.items() for place in places}
        homeless = []
        for number, at in list(self.where.items()):
            if at in free:
                free.remove(at)
            else:
                homeless.append((number, at[1].profile))
        self.moves += len(homeless)
        if claim is not None:
            homeless.append((claim.number, claim.profile))
        for number, profile in homeless:
            at = min(each for each in free if each[1].profile == profile)
            free.remove(at)
            self.where[number] = at
        held: dict[int, set[Placement]] = {index: set() for index in range(len(self.gpus))}
        for index, place in self.where.values():  # a plan may have more instances than were asked for
            held[index].add(place)
        for index, places in held.items():
            self._hold(index, frozenset(places))


def _point(profile: str) -> OperatingPoint:
    return OperatingPoint(profile, 1, 1, 1.0, 1.0, "mean")


def _replica(profile: str) -> Replica:
    return Replica(profile, profile, 1, 1, 1.0, 1.0)


@dataclass
class Outcome:
    """The result of a day.

    Attributes:
        mean: GPUs used, over time.
        peak: most GPUs used at once.
        refused: claims for which there was no room.
        refused_slices: compute slices that they asked for.
    """

    mean: float = 0.0
    peak: int = 0
    refused: int = 0
    refused_slices: int = 0
    claims: int = 0
    moves: int = 0


def play(claims: list[Claim], placer: Placer, model: GpuModel) -> Outcome:
    """Simulate a day; refused claims do not return."""
    outcome = Outcome(claims=len(claims))
    last, placed = 0.0, set[int]()
    for at, _, _, claim in _events(claims):
        outcome.mean += placer.used * (at - last) / DAY_S
        last = at
        if claim is None:
            placer.tidy()
        elif at == claim.came:
            if placer.come(claim):
                placed.add(claim.number)
            else:
                outcome.refused += 1
                outcome.refused_slices += model.profile(claim.profile).compute
        elif claim.number in placed:
            placer.go(claim)
        outcome.peak = max(outcome.peak, placer.used)
    outcome.mean += placer.used * (DAY_S - last) / DAY_S
    outcome.moves = getattr(placer, "moves", 0)
    return outcome


def _events(claims: list[Claim]) -> list[tuple[float, int, int, Claim | None]]:
    found: list[tuple[float, int, int, Claim | None]] = []
    for each in claims:
        found.append((each.came, 1, each.number, each))
        if each.goes < DAY_S:
            found.append((each.goes, 0, each.number, each))
    found += [(at, 2, 0, None) for at in np.arange(CONSOLIDATE_S, DAY_S, CONSOLIDATE_S).tolist()]
    return sorted(found, key=lambda each: each[:3])


# The model of the scheduler, held against the scheduler


@dataclass
class Real:
    """The scheduler of a control plane, asked by one claim with one pod after another on one node of eight GPUs."""

    plane: ControlPlane
    model: GpuModel
    where: dict[int, tuple[int, Placement]] = field(default_factory=dict)

    def come(self, claim: Claim) -> bool:
        """Make a claim and its pod; say whether the scheduler found a device."""
        admin, name = self.plane.admin, f"claim-{claim.number}"
        chosen = f"device.attributes['gpu.nvidia.com'].profile == '{claim.profile}'"
        exactly = {"deviceClassName": "mig.nvidia.com", "selectors": [{"cel": {"expression": chosen}}]}
        spec: dict[str, Any] = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
        head = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name}}
        admin.create("resourceclaims", {**head, "spec": spec}, NAMESPACE)
        container = {"name": "c", "image": "c", "resources": {"claims": [{"name": "gpu"}]}}
        used = [{"name": "gpu", "resourceClaimName": name}]
        body = {"containers": [container], "resourceClaims": used, "terminationGracePeriodSeconds": 0}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}
        admin.create("pods", pod, NAMESPACE)
        answer: list[str | None] = []

        def decided() -> bool:
            found = admin.get("pods", name, NAMESPACE)
            conditions = {each["type"]: each for each in found["status"].get("conditions") or ()}
            scheduled = conditions.get("PodScheduled")
            if scheduled is None:
                return False
            if scheduled["status"] == "True":
                allocation = admin.get("resourceclaims", name, NAMESPACE)["status"]["allocation"]
                answer.append(str(allocation["devices"]["results"][0]["device"]))
            else:
                answer.append(None)
            return True

        wait_until(decided, 120.0, f"the scheduler decides on {name}")
        device = answer[-1]
        if device is None:
            self._end(name)
            return False
        _, minor, _, _, _, start = device.split("-")
        self.where[claim.number] = int(minor), Placement(int(start), claim.profile)
        return True

    def go(self, claim: Claim) -> None:
        """Take the pod and the claim away; return when the device is free."""
        del self.where[claim.number]
        self._end(f"claim-{claim.number}")

    def _end(self, name: str) -> None:
        admin = self.plane.admin
        admin.delete("pods", name, NAMESPACE, grace=0)
        admin.delete("resourceclaims", name, NAMESPACE)
        wait_until(lambda: admin.find("resourceclaims", name, NAMESPACE) is None, 120.0, f"{name} is gone")
        time.sleep(0.1)  # the scheduler hears of it

    def tidy(self) -> None:
        """Do nothing."""

    @property
    def used(self) -> int:
        """GPUs that hold anything."""
        return len({index for index, _ in self.where.values()})


@contextmanager
def one_node(programs: Path, model: str) -> Iterator[Real]:
    """Return the scheduler of a control plane with one node of eight GPUs."""
    with tempfile.TemporaryDirectory() as scratch:
        plane = ControlPlane(programs, Path(scratch) / "plane")
        try:
            plane.start()
            admin = plane.admin
            for each in device_classes():
                admin.create("deviceclasses", each)
            gpus = tuple(Gpu.of("node-0", minor, model) for minor in range(8))
            made = admin.create("nodes", node_object("node-0", gpus, 0))
            for each in Pool("node-0", made["metadata"]["uid"], gpus).slices():
                admin.create("resourceslices", each)
            time.sleep(5)  # the scheduler reads the slices, and the node gets ready
            yield Real(plane, model_of(model))
        finally:
            plane.stop()


def held_against(real: Real, claims: list[Claim]) -> tuple[int, int, int]:
    """Play claims to the scheduler and to its model; return how many came, were refused, and went elsewhere."""
    model = FirstFit(real.model, 8)
    came = refused = other = 0
    placed: set[int] = set()
    for at, _, _, claim in _events(claims):
        if claim is None:
            continue
        if at == claim.came:
            came += 1
            there, thought = real.come(claim), model.come(claim)
            refused += not there
            if there:
                placed.add(claim.number)
            if real.where.get(claim.number) != model.where.get(claim.number) or there != thought:
                other += 1
                _follow(model, real, claim)
        elif claim.number in placed:
            real.go(claim)
            model.go(claim)
    return came, refused, other


def _follow(model: FirstFit, real: Real, claim: Claim) -> None:
    """Set the model to the scheduler's state, so that each difference counts once."""
    if claim.number in model.where:
        model.go(claim)
    if claim.number in real.where:
        index, place = real.where[claim.number]
        model.held[index] |= {place}
        model.where[claim.number] = index, place


# The tables

WAYS: dict[str, Callable[[GpuModel, int], Placer]] = {
    "first fit": FirstFit,
    "Partita, no moves": Kept,
    "Partita, services move": Moved,
}


def run(*, quick: bool) -> str:
    """Return the tables.

    Raises:
        FileNotFoundError: the programs of the control plane are not built.
    """
    programs = needed_programs()
    checks: list[list[object]] = []
    for name in MODELS[:1] if quick else MODELS:
        with one_node(programs, name) as real:
            claims = day("even", 0, real.model, slices=8 * 7)
            checks.append([name, *held_against(real, claims[: 40 if quick else 300])])
    return report(checks, compare(quick=quick))


def compare(*, quick: bool) -> list[Day]:
    """Return all days."""
    found = []
    for name in MODELS[:1] if quick else MODELS:
        model = model_of(name)
        for mix in MIXES:
            for seed in SEEDS[:1] if quick else SEEDS:
                claims = day(mix, seed, model)
                for pool, gpus in POOLS.items():
                    outcomes = {way: play(claims, make(model, gpus), model) for way, make in WAYS.items()}
                    found.append(Day(name, mix, seed, pool, outcomes))
    return found


@dataclass(frozen=True)
class Day:
    """One day on one pool, by every way."""

    model: str
    mix: str
    seed: int
    pool: str
    outcomes: dict[str, Outcome]

    def row(self) -> list[object]:
        """Return it as a row."""
        first = next(iter(self.outcomes.values()))
        cells = [
            f"{each.mean:.2f} / {each.peak}"
            + (f" / {each.refused} ({each.refused_slices})" if self.pool != "plenty" else "")
            for each in self.outcomes.values()
        ]
        moves = [*self.outcomes.values()][-1].moves
        return [self.model, self.mix, self.seed, POOLS[self.pool], first.claims, *cells, moves]

    def worse(self, way: str) -> list[bool]:
        """Say in what a way was worse than first fit: GPUs used in the mean and at most, claims and slices refused.

        Who refuses less uses more: GPUs are compared where nothing is refused.
        """
        first, found = self.outcomes["first fit"], self.outcomes[way]
        free = self.pool == "plenty"
        return [
            free and found.mean > first.mean + 1e-9,
            free and found.peak > first.peak,
            found.refused > first.refused,
            found.refused_slices > first.refused_slices,
        ]


def summary(days: list[Day]) -> list[list[object]]:
    """Return a row a pool and way: sums over the days, and on how many of them it was worse than first fit."""
    rows: list[list[object]] = []
    for pool, gpus in POOLS.items():
        mine = [each for each in days if each.pool == pool]
        for way in WAYS:
            found = [each.outcomes[way] for each in mine]
            mean = sum(each.mean for each in found) / len(found)
            peak = sum(each.peak for each in found) / len(found)
            counts = [sum(column) for column in zip(*(each.worse(way) for each in mine), strict=True)]
            rows.append(
                [
                    f"{pool}: {gpus}",
                    way,
                    mean,
                    peak,
                    sum(each.refused for each in found),
                    sum(each.refused_slices for each in found),
                    " / ".join(map(str, counts)) + f" of {len(mine)}" if way != "first fit" else "-",
                ]
            )
    return rows


def report(checks: list[list[object]], days: list[Day]) -> str:
    """Return the tables' text."""
    shares = "; ".join(
        f"{mix}: " + ", ".join(f"{share:.0%} {PROFILES[key]}" for key, share in shares.items())
        for mix, shares in MIXES.items()
    )
    return (
        "## First fit and Partita on Kubernetes\n\nAll ways get the same 24 hours of claims: a Poisson process "
        f"whose rate swings by {SWING:.0%} between midnight and noon, with exponential stays of 20 minutes "
        f"(half of the claims) or 3 hours on average, and {LOAD * SLICES:.0f} requested compute slices on "
        f"average. Mixes are {shares}. A claim that finds no room is refused.\n\n"
        "First fit is the scheduler alone: the first device that fits, in the order of slices, over all nodes "
        "together, which favours it. Its model was compared with the real scheduler (1.37.2), claim by claim, "
        "on a node of eight GPUs:\n\n"
        + table(
            ["GPU", "claims", "refused by the scheduler", "on another device than the model says"], checks
        )
        + "\nPartita without moves places each claim on the free slices, as it places batch jobs, which never "
        "move. With moves, all claims are replicas of services. When a claim finds no room, and every "
        f"{CONSOLIDATE_S / 60:.0f} minutes if fewer GPUs would suffice, everything is planned anew and a "
        "checked transition executes the plan, with never fewer instances of a profile than before. The last "
        "column says on how many days a way was worse than first fit: in GPUs used in the mean / at most (if "
        "there is room for all), or in claims refused / compute slices refused.\n\n"
        + table(
            [
                "GPUs there",
                "way",
                "GPUs used, mean",
                "peak, mean of the days",
                "claims refused",
                "slices refused",
                "worse on days",
            ],
            summary(days),
        )
        + "\nA way that has room for large claims that first fit refuses has less room for the small claims "
        "after them: with too few GPUs, fewer slices are refused, and at times more claims. Each cell has GPUs "
        "used in the mean / at most / claims refused (slices), for one day.\n\n"
        + table(["GPU", "mix", "seed", "GPUs there", "claims", *WAYS, "moves"], [each.row() for each in days])
    )
