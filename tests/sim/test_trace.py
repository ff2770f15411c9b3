from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from partita.errors import InputError
from partita.sim.trace import read_trace

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_a_trace_counts_from_its_first_query_in_any_order(tmp_path: Path) -> None:
    seen = read_trace(written(tmp_path, "batch,seconds\n3,12.5\n1,10\n"))
    assert (seen.arrival.tolist(), seen.batch.tolist()) == ([0.0, 2.5], [1, 3])


def test_azures_requests_become_items_of_so_many_tokens(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,256,0\n2023-11-16 18:17:04.4799600,500,13\n"
    )
    seen = read_trace(written(tmp_path, text))
    assert (seen.arrival.tolist(), seen.batch.tolist()) == (pytest.approx([0.0, 0.5]), [1, 3])
    assert read_trace(tmp_path / "trace.csv", tokens_per_item=100).batch.tolist() == [3, 6]


def test_azures_hour_is_an_hour(shared_data: Path) -> None:
    seen = read_trace(shared_data / "traces" / "azure_llm_2023_conv.csv")
    assert len(seen) == 19_366
    assert 3_400 < seen.arrival[-1] < 3_600


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a,b\n1,2\n", ":1", "no trace has the columns a, b"),
        ("seconds,batch\n", ":1", "no rows"),
        ("seconds,batch\n0,1\n1,0\n", ":3", "batch is 0"),
        ("seconds,batch\n-1,1\n", ":2", "seconds is -1"),
        ("seconds,batch\nnan,1\n", ":2", "seconds is nan"),
        ("seconds,batch\n0,1.5\n", ":2", "batch is 1.5"),
        ("seconds,batch\n0,1e300\n", ":2", "batch is 1e300, more than"),
        ("seconds,batch\n1e300,1\n", ":2", "seconds is 1e300, more than"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,1\n", ":2", "not a date and time"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,0,1\n", ":2", "ContextTokens is 0"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    with pytest.raises(InputError, match=what) as caught:
        read_trace(written(tmp_path, text))
    assert (caught.value.where or "").endswith(where)
