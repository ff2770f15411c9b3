"""MLServer's runtime for the emulated model; its settings are made by the benchmark."""

from __future__ import annotations

import time

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.types import (  # type: ignore[import-not-found]
    InferenceRequest,
    InferenceResponse,
    ResponseOutput,
)
from work import SECONDS, to_core  # type: ignore[import-not-found]


class Emulated(MLModel):  # type: ignore[misc]
    """Gives its first input back after 5 ms; one request at a time in each worker."""

    async def load(self) -> bool:
        """Go to its core."""
        to_core()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Work."""
        given = payload.inputs[0]
        time.sleep(SECONDS)  # noqa: ASYNC251 -- a model's compute keeps its worker busy
        output = ResponseOutput(name="OUTPUT0", shape=given.shape, datatype=given.datatype, data=given.data)
        return InferenceResponse(model_name=self.name, outputs=[output])
