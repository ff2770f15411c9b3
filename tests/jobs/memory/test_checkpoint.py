"""Which files hold a model's weights, once each."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING

import pytest
from tests.jobs.memory.model_files import tensor, write_model, write_weights

from partita.errors import InputError
from partita.jobs.memory.checkpoint import read_weights
from partita.jobs.memory.forecasters import forecast_model

if TYPE_CHECKING:
    from pathlib import Path


def files(folder: Path, *names: str) -> list[str]:
    for name in names:
        path = folder / name
        if path.suffix == ".safetensors":
            write_weights(path)
        else:
            path.write_bytes(b"x" * 1000)
    return [path.name for path in read_weights(folder).files]


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (
            ("model-00001-of-00001.safetensors", "consolidated.safetensors"),
            ["model-00001-of-00001.safetensors"],
        ),
        (("model.safetensors", "pytorch_model.bin"), ["model.safetensors"]),
        (("model.safetensors", "model.fp16.safetensors"), ["model.safetensors"]),
        (("model.safetensors", "adapter_model.safetensors", "optimizer.bin"), ["model.safetensors"]),
        (
            ("model.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            ["model.safetensors"],
        ),
        (("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"), ["pytorch_model.bin"]),
        (("consolidated.00.pth", "consolidated.01.pth"), ["consolidated.00.pth", "consolidated.01.pth"]),
        (("consolidated.safetensors",), ["consolidated.safetensors"]),
        (("tiny-q4.gguf",), ["tiny-q4.gguf"]),
        (("one.safetensors", "two.safetensors"), ["one.safetensors", "two.safetensors"]),
    ],
)
def test_one_layout_of_the_weights_is_taken(tmp_path, there, taken):
    assert files(tmp_path, *there) == taken


def test_the_index_says_which_files_there_are(tmp_path):
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1], "c": names[1]}}))
    assert files(tmp_path, *names, "consolidated.safetensors", "model-00003-of-00003.safetensors") == names
    (tmp_path / names[1]).unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors is missing") as caught:
        read_weights(tmp_path)
    assert caught.value.where == str(index)
    index.unlink()
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors is missing"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../b.safetensors"}}']
)
def test_an_index_that_makes_no_sense_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"JSON|weight_map") as caught:
        read_weights(tmp_path)
    assert "index.json" in str(caught.value.where)


def test_files_of_pytorch_are_weighed_without_being_loaded(tmp_path):
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"p" * 500)
        archive.writestr("archive/data/0", b"x" * 3000)
        archive.writestr("archive/data/1", b"x" * 70)
    assert read_weights(tmp_path).size == 3070
    assert read_weights(tmp_path).parameters is None
    write_model(
        tmp_path, {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    )
    (tmp_path / "model.safetensors").unlink()
    found = forecast_model(tmp_path, ("batch=1,tokens=1",))
    assert found.parts["weights"].lower == 3070
    assert "a value of the cache is assumed to have 2 bytes" in found.notes[0]
    with pytest.raises(InputError, match="number of parameters"):
        forecast_model(tmp_path, ("batch=1,tokens=1,optimiser=adam",))


def test_the_hubs_cache_is_read_through_its_links(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    write_model(
        blobs, {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    )
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(blobs / name)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("abc")
    for folder in (snapshot, tmp_path):
        assert forecast_model(folder, ("batch=1,tokens=1",)).parts["weights"].lower == 2 << 20
    (blobs / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        forecast_model(snapshot, ("batch=1,tokens=1",))


def test_what_is_no_file_of_weights_is_told(tmp_path):
    with pytest.raises(InputError, match="there are no safetensors files, and no other weights"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    )
    with pytest.raises(InputError, match="a pointer of Git LFS") as caught:
        read_weights(tmp_path)
    assert caught.value.hint == "git lfs pull"
    (tmp_path / "model.safetensors").unlink()
    for name in ("a-q4.gguf", "a-q8.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"several models: a-q4.gguf, a-q8.gguf"):
        read_weights(tmp_path)


def test_all_experts_count(tmp_path):
    experts = {f"experts.{n}": tensor("BF16", 1000) for n in range(8)}
    write_weights(tmp_path / "model.safetensors", experts)
    assert read_weights(tmp_path).size == 16_000
