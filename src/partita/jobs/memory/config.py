"""The fields of a model's `config.json`, asked for by any of the names that model families give them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.files import json_value, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")

_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where models with several parts keep the language model's fields."""

_SHAPE = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
_DEFAULTS = {
    "gemma": (28, 3072, 16, 16, 256),
    "gemma2": (26, 2304, 8, 4, 256),
    "gemma3_text": (26, 2304, 8, 4, 256),
    "gpt2": (12, 768, 12),
    "llama": (32, 4096, 32),
    "llama4_text": (48, 5120, 40, 8, 128),
    "mistral": (32, 4096, 32, 8),
    "mixtral": (32, 4096, 32, 8),
    "mllama_text_model": (40, 4096, 32, 8),
    "opt": (12, 768, 12),
    "phi": (24, 2048, 32),
    "phi3": (32, 3072, 32),
    "qwen2": (32, 4096, 32, 32),
    "qwen2_vl_text": (80, 8192, 64, 8),
    "qwen2_5_vl_text": (80, 8192, 64, 8),
    "qwen3": (32, 4096, 32, 32, 128),
}
"""Shapes of the classes in transformers, whose nested configs leave out what is as in the class."""

_NESTED_TYPES = {
    "gemma3": "gemma3_text",
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "mllama": "mllama_text_model",
    "paligemma": "gemma",
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "vipllava": "llama",
}
"""What the nested config is where it does not say."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Fields of a model's config, or of a part of it.

    Attributes:
        fields: as the file has them.
        where: the file, and the path to this part in it.
        model_type: which family's rules hold; empty if the config does not say.
        defaults: what holds where a field is absent.
        outer: fields of the whole model, for what its parts share.
    """

    fields: Mapping[str, Any]
    where: str
    model_type: str
    defaults: Mapping[str, int]
    outer: Mapping[str, Any]

    def whole(self, *names: str, default: int | None = None) -> int:
        """Return the first of these fields that is there.

        Raises:
            InputError: it is no positive whole number, or there is none and no default.
        """
        for name in names:
            value = self.fields.get(name)
            if value is None:
                continue
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
            raise InputError(f"{name} is {value!r}, no positive whole number", where=self.where)
        found = next((self.defaults[name] for name in names if name in self.defaults), default)
        if found is None:
            raise InputError(f"no positive whole number {' or '.join(names)}", where=self.where)
        return found

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a field that is true or false.

        Raises:
            InputError: it is neither.
        """
        value = self.fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"{name} is {value!r}, neither true nor false", where=self.where)
        return value

    def sequence(self, name: str, length: int | None = None) -> list[Any] | None:
        """Return a field that is a list, or a text as the list of its characters; None if it is absent.

        Raises:
            InputError: it is something else, or has another length than the model has layers.
        """
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, list | str):
            raise InputError(f"{name} is no list", where=self.where)
        if length is not None and len(value) != length:
            raise InputError(f"{name} has {len(value)} entries for {length} layers", where=self.where)
        return list(value)

    def part(self, name: str) -> ModelConfig:
        """Return a part of the config, an empty one if it is absent.

        Raises:
            InputError: it is no object.
        """
        value = self.fields.get(name, {})
        if not isinstance(value, dict):
            raise InputError(f"{name} is no object", where=self.where)
        kind = value.get("model_type") or _NESTED_TYPES.get(self.model_type, "")
        return _config(value, f"{self.where}: {name}", kind, _defaults(kind), self.outer)

    def shared(self, *names: str) -> Any:  # noqa: ANN401 -- JSON
        """Return the first of these fields that this part or else the whole model has, None if neither has."""
        return next(
            (fields[name] for fields in (self.fields, self.outer) for name in names if fields.get(name)), None
        )

    def head_dim(self, heads: int) -> int:
        """Return the size of a head: as the config says, else its share of the hidden size.

        Raises:
            InputError: it does not say, and the heads do not divide the hidden size.
        """
        names = ("head_dim", "attention_head_dim", "kv_channels", "d_kv")
        if any(self.fields.get(name) is not None for name in names) or "head_dim" in self.defaults:
            return self.whole(*names)
        hidden = self.whole(*HIDDEN)
        if hidden % heads:
            raise InputError(f"{heads} heads do not divide the hidden size {hidden}", where=self.where)
        return hidden // heads

    def grouped(self, heads: int, *names: str) -> int:
        """Return the number of key and value heads, all heads where no field says it.

        Raises:
            InputError: they do not divide the heads.
        """
        given = self.whole(*names, default=heads)
        if heads % given:
            raise InputError(f"{names[0]} {given} does not divide {heads} heads", where=self.where)
        return given


def read_config(path: Path | str) -> ModelConfig:
    """Read a `config.json`; of a model with several parts, the language model's fields.

    Raises:
        InputError: it cannot be read, or is no JSON object.
    """
    if not Path(path).exists():
        raise InputError("no such file", where=str(path), hint="name the folder that has the config.json")
    try:
        fields = json_value(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    if not isinstance(fields, dict):
        raise InputError("no JSON object", where=str(path))
    kind = fields.get("model_type")
    return _language(_config(fields, str(path), kind if isinstance(kind, str) else "", {}, fields))


def _language(config: ModelConfig) -> ModelConfig:
    """Return the part that is the language model, the whole if it has none."""
    for name in _TEXT:
        if isinstance(config.fields.get(name), dict) and config.model_type not in _WHOLE:
            return _language(config.part(name))
    return config


_WHOLE = frozenset({"clip", "siglip", "siglip2", "blip", "chinese_clip", "clap", "altclip", "flava"})
"""Models with a text part that generates nothing."""


def _defaults(kind: str) -> dict[str, int]:
    return dict(zip(_SHAPE, _DEFAULTS.get(kind, ()), strict=False))


def _config(
    fields: Mapping[str, Any], where: str, kind: str, defaults: Mapping[str, int], outer: Mapping[str, Any]
) -> ModelConfig:
    # A model of its own has its shape in its file, but for the head size that its class has apart from it.
    defaults = defaults or {k: v for k, v in _defaults(kind).items() if k == "head_dim"}
    return ModelConfig(fields, where, kind, defaults, outer)
