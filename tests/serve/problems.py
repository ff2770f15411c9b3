from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from partita.mig.catalogue import gpu_model
from partita.serve.problem import ServingProblem, size_classes
from partita.sim.traffic import Traffic

A100 = gpu_model("a100-40gb").restricted(["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"])
A30 = gpu_model("a30-24gb").restricted(["1g.6gb", "2g.12gb", "4g.24gb"])


def problem(latency: list[list[float]], share: list[float], deadline: float, gpus: int = 1) -> ServingProblem:
    gpu = A30 if len(latency) == 3 else A100
    return ServingProblem(gpu, gpus, np.array(latency), np.array(share), deadline)


def sublinear(gpus: int = 1, batches: int = 8, deadline: float = 4.0) -> ServingProblem:
    """Larger slices are faster, though not as much faster as they are larger."""
    batch = np.arange(1, batches + 1)
    latency = np.array([0.3 + batch / slices**0.8 for slices in (1, 2, 4)])
    return ServingProblem(A30, gpus, latency, np.full(batches, 1 / batches), deadline)


@st.composite
def promises(draw: st.DrawFn, found: ServingProblem) -> ServingProblem:
    """Draw the same problem, perhaps with a promise for each class of batch sizes."""
    if not draw(st.booleans()):
        return found
    quantile = draw(st.sampled_from([0.5, 0.9, 0.99]))
    return replace(found, classes=size_classes(found.share), quantile=quantile)


@st.composite
def random_problems(draw: st.DrawFn) -> tuple[ServingProblem, np.ndarray]:
    """Draw a problem on an A30 and any counts of instances."""
    seconds = st.floats(0.1, 3.0)
    batches = draw(st.integers(1, 5))
    rows = [[draw(seconds) for _ in range(batches)] for _ in range(3)]
    for row in rows:
        if draw(st.booleans()):
            row[-1] = np.inf
    share = np.array([draw(st.floats(0.1, 1.0)) for _ in range(batches)])
    found = draw(promises(problem(rows, (share / share.sum()).tolist(), draw(st.floats(0.5, 4.0)))))
    counts = np.array([draw(st.integers(0, 3)) for _ in range(3)])
    counts[draw(st.integers(0, 2))] += 1
    return found, counts


@st.composite
def exact_problems(draw: st.DrawFn) -> tuple[ServingProblem, np.ndarray, Traffic]:
    """Draw a problem, counts and traffic in eighths of a second: sums have no roundings, and there are many ties."""
    batches = draw(st.integers(1, 4))
    eighths = st.integers(1, 16)
    rows = [[draw(eighths) / 8 for _ in range(batches)] for _ in range(3)]
    for row in rows:
        if draw(st.booleans()):
            row[-1] = np.inf
    share = np.full(batches, 1 / batches)
    found = draw(promises(problem(rows, share.tolist(), draw(st.integers(4, 40)) / 8)))
    counts = np.array([draw(st.integers(0, 3)) for _ in range(3)])
    counts[draw(st.integers(0, 2))] += 1
    gaps = draw(st.lists(st.integers(0, 6), min_size=1, max_size=60))
    sizes = draw(st.lists(st.integers(1, batches), min_size=len(gaps), max_size=len(gaps)))
    return found, counts, Traffic(np.cumsum(gaps) / 8, np.array(sizes))


@st.composite
def traffic(draw: st.DrawFn, batches: int) -> Traffic:
    """Draw up to 60 queries, some of them at the same time."""
    gaps = draw(st.lists(st.one_of(st.just(0.0), st.floats(0.0, 1.5)), min_size=1, max_size=60))
    sizes = draw(st.lists(st.integers(1, batches), min_size=len(gaps), max_size=len(gaps)))
    return Traffic(np.cumsum(gaps), np.array(sizes))
