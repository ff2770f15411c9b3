"""Promises through the real gateway: six planned workloads, emulated workers, arrivals drawn by MLPerf LoadGen."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.gateway_clients import MissingError
from benchmarks.gateway_processes import come_first
from benchmarks.promises_load import Asked, Noise, Seen, first, load, loadgen, noise
from benchmarks.report import table
from benchmarks.scenarios import DATA
from benchmarks.served import serving

if TYPE_CHECKING:
    from collections.abc import Mapping

_TABLES = {"a100-80gb": "parvagpu_a100_80gb.csv", "a100-40gb": "mig_serving_a100.csv"}
_SECONDS = 60.0
_FULL = 0.99
JITTER = 0.05


@dataclass(frozen=True, slots=True)
class Promise:
    """A service: its model, its rate in queries/s, and what is promised; `fields` are further fields of it."""

    model: str
    rate: float
    slo_ms: float
    quantile: float
    fields: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A workload: services by name on GPUs of one model, by its public table."""

    name: str
    gpu: str
    services: Mapping[str, Promise]
    max_processes: int = 1

    def document(self, *, waiting: bool) -> dict[str, Any]:
        """Return it as a document; without waiting, arrivals are constant, as plans had it before."""
        return {
            "apiVersion": "partita/v1",
            "kind": "Workload",
            "performance": [str(DATA / "perf" / _TABLES[self.gpu])],
            "gpus": [{"model": self.gpu}],
            "limits": {"max_processes": self.max_processes},
            "services": [
                {
                    "name": name,
                    "model": each.model,
                    "rate": each.rate,
                    "slo": {"latency_ms": each.slo_ms, **({"quantile": each.quantile} if waiting else {})},
                    **(each.fields or {}),
                }
                for name, each in self.services.items()
            ],
        }

    def at(self, rates: Mapping[str, float]) -> Case:
        """Return it with other rates."""
        return replace(
            self, services={name: replace(each, rate=rates[name]) for name, each in self.services.items()}
        )
