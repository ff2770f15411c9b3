"""`partita top`, driven by Textual's pilot, over the API of a cluster of random GPUs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands
from tests.dash.browser import Served
from tests.dash.random_cluster import RandomSource
from textual.widgets import DataTable, Static

from partita.cli import top
from partita.cli.top import ApiClient
from partita.cli.top_screen import TopApp
from partita.errors import PartitaError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("width", [80, 160])
def test_fleet_services_and_a_filter(width: int) -> None:
    async def drive(app: TopApp) -> None:
        async with app.run_test(size=(width, 30)) as pilot:
            await pilot.pause()
            table = app.query_one(DataTable)
            assert table.row_count == 16
            assert "16 shown" in str(app.query_one("#head", Static).render())
            await pilot.press("s")
            await pilot.pause()
            assert [str(table.get_row_at(i)[0]) for i in range(table.row_count)] == ["chat", "search"]
            await pilot.press("slash", *"sea", "enter")
            await pilot.pause()
            assert [str(table.get_row_at(i)[0]) for i in range(table.row_count)] == ["search"]
            await pilot.press("escape")
            await pilot.pause()
            assert table.row_count == 2
            await pilot.press("j")  # this cluster has none, which is said
            await pilot.pause()
            assert "has no jobs" in str(app.query_one("#notes", Static).render())
            await pilot.press("q")

    with Served(RandomSource(16, ("search", "chat"))) as served:
        asyncio.run(drive(TopApp(ApiClient(f"localhost:{served.port}"), 60.0)))


def test_no_server_there_is_told() -> None:
    with pytest.raises(PartitaError, match="no API answers"):
        ApiClient("localhost:1").get("")


def test_a_missing_extra_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(top, "find_spec", lambda _: None)
    found = Commands(tmp_path, monkeypatch, capsys)("top")
    assert found.code == 2
    assert "partita[top]" in found.err
