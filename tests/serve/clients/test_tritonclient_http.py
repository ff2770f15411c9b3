"""The whole gateway, from its command to its workers, asked by NVIDIA's HTTP clients."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tests.serve.clients.asking import assert_same, inputs, outputs
from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(served):
    with triton.InferenceServerClient(served.http, concurrency=8) as one:
        yield one


def test_it_says_that_it_is_there_and_what_it_serves(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mixed")
    assert not client.is_model_ready("nothing")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    described = client.get_model_metadata("mixed")
    assert [each["name"] for each in described["inputs"]] == ["TEXT", "HALF", "WHOLE"]
    assert client.get_model_config("mixed")["max_batch_size"] == 64
    assert [each["name"] for each in client.get_model_repository_index()] == ["mixed"]


def test_binary_tensors_come_back_as_they_were_sent(client, arrays):
    answer = client.infer("mixed", inputs(triton, arrays), outputs=outputs(triton), request_id="seventeen")
    assert answer.get_response()["id"] == "seventeen"
    assert_same(answer, arrays)


def test_all_outputs_come_where_none_is_asked_for(client, arrays):
    assert_same(client.infer("mixed", inputs(triton, arrays)), arrays)


def test_tensors_may_be_json_on_both_ways(client, arrays):
    arrays["TEXT"] = np.array([["grüße".encode()], [b""]], object)
    del arrays["HALF"]  # FP16 has no JSON form: tritonclient refuses to write one
    half = np.zeros((2, 4), np.float16)
    given = inputs(triton, {"TEXT": arrays["TEXT"]}, binary_data=False)
    given += inputs(triton, {"HALF": half})
    given += inputs(triton, {"WHOLE": arrays["WHOLE"]}, binary_data=False)
    asked = outputs(triton, ("TEXT", "WHOLE"), binary_data=False)
    assert_same(client.infer("mixed", given, outputs=asked), arrays)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed(client, arrays, algorithm):
    answer = client.infer(
        "mixed",
        inputs(triton, arrays),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert_same(answer, arrays)


def test_many_are_asked_at_once(client, arrays):
    pending = [client.async_infer("mixed", inputs(triton, arrays)) for _ in range(32)]
    for each in pending:
        assert_same(each.get_result(), arrays)


def test_a_deadline_that_cannot_be_met_is_refused(client, arrays):
    given = inputs(triton, arrays)
    with pytest.raises(InferenceServerException) as refused:
        client.infer("mixed", given, parameters={"deadline_ms": 0.5})
    assert refused.value.status() == "503"
    with pytest.raises(InferenceServerException) as refused:
        client.infer("mixed", given, headers={"partita-deadline-ms": "0.5"})
    assert refused.value.status() == "503"
    assert_same(client.infer("mixed", given, parameters={"deadline_ms": 4000}), arrays)


def test_more_rows_than_the_plan_runs_at_once_are_answered_as_one(client, arrays):
    large = {name: np.concatenate([array, array[::-1]] * 8) for name, array in arrays.items()}
    assert_same(client.infer("mixed", inputs(triton, large)), large)


def test_what_the_model_does_not_take_is_told(client, arrays):
    given = inputs(triton, arrays)
    with pytest.raises(InferenceServerException, match="nothing"):
        client.infer("nothing", given)
    with pytest.raises(InferenceServerException, match="NO_SUCH"):
        client.infer("mixed", given, outputs=[triton.InferRequestedOutput("NO_SUCH")])
    with pytest.raises(InferenceServerException, match="WHOLE"):
        client.infer("mixed", given[:2])
    large = {name: np.repeat(array, 50, axis=0) for name, array in arrays.items()}
    with pytest.raises(InferenceServerException, match="takes 64 at most"):
        client.infer("mixed", inputs(triton, large))
    wrong = triton.InferInput("WHOLE", [2, 2], "FP32")
    wrong.set_data_from_numpy(np.zeros((2, 2), np.float32))
    with pytest.raises(InferenceServerException, match="WHOLE"):
        client.infer("mixed", [*given[:2], wrong])


def test_statistics_count_what_was_asked(client, arrays):
    def count() -> tuple[int, int, int]:
        (found,) = client.get_inference_statistics("mixed")["model_stats"]
        return (
            found["inference_count"],
            found["execution_count"],
            found["inference_stats"]["success"]["count"],
        )

    before = count()
    client.infer("mixed", inputs(triton, arrays))
    items, batches, answered = (after - was for after, was in zip(count(), before, strict=True))
    assert (items, batches, answered) == (2, 1, 1)


def test_the_asyncio_client_gets_the_same(served, arrays):
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(served.http) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("mixed"))["name"] == "mixed"
            given = inputs(triton_aio, arrays)
            answers = await asyncio.gather(*(client.infer("mixed", given) for _ in range(16)))
            with pytest.raises(InferenceServerException):
                await client.infer("mixed", given[:1])
            return answers

    for each in asyncio.run(ask()):
        assert_same(each, arrays)
