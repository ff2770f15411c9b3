"""What the server and its models say of themselves: metadata, and Triton's configuration, statistics and index.

All are plain data with the field names of the protocol's messages, so that HTTP and gRPC send the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from partita import __version__
from partita.serve.gateway.oip.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.serve.gateway.values import Counted, Model, ServiceStatistics
    from partita.serve.tensors import TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "statistics")
_PLATFORM = "partita"


def server_metadata() -> dict[str, Any]:
    """Return the server's name, version and extensions."""
    return {"name": "partita", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: Model) -> dict[str, Any]:
    """Return a model's name, versions, inputs and outputs, their first size the batch if there is one."""
    return {
        "name": model.service,
        "versions": [VERSION],
        "platform": _PLATFORM,
        "inputs": _tensors(model.inputs),
        "outputs": _tensors(model.outputs),
    }


def model_metadata_and_batch(model: Model) -> dict[str, Any]:
    """Return the same with whether queries are joined and why, as parameters, which HTTP alone has here."""
    return {
        **model_metadata(model),
        "parameters": {
            "batch": _batch(model),
            "batch_reason": model.batching.why,
            "max_batch_size": model.max_batch,
        },
    }


def model_config(model: Model) -> dict[str, Any]:
    """Return a model's configuration as Triton has it: dimensions without the batch, where there is one.

    Among its parameters `batch` says whether queries are joined (`rows`) or not (`none`), and `batch_reason` why.
    """
    free = model.batching.rows
    return {
        "name": model.service,
        "platform": _PLATFORM,
        "backend": _PLATFORM,
        "max_batch_size": model.max_batch if free else 0,
        "input": _dims(model.inputs, free),
        "output": _dims(model.outputs, free),
        **({"dynamic_batching": {}} if free else {}),
        "parameters": {
            "batch": {"string_value": _batch(model)},
            "batch_reason": {"string_value": model.batching.why},
        },
    }


def statistics(found: Iterable[tuple[str, ServiceStatistics]]) -> dict[str, Any]:
    """Return the statistics of services as Triton's statistics extension has them, in nanoseconds."""
    return {"model_stats": [_statistics(name, each) for name, each in found]}


def repository_index(models: Iterable[tuple[str, bool]]) -> list[dict[str, Any]]:
    """Return the names of services with whether each is ready."""
    return [
        {"name": name, "version": VERSION, "state": "READY"}
        if ready
        else {"name": name, "version": VERSION, "state": "UNAVAILABLE", "reason": "no worker is ready for it"}
        for name, ready in models
    ]


def _statistics(name: str, seen: ServiceStatistics) -> dict[str, Any]:
    nothing = {"count": 0, "ns": 0}
    # Reading and writing tensors is part of what a worker measures: there is no time of it to tell apart.
    untold = {"count": seen.success.count, "ns": 0}
    return {
        "name": name,
        "version": VERSION,
        "last_inference": int(seen.last_at * 1000),
        "inference_count": seen.items,
        "execution_count": seen.executions,
        "inference_stats": {
            "success": _counted(seen.success),
            "fail": _counted(seen.fail),
            "queue": _counted(seen.queue),
            "compute_input": untold,
            "compute_infer": _counted(seen.compute),
            "compute_output": untold,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": batch,
                "compute_input": {"count": each.count, "ns": 0},
                "compute_infer": _counted(each),
                "compute_output": {"count": each.count, "ns": 0},
            }
            for batch, each in sorted(seen.batches.items())
        ],
    }


def _counted(value: Counted) -> dict[str, int]:
    return {"count": value.count, "ns": int(value.seconds * 1e9)}


def _batch(model: Model) -> str:
    return "rows" if model.batching.rows else "none"


def _tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]


def _dims(specs: Sequence[TensorSpec], free: bool) -> list[dict[str, Any]]:  # noqa: FBT001 -- private, and named by its callers
    return [
        {
            "name": spec.name,
            "data_type": "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}",
            "dims": list(spec.shape[1:] if free else spec.shape),
            **({"optional": True} if spec.optional else {}),
        }
        for spec in specs
    ]
