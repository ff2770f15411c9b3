"""The wanted layouts on physical GPUs, so that the most replicas stay where they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError, InputError, counted
from partita.mig.catalogue import gpu_model
from partita.mig.layout import fault, layouts_of

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from partita.deadline import Deadline
    from partita.mig.gpu import GpuModel
    from partita.mig.layout import Placement
    from partita.transition.deployment import DeployedGpu, Replica
    from partita.transition.transition import Request


_REPLICA, _INSTANCE, _IN_USE, _SAME_ID = 1000.0, 10.0, 5.0, 1.0


_IN_PLACE = 1e6
"""Worth of the plan's own name where GPUs must keep their places: more than all replicas of a GPU."""


_NEVER = -1e9


_ALL_PAIRS = 1000
"""Up to this many GPUs of a model all pairs are looked at; beyond, GPUs that hold what is wanted of one stay."""


_MOST_ASSIGNED = 1500
"""Of more GPUs than this, pairs are taken by what they have in common until so many are left."""


_LIKELY = 30
"""GPUs that are looked at for each replica of what is wanted, where time is short."""


_ROUNDS = 20
"""After this many rounds overestimated pairs are accepted, unless one is impossible."""


def nearest(
    request: Request, shake: random.Random | None = None, deadline: Deadline | None = None
) -> dict[str, Wanted]:
    """Return what each physical GPU is to hold.

    The target's GPUs are assigned to physical GPUs of their model. A pair is worth the replicas that stay, then the
    instances that can be reused. An upper bound of that, which ignores starts, is cheap for all pairs. Legal layouts
    are computed for the chosen pairs only; where the bound was too high, it is lowered and the assignment repeated.

    Args:
        request: what was asked.
        shake: random numbers that choose among assignments of equal worth.
        deadline: of more GPUs than are assigned at once, those that have most in common are looked for this long;
            what is left then goes anywhere.

    Raises:
        InfeasibleError: there are too few GPUs of a model, or fixed instances leave no room.
        InputError: the target has a fixed instance that does not run.
    """
    _refuse_unknown_fixed(request)
    result: dict[str, Wanted] = {gpu.id: {} for gpu in request.current.gpus}
    for model in sorted({gpu.model for gpu in request.target.gpus}):
        there = [gpu for gpu in request.current.gpus if gpu.model == model and not gpu.leaving]
        wanted = [(gpu.id, content(gpu)) for gpu in request.target.gpus if gpu.model == model]
        wanted = [(name, each) for name, each in wanted if each]
        if len(wanted) > _ALL_PAIRS:
            there, wanted = _without_same(there, wanted, result, in_place=request.in_place)
        if len(wanted) > len(there):
            raise InfeasibleError(
                f"the plan needs {counted(len(wanted), 'GPU')} of {model}, and there are {len(there)}",
                hint="plan again with this count, or add GPUs",
            )
        gpu = rules(model, request.forbid)
        if len(wanted) > _MOST_ASSIGNED and deadline is not None and not request.in_place:
            there, wanted = _in_time(gpu, there, wanted, result, deadline)
        elif len(wanted) > _MOST_ASSIGNED:
            there, wanted = _without_alike(gpu, there, wanted, result, in_place=request.in_place)
        same = _IN_PLACE if request.in_place else _SAME_ID
        matching = _Matching(gpu, _concerned(there, wanted), wanted, same)
        result.update(matching.best(shake))
    return result


def _without_same(
    there: Sequence[DeployedGpu],
    wanted: Sequence[tuple[str, Content]],
    result: dict[str, Wanted],
    *,
    in_place: bool,
) -> tuple[list[DeployedGpu], list[tuple[str, Content]]]:
    """Leave GPUs as they are that hold what the target has on one, and return the others and what they may get.

    Those of which the target has the same under their own name come first; others may only be exchanged if GPUs need
    not keep their places.
    """
    holds = {gpu.id: content(gpu) for gpu in there}
    left = dict(wanted)
    same = {name for name, each in wanted if holds.get(name) == each}
    for name in same:
        del left[name]
    if not in_place:
        alike: dict[Content, list[str]] = defaultdict(list)
        for name, each in left.items():
            alike[each].append(name)
        for gpu in there:
            if gpu.id not in same and alike.get(holds[gpu.id]):
                del left[alike[holds[gpu.id]].pop()]
                same.add(gpu.id)
    result.update((gpu.id, _running(gpu)) for gpu in there if gpu.id in same)
    return [gpu for gpu in there if gpu.id not in same], list(left.items())


def _without_alike(
    gpu: GpuModel,
    there: Sequence[DeployedGpu],
    wanted: Sequence[tuple[str, Content]],
    result: dict[str, Wanted],
    *,
    in_place: bool,
) -> tuple[list[DeployedGpu], list[tuple[str, Content]]]:
    """Give GPUs what has most in common with what they hold, and return the others and what they may get.

    The time grows with the kinds of GPUs, not with the number of their pairs. What is wanted of GPUs that must keep
    their places stays where it is.
    """
    free = [each for each in there if not any(instance.fixed for instance in each.instances)]
    named = {each.id: each for each in free}
    pairs = [(named[name], j) for j, (name, _) in enumerate(wanted) if in_place and name in named]
    if not in_place:
        now: dict[Content, list[DeployedGpu]] = defaultdict(list)
        then: dict[Content, list[int]] = defaultdict(list)
        for each in free:
            now[content(each)].append(each)
        for j, (_, held) in enumerate(wanted):
            then[held].append(j)
        worth = _worth(list(then), list(now))
        rows, columns = list(then.values()), list(now.values())
        for index in np.argsort(-worth, axis=None, kind="stable"):
            if len(pairs) >= len(wanted) - _MOST_ASSIGNED:
                break
            row, column = rows[int(index) // len(columns)], columns[int(index) % len(columns)]
            n = min(len(row), len(column))
            pairs += zip(column[:n], row[:n], strict=True)
            del row[:n], column[:n]
    done = set()
    for each, j in pairs:
        found = fit(gpu, each, wanted[j][1], _running(each))
        if found is not None:
            result[each.id] = found.wanted
            done.add(j)
    used = {each.id for each, j in pairs if j in done}
    rest = [each for j, each in enumerate(wanted) if j not in done]
    return [each for each in there if each.id not in used], rest


def _in_time(
    gpu: GpuModel,
    there: Sequence[DeployedGpu],
    wanted: Sequence[tuple[str, Content]],
    result: dict[str, Wanted],
    deadline: Deadline,
) -> tuple[list[DeployedGpu], list[tuple[str, Content]]]:
    """Give GPUs what has much in common with what they hold; return those with fixed instances, and what is left.

    Each content in turn takes the best of some GPUs that hold the rarest of its replicas. The time grows with the
    number of GPUs.
    """
    free = {each.id: each for each in there if not any(instance.fixed for instance in each.instances)}
    holds = {name: Counter(content(each)) for name, each in free.items()}
    holders: dict[object, dict[str, None]] = defaultdict(dict)
    for name, held in holds.items():
        for pair in held:
            holders[pair][name] = None

    def give(name: str, held: Content) -> bool:
        # Once the time is over, the first layout will do.
        now = _running(free[name])
        if deadline.over:
            layouts = _layouts(gpu, tuple(profile for profile, _ in held))
            found = _fill(sorted(layouts[0]), held, now) if layouts else None
        else:
            fits = fit(gpu, free[name], held, now)
            found = None if fits is None else fits.wanted
        if found is None:
            return False
        result[name] = found
        for pair in holds[name]:
            del holders[pair][name]
        del free[name]
        return True

    later = []
    for name, asked in wanted:
        pairs = sorted({pair for pair in asked if holders.get(pair)}, key=lambda pair: len(holders[pair]))
        likely = chain.from_iterable(islice(holders[pair], _LIKELY) for pair in pairs)
        each = Counter(asked)
        best = None if deadline.over else max(likely, key=lambda at: (holds[at] & each).total(), default=None)
        if best is None or not give(best, asked):
            later.append((name, asked))
    # Empty GPUs first, so that what stands on the others stays.
    anywhere = iter(sorted(free, key=lambda at: bool(holds[at])))
    rest = [
        (name, asked) for name, asked in later if (at := next(anywhere, None)) is None or not give(at, asked)
    ]
    return [each for each in there if each.id in free or any(i.fixed for i in each.instances)], rest


def _concerned(there: Sequence[DeployedGpu], wanted: Sequence[tuple[str, Content]]) -> list[DeployedGpu]:
    """Return the GPUs that may get something; of empty ones, which are interchangeable, as many as are wanted."""
    named = {name for name, _ in wanted}
    alike = [gpu.id for gpu in there if not gpu.instances and gpu.id not in named]
    left_out = set(alike[len(wanted) :])
    return [gpu for gpu in there if gpu.id not in left_out]


def _refuse_unknown_fixed(request: Request) -> None:
    there = {(gpu.id, each) for gpu in request.current.gpus for each in gpu.instances if each.fixed}
    for gpu in request.target.gpus:
        for each in gpu.instances:
            if each.fixed and (gpu.id, each) not in there:
                raise InputError(f"the fixed instance {each.placement} does not run there", where=gpu.id)


class _Matching:
    """GPUs of one model."""

    def __init__(
        self,
        gpu: GpuModel,
        there: Sequence[DeployedGpu],
        wanted: Sequence[tuple[str, Content]],
        same_id: float = _SAME_ID,
    ) -> None:
        self._gpu = gpu
        self._there = there
        self._wanted = wanted
        self._same_id = same_id
        self._fits: dict[tuple[int, int], Fit | None] = {}

    def best(self, shake: random.Random | None) -> dict[str, Wanted]:
        """Return what each GPU of the model is to hold, without GPUs that are to hold nothing."""
        bound = self._bounds()
        assignment = Assignment(bound + self._wishes(shake))
        for number in count():
            columns = assignment.columns()
            over = [(j, int(i), self._excess(j, int(i), bound)) for j, i in enumerate(columns)]
            worst = max((excess for _, _, excess in over), default=0.0)
            if worst <= 0 or (number >= _ROUNDS and worst < -_NEVER):
                break
            for j, i, excess in over:
                if excess > 0:
                    assignment.lower(j, i, excess)
                    bound[j, i] -= excess
        return {self._there[int(i)].id: self._placed(j, int(i)) for j, i in enumerate(columns)}

    def _bounds(self) -> NDArray[np.float64]:
        """Return an upper bound of what each pair is worth, shape (wanted, there)."""
        return _worth([each for _, each in self._wanted], [content(gpu) for gpu in self._there])

    def _wishes(self, shake: random.Random | None) -> NDArray[np.float64]:
        """Return what decides between pairs of equal worth: GPUs in use, and the plan's own names."""
        place = {gpu.id: i for i, gpu in enumerate(self._there)}
        same = np.zeros((len(self._wanted), len(self._there)))
        for j, (name, _) in enumerate(self._wanted):
            if name in place:
                same[j, place[name]] = self._same_id
        if shake is not None:
            drawn = np.random.default_rng(shake.getrandbits(32)).random(same.shape) * _IN_USE
            shaken: NDArray[np.float64] = drawn + (same if self._same_id > _SAME_ID else 0.0)
            return shaken
        in_use = np.array([_IN_USE if gpu.instances else 0.0 for gpu in self._there])
        wishes: NDArray[np.float64] = in_use + same
        return wishes

    def _excess(self, j: int, i: int, bound: NDArray[np.float64]) -> float:
        """Return by how much the bound of a pair exceeds what its legal layouts are worth."""
        found = self._fit(j, i)
        return float(bound[j, i]) - (
            _NEVER if found is None else found.kept * _REPLICA + found.reused * _INSTANCE
        )

    def _fit(self, j: int, i: int) -> Fit | None:
        if (j, i) not in self._fits:
            gpu = self._there[i]
            self._fits[j, i] = fit(self._gpu, gpu, self._wanted[j][1], _running(gpu))
        return self._fits[j, i]

    def _placed(self, j: int, i: int) -> Wanted:
        found = self._fit(j, i)
        if found is None:
            raise InfeasibleError(
                "the plan leaves no room beside instances that may be neither moved nor destroyed",
                where=self._there[i].id,
                hint="plan with fewer profiles or more GPUs, or free those instances",
            )
        return found.wanted


def _worth(wanted: Sequence[Content], there: Sequence[Content]) -> NDArray[np.float64]:
    """Return an upper bound of what is worth giving each GPU each content, shape (wanted, there)."""
    then, now = [_counts(each) for each in wanted], [_counts(each) for each in there]
    replicas = _overlap([counts[0] for counts in then], [counts[0] for counts in now], _REPLICA)
    instances = _overlap([counts[1] for counts in then], [counts[1] for counts in now], _INSTANCE)
    return replicas + instances


def _counts(held: Content) -> tuple[Counter[object], Counter[object]]:
    replicas: Counter[object] = Counter(pair for pair in held if pair[1] is not None)
    return replicas, Counter(profile for profile, _ in held)


def _overlap(
    rows: Sequence[Mapping[object, int]], columns: Sequence[Mapping[object, int]], weight: float
) -> NDArray[np.float64]:
    """Return `weight` times the size of each intersection of multisets, by a product of unary codes."""
    most: dict[object, int] = defaultdict(int)
    for counts in rows:
        for key, n in counts.items():
            most[key] = max(most[key], n)
    code = {
        (key, level): k for k, (key, level) in enumerate((k, v) for k, n in most.items() for v in range(n))
    }

    def unary(side: Sequence[Mapping[object, int]]) -> NDArray[np.float64]:
        matrix = np.zeros((len(side), len(code)))
        for index, counts in enumerate(side):
            for key, n in counts.items():
                for level in range(min(n, most.get(key, 0))):
                    matrix[index, code[key, level]] = 1.0
        return matrix

    found: NDArray[np.float64] = weight * (unary(rows) @ unary(columns).T)
    return found


def _running(gpu: DeployedGpu) -> Wanted:
    return {each.placement: each.replica for each in gpu.instances if not each.fixed}


# --- one GPU: the layout of its wanted content in which the most stays where it is

Content = tuple[tuple[str, "Replica | None"], ...]
"""What a GPU is to hold, wherever it starts: profiles and replicas."""


Wanted = dict["Placement", "Replica | None"]
"""What one GPU is to hold, and where; its fixed instances are not in it."""


def content(gpu: DeployedGpu) -> Content:
    """Return what a GPU holds beside its fixed instances, sorted, without starts."""
    found = [(each.placement.profile, each.replica) for each in gpu.instances if not each.fixed]
    return tuple(sorted(found, key=lambda pair: (pair[0], str(pair[1]))))


@dataclass(frozen=True, slots=True)
class Fit:
    """How a content is put onto a GPU: what stays, and where everything goes."""

    kept: int
    reused: int
    wanted: Wanted


def fit(gpu: GpuModel, there: DeployedGpu, wanted: Content, now: Wanted) -> Fit | None:
    """Return how a content is best put onto a GPU beside its fixed instances, None if it cannot be.

    The best leaves the most replicas where they are, then uses the most instances again, then has the fewest new
    instances that block old ones.

    Args:
        gpu: the GPU model, with the rules for its layouts.
        there: the GPU, for its fixed instances.
        wanted: what it is to hold.
        now: what it holds beside its fixed instances.
    """
    fixed = frozenset(each.placement for each in there.instances if each.fixed)
    best: tuple[tuple[int, int, int], Wanted] | None = None
    for placements in _layouts(gpu, tuple(sorted((*(p for p, _ in wanted), *(p.profile for p in fixed))))):
        if not fixed <= placements:
            continue
        found = _fill(sorted(placements - fixed), wanted, now)
        kept = sum(1 for place, replica in found.items() if replica and now.get(place) == replica)
        reused = len(now.keys() & found.keys())
        blocking = sum(
            1
            for new in found.keys() - now.keys()
            for old in now.keys() - found.keys()
            if conflict(gpu, new, old)
        )
        score = (kept, reused, -blocking)
        if best is None or score > best[0]:
            best = score, found
    return None if best is None else Fit(best[0][0], best[0][1], best[1])


def _fill(placements: Iterable[Placement], wanted: Content, now: Wanted) -> Wanted:
    """Give each placement a replica of its profile, the one that runs there already if that is wanted."""
    waiting: dict[str, list[Replica | None]] = defaultdict(list)
    for profile, replica in wanted:
        waiting[profile].append(replica)
    found: Wanted = {}
    rest = []
    for place in placements:
        if place in now and now[place] in waiting[place.profile]:
            waiting[place.profile].remove(now[place])
            found[place] = now[place]
        else:
            rest.append(place)
    for place in rest:
        found[place] = waiting[place.profile].pop()
    return found


@lru_cache(maxsize=4096)
def _layouts(gpu: GpuModel, profiles: tuple[str, ...]) -> tuple[frozenset[Placement], ...]:
    """Return the legal layouts with just these profiles, in the order in which plans prefer them."""
    plain = gpu.with_plain(profiles)
    counts = tuple(profiles.count(profile.name) for profile in plain.profiles)
    return tuple(frozenset(layout.placements) for layout in layouts_of(plain, counts))


class Assignment:
    """Gives each row a column of its own so that the total value is greatest, again each time a value is lowered.

    The Hungarian method by shortest augmenting paths (Jonker and Volgenant 1987), each path a row of array
    operations. A value that falls leaves the prices valid, so only its row is assigned again.

    Args:
        value: shape (n, m) with n <= m; finite.
    """

    def __init__(self, value: NDArray[np.float64]) -> None:
        self._rows, m = value.shape
        # Rows of value 0 make it square, so that a column without a real row never keeps a price.
        self._cost = value.max(initial=0.0) - np.vstack([value, np.zeros((m - self._rows, m))])
        self._column_price = np.zeros(m)
        self._row_price = self._cost.min(axis=1, initial=np.inf)
        self._owner = np.full(m, -1, dtype=np.int64)
        self._column = np.full(m, -1, dtype=np.int64)
        for row in range(m):  # most rows find a free column at their least cost
            free = np.flatnonzero((self._cost[row] == self._row_price[row]) & (self._owner < 0))
            if len(free):
                self._owner[free[0]] = row
                self._column[row] = free[0]

    def columns(self) -> NDArray[np.int64]:
        """Return the column of each row."""
        for row in np.flatnonzero(self._column < 0):
            self._augment(int(row))
        return self._column[: self._rows].copy()

    def lower(self, row: int, column: int, by: float) -> None:
        """Lower the value of a pair."""
        self._cost[row, column] += by
        if self._column[row] == column:
            self._column[row] = self._owner[column] = -1

    def _augment(self, root: int) -> None:
        cost, owner, column_price = self._cost, self._owner, self._column_price
        distance = np.full(len(owner), np.inf)
        # Distances of the columns that are not done; infinite for the others.
        undone = np.full(len(owner), np.inf)
        came = np.full(len(owner), -1, dtype=np.int64)
        done: list[int] = []
        row, reached = root, 0.0
        while True:
            further = cost[row] - column_price
            further += reached - self._row_price[row]
            further[done] = np.inf
            better = further < undone
            undone[better] = further[better]
            came[better] = row
            reached = float(undone.min())
            nearest = (undone <= reached).nonzero()[0]
            free = nearest[owner[nearest] < 0]
            end = int(free[0]) if len(free) else int(nearest[0])
            if len(free):
                break
            distance[end] = reached
            undone[end] = np.inf
            done.append(end)
            row = int(owner[end])
        self._row_price[owner[done]] += reached - distance[done]
        self._row_price[root] += reached
        column_price[done] -= reached - distance[done]
        while end >= 0:
            row = int(came[end])
            owner[end] = row
            end, self._column[row] = int(self._column[row]), end


@lru_cache(maxsize=256)
def rules(model: str, forbid: tuple[str, ...]) -> GpuModel:
    """Return the GPU of that name with these combinations forbidden.

    Raises:
        InputError: the catalogue has no such GPU, or a combination cannot be read.
    """
    return gpu_model(model).forbidding(forbid) if forbid else gpu_model(model)


@lru_cache(maxsize=65536)
def legal(gpu: GpuModel, placements: frozenset[Placement]) -> bool:
    """Say whether these placements may stand together."""
    return fault(gpu, sorted(placements)) is None


def conflict(gpu: GpuModel, one: Placement, other: Placement) -> bool:
    """Say whether two placements, each legal alone, may never stand together."""
    return one == other or not legal(gpu, frozenset((one, other)))
