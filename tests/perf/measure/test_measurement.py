from __future__ import annotations

import os
from pathlib import Path

import pytest

from partita.errors import InputError
from partita.perf.measure.cell import GridPoint, PointResult
from partita.perf.measure.measurement import Grid, MeasurementJournal, digest


def result(batch: int, processes: int = 1, ms: float | None = 1.0) -> PointResult:
    if ms is None:
        return PointResult(GridPoint(processes, batch), 2.0)
    return PointResult(GridPoint(processes, batch), 2.0, 10.0, {"0.5": ms / 2, "0.99": ms})


def cells(course: Grid, *results: PointResult) -> list[tuple[int, int]]:
    return [(cell.batch, cell.processes) for cell in course.remaining(results)]


def test_small_batches_and_one_process_come_first():
    assert cells(Grid((4, 1), 2)) == [(1, 1), (4, 1), (1, 2), (4, 2)]


def test_what_is_done_is_not_done_again():
    assert cells(Grid((1, 2)), result(1)) == [(2, 1)]


def test_nothing_larger_is_tried_once_memory_ran_out():
    course = Grid((1, 2, 4), 2)
    assert cells(course, result(1), result(2, ms=None)) == [(1, 2)]
    assert course.ruled_out(GridPoint(1, 4), [result(2, ms=None)]) == "memory ran out at batch 2, 1 process"


def test_nothing_larger_is_tried_once_the_strictest_quantile_is_too_slow():
    course = Grid((1, 2, 4), 1, max_latency_ms=5.0)
    assert cells(course, result(1), result(2, ms=5.0)) == [(4, 1)]
    assert cells(course, result(1), result(2, ms=5.1)) == []
    assert "2 took 5.1 ms, over --max-latency-ms 5" not in str(
        course.ruled_out(GridPoint(1, 1), [result(2, ms=5.1)])
    )


def test_the_time_left_is_as_the_cells_so_far_took():
    course = Grid((1, 2, 4))
    assert course.seconds_left([], guess=3.0) == 9.0
    assert course.seconds_left([result(1)], guess=3.0) == 4.0


HEAD = {
    "model": "abc",
    "device": "cpu",
    "inputs": [["x", "float32", [None, 3]]],
    "settings": [],
    "runtime": "1",
}
FIRST = PointResult(GridPoint(1, 1), 1.0, 10.0, {"0.5": 1.0}, memory_mb=3.0, memory_source="s", repetitions=7)
SECOND = PointResult(GridPoint(1, 2), 1.0)


def test_results_are_there_again(tmp_path):
    path = tmp_path / "j"
    MeasurementJournal(path, HEAD).add(FIRST)
    again = MeasurementJournal(path, HEAD)
    again.add(SECOND)
    assert MeasurementJournal(path, HEAD).results == (FIRST, SECOND)
    again.done()
    assert not path.exists()


def test_a_line_that_was_being_written_is_measured_again(tmp_path):
    path = tmp_path / "j"
    journal = MeasurementJournal(path, HEAD)
    journal.add(FIRST)
    whole = path.read_bytes()
    journal.add(SECOND)
    for length in range(len(whole), len(path.read_bytes())):
        torn = tmp_path / "torn"
        torn.write_bytes(path.read_bytes()[:length])
        found = MeasurementJournal(torn, HEAD)
        assert found.results == (FIRST,)
        found.add(SECOND)
        assert torn.read_bytes() == path.read_bytes()


def _interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_an_interrupt_while_a_cell_is_written_loses_none(tmp_path, monkeypatch, call):
    """The table has it then, and the same command does not measure it again."""
    path, whole = tmp_path / "j", tmp_path / "whole"
    for each in (FIRST, SECOND):
        journal = MeasurementJournal(path, HEAD)
        with monkeypatch.context() as patch:
            owner = Path if call == "open" else os
            calls = iter((_interrupt, getattr(owner, call)))

            def interrupted(*words, calls=calls):
                return next(calls)(*words)

            patch.setattr(owner, call, interrupted)
            with pytest.raises(KeyboardInterrupt):
                journal.add(each)
        MeasurementJournal(whole, HEAD).add(each)
        assert MeasurementJournal(path, HEAD).results == journal.results
        assert path.read_bytes() == whole.read_bytes()


def test_a_file_cut_within_its_first_line_begins_anew(tmp_path):
    path = tmp_path / "j"
    path.write_text('{"head": {"mo')
    assert MeasurementJournal(path, HEAD).results == ()


@pytest.mark.parametrize(
    ("name", "what"), [("model", "the model's file changed"), ("device", "the device changed")]
)
def test_results_of_something_else_are_refused(tmp_path, name, what):
    path = tmp_path / "j"
    MeasurementJournal(path, HEAD).add(FIRST)
    with pytest.raises(InputError, match=what) as caught:
        MeasurementJournal(path, {**HEAD, name: "other"})
    assert f"`rm {path}`" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["[]\n", '{"head": 3}\n', "no JSON\n", '{"x": 1}\n', "\xff\n"])
def test_another_file_is_no_journal(tmp_path, text):
    path = tmp_path / "j"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="not the journal"):
        MeasurementJournal(path, HEAD)


def test_a_journal_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        MeasurementJournal(tmp_path / "none" / "j", HEAD).add(FIRST)


def test_a_model_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        digest(tmp_path / "none")
    with pytest.raises(InputError, match="a directory"):
        digest(tmp_path)
