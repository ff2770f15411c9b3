"""What a service can spare, as tokens: a stop is safe once it has taken tokens worth its throughput."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Token:
    """Throughput that a service has beyond its floor.

    Attributes:
        ready: when it is there: 0 for what there is at first, else when the start that brings it ends.
        left: items/s not yet taken.
        start: index of the start that brings it; None for what there is at first.
    """

    ready: float
    left: float
    start: int | None


class Spare:
    """The tokens of one service.

    Every token is taken once at most, and what takes a token of a start comes after that start. So in any state of
    any order the stops that have begun took no more than the slack at first and the starts that have ended:
    the floor is kept.
    """

    def __init__(self, slack: float, floor: float = 0.0) -> None:
        self._tokens = [Token(0.0, slack, None)] if slack > 0 else []
        # Sums in another order differ by less than this, and the checker forgives a thousand times as much.
        self._least = 1e-9 * max(1.0, floor)

    def bring(self, start: int, ready: float, throughput: float) -> None:
        """Add what a start brings."""
        self._tokens.append(Token(ready, throughput, start))

    def take(self, amount: float, ancestors: int) -> list[int]:
        """Take tokens worth `amount`, those that are there earliest; return the starts to wait for.

        Of the tokens that are there by the earliest time at which there are enough, those that cost no edge go
        first: those of starts among the `ancestors` (a bit set) and the slack at first; then the largest.

        Raises:
            ValueError: there is not so much.
        """
        by = self._enough_by(amount, ancestors)
        there = [token for token in self._tokens if self._known(token, ancestors) or token.ready <= by]
        there.sort(
            key=lambda token: (not self._known(token, ancestors), token.start is not None, -token.left)
        )
        waits = []
        for token in there:
            if amount <= self._least:
                break
            taken = min(amount, token.left)
            amount -= taken
            token.left -= taken
            if token.start is not None:
                waits.append(token.start)
        self._tokens = [token for token in self._tokens if token.left > 0]
        return waits

    @staticmethod
    def _known(token: Token, ancestors: int) -> bool:
        return token.start is not None and bool(ancestors >> token.start & 1)

    def _enough_by(self, amount: float, ancestors: int) -> float:
        by = 0.0
        for token in sorted(self._tokens, key=lambda t: 0.0 if self._known(t, ancestors) else t.ready):
            if amount <= self._least:
                return by
            by = max(by, 0.0 if self._known(token, ancestors) else token.ready)
            amount -= token.left
        if amount > 10 * self._least:
            raise ValueError("less to spare than asked")
        return by
