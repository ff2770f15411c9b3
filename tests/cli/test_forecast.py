"""`partita classify` and `memory`; `submit --like` uses the numbers of `memory`."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest
from tests.jobs.memory.model_files import tensor, write_model

from partita.cli.main import command_line
from partita.cli.submit import _memory as asked_memory
from partita.errors import InputError


def classify(capsys, *arguments: str) -> str:
    command_line()(["classify", *arguments], standalone_mode=False)
    return str(capsys.readouterr().out)


def test_it_tells_the_verdict_and_the_line_that_decided(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text("step 1\n\x1b]0;title\x07Error: out of memory in ops.cu\nexiting with code 1\n")
    found = json.loads(classify(capsys, str(log), "--exit", "1", "-o", "json"))
    assert found == {
        "verdict": "out-of-memory",
        "sure": True,
        "why": "out of GPU memory",
        "line": 2,
        "text": "Error: out of memory in ops.cu",
    }
    shown = classify(capsys, str(log), "--exit", "1")
    assert shown == "out-of-memory\n  why: out of GPU memory\n  line 2: Error: out of memory in ops.cu\n"
    assert json.loads(classify(capsys, str(log), "--exit", "0", "-o", "json"))["verdict"] == "done"


def test_lines_of_a_long_log_are_numbered_from_its_beginning(monkeypatch, capsys):
    text = b"a line of output\n" * 300_000 + b"CUDA out of memory\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    found = json.loads(classify(capsys, "-", "--exit", "1", "-o", "json"))
    assert (found["verdict"], found["line"]) == ("out-of-memory", 300_001)


def test_patterns_and_simulated_instances_are_as_for_the_queue(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text("no room on the card\n")
    assert classify(capsys, str(log), "--exit", "1").startswith("failed\n")
    assert classify(capsys, str(log), "--exit", "1", "--oom-pattern", "no room").startswith("out-of-memory\n")
    log.write_text("Traceback (most recent call last):\nMemoryError\n")
    assert classify(capsys, str(log), "--exit", "1").startswith("failed\n")
    assert classify(capsys, str(log), "--exit", "1", "--simulated").startswith("out-of-memory\n")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [(["nowhere"], "it cannot be read"), ([".", "--oom-pattern", "("], "not a regular expression")],
)
def test_what_cannot_be_done_is_told(arguments, what, capsys):
    from partita.errors import InputError  # noqa: PLC0415 -- used once

    with pytest.raises(InputError, match=what):
        classify(capsys, *arguments, "--exit", "1")


DEEPSEEK = {
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}


def memory(capsys, *arguments: str) -> str:
    command_line()(["memory", *arguments], standalone_mode=False)
    return str(capsys.readouterr().out)


def test_it_prints_the_bounds_and_their_parts(tmp_path, capsys):
    model = write_model(tmp_path, DEEPSEEK, {"w": tensor("BF16", 15_730_317_721)})
    words = ("--with", "batch=8", "--with", "tokens=32768")
    found = json.loads(memory(capsys, str(model), *words, "-o", "json"))
    assert found["kv_bytes_per_token"] == {"lower": 31_104, "upper": 276_480}
    parts = found["parts"].values()
    assert abs(sum(part["lower"] for part in parts) - found["lower"]) <= 2
    assert abs(sum(part["upper"] for part in parts) - found["upper"]) <= 2
    assert set(found["parts"]) == {"weights", "kv_cache", "activations", "overhead"}
    assert (found["model_type"], found["known"], found["kind"]) == ("deepseek_v2", True, "decoder")
    assert found["weight_files"] == ["model.safetensors"]
    # Its upper bound is larger than any slice, and its lower one is not.
    assert (found["slice"], found["slice_of_lower"], found["slice_of_upper"]) == ("7g.80gb", "3g.40gb", None)
    shown = memory(capsys, str(model), *words)
    assert "keys and values of the tokens        7.59 GiB  67.5 GiB" in shown
    assert shown.endswith("on a100-80gb: a job begins on 7g.80gb\n")
    smaller = memory(capsys, str(model), *words, "--gpu", "a30-24gb")
    assert smaller.endswith("on a30-24gb: larger than any slice of a30-24gb\n")


def test_submit_uses_the_same_numbers(tmp_path, capsys):
    model = write_model(tmp_path, {**DEEPSEEK, "model_type": "brandnew"})
    told = json.loads(memory(capsys, str(model), "--with", "batch=2,tokens=512", "-o", "json"))
    asked = asked_memory(None, model, ["batch=2", "tokens=512"])
    assert asked is not None
    assert asked["source"] == "model"
    assert (round(asked["lower"]), round(asked["upper"])) == (told["lower"], told["upper"])
    assert "model_type brandnew has no rules here" in capsys.readouterr().err
    assert any("brandnew" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--with", "batch=8"), "tokens is missing"),
        (("--with", "batch=8,tokens=1", "--gpu", "a100-81gb"), "a100-81gb"),
    ],
)
def test_what_is_missing_is_told(tmp_path, capsys, words, what):
    with pytest.raises(InputError, match=what):
        memory(capsys, str(write_model(tmp_path, DEEPSEEK)), *words)


def test_a_model_that_is_not_there_is_told(tmp_path, capsys):
    with pytest.raises(InputError) as caught:
        memory(capsys, str(tmp_path / "none"), "--with", "batch=1")
    assert "none" in str(caught.value)
    with pytest.raises(InputError, match="this is a part of a model") as caught:
        memory(capsys, str(write_model(tmp_path, DEEPSEEK) / "config.json"), "--with", "batch=1,tokens=1")
    assert caught.value.hint == f"name the folder it is in: {tmp_path}"
