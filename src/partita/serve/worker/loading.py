"""How the back-end of a worker is loaded, by its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.serve.worker.spec import EmulatedSpec, OnnxSpec

if TYPE_CHECKING:
    from partita.serve.worker.backend import Backend
    from partita.serve.worker.spec import WorkerSpec


def load(spec: WorkerSpec) -> Backend:
    """Return a worker's back-end with its model loaded.

    Raises:
        InputError: the model does not exist, or cannot be run.
    """
    # Each kind imports only its own modules, as many workers run on a host.
    if isinstance(spec.backend, EmulatedSpec):
        from partita.serve.worker.emulated import EmulatedBackend  # noqa: PLC0415 -- see above

        return EmulatedBackend(spec.backend, spec.seconds, spec.declared)
    if isinstance(spec.backend, OnnxSpec):
        from partita.serve.worker.onnx_runtime import OnnxBackend  # noqa: PLC0415 -- see above

        return OnnxBackend(spec.backend, spec.batch, spec.processes, spec.declared)
    from partita.serve.worker.upstream import UpstreamBackend  # noqa: PLC0415 -- see above

    return UpstreamBackend(
        spec.backend,
        spec.model,
        spec.processes,
        spec.declared,
        hang_timeout_s=spec.hang_timeout_s,
        retry=spec.retry,
    )
