"""The mutation run finds changes, and what it puts into running code is what then runs."""

from __future__ import annotations

import os

from benchmarks.mutation import _apply, explained, mutants

from partita.jobs.restarts import next_attempt
from partita.transition.closure import least_sum


def in_a_fork(question: str, file: str, before: str, after: str) -> bool:
    """Say whether what is asked of the changed code is answered otherwise, without changing it here."""
    (mutant, *_) = [each for each in mutants(file) if (each.before, each.after) == (before, after)]
    answer = eval(question)  # noqa: S307 -- written below
    pid = os.fork()
    if not pid:
        try:
            _apply(mutant)
            os._exit(int(eval(question) != answer))  # noqa: S307 -- written below
        except BaseException:  # noqa: BLE001 -- a fork must never go on as the test run
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


LEAST = "least_sum({0: 2.0, 1: -5.0}, [[], [0]])"


def test_a_change_of_a_function_is_what_runs() -> None:
    assert least_sum({0: 2.0, 1: -5.0}, [[], [0]]) == -3.0
    assert in_a_fork(LEAST, "transition/closure.py", "total += sent", "total -= sent")
    assert not in_a_fork(LEAST, "transition/closure.py", "arc ^ 1", "arc | 1")
    assert least_sum({0: 2.0, 1: -5.0}, [[], [0]]) == -3.0, "nothing is changed outside the fork"


def test_a_change_of_a_constant_reaches_the_defaults_made_of_it() -> None:
    assert next_attempt.__kwdefaults__ == {"most": 4}
    assert in_a_fork("next_attempt.__kwdefaults__", "jobs/restarts.py", "4", "5")


def test_each_kind_of_change_is_made() -> None:
    found = {(each.before, each.after) for each in mutants("transition/closure.py")}
    assert ("node != _SINK", "node == _SINK") in found
    assert ("min((self._room[arc] for arc in path))", "max((self._room[arc] for arc in path))") in found
    assert ("self._room[arc] -= sent", "pass") in found
    assert all(each.before != each.after for each in mutants("transition/closure.py"))


def test_every_reason_is_of_a_change_that_there_is() -> None:
    files = {file for file, *_ in explained()}
    there = {each.key for file in files for each in mutants(file)}
    assert {key for key in explained() if key not in there} == set()
