"""The whole gateway, from its command to its workers, asked by NVIDIA's gRPC clients."""

from __future__ import annotations

import asyncio
import queue
from typing import Any

import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.serve.clients.asking import assert_same, inputs, outputs
from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(served):
    with triton.InferenceServerClient(served.grpc) as one:
        yield one


def test_it_says_that_it_is_there_and_what_it_serves(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mixed")
    assert not client.is_model_ready("nothing")
    described = client.get_model_metadata("mixed", as_json=True)
    assert [each["datatype"] for each in described["inputs"]] == ["BYTES", "FP16", "INT64"]
    assert client.get_model_config("mixed").config.max_batch_size == 64
    assert [each.name for each in client.get_model_repository_index().models] == ["mixed"]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tensors_come_back_as_they_were_sent(client, arrays, compression):
    answer = client.infer(
        "mixed",
        inputs(triton, arrays),
        outputs=outputs(triton),
        request_id="seventeen",
        compression_algorithm=compression,
    )
    assert answer.get_response().id == "seventeen"
    assert_same(answer, arrays)


def test_many_are_asked_at_once(client, arrays):
    found: queue.Queue[Any] = queue.Queue()
    for _ in range(32):
        client.async_infer("mixed", inputs(triton, arrays), lambda result, error: found.put((result, error)))
    for _ in range(32):
        result, error = found.get(timeout=60)
        assert error is None
        assert_same(result, arrays)


def test_a_deadline_that_cannot_be_met_is_refused(client, arrays):
    given = inputs(triton, arrays)
    with pytest.raises(InferenceServerException) as refused:
        client.infer("mixed", given, parameters={"deadline_ms": 1})
    assert "UNAVAILABLE" in refused.value.status()
    with pytest.raises(InferenceServerException) as refused:
        client.infer("mixed", given, headers={"partita-deadline-ms": "0.5"})
    assert "UNAVAILABLE" in refused.value.status()
    assert_same(client.infer("mixed", given, parameters={"deadline_ms": 4000}, client_timeout=60), arrays)


def test_what_the_model_does_not_take_is_told(client, arrays):
    given = inputs(triton, arrays)
    with pytest.raises(InferenceServerException) as unknown:
        client.infer("nothing", given)
    assert "NOT_FOUND" in unknown.value.status()
    with pytest.raises(InferenceServerException, match="WHOLE") as missing:
        client.infer("mixed", given[:2])
    assert "INVALID_ARGUMENT" in missing.value.status()


def test_statistics_count_what_was_asked(client, arrays):
    def count() -> tuple[int, int, int]:
        (found,) = client.get_inference_statistics("mixed").model_stats
        return found.inference_count, found.execution_count, found.inference_stats.success.count

    before = count()
    client.infer("mixed", inputs(triton, arrays))
    items, batches, answered = (after - was for after, was in zip(count(), before, strict=True))
    assert (items, batches, answered) == (2, 1, 1)


def test_the_asyncio_client_gets_the_same(served, arrays):
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(served.grpc) as client:
            assert await client.is_model_ready("mixed")
            given = inputs(triton_aio, arrays)
            answers = await asyncio.gather(*(client.infer("mixed", given) for _ in range(16)))
            with pytest.raises(InferenceServerException):
                await client.infer("mixed", given[:1])
            return answers

    for each in asyncio.run(ask()):
        assert_same(each, arrays)
