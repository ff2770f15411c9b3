"""Late binding of queries of one item each, joined into batches, compiled: what the capacity model simulates.

The decisions are those of `LateBinding` with the rules of `SharedQueue`, for queries that are all of one kind: the
choice of a size, joining, giving up what comes too late, and refusal on arrival by the pace of the queue.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from partita.serve.routers.compiling import compiled, drop_first, push
from partita.serve.routers.late_binding import cheapest
from partita.serve.routers.shared import CROWDED, ENOUGH, HURRY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Servers(NamedTuple):
    """Instances behind one router, in groups of equal ones, from small slices to large.

    Attributes:
        seconds: of a batch of b items on group k at [k, b], infinite above the group's largest batch, shape (K, B+1).
        most: largest batch of each group, shape (K,).
        lanes: batches that each group runs at once: instances times processes, shape (K,).
    """

    seconds: NDArray[np.float64]
    most: NDArray[np.int64]
    lanes: NDArray[np.int64]


def serve(
    arrival: NDArray[np.float64], servers: Servers, deadline: float, jitter: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the seconds from arrival to answer of each query, infinite for those refused, shape (N,).

    Args:
        arrival: seconds, ascending, shape (N,).
        servers: that answer.
        deadline: seconds from arrival to the latest answer.
        jitter: factors of the batches' seconds, taken in turn, shape (J,).
    """
    import numpy as np  # noqa: PLC0415 -- the gateway starts without it

    took = np.full(len(arrival), np.inf)
    _simulated(arrival, servers, deadline, jitter, took, _Count(0, len(arrival), math.inf))
    return took


def count_late(  # noqa: PLR0917 -- as `serve`, and what counts
    arrival: NDArray[np.float64],
    servers: Servers,
    deadline: float,
    jitter: NDArray[np.float64],
    first: int,
    most: int,
    in_time: float,
) -> int:
    """Return how many queries are not answered in time, or a number above `most` as soon as there are more.

    Args:
        arrival: as for `serve`, as all before `first`.
        servers: that answer.
        deadline: by which a router decides.
        jitter: factors of the batches' seconds.
        first: number of the first query that counts; those before it warm up.
        most: late queries above which the number does not matter.
        in_time: most seconds of an answer in time.
    """
    import numpy as np  # noqa: PLC0415 -- as above

    took = np.empty(0)
    return _simulated(arrival, servers, deadline, jitter, took, _Count(first, most, in_time))


def _simulated(  # noqa: PLR0917 -- as `_joined` has them
    arrival: NDArray[np.float64],
    servers: Servers,
    deadline: float,
    jitter: NDArray[np.float64],
    took: NDArray[np.float64],
    count: _Count,
) -> int:
    import numpy as np  # noqa: PLC0415 -- as above

    single = servers.seconds[:, 1].copy()
    second = np.minimum(
        1.0, single.min() / single
    )  # as `Fleet` prices groups for which no prices were computed
    least = float((second * single).min())
    prices = _Prices(single, second, second * single / least - 1.0, least)
    lanes = int(servers.lanes.sum())
    ends = _Ends(np.empty(lanes), np.empty(lanes, dtype=np.int64), np.empty(len(arrival), dtype=np.int64))
    own = servers._replace(lanes=servers.lanes.copy())
    return int(compiled(_joined)(arrival, own, prices, deadline, jitter, ends, took, count))


class _Prices(NamedTuple):
    """What decides: by group the seconds, price of a second and relative extra cost of one item; the least cost."""

    single: NDArray[np.float64]
    second: NDArray[np.float64]
    extra: NDArray[np.float64]
    least: float


class _Count(NamedTuple):
    """What counts as late: queries from `first` on that take longer than `in_time` seconds; above `most` all ends."""

    first: int
    most: int
    in_time: float


class _Ends(NamedTuple):
    """A heap of ends of batches and the groups that run them, shape (lanes,); room for the numbers of what waits."""

    at: NDArray[np.float64]
    of: NDArray[np.int64]
    waiting: NDArray[np.int64]


def _joined(  # noqa: C901, PLR0912, PLR0915, PLR0917 -- arrays handed on to compiled parts cost 20 times as much
    arrival: NDArray[np.float64],
    servers: Servers,
    prices: _Prices,
    deadline: float,
    jitter: NDArray[np.float64],
    ends: _Ends,
    took: NDArray[np.float64],
    count: _Count,
) -> int:
    """Simulate, from one arrival or end of a batch to the next; fill in how long each query took, if there is room.

    What waits is waiting[head:tail], the numbers of the queries, the oldest first. Something waits since `since`, -1
    where nothing does, and `starts` queries have started since then, as in `Pace`. Returns how many are late.
    """
    seconds, most, idle = servers
    single, second, extra, least = prices
    end_at, end_of, waiting = ends
    quickest = single.min()
    slack = deadline - quickest
    rate = 0.0
    for group in range(len(most)):
        rate += idle[group] * most[group] / seconds[group, most[group]]
    running = arrived = batches = head = tail = 0
    idlers = idle.sum()
    since, starts = -1.0, 0.0
    counts_from, late = count.first, 0
    while (arrived < len(arrival) or running > 0) and late <= count.most:
        first, last = 0, len(most)
        came = running == 0 or (arrived < len(arrival) and arrival[arrived] < end_at[0])
        if came:
            now = arrival[arrived]
            crowded = (tail - head) / rate > CROWDED * slack
            if since < 0.0 or not (crowded and _too_late(tail - head, now - since, starts, deadline, slack)):
                waiting[tail] = arrived
                tail += 1
            elif arrived >= counts_from:
                late += 1
            arrived += 1
        else:
            now, first = end_at[0], end_of[0]
            last = first + 1
            running -= 1
            drop_first(end_at, end_of, running)
            idle[first] += 1
            idlers += 1
        while head < tail and idlers > 0:
            before = head
            while head < tail and arrival[waiting[head]] + deadline - now < quickest:
                late += waiting[head] >= counts_from
                head += 1
            if head == tail:
                since = -1.0
                break
            left = arrival[waiting[head]] + deadline - now
            hurry = left / deadline
            _, group = cheapest(single, extra, idle, range(first, last), left, hurry, 0.0, math.inf)
            first, last = 0, len(most)
            if group < 0:
                if head == before:
                    break
                continue
            while head < tail and left < seconds[group, min(most[group], tail - head)]:
                if left >= quickest and (tail - head) / rate <= CROWDED * slack:
                    break
                late += waiting[head] >= counts_from
                head += 1
                if head < tail:
                    left = arrival[waiting[head]] + deadline - now
            if head == tail:
                since = -1.0
                break
            idle[group] -= 1
            idlers -= 1
            start, head, items = head, head + 1, 1
            while head < tail and items < most[group]:
                more = seconds[group, items + 1]
                dear = second[group] * (more - seconds[group, items]) > least
                if more > left or dear:
                    break
                theirs = arrival[waiting[head]] + deadline - now
                elsewhere = False
                for other in range(len(most) if idlers > 0 else 0):
                    elsewhere = elsewhere or (idle[other] > 0 and single[other] <= theirs)
                if elsewhere:
                    break
                head += 1
                items += 1
            end = now + seconds[group, items] * jitter[batches % len(jitter)]
            batches += 1
            for at in range(start, head):
                seconds_taken = end - arrival[waiting[at]]
                late += seconds_taken > count.in_time and waiting[at] >= counts_from
                if len(took) > 0:
                    took[waiting[at]] = seconds_taken
                if since >= 0.0:
                    starts += 1.0
                    if now - since > 2.0 * deadline:
                        since, starts = (since + now) / 2, starts / 2
            if head == tail:
                since = -1.0
            push(end_at, end_of, running, (end, group))
            running += 1
        if came and head < tail and waiting[tail - 1] == arrived - 1 and since < 0.0:
            since, starts = now, 0.0
    for at in range(head, tail):
        late += waiting[at] >= counts_from
    return late


def _too_late(before: int, span: float, starts: float, deadline: float, slack: float) -> bool:
    """Say whether the pace of the queue forecasts too long a wait for a query with so many before it."""
    if starts < ENOUGH and span < deadline:
        return False
    return before * span / max(starts, 1.0) > HURRY * slack
