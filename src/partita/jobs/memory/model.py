"""The forecast for a model on disk, with given sizes.

A Hugging Face folder is read here, from its `config.json` and the headers of its weights. An ONNX file is read by
`partita.jobs.memory.onnx`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from partita.errors import InputError, nearest
from partita.jobs.memory.bounds import (
    CONTEXT,
    WORKSPACES,
    Bounds,
    ModelForecast,
    Optimiser,
    training_bytes,
    value_bytes,
)
from partita.jobs.memory.cache import SequenceCache, cache_of, is_known
from partita.jobs.memory.checkpoint import (
    HEADS,
    HIDDEN,
    LAYERS,
    ModelConfig,
    ModelWeights,
    read_config,
    read_weights,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from partita.jobs.memory.history import History
    from partita.jobs.queue.record import JobRecord


_TYPES = ("dtype", "kv_cache_dtype")
_OPTIMISER = "optimiser"
_SPELLINGS = {"optimizer": _OPTIMISER, "kv_dtype": "kv_cache_dtype", "torch_dtype": "dtype"}

_PARTS = frozenset({".json", ".safetensors", ".bin", ".pth", ".pt", ".gguf"})

TRANSFORMER_NAMES = ("batch", "tokens", "encoder_tokens", "prefill", *_TYPES, _OPTIMISER)
"""Names that a transformer accepts; `batch` and `tokens` are required."""


@dataclass(frozen=True, slots=True)
class Given:
    """What was given as `NAME=VALUE`.

    Attributes:
        sizes: whole numbers.
        types: bytes of a value, under `dtype` and `kv_cache_dtype`.
        optimiser: `none` for inference.
        option: the option that gave it, for errors.
    """

    sizes: Mapping[str, int]
    types: Mapping[str, float]
    optimiser: Optimiser
    option: str


class ModelForecaster:
    """Partita's own forecaster of models."""

    def forecast(self, job: JobRecord, past: History) -> Bounds:  # noqa: ARG002 -- of the interface
        """Return no bounds: the forecast of a model is stored with the job that was submitted with it."""
        return Bounds()

    def forecast_model(self, model: Path, words: tuple[str, ...], option: str) -> ModelForecast:
        """Return the forecast for an ONNX file, or for a folder with `config.json` and weights.

        Raises:
            InputError: a file cannot be read, or a size is missing, unknown or not a number.
        """
        given = _given(words, option)
        if model.is_dir():
            return _transformer(model, given)
        if not model.exists():
            raise InputError(
                "no such file or folder", where=str(model), hint="name an ONNX file or a model's folder"
            )
        if model.suffix in _PARTS:
            raise InputError(
                "this is a part of a model",
                where=str(model),
                hint=f"name the folder it is in: {model.parent}",
            )
        from partita.jobs.memory.onnx import forecast_graph  # noqa: PLC0415 -- only for ONNX

        if given.types:
            raise InputError(
                f"{next(iter(given.types))} has no effect on an ONNX graph, which has its own types",
                where=given.option,
            )
        return forecast_graph(model, given.sizes, given.optimiser, given.option)


def _transformer(folder: Path, given: Given) -> ModelForecast:
    sizes = given.sizes
    for name in sizes:
        if name not in TRANSFORMER_NAMES:
            close = nearest(name, list(TRANSFORMER_NAMES))
            raise InputError(
                f"a transformer's memory does not depend on {name!r}",
                where=given.option,
                hint=f"did you mean {close}?" if close else f"one of {', '.join(TRANSFORMER_NAMES)}",
            )
    if missing := [name for name in ("batch", "tokens") if name not in sizes]:
        raise InputError(
            f"a transformer's memory is computed for a batch and a number of tokens; {missing[0]} is missing",
            where=given.option,
            hint=f"{given.option} batch=8 {given.option} tokens=2048",
        )
    memory = TransformerMemory(
        read_transformer(folder),
        sizes["batch"],
        sizes["tokens"],
        sizes.get("encoder_tokens"),
        sizes.get("prefill", PREFILL),
        given.optimiser,
        given.types.get("dtype"),
        given.types.get("kv_cache_dtype"),
    )
    return memory.forecast()


def _given(words: Iterable[str], option: str) -> Given:
    sizes: dict[str, int] = {}
    types: dict[str, float] = {}
    optimiser: Optimiser = "none"
    seen: set[str] = set()
    for word in (part for each in words for part in each.split(",") if part.strip()):
        name, _, value = (part.strip() for part in word.rpartition("="))
        name = _SPELLINGS.get(name, name)
        if name in seen:
            raise InputError(f"{name} appears twice", where=option)
        seen.add(name)
        if name == _OPTIMISER:
            optimiser = _optimiser(value, option)
        elif name in _TYPES:
            if value != "auto":
                types[name] = value_bytes(value, option)
        else:
            sizes[name] = _size(word, name, value, option)
    return Given(sizes, types, optimiser, option)


def _size(word: str, name: str, value: str, option: str) -> int:
    if not name or not (value.isascii() and value.isdecimal()) or len(value) > 15 or int(value) < 1:
        raise InputError(f"{word!r} is not a size", where=option, hint="write batch=8")
    return int(value)


def _optimiser(value: str, option: str) -> Optimiser:
    known = get_args(Optimiser)
    if value not in known:
        close = nearest(value, list(known))
        raise InputError(
            f"no optimiser {value!r}",
            where=option,
            hint=f"did you mean {close}?" if close else f"one of {', '.join(known)}",
        )
    return cast("Optimiser", value)


PREFILL = 8192
"""Most tokens that a server is assumed to compute at once; larger prompts are computed in chunks of this size."""

_STATE_BYTES = 4
"""Bytes of a value of a state that a runtime keeps in single precision, whatever the model's type."""


@dataclass(frozen=True, slots=True)
class Transformer:
    """The properties of a transformer that its memory depends on.

    Attributes:
        model_type: the family, empty if the config does not say.
        layers: of the decoder, or of the only stack.
        hidden: values of a token between layers.
        heads: query heads in a layer.
        cache: what is kept for each sequence.
        weights: the files' content.
        value: bytes of a value of the model as it is loaded; None where neither the config nor the files say.
        fp8_cache: whether the checkpoint has scales for a cache of one byte a value.
        longest: tokens that the model was made for; None if the config does not say.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    cache: SequenceCache
    weights: ModelWeights
    value: float | None = None
    fp8_cache: bool = False
    longest: int | None = None

    def kv_bytes_per_token(self, value: float | None = None, *, cross: bool = False) -> Bounds:
        """Return the cache's bytes for one token within all windows; `value` is the bytes of a value in it."""
        least, most = self.cache.token(cross=cross)
        low, high = self.cache_value(value)
        return Bounds(least * low, most * high)

    def cache_value(self, given: float | None = None) -> tuple[float, float]:
        """Return the least and the most bytes of a value in the cache."""
        if given is not None:
            return given, given
        high = self.value or 2.0
        return (1.0 if self.fp8_cache else high), max(high, 2.0)


@dataclass(frozen=True, slots=True)
class TransformerMemory:
    """`model`, for transformers: weights, optimiser state, activations, cache, and an allowance.

    Attributes:
        batch: sequences at a time.
        tokens: of each sequence: in the cache at the end, or trained on at once.
        encoder_tokens: tokens that a decoder attends to beside its own; None for the model's number, else `tokens`.
        prefill: most tokens computed at once while generating.
        optimiser: `none` for inference.
        value: bytes of a value of the model when it is loaded; None for that of the files.
        cache_value: bytes of a value in the cache; None for the model's.
    """

    model: Transformer
    batch: int
    tokens: int
    encoder_tokens: int | None = None
    prefill: int = PREFILL
    optimiser: Optimiser = "none"
    value: float | None = None
    cache_value: float | None = None

    def bounds(self) -> Bounds:
        """Return the bounds of the peak in bytes."""
        return self.forecast().bounds()

    def forecast(self) -> ModelForecast:
        """Return the bounds of each part, and of the whole.

        Raises:
            InputError: training needs the number of parameters, which the weights' files do not give.
        """
        parts = self._serving() if self.optimiser == "none" else self._training()
        parts["overhead"] = Bounds(CONTEXT, WORKSPACES)
        return ModelForecast(parts, self._notes(), self._facts())

    def _weights(self) -> Bounds:
        """Return the bytes of the loaded weights: in the given type, else as stored or as the config says."""
        weights, stored = self.model.weights, float(self.model.weights.size)
        if self.value is not None:
            cast = weights.cast_to(self.value)
            return Bounds(cast, cast)
        said = self.model.value
        if said is None or not weights.by_type or weights.widest_float() == said:
            return Bounds(stored, stored)
        cast = weights.cast_to(said)
        return Bounds(min(stored, cast), max(stored, cast))

    def _serving(self) -> dict[str, Bounds]:
        model, cache = self.model, self.model.cache
        parts = {"weights": self._weights()}
        low, high = model.cache_value(self.cache_value or self.value)
        least, most = cache.values(self.tokens)
        parts["kv_cache"] = Bounds(self.batch * least * low, self.batch * most * high)
        if cache.cross:
            least, most = cache.values(self._encoder_tokens(), cross=True)
            parts["cross_attention_cache"] = Bounds(self.batch * least * low, self.batch * most * high)
        if cache.state[1]:
            few, many = cache.state
            value = self.value or model.value or 2.0
            wide = max(value, _STATE_BYTES)
            parts["state"] = Bounds(self.batch * few * value, self.batch * many * wide)
        parts["activations"] = Bounds(0.0, self._activations())
        return parts

    def _activations(self) -> float:
        """Return the most bytes of activations at once: four times the hidden state, in encoders plus the scores."""
        model, value = self.model, self.value or self.model.value or 2.0
        tokens = self.batch * self.tokens
        if model.cache.kind == "encoder":
            scores = self.batch * model.heads * self.tokens**2
            return value * (4.0 * tokens * model.hidden + scores)
        if model.cache.kind == "encoder-decoder":  # the encoder takes its input as a whole
            return value * 4.0 * (self.batch * self._encoder_tokens()) * model.hidden
        return value * 4.0 * min(tokens, max(self.prefill, self.batch)) * model.hidden

    def _training(self) -> dict[str, Bounds]:
        """Return the parts of training.

        The lower bound has the activations of one layer, as the rest can be recomputed, the upper one those of all
        (Korthikanti et al., arXiv 2205.05198, section 4.1: s b h (34 + 5 a s / h) bytes a layer in 2-byte values).
        """
        model, s, b = self.model, self.tokens, self.batch
        parameters = model.weights.parameters
        if parameters is None:
            raise InputError(
                "the number of parameters, which training depends on, is not known from these files",
                where=str(model.weights.files[0].parent),
                hint="save the model as safetensors",
            )
        weights = self._weights()
        kept = training_bytes(parameters, int(weights.lower), self.optimiser) - weights.lower
        upper = training_bytes(parameters, int(weights.upper), self.optimiser) - weights.upper
        layer = s * b * model.hidden * (34.0 + 5.0 * model.heads * s / model.hidden)
        return {
            "weights": weights,
            "gradients_and_optimiser": Bounds(min(kept, upper), max(kept, upper)),
            "activations": Bounds(layer, layer * model.layers),
        }

    def _encoder_tokens(self) -> int:
        return self.encoder_tokens or self.model.cache.encoder_tokens or self.tokens

    def _notes(self) -> tuple[str, ...]:
        model, notes = self.model, list(self.model.cache.notes)
        if self.optimiser != "none":
            return tuple(notes)
        if model.value is None and self.value is None:
            notes.append("no dtype is given: a value of the cache is assumed to have 2 bytes")
        if model.fp8_cache and self.cache_value is None:
            notes.append(
                "the checkpoint has scales for a cache of 1 byte a value: set kv_cache_dtype if it is used"
            )
        weights = self._weights()
        if weights.lower < weights.upper:
            notes.append(
                "the config's dtype is not that of the files: set dtype to the one they are loaded in"
            )
        if model.cache.kind == "decoder" and self.batch * self.tokens > self.prefill:
            notes.append(
                f"at most {self.prefill:,} tokens are computed at once: set prefill for another number"
            )
        if model.longest is not None and self.tokens > model.longest:
            notes.append(f"the model was made for {model.longest:,} tokens")
        return tuple(notes)

    def _facts(self) -> Mapping[str, object]:
        model = self.model
        facts: dict[str, object] = {
            "kind": model.cache.kind,
            "model_type": model.model_type,
            "known": is_known(model.model_type),
            "parameters": model.weights.parameters,
            "weight_files": [path.name for path in model.weights.files],
        }
        if model.cache.kind != "encoder":
            given = self.cache_value or self.value
            token, cross = (model.kv_bytes_per_token(given, cross=each) for each in (False, True))
            facts["kv_bytes_per_token"] = {"lower": round(token.lower), "upper": round(token.upper)}
            if model.cache.cross:
                facts["cross_attention_bytes_per_encoder_token"] = {
                    "lower": round(cross.lower),
                    "upper": round(cross.upper),
                }
                facts["encoder_tokens"] = self._encoder_tokens()
        return facts


def read_transformer(folder: Path | str) -> Transformer:
    """Read a Hugging Face folder: `config.json` and the headers of the weights beside it.

    A model's folder in the hub's cache works too: the snapshot of `main` is read.

    Raises:
        InputError: a file is missing or has the wrong format, or a field is absent or contradicts another.
    """
    folder = _snapshot(Path(folder))
    return transformer_of(read_config(folder / "config.json"), read_weights(folder))


def transformer_of(config: ModelConfig, weights: ModelWeights) -> Transformer:
    """Return the properties that memory depends on.

    Raises:
        InputError: a field is absent or contradicts another.
    """
    cache = cache_of(config)
    stack = config.part("decoder") if isinstance(config.fields.get("decoder"), dict) else config
    encoder = cache.kind == "encoder"
    stack = stack.part("text_config") if encoder and "text_config" in stack.fields else stack
    longest = config.fields.get("max_target_positions") or config.fields.get("max_position_embeddings")
    return Transformer(
        model_type=config.model_type,
        layers=stack.whole(
            "decoder_layers", *LAYERS, "num_transformer_layers", default=1 if encoder else None
        ),
        hidden=stack.whole(*HIDDEN, "model_dim", default=1024 if encoder else None),
        heads=stack.whole(*HEADS, "decoder_attention_heads", default=1),
        cache=cache,
        weights=weights,
        value=_value(config, weights),
        fp8_cache=_has_cache_scales(config),
        longest=longest if isinstance(longest, int) else None,
    )


def _snapshot(folder: Path) -> Path:
    """Return the folder of files of a model in the hub's cache; any other folder unchanged."""
    main = folder / "refs" / "main"
    if (folder / "config.json").exists() or not main.is_file():
        return folder
    return folder / "snapshots" / main.read_text().strip()


def _value(config: ModelConfig, weights: ModelWeights) -> float | None:
    """Return the bytes of a value as the config says, else those of most weights."""
    said = config.shared("dtype", "torch_dtype")
    if said in (None, "auto"):
        return weights.widest_float()
    return value_bytes(said, f"{config.where}: dtype")


def _has_cache_scales(config: ModelConfig) -> bool:
    quantised = config.shared("quantization_config") or {}
    if not isinstance(quantised, dict):
        raise InputError("quantization_config is not an object", where=config.where)
    return bool(quantised.get("kv_cache_scheme") or quantised.get("kv_cache_quant_algo"))
