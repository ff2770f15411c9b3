from __future__ import annotations

from partita.serve.gateway.query import PendingQuery
from partita.serve.routers.shared import Queues


def test_a_batch_size_is_listed_once_however_many_came_and_went():
    queues = Queues()
    for _ in range(5):
        for batch in (4, 1):
            queues.put(PendingQuery(batch, 0.0, 1.0))
            queues.pop(batch)
    queues.put(PendingQuery(1, 0.0, 1.0))
    assert queues.kinds == [1, 4]
    assert queues.head(4) is None
    assert queues.kinds == [1]
