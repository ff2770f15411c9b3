"""Controllers that are killed: whoever comes next goes on, and nothing is done twice or left over."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.kubernetes.control_plane.shop import DAY, NIGHT, scaled

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.proxy import Request
    from tests.kubernetes.control_plane.shop import Shop

SMALL_DAY, SMALL_NIGHT = scaled(DAY, 0.6), scaled(NIGHT, 0.9)


def test_a_controller_is_killed_after_each_of_its_writes(shop: Shop) -> None:
    """Each write is done by the API server, and the controller dies before it hears of it.

    Of writes that only tell (status, plans, goals), the first three of each kind kill: one that came first after
    every start would let nobody get any further.
    """
    shop.serve(DAY, 3, 8)
    before = len(shop.nodes.records)
    deployed = shop.watcher.deployed()
    partita, proxy = shop.partita, shop.partita.proxy
    kills: Counter[str] = Counter()
    dead = threading.Event()

    def kill(request: Request, code: int) -> None:
        if not request.write or code >= 300 or request.plural in {"leases", "events"}:
            return
        if not request.plural.startswith(("pods", "resourceclaims")) and kills[request.plural] >= 3:
            return
        leader = partita.leader()
        if leader is not None and not dead.is_set():
            dead.set()
            os.kill(leader, signal.SIGKILL)
            kills[request.plural] += 1

    partita.start()  # one that waits, so that there is always a next one
    proxy.after = kill
    shop.watcher.require(shop.floors(DAY, NIGHT))
    partita.apply(NIGHT)
    until = time.monotonic() + 900.0
    while not partita.reached():
        assert time.monotonic() < until, f"not within 900 s: {kills}\n{partita.status()}\n{partita.said()}"
        if dead.wait(0.2):
            for each in partita.running:
                if each.process.poll() is not None:
                    each.kill()
            partita.running = [each for each in partita.running if not each.ended]
            partita.start()
            partita.free_lease()
            dead.clear()
    proxy.after = None
    shop.exact()
    assert shop.faults() == []
    # Nothing twice: each instance that is new was prepared once, each that is gone unprepared once.
    records = Counter(
        (each.kind, each.node, each.device) for each in shop.nodes.records[before:] if each.device
    )
    assert {kind for kind, _, _ in records} == {"prepare", "unprepare"}
    after = shop.watcher.deployed()
    made = sum(len(set(placed.items()) - set(deployed.get(gpu, {}).items())) for gpu, placed in after.items())
    gone = sum(len(set(placed.items()) - set(after.get(gpu, {}).items())) for gpu, placed in deployed.items())
    assert 2 * (made + gone) >= 50, (made, gone)  # an instance and a replica each
    assert sum(kills.values()) >= 25, kills
    assert sum(count for (kind, *_), count in records.items() if kind == "prepare") == made
    assert sum(count for (kind, *_), count in records.items() if kind == "unprepare") == gone


def test_of_two_controllers_one_acts_and_the_other_follows_within_20_s(shop: Shop) -> None:
    shop.serve(SMALL_DAY, 2, 8)
    partita = shop.partita
    second = partita.start()
    partita.wait(lambda: "waiting: " in second.log.read_text(), "the second waits")
    first = partita.running[0]
    assert partita.leader() == first.pid
    shop.begin(SMALL_DAY, SMALL_NIGHT)
    first.kill()
    killed = time.monotonic()
    written = shop.driven()
    partita.wait(lambda: partita.leader() == second.pid, "the second leads", 30.0)
    partita.wait(lambda: shop.driven() > written, "the second acts", 30.0)
    assert time.monotonic() - killed < 20.0
    partita.wait_reached()
    shop.exact()
    assert shop.faults() == []
