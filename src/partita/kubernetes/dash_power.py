"""What a cluster's GPUs draw and drew, by the power model: no counter of a node can be read through the API server.

A GPU draws by the model's law as long as nothing on it changes, so spans between changes are all that is kept.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from partita.drive.driver import Observation
from partita.drive.simulated.cluster import watts
from partita.jobs.energy import (
    NOBODY,
    Energy,
    EnergyOwner,
    Interval,
    LedgerEntry,
    OwnerKind,
    attribute,
    services_of,
    stay_of,
)
from partita.mig.catalogue import gpu_model
from partita.mig.gpu import IDLE_W
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from partita.drive.driver import ObservedGpu
    from partita.jobs.energy import Stay

KEPT_S = 31 * 86_400.0
_MOST = 50_000
"""Spans that are kept; the oldest go first."""


@dataclass(frozen=True, slots=True)
class _Use:
    """What an owner uses of a GPU in a second; None where the GPU's power is not known."""

    owner: EnergyOwner
    idle_w: float
    active_w: float
    known: bool = True


@dataclass(frozen=True, slots=True)
class _Span:
    """How a GPU was used for a time.

    Attributes:
        kind: of the GPU, for its price.
        ended: infinite while it goes on.
    """

    gpu: str
    kind: str
    began: float
    uses: tuple[_Use, ...]
    ended: float = float("inf")

    def entries(self, since: float, until: float) -> Iterator[LedgerEntry]:
        """Yield what each owner used between two times."""
        lasts = min(self.ended, until) - max(self.began, since)
        if lasts > 0.0:
            for each in self.uses:
                took = Energy(each.idle_w * lasts, each.active_w * lasts, lasts)
                missing = Energy(missing_s=lasts)
                yield LedgerEntry(self.gpu, each.owner, took if each.known else missing)


class PowerHistory:
    """The power of GPUs by who uses them, as far back as it was watched. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[ObservedGpu, str, tuple[tuple[Placement, str], ...]]] = {}
        self._open: dict[str, _Span] = {}
        self._ended: deque[_Span] = deque()
        self._began: float | None = None

    @property
    def began(self) -> float | None:
        """From when on it knows, in seconds since 1970; None before the first GPU was seen."""
        return self._began

    def note(
        self, at: float, gpus: Mapping[str, Iterable[ObservedGpu]], jobs: Mapping[tuple[str, str], str]
    ) -> dict[str, float | None]:
        """Note how GPUs are used from now on; return the watts of those used in another way, None if unknown.

        Args:
            at: seconds since 1970.
            gpus: all that there are, by what has one price.
            jobs: ids of jobs by GPU and placement.
        """
        by_gpu: dict[str, list[tuple[Placement, str]]] = defaultdict(list)
        for (gpu_id, place), job in jobs.items():
            by_gpu[gpu_id].append((Placement.parse(place), job))
        seen = {
            gpu.id: (gpu, kind, tuple(sorted(by_gpu.get(gpu.id, ()))))
            for kind, all_ in gpus.items()
            for gpu in all_
        }
        changed: dict[str, float | None] = {}
        with self._lock:
            for name, (gpu, kind, here) in seen.items():
                if self._seen.get(name) == seen[name]:
                    continue
                now = _Span(name, kind, at, _uses(gpu, here))
                before = self._open.get(name)
                if before is None or (before.kind, before.uses) != (kind, now.uses):
                    self._end(name, at)
                    self._open[name] = now
                    changed[name] = _watts(now)
            for name in self._open.keys() - seen.keys():
                self._end(name, at)
            self._seen = seen
            if self._began is None and self._open:
                self._began = at
            self._forget(at)
        return changed

    def _end(self, name: str, at: float) -> None:
        span = self._open.pop(name, None)
        if span is not None and at > span.began:
            self._ended.append(replace(span, ended=at))

    def _forget(self, at: float) -> None:
        while self._ended and (len(self._ended) > _MOST or self._ended[0].ended < at - KEPT_S):
            self._began = self._ended.popleft().ended

    def between(self, since: float, until: float, gpu: str | None = None) -> tuple[LedgerEntry, ...]:
        """Return what each owner used between two times on a GPU, or (None) on all."""
        with self._lock:
            spans = [*self._ended, *self._open.values()]
        return tuple(
            entry for span in spans if gpu in (None, span.gpu) for entry in span.entries(since, until)
        )

    def kinds(self) -> dict[str, str]:
        """Return what a GPU is as far as its price goes, as `note` was told, by the GPU's id."""
        with self._lock:
            return {each.gpu: each.kind for each in (*self._ended, *self._open.values())}


def _watts(span: _Span) -> float | None:
    if not all(each.known for each in span.uses):
        return None
    return sum(each.idle_w + each.active_w for each in span.uses)


def _uses(gpu: ObservedGpu, jobs: Iterable[tuple[Placement, str]]) -> tuple[_Use, ...]:
    """Return who uses a GPU, and the watts that are theirs by the power model."""
    stays: list[Stay] = [*services_of(Observation((gpu,)))]
    stays += (
        stay_of(EnergyOwner(OwnerKind.JOB, job), gpu.id, gpu.model, placement) for placement, job in jobs
    )
    if gpu.lost or gpu_model(gpu.model).power_limit_w is None:
        owners = dict.fromkeys((*(each.owner for each in stays), NOBODY))
        return tuple(_Use(owner, 0.0, 0.0, known=False) for owner in owners)
    drawn = watts(gpu, {(gpu.id, placement.start) for placement, _ in jobs})
    parts = attribute(Interval(0.0, 1.0, drawn, IDLE_W), stays)
    return tuple(_Use(each.owner, each.idle_j, each.active_j) for each in parts)
