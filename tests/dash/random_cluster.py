"""Random documents of the API: a fleet, what it does, services and events, for tests of what shows them."""

from random import Random

from partita.dash.model import (
    Event,
    Fleet,
    Gpu,
    GpuChange,
    GpuColumns,
    GpuModel,
    Index,
    InstanceColumns,
    InstanceDetail,
    InstanceState,
    Load,
    Node,
    Part,
    ProfileSize,
    Role,
    Service,
)

A100 = GpuModel(
    name="A100-SXM4-80GB",
    memory_slices=8,
    compute_slices=7,
    memory_bytes=80 * 2**30,
    profiles=(
        ProfileSize(name="1g.10gb", memory=1, compute=1, starts=(0, 1, 2, 3, 4, 5, 6)),
        ProfileSize(name="2g.20gb", memory=2, compute=2, starts=(0, 2, 4)),
        ProfileSize(name="3g.40gb", memory=4, compute=3, starts=(0, 4)),
        ProfileSize(name="4g.40gb", memory=4, compute=4, starts=(0,)),
        ProfileSize(name="7g.80gb", memory=8, compute=7, starts=(0,)),
    ),
)
STATES = tuple(InstanceState)
CUTS = (
    ((4, 0),),
    ((2, 0), (2, 4)),
    ((3, 0), (1, 4), (0, 6)),
    ((1, 0), (1, 2), (1, 4), (0, 6)),
    tuple((0, start) for start in range(7)),
    ((2, 0), (0, 4), (0, 5), (0, 6)),
    (),
)
"""Ways to cut an A100: profiles with their starts."""


class RandomCluster:
    """A cluster whose GPUs are cut and used at random.

    Args:
        gpus: how many.
        services: their names.
        seed: of the random numbers.
        now: its clock.
        jobs: ids of its jobs.
    """

    def __init__(
        self, gpus: int, services: tuple[str, ...], seed: int, now: float, jobs: tuple[str, ...] = ()
    ) -> None:
        self.random = Random(seed)
        self.services = services
        self.jobs = jobs
        self.now = now
        self.count = gpus
        self.version = 0
        self.cuts = [self.random.choice(CUTS) for _ in range(gpus)]
        self.uses = [[self._use() for _ in cut] for cut in self.cuts]

    def _use(self) -> tuple[InstanceState, int, str | None]:
        state = self.random.choices(STATES, (80, 5, 10, 2, 2, 1, 1, 0.3))[0]
        if state is InstanceState.JOB and self.jobs:
            return state, -1, self.random.choice(self.jobs)
        runs = state not in (InstanceState.FREE, InstanceState.JOB, InstanceState.FOREIGN)
        return state, self.random.randrange(len(self.services)) if runs and self.services else -1, None

    def index(self, role: Role = Role.READ) -> Index:
        """Return the index of a read-only API."""
        return Index(
            version="1",
            cluster="lab",
            workload="demo",
            now=self.now,
            role=role,
            parts=(Part.FLEET, Part.SERVICES),
            state=str(self.version),
            last_event=self.version,
        )

    def fleet(self) -> Fleet:
        """Return how it is cut."""
        nodes = -(-self.count // 8)
        instances = [
            (gpu, profile, start, *use)
            for gpu, (cut, uses) in enumerate(zip(self.cuts, self.uses, strict=True))
            for (profile, start), use in zip(cut, uses, strict=True)
        ]
        return Fleet(
            version=str(self.version),
            models=(A100,),
            nodes=tuple(
                Node(name=f"node-{node}", rack=f"rack-{node // 4}" if nodes > 8 else "")
                for node in range(nodes)
            ),
            services=self.services,
            states=STATES,
            gpus=GpuColumns(
                id=tuple(f"node-{gpu // 8}/gpu-{gpu % 8}" for gpu in range(self.count)),
                model=(0,) * self.count,
                node=tuple(gpu // 8 for gpu in range(self.count)),
                state=tuple(0 if gpu % 97 != 96 else 3 for gpu in range(self.count)),
            ),
            instances=InstanceColumns(
                gpu=tuple(one[0] for one in instances),
                profile=tuple(one[1] for one in instances),
                start=tuple(one[2] for one in instances),
                state=tuple(STATES.index(one[3]) for one in instances),
                service=tuple(one[4] for one in instances),
                job={str(i): one[5] for i, one in enumerate(instances) if one[5] is not None},
            ),
        )

    def load(self) -> Load:
        """Return what it does now."""
        uses = [use for uses in self.uses for use in uses]
        return Load(
            version=f"{self.version}-load",
            fleet=str(self.version),
            at=self.now,
            busy=tuple(self._busy(use) for use in uses),
            attainment=tuple(None if use[1] < 0 else self._attainment() for use in uses),
            watts=tuple(self.random.randrange(60, 700) for _ in range(self.count)),
        )

    def _busy(self, use: tuple[InstanceState, int, str | None]) -> int | None:
        return None if use[1] < 0 and use[2] is None else self.random.randrange(1001)

    def _attainment(self) -> int:
        return min(1000, round(1001 - self.random.expovariate(1 / 8)))

    def gpu(self, gpu_id: str) -> Gpu:
        """Return a GPU with all that is known of it."""
        gpu = next(gpu for gpu in range(self.count) if f"node-{gpu // 8}/gpu-{gpu % 8}" == gpu_id)
        return Gpu(
            id=gpu_id,
            uuid=f"GPU-{gpu:08x}-0000-0000-0000-000000000000",
            model=A100.name,
            node=f"node-{gpu // 8}",
            state="usable",
            instances=tuple(
                InstanceDetail(
                    profile=A100.profiles[profile].name,
                    start=start,
                    state=state,
                    mig_uuid=f"MIG-{gpu:08x}-0000-0000-0000-{start:012x}",
                    gpu_instance_id=start + 1,
                    services=(self.services[service],) if service >= 0 else (),
                    job=job,
                    busy=self.random.random(),
                    throughput=self.random.uniform(50, 900),
                    batch=16,
                    latency_ms=12.5,
                    slowdown=1.02,
                )
                for (profile, start), (state, service, job) in zip(
                    self.cuts[gpu], self.uses[gpu], strict=True
                )
            ),
            held=0.8,
            working=0.4,
            fragmentation=0.25,
            watts=310.0,
        )

    def change(self, gpu: int) -> GpuChange:
        """Cut a GPU anew, and return the event of it."""
        before = str(self.version)
        self.version += 1
        self.cuts[gpu] = self.random.choice(CUTS)
        self.uses[gpu] = [self._use() for _ in self.cuts[gpu]]
        return GpuChange(
            fleet=str(self.version),
            before=before,
            gpu=gpu,
            state=0,
            profile=tuple(profile for profile, _ in self.cuts[gpu]),
            start=tuple(start for _, start in self.cuts[gpu]),
            instance_state=tuple(STATES.index(use[0]) for use in self.uses[gpu]),
            service=tuple(use[1] for use in self.uses[gpu]),
            job=tuple(use[2] for use in self.uses[gpu]),
        )

    def services_now(self) -> tuple[Service, ...]:
        """Return its services with random figures."""
        return tuple(self._service(name) for name in self.services)

    def _service(self, name: str) -> Service:
        required = round(self.random.lognormvariate(6, 1.2), 1)
        attainment = self._attainment() / 1000
        p50 = self.random.uniform(2, 60)
        return Service(
            name=name,
            required=required,
            floor=required,
            capacity=required * self.random.uniform(0.98, 1.3),
            planned=required * 1.1,
            instances=self.random.randrange(1, 40),
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
            where={"A100-SXM4-80GB 1g.10gb": self.random.randrange(20), "A100-SXM4-80GB 3g.40gb": 2},
        )

    def event(self, number: int) -> Event:
        """Return an entry of its journal."""
        gpu = self.random.randrange(self.count)
        return Event(
            number=number,
            at=self.now + number,
            kind=self.random.choice(("goal", "action", "note", "job", "fault", "state")),
            text=f"create 1g.10gb@{number % 7}",
            gpu=f"node-{gpu // 8}/gpu-{gpu % 8}",
            service=self.random.choice(self.services) if self.services else None,
        )
