"""A source whose GPUs are cut and used at random, for tests of what shows it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from partita.dash.model import (
    Event,
    EventPage,
    GpuCut,
    GpuHistory,
    InstanceDetail,
    InstanceState,
    Part,
    Service,
)
from partita.dash.source import InstanceLoad, Look, SeenGpu

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MODEL = "a100-80gb"
CUTS = (
    ("3g.40gb@0", "3g.40gb@4"),
    ("4g.40gb@0", "2g.20gb@4", "1g.10gb@6"),
    ("2g.20gb@0", "2g.20gb@2", "2g.20gb@4", "1g.10gb@6"),
    tuple(f"1g.10gb@{start}" for start in range(7)),
    ("3g.40gb@0", "1g.10gb@4", "1g.10gb@5", "1g.10gb@6"),
    ("7g.80gb@0",),
    (),
)
STATES: Mapping[InstanceState, float] = {
    InstanceState.SERVING: 80,
    InstanceState.JOB: 5,
    InstanceState.FREE: 10,
    InstanceState.STARTING: 2,
    InstanceState.DRAINING: 2,
    InstanceState.CHANGING: 1,
    InstanceState.FOREIGN: 1,
    InstanceState.LOST: 0.3,
}
"""How often an instance is in each state."""


class RandomSource:
    """A cluster of random GPUs, which changes when it is told to.

    Args:
        gpus: how many; 8 on a node, 4 nodes in a rack.
        services: their names.
        jobs: their ids.
        seed: of the random numbers.
        name: makes names of nodes of their numbers.
        changing: GPUs that are cut anew at each look.
        loading: share of the GPUs whose load is another one at each look.
    """

    def __init__(
        self,
        gpus: int,
        services: tuple[str, ...],
        jobs: tuple[str, ...] = (),
        *,
        seed: int = 1,
        name: Callable[[int], str] = "node-{}".format,
        changing: int = 0,
        loading: float = 0.0,
    ) -> None:
        self.random = Random(seed)
        self.names = services
        self.jobs = jobs
        self.name = name
        self.changing = changing
        self.loading = loading
        self.now = 1_790_000_000.0
        self.cluster = "lab"
        self.workload: str | None = "demo"
        self.parts = (Part.FLEET, Part.SERVICES)
        self.notes: tuple[str, ...] = ()
        self.gpus = [self.cut(i) for i in range(gpus)]
        self.happened: list[Event] = []
        self._pending: list[SeenGpu] | None = None
        self._told = 0

    def cut(self, index: int) -> SeenGpu:
        """Cut a GPU anew."""
        node = index // 8
        return SeenGpu(
            f"{self.name(node)}/gpu-{index % 8}",
            f"GPU-{index:08x}",
            MODEL,
            self.name(node),
            3 if index % 97 == 96 else 0,
            tuple(self._instance(index, *each.split("@")) for each in self.random.choice(CUTS)),
            rack=f"rack-{node // 4}",
        )

    def _instance(self, gpu: int, profile: str, start: str) -> InstanceDetail:
        (state,) = self.random.choices(tuple(STATES), tuple(STATES.values()))
        runs = state not in (InstanceState.FREE, InstanceState.JOB, InstanceState.FOREIGN)
        return InstanceDetail(
            profile,
            int(start),
            state,
            mig_uuid=f"MIG-{gpu:08x}-{start}",
            gpu_instance_id=int(start) + 1,
            services=(self.random.choice(self.names),) if runs and self.names else (),
            job=self.random.choice(self.jobs) if state is InstanceState.JOB and self.jobs else None,
            throughput=self.random.uniform(50, 900),
            batch=16,
            latency_ms=12.5,
        )

    def change(self, index: int) -> SeenGpu:
        """Cut a GPU anew; the next look tells it."""
        self.gpus[index] = self.cut(index)
        self._pending = [*(self._pending or ()), self.gpus[index]]
        return self.gpus[index]

    def happen(self, text: str, gpu: int = 0, error: str | None = None) -> None:
        """Let something happen; the next look tells it."""
        seen = self.gpus[gpu]
        service = self.random.choice(self.names) if self.names else None
        job = self.random.choice(self.jobs) if self.jobs else None
        number = len(self.happened) + 1
        kind = "action" if error is None else "fault"
        self.happened.append(
            Event(
                number, self.now + number, kind, text, seen.id, service, job, self.now + number + 2.5, error
            )
        )

    def look(self) -> Look:
        """Return what changed: at first, all."""
        first, told = not self._told, self.happened[self._told - 1 if self._told else 0 :]
        self.now += 1
        for _ in range(self.changing):
            self.change(self.random.randrange(len(self.gpus)))
        gpus = self.gpus if first else (self._pending or [])
        loaded = self.gpus if first else self.random.sample(self.gpus, int(self.loading * len(self.gpus)))
        self._pending, self._told = None, len(self.happened) + 1
        return Look(
            self.now,
            gpus=tuple(gpus),
            load={(gpu.id, each.start): self._load(each) for gpu in loaded for each in gpu.instances},
            watts={gpu.id: self.random.uniform(60, 700) for gpu in loaded},
            services=tuple(self._service(name) for name in self.names) if first or self.loading else (),
            events=tuple(told),
        )

    def _load(self, instance: InstanceDetail) -> InstanceLoad:
        busy = self.random.random() if instance.services or instance.job else None
        attainment = min(1.0, 1.001 - self.random.expovariate(125)) if instance.services else None
        return InstanceLoad(busy, attainment)

    def _service(self, name: str) -> Service:
        required = round(self.random.lognormvariate(6, 1.2), 1)
        attainment = min(1.0, 1.001 - self.random.expovariate(125))
        p50 = self.random.uniform(2, 60)
        return Service(
            name=name,
            required=required,
            floor=required,
            capacity=required * self.random.uniform(0.98, 1.3),
            planned=required * 1.1,
            instances=sum(name in each.services for gpu in self.gpus for each in gpu.instances),
            slo_ms=self.random.choice((50.0, 100.0, 200.0)),
            quantile=0.99,
            rate=required * self.random.uniform(0.4, 1.0),
            attainment=attainment,
            p50_ms=p50,
            p95_ms=p50 * 1.6,
            p99_ms=p50 * 2.2,
            queue=self.random.randrange(12),
            in_flight=self.random.randrange(60),
            refused={"full": self.random.randrange(40), "late": 3} if attainment < 0.99 else {},
            where={f"{MODEL} 1g.10gb": self.random.randrange(20), f"{MODEL} 3g.40gb": 2},
        )

    def state(self) -> str:
        """Return a fingerprint."""
        return str(self._told)

    def events(self, after: str | None, limit: int, gpu: str | None = None) -> EventPage:
        """Return a page of what happened."""
        found = [each for each in reversed(self.happened) if gpu is None or each.gpu == gpu]
        found = [each for each in found if after is None or each.number < int(after.partition(".")[0])]
        more = len(found) > limit
        return EventPage(tuple(found[:limit]), f"{found[limit - 1].number}.0.0" if more else None)

    def history(self, gpu_id: str) -> GpuHistory:
        """Return how a GPU is cut now, and what happened on it."""
        gpu = next(each for each in self.gpus if each.id == gpu_id)
        words = tuple(f"{each.profile}@{each.start} {', '.join(each.services)}" for each in gpu.instances)
        return GpuHistory((GpuCut(self.now, words),), self.events(None, 100, gpu_id).events, ())

    def close(self) -> None:
        """Release nothing."""
