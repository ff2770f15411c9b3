"""In which memory the tensors of a graph are, and how long each piece is needed, as ONNX Runtime plans it.

A graph is a plain value here. `live_peak` and `reused_peak` are bounds from liveness; `arena_bytes` is what ONNX
Runtime's arena has allocated on the device in the end, which it never frees.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import accumulate, permutations
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Graph:
    """A model as memory sees it.

    Attributes:
        steps: in the order of execution, the tensors that each reads and those that it writes.
        sizes: bytes of each tensor that is not a weight.
        inputs: tensors that exist before the first step.
        outputs: tensors that stay after the last.
        parameters: number of values in the weights.
        weight_bytes: bytes of the weights.
        operators: of each step; without them no memory is reused.
        shapes: of each tensor in `sizes`, where there are operators.
        bounded: tensors whose size depends on data and may be 0; `sizes` has the largest.
    """

    steps: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    sizes: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: int
    weight_bytes: int
    operators: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bounded: tuple[str, ...] = ()


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
    """The layout of tensors in one block, each put into the best gap when it is created.

    ONNX Runtime's memory pattern lays them out like this (core/framework/mem_pattern_planner.h).

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
        """Turn a tensor's place into a gap."""
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
        """The bytes by which the arena would grow if a small request did not fit."""
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
        """Return a tensor's chunk to the arena, joined with free neighbours."""
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


VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operators whose output is their first input's memory under another shape."""

_UNARY = (
    "Relu",
    "LeakyRelu",
    "Clip",
    "Sigmoid",
    "Tanh",
    "Erf",
    "Exp",
    "Sqrt",
    "Neg",
    "Abs",
    "HardSwish",
    "Gelu",
)
IN_PLACE = frozenset({*_UNARY, "Softmax", "Add", "Sub", "Mul", "Div", "Pow"})
"""Operators that may write over an input of the output's size, if no later step reads that."""

_CONV_SUM = "Conv, sum"


@dataclass(frozen=True, slots=True)
class Life:
    """A piece of memory, and the first and the last step that need it."""

    name: str
    size: int
    begin: int
    end: int


def live_peak(graph: Graph) -> int:
    """Return the most bytes of activations alive at once, each from its writer to its last reader."""
    return peak(lives(graph, {}))


def reused_peak(graph: Graph) -> int:
    """Return the same if operators write over what no later step reads: no runtime needs less."""
    return peak(lives(graph, shared_memory(graph)))


def arena_bytes(graph: Graph) -> int:
    """Return the bytes of ONNX Runtime's arena for the activations after several runs, plus the inputs."""
    return arena_after_runs(graph).total + sum(graph.sizes.get(name, 0) for name in graph.inputs)


def scratch_bytes(graph: Graph) -> int:
    """Return by how much the arena grows if kernels' scratch does not fit between the tensors: one region."""
    return arena_after_runs(graph).next_region


def lives(graph: Graph, shared: Mapping[str, str]) -> list[Life]:
    """Return from which step to which each piece of memory is needed; inputs begin at -1.

    Args:
        graph: the model.
        shared: for tensors in another's memory, that other one.
    """
    begin = dict.fromkeys(graph.inputs, -1)
    end = dict.fromkeys((shared.get(name, name) for name in graph.outputs), len(graph.steps))
    for index, (reads, writes) in enumerate(graph.steps):
        for name in writes:
            begin.setdefault(shared.get(name, name), index)
        for name in (*reads, *writes):
            place = shared.get(name, name)
            end[place] = max(end.get(place, 0), index)
    return [Life(name, graph.sizes.get(name, 0), at, end.get(name, 0)) for name, at in begin.items()]


def peak(pieces: Sequence[Life]) -> int:
    """Return the most bytes needed at one step."""
    changes: dict[int, int] = {}
    for life in pieces:
        changes[life.begin] = changes.get(life.begin, 0) + life.size
        changes[life.end + 1] = changes.get(life.end + 1, 0) - life.size
    return max(accumulate(change for _, change in sorted(changes.items())), default=0)


def arena_after_runs(graph: Graph) -> Arena:
    """Return ONNX Runtime's arena after several runs with the same shapes.

    In the first run each piece of memory is a chunk of its own. From the second on, all but inputs and outputs are in
    one block, laid out as the first run showed; the arena keeps what the first run allocated. The graph does not show
    the scratch of kernels.
    """
    fused = _fused(graph)
    pieces = [life for life in lives(fused, shared_memory(fused, planned=True)) if life.begin >= 0]
    arena, block, given = Arena(), Block(), set(graph.outputs)
    _replay(pieces, arena)
    _replay([life for life in pieces if life.name not in given], block)
    arena.allocate("", block.total)
    for life in pieces:
        if life.name in given:
            arena.allocate(life.name, life.size)
    return arena


def _replay(pieces: Sequence[Life], memory: Arena | Block) -> None:
    """Allocate each piece before its first step, and free it after its last."""
    begins, ends = [defaultdict[int, list[Life]](list) for _ in range(2)]
    for life in pieces:
        begins[life.begin].append(life)
        ends[life.end].append(life)
    for step in sorted({*begins, *ends}):
        for life in begins[step]:
            memory.allocate(life.name, life.size)
        for life in ends[step]:
            memory.free(life.name)


def shared_memory(graph: Graph, *, planned: bool = False) -> dict[str, str]:
    """Return, for tensors without memory of their own, the tensor whose memory they use.

    Args:
        graph: the model.
        planned: as ONNX Runtime plans before the run: a tensor also takes the memory of a dead one of its shape,
            which therefore stays allocated in between (core/framework/allocation_planner.cc).
    """
    last = {name: i for i, (reads, writes) in enumerate(graph.steps) for name in (*reads, *writes)}
    last |= dict.fromkeys(graph.outputs, len(graph.steps))
    place: dict[str, str] = {}
    dead: list[str] = []
    for index in range(len(graph.operators)):
        reads, writes = graph.steps[index]
        for name in writes:
            under = _taken_over(graph, index, name, place, last)
            if under is None and planned and name not in graph.outputs:
                under = next((each for each in dead if graph.shapes[each] == graph.shapes[name]), None)
            if under is not None:
                place[name] = under
                last[under] = max(last[under], last[name])
                dead = [each for each in dead if each != under]
        ended = {place.get(name, name) for name in (*reads, *writes)}
        own = sorted(each for each in ended if each in graph.sizes and each not in graph.inputs)
        dead[:0] = [each for each in own if last[each] == index]
    return place


def _taken_over(
    graph: Graph, index: int, name: str, place: Mapping[str, str], last: Mapping[str, int]
) -> str | None:
    """Return the input whose memory an operator's first output takes over, None if it has its own."""
    kind, (reads, writes) = graph.operators[index], graph.steps[index]
    if name != writes[0]:
        return None
    for read in _candidates(kind, reads):
        under = place.get(read, read)
        own = under in graph.sizes and under not in graph.inputs
        fits = graph.sizes.get(under) == graph.sizes[name]
        if own and fits and (kind in VIEWS or last[under] <= index):
            return under
    return None


def _candidates(kind: str, reads: tuple[str, ...]) -> tuple[str, ...]:
    """Return the inputs whose memory an operator's output may take over."""
    if kind in VIEWS:
        return reads[:1]
    if kind == _CONV_SUM:
        return reads[-1:]
    return reads if kind in IN_PLACE else ()


def _fused(graph: Graph) -> Graph:
    """Return the graph with each sum after a convolution fused into it, written over the other summand."""
    if not graph.operators:
        return graph
    maker = {name: index for index, (_, writes) in enumerate(graph.steps) for name in writes}
    reads = Counter(name for names, _ in graph.steps for name in names) + Counter(graph.outputs)
    steps: list[tuple[tuple[str, ...], tuple[str, ...]] | None] = list(graph.steps)
    operators = list(graph.operators)
    for index, kind in enumerate(graph.operators):
        names, writes = graph.steps[index]
        for one, other in permutations(names, 2) if kind == "Add" else ():
            at = maker.get(one, index)
            whole = graph.shapes.get(one) == graph.shapes.get(other) and maker.get(other, -1) < at
            if operators[at] == "Conv" and reads[one] == 1 and whole:
                steps[at], steps[index] = ((*graph.steps[at][0], other), writes), None
                operators[at] = _CONV_SUM
                break
    kept = [(step, kind) for step, kind in zip(steps, operators, strict=True) if step]
    return replace(graph, steps=tuple(s for s, _ in kept), operators=tuple(k for _, k in kept))
