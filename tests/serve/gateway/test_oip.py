"""What models say of themselves: the owner's limit, and whether queries are joined."""

from __future__ import annotations

from dataclasses import replace

from tests.serve.gateway.fake_gateway import ECHO

from partita.serve.gateway.oip import model_config, model_metadata_and_batch
from partita.serve.tensors import Batching, TensorSpec


def test_the_limit_is_the_owners_and_dimensions_leave_the_batch_out() -> None:
    model = replace(ECHO, max_batch=64, batching=Batching(rows=True, most=64, why="it is declared"))
    config = model_config(model)
    assert (config["max_batch_size"], config["input"][0]["dims"], config["dynamic_batching"]) == (64, [4], {})
    assert config["parameters"]["batch"] == {"string_value": "rows"}
    described = model_metadata_and_batch(model)
    assert described["inputs"][0]["shape"] == [-1, 4]
    assert described["parameters"] == {
        "batch": "rows",
        "batch_reason": "it is declared",
        "max_batch_size": 64,
    }


def test_without_a_batch_the_limit_is_0_and_dimensions_are_whole() -> None:
    inputs = (TensorSpec("t", "FP32", (), ()), TensorSpec("o", "FP32", (-1, 2), ("n", ""), optional=True))
    model = replace(ECHO, inputs=inputs, max_batch=0, batching=Batching(why="t of [] does not begin with n"))
    config = model_config(model)
    assert config["max_batch_size"] == 0
    assert [each["dims"] for each in config["input"]] == [[], [-1, 2]]
    assert [each.get("optional", False) for each in config["input"]] == [False, True]
    assert "dynamic_batching" not in config
    assert config["parameters"]["batch_reason"] == {"string_value": "t of [] does not begin with n"}


def test_a_model_that_lists_nothing_is_described_so() -> None:
    described = model_metadata_and_batch(
        replace(ECHO, inputs=(), outputs=(), max_batch=0, batching=Batching())
    )
    assert (described["inputs"], described["outputs"]) == ([], [])
