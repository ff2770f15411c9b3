"""`partita top`, driven by Textual's pilot, over the API of a cluster of random GPUs."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.cli.commands import Commands
from tests.dash.browser import Line, Served
from tests.dash.certificates import expired, self_signed
from tests.dash.random_cluster import RandomSource
from tests.dash.test_access import Empty
from tests.dash.test_server import serving
from textual.widgets import DataTable, Static

from partita.cli import top
from partita.cli.api_client import ApiClient
from partita.cli.top_screen import TopApp
from partita.dash.access import Access
from partita.drive.simulated import SimulatedCluster
from partita.drive.state import CLUSTER, VARIABLE
from partita.errors import InputError, PartitaError
from partita.serve.tls import Tls


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
            assert re.match(r"\d+: \d+ x ", str(table.get_row_at(0)[-1]))
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


def test_names_that_others_chose_do_nothing_to_the_terminal() -> None:
    hostile = "a\x1b]0;owned\x07\x1b[2Jb\r\u202ec"

    async def drive(app: TopApp) -> None:
        async with app.run_test(size=(160, 30)) as pilot:
            await pilot.press("s")
            await pilot.pause()
            (name, *_) = app.query_one(DataTable).get_row_at(0)
            assert str(name) == r"a\x1b]0;owned\x07\x1b[2Jb\r\u202ec"
            await pilot.press("j")  # it has none, which the server says with its own words
            await pilot.pause()
            app._say("notes", hostile)
            assert "\x1b" not in str(app.query_one("#notes", Static).render())

    with Served(RandomSource(4, (hostile,))) as served:
        asyncio.run(drive(TopApp(ApiClient(f"localhost:{served.port}"), 60.0)))


def test_a_server_that_goes_away_and_comes_back_is_shown_again() -> None:
    async def drive(app: TopApp, line: Line) -> None:
        async with app.run_test(size=(120, 30)) as pilot:
            await pilot.pause()
            notes = app.query_one("#notes", Static)
            line.cut()
            await app._look()
            assert "no API answers there" in str(notes.render())
            assert app.query_one(DataTable).row_count == 16, "what was seen stays"
            line.mend()
            await app._look()
            assert "no API answers there" not in str(notes.render())

    with Served(RandomSource(16, ("chat",))) as served, Line(served.port) as line:
        asyncio.run(drive(TopApp(ApiClient(f"localhost:{line.port}"), 60.0), line))


def test_tls_and_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = self_signed(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    old = expired(other)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # which is for what is elsewhere
    with serving(Empty(), Access(read="r" * 32, tls=Tls(cert, key))) as made:
        url = made.url.rstrip("/")
        assert ApiClient(url, "r" * 32, cert).get("")["role"] == "read"
        with pytest.raises(PartitaError, match="the token is wrong"):
            ApiClient(url, "w" * 32, cert).get("")
        with pytest.raises(PartitaError, match="a token is needed"):
            ApiClient(url, None, cert).get("")
        for ca in (None, old[0]):
            with pytest.raises(
                PartitaError, match="its certificate is not to be trusted: self-signed"
            ) as told:
                ApiClient(url, "r" * 32, ca).get("")
            assert "--ca" in (told.value.hint or "")
        with pytest.raises(PartitaError, match="this port speaks TLS") as told:
            ApiClient(url.replace("https", "http"), "r" * 32).get("")
        assert told.value.hint == "use its https:// address"
    with serving(Empty()) as made, pytest.raises(PartitaError, match="speaks no TLS") as told:
        ApiClient(made.url.replace("http", "https"), None, cert).get("")
    assert told.value.hint == f"if that is right: --url {made.url.rstrip('/')}"
    with serving(Empty(), Access(read="r" * 32, tls=Tls(*old))) as made:
        with pytest.raises(PartitaError, match="certificate has expired") as told:
            ApiClient(made.url, "r" * 32, old[0]).get("")
        assert told.value.hint == "have it renewed"
    for path, why in ((tmp_path / "none", "No such file"), (key, "it has no PEM certificate")):
        with pytest.raises(InputError, match=why) as wrong:
            ApiClient("https://localhost:1", None, path)
        assert wrong.value.where == str(path)


def test_a_token_goes_to_no_other_server_and_what_is_no_dashboard_is_told() -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path.startswith("/list/"):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"[1]")
            elif self.path.startswith("/page/"):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html>")
            else:
                self.send_response(302)
                self.send_header("Location", "http://localhost:1/elsewhere")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            with pytest.raises(PartitaError, match="it leads to http://localhost:1/elsewhere"):
                ApiClient(url, "r" * 32).get("")
            for path in ("list", "page"):
                with pytest.raises(PartitaError, match="what answers there is no `partita dash`"):
                    ApiClient(f"{url}/{path}/", "r" * 32).get("")
        finally:
            server.shutdown()
            thread.join()
    assert len(asked) == 3


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


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_server_that_it_started_ends_with_it(by: signal.Signals, tmp_path: Path) -> None:
    SimulatedCluster.create(tmp_path / CLUSTER, [("node-0/gpu-0", "a100-80gb")]).close()
    ours, theirs = pty.openpty()
    # Another dashboard on this host's port 8080 would be taken in its place.
    code = "from partita.cli import top; top._runs = lambda: False; top.app()"
    # Where the tests were begun with `nohup`, SIGHUP would end nothing that they start.
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); {code}"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, VARIABLE: str(tmp_path), "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            seen = b""
            while b"node-0/gpu-0" not in seen:
                seen += os.read(ours, 65536)  # fails when the program has ended
            started = _children(process.pid)
            process.send_signal(by)
            with suppress(OSError):  # which is how a terminal ends
                while select.select([ours], [], [], 60)[0] and (said := os.read(ours, 65536)):
                    seen += said
            process.wait(60)
        finally:
            process.kill()
            os.close(ours)
    assert process.returncode == (-by if by is signal.SIGKILL else 128 + by)
    assert by is signal.SIGKILL or b"\x1b[?1049l" in seen, "the terminal is left as it was found"
    assert len(started) == 1
    end = time.monotonic() + 60
    while any(Path(f"/proc/{each}").exists() for each in started):
        assert time.monotonic() < end
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for task in tasks for each in task.read_text().split()]
