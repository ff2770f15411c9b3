"""Asks a gateway through kserve's own clients and prints what they understood: HTTP and gRPC address as words.

kserve brings 450 MB of packages, so it is no development dependency: `PARTITA_KSERVE=PYTHON` names an interpreter
that has it (`pip install kserve`), and `test_kserve.py` runs this with it.
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


def request() -> InferRequest:
    arrays = {
        "TEXT": ("BYTES", np.array([["grüße".encode()], [b"x"]], object)),
        "HALF": ("FP16", np.full((2, 4), 0.5, np.float16)),
        "WHOLE": ("INT64", np.array([[1, 2], [3, 4]])),
    }
    inputs = []
    for name, (datatype, array) in arrays.items():
        one = InferInput(name, list(array.shape), datatype)
        one.set_data_from_numpy(array, binary_data=True)
        inputs.append(one)
    return InferRequest("mixed", inputs, parameters={"binary_data_output": True})


async def main(http: str, grpc: str) -> None:
    found: dict[str, object] = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        base = f"http://{http}"
        ready = [await client.is_model_ready(base, name) for name in ("mixed", "nothing")]
        answer = await client.infer(base, request(), model_name="mixed")
        whole = answer.outputs[2].as_numpy().tolist()
        found["rest"] = [await client.is_server_live(base), await client.is_server_ready(base), *ready, whole]
    async with InferenceGRPCClient(grpc) as client:
        ready = [await client.is_model_ready(name) for name in ("mixed", "nothing")]
        answer = await client.infer(request())
        whole = answer.outputs[2].as_numpy().tolist()
        found["grpc"] = [await client.is_server_live(), await client.is_server_ready(), *ready, whole]
    sys.stdout.write(json.dumps(found))


asyncio.run(main(*sys.argv[1:]))
