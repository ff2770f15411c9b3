"""Baseline: every GPU cut into the smallest instances once and for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.jobs.disciplines.board import Board

if TYPE_CHECKING:
    from partita.jobs.disciplines.discipline import Start, State


class StaticOnes:
    """`static-ones`: in order of arrival; a job that the smallest slice does not hold waits for a whole GPU."""

    def decide(self, state: State) -> tuple[Start, ...]:
        """Return the oldest jobs that fit."""
        board = Board(state)
        smallest = state.gpus[0].gpu.profiles[0].name
        for job in state.waiting:
            if not board.try_start(job, smallest if smallest in job.seconds else job.largest):
                break
        return tuple(board.starts)
