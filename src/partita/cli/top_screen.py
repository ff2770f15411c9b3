"""What `partita top` draws with Textual: three lists, a filter, and a line of what there is."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import DataTable, Footer, Input, Static

from partita.cli.safe_text import inline
from partita.errors import PartitaError
from partita.process.keeper import ending_signals

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence

    from partita.cli.api_client import ApiClient

_LETTERS = {
    "serving": "s",
    "job": "j",
    "free": ".",
    "starting": "+",
    "draining": "-",
    "changing": "~",
    "foreign": "x",
    "lost": "!",
}
"""A letter for each state of an instance, so that no colour is needed."""

_UNKNOWN = "? not known: no gateway or driver says it"
_LEGEND = "s serving  j job  . free  + starting  - draining  ~ changing  x someone else's  ! lost"
_HEADS = {
    "fleet": ("GPU", "model", "state", "held", "working", "watts", "instances"),
    "services": ("service", "rate/s", "required", "capacity", "in time", "p99 ms", "queue", "refused", "on"),
    "jobs": ("job", "user", "state", "name", "on", "starts", "reason"),
}
_PARTS = {"fleet": "/gpus", "services": "/services", "jobs": "/jobs"}


class TopApp(App[None]):
    """Shows what the API says, again and again.

    Args:
        client: of the API.
        every_s: seconds between two looks.
    """

    CSS = """
    #head, #notes { height: auto; padding: 0 1; }
    #filter { display: none; height: 3; }
    #filter.shown { display: block; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar = [
        Binding("f", "show('fleet')", "Fleet"),
        Binding("s", "show('services')", "Services"),
        Binding("j", "show('jobs')", "Jobs"),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "clear", "No filter"),
        Binding("q", "quit", "Quit"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, client: ApiClient, every_s: float) -> None:
        super().__init__()
        self._client = client
        self._every_s = every_s
        self._shown = "fleet"
        self._wanted = ""

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with Vertical():
            yield Static(id="head", markup=False)
            yield Input(placeholder="filter", id="filter")
            yield DataTable(cursor_type="row", zebra_stripes=True)
            yield Static(id="notes", markup=False)
        yield Footer()

    async def on_mount(self) -> None:
        """Look at once, and then again and again."""
        if threading.current_thread() is threading.main_thread():
            for each in ending_signals():  # the terminal is left as it was found
                asyncio.get_running_loop().add_signal_handler(each, self._end, each)
        self.query_one(DataTable).focus()
        await self.action_show(self._shown)
        self.set_interval(self._every_s, self._look)

    def _end(self, by: signal.Signals) -> None:
        self.exit(return_code=128 + by)

    async def action_show(self, what: str) -> None:
        """Show another list."""
        self._shown = what
        table = self.query_one(DataTable)
        table.clear(columns=True)
        for head in _HEADS[what]:
            table.add_column(head, key=head)
        await self._look()

    def action_filter(self) -> None:
        """Ask for a text that all that is shown must have."""
        box = self.query_one("#filter", Input)
        box.add_class("shown")
        box.focus()

    async def action_clear(self) -> None:
        """Show all again."""
        box = self.query_one("#filter", Input)
        box.value = ""
        box.remove_class("shown")
        self.query_one(DataTable).focus()

    async def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as one types."""
        self._wanted = event.value
        await self._look()

    def on_input_submitted(self) -> None:
        """Go back to the list."""
        self.query_one(DataTable).focus()

    async def _look(self) -> None:
        shown, wanted = self._shown, self._wanted
        try:
            index = await asyncio.to_thread(self._client.get, "")
            page = await asyncio.to_thread(self._client.most, _PARTS[shown], wanted)
        except PartitaError as error:
            self._say("notes", f"{error}; {error.hint or 'older figures are shown'}")
            return
        if (shown, wanted) != (self._shown, self._wanted):
            return  # something else was asked for meanwhile
        rows = {"fleet": _gpus, "services": _services, "jobs": _jobs}[shown](page)
        self._fill(rows)
        more = " and more: filter with /" if page.get("next") else ""
        filtered = f" with {wanted!r}" if wanted else ""
        at = time.strftime("%H:%M:%S", time.localtime(index["now"]))
        head = f"{shown.upper()}  {index['cluster']}  {len(rows)} shown{filtered}{more}  {at}"
        self._say("head", head)
        faults = [index["fault"]["error"]] if index["fault"] else []
        unknown = [_UNKNOWN] if any(cell == "?" for row in rows for cell in row) else []
        notes = [*faults, *index["notes"], *([_LEGEND] if shown == "fleet" else []), *unknown]
        self._say("notes", *notes)

    def _say(self, where: str, *lines: str) -> None:
        """Show lines at a place; names in them are what others chose, and the terminal must not act on them."""
        self.query_one(f"#{where}", Static).update("\n".join(map(inline, lines)))

    def _fill(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Show rows; the cursor and the place that is scrolled to stay."""
        table = self.query_one(DataTable)
        row, scrolled = table.cursor_row, table.scroll_offset
        table.clear()
        for each in rows:
            table.add_row(*(Text(inline(cell)) for cell in each))
        if rows:
            table.move_cursor(row=min(row, len(rows) - 1), scroll=False)
        table.scroll_to(scrolled.x, scrolled.y, animate=False)


def _gpus(page: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            each["id"],
            each["model"],
            each["state"],
            _share(each["held"]),
            _share(each["working"]),
            _number(each["watts"]),
            "  ".join(map(_instance, each["instances"])),
        )
        for each in page["gpus"]
    ]


def _instance(each: Mapping[str, Any]) -> str:
    who = "+".join(each["services"]) or (f"job {each['job']}" if each["job"] else "")
    return f"{_LETTERS[each['state']]} {each['profile']} {who}".rstrip()


def _services(page: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            each["name"],
            _number(each["rate"]),
            _number(each["required"]),
            _number(each["capacity"]) + (" UNDER" if each["capacity"] < each["floor"] * (1 - 1e-9) else ""),
            "?" if each["attainment"] is None else f"{each['attainment'] * 100:.2f} %",
            _number(each["p99_ms"]),
            _number(each["queue"]),
            _number(sum(each["refused"].values())),
            _places(each["where"]),
        )
        for each in page["services"]
    ]


def _places(where: Mapping[str, int]) -> str:
    """Return how many instances there are, and of which profiles; the model of GPU only where there are several."""
    models = {place.partition("/")[0] for place in where}
    each = [
        f"{count} x {place if len(models) > 1 else place.rpartition('/')[2]}"
        for place, count in where.items()
    ]
    return f"{sum(where.values())}: {', '.join(each)}" if each else "none"


def _jobs(page: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            each["id"],
            each["user"],
            each["state"],
            each["name"] or each["command"][:30],
            f"{each['gpu']} {each['placement']}" if each["gpu"] else "",
            ""
            if each["predicted_start"] is None
            else time.strftime("%H:%M", time.localtime(each["predicted_start"])),
            "; ".join(filter(None, (each["reason"], each["advice"]))),
        )
        for each in page["jobs"]
    ]


def _clock(at: float | None) -> str:
    return "" if at is None else time.strftime("%H:%M", time.localtime(at))


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value * 100:.0f} %"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
