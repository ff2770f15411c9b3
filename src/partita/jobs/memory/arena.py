"""ONNX Runtime's arena: what it takes from the device for a sequence of allocations, and never gives back."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

MIB = 2**20

_ROUND = 256
_FIRST = 1 * MIB
_LARGEST_DOUBLED = 1024 * MIB
_LARGEST_DEAD = 128 * MIB


def _rounded(size: int) -> int:
    return max(-(-size // _ROUND) * _ROUND, _ROUND)


@dataclass(slots=True)
class _Chunk:
    size: int
    region: int
    name: str | None = None


class Block:
    """The layout of tensors in one block, each in the best gap when it is made.

    So ONNX Runtime's memory pattern lays them out (core/framework/mem_pattern_planner.h).

    Attributes:
        total: bytes of the block.
    """

    def __init__(self) -> None:
        self._placed: dict[str, tuple[int, int]] = {}
        self.total = 0

    def allocate(self, name: str, size: int) -> None:
        """Lay out a tensor: in the smallest gap that holds it, else at the end."""
        rounded, reached = _rounded(size), 0
        gaps: list[tuple[int, int]] = []
        for begin, end in sorted(self._placed.values()):
            gaps.append((begin - reached, reached))
            reached = end
        gaps.append((self.total - reached, reached))
        at = min((gap for gap in gaps if gap[0] >= rounded), default=(0, reached))[1]
        self._placed[name] = (at, at + rounded)
        self.total = max(self.total, at + rounded)

    def free(self, name: str) -> None:
        """Make a tensor's place a gap."""
        del self._placed[name]


class Arena:
    """Best fit with coalescing, as ONNX Runtime's BFCArena does it with its defaults (core/framework/bfc_arena.cc).

    A request is rounded up to 256 bytes. It takes the smallest free chunk that holds it, which is split only where at
    least half of it, or 128 MiB, would be left over. Where none does, the arena grows by a region: the first has
    1 MiB, and each is twice the one before (1 GiB at the most), or doubled until it holds the request.

    Attributes:
        total: bytes of all regions.
    """

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._grow = _FIRST
        self._regions = 0
        self.total = 0

    @property
    def next_region(self) -> int:
        """The bytes by which it would grow next, if a small request did not fit."""
        return self._grow

    def allocate(self, name: str, size: int) -> None:
        """Take a chunk for a tensor."""
        rounded = _rounded(size)
        fitting = (each for each in self._chunks if each.name is None and each.size >= rounded)
        chunk = min(fitting, key=attrgetter("size"), default=None) or self._extend(rounded)
        left = chunk.size - rounded
        if left >= rounded or left >= _LARGEST_DEAD:
            chunk.size = rounded
            at = next(i for i, each in enumerate(self._chunks) if each is chunk)
            self._chunks.insert(at + 1, _Chunk(left, chunk.region))
        chunk.name = name

    def free(self, name: str) -> None:
        """Give a tensor's chunk back to the arena, joined with free neighbours."""
        at = next(i for i, each in enumerate(self._chunks) if each.name == name)
        self._chunks[at].name = None
        for left in (at, at - 1):
            if 0 <= left < len(self._chunks) - 1 and self._joins(left):
                self._chunks[left].size += self._chunks.pop(left + 1).size

    def _joins(self, left: int) -> bool:
        one, other = self._chunks[left : left + 2]
        return one.region == other.region and one.name is None and other.name is None

    def _extend(self, rounded: int) -> _Chunk:
        doubled = False
        while rounded > self._grow:
            self._grow *= 2
            doubled = True
        chunk = _Chunk(self._grow, self._regions)
        self._regions += 1
        self.total += chunk.size
        self._chunks.append(chunk)
        if not doubled and self._grow < _LARGEST_DOUBLED:
            self._grow *= 2
        return chunk
