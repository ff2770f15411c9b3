from __future__ import annotations

import pytest

from partita.errors import InputError
from partita.perf.measure.course import Cell, Result
from partita.perf.measure.journal import Journal, digest

HEAD = {
    "model": "abc",
    "device": "cpu",
    "inputs": [["x", "float32", [None, 3]]],
    "settings": [],
    "runtime": "1",
}
FIRST = Result(Cell(1, 1), 1.0, 10.0, {"0.5": 1.0}, memory_mb=3.0, memory_source="s", repetitions=7)
SECOND = Result(Cell(1, 2), 1.0)


def test_results_are_there_again(tmp_path):
    path = tmp_path / "j"
    Journal(path, HEAD).add(FIRST)
    again = Journal(path, HEAD)
    again.add(SECOND)
    assert Journal(path, HEAD).results == (FIRST, SECOND)
    again.done()
    assert not path.exists()


def test_a_line_that_was_being_written_is_measured_again(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path, HEAD)
    journal.add(FIRST)
    whole = path.read_bytes()
    journal.add(SECOND)
    for length in range(len(whole), len(path.read_bytes())):
        torn = tmp_path / "torn"
        torn.write_bytes(path.read_bytes()[:length])
        found = Journal(torn, HEAD)
        assert found.results == (FIRST,)
        found.add(SECOND)
        assert torn.read_bytes() == path.read_bytes()


def test_a_file_cut_within_its_first_line_begins_anew(tmp_path):
    path = tmp_path / "j"
    path.write_text('{"head": {"mo')
    assert Journal(path, HEAD).results == ()


@pytest.mark.parametrize(
    ("name", "what"), [("model", "the model's file changed"), ("device", "the device changed")]
)
def test_results_of_something_else_are_refused(tmp_path, name, what):
    path = tmp_path / "j"
    Journal(path, HEAD).add(FIRST)
    with pytest.raises(InputError, match=what) as caught:
        Journal(path, {**HEAD, name: "other"})
    assert f"`rm {path}`" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["[]\n", '{"head": 3}\n', "no JSON\n", '{"x": 1}\n', "\xff\n"])
def test_another_file_is_no_journal(tmp_path, text):
    path = tmp_path / "j"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="no journal"):
        Journal(path, HEAD)


def test_a_journal_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "none" / "j", HEAD).add(FIRST)


def test_a_model_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        digest(tmp_path / "none")
    with pytest.raises(InputError, match="a directory"):
        digest(tmp_path)
