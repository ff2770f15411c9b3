"""MIGM's scheme B: order of arrival, each job on its tightest slice, fission and fusion as it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.jobs.disciplines.board import Board

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import Start, State


class TightestFifo:
    """`tightest-fifo`: no job overtakes another, so none starves."""

    def decide(self, state: State) -> tuple[Start, ...]:
        """Return the oldest jobs, up to the first that does not fit."""
        board = Board(state)
        for job in state.waiting:
            if not board.try_start(job, job.tightest):
                break
        return tuple(board.starts)
