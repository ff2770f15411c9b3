"""Bodies of requests: one FP32 tensor of 16 elements, or of an image's size."""

from __future__ import annotations

import json
import math
import random
import struct
from typing import TYPE_CHECKING

from benchmarks.served import SERVICE
from partita.serve.gateway.grpc_server import message

if TYPE_CHECKING:
    from pathlib import Path

_VALUES = [index + 0.25 for index in range(16)]
IMAGE = (3, 224, 224)
_RAW = struct.pack("<16f", *_VALUES)
_TENSOR: dict[str, object] = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 16]}


def json_body(folder: Path) -> tuple[Path, dict[str, str]]:
    """Write the request as JSON; return the file and the headers."""
    return _written(folder / "body.json", json.dumps({"inputs": [{**_TENSOR, "data": _VALUES}]}).encode()), {
        "Content-Type": "application/json"
    }


def binary_body(folder: Path) -> tuple[Path, dict[str, str]]:
    """Write the request with the binary tensor extension, on both ways; return the file and the headers."""
    return _binary(folder / "body.bin", _TENSOR, _RAW)


def image_body(folder: Path) -> tuple[Path, dict[str, str]]:
    """Write a request of an image's size, 602,112 bytes of data, likewise."""
    raw = random.Random(0).randbytes(4 * math.prod(IMAGE))
    return _binary(folder / "image.bin", {**_TENSOR, "shape": [1, *IMAGE]}, raw)


def _binary(path: Path, tensor: dict[str, object], raw: bytes) -> tuple[Path, dict[str, str]]:
    tensor = {**tensor, "parameters": {"binary_data_size": len(raw)}}
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(document, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return _written(path, head + raw), headers


def grpc_body(folder: Path) -> Path:
    """Write the request as gRPC's message; return the file."""
    request = message("ModelInferRequest")(model_name=SERVICE)
    given = request.inputs.add(name="INPUT0", datatype="FP32")
    given.shape.extend([1, 16])
    request.raw_input_contents.append(_RAW)
    return _written(folder / "body.pb", request.SerializeToString())


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
