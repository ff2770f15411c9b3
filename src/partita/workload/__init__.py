"""The user's document: GPUs, services with SLOs, measurements to plan with (pydantic, at the edge only)."""

from partita.workload.model import LimitsSpec, ModelSpec, PoolSpec, ServiceSpec, Slo, Workload

__all__ = ["LimitsSpec", "ModelSpec", "PoolSpec", "ServiceSpec", "Slo", "Workload"]
