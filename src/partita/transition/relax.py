"""From a sequence of steps to a graph with only the edges that safety needs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from partita.transition.nearest import conflict, legal, rules
from partita.transition.schedule import outcome
from partita.transition.transition import Action, ActionKind, Transition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.mig.layout import Placement
    from partita.transition.schedule import Step
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
    the starts whose throughput replaces it. Where there is a choice, the step waits for what is ready earliest, so
    that the order of the steps is their priority: a serial schedule-generation scheme (Kolisch 1996).

    Args:
        request: what was asked.
        steps: a sequence that is legal and keeps the floors and the budget.
        algorithm: the name of the algorithm that made them.
        after: further steps that a step waits for, by index.
        one_per_gpu: each GPU carries out one step at a time.

    Raises:
        ValueError: the steps are not safe even in their sequence.
    """
    walk = _Relaxation(request, steps, after or {}, one_per_gpu=one_per_gpu)
    actions = walk.actions()
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
        makespan=walk.makespan,
        peak_gpus=walk.peak_gpus,
        moved=moved,
    )


_Span = tuple[int | None, int | None]
"""The steps that make and destroy an instance; None where it was there before, or stays."""


def _times_of_use(spans: Sequence[_Span], ancestors: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return a GPU's periods of use: the steps that may begin each, and those that may end it; empty where none."""
    groups: list[list[_Span]] = []
    for span in spans:
        linked = [group for group in groups if any(_may_meet(span, other, ancestors) for other in group)]
        groups = [group for group in groups if group not in linked]
        groups.append([span, *(other for group in linked for other in group)])
    found = []
    for group in groups:
        first = [made for made, _ in group if made is not None]
        last = [gone for _, gone in group if gone is not None]
        found.append((first if len(first) == len(group) else [], last if len(last) == len(group) else []))
    return found


def _may_meet(one: _Span, other: _Span, ancestors: Sequence[int]) -> bool:
    """Return whether two instances exist at the same moment in some order."""
    return not any(
        gone is not None and made is not None and ancestors[made] >> gone & 1
        for gone, made in ((one[1], other[0]), (other[1], one[0]))
    )


@dataclass(slots=True)
class _Gpu:
    """The state of a GPU after the steps so far.

    Attributes:
        present: its instances.
        gone: instances destroyed since the GPU came into use, and the step that destroyed each.
        entry: the steps that every creation waits for since then; None while the GPU is not in use.
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
class _Permit:
    """Permission to take a GPU into use: from when, after which steps, and the GPU that was given up for it, if any.

    Attributes:
        entry: that of the GPU given up.
    """

    ready: float = 0.0
    after: tuple[int, ...] = ()
    gpu: _Gpu | None = None
    entry: tuple[int, ...] = ()

    @property
    def rank(self) -> tuple[bool, float]:
        """The order of choice: permits of GPUs that will be used again come last, then the earliest comes first."""
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
        self._free = [_Permit()] * max(0, free)
        self._last: dict[tuple[str, Placement], int] = {}
        self._before: list[tuple[int, ...]] = []
        self._ancestors: list[int] = []
        self._begin: list[float] = []
        self._end: list[float] = []

    def actions(self) -> tuple[Action, ...]:
        """Return the actions, in the order of the steps."""
        durations = self._request.durations
        for i, step in enumerate(self._steps):
            waits = self._reduced(self._waits(i, step))
            begin = max((self._end[w] for w in waits), default=0.0)
            self._before.append(waits)
            self._begin.append(begin)
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

    @property
    def makespan(self) -> float:
        """Seconds until all actions have ended, if each begins as soon as it may."""
        return max(self._end, default=0.0)

    @property
    def peak_gpus(self) -> int:
        """The most GPUs in use at once, if each action begins as soon as it may.

        A GPU is in use from its first instance until it has none in any order. Two instances belong to one period of
        use if one may be made before the other is gone.
        """
        changes: list[tuple[float, int]] = []
        for spans in self._spans().values():
            for first, last in _times_of_use(spans, self._ancestors):
                begin = min((self._begin[i] for i in first), default=0.0)
                changes.append((begin, 1))
                if last:
                    changes.append((max(self._end[i] for i in last), -1))
        return max(accumulate((change for _, change in sorted(changes)), initial=0))

    def _spans(self) -> dict[str, list[_Span]]:
        """Return, GPU by GPU, which steps make and destroy each instance."""
        standing: dict[tuple[str, Placement], int | None] = {
            (gpu.id, each.placement): None for gpu in self._request.current.gpus for each in gpu.instances
        }
        spans: dict[str, list[_Span]] = defaultdict(list)
        for i, step in enumerate(self._steps):
            spot = (step.gpu, step.placement)
            if step.kind is ActionKind.CREATE_INSTANCE:
                standing[spot] = i
            elif step.kind is ActionKind.DESTROY_INSTANCE:
                spans[step.gpu].append((standing.pop(spot), i))
        for (gpu_id, _), made in standing.items():
            spans[gpu_id].append((made, None))
        return spans

    def _waits(self, i: int, step: Step) -> set[int]:
        gpu = self._gpus[step.gpu]
        waits = set(self._after.get(i, ()))
        if (last := self._last.get((step.gpu, step.placement))) is not None:
            waits.add(last)
        if self._one_per_gpu and gpu.last is not None:
            waits.add(gpu.last)
        if step.kind is ActionKind.CREATE_INSTANCE:
            waits |= self._room(gpu, step.placement) | self._entry(step.gpu)
        if step.kind is ActionKind.STOP_REPLICA:
            waits |= self._replaced(step, waits)
        return waits

    def _room(self, gpu: _Gpu, placement: Placement) -> set[int]:
        """Return the destructions that make room for an instance."""
        model = rules(gpu.model, self._request.forbid)
        waits = {i for gone, i in gpu.gone if conflict(model, gone, placement)}
        rest = {gone for gone, i in gpu.gone if i not in waits}
        if not legal(model, frozenset({*gpu.present, *rest, placement})):
            # Two of the rest conflict, or a rule on three or more does: wait for all destructions.
            waits |= {i for _, i in gpu.gone}
        return waits

    def _entry(self, gpu_id: str) -> set[int]:
        """Return what a creation waits for to keep the budget: on a GPU not in use, for a permit."""
        gpu = self._gpus[gpu_id]
        if gpu.entry is None:
            own = [permit for permit in self._free if permit.gpu is gpu]
            if own:  # no other GPU took it: this one stays in use
                self._free.remove(own[0])
                gpu.entry = own[0].entry
            elif self._free:
                permit = min(self._free, key=lambda each: each.rank)
                self._free.remove(permit)
                gpu.entry = self._reduced({*permit.after, *(i for _, i in gpu.gone)})
                gpu.gone.clear()
            else:
                raise ValueError(f"no GPU is left of the budget for {gpu_id}")
        return set(gpu.entry)

    def _replaced(self, step: Step, waits: set[int]) -> set[int]:
        """Return the starts that keep a service's floor when a replica of it stops."""
        replica = step.replica
        served = [] if replica is None else [each for each in replica.serves if each[0] in self._floors]
        if not served:
            return set()
        known = 0
        for w in waits:
            known |= self._ancestors[w] | (1 << w)
        taken: set[int] = set()
        for service, throughput in served:
            found = self._spare[service].take(throughput, known)
            taken.update(found)
            for w in found:
                known |= self._ancestors[w] | (1 << w)
        return taken

    def _reduced(self, waits: set[int]) -> tuple[int, ...]:
        """Return the waits without those that another of them implies."""
        implied = 0
        for w in waits:
            implied |= self._ancestors[w]
        return tuple(sorted(w for w in waits if not implied >> w & 1))

    def _done(self, i: int, step: Step) -> None:
        gpu = self._gpus[step.gpu]
        self._last[step.gpu, step.placement] = i
        gpu.last = i
        gpu.left -= 1
        if step.kind is ActionKind.CREATE_INSTANCE:
            gpu.present.add(step.placement)
        elif step.kind is ActionKind.DESTROY_INSTANCE:
            gpu.present.discard(step.placement)
            gpu.gone.append((step.placement, i))
            if not gpu.present:
                self._give_up(gpu)
        elif step.kind is ActionKind.START_REPLICA and step.replica:
            for service, throughput in step.replica.serves:
                self._spare[service].bring(i, self._end[i], throughput)

    def _give_up(self, gpu: _Gpu) -> None:
        closes = self._reduced({i for _, i in gpu.gone})
        self._free.append(_Permit(max(self._end[i] for i in closes), closes, gpu, gpu.entry or ()))
        gpu.entry = None


# --- what a service can spare: a stop is safe once it has taken tokens worth its throughput


@dataclass(slots=True)
class Token:
    """Throughput that a service has beyond its floor.

    Attributes:
        ready: when it is available: 0 for the initial spare throughput, else the end of the start that brings it.
        left: items/s not yet taken.
        start: index of the start that brings it; None for the initial spare throughput.
    """

    ready: float
    left: float
    start: int | None


class Spare:
    """The tokens of one service.

    A stop takes tokens worth its throughput and comes after their starts; no token is taken twice. So in any state of
    any order the stops that have begun took at most the initial slack and what the ended starts brought: the floor is
    kept.
    """

    def __init__(self, slack: float, floor: float = 0.0) -> None:
        self._tokens = [Token(0.0, slack, None)] if slack > 0 else []
        # Sums in another order differ by less than this; the checker allows a thousand times as much.
        self._least = 1e-9 * max(1.0, floor)

    def bring(self, start: int, ready: float, throughput: float) -> None:
        """Add what a start brings."""
        self._tokens.append(Token(ready, throughput, start))

    def take(self, amount: float, ancestors: int) -> list[int]:
        """Take tokens worth `amount`, the earliest; return the starts to wait for.

        Of the tokens ready by the earliest time at which there are enough, those that cost no edge are taken first:
        those of starts among the `ancestors` (a bit set) and the initial slack; then the largest.

        Raises:
            ValueError: there is less than `amount`.
        """
        by = self._enough_by(amount, ancestors)
        there = [token for token in self._tokens if self._known(token, ancestors) or token.ready <= by]
        there.sort(
            key=lambda token: (not self._known(token, ancestors), token.start is not None, -token.left)
        )
        waits = []
        for token in there:
            if amount <= self._least:
                break
            taken = min(amount, token.left)
            amount -= taken
            token.left -= taken
            if token.start is not None:
                waits.append(token.start)
        self._tokens = [token for token in self._tokens if token.left > 0]
        return waits

    @staticmethod
    def _known(token: Token, ancestors: int) -> bool:
        return token.start is not None and bool(ancestors >> token.start & 1)

    def _enough_by(self, amount: float, ancestors: int) -> float:
        by = 0.0
        for token in sorted(self._tokens, key=lambda t: 0.0 if self._known(t, ancestors) else t.ready):
            if amount <= self._least:
                return by
            by = max(by, 0.0 if self._known(token, ancestors) else token.ready)
            amount -= token.left
        if amount > 10 * self._least:
            raise ValueError("less to spare than asked")
        return by
