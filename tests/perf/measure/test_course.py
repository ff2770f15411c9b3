from __future__ import annotations

from partita.perf.measure.course import Cell, Course, Result


def result(batch: int, processes: int = 1, ms: float | None = 1.0) -> Result:
    if ms is None:
        return Result(Cell(processes, batch), 2.0)
    return Result(Cell(processes, batch), 2.0, 10.0, {"0.5": ms / 2, "0.99": ms})


def cells(course: Course, *results: Result) -> list[tuple[int, int]]:
    return [(cell.batch, cell.processes) for cell in course.remaining(results)]


def test_small_batches_and_one_process_come_first():
    assert cells(Course((4, 1), 2)) == [(1, 1), (4, 1), (1, 2), (4, 2)]


def test_what_is_done_is_not_done_again():
    assert cells(Course((1, 2)), result(1)) == [(2, 1)]


def test_nothing_larger_is_tried_once_memory_ran_out():
    course = Course((1, 2, 4), 2)
    assert cells(course, result(1), result(2, ms=None)) == [(1, 2)]
    assert course.ruled_out(Cell(1, 4), [result(2, ms=None)]) == "memory ran out at batch 2, 1 process"


def test_nothing_larger_is_tried_once_the_strictest_quantile_is_too_slow():
    course = Course((1, 2, 4), 1, max_latency_ms=5.0)
    assert cells(course, result(1), result(2, ms=5.0)) == [(4, 1)]
    assert cells(course, result(1), result(2, ms=5.1)) == []
    assert "2 took 5.1 ms, over --max-latency-ms 5" not in str(
        course.ruled_out(Cell(1, 1), [result(2, ms=5.1)])
    )


def test_the_time_left_is_as_the_cells_so_far_took():
    course = Course((1, 2, 4))
    assert course.seconds_left([], guess=3.0) == 9.0
    assert course.seconds_left([result(1)], guess=3.0) == 4.0
