"""Baseline: one job at a time on a whole GPU, in order of arrival, as without MIG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.jobs.disciplines.board import Board

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import Start, State


class Whole:
    """`whole`."""

    def decide(self, state: State) -> tuple[Start, ...]:
        """Return the oldest jobs, one for each GPU that is free."""
        board = Board(state)
        for job in state.waiting:
            if not board.try_start(job, job.largest):
                break
        return tuple(board.starts)
