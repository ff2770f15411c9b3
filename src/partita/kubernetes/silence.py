"""Which nodes that are not ready are lost, and which are only silent.

A node may have died, or its word may not come through. After an outage of the API server Kubernetes takes the word
of every node for too old at once, while all that runs there serves on. So a node that is not ready is *silent* first:
its GPUs hold what they held, and nothing is begun. It is *lost* once it has been silent for a while and most others
are not. While most nodes are silent together none is lost, however long it takes. Nodes that are gone for good are
deleted, by a person or by the cloud's controller, and then they are lost at once.

What counts as most is what Kubernetes' own node controller takes for a disruption, in which it evicts nothing either:
all nodes, or at least three that are 55 % of them (pkg/controller/nodelifecycle, `ComputeZoneState`, 1.37).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NODE_TIMEOUT_S = 30.0
"""Seconds of silence after which a node is lost, by default; the cluster says so 50 s after its last word."""
_PERCENT, _LEAST = 55, 3


class NodeSilence:
    """Tells silent nodes from lost ones, as time goes by.

    Args:
        timeout_s: seconds of silence, among nodes that answer, after which a node is lost.

    Attributes:
        silent: nodes that are not ready and not lost.
        lost: nodes that are not ready and count as gone.
        most: whether most nodes are silent together.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._since: dict[str, float] = {}  # of each silent node; moves on while most are silent
        self.lost: frozenset[str] = frozenset()
        self.most = False

    @property
    def silent(self) -> frozenset[str]:
        """Nodes that are not ready and not lost."""
        return frozenset(self._since)

    def look(self, nodes: Mapping[str, float | None], now: float) -> None:
        """Take all nodes as they are now.

        Args:
            nodes: for how many seconds each says that it has not been ready; None for those that are.
            now: seconds, on a clock that does not jump.
        """
        away = {name: for_s for name, for_s in nodes.items() if for_s is not None}
        lost = self.lost & away.keys()
        known = self._since
        self._since = {name: known.get(name, now - for_s) for name, for_s in away.items() if name not in lost}
        answering = len(nodes) - len(away)
        count = len(self._since)
        self.most = count > 0 and (
            answering == 0 or (count >= _LEAST and 100 * count >= _PERCENT * (count + answering))
        )
        if self.most:
            self._since = dict.fromkeys(self._since, now)
        over = {name for name, since in self._since.items() if now >= since + self._timeout_s}
        self.lost = lost | over
        for name in over:
            del self._since[name]
