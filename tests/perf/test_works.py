from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from partita.errors import InputError
from partita.perf.estimate import ModelWork
from partita.perf.works import read_works

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "model,gflop,mbytes,weights_mb,precision,kernels,live_mb,source"


def works(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "models.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_work_is_read_with_all_its_columns(tmp_path: Path) -> None:
    path = works(tmp_path, HEADER, "gpt,32,329,496,fp16,242,26.1,a paper")
    assert read_works(path) == (ModelWork("gpt", 32, 329, 496, "fp16", 242, 26.1),)


def test_only_the_work_itself_is_needed(tmp_path: Path) -> None:
    path = works(tmp_path, "model,gflop,mbytes,weights_mb", "gpt,32,329,496")
    assert read_works(path) == (ModelWork("gpt", 32, 329, 496),)
    assert read_works(works(tmp_path, HEADER, "gpt,32,329,496,,,,")) == (ModelWork("gpt", 32, 329, 496),)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["model,gflop,mbytes", "a,1,1"], "models.csv:1: no column 'weights_mb'"),
        ([HEADER.replace("kernels", "kernel"), "a,1,1,1,,,,"], "models.csv:1: unknown column 'kernel'"),
        ([HEADER, "a,x,1,1,,,,"], "models.csv:2: gflop is 'x', not a number"),
        ([HEADER, "a,-1,1,1,,,,"], "models.csv:2: gflop is -1"),
        ([HEADER, "a,0,1,1,,,,"], "models.csv:2: gflop is 0"),
        ([HEADER, "a,1,1,inf,,,,"], "models.csv:2: weights_mb is inf"),
        ([HEADER, ",1,1,1,,,,"], "models.csv:2: model is empty"),
        ([HEADER, "a,1,1,1,,1.5,,"], "models.csv:2: kernels is 1.5"),
        ([HEADER, "a,1,1,1,bf61,,,"], "models.csv:2: unknown precision"),
        ([HEADER, "a,1,1,1,,,,", "a,1,1,1,,,,"], "models.csv:3: model 'a' is there twice"),
        ([HEADER], "models.csv:1: a header and no rows"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_works(works(tmp_path, *lines))
    assert said in str(caught.value)


def test_several_faults_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 faults") as caught:
        read_works(works(tmp_path, HEADER, "a,x,1,1,,,,", "b,1,y,1,,,,"))
    assert "models.csv:3: mbytes is 'y'" in caught.value.what
