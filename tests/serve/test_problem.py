from __future__ import annotations

import numpy as np
import pytest

from partita.perf.table import Measurement
from partita.serve.problem import latency_table


def row(profile: str, batch: int, latency_ms: float, processes: int = 1) -> Measurement:
    return Measurement("m", "a100-40gb", profile, batch, processes, 1.0, latency_ms, "mean")


def test_latency_is_interpolated_between_measured_batches_and_unknown_beyond() -> None:
    rows = [
        row("1g.5gb", 2, 20),
        row("1g.5gb", 4, 60),
        row("2g.10gb", 1, 5),
        row("1g.5gb", 3, 1, processes=2),
    ]
    seen = latency_table(rows, ["1g.5gb", "2g.10gb", "3g.20gb"], 5)
    assert seen[0] == pytest.approx([0.02, 0.02, 0.04, 0.06, np.inf])
    assert seen[1] == pytest.approx([0.005, *[np.inf] * 4])
    assert np.isinf(seen[2]).all()
