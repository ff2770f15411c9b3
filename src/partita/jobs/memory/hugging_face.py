"""Memory of a transformer from its `config.json` and the header of its safetensors files, without its framework."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.files import json_value, read_text
from partita.jobs.memory.allowance import with_allowance
from partita.jobs.memory.training import Optimiser, training_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from partita.jobs.memory.bounds import Bounds

_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_LONGEST_HEADER = 100 * 2**20


@dataclass(frozen=True, slots=True)
class Transformer:
    """What memory depends on: shapes from the config, parameters and bytes from the files' headers."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    parameters: int
    weight_bytes: int

    def kv_bytes_per_token(self, value_bytes: int = 2) -> int:
        """Return the KV cache's bytes for one token: keys and values, layers x KV heads x head size."""
        return 2 * self.layers * self.kv_heads * self.head_dim * value_bytes


@dataclass(frozen=True, slots=True)
class TransformerMemory:
    """`model`, for transformers: weights, optimiser state, activations, KV cache, and an allowance.

    Attributes:
        batch: sequences at a time.
        tokens: of each sequence: in the cache at the end, or trained on at once.
        optimiser: `none` for inference.
    """

    model: Transformer
    batch: int
    tokens: int
    optimiser: Optimiser = "none"

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes.

        The lower bound has one layer's activations where they can be recomputed, the upper one all of them
        (Korthikanti et al., arXiv 2205.05198, section 4.1: s b h (34 + 5 a s / h) bytes a layer in 2-byte values).
        """
        model, s, b = self.model, self.tokens, self.batch
        kept = training_bytes(model.parameters, model.weight_bytes, self.optimiser)
        if self.optimiser == "none":
            kept += model.kv_bytes_per_token() * s * b
            return with_allowance(kept, kept + 4.0 * 2 * s * b * model.hidden)
        layer = s * b * model.hidden * (34.0 + 5.0 * model.heads * s / model.hidden)
        return with_allowance(kept + layer, kept + layer * model.layers)


def read_transformer(config: Path | str, weights: Sequence[Path | str]) -> Transformer:
    """Read a Hugging Face `config.json` and the headers of its safetensors files.

    Raises:
        InputError: a file that is missing or is not what it should be, or a field that is absent.
    """
    try:
        fields = json_value(read_text(config))
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{config}:{error.lineno}") from None
    if not isinstance(fields, dict):
        raise InputError("no JSON object", where=str(config))
    # Models with several parts keep the language model's fields one level down.
    text = fields.get("text_config")
    fields = text if isinstance(text, dict) else fields
    hidden = _whole(fields, config, "hidden_size", "n_embd", "d_model")
    heads = _whole(fields, config, "num_attention_heads", "n_head", "num_heads")
    sizes = [_header(path) for path in weights]
    return Transformer(
        layers=_whole(fields, config, "num_hidden_layers", "n_layer", "num_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_whole(fields, config, "num_key_value_heads")
        if fields.get("num_key_value_heads")
        else heads,
        head_dim=_whole(fields, config, "head_dim") if fields.get("head_dim") else hidden // heads,
        parameters=sum(count for count, _ in sizes),
        weight_bytes=sum(size for _, size in sizes),
    )


def _whole(fields: Mapping[str, Any], where: Path | str, *names: str) -> int:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise InputError(f"no positive whole number {' or '.join(names)}", where=str(where))


def _header(path: Path | str) -> tuple[int, int]:
    """Return the parameters and bytes that a safetensors file's header lists."""
    try:
        with Path(path).open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _LONGEST_HEADER:
                raise InputError("no safetensors file: its header would be too long", where=str(path))
            tensors = {k: v for k, v in json_value(stream.read(length)).items() if k != "__metadata__"}
        counts = [math.prod(tensor["shape"]) for tensor in tensors.values()]
        sizes = [_SIZES.get(tensor["dtype"], 1) for tensor in tensors.values()]
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise InputError("no safetensors file: its header cannot be read", where=str(path)) from None
    return sum(counts), sum(count * size for count, size in zip(counts, sizes, strict=True))
