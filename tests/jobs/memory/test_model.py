from __future__ import annotations

import re
import struct

import pytest
from tests.jobs.memory.model_files import tensor, write_model

from partita.errors import InputError
from partita.jobs.memory.bounds import CONTEXT, WORKSPACES
from partita.jobs.memory.forecasters import forecast_model
from partita.jobs.memory.model import read_transformer

LLAMA_7B = {"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32}
LLAMA_3B = {
    "model_type": "llama",
    "num_hidden_layers": 28,
    "hidden_size": 3072,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def test_a_transformer_is_read_from_config_and_header_alone(tmp_path):
    tensors = {
        "__metadata__": {"format": "pt"},
        "a": tensor("F16", 3, 4),
        "b": tensor("F32", 5),
        "c": tensor("F16"),
    }
    model = read_transformer(write_model(tmp_path, LLAMA_7B, tensors))
    assert (model.weights.parameters, model.weights.size) == (18, 46)
    assert (model.layers, model.hidden, model.heads) == (32, 4096, 32)


def test_inference_needs_weights_and_cache_and_training_its_optimiser(tmp_path):
    write_model(tmp_path, LLAMA_3B, {"w": tensor("BF16", 1000, 1000)})
    serving = forecast_model(tmp_path, ("batch=2,tokens=100",)).bounds()
    assert serving.lower == pytest.approx(2e6 + 200 * 112 * 1024 + CONTEXT)
    assert serving.upper > serving.lower + WORKSPACES - CONTEXT
    training = forecast_model(tmp_path, ("batch=2,tokens=100", "optimiser=adam"))
    assert training.parts["gradients_and_optimiser"].lower == 14e6
    assert training.bounds().lower > 16e6 + CONTEXT
    assert training.bounds().upper > training.bounds().lower


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ({"model_type": "llama"}, "positive whole number"),
        ({**LLAMA_7B, "num_hidden_layers": -1}, "num_hidden_layers"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_with_its_place(tmp_path, config, what):
    with pytest.raises(InputError, match=what) as caught:
        read_transformer(write_model(tmp_path, config))
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**60),
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 8) + b'{"a": 1}',
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content):
    (write_model(tmp_path, LLAMA_7B) / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        read_transformer(tmp_path)


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        (("batch=8",), "tokens is missing", "--with batch=8 --with tokens=2048"),
        (("batch=8,token=4",), "does not depend on 'token'", "did you mean tokens?"),
        (("batch=8,tokens=0",), "'tokens=0' is not a size", "write batch=8"),
        (("batch",), "'batch' is not a size", "write batch=8"),
        (("batch=8,tokens=4", "batch=9"), "batch appears twice", None),
        (("batch=8,tokens=4,optimiser=adan",), "no optimiser 'adan'", "did you mean adam?"),
        (("batch=8,tokens=4,dtype=bfloat15",), "no dtype 'bfloat15'", "did you mean bfloat16?"),
    ],
)
def test_what_is_said_wrongly_is_told_with_the_names_there_are(tmp_path, words, what, hint):
    with pytest.raises(InputError, match=re.escape(what)) as caught:
        forecast_model(write_model(tmp_path, LLAMA_3B), words)
    assert (caught.value.where, caught.value.hint) == ("--with", hint)
