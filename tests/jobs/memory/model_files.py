"""Models on disk as tests make them: a config, and weights of which only the header is there."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]}


def write_weights(path: Path, tensors: dict[str, Any] | None = None) -> Path:
    header = json.dumps({"w": tensor("BF16", 1 << 20)} if tensors is None else tensors).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def write_model(folder: Path, config: object, tensors: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    write_weights(folder / "model.safetensors", tensors)
    return folder
