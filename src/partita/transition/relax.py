"""From steps one after the other to a graph with only the edges that safety needs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from partita.transition.check_gpus import peak_as_soon_as_possible
from partita.transition.check_graph import Graph
from partita.transition.check_instances import Lifetime
from partita.transition.geometry import conflict, legal, rules
from partita.transition.steps import outcome
from partita.transition.tokens import Spare
from partita.transition.transition import Action, Kind, Transition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.mig.layout import Placement
    from partita.transition.steps import Step
    from partita.transition.transition import Request


def relax(
    request: Request,
    steps: Sequence[Step],
    algorithm: str,
    *,
    after: Mapping[int, set[int]] | None = None,
    one_per_gpu: bool = False,
) -> Transition:
    """Return the transition in which each step waits only for what makes it safe.

    An instance's steps keep their order. A creation waits for the destructions of what it cannot stand beside,
    and, on a GPU that was not in use, for a GPU to be given up where the budget needs that. A stop waits for
    the starts whose throughput replaces it (`tokens.py`). Where a choice is, the step takes what is there
    earliest, so that the order of the steps is their priority: a serial schedule-generation scheme
    (Kolisch 1996).

    Args:
        request: what was asked.
        steps: one after the other they are legal, keep the floors and the budget.
        algorithm: whose they are.
        after: steps that a step waits for besides, by index.
        one_per_gpu: each GPU carries out one step at a time.

    Raises:
        ValueError: the steps are not safe even one after the other.
    """
    actions = _Relaxation(request, steps, after or {}, one_per_gpu=one_per_gpu).actions()
    graph = Graph(actions)
    target = outcome(request.current, steps)
    final = {(gpu.id, each.placement): each.replica for gpu in target.gpus for each in gpu.instances}
    moved = sum(
        1
        for gpu in request.current.gpus
        for each in gpu.instances
        if each.replica and final.get((gpu.id, each.placement)) != each.replica
    )
    return Transition(
        algorithm=algorithm,
        actions=actions,
        floors=request.floors,
        target=target,
        makespan=max((graph.end(i) for i in range(len(actions))), default=0.0),
        peak_gpus=peak_as_soon_as_possible(graph, _lifetimes(request, actions)),
        moved=moved,
    )


def _lifetimes(request: Request, actions: Sequence[Action]) -> list[Lifetime]:
    made: dict[tuple[str, Placement], int | None] = {
        (gpu.id, each.placement): None for gpu in request.current.gpus for each in gpu.instances
    }
    found = []
    for i, action in enumerate(actions):
        key = (action.gpu, action.placement)
        if action.kind is Kind.CREATE_INSTANCE:
            made[key] = i
        elif action.kind is Kind.DESTROY_INSTANCE:
            found.append(Lifetime(*key, made.pop(key), i))
    return found + [Lifetime(gpu, placement, i, None) for (gpu, placement), i in made.items()]


@dataclass(slots=True)
class _Gpu:
    """A GPU while the steps are walked through.

    Attributes:
        present: what stands.
        gone: what stood since the GPU came into use, and the destruction of each.
        entry: what every creation waits for since then; None while the GPU is not in use.
        left: steps still to come.
        last: the last step.
    """

    model: str
    present: set[Placement]
    gone: list[tuple[Placement, int]] = field(default_factory=list)
    entry: tuple[int, ...] | None = None
    left: int = 0
    last: int | None = None


@dataclass(frozen=True, slots=True)
class _Leave:
    """Leave to take a GPU into use: when, after which steps, and whose GPU was given up for it, if any.

    Attributes:
        entry: that of the GPU given up.
    """

    ready: float = 0.0
    after: tuple[int, ...] = ()
    gpu: _Gpu | None = None
    entry: tuple[int, ...] = ()

    @property
    def rank(self) -> tuple[bool, float]:
        """What is best taken first: not of a GPU that will itself be used again, then the earliest."""
        return self.gpu is not None and self.gpu.left > 0, self.ready


class _Relaxation:
    """One walk through the steps. Actions are named by their index until they are made."""

    def __init__(
        self, request: Request, steps: Sequence[Step], after: Mapping[int, set[int]], *, one_per_gpu: bool
    ) -> None:
        self._request = request
        self._steps = steps
        self._after = after
        self._one_per_gpu = one_per_gpu
        self._floors = request.floors
        self._spare: dict[str, Spare] = defaultdict(lambda: Spare(0.0))
        for name, capacity in request.current.capacity().items():
            floor = self._floors.get(name, 0.0)
            self._spare[name] = Spare(max(0.0, capacity - floor), floor)
        self._gpus = {
            gpu.id: _Gpu(gpu.model, {each.placement for each in gpu.instances})
            for gpu in request.current.gpus
        }
        for gpu in self._gpus.values():
            gpu.entry = () if gpu.present else None
        for step in steps:
            self._gpus[step.gpu].left += 1
        free = request.gpu_budget - request.current.used
        self._free = [_Leave()] * max(0, free)
        self._last: dict[tuple[str, Placement], int] = {}
        self._before: list[tuple[int, ...]] = []
        self._ancestors: list[int] = []
        self._end: list[float] = []

    def actions(self) -> tuple[Action, ...]:
        """Return the actions, in the order of the steps."""
        durations = self._request.durations
        for i, step in enumerate(self._steps):
            waits = self._reduced(self._waits(i, step))
            begin = max((self._end[w] for w in waits), default=0.0)
            self._before.append(waits)
            self._end.append(begin + durations.of(step.kind))
            mask = 0
            for w in waits:
                mask |= self._ancestors[w] | (1 << w)
            self._ancestors.append(mask)
            self._done(i, step)
        return tuple(
            Action(
                f"a{i + 1}",
                step.kind,
                step.gpu,
                step.placement,
                step.replica,
                tuple(f"a{w + 1}" for w in self._before[i]),
                durations.of(step.kind),
            )
            for i, step in enumerate(self._steps)
        )

    def _waits(self, i: int, step: Step) -> set[int]:
        gpu = self._gpus[step.gpu]
        waits = set(self._after.get(i, ()))
        if (last := self._last.get((step.gpu, step.placement))) is not None:
            waits.add(last)
        if self._one_per_gpu and gpu.last is not None:
            waits.add(gpu.last)
        if step.kind is Kind.CREATE_INSTANCE:
            waits |= self._room(gpu, step.placement) | self._entry(step.gpu)
        if step.kind is Kind.STOP_REPLICA:
            waits |= self._replaced(step, waits)
        return waits

    def _room(self, gpu: _Gpu, placement: Placement) -> set[int]:
        """Return the destructions that make room for an instance."""
        model = rules(gpu.model, self._request.forbid)
        waits = {i for gone, i in gpu.gone if conflict(model, gone, placement)}
        rest = {gone for gone, i in gpu.gone if i not in waits}
        if not legal(model, frozenset({*gpu.present, *rest, placement})):
            # Rest beside rest, or a rule on three and more: all that went has gone before.
            waits |= {i for _, i in gpu.gone}
        return waits

    def _entry(self, gpu_id: str) -> set[int]:
        """Return what a creation waits for so that the budget is kept: on a GPU not in use, for leave to use it."""
        gpu = self._gpus[gpu_id]
        if gpu.entry is None:
            own = [leave for leave in self._free if leave.gpu is gpu]
            if own:  # nobody else took it: the GPU simply stays in use
                self._free.remove(own[0])
                gpu.entry = own[0].entry
            elif self._free:
                leave = min(self._free, key=lambda each: each.rank)
                self._free.remove(leave)
                gpu.entry = self._reduced({*leave.after, *(i for _, i in gpu.gone)})
                gpu.gone.clear()
            else:
                raise ValueError(f"no GPU is left of the budget for {gpu_id}")
        return set(gpu.entry)

    def _replaced(self, step: Step, waits: set[int]) -> set[int]:
        """Return the starts that keep a service's floor when a replica of it stops."""
        replica = step.replica
        if replica is None or replica.service not in self._floors:
            return set()
        known = 0
        for w in waits:
            known |= self._ancestors[w] | (1 << w)
        return set(self._spare[replica.service].take(replica.throughput, known))

    def _reduced(self, waits: set[int]) -> tuple[int, ...]:
        """Leave out what comes before another of them anyway."""
        implied = 0
        for w in waits:
            implied |= self._ancestors[w]
        return tuple(sorted(w for w in waits if not implied >> w & 1))

    def _done(self, i: int, step: Step) -> None:
        gpu = self._gpus[step.gpu]
        self._last[step.gpu, step.placement] = i
        gpu.last = i
        gpu.left -= 1
        if step.kind is Kind.CREATE_INSTANCE:
            gpu.present.add(step.placement)
        elif step.kind is Kind.DESTROY_INSTANCE:
            gpu.present.discard(step.placement)
            gpu.gone.append((step.placement, i))
            if not gpu.present:
                self._give_up(gpu)
        elif step.kind is Kind.START_REPLICA and step.replica:
            self._spare[step.replica.service].bring(i, self._end[i], step.replica.throughput)

    def _give_up(self, gpu: _Gpu) -> None:
        closes = self._reduced({i for _, i in gpu.gone})
        self._free.append(_Leave(max(self._end[i] for i in closes), closes, gpu, gpu.entry or ()))
        gpu.entry = None
