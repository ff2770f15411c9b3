"""The wanted layouts on physical GPUs, so that the most replicas stay where they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from partita.errors import InfeasibleError, InputError
from partita.transition.assignment import Assignment
from partita.transition.fit import Fit, content, fit
from partita.transition.geometry import rules

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from partita.mig.gpu import GpuModel
    from partita.transition.deployment import DeployedGpu
    from partita.transition.fit import Content, Wanted
    from partita.transition.transition import Request

_REPLICA, _INSTANCE, _IN_USE, _SAME_ID = 1000.0, 10.0, 5.0, 1.0
_NEVER = -1e9
_ROUNDS = 20
"""After so many, what is promised too much is let be, unless it cannot be had at all."""


def nearest(request: Request, shake: random.Random | None = None) -> dict[str, Wanted]:
    """Return what each physical GPU is to hold.

    An assignment of the target's GPUs to the physical ones of their model. A pair is worth the replicas that
    stay, then the instances that can be used again. How many can stay, wherever they start, bounds a pair's worth
    and is cheap for all pairs; legal layouts are looked at for the chosen pairs only, and the assignment is
    made again where one had promised too much.

    Args:
        request: what was asked.
        shake: random numbers that choose among assignments of equal worth.

    Raises:
        InfeasibleError: there are too few GPUs of a model, or fixed instances leave no room.
        InputError: the target has a fixed instance that does not run.
    """
    _refuse_unknown_fixed(request)
    result: dict[str, Wanted] = {gpu.id: {} for gpu in request.current.gpus}
    for model in sorted({gpu.model for gpu in request.target.gpus}):
        there = [gpu for gpu in request.current.gpus if gpu.model == model]
        wanted = [(gpu.id, content(gpu)) for gpu in request.target.gpus if gpu.model == model]
        wanted = [(name, each) for name, each in wanted if each]
        if len(wanted) > len(there):
            raise InfeasibleError(
                f"the plan needs {len(wanted)} GPUs of {model}, and there are {len(there)}",
                hint="plan again with this count, or add GPUs",
            )
        result.update(_Matching(rules(model, request.forbid), there, wanted).best(shake))
    return result


def _refuse_unknown_fixed(request: Request) -> None:
    there = {(gpu.id, each) for gpu in request.current.gpus for each in gpu.instances if each.fixed}
    for gpu in request.target.gpus:
        for each in gpu.instances:
            if each.fixed and (gpu.id, each) not in there:
                raise InputError(f"the fixed instance {each.placement} does not run there", where=gpu.id)


class _Matching:
    """GPUs of one model."""

    def __init__(
        self, gpu: GpuModel, there: Sequence[DeployedGpu], wanted: Sequence[tuple[str, Content]]
    ) -> None:
        self._gpu = gpu
        self._there = there
        self._wanted = wanted
        self._fits: dict[tuple[int, int], Fit | None] = {}

    def best(self, shake: random.Random | None) -> dict[str, Wanted]:
        """Return what each GPU of the model is to hold, of those that are to hold anything."""
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
        """Return at most what each pair is worth, shape (wanted, there)."""
        now = [_counts(content(gpu)) for gpu in self._there]
        then = [_counts(each) for _, each in self._wanted]
        replicas = _overlap([counts[0] for counts in then], [counts[0] for counts in now], _REPLICA)
        instances = _overlap([counts[1] for counts in then], [counts[1] for counts in now], _INSTANCE)
        return replicas + instances

    def _wishes(self, shake: random.Random | None) -> NDArray[np.float64]:
        """Return what decides between pairs of equal worth: GPUs in use, and the plan's own names."""
        shape = len(self._wanted), len(self._there)
        if shake is not None:
            drawn: NDArray[np.float64] = np.random.default_rng(shake.getrandbits(32)).random(shape) * _IN_USE
            return drawn
        in_use = np.array([_IN_USE if gpu.instances else 0.0 for gpu in self._there])
        same = np.array([[_SAME_ID * (gpu.id == name) for gpu in self._there] for name, _ in self._wanted])
        wishes: NDArray[np.float64] = in_use + same.reshape(shape)
        return wishes

    def _excess(self, j: int, i: int, bound: NDArray[np.float64]) -> float:
        """Return by how much a pair is worth less than was thought, now that its layouts are looked at."""
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
