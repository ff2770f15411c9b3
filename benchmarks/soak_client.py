"""A client that asks at a fixed rate, open loop, and checks every answer against what it asked."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from benchmarks.served import SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from benchmarks.served import Served

_ITEMS = 16
_CONNECTIONS = 100
_ENOUGH_S = 30.0
_BINARY = "Inference-Header-Content-Length"


class RefusedError(Exception):
    """The gateway said 503."""


@dataclass(slots=True)
class Tally:
    """The outcomes of the requests.

    Attributes:
        latency: seconds of those answered rightly.
        failed: by what went wrong.
    """

    sent: int = 0
    right: int = 0
    wrong: int = 0
    refused: int = 0
    refused_late: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    latency: list[float] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """Requests that ended in any way."""
        return self.right + self.wrong + self.refused + self.refused_late + sum(self.failed.values())


class Client:
    """Asks a gateway.

    Args:
        served: the gateway.
        deadline: seconds within which a refusal is honest.
    """

    def __init__(self, served: Served, deadline: float) -> None:
        self._served = served
        self._deadline = deadline
        self._rng = random.Random(0)
        self.tally = Tally()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS), timeout=aiohttp.ClientTimeout(_ENOUGH_S)
        )
        self._grpc = triton.InferenceServerClient(self._served.grpc)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()
        await self._grpc.close()

    async def load(self, rate: float, seconds: float) -> None:
        """Send requests at a fixed rate for a time, whether or not earlier ones have ended; then wait for all."""
        loop = asyncio.get_running_loop()
        under_way: set[asyncio.Task[None]] = set()
        at = began = loop.time()
        while at < began + seconds:
            at += self._rng.expovariate(rate)
            await asyncio.sleep(max(0.0, at - loop.time()))
            task = loop.create_task(self._one(self.tally.sent))
            self.tally.sent += 1
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way, timeout=2 * _ENOUGH_S)

    async def _one(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        # Exact in FP32 below 2^24; the rest makes neighbours unlike in every place.
        values = [float(number), *(float(self._rng.randrange(1 << 20)) for _ in range(_ITEMS - 1))]
        ask = self._way(number)
        began = loop.time()
        try:
            got = await ask(values)
        except RefusedError:
            if loop.time() - began <= self._deadline:
                self.tally.refused += 1
            else:
                self.tally.refused_late += 1
        except (aiohttp.ClientError, InferenceServerException, TimeoutError, ValueError, KeyError) as error:
            self.tally.failed[f"{type(error).__name__}: {str(error)[:120]}"] += 1
        else:
            self.tally.latency.append(loop.time() - began)
            if got == values:
                self.tally.right += 1
            else:
                self.tally.wrong += 1

    def _way(self, number: int) -> Callable[[list[float]], Coroutine[Any, Any, list[float]]]:
        if number % 10 == 0:
            return self._by_grpc
        return self._by_binary if number % 2 == 0 else self._by_json

    async def _by_json(self, values: list[float]) -> list[float]:
        given = {"name": "INPUT0", "datatype": "FP32", "shape": [1, _ITEMS], "data": values}
        answer, _ = await self._post(json.dumps({"inputs": [given]}).encode(), {})
        return list(json.loads(answer)["outputs"][0]["data"])

    async def _by_binary(self, values: list[float]) -> list[float]:
        data = struct.pack(f"<{_ITEMS}f", *values)
        size = {"binary_data_size": len(data)}
        given = {"name": "INPUT0", "datatype": "FP32", "shape": [1, _ITEMS], "parameters": size}
        asked = {"inputs": [given], "parameters": {"binary_data_output": True}}
        head = json.dumps(asked).encode()
        answer, length = await self._post(head + data, {_BINARY: str(len(head))})
        return list(struct.unpack(f"<{_ITEMS}f", answer[int(length) :]))

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[bytes, str]:
        async with self._http.post(self._served.infer, data=body, headers=headers) as reply:
            answer = await reply.read()
            if reply.status == 503:
                raise RefusedError
            reply.raise_for_status()
            return answer, reply.headers.get(_BINARY, "0")

    async def _by_grpc(self, values: list[float]) -> list[float]:
        given = triton.InferInput("INPUT0", [1, _ITEMS], "FP32")
        given.set_data_from_numpy(np.array([values], np.float32))
        try:
            answer = await self._grpc.infer(SERVICE, [given], client_timeout=_ENOUGH_S)
        except InferenceServerException as error:
            if "UNAVAILABLE" in str(error.status()):
                raise RefusedError from None
            raise
        return [float(each) for each in answer.as_numpy("OUTPUT0")[0]]
