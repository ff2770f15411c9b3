"""The gateway over gRPC, asked by tritonclient and by hand."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tests.serve.gateway.fake_gateway import ALL_TYPES, ECHO, EVERY, FakeGateway, refused
from tests.serve.gateway.transports import Serving, serving
from tritonclient.utils import InferenceServerException

from partita.serve.dispatching.query import QueryFailedError, RefusalReason
from partita.serve.gateway import grpc_server
from partita.serve.gateway.grpc_server import message
from partita.serve.gateway.oip import RequestLimits
from partita.serve.tensors import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 20.0
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
NUMPY = {"BOOL": "?", "FP16": "f2", "FP32": "f4", "FP64": "f8", "BYTES": "O", "BF16": ml_dtypes.bfloat16}
TYPED = {
    "BOOL": ("bool_contents", [True, False], b"\1\0"),
    "INT8": ("int_contents", [-128, 127], b"\x80\x7f"),
    "UINT16": ("uint_contents", [1, 65535], b"\1\0\xff\xff"),
    "INT64": ("int64_contents", [-1, 0], b"\xff" * 8 + bytes(8)),
    "UINT64": ("uint64_contents", [2**64 - 1, 0], b"\xff" * 8 + bytes(8)),
    "FP32": ("fp32_contents", [1.0, 0.0], b"\0\0\x80\x3f" + bytes(4)),
    "FP64": ("fp64_contents", [0.0, 0.0], bytes(16)),
    "BYTES": ("bytes_contents", [b"ab", b""], b"\2\0\0\0ab\0\0\0\0"),
}


@pytest.fixture(scope="module")
def server():
    with serving(FakeGateway(ECHO, EVERY), limits=RequestLimits(body=1 << 20)) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(request):
    if "server" in request.fixturenames:
        gateway = request.getfixturevalue("server").gateway
        gateway.asked.clear()
        gateway.error = gateway.answer = gateway.hold = None
        gateway.is_ready = True


def client(server: Serving) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"127.0.0.1:{server.grpc}")


def numbers(rows: int = 2) -> np.ndarray:
    return np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)


def given_input(value: np.ndarray) -> triton.InferInput:
    made = triton.InferInput("INPUT0", list(value.shape), "FP32")
    made.set_data_from_numpy(value)
    return made


def call(server: Serving, request, *, timeout: float | None = None, metadata=(), method: str = "ModelInfer"):
    """Call a method with our own messages, and return its response, or the error that it ended with."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        ask = channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=message(f"{method}Response").FromString,
        )
        try:
            return ask(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            return error


def infer_request(**changes: Any) -> Any:
    tensor = {
        "name": "INPUT0",
        "datatype": "FP32",
        "shape": [1, 4],
        "contents": {"fp32_contents": [1, 2, 3, 4]},
    }
    asked = {"model_name": "echo", "inputs": [tensor], **changes}
    return message("ModelInferRequest")(**asked)


def test_tritonclient_infers_and_asks_for_all_there_is_to_know(server):
    value = numbers()
    with client(server) as link:
        found = link.infer("echo", [given_input(value)], request_id="x", parameters={"deadline_ms": 20})
        assert (found.as_numpy("OUTPUT0") == value).all()
        assert found.get_response().id == "x"
        assert server.gateway.asked[0][2] == pytest.approx(0.02)
        assert link.is_server_live()
        assert link.is_server_ready()
        assert link.is_model_ready("echo", "1")
        assert link.get_server_metadata().name == "partita"
        assert [each.name for each in link.get_model_metadata("echo").inputs] == ["INPUT0"]
        config = link.get_model_config("echo").config
        assert (config.max_batch_size, list(config.input[0].dims)) == (8, [4])
        assert link.get_inference_statistics("echo").model_stats[0].inference_stats.success.ns == 600_000_000
        assert len(link.get_inference_statistics().model_stats) == 2
        assert [each.state for each in link.get_model_repository_index().models] == ["READY", "READY"]
        assert not link.is_model_ready("nothing")
        assert not link.is_model_ready("echo", "2")
        server.gateway.is_ready = False
        assert not link.is_server_ready()
        assert not link.is_model_ready("echo")


def test_tritonclient_sends_and_gets_every_datatype(server):
    inputs, values = [], {}
    for datatype in ALL_TYPES:
        made = triton.InferInput(f"IN_{datatype}", [1, 2], datatype)
        if datatype == "BYTES":
            value = np.array([[b"\xff\0", b""]], object)
        else:
            value = np.array([[1, 0]], NUMPY.get(datatype, datatype.lower()))
        made.set_data_from_numpy(value)
        inputs.append(made)
        values[datatype] = value
    with client(server) as link:
        found = link.infer("every/type", inputs)
    for datatype, value in values.items():
        assert (found.as_numpy(f"OUT_{datatype}") == value).all(), datatype


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_are_taken_too(server, datatype):
    data = TYPED[datatype][2]
    inputs = [
        {"name": f"IN_{each}", "datatype": each, "shape": [1, 2], "contents": {field: values}}
        for each, (field, values, _) in TYPED.items()
    ]
    model = server.gateway.models["every/type"]
    kept = [i for i, spec in enumerate(model.inputs) if spec.datatype in TYPED]
    narrow = type(model)(
        "every/type",
        "every",
        tuple(model.inputs[i] for i in kept),
        tuple(model.outputs[i] for i in kept),
        4,
        0.1,
        0.95,
    )
    server.gateway.models["every/type"] = narrow
    try:
        found = call(server, message("ModelInferRequest")(model_name="every/type", inputs=inputs))
    finally:
        server.gateway.models["every/type"] = model
    names = [each.name for each in found.outputs]
    assert found.raw_output_contents[names.index(f"OUT_{datatype}")] == data


def test_the_async_client_infers_many_at_once(server):
    async def main() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.grpc}") as link:
            values = [numbers(1) + i for i in range(50)]
            found = await asyncio.gather(*(link.infer("echo", [given_input(each)]) for each in values))
            assert all((a.as_numpy("OUTPUT0") == b).all() for a, b in zip(found, values, strict=True))

    asyncio.run(main())


def test_a_stream_answers_in_order_and_outlives_what_is_wrong(server):
    answers: queue.Queue[Any] = queue.Queue()
    with client(server) as link:
        link.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(100):
            link.async_stream_infer("echo", [given_input(numbers(1))], request_id=str(number))
        link.async_stream_infer("other", [given_input(numbers(1))], request_id="bad")
        link.async_stream_infer("echo", [given_input(numbers(1))], request_id="last")
        found = [answers.get(timeout=PATIENCE_S) for _ in range(102)]
        link.stop_stream()
    names = [result.get_response().id for result, error in found if error is None]
    assert names == [*map(str, range(100)), "last"]
    assert "no model 'other'" in str(found[100][1])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"inputs": []}, "missing"),
        ({"inputs": [{"name": "X"}]}, "no input 'X'"),
        ({"inputs": [{"name": "INPUT0", "datatype": "INT8"}]}, "is FP32"),
        ({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [-1, 4]}]}, "has shape"),
        ({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 4]}]}, "0 elements"),
        ({"raw_input_contents": [bytes(16)]}, "both"),
        ({"raw_input_contents": [bytes(16)] * 2}, "raw_input_contents"),
        ({"outputs": [{"name": "Y"}]}, "no output 'Y'"),
        ({"id": "x" * 300}, "id has 300"),
        ({"parameters": {"deadline_ms": {"int64_param": -1}}}, "deadline_ms"),
        ({"parameters": {"deadline_ms": {}}}, "deadline_ms"),
        ({"parameters": {"sequence_id": {"int64_param": 3}}}, "sequences"),
        (
            {"outputs": [{"name": "OUTPUT0", "parameters": {"classification": {"int64_param": 3}}}]},
            "classification",
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_an_invalid_argument(server, changes, says):
    error = call(server, infer_request(**changes))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in error.details()


def test_each_error_has_its_code(server):
    cases = [
        (refused(RefusalReason.LATE, 0.25), grpc.StatusCode.UNAVAILABLE),
        (refused(RefusalReason.FULL), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (refused(RefusalReason.NO_WORKER), grpc.StatusCode.UNAVAILABLE),
        (QueryFailedError("died"), grpc.StatusCode.INTERNAL),
        (ZeroDivisionError(), grpc.StatusCode.INTERNAL),
    ]
    for raised, code in cases:
        server.gateway.error = raised
        error = call(server, infer_request())
        assert error.code() is code
        if raised is cases[0][0]:
            assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "250"
    server.gateway.error = None
    server.gateway.answer = Answer(error="no such token", invalid=True)
    assert call(server, infer_request()).code() is grpc.StatusCode.INVALID_ARGUMENT
    for version in ("2", "x"):
        assert call(server, infer_request(model_version=version)).code() is grpc.StatusCode.NOT_FOUND
    large = infer_request(raw_input_contents=[bytes(2 << 20)])
    assert call(server, large).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        with pytest.raises(grpc.RpcError) as unknown:
            channel.unary_unary("/inference.GRPCInferenceService/ModelLoad")(b"")
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_errors_are_counted_by_code_and_reason(server):
    counted = server.metrics.errors.counted
    before = counted.copy()
    with client(server) as link:
        for error in (
            refused(RefusalReason.LATE),
            QueryFailedError("the worker died twice"),
            ZeroDivisionError(),
        ):
            server.gateway.error = error
            with suppress(InferenceServerException):
                link.infer("echo", [given_input(numbers())])
        server.gateway.error = None
        for model, value in (("echo", numbers(9)), ("other", numbers())):
            with suppress(InferenceServerException):
                link.infer(model, [given_input(value)])
    assert dict(counted - before) == {
        ("grpc", "UNAVAILABLE", "late"): 1,
        ("grpc", "INTERNAL", "failed"): 1,
        ("grpc", "INTERNAL", "internal"): 1,
        ("grpc", "INVALID_ARGUMENT", "shape"): 1,
        ("grpc", "NOT_FOUND", "not_found"): 1,
    }


def test_the_earliest_of_the_deadlines_counts(server):
    call(server, infer_request(), metadata=(("partita-deadline-ms", "30"),))
    call(server, infer_request(), timeout=0.05)
    call(server, infer_request(), timeout=30)
    first, second, third = (deadline for _, _, deadline in server.gateway.asked)
    assert first == pytest.approx(0.03)
    assert 0 < second <= 0.06  # on the wire a time left is rounded up
    assert third is None  # the service's own is earlier
    wrong = call(server, infer_request(), metadata=(("partita-deadline-ms", "nan"),))
    assert wrong.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_call_that_is_cancelled_takes_its_query_along(server):
    server.gateway.hold = asyncio.Event()
    before = server.gateway.cancelled
    assert call(server, infer_request(), timeout=0.3).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    end = time.monotonic() + PATIENCE_S
    while server.gateway.cancelled == before:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_token_is_asked_for_everywhere_but_at_health():
    with serving(FakeGateway(ECHO), token="correct-horse-battery") as server:  # noqa: S106 -- it opens nothing else
        assert call(server, message("ServerLiveRequest")(), method="ServerLive").live
        assert call(server, message("ServerReadyRequest")(), method="ServerReady").ready
        assert call(server, infer_request()).code() is grpc.StatusCode.UNAUTHENTICATED
        shown = (("authorization", "Bearer correct-horse-battery"),)
        assert call(server, infer_request(), metadata=shown).model_name == "echo"
        with client(server) as link:
            answers: queue.Queue[Any] = queue.Queue()
            link.start_stream(lambda result, error: answers.put((result, error)))
            with suppress(InferenceServerException):  # it may have heard already
                link.async_stream_infer("echo", [given_input(numbers(1))])
            assert "token" in str(answers.get(timeout=PATIENCE_S)[1])
            link.stop_stream()
            found = link.infer("echo", [given_input(numbers())], headers=dict(shown))
            assert found.as_numpy("OUTPUT0").shape == (2, 4)
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                link.infer("echo", [given_input(numbers())])


def test_the_descriptors_are_those_of_the_proto(tmp_path):
    folder = Path(grpc_server.__file__).parent
    made = tmp_path / "made.binpb"
    words = [f"-I{folder}", f"--descriptor_set_out={made}", "open_inference.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *words], check=True)
    fresh_ones, ours = made.read_bytes(), (folder / grpc_server.DESCRIPTORS).read_bytes()
    assert FileDescriptorSet.FromString(fresh_ones) == FileDescriptorSet.FromString(ours)


def test_our_fields_are_those_of_tritonclient_s_messages():
    from tritonclient.grpc import service_pb2  # noqa: PLC0415 -- only to compare with

    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    waiting = [
        name for name in theirs if name.startswith(("Server", "Model", "Infer", "Repository", "Statistic"))
    ]
    compared = 0
    for name in waiting:
        try:
            ours = message(name).DESCRIPTOR
        except KeyError:
            continue
        for field in ours.fields:
            other = theirs[name].fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (
                other.number,
                other.type,
                other.is_repeated,
            )
            compared += 1
    assert compared > 70


def test_an_idle_stream_does_not_hold_up_the_end():
    answers: queue.Queue[Any] = queue.Queue()
    with ExitStack() as stack:
        server = stack.enter_context(serving(FakeGateway(ECHO), grace_s=PATIENCE_S))
        with client(server) as link:
            link.start_stream(lambda result, error: answers.put((result, error)))
            link.async_stream_infer("echo", [given_input(numbers(1))], request_id="one")
            assert answers.get(timeout=PATIENCE_S)[0].get_response().id == "one"
            began = time.monotonic()
            stack.close()
            assert time.monotonic() - began < PATIENCE_S / 2


def test_what_is_no_message_is_the_clients_fault_and_harms_no_stream(server, caplog):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as found:
            ask(b"\xff\xff\xff", timeout=PATIENCE_S)
        assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        answers = list(stream(iter([b"\xff", b"\xff"]), timeout=PATIENCE_S))
        assert len(answers) == 2
        assert all(b"malformed" in each for each in answers)
    assert not caplog.records


@contextmanager
def health(server: Serving) -> Iterator[health_pb2_grpc.HealthStub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asked_of(name: str) -> Any:
    return health_pb2.HealthCheckRequest(service=name)


def test_the_standard_health_service_answers_for_the_server_and_each_model(server):
    with health(server) as stub:
        for ready, status in ((True, SERVING), (False, NOT_SERVING)):
            server.gateway.is_ready = ready
            for name in ("", "inference.GRPCInferenceService", "echo", "every/type"):
                assert stub.Check(asked_of(name)).status == status, name
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(asked_of("other"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_who_watches_health_hears_each_change_and_the_end():
    with ExitStack() as stack:
        server = stack.enter_context(serving(FakeGateway(ECHO), grace_s=PATIENCE_S))
        channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc}")
        stub = health_pb2_grpc.HealthStub(channel)
        heard: queue.Queue[int | None] = queue.Queue()
        assert next(stub.Watch(asked_of("other"))).status == SERVICE_UNKNOWN
        watch = stub.Watch(asked_of("echo"))

        def read() -> None:
            for each in watch:
                heard.put(each.status)
            heard.put(None)

        reader = threading.Thread(target=read)
        reader.start()
        for ready, status in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
            server.gateway.is_ready = ready
            assert heard.get(timeout=PATIENCE_S) == status
        server.gateway.is_ready = False  # as a gateway is not ready once it drains
        began = time.monotonic()
        stack.close()
        assert time.monotonic() - began < PATIENCE_S / 2, "whoever watches does not hold up the end"
        assert [heard.get(timeout=PATIENCE_S) for _ in range(2)] == [NOT_SERVING, None]
        reader.join(PATIENCE_S)
        channel.close()


def reflected(server: Serving, package: str, metadata=(), **asked: Any) -> Any:
    """Ask a version of the reflection service by its wire format, which both have in common."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        ask = channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        return next(ask(iter([reflection_pb2.ServerReflectionRequest(**asked)]), metadata=metadata))


@pytest.mark.parametrize("package", ["grpc.reflection.v1alpha", "grpc.reflection.v1"])
def test_a_client_without_our_proto_learns_every_method_by_reflection(server, package):
    services = reflected(server, package, list_services="").list_services_response.service
    names = {each.name for each in services}
    assert names == {
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool()
    for name in names:
        found = reflected(server, package, file_containing_symbol=name)
        for each in found.file_descriptor_response.file_descriptor_proto:
            with suppress(TypeError):  # it is there already
                pool.AddSerializedFile(each)
        assert pool.FindServiceByName(name).methods
    unknown = reflected(server, package, file_containing_symbol="inference.Nothing")
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]

    # What grpcurl does: infers with messages that it has made of what the server told.
    request = GetMessageClass(pool.FindMessageTypeByName("inference.ModelReadyRequest"))(name="echo")
    assert call(
        server, message("ModelReadyRequest").FromString(request.SerializeToString()), method="ModelReady"
    )


def test_health_needs_no_token_and_reflection_does():
    with serving(FakeGateway(ECHO), token="correct-horse-battery") as server:  # noqa: S106 -- it opens nothing else
        with health(server) as stub:
            assert stub.Check(asked_of("echo")).status == SERVING
        with pytest.raises(grpc.RpcError) as refused_one:
            reflected(server, "grpc.reflection.v1", list_services="")
        assert refused_one.value.code() is grpc.StatusCode.UNAUTHENTICATED
        shown = (("authorization", "Bearer correct-horse-battery"),)
        assert reflected(server, "grpc.reflection.v1", shown, list_services="").list_services_response.service
