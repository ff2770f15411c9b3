"""Boards are what Grafana reads: what its own schema knows, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from partita.monitoring.boards import BOARDS, BoardName, grafana_board


def missing(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Return where plain data have what other data lack."""
    if isinstance(wanted, dict):
        lacking = [f"{path}.{key}" for key in wanted if not isinstance(found, dict) or key not in found]
        there = [key for key in wanted if isinstance(found, dict) and key in found]
        return lacking + [each for key in there for each in missing(wanted[key], found[key], f"{path}.{key}")]
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(wanted) != len(found):
            return [path]
        pairs = enumerate(zip(wanted, found, strict=True))
        return [each for at, (one, other) in pairs for each in missing(one, other, f"{path}[{at}]")]
    return [] if wanted == found else [f"{path}: {wanted!r} became {found!r}"]


def through_the_schema(board: dict[str, Any]) -> Any:
    register_default_plugins()
    return json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(json.loads(json.dumps(board)))))


@pytest.mark.parametrize("name", BoardName)
def test_grafana_s_own_schema_keeps_all_of_a_board(name: BoardName) -> None:
    board = grafana_board(name)
    assert missing(board, through_the_schema(board)) == []
    board["panels"][0]["fieldConfig"]["defaults"]["untis"] = "s"
    board["panels"][1]["targets"][0]["exrp"] = "up"
    assert len(missing(board, through_the_schema(board))) == 2


@pytest.mark.parametrize("name", BoardName)
def test_panels_fill_the_width_and_do_not_overlap(name: BoardName) -> None:
    panels = grafana_board(name)["panels"]
    assert [each["title"] for each in panels] == [each.title for each in BOARDS[name][2]]
    taken: set[tuple[int, int]] = set()
    for each in panels:
        at = each["gridPos"]
        assert 0 <= at["x"] <= at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
    assert len({each["id"] for each in panels}) == len(panels)


def test_boards_have_places_of_their_own() -> None:
    assert len({grafana_board(name)["uid"] for name in BoardName}) == len(BoardName)
