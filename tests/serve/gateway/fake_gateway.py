"""A gateway without workers: it answers at once, or as a test says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from partita.serve.dispatching.query import QueryRefusedError, RefusalReason
from partita.serve.gateway.oip import Model
from partita.serve.gateway.statistics import (
    Count,
    GatewaySnapshot,
    ServiceStatistics,
    ServiceView,
    WorkerStatus,
    WorkerView,
)
from partita.serve.tensors import Answer, Batching, Tensor, TensorSpec

if TYPE_CHECKING:
    from partita.serve.dispatching.query import AnswerReceiver
    from partita.serve.tensors import Query


ROWS = Batching(rows=True, why="it is made so")
ECHO = Model(
    "echo",
    "echo",
    (TensorSpec("INPUT0", "FP32", (-1, 4)),),
    (TensorSpec("OUTPUT0", "FP32", (-1, 4)),),
    8,
    0.1,
    0.95,
    ROWS,
)
ALL_TYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64",
    "BYTES",
)  # fmt: skip
EVERY = Model(
    "every/type",
    "every",
    tuple(TensorSpec(f"IN_{each}", each, (-1, 2)) for each in ALL_TYPES),
    tuple(TensorSpec(f"OUT_{each}", each, (-1, 2)) for each in ALL_TYPES),
    4,
    0.1,
    0.95,
    ROWS,
)


LABELS = ("node-0/gpu-0/1g.10gb@0", "GPU-1", "7", "1g.10gb")


class FakeGateway:
    """Answers each output with the input of its place."""

    def __init__(self, *models: Model) -> None:
        self.models = {model.service: model for model in models}
        self.asked: list[tuple[str, Query, float | None]] = []
        self.error: Exception | None = None
        self.answer: Answer | None = None
        self.hold: asyncio.Event | None = None
        self.cancelled = 0
        self.is_ready = True
        self._asking: set[asyncio.Task[None]] = set()

    def model(self, service: str) -> Model | None:
        return self.models.get(service)

    def ready(self, service: str) -> bool:
        return self.is_ready and service in self.models

    async def infer(self, service: str, query: Query, deadline_s: float | None = None) -> Answer:
        self.asked.append((service, query, deadline_s))
        if self.error is not None:
            raise self.error
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return self.answer or self.echoed(service, query)

    def ask(
        self, service: str, query: Query, deadline_s: float | None, asker: AnswerReceiver
    ) -> asyncio.Task[None]:
        async def work() -> None:
            try:
                asker.set_result(await self.infer(service, query, deadline_s))
            except Exception as error:  # noqa: BLE001 -- told on
                asker.set_exception(error)

        task = asyncio.ensure_future(work())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    def forget(self, service: str, waiting: asyncio.Task[None]) -> None:
        assert service in self.models
        waiting.cancel()

    def echoed(self, service: str, query: Query) -> Answer:
        outputs = {spec.name: spec for spec in self.models[service].outputs}
        inputs = dict(zip(outputs, query.inputs, strict=True))
        return Answer(
            tuple(
                Tensor(name, inputs[name].datatype, inputs[name].shape, bytes(inputs[name].data))
                for name in query.outputs or tuple(outputs)
            )
        )

    def statistics(self, service: str) -> ServiceStatistics:
        assert service in self.models
        return ServiceStatistics(
            items=12,
            executions=3,
            last_at=1_700_000_000.0,
            success=Count(6, 0.6),
            fail=Count(1, 0.01),
            queue=Count(6, 0.1),
            compute=Count(6, 0.4),
            batches={4: Count(3, 0.2)},
            refused={RefusalReason.LATE: 1},
            in_time=5,
            cancelled=2,
            retried=1,
            invalid=0,
            failed=0,
            latency=(*(0,) * 10, 6, *(0,) * 6),
            decisions=(5,) * 16,
        )

    def snapshot(self) -> GatewaySnapshot:
        views = tuple(
            ServiceView(name, 3, 2, self.statistics(name), 0, 0.1, 0.95, 0.75, {"1g.10gb": 12.5})
            for name in self.models
        )
        worker = WorkerView(
            "echo", "node-0/gpu-0/1g.10gb@0", LABELS, 42, WorkerStatus.BUSY, 1, 1, 12.5, 6, 1.1
        )
        return GatewaySnapshot(views, (worker,), draining=False)


def refused(reason: RefusalReason = RefusalReason.LATE, after: float = 0.2) -> QueryRefusedError:
    return QueryRefusedError(reason, after)
