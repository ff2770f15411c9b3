"""Requests that are refused: with which status, why, and how to mend them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.dash.model import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.dash.model import Apply


class RequestFault(Exception):  # noqa: N818 -- it carries the document of that name
    """A request that is refused.

    Args:
        status: of HTTP.
        error: what is wrong, in one sentence.
        where: the field or parameter.
        hint: how to mend it.
    """

    def __init__(self, status: int, error: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.fault = Fault(error, where, hint)


def required_plan(asked: Apply) -> Mapping[str, object]:
    """Return the document of a plan that is needed here.

    Raises:
        RequestFault: a change is given instead.
    """
    if asked.plan is None:
        raise RequestFault(
            409,
            "here a plan is needed, and no change",
            where="change",
            hint="ask for the plan of a change with POST /api/v1/what-if and `document`, and send it as `plan`",
        )
    return asked.plan
