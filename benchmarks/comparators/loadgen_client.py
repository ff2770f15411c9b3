"""MLPerf LoadGen's Server scenario against an Open Inference Protocol server, with aiohttp as the transport.

`python loadgen_client.py SPEC`: SPEC is a JSON file with url, rate, count, slo_ms, quantile, seed, start (on the
monotonic clock) and out, a folder. LoadGen draws the arrivals, issues each query when it is due whatever has become
of earlier ones, and takes the latency from the moment when the query was due. The transport is outside code as well;
what stands here hands a query from the one to the other. A query without a right answer is told to LoadGen only after
twice its SLO, so that LoadGen itself counts it as late.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import mlperf_loadgen as loadgen  # type: ignore[import-not-found]
import uvloop

_VALUES = [0.5 * at for at in range(16)]
_TENSOR = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 16], "data": _VALUES}
_BODY = json.dumps({"inputs": [_TENSOR]}).encode()
_WARM = 40


class Client:
    """Hands LoadGen's queries to aiohttp; `sent` has for each the seconds from issue to send, and its outcome."""

    def __init__(self, spec: dict[str, Any], session: aiohttp.ClientSession) -> None:
        self._spec, self._session = spec, session
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent: list[list[float]] = []

    async def warm(self) -> None:
        """Open connections with a few queries that do not count."""
        await asyncio.gather(*(self._right() for _ in range(_WARM)))

    def issue(self, samples: list[Any]) -> None:
        """Take LoadGen's queries, in its thread."""
        issued = time.perf_counter()
        self._loop.call_soon_threadsafe(self._begin, [each.id for each in samples], issued)

    def _begin(self, ids: list[int], issued: float) -> None:
        for each in ids:
            row = [time.perf_counter() - issued, 0]
            self.sent.append(row)
            task = self._loop.create_task(self._one(each, row))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _one(self, number: int, row: list[float]) -> None:
        began = time.perf_counter()
        row[1] = await self._right()
        if row[1] != 200:
            await asyncio.sleep(max(0.0, began + 2 * self._spec["slo_ms"] / 1000 - time.perf_counter()))
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(number, 0, 0)])

    async def _right(self) -> int:
        """Return 200 for an answer with the values that were sent, another number else."""
        try:
            async with self._session.post(self._spec["url"], data=_BODY) as reply:
                answer = await reply.read()
                if reply.status == 200 and json.loads(answer)["outputs"][0]["data"] != _VALUES:
                    return 1
                return reply.status
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            return 0


def settings(spec: dict[str, Any]) -> loadgen.TestSettings:
    """Return LoadGen's settings."""
    return _with(
        loadgen.TestSettings(),
        scenario=loadgen.TestScenario.Server,
        mode=loadgen.TestMode.PerformanceOnly,
        server_target_qps=spec["rate"],
        server_target_latency_ns=int(spec["slo_ms"] * 1e6),
        server_target_latency_percentile=spec["quantile"],
        min_query_count=spec["count"],
        max_query_count=spec["count"],
        min_duration_ms=1,
        qsl_rng_seed=spec["seed"],
        sample_index_rng_seed=spec["seed"],
        schedule_rng_seed=spec["seed"],
    )


def logging_to(folder: Path) -> loadgen.LogSettings:
    """Return where LoadGen writes its results, and the trace with each query's times."""
    output = _with(loadgen.LogOutputSettings(), outdir=str(folder), copy_summary_to_stdout=False)
    return _with(loadgen.LogSettings(), log_output=output, enable_trace=True)


def _with(settings: Any, **fields: Any) -> Any:  # noqa: ANN401 -- another project's
    for name, value in fields.items():
        setattr(settings, name, value)
    return settings


async def main(spec: dict[str, Any]) -> None:
    """Run LoadGen in a thread of its own, and write what this side saw of each query."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=300)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        client = Client(spec, session)
        await client.warm()
        await asyncio.to_thread(run, spec, client)
    (Path(spec["out"]) / "sent.json").write_text(json.dumps(client.sent))


def run(spec: dict[str, Any], client: Client) -> None:
    """Wait for the common start, and run LoadGen until all queries have ended."""
    system = loadgen.ConstructSUT(client.issue, lambda: None)
    library = loadgen.ConstructQSL(64, 64, lambda _: None, lambda _: None)
    time.sleep(max(0.0, spec["start"] - time.monotonic()))
    loadgen.StartTestWithLogSettings(system, library, settings(spec), logging_to(Path(spec["out"])))
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)


sys.setswitchinterval(0.0005)
uvloop.run(main(json.loads(Path(sys.argv[1]).read_text())))
