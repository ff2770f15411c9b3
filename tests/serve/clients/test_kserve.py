"""The whole gateway as kserve's clients ask it: in their own words always, by themselves where they are installed."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest

from partita.serve.gateway.grpc_server import message

UNDERSTOOD = [True, True, True, False, [[1, 2], [3, 4]]]
TEXTS = struct.pack("<I1sI1s", 1, b"a", 1, b"b")
HALVES, WHOLE = bytes(16), struct.pack("<4q", 1, 2, 3, 4)
INPUTS = (
    ("TEXT", [2, 1], "BYTES", TEXTS),
    ("HALF", [2, 4], "FP16", HALVES),
    ("WHOLE", [2, 2], "INT64", WHOLE),
)


def test_its_own_clients_understand_all_they_ask(served):
    python = os.environ.get("PARTITA_KSERVE")
    if not python:
        pytest.skip("PARTITA_KSERVE names no interpreter that has kserve")
    script = Path(__file__).with_name("kserve_client.py")
    done = subprocess.run([python, str(script), served.http, served.grpc], capture_output=True, check=True)
    assert json.loads(done.stdout) == {"rest": UNDERSTOOD, "grpc": UNDERSTOOD}


def test_bodies_of_health_are_those_that_its_rest_client_reads(served):
    def got(path: str) -> tuple[int, dict[str, object]]:
        try:
            with urlopen(f"http://{served.http}/v2/{path}") as reply:
                return reply.status, json.load(reply)
        except HTTPError as error:
            return error.code, json.load(error)

    assert got("health/live") == (200, {"live": True})
    assert got("health/ready") == (200, {"ready": True})
    for path in ("models/mixed/ready", "models/mixed/versions/1/ready"):
        assert got(path) == (200, {"name": "mixed", "ready": True})
    for path in ("models/nothing/ready", "models/mixed/versions/2/ready"):
        status, body = got(path)
        assert status == 404
        assert body["error"]


def test_a_request_as_its_rest_client_writes_it_is_answered(served):
    # It names the model in the body too, and has an id always.
    head = json.dumps(
        {
            "id": "a9e0f947-f433-454b-aa62-0036db511964",
            "model_name": "mixed",
            "inputs": [
                {"name": n, "shape": s, "datatype": d, "parameters": {"binary_data_size": len(raw)}}
                for n, s, d, raw in INPUTS
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    asked = Request(
        f"http://{served.http}/v2/models/mixed/infer",
        head + b"".join(raw for *_, raw in INPUTS),
        {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    with urlopen(asked) as reply:  # noqa: S310 -- our own server
        size = int(reply.headers["Inference-Header-Content-Length"])
        body = reply.read()
    assert json.loads(body[:size])["id"] == "a9e0f947-f433-454b-aa62-0036db511964"
    assert body[size:] == b"".join(raw for *_, raw in INPUTS)


def test_calls_as_its_grpc_client_makes_them_are_answered(served):
    retries = {
        "maxAttempts": 3,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": retries}]})
    options = [("grpc.enable_retries", 1), ("grpc.service_config", config)]
    with grpc.insecure_channel(served.grpc, options=options) as channel:

        def call(method: str, **fields: object) -> Any:
            request = message(f"{method}Request")(**fields)
            return channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=message(f"{method}Response").FromString,
            )(request, timeout=60)

        assert call("ServerLive").live
        assert call("ServerReady").ready
        assert call("ModelReady", name="mixed").ready
        assert not call("ModelReady", name="nothing").ready
        answer = call(
            "ModelInfer",
            model_name="mixed",
            id="one",
            inputs=[{"name": n, "shape": s, "datatype": d} for n, s, d, _ in INPUTS],
            raw_input_contents=[raw for *_, raw in INPUTS],
        )
        assert list(answer.raw_output_contents) == [raw for *_, raw in INPUTS]
