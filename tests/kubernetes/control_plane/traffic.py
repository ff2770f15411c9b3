"""Clients of gateways that share no code with Partita: steady queries to services, whose answers are all checked."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import threading
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SIZES = (1, 2, 4, 8)
"""Items of queries, in turn."""
_PATIENCE_S = 120.0
_IDLE_S = 20.0
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter, float]
"""With when it was last used."""


class Traffic:
    """Queries over HTTP in a thread of its own, to several gateways in turn; a context manager.

    Every query has an outcome: `answered` (rightly), `wrong`, `lost` (no answer), or the status and what it says.

    Attributes:
        outcomes: by service.
    """

    def __init__(self, ports: Sequence[int], services: Iterable[str]) -> None:
        self.outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._ports = itertools.cycle(ports)
        self._rates = dict.fromkeys(services, 0.0)
        self._free: defaultdict[int, list[_Connection]] = defaultdict(list)
        self._numbers = itertools.count()
        self._stopped = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, rates: Mapping[str, float]) -> None:
        """Send queries with so many items per second to each service from now on."""
        self._rates.update(rates)

    def stop(self) -> None:
        """Send nothing more, and wait for all answers."""
        self._stopped = True
        self._thread.join()

    def total(self) -> Counter[str]:
        """Return the outcomes of all services together."""
        return sum((Counter(each) for each in list(self.outcomes.values())), Counter())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for service in self._rates:
                group.create_task(self._steadily(service))
        for _, writer, _ in itertools.chain.from_iterable(self._free.values()):
            writer.close()

    async def _steadily(self, service: str) -> None:
        chance = random.Random(service)
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for items in itertools.cycle(SIZES):
                while not self._rates[service] and not self._stopped:
                    await asyncio.sleep(0.05)
                    due = time.monotonic()
                if self._stopped:
                    return
                due += items / self._rates[service] * chance.uniform(0.5, 1.5)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._ask(service, items, next(self._ports)))

    async def _ask(self, service: str, items: int, port: int) -> None:
        number = next(self._numbers)
        data = [float(number % 1000 + at) for at in range(16 * items)]
        tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [items, 16], "data": data}
        body = json.dumps({"id": str(number), "inputs": [tensor]}).encode()
        head = f"POST /v2/models/{service}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await self._connection(port)
                writer.write(head.encode() + body)
                told = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(re.findall(rb"content-length: (\d+)", told)[0])
                answer = json.loads(await reader.readexactly(length))
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            self.outcomes[service][f"lost: {error!r}"] += 1
            if writer is not None:
                writer.close()
            return
        status = told.split()[1].decode()
        if status != "200":
            self.outcomes[service][f"{status} {answer['error']}"] += 1
        else:
            right = answer["id"] == str(number) and answer["outputs"][0]["data"] == data
            self.outcomes[service]["answered" if right else "wrong"] += 1
        if b"connection: close" in told:
            writer.close()
        else:
            self._free[port].append((reader, writer, time.monotonic()))

    async def _connection(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection that is kept, if it was used lately: servers close those that are idle for long."""
        free = self._free[port]
        while free:
            reader, writer, used = free.pop()
            if time.monotonic() < used + _IDLE_S:
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", port)
