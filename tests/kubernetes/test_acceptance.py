"""A day, a night and a day on a real control plane, judged by a watcher that knows nothing of how Partita works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kubernetes.control_plane.shop import DAY, NIGHT

if TYPE_CHECKING:
    from tests.kubernetes.control_plane.shop import Shop


def test_a_day_a_night_and_a_day_of_24_a100s(shop: Shop) -> None:
    shop.serve(DAY, 3, 8)
    shop.exact()
    for old, new in ((DAY, NIGHT), (NIGHT, DAY)):
        shop.go(old, new)
        shop.exact()
    assert shop.faults() == []
    assert [each for each in shop.nodes.records if each.kind == "refuse"] == []
