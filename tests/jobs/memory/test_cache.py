"""What each family of models keeps of a sequence, against figures from the papers and published configs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from tests.jobs.memory.model_files import tensor, write_model

from partita.errors import InputError
from partita.jobs.memory.forecasters import forecast_model

if TYPE_CHECKING:
    from pathlib import Path

    from partita.jobs.memory.bounds import ModelForecast

GIB = 2**30
BASE = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
GROUPED = {**BASE, "num_key_value_heads": 8}


def forecast(folder: Path, config: dict[str, Any], *words: str, **tensors: Any) -> ModelForecast:
    return forecast_model(write_model(folder, config, tensors or None), words or ("batch=1,tokens=1024",))


def token(folder: Path, config: dict[str, Any]) -> tuple[int, int]:
    found = forecast(folder, config).facts["kv_bytes_per_token"]
    return found["lower"], found["upper"]


DEEPSEEK = {
    "hidden_size": 2048,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}

TOKENS: dict[str, tuple[dict[str, Any], int]] = {
    "StarCoder": (
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48, "multi_query": True},
        20_480,
    ),
    "BigCode with all heads": (
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48, "multi_query": False},
        983_040,
    ),
    "BigCode by its default": (
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48},
        20_480,
    ),
    "Falcon 7B": (
        {
            "model_type": "falcon",
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "multi_query": True,
        },
        2 * 32 * 64 * 2,
    ),
    "Falcon RW": (
        {
            "model_type": "falcon",
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "multi_query": False,
        },
        2 * 24 * 2048 * 2,
    ),
    "Falcon 7B of old": (
        {"model_type": "RefinedWebModel", "hidden_size": 4544, "n_layer": 32, "n_head": 71},
        2 * 32 * 64 * 2,
    ),
    "Llama 2 7B": ({"model_type": "llama", **BASE}, 512 * 1024),
    "Llama 3 8B": ({"model_type": "llama", **GROUPED}, 128 * 1024),
    "Mixtral": (
        {"model_type": "mixtral", **GROUPED, "num_local_experts": 8, "sliding_window": None},
        128 * 1024,
    ),
    "Mistral Nemo": (
        {
            "model_type": "mistral",
            "hidden_size": 5120,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
        160 * 1024,
    ),
    "Gemma 7B": (
        {
            "model_type": "gemma",
            "hidden_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        },
        2 * 28 * 16 * 256 * 2,
    ),
    "Qwen 3 8B": (
        {
            "model_type": "qwen3",
            "hidden_size": 4096,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
        2 * 36 * 8 * 128 * 2,
    ),
    "Qwen 2.5 with an unused window": (
        {
            "model_type": "qwen2",
            **GROUPED,
            "use_sliding_window": False,
            "sliding_window": 512,
            "max_window_layers": 8,
        },
        128 * 1024,
    ),
    "GPT-2": ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12}, 36_864),
    "GPT-NeoX 20B": (
        {"model_type": "gpt_neox", "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64},
        1_081_344,
    ),
    "OPT": (
        {"model_type": "opt", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32},
        196_608,
    ),
    "BLOOM": ({"model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16}, 98_304),
    "MPT 7B": (
        {
            "model_type": "mpt",
            "d_model": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "attn_config": {"attn_type": "multihead_attention"},
        },
        512 * 1024,
    ),
    "MPT grouped": (
        {
            "model_type": "mpt",
            "d_model": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "attn_config": {"kv_n_heads": 8},
        },
        128 * 1024,
    ),
    "DBRX": (
        {
            "model_type": "dbrx",
            "d_model": 6144,
            "n_layers": 40,
            "n_heads": 48,
            "attn_config": {"kv_n_heads": 8},
        },
        2 * 40 * 8 * 128 * 2,
    ),
    "ChatGLM 3": (
        {
            "model_type": "chatglm",
            "hidden_size": 4096,
            "num_layers": 28,
            "num_attention_heads": 32,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "kv_channels": 128,
        },
        2 * 28 * 2 * 128 * 2,
    ),
    "Jamba": ({"model_type": "jamba", **GROUPED, "attn_layer_period": 8, "attn_layer_offset": 4}, 16_384),
    "Bamba": ({"model_type": "bamba", **GROUPED, "attn_layer_indices": [9, 18, 27]}, 3 * 4096),
    "Granite 4": (
        {
            "model_type": "granitemoehybrid",
            **GROUPED,
            "num_hidden_layers": 4,
            "layer_types": ["mamba", "mamba", "attention", "mamba"],
        },
        4096,
    ),
    "Nemotron-H": (
        {
            "model_type": "nemotron_h",
            "hidden_size": 2688,
            "num_hidden_layers": 6,
            "num_attention_heads": 32,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "hybrid_override_pattern": "MEM*E-",
            "mamba_num_heads": 64,
            "mamba_head_dim": 64,
            "ssm_state_size": 128,
            "n_groups": 8,
        },
        2 * 2 * 128 * 2,
    ),
    "Falcon-H1": (
        {"model_type": "falcon_h1", **GROUPED, "mamba_d_ssm": 3072, "mamba_d_state": 256},
        128 * 1024,
    ),
    "Qwen3-Next": (
        {
            "model_type": "qwen3_next",
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
        },
        12 * 2 * 2 * 256 * 2,
    ),
    "Zamba 2": (
        {
            "model_type": "zamba2",
            "hidden_size": 2560,
            "num_hidden_layers": 6,
            "num_attention_heads": 32,
            "hybrid_layer_ids": [2, 5],
        },
        2 * 2 * 2 * 2560 * 2,
    ),
    "Mamba": ({"model_type": "mamba", "hidden_size": 2048, "num_hidden_layers": 48, "state_size": 16}, 0),
    "T5 11B": (
        {
            "model_type": "t5",
            "d_model": 1024,
            "num_layers": 24,
            "num_decoder_layers": 24,
            "num_heads": 128,
            "d_kv": 128,
        },
        1_572_864,
    ),
    "BART": (
        {
            "model_type": "bart",
            "d_model": 1024,
            "encoder_layers": 12,
            "decoder_layers": 12,
            "decoder_attention_heads": 16,
        },
        49_152,
    ),
    "Whisper": (
        {
            "model_type": "whisper",
            "d_model": 1280,
            "decoder_layers": 4,
            "decoder_attention_heads": 20,
            "max_source_positions": 1500,
        },
        20_480,
    ),
    "Llava": (
        {
            "model_type": "llava",
            "text_config": {"model_type": "llama"},
            "vision_config": {"hidden_size": 1024},
        },
        512 * 1024,
    ),
    "Gemma 3 4B": (
        {
            "model_type": "gemma3",
            "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34},
        },
        2 * 34 * 4 * 256 * 2,
    ),
    "InternVL": (
        {"model_type": "internvl_chat", "llm_config": {"model_type": "internlm2", **GROUPED}},
        128 * 1024,
    ),
    "DeciLM": (
        {"model_type": "deci", **BASE, "num_hidden_layers": 3, "num_key_value_heads_per_layer": [4, 2, 1]},
        2 * 7 * 128 * 2,
    ),
    "Nemotron Super": (
        {
            "model_type": "nemotron-nas",
            **BASE,
            "num_hidden_layers": 2,
            "block_configs": [
                {"attention": {"n_heads_in_group": 8, "no_op": False}},
                {"attention": {"n_heads_in_group": None, "no_op": True}},
            ],
        },
        2 * 4 * 128 * 2,
    ),
    "OpenELM": (
        {
            "model_type": "openelm",
            "num_transformer_layers": 3,
            "model_dim": 1280,
            "head_dim": 64,
            "num_kv_heads": [3, 4, 5],
        },
        2 * 12 * 64 * 2,
    ),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_takes_what_its_family_keeps_of_it(tmp_path, name):
    config, size = TOKENS[name]
    assert token(tmp_path, config) == (size, size)


def test_latent_attention_keeps_the_latent_or_all_it_stands_for(tmp_path):
    assert token(tmp_path, {"model_type": "deepseek_v2", **DEEPSEEK}) == (31_104, 276_480)
    assert token(tmp_path, {"model_type": "kimi_k2", **DEEPSEEK}) == (31_104, 276_480)
    with_indexer = {"model_type": "deepseek_v32", **DEEPSEEK, "index_head_dim": 128}
    assert token(tmp_path, with_indexer) == (31_104 + 27 * 128, 276_480 + 27 * 256)
    with pytest.raises(InputError, match="no positive whole number kv_lora_rank") as caught:
        token(tmp_path, {"model_type": "deepseek_v3", **BASE})
    assert str(caught.value.where).endswith("config.json")


def test_falcon_of_40b_is_kept_grouped_or_with_all_its_heads(tmp_path):
    config = {
        "model_type": "falcon",
        "hidden_size": 8192,
        "num_hidden_layers": 60,
        "num_attention_heads": 128,
    }
    new = {**config, "new_decoder_architecture": True, "num_kv_heads": 8}
    assert token(tmp_path, new) == (2 * 60 * 8 * 64 * 2, 2 * 60 * 128 * 64 * 2)


CASES: dict[str, tuple[dict[str, Any], int, str, int, int, dict[str, float]]] = {
    "StarCoder": (
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48, "multi_query": True},
        15569256448,
        "batch=8,tokens=8192",
        30,
        34,
        {"kv_cache": 1.25},
    ),
    "DeepSeek V2 Lite": (
        {"model_type": "deepseek_v2", **DEEPSEEK},
        15730317721,
        "batch=8,tokens=32768",
        37,
        101,
        {},
    ),
    "Jamba": (
        {"model_type": "jamba", **GROUPED, "attn_layer_period": 8, "attn_layer_offset": 4},
        10737418240,
        "batch=4,tokens=65536",
        24,
        28,
        {"kv_cache": 4.0},
    ),
    "T5": (
        TOKENS["T5 11B"][0],
        11274289152,
        "batch=16,tokens=512",
        45,
        49,
        {"kv_cache": 12.0, "cross_attention_cache": 12.0},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_whole_is_between_its_bounds(tmp_path, name):
    config, parameters, words, lower, upper, parts = CASES[name]
    found = forecast(tmp_path, config, words, w=tensor("BF16", parameters))
    assert lower * GIB < found.bounds().lower
    assert found.bounds().upper < upper * GIB
    for part, size in parts.items():
        assert (found.parts[part].lower, found.parts[part].upper) == (size * GIB, size * GIB)


def test_a_window_bounds_what_is_kept_from_below(tmp_path):
    def kept(config: dict[str, Any], tokens: int) -> tuple[float, float]:
        part = forecast(tmp_path, config, f"batch=1,tokens={tokens}").parts["kv_cache"]
        return part.lower / 4096, part.upper / 4096  # of 8 heads of 128: layers times tokens

    mistral = {"model_type": "mistral", **GROUPED, "sliding_window": 4096}
    assert kept(mistral, 1000) == (32 * 1000, 32 * 1000)
    assert kept(mistral, 8192) == (32 * 4096, 32 * 8192)
    half = {"model_type": "gpt_oss", **GROUPED, "head_dim": 128, "sliding_window": 128}
    assert kept(half, 8192) == (16 * (128 + 8192), 32 * 8192)
    listed = {**half, "layer_types": ["sliding_attention"] * 31 + ["full_attention"]}
    assert kept(listed, 8192) == (31 * 128 + 8192, 32 * 8192)
    sixth = {
        "model_type": "gemma3_text",
        **GROUPED,
        "head_dim": 128,
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
    }
    assert kept(sixth, 8192) == (27 * 1024 + 5 * 8192, 32 * 8192)
    lettered = {"model_type": "exaone4", **GROUPED, "sliding_window": 4096, "sliding_window_pattern": "LLLG"}
    assert kept(lettered, 8192) == (24 * 4096 + 8 * 8192, 32 * 8192)
    later = {
        "model_type": "qwen2",
        **GROUPED,
        "use_sliding_window": True,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }
    assert kept(later, 8192) == (4 * 4096 + 28 * 8192, 32 * 8192)
    griffin = {"model_type": "recurrent_gemma", **GROUPED, "attention_window_size": 2048}
    assert kept(griffin, 8192) == (10 * 2048, 10 * 8192)


def state(found: ModelForecast) -> tuple[float, float]:
    return found.parts["state"].lower, found.parts["state"].upper


def test_a_state_grows_with_the_batch_alone(tmp_path):
    mamba = {
        "model_type": "mamba",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "state_size": 16,
        "expand": 2,
    }
    layer = 48 * 4096
    once = forecast(tmp_path, mamba, "batch=1,tokens=10")
    assert state(once) == (layer * (16 + 3) * 2, layer * (16 + 4) * 4)
    assert state(forecast(tmp_path, mamba, "batch=1,tokens=99999")) == state(once)
    assert state(forecast(tmp_path, mamba, "batch=7,tokens=10"))[0] == 7 * state(once)[0]
    mamba2 = {
        "model_type": "mamba2",
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "num_heads": 128,
        "head_dim": 64,
    }
    mamba2 |= {"state_size": 128, "n_groups": 8, "conv_kernel": 4}
    layer = 8192 * 128 + 3 * (8192 + 2 * 8 * 128)
    assert state(forecast(tmp_path, mamba2))[0] == 64 * layer * 2
    next_ = TOKENS["Qwen3-Next"][0]
    layer = 32 * 128 * 128 + 3 * (2 * 16 * 128 + 32 * 128)
    assert state(forecast(tmp_path, next_))[0] == 36 * layer * 2
    rwkv = {"model_type": "rwkv", "hidden_size": 1024, "num_hidden_layers": 24}
    assert state(forecast(tmp_path, rwkv)) == (24 * 5 * 1024 * 2, 24 * 5 * 1024 * 4)


def test_layers_of_jamba_that_do_not_attend_keep_a_state(tmp_path):
    found = forecast(tmp_path, TOKENS["Jamba"][0], "batch=4,tokens=65536")
    layer = 8192 * (16 + 3)
    assert state(found)[0] == 4 * 28 * layer * 2
    assert "4 of 32 layers attend" in found.notes[0]


def test_a_decoder_attends_to_so_many_tokens_of_its_encoder(tmp_path):
    whisper = TOKENS["Whisper"][0]
    found = forecast(tmp_path, whisper, "batch=2,tokens=448")
    assert found.parts["cross_attention_cache"].upper == 2 * 1500 * 20_480
    told = forecast(tmp_path, TOKENS["BART"][0], "batch=2,tokens=100,encoder_tokens=1000")
    assert told.parts["cross_attention_cache"].upper == 2 * 1000 * 49_152
    assert told.parts["kv_cache"].upper == 2 * 100 * 49_152


def test_a_llama_that_sees_keeps_an_image_across(tmp_path):
    config = {"model_type": "mllama", "text_config": {"model_type": "mllama_text_model"}}
    found = forecast(tmp_path, config, "batch=1,tokens=1000")
    assert found.parts["kv_cache"].upper == 32 * 4096 * 1000
    assert found.parts["cross_attention_cache"].lower == 0
    assert found.parts["cross_attention_cache"].upper == 8 * 4096 * 6404


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "modernbert", "vit", "clip"])
def test_an_encoder_keeps_nothing(tmp_path, model_type):
    config = {
        "model_type": model_type,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    found = forecast(tmp_path, config, "batch=4,tokens=512")
    assert found.parts["kv_cache"].upper == 0
    assert "kv_bytes_per_token" not in found.facts
    if model_type == "bert":
        assert token(tmp_path, {**config, "is_decoder": True}) == (36_864, 36_864)


def test_an_unknown_family_widens_the_bounds_and_says_so(tmp_path):
    found = forecast(tmp_path, {"model_type": "brandnew", **GROUPED, "head_dim": 256}, "batch=2,tokens=100")
    assert found.parts["kv_cache"].lower == 0
    assert found.parts["kv_cache"].upper == 2 * 100 * 2 * 32 * 32 * 256 * 2
    assert found.facts["known"] is False
    assert "model_type brandnew has no rules here" in found.notes[0]
    nameless = forecast(tmp_path, dict(BASE))
    assert (nameless.facts["known"], nameless.parts["kv_cache"].lower) == (False, 0)
    assert forecast(tmp_path, {"model_type": "llama", **GROUPED}).facts["known"] is True


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (
            {"model_type": "llama", **GROUPED, "num_key_value_heads": 5},
            "num_key_value_heads 5 does not divide 32 heads",
        ),
        (
            {"model_type": "llama", **GROUPED, "num_key_value_heads": "8"},
            "num_key_value_heads is '8', not a positive whole",
        ),
        (
            {"model_type": "llama", **GROUPED, "hidden_size": 4097},
            "32 heads do not divide the hidden size 4097",
        ),
        (
            {"model_type": "llama", **GROUPED, "num_hidden_layers": None},
            "no positive whole number num_hidden_layers",
        ),
        (
            {"model_type": "t5", "d_model": 512, "num_layers": 6, "num_heads": 8},
            "no positive whole number d_kv",
        ),
        (
            {"model_type": "jamba", **GROUPED, "attn_layer_period": 4, "attn_layer_offset": 4},
            "attn_layer_offset 4 is not within",
        ),
        ({"model_type": "bamba", **GROUPED, "attn_layer_indices": [40]}, "names layers beyond the 32"),
        (
            {"model_type": "gemma2", **GROUPED, "layer_types": ["full_attention"]},
            "layer_types has 1 entries for 32 layers",
        ),
        (
            {"model_type": "nemotron_h", **GROUPED, "hybrid_override_pattern": "M" * 31 + "?"},
            "an unknown layer '?'",
        ),
        ({"model_type": "granitemoehybrid", **GROUPED}, "no list layer_types"),
        (
            {"model_type": "gpt_bigcode", **BASE, "multi_query": "yes"},
            "multi_query is 'yes', neither true nor false",
        ),
        (
            {"model_type": "mpt", "d_model": 64, "n_layers": 1, "n_heads": 2, "attn_config": []},
            "attn_config is not an object",
        ),
        ({"model_type": "llama", **GROUPED, "torch_dtype": "bfloat15"}, "no dtype 'bfloat15'"),
    ],
)
def test_fields_that_are_missing_or_contradict_are_told_with_their_file(tmp_path, config, what):
    with pytest.raises(InputError, match=re.escape(what)) as caught:
        forecast(tmp_path, config)
    assert "config.json" in str(caught.value.where)


def test_the_type_of_a_value_is_the_configs_the_files_or_what_is_said(tmp_path):
    llama = {"model_type": "llama", **GROUPED}
    half = tensor("BF16", 1000)

    def kept(config: dict[str, Any], *words: str, **tensors: Any) -> float:
        return forecast(tmp_path, config, "batch=1,tokens=1", *words, **tensors).parts["kv_cache"].upper / (
            128 * 1024
        )

    assert kept(llama, w=half) == 1
    assert kept(llama, w=tensor("F32", 1000)) == 2
    assert kept({**llama, "torch_dtype": "float32"}, w=tensor("F32", 1000)) == 2
    assert kept({**llama, "dtype": "float16"}, w=half) == 1
    assert kept(llama, "kv_cache_dtype=fp8", w=half) == 0.5
    assert kept(llama, "dtype=float32", w=half) == 2
    quantised = {**llama, "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}}
    assert kept(quantised, w=tensor("F8_E4M3", 1000)) == 1
    scaled = {**quantised, "quantization_config": {"kv_cache_scheme": {"num_bits": 8}}}
    found = forecast(tmp_path, scaled, w=tensor("F8_E4M3", 1000)).parts["kv_cache"]
    assert found.upper == 2 * found.lower


def test_weights_count_as_they_are_loaded(tmp_path):
    llama = {"model_type": "llama", **GROUPED}

    def weights(config: dict[str, Any], *words: str, **tensors: Any) -> tuple[float, float]:
        part = forecast(tmp_path, config, "batch=1,tokens=1", *words, **tensors).parts["weights"]
        return part.lower, part.upper

    packed = {"q": tensor("I32", 100), "s": tensor("F16", 10)}
    assert weights({**llama, "torch_dtype": "float16"}, **packed) == (420, 420)
    assert weights(llama, "dtype=float32", **packed) == (440, 440)
    assert weights({**llama, "torch_dtype": "float16"}, w=tensor("F32", 100)) == (200, 400)
    assert weights(llama, w=tensor("F4", 101)) == (51, 51)
    assert weights(llama, w={"dtype": "F3", "shape": [100], "data_offsets": [8, 45]}) == (37, 37)


def test_a_large_prompt_is_computed_in_chunks(tmp_path):
    llama = {"model_type": "llama", **GROUPED}
    chunk = forecast(tmp_path, llama, "batch=8,tokens=65536")
    assert chunk.parts["activations"].upper == 8192 * 4096 * 8
    whole = forecast(tmp_path, llama, "batch=8,tokens=65536,prefill=524288")
    assert whole.parts["activations"].upper == 64 * chunk.parts["activations"].upper
