from __future__ import annotations

import numpy as np
import pytest
from tests.serve.clients.served import serving


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture
def arrays():
    """A query of batch 2; its strings are empty, not ASCII, and not text at all."""
    return {
        "TEXT": np.array([["grüße, 世界".encode()], [b""]], object),
        "HALF": np.array([[0.5, -1.25, 65504.0, 6e-8], [1.0, 2.0, np.inf, -0.0]], np.float16),
        "WHOLE": np.array([[2**62, -(2**63)], [0, 2**63 - 1]], np.int64),
    }
