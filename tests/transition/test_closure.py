"""The least sum of a closed set, held to all closed sets of small graphs."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.transition.closure import least_sum

WEIGHTS = st.floats(-100, 100).map(lambda value: round(value, 3)) | st.sampled_from([-0.3, 0.2, -1e-3, 1e-4])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[int, float], list[list[int]]]:
    """Draw weights of up to eight nodes, some without, and what comes before each."""
    size = draw(st.integers(1, 8))
    before = [
        sorted(draw(st.sets(st.integers(0, node - 1), max_size=3))) if node else [] for node in range(size)
    ]
    weights = {node: draw(WEIGHTS) for node in range(size) if draw(st.booleans())}
    return weights, before


def by_all_sets(weights: dict[int, float], before: list[list[int]]) -> float:
    nodes = range(len(before))
    return min(
        sum(weights.get(node, 0.0) for node in chosen)
        for count in range(len(before) + 1)
        for chosen in combinations(nodes, count)
        if all(earlier in chosen for node in chosen for earlier in before[node])
    )


@given(graphs())
def test_it_is_the_least_of_all_closed_sets(graph: tuple[dict[int, float], list[list[int]]]) -> None:
    weights, before = graph
    assert least_sum(weights, before) == pytest.approx(by_all_sets(weights, before), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("weights", "before", "least"),
    [
        ({}, [[]], 0.0),
        ({0: 1.0}, [[]], 0.0),
        ({0: -0.25}, [[]], -0.25),
        ({0: 0.25, 1: -0.5}, [[], [0]], -0.25),  # flows below one count
        ({0: 0.75, 1: -0.5}, [[], [0]], 0.0),
        ({0: 1e-3, 1: -3e-3}, [[], [0]], -2e-3),
        ({0: 1e6, 1: -1e6 - 0.25}, [[], [0]], -0.25),
        ({1: -1.0}, [[], [0]], -1.0),  # what comes before without a weight costs nothing
        ({0: 2.0, 1: -1.5, 2: -1.5}, [[], [0], [0]], -1.0),  # shared by two, paid once
        ({0: 2.0, 1: 2.0, 2: -3.0, 3: -3.0, 4: -0.5}, [[], [], [0], [0, 1], [1]], -2.5),
        ({0: 5.0, 1: -4.0, 2: 1.0, 3: -2.0}, [[], [0], [], [2, 1]], 0.0),
    ],
)
def test_small_graphs(weights: dict[int, float], before: list[list[int]], least: float) -> None:
    assert least_sum(weights, before) == pytest.approx(least, abs=1e-12)


def test_flow_is_sent_back_where_a_first_path_was_wrong() -> None:
    # Two that gain, both after both that cost, one of them after a third cost: the flow must change its way.
    weights = {0: 1.0, 1: 1.0, 2: 1.0, 3: -1.0, 4: -1.0, 5: -1.0}
    before = [[], [], [], [0, 1], [0], [1, 2]]
    assert least_sum(weights, before) == pytest.approx(by_all_sets(weights, before))
    chain: list[list[int]] = [[]] + [[node] for node in range(199)]
    assert least_sum({0: 3.0, 199: -5.0}, chain) == pytest.approx(-2.0)
