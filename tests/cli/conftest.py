"""What tests of several commands use."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pynvml
import pytest
from tests.drive.fake_nvml import FakeNvml

from partita.cli import cluster, daemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class OneAtATime:
    """The simulated NVML, called by many threads as the real one may be."""

    def __init__(self, fake: FakeNvml) -> None:
        self._fake = fake
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Callable[..., object]:
        entry = getattr(self._fake, name)

        def locked(*arguments: object) -> object:
            with self._lock:
                return entry(*arguments)

        return locked


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Three GPUs behind a simulated NVML, on a host of their own: real GPUs have one controller at a time."""
    host = tmp_path / "host"
    host.mkdir()
    for module in (cluster, daemon):
        monkeypatch.setattr(module, "host_folder", lambda: host)
    fake = FakeNvml("a100-40gb", "a100-40gb", "a100-40gb")
    monkeypatch.setattr(pynvml, "nvmlLib", OneAtATime(fake))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return fake
