"""Asks a model whether its rows influence each other: the same rows are run apart and together.

A name of a dimension says what its author meant, not what the model does: a recurrent net over a first dimension of
time, a softmax over all rows, or a norm by their mean take any number of rows, and answer each by the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from partita.serve.tensors import ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from partita.serve.tensors import TensorSpec


Feeds: TypeAlias = "dict[str, Any]"
Run: TypeAlias = "Callable[[Feeds], Sequence[Any]]"

MOST_ROWS = 64
"""Rows of the largest batch that is tried: larger ones would take the longer, and show nothing new."""
_SIZES = (8, 16, 32, 64, 128, 224, 1, 3)
"""Sizes of free dimensions, until the model runs: nets of images want many pixels, others want few tokens."""
_LARGE = 100
"""Whole numbers are below 2, which suits masks and kinds of tokens, and then below this where the model takes it."""
_WORDS = (("a", "bc", "", "the quick brown fox", "0"), ("0", "1", "-2.5", "3e2", "7"))
_FINE, _COARSE = (1e-3, 1e-5), (2e-2, 2e-3)
"""Differences that are rounding: of the largest value in the same place of any row, and of the largest of all."""
_SLIGHT = 0.1
"""Of the largest value of an output: a larger difference is no matter of precision."""
_HALF = frozenset({"FP16", "BF16"})
_SUM = re.compile(r"\s*(\w+)\s*\+\s*(\d+)\s*")


class RowDependence(Enum):
    """What the probe has found."""

    APART = "rows do not influence each other"
    SLIGHTLY = "rows influence each other slightly, as where numbers are quantised by their range"
    TOGETHER = "rows influence each other"
    UNKNOWN = "it could not be found out"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the probe has found, and what it saw.

    Attributes:
        finding: what it found.
        why: in words.
        sample: inputs that the model has answered; empty where there were none.
    """

    finding: RowDependence
    why: str
    sample: Mapping[str, Any] = field(default_factory=dict)


class _EndError(Exception):
    """The probe is at its end."""

    def __init__(self, finding: RowDependence, why: str) -> None:
        super().__init__(why)
        self.finding, self.why = finding, why


def probe(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    run: Run,
    *,
    most: int,
    coarse: bool = False,
    seed: int = 0,
) -> ProbeResult:
    """Return whether a model's rows influence each other.

    Random rows, in several numbers and of several kinds, are run in two batches and in one of both. Every output has
    to have the batch as its first size, to be the same both ways and from one run to the next, and to differ between
    some rows: one that never does shows nothing.

    Args:
        inputs: what it takes; the first dimension of each is the one in question.
        outputs: what it gives.
        run: returns the outputs for arrays by the inputs' names.
        most: rows to run together at most; 2 at least.
        coarse: whether it may compute with half precision.
        seed: of the random rows.
    """
    made = _RowProbe(inputs, outputs, run, np.random.default_rng(seed))
    made.tolerance = (
        _COARSE if coarse or any(each.datatype in _HALF for each in (*inputs, *outputs)) else _FINE
    )
    try:
        made.settle()
        slight = made.compare(_trials(min(most, MOST_ROWS)))
    except _EndError as end:
        return ProbeResult(end.finding, end.why, made.sample)
    if slight:
        return ProbeResult(RowDependence.SLIGHTLY, slight, made.sample)
    return ProbeResult(
        RowDependence.APART,
        "its rows do not influence each other, as a probe at its start has shown",
        made.sample,
    )


def _trials(most: int) -> Iterator[tuple[int, int, bool, float]]:
    """Yield the rows of two batches, whether whole numbers are large, and the spread of fractions, 0 for 0 to 1."""
    for first, second, large, spread in (
        (1, 1, False, 1.0),
        (1, 2, True, 0.0),
        (3, 2, True, 1.0),
        (2, 1, False, 10.0),
        (most // 2, most - most // 2, True, 1.0),
    ):
        if first + second <= most:
            yield first, second, large, spread


@dataclass(slots=True)
class _RowProbe:
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    run: Run
    random: np.random.Generator
    tolerance: tuple[float, float] = _FINE
    size: int = _SIZES[0]
    words: tuple[str, ...] = _WORDS[0]
    large: set[str] = field(default_factory=set)
    sample: Feeds = field(default_factory=dict)

    def settle(self) -> None:
        """Find sizes and values that the model takes."""
        why = ""
        for words in _WORDS if any(each.datatype == "BYTES" for each in self.inputs) else _WORDS[:1]:
            for size in _SIZES if any(map(_open, self.inputs)) else _SIZES[:1]:
                self.size, self.words = size, words
                feeds = self._feeds(2, large=False, spread=1.0)
                try:
                    self.run(feeds)
                except Exception as error:  # noqa: BLE001 -- whatever a model says to inputs that it does not take
                    why = why or str(error)
                    continue
                self.sample = feeds
                self._find_large()
                return
        raise _EndError(
            RowDependence.UNKNOWN, f"a probe at its start could not run it on made-up inputs: {_short(why)}"
        )

    def compare(self, trials: Iterator[tuple[int, int, bool, float]]) -> str:
        """Return what differs slightly, empty if nothing does; end the probe at more."""
        slight, differing = "", set[int]()
        for first, second, large, spread in trials:
            feeds = [self._feeds(rows, large=large, spread=spread) for rows in (first, second)]
            apart = [self._outputs(each) for each in feeds]
            again = self._outputs(feeds[0])
            if any(not self._alike(a, b) for a, b in zip(apart[0], again, strict=True)):
                raise _EndError(RowDependence.UNKNOWN, "it does not answer the same query the same way twice")
            both = self._outputs({name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]})
            for at, spec in enumerate(self.outputs):
                pieces = [each[at] for each in apart]
                slight = self._difference(spec, pieces, both[at]) or slight
                if not _same(both[at], np.repeat(both[at][:1], len(both[at]), axis=0)):
                    differing.add(at)
        for at, spec in enumerate(self.outputs):
            if at not in differing:
                why = f"output {spec.name} is the same for all rows that a probe at its start has made up"
                raise _EndError(RowDependence.UNKNOWN, why)
        return slight

    def _difference(self, spec: TensorSpec, pieces: Sequence[Any], both: Any) -> str:  # noqa: ANN401 -- arrays
        if pieces[0].shape[1:] != both.shape[1:] or pieces[1].shape[1:] != both.shape[1:]:
            shapes = ", ".join(str(list(each.shape)) for each in pieces)
            raise _EndError(
                RowDependence.TOGETHER,
                f"output {spec.name} is {shapes} for rows apart and {list(both.shape)} together",
            )
        wanted = np.concatenate(pieces)
        if self._alike(wanted, both):
            return ""
        rows = [len(each) for each in pieces]
        told = f"output {spec.name} differs for {rows[0]} and {rows[1]} rows apart and together"
        if not _is_measured(both):
            raise _EndError(RowDependence.TOGETHER, told)
        difference, scale = _apart(wanted, both)
        worst = float(np.max(difference))
        told += f", by {worst:.2g} where its largest value is {scale:.2g}"
        if not worst <= _SLIGHT * scale:
            raise _EndError(RowDependence.TOGETHER, told)
        return told

    def _alike(self, wanted: Any, found: Any) -> bool:  # noqa: ANN401 -- arrays
        """Say whether outputs are the same up to rounding."""
        if wanted.shape != found.shape or _same(wanted, found):
            return bool(wanted.shape == found.shape)
        if found.dtype.kind != "f":
            return False
        difference, scale = _apart(wanted, found)
        column = np.max(np.abs(np.nan_to_num(wanted, posinf=0, neginf=0)), axis=0, initial=0.0)
        return bool(np.all(difference <= self.tolerance[0] * column + self.tolerance[1] * scale))

    def _outputs(self, feeds: Feeds) -> list[Any]:
        rows = len(next(iter(feeds.values())))
        try:
            found = list(self.run(feeds))
        except Exception as error:  # noqa: BLE001 -- it has taken two rows, and does not take as many as these
            why = (
                f"a probe at its start could not run it on {rows} row{'s' * (rows > 1)}: {_short(str(error))}"
            )
            raise _EndError(RowDependence.UNKNOWN, why) from None
        for spec, each in zip(self.outputs, found, strict=True):
            if each.shape[:1] != (rows,):
                why = f"output {spec.name} is {list(each.shape)} for {rows} row{'s' * (rows > 1)}"
                raise _EndError(RowDependence.TOGETHER, why)
        return found

    def _find_large(self) -> None:
        """Find which inputs of whole numbers take large ones; others are masks, kinds, or rows of small tables."""
        for spec in self.inputs:
            if spec.datatype.startswith(("INT", "UINT")):
                self.large.add(spec.name)
                try:
                    self.run(self._feeds(2, large=True, spread=1.0))
                except Exception:  # noqa: BLE001 -- then it takes none
                    self.large.discard(spec.name)

    def _feeds(self, rows: int, *, large: bool, spread: float) -> Feeds:
        return {
            each.name: self._array(each, (rows, *self._sizes(each)), large, spread) for each in self.inputs
        }

    def _array(self, spec: TensorSpec, shape: tuple[int, ...], large: bool, spread: float) -> Any:  # noqa: ANN401, FBT001
        if spec.datatype == "BYTES":
            return self.random.choice(np.array(self.words, dtype=object), shape)
        if spec.datatype == "BOOL":
            return self.random.random(shape) < 0.5
        if spec.datatype.startswith("FP"):
            values = self.random.normal(0.0, spread, shape) if spread else self.random.random(shape)
            return values.astype(f"<f{ITEM_BYTES[spec.datatype]}")
        kind = "u" if spec.datatype[0] == "U" else "i"
        below = _LARGE if large and spec.name in self.large else 2
        return self.random.integers(0, below, shape).astype(f"<{kind}{ITEM_BYTES[spec.datatype]}")

    def _sizes(self, spec: TensorSpec) -> list[int]:
        names = spec.symbols or ("",) * len(spec.shape)
        found = []
        for size, name in list(zip(spec.shape, names, strict=True))[1:]:
            more = _SUM.fullmatch(name)  # as `past_sequence_length + 1`
            found.append(size if size >= 0 else self.size + (int(more[2]) if more else 0))
        return found


def _open(spec: TensorSpec) -> bool:
    return -1 in spec.shape[1:]


def _is_measured(array: Any) -> bool:  # noqa: ANN401 -- an array
    """Say whether small differences are a matter of precision: of fractions, and of numbers quantised to a byte."""
    return bool(array.dtype.kind == "f" or (array.dtype.kind in "iu" and array.dtype.itemsize == 1))


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401 -- arrays
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def _apart(wanted: Any, found: Any) -> tuple[Any, float]:  # noqa: ANN401 -- arrays
    """Return by how much numbers differ, infinite where one is none, and the largest finite one."""
    both = np.stack([wanted, found]).astype(np.float64)
    scale = float(np.max(np.abs(both[np.isfinite(both)]), initial=0.0))
    alike = (both[0] == both[1]) | (np.isnan(both[0]) & np.isnan(both[1]))
    with np.errstate(invalid="ignore"):
        difference = np.where(alike, 0.0, np.abs(both[0] - both[1]))
    return np.where(np.isnan(difference), np.inf, difference), scale


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."
