"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from partita.mig import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

# Deadlines are off because the machines that run the tests are shared and noisy.
settings.register_profile(
    "partita", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("partita")

# Whoever runs the tests may have GPUs of their own; tests know the catalogue's alone.
os.environ["PARTITA_CONFIG"] = os.devnull

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the public measurements, which are never copied into the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"public measurements are not at {folder}")
    return folder


@pytest.fixture(autouse=True)
def _catalogue_alone() -> Iterator[None]:
    """Has every test begin with the catalogue's own GPUs, whatever the one before found on its host."""
    catalogue.reset()
    yield
    catalogue.reset()
