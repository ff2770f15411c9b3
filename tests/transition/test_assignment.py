from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from partita.transition.nearest import Assignment


def best(value: np.ndarray) -> float:
    rows, columns = value.shape
    return max(float(value[range(rows), list(p)].sum()) for p in permutations(range(columns), rows))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 2))
def test_the_total_is_the_greatest_also_after_values_have_fallen(seed: int, rows: int, more: int) -> None:
    draw = np.random.default_rng(seed)
    value = draw.integers(-3, 8, (rows, rows + more)).astype(float)
    assignment = Assignment(value)
    for _ in range(4):
        columns = assignment.columns()
        assert len(set(columns)) == rows
        assert value[range(rows), columns].sum() == best(value)
        for row, column in enumerate(columns):
            if draw.random() < 0.6:
                by = float(draw.integers(0, 6))
                assignment.lower(row, int(column), by)
                value[row, column] -= by
