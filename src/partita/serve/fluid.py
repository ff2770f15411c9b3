"""The fluid model, in which queries are divisible flows. It bounds every router, and prices the sizes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from partita.deadline import Deadline
from partita.milp import INFINITY, Program
from partita.serve.problem import ServingCut, class_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from partita.serve.problem import ServingProblem


_LEAST_PRICE = 1e-3
_ROUNDING = 1e-7
_GAP = 1e-3
"""Relative gap of the integer programs: simulation compares cuts that are closer than this."""
_WATCH = Deadline()  # these programs take milliseconds


@dataclass(frozen=True, slots=True)
class Fluid:
    """Optimum of the fluid model.

    Attributes:
        rate: most queries per second.
        price: what a second of one instance of size k adds to `rate`, shape (K,).
    """

    rate: float
    price: NDArray[np.float64]


def fluid_rate(
    problem: ServingProblem, counts: NDArray[np.int64], *, served: float, margin: float = 1.0
) -> Fluid:
    """Return the largest rate that instances in these counts can serve if queries are divisible.

    Maximise lambda over flows x[b, k] >= 0 with sum_k x[b, k] <= lambda share[b], for each class of batch sizes
    sum x[b, k] >= served lambda sum share[b] over its b, and sum_b x[b, k] latency[k, b] <= counts[k]. At a larger
    rate no router answers that share of each class in time in the long run.

    Args:
        problem: latencies, shares and the deadline.
        counts: instances of each size, shape (K,).
        served: share of the queries of each class that must be answered in time.
        margin: a size takes a batch size only if the latency is within this fraction of the deadline.
    """
    program, _ = _flows(problem, served, margin, counts.astype(np.float64))
    found = program.solve(_WATCH)
    sizes = len(problem.profiles)
    return Fluid(max(0.0, -found.value), np.maximum(0.0, -found.duals[:sizes]))


def fluid_cut(
    problem: ServingProblem, *, served: float, margin: float = 1.0, seconds: float = 5.0
) -> tuple[ServingCut, float]:
    """Return the cut with the largest fluid rate, and an upper bound of the fluid rate of every cut.

    Args:
        problem: what to serve, on how many GPUs.
        served: as for `fluid_rate`.
        margin: as for `fluid_rate`; only with 1 does the bound hold for all routers.
        seconds: time limit of the integer program.
    """
    multisets = problem.multisets
    program, first = _cut_flows(problem, served, margin, float(problem.gpus))
    program.solver.setOptionValue("mip_rel_gap", _GAP)
    found = program.solve(Deadline(time_limit=seconds))
    numbers = np.rint(found.columns[first:]).astype(int)
    chosen = [each for each, n in zip(multisets, numbers, strict=True) for _ in range(n)]
    spare = [multisets[-1]] * (problem.gpus - len(chosen))  # GPUs that do not add to the rate
    return ServingCut.of([*chosen, *spare]), max(0.0, -found.bound)


def fluid_gpus(problem: ServingProblem, rate: float, *, served: float, seconds: float = 5.0) -> int:
    """Return a lower bound of the GPUs that any cut with any router needs for a rate in the long run.

    Args:
        problem: what to serve; its number of GPUs is ignored. Some size must answer that share of queries in time.
        rate: queries per second.
        served: as for `fluid_rate`.
        seconds: time limit of the integer program.
    """
    program, first = _cut_flows(problem, served, 1.0, INFINITY)
    program.hold(np.zeros(1, dtype=np.int32), np.ones(1), rate)
    numbers = np.arange(first, program.width, dtype=np.int32)
    found = program.maximise(numbers, -np.ones(len(numbers)), Deadline(time_limit=seconds))
    return ceil(found.bound * (1 - _ROUNDING) - _ROUNDING)


def _cut_flows(problem: ServingProblem, served: float, margin: float, gpus: float) -> tuple[Program, int]:
    """Return the integer program for `gpus` GPUs, and its first column that counts the GPUs of a multiset."""
    multisets = problem.multisets
    program, rows = _flows(problem, served, margin, np.zeros(len(problem.profiles)))
    row = program.add_rows(np.array([-INFINITY]), np.array([gpus]))
    entries = [
        (np.append(rows, row).astype(np.int32), np.append(-np.array(each, dtype=np.float64), 1.0))
        for each in multisets
    ]
    none, limit = np.zeros(len(multisets)), np.full(len(multisets), gpus)
    return program, program.add_columns(none, limit, entries, integer=True)


def _flows(
    problem: ServingProblem, served: float, margin: float, capacity: NDArray[np.float64]
) -> tuple[Program, NDArray[np.int64]]:
    """Return the program of the flows and its rows of the sizes; lambda is column 0."""
    latency = np.where(problem.latency <= margin * problem.deadline, problem.latency, np.inf)
    sizes, batches = latency.shape
    program = Program()
    first = program.add_rows(np.full(sizes, -INFINITY), capacity)
    each = program.add_rows(np.full(batches, -INFINITY), np.zeros(batches))
    classes = class_of(problem.classes, batches)
    shares = np.bincount(classes, weights=problem.share)
    total = program.add_rows(np.zeros(len(shares)), np.full(len(shares), INFINITY))
    asked = np.concatenate([np.arange(each, each + batches), np.arange(total, total + len(shares))])
    entry = (asked.astype(np.int32), np.concatenate([-problem.share, -served * shares]))
    program.add_columns(np.array([-1.0]), np.array([INFINITY]), [entry])
    ks, bs = np.nonzero(np.isfinite(latency))
    flows = [
        (
            np.array([first + k, each + b, total + classes[b]], dtype=np.int32),
            np.array([latency[k, b], 1.0, 1.0]),
        )
        for k, b in zip(ks, bs, strict=True)
    ]
    program.add_columns(np.zeros(len(flows)), np.full(len(flows), INFINITY), flows)
    return program, np.arange(first, first + sizes)


def second_prices(problem: ServingProblem, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the value of a second of each size relative to the most valuable, at least a thousandth; shape (K,).

    A size with time to spare has a dual of zero; the minimum keeps the order by latency among such sizes.
    """
    price = fluid_rate(problem, counts, served=problem.quantile).price
    dearest = price.max()
    return np.maximum(price / dearest, _LEAST_PRICE) if dearest > 0 else np.ones(len(price))
