"""The specifications of a plan's workers: under a supervisor on existing instances, or as replicas of a driver."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from partita.drive.replicas import ReplicaProcess
from partita.errors import InputError
from partita.planning.plan import PlannedGpu
from partita.serve.worker.spec import (
    GRACE_S,
    LOAD_TIMEOUT_S,
    UNDECLARED,
    UNNAMED,
    TenantSpec,
    UpstreamSpec,
    WorkerSpec,
    fill_in,
)
from partita.serve.worker.wire import HANG_TIMEOUT_S, FrameError, FrameKind, Frames, Hello, connected

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from partita.drive.driver import Identity, Observation, ObservedGpu, ObservedInstance
    from partita.perf.operating_point import Tenant
    from partita.planning.plan import Instance, Plan
    from partita.serve.worker.spec import BackendSpec, DeclaredBatch


WORDS = ("gpu", "placement", "start", "service", "model")
"""Placeholders in an upstream server's URL and command, in addition to the port."""
COMMAND = (sys.executable, "-m", "partita.serve.worker", "{document}")
_ANSWER_S = 2.0
_MARGIN_S = 1.0
_MOST_TOLD = 3
_HINTS = {
    "served already": "use the workers that run there: partita serve --attach",
    "not Partita's": "if nobody else counts on it: partita adopt {gpu} {placement} --driver nvml",
    "in use by another process": "find the process with nvidia-smi, and end it",
}
SliceSeconds: TypeAlias = "Mapping[tuple[str, str, int], Mapping[int, float]]"
"""Seconds of a batch, by GPU model, profile and processes, and by batch size."""


def worker_specs(
    plan: Plan,
    backends: Mapping[str, BackendSpec],
    folder: Path,
    *,
    tables: Mapping[str, SliceSeconds] | None = None,
    grace_s: float = GRACE_S,
    graces: Mapping[str, float] | None = None,
    declared: Mapping[str, DeclaredBatch] | None = None,
    hang_timeouts: Mapping[str, float] | None = None,
    once: Collection[str] = (),
    identities: Mapping[tuple[str, str], Identity] | None = None,
) -> tuple[WorkerSpec, ...]:
    """Return the specification of a worker for each instance of a plan.

    Args:
        plan: what runs where.
        backends: back-ends by service; an upstream's URL may contain `{gpu}`, `{placement}`, `{start}`, `{service}`
            and `{model}`.
        folder: of the sockets.
        tables: measured seconds by service; services without any use the plan's operating point.
        grace_s: seconds for finishing running work after SIGTERM.
        graces: the same for single services.
        declared: what is declared about the models' batches, by service.
        hang_timeouts: seconds without a sign of life after which workers count as hung, by service.
        once: services whose queries must not run a second time.
        identities: of instances that exist, by GPU id and placement.

    Raises:
        InputError: a service has no back-end, or a URL cannot be filled in.
    """

    def spec(gpu: PlannedGpu, each: Instance) -> WorkerSpec:
        found = (identities or {}).get((gpu.id, str(each.placement)))
        return WorkerSpec(
            service=each.service,
            model=each.model,
            gpu=gpu.id,
            placement=str(each.placement),
            batch=each.point.batch,
            backend=_backend_of(backends, gpu.id, each),
            folder=str(folder.resolve()),
            token=UNNAMED,
            processes=each.point.processes,
            seconds=_seconds((tables or {}).get(each.service, {}), gpu.model, each),
            grace_s=(graces or {}).get(each.service, grace_s),
            supervised=True,
            declared=(declared or {}).get(each.service, UNDECLARED),
            hang_timeout_s=(hang_timeouts or {}).get(each.service, HANG_TIMEOUT_S),
            retry=each.service not in once,
            gpu_uuid=found.gpu_uuid if found else None,
            gpu_instance_id=found.gi_id if found else None,
        )

    return tuple(
        together([spec(gpu, one) for one in _apart(each)]) for gpu in plan.gpus for each in gpu.instances
    )


def _apart(instance: Instance) -> Iterator[Instance]:
    """Yield each service of an instance as if it ran alone."""
    if not instance.point.tenants:
        yield instance
    for each in instance.point.tenants:
        point = replace(
            instance.point,
            batch=each.batch,
            latency_ms=each.latency_ms,
            throughput=each.throughput,
            tenants=(),
        )
        yield replace(instance, service=each.service, model=each.model, point=point)


def together(specs: Sequence[WorkerSpec]) -> WorkerSpec:
    """Return the specification of one worker for services that share an instance, of theirs alone."""
    first, *others = specs
    if not others:
        return first
    tenants = tuple(
        TenantSpec(
            each.service,
            each.model,
            each.batch,
            each.backend,
            seconds=each.seconds,
            declared=each.declared,
            retry=each.retry,
        )
        for each in others
    )
    return first.replace(
        tenants=tenants,
        grace_s=max(each.grace_s for each in specs),
        hang_timeout_s=max(each.hang_timeout_s for each in specs),
    )


def _seconds(table: SliceSeconds, model: str, instance: Instance) -> dict[int, float]:
    point = instance.point
    measured = table.get((model, instance.placement.profile, point.processes))
    return dict(measured) if measured else {point.batch: point.latency_ms / 1000}


def _backend_of(backends: Mapping[str, BackendSpec], gpu: str, instance: Instance) -> BackendSpec:
    found = backends.get(instance.service)
    if found is None:
        raise InputError(f"service {instance.service} has no back-end", hint="give it a worker")
    placement = str(instance.placement)
    return filled(
        found, {"gpu": gpu, "placement": placement, "service": instance.service, "model": instance.model}
    )


def worker_process(
    backend: BackendSpec,
    folder: Path,
    *,
    seconds: SliceSeconds | None = None,
    declared: DeclaredBatch | None = None,
    environment: Mapping[str, str] | None = None,
    grace_s: float = 30.0,
    start_timeout_s: float = LOAD_TIMEOUT_S,
    hang_timeout_s: float = HANG_TIMEOUT_S,
    retry: bool = True,
) -> ReplicaProcess:
    """Return how a service's replicas are run as workers, which outlive the controller that starts them.

    Args:
        backend: of the model.
        folder: of the sockets; created if needed.
        seconds: seconds of batches by GPU model, profile and processes, from the performance table.
        declared: what is declared about the model's batch.
        environment: variables in addition to those of the controller.
        grace_s: seconds from SIGTERM, on which a worker drains, to SIGKILL.
        start_timeout_s: seconds a worker may take to become ready.
        hang_timeout_s: seconds without a sign of life after which a worker counts as hung.
        retry: whether its queries may run a second time.
    """
    # The worker's own grace period ends earlier, so that it can still log what is unfinished.
    document = WorkerDocument(
        backend,
        folder,
        max(0.0, grace_s - _MARGIN_S),
        seconds or {},
        declared or UNDECLARED,
        hang_timeout_s,
        retry,
    )
    return ReplicaProcess(
        COMMAND,
        environment=environment or {},
        readiness=WorkerReady(document),
        grace_s=grace_s,
        start_timeout_s=start_timeout_s,
        document=document,
        share=_shared_process,
    )


def _shared_process(methods: Sequence[ReplicaProcess], tenants: Sequence[Tenant]) -> ReplicaProcess:
    """Return how services that share an instance are run: as one worker, with the settings of all."""
    documents = [method.document for method in methods if isinstance(method.document, WorkerDocument)]
    document = SharedWorkerDocument(tuple(zip(documents, tenants, strict=True)))
    return ReplicaProcess(
        COMMAND,
        environment={name: value for method in methods for name, value in method.environment.items()},
        readiness=WorkerReady(document),
        grace_s=max(method.grace_s for method in methods),
        start_timeout_s=sum(method.start_timeout_s for method in methods),
        document=document,
    )


@dataclass(frozen=True, slots=True)
class SharedWorkerDocument:
    """Makes the specification of one worker for services that share an instance.

    Attributes:
        parts: the document of each service, and how the service runs there.
    """

    parts: tuple[tuple[WorkerDocument, Tenant], ...]

    @property
    def folder(self) -> Path:
        """Of the sockets."""
        return self.parts[0][0].folder

    def __call__(self, words: Mapping[str, str]) -> str:
        """Return the specification as text, and create the folder if needed, as `WorkerDocument` does."""
        make_folder(self.folder)
        return self.spec(words).text()

    def spec(self, words: Mapping[str, str]) -> WorkerSpec:
        """Return the specification."""
        return together(
            [
                document.spec(
                    {
                        **words,
                        "service": tenant.service,
                        "model": tenant.model,
                        "batch": str(tenant.batch),
                        "processes": "1",
                        "latency_ms": repr(tenant.latency_ms),
                        "throughput": repr(tenant.throughput),
                    }
                )
                for document, tenant in self.parts
            ]
        )


@dataclass(frozen=True, slots=True)
class WorkerDocument:
    """Makes the specification of one service's worker from the words of `ReplicaProcess`.

    Attributes:
        backend: of the model.
        folder: of the sockets.
        grace_s: seconds for finishing running work.
        seconds: seconds of batches by GPU model, profile and processes; without an entry, the replica's latency
        holds.
        declared: what is declared about the model's batch.
        hang_timeout_s: seconds without a sign of life after which it counts as hung.
        retry: whether its queries may run a second time.
    """

    backend: BackendSpec
    folder: Path
    grace_s: float
    seconds: SliceSeconds = field(default_factory=dict)
    declared: DeclaredBatch = UNDECLARED
    hang_timeout_s: float = HANG_TIMEOUT_S
    retry: bool = True

    def __call__(self, words: Mapping[str, str]) -> str:
        """Return the specification as text, and create the folder if needed.

        Raises:
            InputError: the back-end's URL cannot be filled in, or the folder cannot be created.
        """
        make_folder(self.folder)
        return self.spec(words).text()

    def spec(self, words: Mapping[str, str]) -> WorkerSpec:
        """Return the specification."""
        batch, processes = int(words["batch"]), int(words["processes"])
        profile = words["placement"].partition("@")[0]
        measured = self.seconds.get((words["gpu_model"], profile, processes))
        return WorkerSpec(
            service=words["service"],
            model=words["model"],
            gpu=words["gpu"],
            placement=words["placement"],
            batch=batch,
            backend=filled(self.backend, words),
            folder=str(self.folder.resolve()),
            token=words["token"],
            processes=processes,
            seconds=dict(measured) if measured else {batch: float(words["latency_ms"]) / 1000},
            grace_s=self.grace_s,
            declared=self.declared,
            hang_timeout_s=self.hang_timeout_s,
            retry=self.retry,
            gpu_uuid=words.get("gpu_uuid") or None,
            gpu_instance_id=int(words["gpu_instance"]) if words.get("gpu_instance") else None,
        )


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker is ready when it sends HELLO (drive's `Readiness`).

    Attributes:
        document: makes the worker's specification.
    """

    document: WorkerDocument | SharedWorkerDocument

    def ready(self, words: Mapping[str, str], environment: Mapping[str, str]) -> bool:
        """Say whether the worker sends HELLO for its service."""
        del environment
        spec = self.document.spec(words)
        try:
            with connected(self.document.folder, spec.socket_name, _ANSWER_S) as stream:
                found = Frames(stream).next()
        except (OSError, FrameError):
            return False
        if found is None or found.kind != FrameKind.HELLO:
            return False
        try:
            return Hello.unpacked(found.header).service == spec.service
        except (ValueError, TypeError):
            return False


@dataclass(frozen=True, slots=True)
class PlacedPlan:
    """A plan mapped to existing instances.

    Attributes:
        plan: the plan with the GPU ids and placements of the existing instances.
        identities: of those instances, by GPU id and placement.
    """

    plan: Plan
    identities: Mapping[tuple[str, str], Identity]


def place_on_existing(plan: Plan, seen: Observation, *, plan_file: str = "PLAN") -> PlacedPlan:
    """Map a plan to existing instances: each to its planned place, or to a free instance of the same size.

    GPUs of one model are interchangeable, and so are instances of one profile on them. A transition keeps instances
    where it can, so existing instances may be on other GPUs and starts than in the plan.

    Args:
        plan: what is to run.
        seen: the host's GPUs and instances.
        plan_file: file name for hints.

    Raises:
        InputError: too few of the existing instances are Partita's and free.
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
    identities = {place.at: place.found.identity for _, place in found}
    return PlacedPlan(replace(plan, gpus=_named(found)), identities)


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
    """Return why an instance cannot be used, None if it can."""
    if not found.ours:
        return "not Partita's"
    if found.replica is not None:
        return "served already"
    if found.busy:
        return "in use by another process"
    return None if found.identity.mig_uuid is not None else "half made"


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


def filled(backend: BackendSpec, words: Mapping[str, str]) -> BackendSpec:
    """Return the back-end of one instance, with placeholders filled in.

    Raises:
        InputError: its URL or command has an unknown placeholder.
    """
    if not isinstance(backend, UpstreamSpec):
        return backend
    start = words["placement"].partition("@")[2]
    known = {**{word: {**words, "start": start}[word] for word in WORDS}, "port": "{port}"}
    hint = f"placeholders are {', '.join(f'{{{word}}}' for word in known)}"
    return backend.replace(
        url=fill_in(backend.url, known, hint),
        command=tuple(fill_in(word, known, hint) for word in backend.command),
    )


def make_folder(folder: Path) -> None:
    """Create a folder for its owner alone, since whoever can connect to a socket in it can query the model.

    Raises:
        InputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"the folder cannot be created: {error.strerror}", where=str(folder)) from None
