"""The endpoint picker, asked as Envoy asks; its messages are held to those that are published."""

from __future__ import annotations

import asyncio
import json
import struct as packing
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.kubernetes_units.envoy import PATIENCE_S, Picked, Stream, published

from partita.kubernetes import picker as module
from partita.kubernetes.picker import EndpointPicker, PickerMetrics, PickerService, message, read_asked
from partita.serve.gateway.addresses import Served
from partita.serve.gateway.grpc_server import GrpcServer
from partita.serve.gateway.grpc_server import message as oip_message
from partita.serve.gateway.oip import RequestLimits
from partita.serve.gateway.route import ServedService
from partita.serve.services import ServerSlice, WorkerAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INFER = {":path": "/v2/models/search/infer", ":method": "POST", "content-type": "application/json"}
SEARCH = ServedService("search", "m", 60.0)
# So slow that nothing is overdue while a test looks at it.
SMALL = WorkerAddress("search", "10.0.0.1", 8000, ServerSlice("a/gpu-0", "1g.5gb@0", 4, 1, {1: 8.0, 4: 32.0}))
LARGE = WorkerAddress(
    "search", "10.0.0.2", 8000, ServerSlice("b/gpu-0", "7g.40gb@0", 32, 1, {1: 2.0, 32: 20.0})
)


def body(items: int, **parameters: Any) -> bytes:
    data = {"name": "x", "datatype": "FP32", "shape": [items, 2], "data": [1.0, 2.0] * items}
    return json.dumps({"inputs": [data], **({"parameters": parameters} if parameters else {})}).encode()


class Proxy:
    """The picker's server and a channel to it."""

    def __init__(self, picker: EndpointPicker, channel: aio.Channel, metrics: PickerMetrics) -> None:
        self.picker, self.channel, self.metrics = picker, channel, metrics

    def stream(self, mode: str = "FULL_DUPLEX_STREAMED", **more: bool) -> Stream:
        return Stream(self.channel, mode, **more)

    async def ask(self, sent: bytes, headers: dict[str, str] = INFER, **more: Any) -> tuple[Stream, Picked]:
        stream = self.stream()
        return stream, await stream.ask(headers, sent, **more)

    async def health(self, service: str) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
        return int(answer.status)

    def running(self) -> int:
        workers = self.picker.gateway.workers("search")
        return sum(len(worker.running) + worker.elsewhere for worker in workers)


@asynccontextmanager
async def proxy(
    *addresses: WorkerAddress, services: tuple[ServedService, ...] = (SEARCH,)
) -> AsyncIterator[Proxy]:
    picker = EndpointPicker(())
    await picker.gateway.start()
    picker.follow(Served(services, addresses))
    metrics = PickerMetrics(picker)
    service = PickerService(picker, RequestLimits(), metrics)
    telling = asyncio.create_task(service.tell_health())
    server = GrpcServer(service, "127.0.0.1", 0, most=1 << 26)
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Proxy(picker, channel, metrics)
    finally:
        telling.cancel()
        await server.stop(0.0)
        await picker.gateway.close()


async def until(true: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 -- a test
            await asyncio.sleep(0.005)


def run(coroutine: Any) -> None:
    asyncio.run(coroutine)


def test_the_number_of_items_decides_on_the_slice() -> None:
    async def test() -> None:
        async with proxy(SMALL, LARGE) as made:
            for items, first in ((1, "10.0.0.1:8000"), (16, "10.0.0.2:8000")):
                stream, picked = await made.ask(body(items))
                assert picked.endpoints[0] == first
                assert picked.metadata == picked.endpoints
                assert picked.sent == body(items)  # all of it is handed back
                await stream.answer()
                await until(lambda: not made.running())
            seen = made.picker.gateway.statistics("search")
            assert (seen.success.count, seen.items) == (2, 17)

    run(test())


@pytest.mark.parametrize("mode", ["BUFFERED", "FULL_DUPLEX_STREAMED", "STREAMED", "NONE"])
def test_it_keeps_to_the_mode_of_the_proxy(mode: str) -> None:
    async def test() -> None:
        async with proxy(LARGE) as made:
            stream = made.stream(mode)
            sent = body(20_000)  # larger than a piece that may be handed back at a time
            picked = await stream.ask({**INFER, "content-length": str(len(sent))}, sent)
            assert picked.endpoints == ["10.0.0.2:8000"]
            assert picked.sent == (sent if mode == "FULL_DUPLEX_STREAMED" else b"")
            assert made.running()
            await stream.answer()
            await until(lambda: not made.running())

    run(test())


def test_without_a_word_on_modes_it_is_full_duplex_and_requests_without_a_body_go_anywhere() -> None:
    async def test() -> None:
        async with proxy(SMALL, LARGE) as made:
            picked = await made.stream(tells_mode=False).ask(INFER, body(1))
            assert picked.sent == body(1)
            _, picked = await made.ask(b"", {":path": "/v2/models/search/ready", ":method": "GET"})
            assert picked.endpoints
            _, picked = await made.ask(b"", {":path": "/v2/health/live", ":method": "GET"})
            assert picked.endpoints  # there is one service alone
            _, picked = await made.ask(b"", {":path": "/v2/models/nobody/ready", ":method": "GET"})
            assert picked.status == 404

    run(test())


def test_who_has_to_wait_gets_the_first_slot_and_who_cannot_is_refused() -> None:
    one = WorkerAddress(
        "search", "10.0.0.3", 8000, ServerSlice("a/gpu-0", "1g.5gb@0", 2, 1, {1: 8.0, 2: 8.0})
    )

    async def test() -> None:
        async with proxy(one) as made:
            first, picked = await made.ask(body(2))
            assert picked.endpoints == ["10.0.0.3:8000"]
            waiting = asyncio.create_task(made.ask(body(1)))
            await until(lambda: made.picker.gateway.snapshot().services[0].waiting)
            late, refused = await made.ask(body(1), {**INFER, "partita-deadline-ms": "50"})
            assert (refused.status, refused.refusal["partita-reason"]) == (429, "late")
            assert json.loads(refused.body) == {"error": "the deadline cannot be met"}
            assert refused.refusal["retry-after"] == "60"
            await first.answer()
            second, picked = await waiting
            assert picked.endpoints == ["10.0.0.3:8000"]
            await second.answer()
            await until(lambda: not made.running())
            late.cancel()

    run(test())


def test_rows_of_small_requests_fill_a_batch() -> None:
    async def test() -> None:
        async with proxy(SMALL) as made:
            streams = [made.stream() for _ in range(5)]
            asked = [asyncio.create_task(each.ask(INFER, body(1))) for each in streams]
            await until(lambda: sum(each.done() for each in asked) == 4)  # as many as its batch has rows
            await streams[[each.done() for each in asked].index(True)].answer()
            await until(lambda: all(each.done() for each in asked))
            for each in streams:
                each.cancel()
            await until(lambda: not made.running())

    run(test())


def test_only_endpoints_of_the_subset_are_picked_and_their_load_counts() -> None:
    async def test() -> None:
        async with proxy(SMALL, LARGE) as made:
            stream, picked = await made.ask(body(16), subset=["10.0.0.1:8000", "10.9.9.9:1"])
            assert picked.endpoints == ["10.0.0.1:8000"]
            _, other = await made.ask(body(1))  # the small one is full with those rows
            assert other.endpoints[0] == "10.0.0.2:8000"
            for subset in ([], ["10.9.9.9:1"]):
                _, none = await made.ask(body(1), subset=subset)
                assert none.status == 503
            _, both = await made.ask(body(16), subset=["10.0.0.1:8000", "10.0.0.2:8000"])
            assert both.endpoints[0] == "10.0.0.2:8000"
            await stream.answer()

    run(test())


def test_endpoints_are_followed_and_none_is_503() -> None:
    async def test() -> None:
        async with proxy() as made:
            assert await made.health("liveness") == health_pb2.HealthCheckResponse.SERVING
            assert await made.health("readiness") == health_pb2.HealthCheckResponse.NOT_SERVING
            _, none = await made.ask(body(1))
            assert (none.status, none.refusal["partita-reason"]) == (503, "no_worker")
            made.picker.follow(Served((SEARCH,), [SMALL]))
            under_way, picked = await made.ask(body(1))
            assert picked.endpoints == ["10.0.0.1:8000"]
            made.picker.follow(Served((SEARCH,), [LARGE]))
            await until(
                lambda: [each.draining for each in made.picker.gateway.workers("search")] == [True, False]
            )
            _, picked = await made.ask(body(1))
            assert picked.endpoints == ["10.0.0.2:8000"]
            await under_way.answer()
            await until(lambda: len(list(made.picker.gateway.workers("search"))) == 1)
            async with asyncio.timeout(PATIENCE_S):
                while (  # noqa: ASYNC110 -- a test
                    await made.health(module.SERVICE) != health_pb2.HealthCheckResponse.SERVING
                ):
                    await asyncio.sleep(0.05)

    run(test())


def test_a_server_that_fails_all_it_gets_rests() -> None:
    async def test() -> None:
        async with proxy(SMALL, LARGE) as made:
            for _ in range(3):
                stream, picked = await made.ask(body(1), subset=None)
                assert picked.endpoints[0] == "10.0.0.1:8000"
                await stream.answer(503)
                await until(lambda: not made.running())
            _, picked = await made.ask(body(1))
            assert picked.endpoints == ["10.0.0.2:8000"]

    run(test())


def test_a_client_that_leaves_frees_its_place_also_while_it_waits() -> None:
    one = WorkerAddress("search", "10.0.0.3", 8000, ServerSlice("a/gpu-0", "1g.5gb@0", 1, 1, {1: 8.0}))

    async def test() -> None:
        async with proxy(one) as made:
            first, _ = await made.ask(body(1))
            waiting = made.stream()
            task = asyncio.create_task(waiting.ask(INFER, body(1)))
            await until(lambda: made.picker.gateway.snapshot().services[0].waiting)
            waiting.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(lambda: not made.picker.gateway.snapshot().services[0].waiting)
            first.cancel()
            await until(lambda: not made.running())

    run(test())


def test_the_metrics_page_tells_of_picks_and_endpoints() -> None:
    async def test() -> None:
        async with proxy(SMALL, LARGE) as made:
            stream, _ = await made.ask(body(16))
            await made.ask(b"", {":path": "/v2/models/nobody/ready", ":method": "GET"})
            await made.ask(body(1), {**INFER, "partita-deadline-ms": "soon"})
            await made.ask(body(1), subset=["10.9.9.9:1"])
            await stream.answer()
            await until(lambda: not made.running())
            lines = made.metrics.page()[0].decode().splitlines()
            for wanted in (
                'partita_picks_total{outcome="picked",service="search"} 1.0',
                'partita_picks_total{outcome="not_found",service=""} 1.0',
                'partita_picks_total{outcome="no_worker",service="search"} 1.0',
                'partita_endpoints{service="search"} 2.0',
                'partita_offered_items_total{service="search"} 16.0',
            ):
                assert wanted in lines
            assert any(line.startswith("partita_decision_seconds_bucket") for line in lines)

    run(test())


def test_what_a_request_asks_is_read_from_json_binary_and_grpc() -> None:
    limits = RequestLimits()
    assert read_asked(INFER, body(7, deadline_ms=20), limits)[:3] == ("search", 7, 0.02)
    binary = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 1]}]}).encode()
    headers = {**INFER, "inference-header-content-length": str(len(binary))}
    assert read_asked(headers, binary + bytes(12), limits)[:2] == ("search", 3)
    assert read_asked({":path": "/v2/models/a%20b/versions/1/infer"}, b"no JSON", limits)[:2] == ("a b", 1)
    asked = oip_message("ModelInferRequest")(model_name="search")
    asked.inputs.add(name="x", datatype="FP32", shape=[5, 2])
    text = asked.SerializeToString()
    grpc_headers = {":path": "/inference.GRPCInferenceService/ModelInfer", "partita-deadline-ms": "30"}
    assert read_asked(grpc_headers, packing.pack(">BI", 0, len(text)) + text, limits) == (
        "search",
        5,
        0.03,
        True,
    )
    assert not read_asked({":path": "/v2/models/search/stats"}, b"", limits).inference


def test_the_descriptors_are_those_of_the_proto(tmp_path: Path) -> None:
    folder = Path(module.__file__).parent
    made = tmp_path / "made.binpb"
    words = [f"-I{folder}", "--include_imports", f"--descriptor_set_out={made}", "ext_proc.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *words], check=True)
    ours = (folder / "ext_proc.binpb").read_bytes()
    assert FileDescriptorSet.FromString(made.read_bytes()) == FileDescriptorSet.FromString(ours)


def test_our_fields_are_those_of_envoys_messages() -> None:
    base = published("config.core.v3.base_pb2")
    theirs = published("service.ext_proc.v3.external_processor_pb2")
    status = published("type.v3.http_status_pb2")
    compared = 0
    for name in message("ProcessingRequest").DESCRIPTOR.file.message_types_by_name:
        other = next(
            found for each in (theirs, base, status) if (found := getattr(each, name, None)) is not None
        )
        for field in message(name).DESCRIPTOR.fields:
            there = other.DESCRIPTOR.fields_by_name[field.name]
            if field.enum_type is not None and there.enum_type is not None:
                numbers = {each.name: each.number for each in there.enum_type.values}
                assert {each.name: each.number for each in field.enum_type.values} == numbers
            elif (name, field.name) != ("HttpStatus", "code"):  # an enumeration there, a number on the wire
                assert (field.number, field.type, field.label) == (there.number, there.type, there.label)
            assert field.number == there.number
            compared += 1
    assert compared > 40
    assert theirs.DESCRIPTOR.services_by_name["ExternalProcessor"].full_name == module.SERVICE
