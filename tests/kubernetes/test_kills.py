"""Controllers that are killed: whoever comes next goes on, and nothing is done twice or left over."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from tests.kubernetes.control_plane.cluster import wait_until
from tests.kubernetes.control_plane.forks import ForkServer
from tests.kubernetes.control_plane.nodes import Timing
from tests.kubernetes.control_plane.proxy import WriteGate
from tests.kubernetes.control_plane.shop import DAY, NIGHT, scaled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kubernetes.control_plane.forks import ForkedController
    from tests.kubernetes.control_plane.proxy import Request
    from tests.kubernetes.control_plane.shop import Shop

SMALL_DAY, SMALL_NIGHT = scaled(DAY, 0.6), scaled(NIGHT, 0.9)
BUSY_DAY = scaled(DAY, 1.45)
"""So many instances that what ends and begins takes more than 50 actions, though as much stays as can."""


def test_a_controller_is_killed_after_every_single_one_of_its_writes(shop: Shop, tmp_path: Path) -> None:
    """Each write is done by the API server, and the controller dies before it hears of it, or does anything more.

    So each controller gets one step further: it repeats what tells the same as before, writes one thing that nobody
    has written yet, and is killed. What it sent beside that is never done.
    """
    shop.serve(BUSY_DAY, 3, 8)
    shop.nodes.timing = Timing(scale=0.02)
    before = len(shop.nodes.records)
    deployed = shop.watcher.deployed()
    partita = shop.partita
    partita.running[0].end()
    with ForkServer(shop.plane.guard, tmp_path) as forks:
        dead = threading.Event()
        running: list[ForkedController] = []

        def kill(_: Request) -> None:
            running[-1].kill()
            dead.set()

        gate = WriteGate(kill)
        partita.proxy.before, partita.proxy.after = gate.before, gate.after
        shop.watcher.require(shop.floors(BUSY_DAY, NIGHT))
        partita.apply(NIGHT)

        def following() -> bool:
            """Start a controller in the place of one that is dead; return whether the workload is carried out."""
            if dead.is_set() or not running:
                dead.clear()
                partita.proxy.cut()
                partita.free_lease()
                running.append(forks.start(partita.words()))
                gate.open()
            ended = not dead.wait(0.1) and not running[-1].alive and not dead.wait(60.0)
            assert not ended, running[-1].log.read_text()
            return partita.reached() and not dead.is_set()

        try:
            wait_until(following, 600.0, "the workload is carried out", every=0.0)
        except TimeoutError as error:
            raise AssertionError(
                f"{error}\n{kills(gate.last)}\n{partita.status()}\n{running[-1].log.read_text()}"
            ) from None
        running[-1].kill()
        partita.proxy.before = partita.proxy.after = None
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
    assert sum(count for (kind, *_), count in records.items() if kind == "prepare") == made
    assert sum(count for (kind, *_), count in records.items() if kind == "unprepare") == gone
    # Every action's writes killed one each, and so did those that only tell.
    killed = kills(gate.last)
    assert (killed["POST pods"], killed["DELETE pods"]) == (made, gone), killed
    assert killed["POST resourceclaims"] == killed["PUT resourceclaims/status"], killed
    assert killed["DELETE resourceclaims"] == killed["PATCH resourceclaims"], killed
    actions = ("POST pods", "DELETE pods", "POST resourceclaims", "DELETE resourceclaims")
    assert sum(killed[each] for each in actions) >= 50, killed
    assert {
        "POST plans",
        "POST transitions",
        "PATCH transitions/status",
        "PATCH workloads/status",
    } <= killed.keys()


def kills(last: list[Request]) -> Counter[str]:
    """Return how often a write of each kind was the last."""
    return Counter(f"{each.verb} {each.plural}" for each in last)


def test_of_two_controllers_one_acts_and_the_other_follows_within_20_s(shop: Shop) -> None:
    shop.serve(SMALL_DAY, 2, 8)
    partita = shop.partita
    second = partita.start()
    partita.wait(lambda: "waiting: " in second.log.read_text(), "the second waits")
    first = partita.running[0]
    assert partita.leader() == first.pid
    shop.begin(SMALL_DAY, SMALL_NIGHT)
    first.kill()
    written = shop.driven()
    # Within 20 s on an idle machine, of which many tests share one.
    partita.wait(lambda: partita.leader() == second.pid and shop.driven() > written, "it acts", 20.0)
    partita.wait_reached()
    shop.exact()
    assert shop.faults() == []
