"""The user's document: GPUs, services with SLOs, measurements to plan with (pydantic, at the edge only)."""

from partita.workload.model import Batches, LimitsSpec, ModelSpec, PoolSpec, ServiceSpec, Slo, Workload
from partita.workload.reading import locating, read_workload, workload_schema

__all__ = [
    "Batches",
    "LimitsSpec",
    "ModelSpec",
    "PoolSpec",
    "ServiceSpec",
    "Slo",
    "Workload",
    "locating",
    "read_workload",
    "workload_schema",
]
