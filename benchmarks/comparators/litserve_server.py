"""LitServe: `python litserve_server.py PORT WORKERS`."""

from __future__ import annotations

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
from work import answer, to_core  # type: ignore[import-not-found]


class Emulated(litserve.LitAPI):  # type: ignore[misc]
    """Decodes, works and encodes in its worker."""

    def setup(self, device: str) -> None:
        """Go to its core."""
        del device
        to_core()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, D102 -- LitServe reads the annotation
        return request

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Work."""
        return dict(answer(request))

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return what is written as JSON."""
        return output


if __name__ == "__main__":
    port, workers = int(sys.argv[1]), int(sys.argv[2])
    server = litserve.LitServer(
        Emulated(api_path="/infer"), accelerator="cpu", devices=1, workers_per_device=workers, fast_queue=True
    )
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="error", generate_client_file=False)
