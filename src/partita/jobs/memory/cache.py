"""The cache and state that a model keeps for each sequence while it generates: rules by `model_type`.

Sources: the configuration and modelling files of transformers, and vLLM's `kv_cache_interface` and
`mamba_utils.MambaStateShapeCalculator`. Where the two runtimes differ, the lower bound is that of the one that keeps
less: a latent of DeepSeek's attention, a window of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from partita.errors import InputError
from partita.jobs.memory.checkpoint import HEADS, HIDDEN, LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from partita.jobs.memory.checkpoint import ModelConfig

Kind = Literal["decoder", "encoder", "encoder-decoder"]


@dataclass(frozen=True, slots=True)
class AttentionLayers:
    """Attention layers, which keep values for each token.

    Attributes:
        layers: how many.
        least: values that a layer keeps for each token, in the runtime that keeps the fewest.
        most: the same in the runtime that keeps the most.
        window: most tokens that a layer must keep; None for all.
    """

    layers: int
    least: int
    most: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class SequenceCache:
    """What is kept for one sequence.

    Attributes:
        kind: an `encoder` generates nothing, and keeps nothing.
        own: layers that keep the sequence's own tokens.
        cross: layers that keep the encoder's tokens, or an image's.
        state: values that do not grow with the tokens, of all layers: the fewest and the most that runtimes keep.
        encoder_tokens: tokens that the encoder always has; None where they are as many as its input.
        notes: what was assumed.
    """

    kind: Kind = "decoder"
    own: tuple[AttentionLayers, ...] = ()
    cross: tuple[AttentionLayers, ...] = ()
    state: tuple[int, int] = (0, 0)
    encoder_tokens: int | None = None
    notes: tuple[str, ...] = ()

    def token(self, *, cross: bool = False) -> tuple[int, int]:
        """Return the least and the most values kept for one token within all windows."""
        layers = self.cross if cross else self.own
        return sum(each.layers * each.least for each in layers), sum(e.layers * e.most for e in layers)

    def values(self, tokens: int, *, cross: bool = False) -> tuple[int, int]:
        """Return the least and the most values kept for `tokens` tokens."""
        layers = self.cross if cross else self.own
        least = sum(each.layers * each.least * min(tokens, each.window or tokens) for each in layers)
        return least, sum(each.layers * each.most for each in layers) * tokens


def cache_of(config: ModelConfig) -> SequenceCache:
    """Return what a model keeps for each sequence, by the rules of its `model_type`.

    A model without rules is assumed to keep between nothing and the keys and values of all heads in every layer.

    Raises:
        InputError: a field that the rules need is missing, or contradicts another.
    """
    rule = _RULES.get(config.model_type)
    return rule(config) if rule is not None else _unknown(config)


def is_known(model_type: str) -> bool:
    """Return whether there are rules for a model type."""
    return model_type in _RULES


def _full(layers: int, kv_heads: int, head_dim: int, window: int | None = None) -> AttentionLayers:
    return AttentionLayers(layers, 2 * kv_heads * head_dim, 2 * kv_heads * head_dim, window)


def _kept(config: ModelConfig) -> int:
    """Return the values that a layer keeps for a token: keys and values of its key and value heads."""
    heads = config.whole(*HEADS)
    return 2 * config.grouped(heads, "num_key_value_heads", "num_kv_heads") * config.head_dim(heads)


def _unknown(config: ModelConfig) -> SequenceCache:
    name = config.model_type or "none"
    note = (
        f"model_type {name} has no rules here: its cache is assumed to be between nothing and the keys and values of "
        "all heads in every layer"
    )
    layers, hidden = config.whole(*LAYERS), config.whole(*HIDDEN)
    heads = config.whole(*HEADS, default=1)
    explicit = config.whole("head_dim", "attention_head_dim", "kv_channels", "d_kv", default=1)
    most = AttentionLayers(layers, 0, 2 * max(heads * explicit, hidden))
    # Room for a state, if it has one: as large as that of a wide Mamba layer.
    both = config.shared("is_encoder_decoder") is True
    cross = (most,) if both else ()
    return SequenceCache(
        "encoder-decoder" if both else "decoder", (most,), cross, (0, layers * hidden * 512), notes=(note,)
    )


# Attention in every layer, in some of them within a window.


def _attention(config: ModelConfig) -> SequenceCache:
    layers = config.whole(*LAYERS)
    kept = _kept(config)
    slides = _slides(config, layers)
    window = _window(config) if any(slides) else None
    if window is None:
        return SequenceCache(own=(AttentionLayers(layers, kept, kept),))
    inside = sum(slides)
    note = f"{inside} of {layers} layers attend to the last {window:,} tokens; the upper bound keeps all"
    own = [AttentionLayers(layers - inside, kept, kept)] if inside < layers else []
    return SequenceCache(own=(*own, AttentionLayers(inside, kept, kept, window)), notes=(note,))


def _window(config: ModelConfig) -> int | None:
    if config.flag("use_sliding_window", default=True) is False:
        return None
    names = ("sliding_window", "attention_window_size", "attention_chunk_size", "window_size")
    if all(config.fields.get(name) is None for name in names):
        return {
            "gemma2": 4096,
            "gemma3_text": 4096,
            "gpt_oss": 128,
            "cohere2": 4096,
            "llama4_text": 8192,
        }.get(config.model_type)
    return config.whole(*names)


_IN_WINDOW = frozenset({"sliding_attention", "chunked_attention", "local", "local_attention", "sliding"})
_PATTERNS = {
    "gemma2": 2,
    "gemma3_text": 6,
    "gpt_oss": 2,
    "cohere2": 4,
    "olmo3": 4,
    "llama4_text": 4,
    "exaone4": 4,
}
_ALL_IN_WINDOW = frozenset({"mistral", "mixtral", "phi3", "phimoe", "starcoder2", "ministral"})


def _slides(config: ModelConfig, layers: int) -> list[bool]:
    """Return for each layer whether it attends to a window."""
    kinds = config.sequence("layer_types", layers)
    if kinds is not None:
        return [kind in _IN_WINDOW for kind in kinds]
    if config.model_type in _ALL_IN_WINDOW:
        return [True] * layers
    if config.model_type in ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"):
        slides = config.flag("use_sliding_window", default=False)
        first = config.whole("max_window_layers", default=layers) if slides else layers
        return [index >= first for index in range(layers)]
    return _patterned(config, layers)


def _patterned(config: ModelConfig, layers: int) -> list[bool]:
    """Return the same for models in which every n-th layer sees all tokens, and the others a window."""
    pattern = config.fields.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:  # such as LLLG: three layers in a window, and one that sees all
        return [pattern[index % len(pattern)] == "L" for index in range(layers)]
    usual = _PATTERNS.get(config.model_type)
    if usual is None:
        return [False] * layers
    each = config.whole("sliding_window_pattern", "_sliding_window_pattern", default=usual)
    return [bool((index + 1) % each) for index in range(layers)]


def _shared_layers(config: ModelConfig) -> SequenceCache:
    """Gemma 3n: the last layers read what earlier ones keep."""
    found = _attention(config)
    layers, sharing = config.whole(*LAYERS), config.whole("num_kv_shared_layers", default=1)
    if config.fields.get("num_kv_shared_layers") in (None, 0):
        return found
    if sharing >= layers:
        raise InputError(f"num_kv_shared_layers {sharing} of {layers} layers", where=config.where)
    note = f"the last {sharing} of {layers} layers share what others keep; in the upper bound they keep their own"
    kept = _kept(config)
    slides = _slides(config, layers)[: layers - sharing]
    window = _window(config)
    own = (
        AttentionLayers(sum(slides), kept, kept, window),
        AttentionLayers(len(slides) - sum(slides), kept, kept),
        AttentionLayers(sharing, 0, kept),
    )
    return SequenceCache(own=own, notes=(*found.notes, note))


def _multi_query(config: ModelConfig) -> SequenceCache:
    heads, layers = config.whole(*HEADS), config.whole(*LAYERS)
    one = config.flag("multi_query", default=True)
    return SequenceCache(own=(_full(layers, 1 if one else heads, config.head_dim(heads)),))


def _falcon(config: ModelConfig) -> SequenceCache:
    heads, layers = config.whole(*HEADS), config.whole(*LAYERS)
    size = config.head_dim(heads)
    new = config.flag("new_decoder_architecture", default=config.model_type == "RefinedWeb")
    if not new:
        return SequenceCache(
            own=(_full(layers, 1 if config.flag("multi_query", default=True) else heads, size),)
        )
    groups = config.grouped(heads, "num_kv_heads", "n_head_kv")
    note = f"{groups} key and value heads; the upper bound has all {heads}, which transformers keeps of this model"
    return SequenceCache(own=(AttentionLayers(layers, 2 * groups * size, 2 * heads * size),), notes=(note,))


def _chatglm(config: ModelConfig) -> SequenceCache:
    heads = config.whole(*HEADS)
    groups = heads
    if config.flag("multi_query_attention", default=False):
        groups = config.grouped(heads, "multi_query_group_num")
    return SequenceCache(own=(_full(config.whole(*LAYERS), groups, config.head_dim(heads)),))


def _mpt(config: ModelConfig) -> SequenceCache:
    heads = config.whole(*HEADS)
    attention = config.part("attn_config")
    groups = attention.grouped(heads, "kv_n_heads")
    if attention.fields.get("attn_type") == "multiquery_attention":
        groups = 1
    return SequenceCache(own=(_full(config.whole(*LAYERS), groups, config.head_dim(heads)),))


def _openelm(config: ModelConfig) -> SequenceCache:
    layers = config.whole("num_transformer_layers")
    groups = config.sequence("num_kv_heads", layers)
    if groups is None or not all(isinstance(each, int) and each > 0 for each in groups):
        raise InputError("num_kv_heads is not a list of positive whole numbers", where=config.where)
    return SequenceCache(own=tuple(_full(1, each, config.whole("head_dim")) for each in groups))


def _by_layer(config: ModelConfig) -> SequenceCache:
    """Models pruned by a search: each layer has its own number of groups, and some have no attention."""
    layers, heads = config.whole(*LAYERS), config.whole(*HEADS)
    size = config.head_dim(heads)
    groups = config.sequence("num_key_value_heads_per_layer", layers)
    if groups is None:
        blocks = config.sequence("block_configs", layers)
        if blocks is None:
            raise InputError("no list num_key_value_heads_per_layer or block_configs", where=config.where)
        inside = [block.get("attention") if isinstance(block, dict) else None for block in blocks]
        each = [a.get("n_heads_in_group") if isinstance(a, dict) else None for a in inside]
        groups = [heads // n if isinstance(n, int) and n > 0 else 0 for n in each]
    if not all(isinstance(each, int) and 0 <= each <= heads for each in groups):
        raise InputError("a layer has no number of key and value heads", where=config.where)
    return SequenceCache(own=(_full(1, sum(groups), size),))


def _cross_layers(config: ModelConfig) -> SequenceCache:
    """Llama 3.2 Vision: some layers attend only to the image, and keep nothing of the text."""
    layers, kept = config.whole(*LAYERS), _kept(config)
    across = config.sequence("cross_attention_layers") or [3, 8, 13, 18, 23, 28, 33, 38]
    vision = config.outer.get("vision_config") or {}
    side = int(vision.get("image_size", 560)) // max(int(vision.get("patch_size", 14)), 1)
    image = (side * side + 1) * int(vision.get("max_num_tiles", 4))
    note = f"the upper bound has one image of {image:,} tokens in each sequence"
    return SequenceCache(
        own=(AttentionLayers(layers - len(across), kept, kept),),
        cross=(AttentionLayers(len(across), 0, kept),),
        encoder_tokens=image,
        notes=(note,),
    )


# Latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).


def _latent(config: ModelConfig) -> SequenceCache:
    layers = config.whole(*LAYERS)
    if config.fields.get("use_mla") is False or config.fields.get("kv_lora_rank") is None:
        if config.fields.get("use_mla") is False:
            return _attention(config)
        raise InputError("no positive whole number kv_lora_rank", where=config.where)
    attention = _latent_layers(config, layers)
    note = (
        "lower bound: the latent that vLLM, SGLang and TensorRT-LLM keep; upper bound: the keys and values of all "
        "heads, as transformers keeps them"
    )
    return SequenceCache(own=(attention,), notes=(note,))


def _latent_layers(config: ModelConfig, layers: int) -> AttentionLayers:
    heads = config.whole(*HEADS)
    rope = config.whole("qk_rope_head_dim", default=64)
    inner = config.whole("qk_nope_head_dim", default=128) + rope
    index = config.whole("index_head_dim") if config.fields.get("index_head_dim") else 0
    latent = config.whole("kv_lora_rank") + rope
    # The indexer of sparse attention keeps its own key, in at least one byte a value.
    whole = heads * (inner + config.whole("v_head_dim", default=128))
    return AttentionLayers(layers, latent + index // 2, max(whole, latent) + index)


# Layers that keep a state beside or instead of attention.


@dataclass(frozen=True, slots=True)
class LayerState:
    """Values of one layer's state: the recurrent one, and the convolution's for one step of its window."""

    recurrent: int
    channels: int
    kernel: int

    def of(self, layers: int) -> tuple[int, int]:
        """Return the least and most values of some layers; runtimes keep all steps of the window, or all but one."""
        least = self.recurrent + self.channels * (self.kernel - 1)
        return layers * least, layers * (least + self.channels)


def _mamba1(config: ModelConfig) -> LayerState:
    hidden = config.whole(*HIDDEN)
    inner = config.whole("intermediate_size", default=hidden * config.whole("expand", default=2))
    return LayerState(
        inner * config.whole("state_size", default=16), inner, config.whole("conv_kernel", default=4)
    )


def _mamba1_inside(config: ModelConfig) -> LayerState:
    """Jamba and Zamba, where `intermediate_size` belongs to other layers."""
    inner = config.whole(*HIDDEN) * config.whole("mamba_expand", default=2)
    return LayerState(
        inner * config.whole("mamba_d_state", default=16), inner, config.whole("mamba_d_conv", default=4)
    )


def _mamba2(config: ModelConfig) -> LayerState:
    hidden = config.whole(*HIDDEN)
    states = config.whole("mamba_d_state", "ssm_state_size", "state_size", default=128)
    groups = config.whole("mamba_n_groups", "mamba_ngroups", "n_groups", default=1)
    kernel = config.whole("mamba_d_conv", "conv_kernel", default=4)
    inner = _mamba2_width(config, hidden)
    return LayerState(inner * states, inner + 2 * groups * states, kernel)


def _mamba2_width(config: ModelConfig, hidden: int) -> int:
    """Return the channels of a Mamba 2 layer: heads times their size, else the expanded hidden size."""
    expanded = hidden * config.whole("mamba_expand", "expand", default=2)
    heads = next((n for n in ("mamba_n_heads", "mamba_num_heads", "num_heads") if config.fields.get(n)), None)
    size = next(
        (n for n in ("mamba_d_head", "mamba_head_dim", "head_dim") if isinstance(config.fields.get(n), int)),
        None,
    )
    if config.fields.get("mamba_d_ssm"):
        return config.whole("mamba_d_ssm")
    if heads and size and (heads != "num_heads" or config.model_type == "mamba2"):
        return config.whole(heads) * config.whole(size)
    return expanded


def _delta(config: ModelConfig) -> LayerState:
    """Gated delta rule (Qwen3-Next): a matrix for each value head."""
    keys = config.whole("linear_num_key_heads", default=16) * config.whole("linear_key_head_dim", default=128)
    values = config.whole("linear_num_value_heads", default=32)
    size = config.whole("linear_value_head_dim", default=128)
    matrix = values * size * config.whole("linear_key_head_dim", default=128)
    return LayerState(matrix, 2 * keys + values * size, config.whole("linear_conv_kernel_dim", default=4))


def _lightning(config: ModelConfig) -> LayerState:
    heads = config.whole(*HEADS)
    return LayerState(heads * config.head_dim(heads) ** 2, 0, 1)


def _gated_lru(config: ModelConfig) -> LayerState:
    width = config.whole("lru_width", default=config.whole(*HIDDEN))
    return LayerState(width, width, config.whole("conv1d_width", default=4))


def _short_convolution(config: ModelConfig) -> LayerState:
    return LayerState(0, config.whole(*HIDDEN), config.whole("conv_L_cache", default=3))


def _only_state(state: Callable[[ModelConfig], LayerState]) -> Callable[[ModelConfig], SequenceCache]:
    def rule(config: ModelConfig) -> SequenceCache:
        return SequenceCache(state=state(config).of(config.whole(*LAYERS)))

    return rule


def _hybrid(
    state: Callable[[ModelConfig], LayerState], attends: Callable[[ModelConfig, int], Sequence[str]]
) -> Callable[[ModelConfig], SequenceCache]:
    """Return the rule of models in which some layers attend and others have a state.

    Args:
        state: of one layer.
        attends: returns for each layer `attention`, `window`, `state`, `both`, or another word if it keeps nothing.
    """

    def rule(config: ModelConfig) -> SequenceCache:
        layers = config.whole(*LAYERS)
        kinds = attends(config, layers)
        whole = sum(kind in ("attention", "both") for kind in kinds)
        inside = sum(kind == "window" for kind in kinds)
        recurrent = sum(kind in ("state", "both") for kind in kinds)
        if not whole + inside + recurrent:
            raise InputError("no layer attends or has a state", where=config.where)
        kept = _kept(config) if whole + inside else 0
        own = [AttentionLayers(whole, kept, kept)] if whole else []
        own += [AttentionLayers(inside, kept, kept, _window(config) or 2048)] if inside else []
        note = f"{whole + inside} of {layers} layers attend, {recurrent} keep a state that does not grow"
        return SequenceCache(own=tuple(own), state=state(config).of(recurrent), notes=(note,))

    return rule


_LAYER_KINDS = {
    "attention": "attention",
    "full_attention": "attention",
    "*": "attention",
    "hybrid": "both",
    "sliding_attention": "window",
    "mamba": "state",
    "mamba2": "state",
    "M": "state",
    "linear_attention": "state",
    "recurrent": "state",
    "conv": "state",
    "moe": "",
    "mlp": "",
    "E": "",
    "-": "",
}


def _named(config: ModelConfig, name: str, layers: int | None) -> list[str] | None:
    """Return the kinds of layers that a field names, None if it is absent.

    Raises:
        InputError: it names another kind.
    """
    given = config.sequence(name, layers)
    if given is None:
        return None
    if strange := next((each for each in given if each not in _LAYER_KINDS), None):
        raise InputError(f"{name} has an unknown layer {strange!r}", where=config.where)
    return [_LAYER_KINDS[each] for each in given]


def _listed(config: ModelConfig, layers: int) -> list[str] | None:
    """Return the kinds of layers from the first list of them, None without one."""
    names = ("layer_types", "layers_block_type", "hybrid_override_pattern")
    return next((kinds for name in names if (kinds := _named(config, name, layers)) is not None), None)


def _all_listed(config: ModelConfig, layers: int) -> list[str]:
    kinds = _listed(config, layers)
    if kinds is None:
        raise InputError(
            "no list layer_types, layers_block_type or hybrid_override_pattern", where=config.where
        )
    return kinds


def _periodic(config: ModelConfig, layers: int) -> list[str]:
    """Jamba: one layer of each period attends."""
    if (kinds := _listed(config, layers)) is not None:
        return kinds
    period = config.whole("attn_layer_period", default=8)
    offset = config.fields.get("attn_layer_offset", 4)
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset < period:
        raise InputError(
            f"attn_layer_offset {offset!r} is not within attn_layer_period {period}", where=config.where
        )
    return ["attention" if index % period == offset else "state" for index in range(layers)]


def _indexed(config: ModelConfig, layers: int) -> list[str]:
    """Bamba lists the layers that attend; Zamba 2 lists those with attention beside their state."""
    if (kinds := _listed(config, layers)) is not None:
        return kinds
    for name, kind in (
        ("attn_layer_indices", "attention"),
        ("full_attn_idxs", "attention"),
        ("hybrid_layer_ids", "both"),
    ):
        given = config.sequence(name)
        if given is None:
            continue
        if not all(isinstance(each, int) and 0 <= each < layers for each in given):
            raise InputError(f"{name} names layers beyond the {layers} there are", where=config.where)
        return [kind if index in given else "state" for index in range(layers)]
    if config.model_type == "bamba":
        return ["state"] * layers
    raise InputError("no list of the layers that attend", where=config.where)


def _every_nth(config: ModelConfig, layers: int) -> list[str]:
    if (kinds := _listed(config, layers)) is not None:
        return kinds
    interval = config.whole("full_attention_interval", default=4)
    return ["state" if (index + 1) % interval else "attention" for index in range(layers)]


def _everywhere(_: ModelConfig, layers: int) -> list[str]:
    return ["both"] * layers


def _griffin(config: ModelConfig, layers: int) -> list[str]:
    given = config.sequence("block_types") or config.sequence("_block_types")
    blocks = given or ["recurrent", "recurrent", "attention"]
    return ["window" if blocks[index % len(blocks)] == "attention" else "state" for index in range(layers)]


def _minimax(config: ModelConfig, layers: int) -> list[str]:
    if (kinds := _listed(config, layers)) is not None:
        return kinds
    given = config.sequence("attn_type_list", layers)
    if given is None:
        raise InputError("no list attn_type_list or layer_types", where=config.where)
    return ["attention" if each == 1 else "state" for each in given]


def _zamba(config: ModelConfig) -> SequenceCache:
    """Zamba: attention over the hidden state and the embedding together, so heads have twice the size."""
    heads = config.whole(*HEADS)
    size = config.whole("attention_head_dim", default=2 * config.whole(*HIDDEN) // heads)
    doubled = replace(config, fields={**config.fields, "head_dim": size})
    first = config.model_type == "zamba"
    return _hybrid(_mamba1_inside if first else _mamba2, _zamba_layers)(doubled)


def _zamba_layers(config: ModelConfig, layers: int) -> list[str]:
    if config.model_type == "zamba2" or config.fields.get("layers_block_type"):
        return _indexed(config, layers)
    period, offset = config.whole("attn_layer_period", default=6), config.fields.get("attn_layer_offset", 4)
    # The first two layers are Mamba, whatever the period.
    return ["both" if index > 1 and index % period == offset else "state" for index in range(layers)]


def _kimi(config: ModelConfig) -> SequenceCache:
    """Kimi Linear: latent attention in some layers, and a matrix for each head in the others."""
    layers, linear = config.whole(*LAYERS), config.part("linear_attn_config")
    full = linear.sequence("full_attn_layers") or []
    heads, size = linear.whole("num_heads"), linear.whole("head_dim")
    state = LayerState(
        heads * size * size, 3 * heads * size, linear.whole("short_conv_kernel_size", default=4)
    )
    own = (_latent_layers(config, len(full)),) if full else ()
    note = f"{len(full)} of {layers} layers attend, the others keep a state that does not grow"
    return SequenceCache(own=own, state=state.of(layers - len(full)), notes=(note,))


def _rwkv(config: ModelConfig) -> SequenceCache:
    layers, hidden = config.whole(*LAYERS), config.whole(*HIDDEN)
    if config.model_type == "rwkv":
        width = config.whole("attention_hidden_size", default=hidden)
        each = 2 * hidden + 3 * width
    else:
        size = config.whole("head_size", "head_dim", default=64)
        each = 2 * hidden + config.whole("attention_hidden_size", default=hidden) * size
    return SequenceCache(state=(layers * each, layers * each))


# Encoders, and decoders that attend to one.


def _encoder(_: ModelConfig) -> SequenceCache:
    return SequenceCache("encoder", notes=("an encoder: it keeps nothing from token to token",))


def _maybe_encoder(config: ModelConfig) -> SequenceCache:
    """BERT and similar models, which can also be decoders."""
    return _attention(config) if config.flag("is_decoder", default=False) else _encoder(config)


def _t5(config: ModelConfig) -> SequenceCache:
    """T5: a head has `d_kv` values, independent of the model's width."""
    layers = config.whole("num_decoder_layers", default=config.whole(*LAYERS))
    attention = _full(layers, config.whole("num_heads", *HEADS), config.whole("d_kv"))
    return SequenceCache("encoder-decoder", (attention,), (attention,))


def _bart(config: ModelConfig) -> SequenceCache:
    layers = config.whole("decoder_layers", "num_decoder_layers", *LAYERS)
    heads = config.whole("decoder_attention_heads", "num_decoder_attention_heads", *HEADS)
    attention = _full(layers, heads, config.head_dim(heads))
    # Whisper has a fixed window of audio.
    fixed = config.whole("max_source_positions") if config.model_type == "whisper" else None
    return SequenceCache("encoder-decoder", (attention,), (attention,), encoder_tokens=fixed)


def _with_decoder(config: ModelConfig) -> SequenceCache:
    """A decoder of another family with an encoder."""
    decoder = config.part("decoder")
    own = _bart(decoder) if decoder.fields.get("decoder_layers") else _attention(decoder)
    layers = sum(each.layers for each in own.own)
    kept = max((each.most for each in own.own), default=0)
    return SequenceCache("encoder-decoder", own.own, (AttentionLayers(layers, kept, kept),))


_ATTENTION = (
    "Yi apertus arcee arctic aria_text aya baichuan biogpt bitnet bloom chameleon codegen cogvlm cohere "
    "cohere2 commandr ctrl deepseek diffllama doge dots1 emu3_text_model ernie4_5 ernie4_5_moe exaone "
    "exaone4 flex_olmo gemma gemma2 gemma3_text glm glm4 glm4_moe glm4v_text gpt2 gpt_neo gpt_neox "
    "gpt_neox_japanese gpt_oss gptj granite granitemoe granitemoeshared grok grok-1 helium "
    "hunyuan_v1_dense hunyuan_v1_moe internlm internlm2 internlm3 jais kosmos llama llama4_text megatron "
    "minicpm minimax_m2 ministral mistral mistral3 mixtral mobilellm moshi nanochat nemotron olmo olmo2 "
    "olmo3 olmoe openai-gpt opt orion persimmon phi phi-msft phi3 phi3_v phi3small phi4_multimodal phi4mm "
    "phimoe qwen qwen2 qwen2_5_omni_text qwen2_5_vl qwen2_5_vl_text qwen2_moe qwen2_vl qwen2_vl_text "
    "qwen3 qwen3_moe qwen3_vl_moe_text qwen3_vl_text seed_oss skywork smollm3 solar stablelm "
    "stablelm_epoch starcoder2 xglm xverse yi"
)
_ENCODERS = (
    "beit blip clip clap convbert convnext deit detr dinov2 dinov2_with_registers distilbert dpt eva flava hubert "
    "layoutlm layoutlmv2 layoutlmv3 longformer modernbert mpnet nomic_bert resnet segformer siglip siglip2 swin "
    "vit wav2vec2 wavlm yolos"
)
_MAYBE_ENCODERS = (
    "albert bert big_bird camembert data2vec-text deberta deberta-v2 electra ernie esm funnel mobilebert "
    "megatron-bert nystromformer rembert roberta roberta-prelayernorm roformer squeezebert xlm-roberta xlm- "
    "roberta-xl xmod"
)
_BARTS = (
    "bart bigbird_pegasus blenderbot blenderbot-small led m2m_100 marian mbart mvp nllb-moe pegasus pegasus_x "
    "plbart prophetnet seamless_m4t speech_to_text whisper xlm-prophetnet"
)

_RULES: dict[str, Callable[[ModelConfig], SequenceCache]] = {
    **dict.fromkeys(_ATTENTION.split(), _attention),
    **dict.fromkeys(_ENCODERS.split(), _encoder),
    **dict.fromkeys(_MAYBE_ENCODERS.split(), _maybe_encoder),
    **dict.fromkeys(_BARTS.split(), _bart),
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5", "switch_transformers", "pop2piano"), _t5),
    **dict.fromkeys(
        ("encoder-decoder", "vision-encoder-decoder", "speech-encoder-decoder", "t5gemma"), _with_decoder
    ),
    **dict.fromkeys(("falcon", "RefinedWeb", "RefinedWebModel"), _falcon),
    **dict.fromkeys(("chatglm", "glm2"), _chatglm),
    **dict.fromkeys(("mpt", "dbrx"), _mpt),
    **dict.fromkeys(
        (
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "deepseek_vl_v2",
            "kimi_k2",
            "minicpm3",
            "glm4_moe_lite",
            "glm_moe_dsa",
        ),
        _latent,
    ),
    "gpt_bigcode": _multi_query,
    "openelm": _openelm,
    **dict.fromkeys(("deci", "nemotron-nas"), _by_layer),
    "gemma3n_text": _shared_layers,
    "mllama_text_model": _cross_layers,
    "jamba": _hybrid(_mamba1_inside, _periodic),
    "zamba": _zamba,
    "zamba2": _zamba,
    "bamba": _hybrid(_mamba2, _indexed),
    "granitemoehybrid": _hybrid(_mamba2, _all_listed),
    "nemotron_h": _hybrid(_mamba2, _all_listed),
    "falcon_h1": _hybrid(_mamba2, _everywhere),
    "qwen3_next": _hybrid(_delta, _every_nth),
    "qwen3_5_text": _hybrid(_delta, _every_nth),
    "qwen3_5_moe_text": _hybrid(_delta, _every_nth),
    "recurrent_gemma": _hybrid(_gated_lru, _griffin),
    "lfm2": _hybrid(_short_convolution, _indexed),
    "lfm2_moe": _hybrid(_short_convolution, _indexed),
    "minimax": _hybrid(_lightning, _minimax),
    "minimax_text_01": _hybrid(_lightning, _minimax),
    "kimi_linear": _kimi,
    "mamba": _only_state(_mamba1),
    "falcon_mamba": _only_state(_mamba1),
    "mamba2": _only_state(_mamba2),
    **dict.fromkeys(("rwkv", "rwkv5", "rwkv6", "rwkv7"), _rwkv),
}
"""The rules for what a model keeps, by `model_type`."""
